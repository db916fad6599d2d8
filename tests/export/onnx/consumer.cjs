// Runs ONNX files in onnxruntime-web: `node consumer.cjs DIST FOLDER`. DIST: the folder `dist` of its npm package.
//
// As consumer.py does: for each NAME.onnx of the folder and its NAME.npy, the input, NAME.out.npy is written; why it was
// refused is NAME.error.
const fs = require("fs");
const path = require("path");
const url = require("url");

const TYPES = { "<f4": ["float32", Float32Array], "<i8": ["int64", BigInt64Array], "<i4": ["int32", Int32Array] };

function read(file) {
  const bytes = fs.readFileSync(file);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  const [type, kind] = TYPES[/'descr': '([^']*)'/.exec(header)[1]];
  const dims = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((size) => size.trim()).map(Number);
  return [type, new kind(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length)), dims];
}

function write(file, tensor) {
  const kinds = { float32: "<f4", float64: "<f8", int64: "<i8", int32: "<i4", bool: "|b1", uint8: "|u1" };
  const dims = tensor.dims.length === 1 ? `${tensor.dims},` : tensor.dims.join(", ");
  const text = `{'descr': '${kinds[tensor.type]}', 'fortran_order': False, 'shape': (${dims}), }`;
  const header = Buffer.alloc(Math.ceil((11 + text.length) / 64) * 64, " ");
  header.write("\x93NUMPY\x01\x00", "latin1");
  header.writeUInt16LE(header.length - 10, 8);
  header.write(text, 10, "latin1");
  header.write("\n", header.length - 1);
  const { buffer, byteOffset, byteLength } = tensor.data;
  fs.writeFileSync(file, Buffer.concat([header, Buffer.from(buffer, byteOffset, byteLength)]));
}

async function main(dist, folder) {
  const entry = ["ort.wasm.min.mjs", "ort.node.min.js"].find((name) => fs.existsSync(path.join(dist, name)));
  const found = entry.endsWith(".mjs") ? await import(url.pathToFileURL(path.join(dist, entry))) : require(path.join(dist, entry));
  const ort = found.InferenceSession ? found : found.default;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = entry.endsWith(".mjs") ? url.pathToFileURL(dist + path.sep).href : dist + path.sep;
  ort.env.logLevel = "error";
  for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".onnx")).sort()) {
    const stem = path.join(folder, name.slice(0, -5));
    try {
      const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(`${stem}.onnx`)));
      const answers = await session.run({ [session.inputNames[0]]: new ort.Tensor(...read(`${stem}.npy`)) });
      write(`${stem}.out.npy`, answers[session.outputNames[0]]);
      await session.release?.();
    } catch (error) {
      fs.writeFileSync(`${stem}.error`, String(error.message ?? error));
    }
  }
}

main(path.resolve(process.argv[2]), process.argv[3]);
