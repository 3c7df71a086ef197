/**
 * Sums of splats without WebGL: in slices of some milliseconds, so that the page
 * stays alive. The same interface as `WebGlRenderer`.
 */

import {onGrid, sameGrid} from './grid.js';
import {SPLAT_FLOATS} from './splat_coding.js';

/** @typedef {import('./grid.js').Grid} Grid */

const SLICE_MS = 12;
const CUT = 6.125;

/** Draws the layers of one picture onto one canvas. */
export class CanvasRenderer {
  /**
   * @param {HTMLCanvasElement | OffscreenCanvas | null} canvas null: `pixels`
   *   alone is asked for
   * @param {number} channels
   */
  constructor(canvas, channels) {
    this.canvas = canvas;
    this.channels = channels;
    /** @type {(Float32Array | undefined)[]} */
    this.layers = [];
    /** @type {Grid | null} */
    this.grid = null;
    this.sums = new Float32Array(0);
    /** @type {number[]} */
    this.drawn = [];
    this.turn = 0;
  }

  /**
   * @param {number} layer
   * @param {Float32Array} splats replace those that it had
   */
  setLayer(layer, splats) {
    this.layers[layer] = splats;
    if (this.drawn.includes(layer)) this.drawn = [Infinity];
  }

  /**
   * Shows the sum of some layers. A later call ends an earlier one.
   *
   * @param {Grid} grid
   * @param {number[]} layers
   */
  async draw(grid, layers) {
    const turn = ++this.turn;
    const {width, height} = grid;
    const kept = this.drawn.every((layer, i) => layers[i] === layer);
    if (!kept || !sameGrid(grid, this.grid)) {
      this.sums = new Float32Array(4 * width * height);
      this.drawn = [];
      this.grid = {...grid};
    }
    let rest = performance.now() + SLICE_MS;
    for (const layer of layers.slice(this.drawn.length)) {
      const splats = onGrid(this.layers[layer] ?? new Float32Array(0), grid);
      // Until it is whole, the sums are not those of any layers.
      const drawn = [...this.drawn, layer];
      this.drawn = [Infinity];
      for (let at = 0; at < splats.length; at += SPLAT_FLOATS) {
        addSplat(this.sums, grid, splats.subarray(at, at + SPLAT_FLOATS));
        if (performance.now() > rest) {
          await new Promise((resolve) => setTimeout(resolve));
          if (turn !== this.turn) return;
          rest = performance.now() + SLICE_MS;
        }
      }
      this.drawn = drawn;
    }
    this.#show();
  }

  #show() {
    if (!this.canvas) return;
    const {width, height} = /** @type {Grid} */ (this.grid);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (
      this.canvas.getContext('2d')
    );
    context.putImageData(this.pixels(), 0, 0);
  }

  /** @returns {ImageData} what was drawn last, alpha not multiplied in */
  pixels() {
    const {width, height} = /** @type {Grid} */ (this.grid);
    return new ImageData(toBytes(this.sums, this.channels), width, height);
  }

  dispose() {
    this.turn++;
    this.layers = [];
    this.sums = new Float32Array(0);
    this.grid = null;
  }
}

/**
 * @param {Float32Array} sums four numbers a pixel
 * @param {number} channels
 * @returns {Uint8ClampedArray<ArrayBuffer>} RGBA
 */
export function toBytes(sums, channels) {
  const bytes = new Uint8ClampedArray(sums.length);
  const alpha = channels === 2 ? 1 : 3;
  const opaque = channels % 2 === 1;
  for (let at = 0; at < sums.length; at += 4) {
    for (let k = 0; k < 3; k++) {
      bytes[at + k] = toByte(sums[at + (channels < 3 ? 0 : k)]);
    }
    bytes[at + 3] = opaque ? 255 : toByte(sums[at + alpha]);
  }
  return bytes;
}

function toByte(value) {
  return Math.floor(Math.min(Math.max(value, 0), 1) * 255 + 0.5);
}

/**
 * @param {Float32Array} sums four numbers a pixel
 * @param {{width: number, height: number}} grid
 * @param {Float32Array} splat in pixels of the grid
 */
export function addSplat(sums, grid, splat) {
  const [x, y, l11, l21, l22, c0, c1, c2, c3] = splat;
  const {width, height} = grid;
  const square = l21 * l21 + l22 * l22;
  const reach = Math.sqrt(2 * CUT * square);
  const top = Math.max(0, Math.floor(y - reach - 0.5));
  const bottom = Math.min(height - 1, Math.ceil(y + reach - 0.5));
  for (let row = top; row <= bottom; row++) {
    const dy = row + 0.5 - y;
    // Where u^2 + v^2 = 2 CUT on this row.
    const root = l22 * Math.sqrt(Math.max(0, 2 * CUT * square - dy * dy));
    const middle = x + (l11 * dy * l21) / square - 0.5;
    const half = (l11 * root) / square;
    const left = Math.max(0, Math.floor(middle - half));
    const right = Math.min(width - 1, Math.ceil(middle + half));
    for (let col = left; col <= right; col++) {
      const u = (col + 0.5 - x) / l11;
      const v = (dy - l21 * u) / l22;
      const distance = 0.5 * (u * u + v * v);
      if (!(distance <= CUT)) continue;
      const weight = Math.exp(-distance);
      const at = 4 * (row * width + col);
      sums[at] += c0 * weight;
      sums[at + 1] += c1 * weight;
      sums[at + 2] += c2 * weight;
      sums[at + 3] += c3 * weight;
    }
  }
}
