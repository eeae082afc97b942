/* Sends pictures to the server, one at a time, and shows what it says. */

const settings = JSON.parse(document.getElementById("settings").textContent);
const shown = new Faces(settings.tasks, settings.crop);
let number = 0;

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, {method: "POST", body, headers: {"Content-Type": "application/octet-stream"}});
  } catch {
    throw new Error("the server does not answer: does it still run?");
  }
  if (answer.ok) return answer;
  let text = `status ${answer.status}`;
  try {
    text = (await answer.json()).error;
  } catch { /* no line of the server's */ }
  throw new Error(text);
}

const askFor = (path, fields) => ask(path, JSON.stringify(fields)).then(answer => answer.blob());

/* The browser's own picture where it shows the file as the server reads it, else the server's copy. */
async function pictureOf(blob, found) {
  try {
    const picture = await createImageBitmap(blob);
    if (picture.width === found.width && picture.height === found.height) return picture;
  } catch { /* a format that it does not know */ }
  return createImageBitmap(await askFor("copy", {picture: found.picture}));
}

async function analyze(blob) {
  say("status", number ? "Looking …" : "Looking … the first picture takes longest");
  if (blob.size > settings.max_bytes)
    throw new Error(`${blob.size.toLocaleString("en")} bytes, more than ${settings.max_bytes.toLocaleString("en")}`);
  const begin = performance.now();
  const found = await (await ask(at("whole").checked ? "analyze?whole=1" : "analyze", blob)).json();
  const seconds = ((performance.now() - begin) / 1000).toFixed(2);
  number = found.picture;
  shown.show(await pictureOf(blob, found), found.width, found.height, found.faces);
  const count = found.faces.length;
  say("status", count ? `${count} face${count > 1 ? "s" : ""} in ${seconds} s` : "No face was found.");
}

takePictures(analyze, () => shown.hide());

if (at("explain")) {
  shown.whenSelected = () => { at("maps").hidden = true; };
  at("explain").onclick = async () => {
    const label = at("label").value, fields = {picture: number, face: shown.selected, label};
    at("explain").disabled = true;
    say("error", "");
    say("status", `Explaining ${label} …`);
    try {
      const maps = at("maps"), drawn = await askFor("explain", fields);
      if (maps.src) URL.revokeObjectURL(maps.src);
      maps.src = URL.createObjectURL(drawn);
      maps.alt = `${label}: the network's crop, the map by occlusion, the map by gradients`;
      maps.hidden = fields.picture !== number || fields.face !== shown.selected;
    } catch (error) {
      say("error", error.message);
    } finally {
      say("status", "");
      at("explain").disabled = false;
    }
  };
}
