/** Pictures to compare with: an original, a JPEG of as many bytes; how far off. */

import {makeRenderer} from './element.js';
import {Client} from './client.js';
import {wholeGrid} from './grid.js';

// What a difference is multiplied by, to be seen.
const DIFFERENCE_GAIN = 4;

/**
 * Reads a picture of any kind, a .pgsvc file too.
 *
 * @param {Blob} blob
 * @returns {Promise<ImageData>}
 */
export async function readImage(blob) {
  const magic = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  if (String.fromCharCode(...magic) === '\x89PGS') return readSplats(blob);
  const bitmap = await createImageBitmap(blob);
  const {width, height} = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (
    canvas.getContext('2d', {willReadFrequently: true})
  );
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** @param {Blob} blob @returns {Promise<ImageData>} */
function readSplats(blob) {
  return new Promise((resolve, reject) => {
    /** @type {any} */
    let renderer = null;
    let header;
    let count = 0;
    const client = new Client({type: 'open', blob}, async (message) => {
      if (message.type === 'header') {
        ({header} = message);
        const canvas = document.createElement('canvas');
        renderer = makeRenderer(canvas, header.channels);
      } else if (message.type === 'layer') {
        renderer.setLayer(message.layer, message.splats);
        count = message.layer + 1;
      } else if (message.type === 'error' && !count) {
        reject(new Error(message.message));
      } else if (message.type === 'loaded') {
        if (!count) return reject(new Error('a video cannot be a reference'));
        const {width, height} = header;
        const layers = [...Array(count).keys()];
        await renderer.draw(wholeGrid(header, width, height), layers);
        resolve(renderer.pixels());
        renderer.dispose();
        client.close();
      }
    });
  });
}

/**
 * The mean over the area of each pixel of a smaller grid.
 *
 * @param {ImageData} image
 * @param {number} width
 * @param {number} height
 * @returns {ImageData}
 */
export function downsampled(image, width, height) {
  if (image.width === width && image.height === height) return image;
  const rows = means(
    image.data,
    image.width,
    image.height,
    height,
    4 * image.width,
    4,
  );
  const both = means(rows, height, image.width, width, 4, 4 * image.width);
  const result = new ImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let k = 0; k < 4 * width; k++) {
      result.data[4 * width * row + k] = Math.round(
        both[4 * image.width * row + k],
      );
    }
  }
  return result;
}

/** Means along one axis; `step` goes along it, `stride` across. */
function means(values, across, count, size, step, stride) {
  const out = new Float64Array(values.length);
  for (let line = 0; line < across; line++) {
    for (let channel = 0; channel < 4; channel++) {
      const base = line * stride + channel;
      for (let i = 0; i < size; i++) {
        const [begin, end] = [(i * count) / size, ((i + 1) * count) / size];
        let sum = 0;
        for (
          let k = Math.floor(begin);
          k < Math.min(Math.ceil(end), count);
          k++
        ) {
          const part = Math.min(k + 1, end) - Math.max(k, begin);
          sum += part * values[base + k * step];
        }
        out[base + i * step] = sum / (end - begin);
      }
    }
  }
  return out;
}

/**
 * @param {ImageData} a
 * @param {ImageData} b of the same size
 * @param {number} channels that count
 * @returns {number} PSNR, dB
 */
export function psnr(a, b, channels) {
  const used = channels < 3 ? [0] : [0, 1, 2];
  if (channels % 2 === 0) used.push(3);
  let sum = 0;
  for (let at = 0; at < a.data.length; at += 4) {
    for (const k of used) sum += (a.data[at + k] - b.data[at + k]) ** 2;
  }
  const count = (a.data.length / 4) * used.length;
  return 10 * Math.log10((255 * 255 * count) / sum);
}

/**
 * @param {ImageData} a
 * @param {ImageData} b of the same size
 * @returns {ImageData} gray where they are equal
 */
export function difference(a, b) {
  const result = new ImageData(a.width, a.height);
  for (let at = 0; at < a.data.length; at += 4) {
    for (let k = 0; k < 3; k++) {
      result.data[at + k] =
        128 + DIFFERENCE_GAIN * (a.data[at + k] - b.data[at + k]);
    }
    result.data[at + 3] = 255;
  }
  return result;
}

/**
 * The best JPEG of this browser that takes no more bytes.
 *
 * @param {ImageData} image
 * @param {number} bytes
 * @returns {Promise<{image: ImageData, bytes: number, quality: number} | null>}
 *   null where even the worst takes more
 */
export async function jpegOf(image, bytes) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext('2d')?.putImageData(image, 0, 0);
  const encode = (quality) =>
    canvas.convertToBlob({type: 'image/jpeg', quality: quality / 100});
  let [low, high] = [0, 100];
  /** @type {{blob: Blob, quality: number} | null} */
  let best = null;
  while (low <= high) {
    const quality = (low + high) >> 1;
    const blob = await encode(quality);
    if (blob.size <= bytes) {
      best = {blob, quality};
      low = quality + 1;
    } else {
      high = quality - 1;
    }
  }
  if (!best) return null;
  const {blob, quality} = best;
  return {image: await readImage(blob), bytes: blob.size, quality};
}
