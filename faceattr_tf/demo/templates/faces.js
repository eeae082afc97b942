/* Faces with what a model says of them: boxes on the picture, cards, and rows whose thresholds move.

   A face is as faceattr_tf.prediction.face.Face gives it in JSON; places are in pixels of the
   picture, the centre of the first one being (0, 0). */

function element(name, fields = {}, ...children) {
  const made = Object.assign(document.createElement(name), fields);
  made.append(...children);
  return made;
}

const at = id => document.getElementById(id);

const say = (id, text) => {
  const place = at(id);
  place.textContent = text;
  place.hidden = !text && id === "error";
};

const percent = value => `${(100 * value).toFixed(1)} %`;

/* The box around points; null where there are none. */
function around(points) {
  if (!points) return null;
  const [x, y] = [0, 1].map(axis => Object.values(points).map(point => point[axis]));
  const [left, top] = [Math.min(...x), Math.min(...y)];
  return [left, top, Math.max(...x) - left + 1, Math.max(...y) - top + 1];
}

class Faces {
  /* tasks: name, kind, labels, thresholds of each, as the run has them; crop: height and width of
     what the network sees. */
  constructor(tasks, crop) {
    Object.assign(this, {tasks, crop});
    this.thresholds = new Map();
    this.faces = [];
    this.selected = 0;
    this.canvas = at("canvas");
    this.canvas.onclick = event => this.#selectAt(event);
    at("reset").onclick = () => this.reset();
    this.whenSelected = () => {};
    this.reset();
  }

  reset() {
    for (const task of this.tasks)
      task.thresholds.forEach((value, i) => this.thresholds.set(`${task.name}/${task.labels[i]}`, value));
    if (this.faces.length) this.select(this.selected);
  }

  said(task, label, answer) {
    return answer.probability >= this.thresholds.get(`${task.name}/${label}`);
  }

  /* picture: anything a canvas draws; width and height: of the picture that places are of. */
  show(picture, width, height, faces) {
    Object.assign(this, {picture, width, height, faces});
    at("result").hidden = false;
    const cards = at("cards");
    cards.replaceChildren(...faces.map((face, i) => this.#card(face, i)));
    this.select(0);
  }

  hide() {
    this.faces = [];
    at("result").hidden = true;
    at("details").hidden = true;
  }

  select(index) {
    this.selected = index;
    this.#draw();
    const details = at("details"), face = this.faces[index];
    details.hidden = !face;
    if (!face) return;
    [...at("cards").children].forEach((card, i) => {
      card.setAttribute("aria-pressed", i === index);
      card.querySelector("span").textContent = this.#summary(this.faces[i]);
    });
    at("face").textContent = this.#title(index);
    const rows = this.tasks.flatMap(task => this.#rows(task, face.tasks[task.name]));
    at("rows").replaceChildren(...rows);
    this.#drawCutOut(face);
    this.whenSelected(index);
  }

  #title(index) {
    const {box, landmarks, score} = this.faces[index];
    if (!box) return landmarks ? "The marked face" : "The whole picture";
    const size = `${Math.round(box[2])} × ${Math.round(box[3])} pixels`;
    return `Face ${index + 1}, ${size}` + (score === null ? "" : `, score ${score.toFixed(2)}`);
  }

  #card(face, index) {
    const thumbnail = element("canvas", {width: 144, height: 144});
    const [left, top, w, h] = face.box ?? around(face.landmarks) ?? [0, 0, this.width, this.height];
    const side = Math.max(w, h) * (face.box ? 1.3 : face.landmarks ? 2.5 : 1), scale = this.#shown() * 144 / side;
    const context = thumbnail.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 72 - (left + w / 2) * 144 / side, 72 - (top + h / 2) * 144 / side);
    context.drawImage(this.picture, 0, 0);
    const card = element("button", {className: "card", type: "button"}, thumbnail,
      element("div", {}, element("b", {textContent: this.#title(index)}), element("span")));
    card.onclick = () => this.select(index);
    return card;
  }

  /* Pixels of the picture that a pixel of its copy in the browser stands for. */
  #shown() {
    return this.width / (this.picture.naturalWidth || this.picture.videoWidth || this.picture.width);
  }

  #summary(face) {
    const found = [];
    for (const task of this.tasks) {
      const answer = face.tasks[task.name];
      if (task.kind === "multilabel")
        found.push(...task.labels.filter(label => this.said(task, label, answer[label]))
          .sort((a, b) => answer[b].probability - answer[a].probability));
      else if (task.kind === "multiclass") found.push(answer.label);
      else if (task.kind === "regression")
        found.push(...task.labels.map(label => `${label} ${answer[label].toPrecision(3)}`));
    }
    const more = found.length - 8;
    return found.slice(0, 8).join(", ") + (more > 0 ? ` and ${more} more` : "");
  }

  #rows(task, answer) {
    if (task.kind === "multilabel") {
      const order = [...task.labels].sort((a, b) => answer[b].probability - answer[a].probability);
      return order.map(label => this.#attribute(task, label, answer[label]));
    }
    if (task.kind === "multiclass") {
      const order = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 7);
      const rows = order.map(([label, probability], i) =>
        this.#row(i ? label : `${task.name}: ${label}`, percent(probability), i ? "" : "most", probability, !i));
      if ("value" in answer) rows.push(this.#row(`${task.name}: expected`, answer.value.toPrecision(4)));
      return rows;
    }
    if (task.kind === "regression")
      return task.labels.map(label => this.#row(label, answer[label].toPrecision(4)));
    if (task.kind === "transform" && answer.shift) {
      const [right, down] = answer.shift.map(value => value.toFixed(2));
      return [
        this.#row(`${task.name}: rotation`, `${answer.rotation.toFixed(1)}°`),
        this.#row(`${task.name}: scale`, answer.scale.toFixed(2)),
        this.#row(`${task.name}: right`, right),
        this.#row(`${task.name}: down`, down),
      ];
    }
    return [];
  }

  #row(name, number, said = "", share = null, yes = false) {
    const track = element("div", {className: "track"});
    if (share !== null) {
      const fill = element("div", {className: "fill"});
      fill.style.width = `${100 * share}%`;
      track.append(element("div", {className: "bar"}), fill);
    }
    return element("div", {className: yes ? "row yes" : "row"},
      element("span", {className: "name", textContent: name, title: name}), track,
      element("span", {className: "number", textContent: number}),
      element("span", {className: "said", textContent: said}));
  }

  #attribute(task, label, answer) {
    const key = `${task.name}/${label}`, row = this.#row(label, percent(answer.probability), "", answer.probability);
    const slider = element("input", {type: "range", min: 0, max: 1, step: "any", value: this.thresholds.get(key)});
    slider.setAttribute("aria-label", `Threshold of ${label}`);
    const judge = () => {
      const yes = this.said(task, label, answer), threshold = this.thresholds.get(key);
      row.classList.toggle("yes", yes);
      row.lastChild.textContent = yes ? "yes" : "no";
      slider.title = `threshold ${percent(threshold)}`;
      slider.setAttribute("aria-valuetext", `${percent(threshold)}: ${yes ? "yes" : "no"}`);
    };
    slider.oninput = () => {
      this.thresholds.set(key, slider.valueAsNumber);
      judge();
      [...at("cards").children].forEach((card, i) => {
        card.querySelector("span").textContent = this.#summary(this.faces[i]);
      });
    };
    row.dataset.label = key;
    row.querySelector(".track").append(slider);
    judge();
    return row;
  }

  #draw() {
    const {canvas, width, height} = this, longer = Math.max(width, height);
    const scale = Math.min(Math.max(longer, 900), 1600) / longer, context = canvas.getContext("2d");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    context.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    const inCanvas = ([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale];
    const dot = (point, colour) => {
      context.beginPath();
      context.arc(...inCanvas(point), 4, 0, 7);
      context.fillStyle = colour;
      context.fill();
    };
    context.font = "600 20px system-ui, sans-serif";
    this.faces.forEach((face, i) => {
      const chosen = i === this.selected;
      if (face.box) {
        const [left, top, w, h] = face.box.map(value => value * scale);
        context.lineWidth = chosen ? 5 : 2.5;
        context.strokeStyle = chosen ? "#ffaa28" : "#5adc5a";
        context.strokeRect(left, top, w, h);
        const text = `${i + 1}`, room = context.measureText(text).width + 10;
        context.fillStyle = context.strokeStyle;
        context.fillRect(left, Math.max(0, top - 24), room, 24);
        context.fillStyle = "#1a1d21";
        context.fillText(text, left + 5, Math.max(0, top - 24) + 18);
      }
      if (!chosen) return;
      for (const point of Object.values(face.landmarks ?? {})) dot(point, "#5adc5a");
      for (const task of this.tasks) {
        const answer = face.tasks[task.name];
        if (task.kind === "landmarks") for (const point of Object.values(answer)) dot(point, "#ffaa28");
        if (task.kind !== "transform") continue;
        context.beginPath();
        for (const corner of Object.values(answer.outline)) context.lineTo(...inCanvas(corner));
        context.closePath();
        context.strokeStyle = "#ffaa28";
        context.lineWidth = 2;
        context.stroke();
      }
    });
  }

  /* What a spatial transformer cuts out, upright, as the network behind it sees it. */
  #drawCutOut(face) {
    const task = this.tasks.find(one => one.kind === "transform"), figure = at("cutout");
    figure.hidden = !task;
    if (!task) return;
    const {left_top: a, right_top: b, left_bottom: c} = face.tasks[task.name].outline, copy = this.#shown();
    const canvas = figure.querySelector("canvas"), context = canvas.getContext("2d");
    const width = canvas.width = 320, height = canvas.height = Math.round(320 * this.crop.height / this.crop.width);
    const inverse = new DOMMatrix([(b[0] - a[0]) / width, (b[1] - a[1]) / width, (c[0] - a[0]) / height,
      (c[1] - a[1]) / height, a[0], a[1]]).invertSelf();
    if (!Number.isFinite(inverse.a)) return;
    context.setTransform(inverse.multiply(new DOMMatrix([copy, 0, 0, copy, -0.5, -0.5])));
    context.drawImage(this.picture, 0, 0);
  }

  #selectAt(event) {
    const place = this.canvas.getBoundingClientRect(), scale = this.width / place.width;
    const x = (event.clientX - place.left) * scale, y = (event.clientY - place.top) * scale;
    const under = this.faces.map((face, i) => [face.box, i]).filter(([box]) => box
      && x >= box[0] && y >= box[1] && x <= box[0] + box[2] && y <= box[1] + box[3]);
    under.sort(([a], [b]) => a[2] * a[3] - b[2] * b[3]);
    if (under.length) this.select(under[0][1]);
  }
}
