// net.onnx takes image (float32, 1 x 3 x 224 x 224) and gives logits (float32, 1 x 3).
// npm install onnxruntime-web; serve net.onnx and node_modules/onnxruntime-web/dist beside the page.

import * as ort from "onnxruntime-web";

/** The network, loaded once; `run` takes an object of typed arrays and gives one, both by name. */
export async function load(url = "net.onnx") {
  const session = await ort.InferenceSession.create(url);
  const shapes = {
    "image": ["float32", [1, 3, 224, 224]],  // Float32Array
  };
  return {
    async run(values) {
      const feed = Object.fromEntries(
        Object.entries(shapes).map(([name, [kind, shape]]) => [name, new ort.Tensor(kind, values[name], shape)]));
      const found = await session.run(feed);
      return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data]));
    },
  };
}

/** A photograph (an image, video or canvas) as the network's image: its centre, scaled and normalised. */
export function prepare(photo) {
  const [width, height, share] = [224, 224, 0.875];
  const [wide, high] = [photo.naturalWidth ?? photo.videoWidth ?? photo.width, photo.naturalHeight ?? photo.videoHeight ?? photo.height];
  const scale = share * Math.min(wide / width, high / height);
  const [w, h] = [width * scale, height * scale];
  const canvas = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  canvas.imageSmoothingQuality = "high";
  canvas.drawImage(photo, (wide - w) / 2, (high - h) / 2, w, h, 0, 0, width, height);
  const { data } = canvas.getImageData(0, 0, width, height);
  const [mean, std, pixels] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225], width * height];
  const order = [0, 1, 2];
  return Float32Array.from({ length: 3 * pixels }, (_, at) => {
    const channel = Math.floor(at / pixels);
    return (data[4 * (at % pixels) + order[channel]] / 255 - mean[channel]) / std[channel];
  });
}

const CLASSES = ["daisy", "rose", "tulip"];

/** The name of the class with the largest score. */
export const best = (scores) => CLASSES[scores.indexOf(Math.max(...scores))];
