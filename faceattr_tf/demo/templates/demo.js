/* Sends pictures to the server, one at a time, and shows what it says. */

const settings = JSON.parse(document.getElementById("settings").textContent);
const shown = new Faces(settings.tasks);
const at = id => document.getElementById(id);
let number = 0, working = false;

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
  if (working) return;
  working = true;
  say("error", "");
  say("status", number ? "Looking …" : "Looking … the first picture takes longest");
  at("shoot").disabled = true;
  try {
    if (blob.size > settings.max_bytes)
      throw new Error(`${blob.size.toLocaleString("en")} bytes, more than ${settings.max_bytes.toLocaleString("en")}`);
    const begin = performance.now();
    const found = await (await ask(at("whole").checked ? "analyze?whole=1" : "analyze", blob)).json();
    const seconds = ((performance.now() - begin) / 1000).toFixed(2);
    number = found.picture;
    shown.show(await pictureOf(blob, found), found.width, found.height, found.faces);
    const count = found.faces.length;
    say("status", count ? `${count} face${count > 1 ? "s" : ""} in ${seconds} s` : "No face was found.");
  } catch (error) {
    shown.hide();
    at("live").checked = false;
    say("status", "");
    say("error", error.message);
  } finally {
    working = false;
    at("shoot").disabled = false;
  }
}

at("file").onchange = event => {
  if (event.target.files.length) analyze(event.target.files[0]);
};
addEventListener("dragover", event => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files.length) analyze(event.dataTransfer.files[0]);
  else say("error", "that is no file: save the picture first, then drop it");
});
addEventListener("paste", event => {
  if (event.clipboardData.files.length) analyze(event.clipboardData.files[0]);
});

/* The camera: frames go one after the other, each when the one before is answered. */
const video = at("video");

function frame() {
  const scale = Math.min(1, 1280 / Math.max(video.videoWidth, video.videoHeight));
  const canvas = element("canvas", {width: video.videoWidth * scale, height: video.videoHeight * scale});
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/jpeg", 0.92));
}

async function shoot() {
  if (!video.videoWidth) return;
  await analyze(await frame());
  if (at("live").checked && !at("filmed").hidden) setTimeout(shoot, 50);
}

function stop() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  at("live").checked = false;
  at("filmed").hidden = true;
  at("camera").textContent = "Use the camera";
}

at("camera").onclick = async () => {
  if (!at("filmed").hidden) return stop();
  say("error", "");
  try {
    if (!navigator.mediaDevices)
      throw new Error("browsers lend the camera to pages of 127.0.0.1, localhost or https alone");
    video.srcObject = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1280}}});
    at("filmed").hidden = false;
    at("camera").textContent = "Stop the camera";
    await video.play();
  } catch (error) {
    stop();
    say("error", `no camera: ${error.message}`);
  }
};
at("shoot").onclick = shoot;
at("live").onchange = () => at("live").checked && !working && shoot();

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
