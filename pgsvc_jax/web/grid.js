/**
 * Where splats are shown: a grid of pixels over a part of the picture, at any
 * scale, anti-aliased where it is coarser (docs/resolution.md).
 */

import {SPLAT_FLOATS} from './splat_coding.js';

// Of the Gaussian that stands for the box of a pixel, pixels squared.
const PIXEL_VARIANCE = 0.1;

/**
 * @typedef {object} Grid
 * @property {number} width of the grid, pixels
 * @property {number} height
 * @property {number} fx pixels of the grid in one of the picture, along x
 * @property {number} fy
 * @property {number} x0 place of the picture's left edge, pixels of the grid
 * @property {number} y0 of its upper edge
 */

/**
 * The grid of `width` x `height` pixels that lies over the whole picture.
 *
 * @param {{width: number, height: number}} picture
 * @param {number} width
 * @param {number} height
 * @returns {Grid}
 */
export function wholeGrid(picture, width, height) {
  const [fx, fy] = [width / picture.width, height / picture.height];
  return {width, height, fx, fy, x0: 0, y0: 0};
}

/**
 * @param {Grid} a
 * @param {Grid | null} b
 */
export function sameGrid(a, b) {
  return (
    b !== null &&
    ['width', 'height', 'fx', 'fy', 'x0', 'y0'].every((k) => a[k] === b[k])
  );
}

/**
 * @param {number} factor of the grid
 * @returns {number} by how much the splats are widened, pixels squared
 */
export function addedVariance(factor) {
  return PIXEL_VARIANCE * Math.max(0, 1 - factor * factor);
}

/**
 * @param {Float32Array} splats
 * @param {Grid} grid
 * @returns {Float32Array} in pixels of the grid
 */
export function onGrid(splats, grid) {
  const {fx, fy, x0, y0} = grid;
  const [vx, vy] = [addedVariance(fx), addedVariance(fy)];
  const placed = splats.slice();
  for (let at = 0; at < placed.length; at += SPLAT_FLOATS) {
    const [x, y, l11, l21, l22] = splats.subarray(at, at + 5);
    placed[at] = fx * x + x0;
    placed[at + 1] = fy * y + y0;
    placed[at + 2] = fx * l11;
    placed[at + 3] = fy * l21;
    placed[at + 4] = fy * l22;
    if (!vx && !vy) continue;
    const a = Math.sqrt((fx * l11) ** 2 + vx);
    const cosine = (fx * l11) / a;
    const c = Math.sqrt((fy * l22) ** 2 + vy + ((fy * l21) ** 2 * vx) / a ** 2);
    placed[at + 2] = a;
    placed[at + 3] = cosine * fy * l21;
    placed[at + 4] = c;
    for (let k = 5; k < SPLAT_FLOATS; k++) {
      placed[at + k] *= (cosine * fy * l22) / c;
    }
  }
  return placed;
}

/**
 * How many layers a place on the screen asks for: all that were made for its
 * size, or for a smaller one.
 *
 * @param {import('./container.js').Header} header
 * @param {{width: number, height: number, saveData?: boolean}} shown pixels of
 *   the screen; with `saveData` the first layer of the size is enough
 * @returns {number}
 */
export function layersFor(header, {width, height, saveData = false}) {
  const sizes = header.nativeSizes;
  const first = sizes.findIndex(([w, h]) => w >= width || h >= height);
  if (first < 0)
    return saveData ? firstOfSize(sizes, sizes.length - 1) : sizes.length;
  if (saveData) return first + 1;
  return (
    sizes.findLastIndex(
      ([w, h]) => w === sizes[first][0] && h === sizes[first][1],
    ) + 1
  );
}

function firstOfSize(sizes, layer) {
  return (
    sizes.findIndex(
      ([w, h]) => w === sizes[layer][0] && h === sizes[layer][1],
    ) + 1
  );
}
