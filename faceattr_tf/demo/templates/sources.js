/* Pictures from files, the clipboard and the camera, one at a time. */

/* handle: async function of a Blob; failed: called when it throws, after the line is shown. */
function takePictures(handle, failed) {
  const video = at("video");
  let working = false;

  async function take(blob) {
    if (working) return;
    working = at("shoot").disabled = true;
    say("error", "");
    try {
      await handle(blob);
    } catch (error) {
      failed();
      at("live").checked = false;
      say("status", "");
      say("error", error.message);
    } finally {
      working = at("shoot").disabled = false;
    }
  }

  at("file").onchange = event => {
    if (event.target.files.length) take(event.target.files[0]);
  };
  addEventListener("dragover", event => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  addEventListener("dragleave", () => at("drop").classList.remove("over"));
  addEventListener("drop", event => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    else say("error", "that is no file: save the picture first, then drop it");
  });
  addEventListener("paste", event => {
    if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
  });

  /* Frames of the camera go one after the other, each when the one before is answered. */
  function frame() {
    const scale = Math.min(1, 1280 / Math.max(video.videoWidth, video.videoHeight));
    const canvas = element("canvas", {width: video.videoWidth * scale, height: video.videoHeight * scale});
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return new Promise(done => canvas.toBlob(done, "image/jpeg", 0.92));
  }

  async function shoot() {
    if (!video.videoWidth) return;
    await take(await frame());
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
}
