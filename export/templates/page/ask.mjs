/* Answers about crops on standard input with the page's own runtime: by this the page is verified.

   node ask.mjs FOLDER: on standard input for every call a line of JSON, {"shape": [N, H, W, 3]}, and
   the crops as float32; on standard output a line of JSON, [{"name", "type", "shape"}, ...], and
   the values of these outputs. */

import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
import {join} from "node:path";

const folder = process.argv[2];
const ort = await import(pathToFileURL(join(folder, "ort.js")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(join(folder, "ort-wasm-simd-threaded.wasm"));
ort.env.logLevel = "error";
const model = readFileSync(join(folder, "model.onnx"));
const session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});

let waiting = Buffer.alloc(0);
const input = process.stdin[Symbol.asyncIterator]();
async function more() {
  const {value, done} = await input.next();
  if (done) process.exit(0);
  waiting = Buffer.concat([waiting, value]);
}
async function take(count) {
  while (waiting.length < count) await more();
  const taken = waiting.subarray(0, count);
  waiting = waiting.subarray(count);
  return taken;
}
async function line() {
  let end;
  while ((end = waiting.indexOf(10)) < 0) await more();
  return (await take(end + 1)).toString();
}

for (;;) {
  const {shape} = JSON.parse(await line());
  const bytes = await take(4 * shape.reduce((a, b) => a * b));
  const crops = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const outputs = Object.entries(await session.run({crops: new ort.Tensor("float32", crops, shape)}));
  const heads = outputs.map(([name, {type, dims}]) => ({name, type, shape: dims}));
  process.stdout.write(`${JSON.stringify(heads)}\n`);
  for (const [, {data}] of outputs) process.stdout.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
