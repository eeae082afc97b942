// SPDX-License-Identifier: Apache-2.0
/* Runs the exported network in the browser: picture, place of the face, crop, answers. */

import * as ort from "./ort.js";
import {cropImage, pointsInImage} from "./face_crop.js";

const MOST = 40_000_000; // pixels of a picture; more does not fit into a telephone's memory
const POINTS = ["left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth"];
const CORNERS = ["left_top", "right_top", "right_bottom", "left_bottom"];

const fetched = async name => {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: status ${answer.status}; the folder is not complete`);
  return answer;
};

/* The network with what faceattr.json says of it. */
async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that a plain server of files does not send
  ort.env.wasm.wasmPaths = {wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href};
  ort.env.logLevel = "error";
  const [description, model] = await Promise.all([
    fetched("faceattr.json").then(answer => answer.json()),
    fetched("model.onnx").then(answer => answer.arrayBuffer()),
  ]);
  const session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  return {description, session};
}

/* Outputs of the network for crops (Float32Array of N of them), name -> values. */
async function ask({description, session}, crops) {
  const {height, width} = description.crop;
  const tensor = new ort.Tensor("float32", crops, [crops.length / (3 * height * width), height, width, 3]);
  return session.run({crops: tensor});
}

/* The pixels of a picture, upright, without regard to colour profiles, as training read them. */
async function pixelsOf(blob) {
  let picture;
  try {
    picture = await createImageBitmap(blob, {imageOrientation: "from-image", colorSpaceConversion: "none"});
  } catch {
    throw new Error("not a picture that this browser can show");
  }
  const {width, height} = picture;
  if (width * height > MOST)
    throw new Error(`${width} x ${height} pixels, more than ${MOST.toLocaleString("en")}`);
  const canvas = element("canvas", {width, height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  return {picture, image: context.getImageData(0, 0, width, height)};
}

/* What the network says of the face at a place of a picture, as faces.js takes it. */
async function judge(network, image, {box = null, landmarks = null} = {}) {
  const {description} = network, {crops, transform} = cropImage(image, description.crop, box, landmarks);
  const outputs = await ask(network, crops), tasks = {};
  const named = (labels, values) => Object.fromEntries(labels.map((label, i) => [label, values[i]]));
  for (const task of description.tasks) {
    const values = Object.fromEntries(Object.entries(task.outputs)
      .map(([kind, name]) => [kind, Array.from(outputs[name].data)]));
    const points = found => pointsInImage(
      Array.from({length: found.length / 2}, (_, i) => found.slice(2 * i, 2 * i + 2)), transform, description.crop);
    if (task.kind === "multilabel")
      tasks[task.name] = named(task.labels, values.probability.map((probability, i) =>
        ({probability, label: values.label[i] === 1})));
    else if (task.kind === "multiclass")
      tasks[task.name] = {label: task.labels[values.label[0]],
        probabilities: named(task.labels, values.probability), ...("value" in values && {value: values.value[0]})};
    else if (task.kind === "regression") tasks[task.name] = named(task.labels, values.value);
    else if (task.kind === "landmarks") tasks[task.name] = named(task.labels, points(values.points));
    else tasks[task.name] = {outline: named(CORNERS, points(values.outline))};
  }
  const names = description.landmark_names;
  return {face: {box, landmarks: landmarks && named(names, landmarks), score: null, tasks}, crops};
}

/* Marks on the picture that are dragged, tapped or moved by arrow keys to where the face is. */
class Handles {
  constructor(names, moved) {
    this.place = at("canvas").parentElement;
    this.moved = moved;
    this.buttons = names.map((name, i) => {
      const button = element("button", {className: "handle", type: "button", title: name});
      button.setAttribute("aria-label", `${name}: arrow keys move it`);
      let dragged = false;
      button.onpointerdown = event => {
        dragged = false;
        button.setPointerCapture(event.pointerId);
      };
      button.onpointermove = event => {
        if (!button.hasPointerCapture(event.pointerId)) return;
        dragged = true;
        this.#put(i, this.#under(event));
      };
      button.onpointerup = event => dragged ? this.moved(this.points) : this.#tap(event);
      button.onkeydown = event => this.#step(i, event);
      return button;
    });
    at("canvas").addEventListener("click", event => this.#tap(event));
    this.names = names;
  }

  /* points: where they are at first, in pixels of the picture. */
  show(points, width, height) {
    Object.assign(this, {width, height, points: [], next: 0}); // next: which mark a tap moves
    this.place.append(...this.buttons);
    points.forEach((point, i) => this.#put(i, point));
  }

  hide() {
    for (const button of this.buttons) button.remove();
  }

  #put(i, [x, y]) {
    const inside = (value, side) => Math.min(Math.max(value, 0), side - 1);
    this.points[i] = [inside(x, this.width), inside(y, this.height)];
    this.buttons[i].style.left = `${100 * (this.points[i][0] + 0.5) / this.width}%`;
    this.buttons[i].style.top = `${100 * (this.points[i][1] + 0.5) / this.height}%`;
  }

  /* The next mark goes where the picture was tapped, be it on another mark. */
  #tap(event) {
    this.#put(this.next, this.#under(event));
    this.next = (this.next + 1) % this.names.length;
    if (!this.next) this.moved(this.points);
    else say("status", `Now the ${this.names[this.next]}`);
  }

  #under(event) {
    const place = at("canvas").getBoundingClientRect(), scale = this.width / place.width;
    return [(event.clientX - place.left) * scale - 0.5, (event.clientY - place.top) * scale - 0.5];
  }

  #step(i, event) {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (!(event.key in steps)) return;
    event.preventDefault();
    const far = (event.shiftKey ? 0.05 : 0.005) * Math.max(this.width, this.height), [x, y] = steps[event.key];
    this.#put(i, [this.points[i][0] + far * x, this.points[i][1] + far * y]);
    this.moved(this.points);
  }
}

/* How a face is marked for a kind of crop: what to do, names of the marks, where they are at first
   (shares of the picture's shorter side from its middle), and the place that they mean. */
function marking(kind) {
  if (kind === "none") return null;
  if (["box", "window"].includes(kind)) return {
    how: "This page finds no faces. Of a face in a photograph tap the left upper and the right lower corner of the box around it, "
      + "from forehead to chin; or drag the marks, or move them with the arrow keys.",
    names: ["left upper corner of the box", "right lower corner of the box"],
    first: [[-0.3, -0.38], [0.3, 0.38]],
    place: ([a, b]) => {
      const [left, right] = [a[0], b[0]].sort((x, y) => x - y), [top, bottom] = [a[1], b[1]].sort((x, y) => x - y);
      return {box: [left, top, right - left + 1, bottom - top + 1]};
    },
  };
  return {
    how: `This page finds no faces. Of a face in a photograph tap, one after the other: ${POINTS.join(", ")} (left and right of the picture); `
      + "or drag the marks, or move them with the arrow keys.",
    names: POINTS,
    first: [[-0.16, -0.04], [0.16, -0.04], [0, 0.14], [-0.13, 0.32], [0.13, 0.32]],
    place: landmarks => ({landmarks}),
  };
}

function showCrop(crops, {height, width}) {
  const canvas = Object.assign(at("seen"), {width, height}), image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++)
    for (let k = 0; k < 4; k++) image.data[4 * i + k] = k < 3 ? crops[3 * i + k] : 255;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/* Loads the network and says in the page what it is. */
async function prepare() {
  say("status", "Loading the network …");
  const network = await load(), {description} = network, {licence} = description;
  const tasks = description.tasks.map(task => ({...task, thresholds: task.thresholds ?? []}));
  const shown = new Faces(tasks, description.crop), mark = marking(description.crop.kind);
  say("title", description.recipe || description.model);
  // A network of whole pictures judges these at once; a face in one is shown to it as they show theirs.
  const whole = !mark || Object.keys(description.framing ?? {}).length > 0;
  say("how", [whole ? "This network was trained on pictures that one face fills, and judges those at once." : "",
    mark ? mark.how : ""].join(" "));
  const data = Object.entries(licence.data).map(([name, terms]) => `${name} (${terms})`).join(", ");
  say("about", `Network ${description.model}, trained on ${data}; ${licence.weights}.`);
  say("status", "The network is loaded.");
  let current = null;

  async function answer(place) {
    const {picture, image} = current, begin = performance.now();
    try {
      const {face, crops} = await judge(network, image, place);
      shown.show(picture, image.width, image.height, [face]);
      showCrop(crops, description.crop);
      say("error", "");
      say("status", `Judged in ${(performance.now() - begin).toFixed(0)} ms`);
    } catch (error) {
      say("error", error.message);
    }
  }

  const handles = mark && new Handles(mark.names, points => answer(mark.place(points)));

  async function take(blob) {
    say("status", "Reading the picture …");
    current = await pixelsOf(blob);
    const {picture, image: {width, height}} = current, side = Math.min(width, height);
    shown.show(picture, width, height, []);
    handles?.show(mark.first.map(([x, y]) => [width / 2 + x * side, height / 2 + y * side]), width, height);
    if (whole) await answer({});
    else say("status", `Now the ${mark.names[0]}`);
  }

  function hide() {
    shown.hide();
    handles?.hide();
  }

  return {network, take, hide};
}

/* For who asks from the console or a test: the network, and its answer for a picture and a place. */
export const started = prepare();
export {ask, judge, load, pixelsOf};

takePictures(async blob => (await started).take(blob), () => started.then(page => page.hide(), () => {}));
started.catch(error => {
  say("status", "");
  say("error", error.message);
});
