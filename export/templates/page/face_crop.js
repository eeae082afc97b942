// SPDX-License-Identifier: Apache-2.0
/* The crop that an exported network sees, in JavaScript: the pixels of face_crop.py's `crop_image`.

   Pixels: the centre of the first one is (0, 0), x points right and y down. A transform of six
   numbers (a, b, c, d, e, f) maps a pixel (x, y) of the crop to the pixel (a x + b y + c,
   d x + e y + f) of the image. Numbers are rounded to float32 where face_crop.py has float32. */

const f = Math.fround;

/* Where `align` and `affine` put the five landmarks in a unit square, without margin, vertical. */
const TEMPLATE = [[0.3427, 0.4607], [0.6573, 0.4607], [0.5, 0.6405], [0.3697, 0.824], [0.6303, 0.824]];

/* Crops an image that is decoded already.

   image: `data` (Uint8Array or Uint8ClampedArray, RGBA), `width` and `height`, as ImageData has them.
   crop: the entry `crop` of faceattr.json.
   box: left, top, width, height of the face in pixels; null where unknown.
   landmarks: five [x, y], both eyes, the nose and both corners of the mouth (the left one of the
   image first) in pixels; null where unknown.

   Gives `crops` (Float32Array, height x width x RGB, 0..255) and `transform`. */
export function cropImage(image, crop, box = null, landmarks = null) {
  const transform = cropTransform(crop, image.height, image.width, box, landmarks);
  if (!transform.every(value => Math.abs(value) < 2 ** 20))
    throw new Error("box or landmarks lie too far from the image");
  const placed = place(crop, image, transform);
  return {crops: sample(halved(image, placed), crop, placed), transform};
}

/* Points that a network gave, [x, y] from -1 to 1 over the crop, in pixels of the image. */
export function pointsInImage(points, transform, crop) {
  const [a, b, c, d, e, g] = transform;
  return points.map(([x, y]) => {
    const column = ((x + 1) * crop.width - 1) / 2, row = ((y + 1) * crop.height - 1) / 2;
    return [a * column + b * row + c, d * column + e * row + g];
  });
}

/* The transform from pixels of the crop to pixels of an image of this size. */
export function cropTransform(crop, height, width, box = null, landmarks = null) {
  const step = Math.min(f(height / crop.height), f(width / crop.width));
  let window = similarity(step, 0, (width - 1) / 2, (height - 1) / 2);
  const given = box?.map(f), points = landmarks?.map(point => point.map(f)), candidates = [];
  if (crop.kind !== "none") candidates.push(ofBox(crop, given, points));
  if (crop.kind === "nose" && points)
    candidates.push(similarity(crop.window / Math.min(crop.height, crop.width), 0, ...points[2]));
  if (["align", "affine"].includes(crop.kind) && points) candidates.push(aligned(crop, points));
  if (crop.kind === "affine" && points) candidates.push(affine(crop, points));
  for (const candidate of candidates) // the last one that is known
    if (candidate?.every(Number.isFinite)) window = candidate;
  const [a, b, x, d, e, y] = window, middleX = (crop.width - 1) / 2, middleY = (crop.height - 1) / 2;
  const shift = (start, along, down) => f(f(start - f(along * middleX)) - f(down * middleY));
  return [a, b, shift(x, a, b), d, e, shift(y, d, e)];
}

/* Window of the box, or of the landmarks' bounding square; null where there is neither. */
function ofBox(crop, box, landmarks) {
  if (!(box?.every(Number.isFinite) && box[2] > 0 && box[3] > 0)) {
    if (!landmarks?.flat().every(Number.isFinite)) return null;
    const low = [0, 1].map(axis => Math.min(...landmarks.map(point => point[axis])));
    const high = [0, 1].map(axis => Math.max(...landmarks.map(point => point[axis])));
    const side = Math.max(f(high[0] - low[0]), f(high[1] - low[1]));
    if (!(side > 0)) return null;
    const start = axis => f(f(f(f(low[axis] + high[axis]) - side) + 1) / 2);
    box = [start(0), start(1), side, side];
  }
  let longer = Math.max(box[2], box[3]), step;
  if (crop.kind === "window") {
    longer = f(crop.window);
    step = f(longer * f((1 + 2 * crop.margin) / Math.min(crop.height, crop.width)));
  } else {
    const added = f(f(2 * crop.margin) * longer);
    step = Math.max(f(f(box[2] + added) / crop.width), f(f(box[3] + added) / crop.height));
  }
  const x = f(box[0] + f(f(box[2] - 1) / 2));
  const y = f(f(box[1] + f(f(box[3] - 1) / 2)) + f(f(crop.vertical) * longer));
  return similarity(step, 0, x, y);
}

/* The similarity that fits the landmarks best to the template; null for a single point. */
function aligned(crop, landmarks) {
  const [template, [templateX, templateY]] = centred(templateOf(crop));
  const [points, [x, y]] = centred(landmarks);
  let spread = 0, cosine = 0, sine = 0;
  points.forEach(([px, py], i) => {
    const [tx, ty] = template[i];
    spread += px * px + py * py;
    cosine += px * tx + py * ty;
    sine += px * ty - py * tx;
  });
  if (!(spread > 0)) return null;
  cosine /= spread;
  sine /= spread;
  const square = cosine * cosine + sine * sine, a = cosine / square, b = -sine / square;
  return similarity(a, b, x - a * templateX + b * templateY, y - b * templateX - a * templateY);
}

/* The affine transform that fits the template best to the landmarks; null for no face. */
function affine(crop, landmarks) {
  const [template, [templateX, templateY]] = centred(templateOf(crop));
  const [points, mean] = centred(landmarks);
  const sum = (first, second) => first.reduce((total, value, i) => total + value * second[i], 0);
  const [tx, ty] = [0, 1].map(axis => template.map(point => point[axis]));
  const [xx, xy, yy] = [sum(tx, tx), sum(tx, ty), sum(ty, ty)], determinant = xx * yy - xy * xy;
  const rows = [0, 1].map(axis => {
    const values = points.map(point => point[axis]), [px, py] = [sum(values, tx), sum(values, ty)];
    return [(px * yy - py * xy) / determinant, (py * xx - px * xy) / determinant];
  });
  const [[a, b], [d, e]] = rows;
  // A mirror image, or a face from so far aside that it is a line, is not stretched.
  if (!((2 * (a * e - b * d)) / (a * a + b * b + d * d + e * e) > 0.1)) return null;
  const shift = rows.map(([along, down], axis) => mean[axis] - along * templateX - down * templateY);
  return [a, b, shift[0], d, e, shift[1]].map(f);
}

/* `TEMPLATE` in pixels from the crop's centre. */
function templateOf(crop) {
  const shown = Math.min(crop.height, crop.width) / (1 + 2 * crop.margin);
  return TEMPLATE.map(([x, y]) => [(x - 0.5) * shown, (y - 0.5 - crop.vertical) * shown]);
}

/* Points about their mean, and their mean. */
function centred(points) {
  const mean = [0, 1].map(axis => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return [points.map(([x, y]) => [x - mean[0], y - mean[1]]), mean];
}

function similarity(a, b, x, y) {
  return [a, -b, x, b, a, y].map(f);
}

/* How often the image is halved, the transform from the crop to a window of the halved image, and
   the window's first and last row and column. */
function place(crop, image, transform) {
  const [a, b, c, d, e, g] = transform;
  const norm = (x, y) => f(Math.sqrt(f(f(x * x) + f(y * y))));
  const scale = Math.min(norm(a, d), norm(b, e));
  const halvings = Math.trunc(f(f(f(Math.log(Math.max(scale, 1))) / f(Math.log(2))) + f(1e-4)));
  const block = 2 ** halvings, limits = [image.height, image.width].map(side => Math.ceil(side / block) - 1);
  const shift = value => f(f(f(value + 0.5) / block) - 0.5);
  const local = [f(a / block), f(b / block), shift(c), f(d / block), f(e / block), shift(g)];
  const at = (row, x, y) => f(f(f(local[row] * x) + f(local[row + 1] * y)) + local[row + 2]);
  const ends = [[0, 0], [0, crop.height - 1], [crop.width - 1, 0], [crop.width - 1, crop.height - 1]];
  const first = [], last = [];
  for (const [axis, row] of [[0, 3], [1, 0]]) { // row before column
    const values = ends.map(([x, y]) => at(row, x, y));
    const clip = value => Math.min(Math.max(value, 0), limits[axis]);
    first.push(clip(Math.floor(Math.min(...values))));
    last.push(clip(Math.floor(Math.max(...values)) + 1));
  }
  const area = (last[0] - first[0] + 1) * (last[1] - first[1] + 1);
  if (area * 2 > (limits[0] + 1) * (limits[1] + 1)) {
    first.fill(0);
    last.splice(0, 2, ...limits);
  }
  // Positions count from the window's corner, which rounds as in the SavedModel.
  local[2] = f(local[2] - first[1]);
  local[5] = f(local[5] - first[0]);
  return {halvings, local, first, last};
}

/* The window of the halved image, RGB: means of blocks, rounded to whole levels. */
function halved(image, {halvings, first, last}) {
  const block = 2 ** halvings, height = last[0] - first[0] + 1, width = last[1] - first[1] + 1;
  const pixels = new Float32Array(height * width * 3), {data} = image;
  for (let row = 0, target = 0; row < height; row++) {
    for (let column = 0; column < width; column++, target += 3) {
      for (let y = 0; y < block; y++) {
        const line = Math.min((first[0] + row) * block + y, image.height - 1) * image.width;
        for (let x = 0; x < block; x++) {
          const source = 4 * (line + Math.min((first[1] + column) * block + x, image.width - 1));
          for (let k = 0; k < 3; k++) pixels[target + k] += data[source + k];
        }
      }
      if (halvings) for (let k = 0; k < 3; k++) pixels[target + k] = rint(pixels[target + k] / (block * block));
    }
  }
  return {pixels, height, width};
}

/* The nearest whole number, of two the even one. */
function rint(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

/* Bilinear interpolation; edge pixels go on outside. */
function sample({pixels, height, width}, crop, {local}) {
  const crops = new Float32Array(crop.height * crop.width * 3);
  const neighbours = (row, column, line, length) => {
    const position = f(f(f(local[row] * column) + f(local[row + 1] * line)) + local[row + 2]);
    const below = Math.floor(position), clip = value => Math.min(Math.max(value, 0), length - 1);
    return [clip(below), clip(below + 1), f(position - below)];
  };
  for (let line = 0, target = 0; line < crop.height; line++) {
    for (let column = 0; column < crop.width; column++) {
      const [left, right, toRight] = neighbours(0, column, line, width);
      const [top, bottom, toBottom] = neighbours(3, column, line, height);
      const corners = [[top, left], [top, right], [bottom, left], [bottom, right]];
      const [a, b, c, d] = corners.map(([y, x]) => 3 * (y * width + x));
      for (let k = 0; k < 3; k++, target++) {
        const between = (i, j) => f(pixels[i + k] + f(f(pixels[j + k] - pixels[i + k]) * toRight));
        const upper = between(a, b);
        crops[target] = f(upper + f(f(between(c, d) - upper) * toBottom));
      }
    }
  }
  return crops;
}
