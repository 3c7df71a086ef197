/**
 * Packets of videos, docs/format_video.md: one layer of all frames of a group
 * of pictures (GOP), decoded frame by frame. Names are those of the page.
 */

import {Fields} from './fields.js';
import {bitLength, clamp, RangeDecoder, refuse} from './range_coder.js';
import {
  aspectLimit,
  COLOR_LIMIT,
  Columns,
  readSymbols,
  reconstruct,
  SHEAR_LIMIT,
} from './splat_coding.js';

/** @typedef {import('./splat_coding.js').Symbols} Symbols */
/** @typedef {import('./splat_coding.js').Steps} Steps */

const FIELD_CHANGE_LIMIT = 2 ** 17;
const VECTOR_LIMIT = 2 ** 15;
const CHANGE_LIMIT = 2 ** 30;
const ORIGIN_LIMIT = 2 ** 14 - 1;
const CELL_LIMIT = 2 ** 14 - 1;
// No decision takes less than log2(65536 / 65519) bits.
const DECISIONS_A_BYTE = 8 / Math.log2(65536 / 65519);

/**
 * A frame of a layer as it is coded.
 *
 * @typedef {object} Frame
 * @property {number} start in the packet
 * @property {number} end
 */

/**
 * Opens a packet: nothing of its frames is decoded.
 *
 * @param {Uint8Array} packet
 * @param {number} numFrames
 * @returns {{steps: Steps, log2Block: number, frames: Frame[]}}
 */
export function openPacket(packet, numFrames) {
  const fields = new Fields(packet);
  const [color, shape, position, log2Cell] = [0, 0, 0, 0].map(() =>
    fields.uint(2),
  );
  const log2Block = fields.uint(1);
  if (!color || !shape || !position) refuse('a step size is 0');
  if (log2Cell > 15) refuse('log2_cell is out of range');
  if (log2Block < 2 || log2Block > 6) refuse('log2_block is out of range');
  const sizes = [];
  for (let t = 0; t < numFrames; t++) sizes.push(fields.varint());
  const frames = [];
  for (const size of sizes) {
    frames.push({start: fields.at, end: fields.skip(size)});
  }
  if (!fields.atEnd) refuse('a packet has bytes left over');
  return {steps: {color, shape, position, log2Cell}, log2Block, frames};
}

/**
 * Decodes a GOP, a frame at a time and all layers of it.
 *
 * @param {Uint8Array[]} packets of the layers, base first
 * @param {object} form
 * @param {number} form.numFrames
 * @param {number} form.width
 * @param {number} form.height
 * @param {number} form.channels
 * @param {(layer: number) => boolean} [wanted] asked before each layer of each
 *   frame; a layer that was left out once stays away to the end of the GOP, and
 *   so do those above it
 * @returns {Generator<Float32Array[], void>} splats of each layer, frame by frame
 */
export function* decodeGop(packets, form, wanted = () => true) {
  const layers = packets.map((packet) => new LayerDecoder(packet, form));
  let used = layers.length;
  for (let t = 0; t < form.numFrames; t++) {
    const splats = [];
    /** @type {MotionField | null} */
    let field = null;
    for (let k = 0; k < used; k++) {
      if (k && !wanted(k)) {
        used = k;
        break;
      }
      const layer = layers[k];
      layer.begin(t);
      if (k === 0 && t > 0) field = layer.readField();
      if (field) layer.move(field);
      layer.readFrame();
      splats.push(reconstruct(layer.symbols, form.channels, layer.steps));
    }
    yield splats;
  }
}

/** One layer of a GOP: its state from frame to frame. */
export class LayerDecoder {
  /**
   * @param {Uint8Array} packet
   * @param {{numFrames: number, width: number, height: number,
   *   channels: number}} form
   */
  constructor(packet, form) {
    this.packet = packet;
    this.form = form;
    const {steps, log2Block, frames} = openPacket(packet, form.numFrames);
    this.steps = steps;
    this.log2Block = log2Block;
    this.frames = frames;
    this.columns = new Columns();
    /** @type {Symbols} */
    this.symbols = emptySymbols(form.channels);
    // Magnitudes of the changes of each splat in the frame before: e.
    this.changed = new Float64Array(0);
    this.frame = frames[0];
    this.coder = new RangeDecoder(new Uint8Array(8), 0, 8);
  }

  /** @param {number} t the frame to read next */
  begin(t) {
    this.frame = this.frames[t];
    const {start, end} = this.frame;
    this.coder = new RangeDecoder(this.packet, start, end);
  }

  /** @returns {MotionField | null} */
  readField() {
    const {coder, columns} = this;
    const moves = columns.counted(coder, 'moves', (column) =>
      coder.value(column.set(0)),
    );
    if (!moves) return null;
    return readMotionField(coder, columns, this.form, this.log2Block);
  }

  /** @param {MotionField} field */
  move(field) {
    const {bitsX, bitsY, numbers, count} = this.symbols;
    const [x, y] = numbers;
    const {log2Cell} = this.steps;
    for (let i = 0; i < count; i++) {
      const at = field.at(x[i], bitsX[i], y[i], bitsY[i], log2Cell);
      x[i] = moved(x[i], bitsX[i], at[0], field.scale, log2Cell);
      y[i] = moved(y[i], bitsY[i], at[1], field.scale, log2Cell);
    }
  }

  readFrame() {
    this.#readDeaths();
    this.#readChanges();
    checkRanges(this.symbols);
    this.#readBirths();
    this.coder.finish();
  }

  #readDeaths() {
    const {coder, columns, symbols, changed} = this;
    const kept = columns.counted(coder, 'dead', (column) => {
      const kept = [];
      for (let i = 0; i < symbols.count; i++) {
        const which = Math.min(symbols.T[i] >> 2, 3);
        if (!coder.value(column.set(which))) kept.push(i);
      }
      return kept;
    });
    if (kept.length === symbols.count) return;
    this.symbols = mapSymbols(symbols, kept.length, (from, to) => {
      for (let i = 0; i < kept.length; i++) to[i] = from[kept[i]];
    });
    this.changed = Float64Array.from(kept, (i) => changed[i]);
  }

  #readChanges() {
    const {coder, columns, symbols} = this;
    const [before, sums] = [this.changed, new Float64Array(symbols.count)];
    const moving = columns.counted(coder, 'still', (column) => {
      const moving = [];
      for (let i = 0; i < symbols.count; i++) {
        const which = Math.min(bitLength(before[i]), 3);
        if (!coder.value(column.set(which))) moving.push(i);
      }
      return moving;
    });
    symbols.numbers.forEach((values, k) => {
      columns.counted(coder, `change ${k}`, (column) => {
        for (const i of moving) {
          const which = Math.min(bitLength(sums[i]), 3);
          const change = coder.value(column.set(which));
          if (Math.abs(change) > CHANGE_LIMIT) refuse('a change is too large');
          values[i] += change;
          sums[i] += Math.abs(change);
        }
      });
    });
    this.changed = sums;
  }

  #readBirths() {
    const {coder, columns, symbols, frame} = this;
    const {channels} = this.form;
    const count = columns.counted(coder, 'births', (column) =>
      coder.value(column.set(0)),
    );
    if (count < 0 || count > frame.end - frame.start) {
      refuse('more splats than bytes');
    }
    if (!count) return;
    const origin = columns.counted(coder, 'origin', (column) => [
      coder.value(column.set(0)),
      coder.value(column.set(1)),
    ]);
    if (origin.some((cell) => Math.abs(cell) > ORIGIN_LIMIT)) {
      refuse('origin is out of range');
    }
    const born = readSymbols(
      coder,
      columns,
      count,
      channels,
      origin,
      this.steps,
    );
    const old = symbols.count;
    this.symbols = mapSymbols(symbols, old + count, (from, to, pick) => {
      to.set(from);
      to.set(pick(born), old);
    });
    const changed = new Float64Array(old + count).fill(1);
    changed.set(this.changed);
    this.changed = changed;
  }
}

/**
 * @param {number} channels
 * @returns {Symbols}
 */
function emptySymbols(channels) {
  const none = () => new Int32Array(0);
  const numbers = Array.from({length: 5 + channels}, none);
  const [K, T, n, bitsX, bitsY] = [none(), none(), none(), none(), none()];
  return {count: 0, K, T, D: new Uint32Array(0), n, bitsX, bitsY, numbers};
}

/**
 * New arrays of all names, each filled from the old one.
 *
 * @param {Symbols} symbols
 * @param {number} count
 * @param {(from: any, to: any, pick: (other: Symbols) => any) => void} fill
 *   `pick` finds the array of the same name in other symbols
 * @returns {Symbols}
 */
function mapSymbols(symbols, count, fill) {
  const make = (pick) => {
    const from = pick(symbols);
    const to = new from.constructor(count);
    fill(from, to, pick);
    return to;
  };
  return {
    count,
    K: make((s) => s.K),
    T: make((s) => s.T),
    D: make((s) => s.D),
    n: make((s) => s.n),
    bitsX: make((s) => s.bitsX),
    bitsY: make((s) => s.bitsY),
    numbers: symbols.numbers.map((_, k) => make((s) => s.numbers[k])),
  };
}

/** @param {Symbols} symbols */
function checkRanges(symbols) {
  const {count, n, D, bitsX, bitsY, numbers} = symbols;
  const [x, y, size, aspect, shear, ...colors] = numbers;
  for (let i = 0; i < count; i++) {
    const sound =
      Math.abs(x[i]) <= CELL_LIMIT << bitsX[i] &&
      Math.abs(y[i]) <= CELL_LIMIT << bitsY[i] &&
      Math.abs(size[i]) <= 47 * n[i] &&
      Math.abs(aspect[i]) <= aspectLimit(D[i]) &&
      Math.abs(shear[i]) <= SHEAR_LIMIT &&
      colors.every((color) => Math.abs(color[i]) <= COLOR_LIMIT);
    if (!sound) refuse('a splat changes out of its range');
  }
}

/** Vectors of blocks, and what lies between them. */
export class MotionField {
  /**
   * @param {number} rows of blocks
   * @param {number} cols
   * @param {number} log2Block
   */
  constructor(rows, cols, log2Block) {
    this.rows = rows;
    this.cols = cols;
    // B of the page.
    this.scale = log2Block + 9;
    // x and y of each block, row by row.
    this.vectors = new Int32Array(2 * rows * cols);
  }

  /**
   * The vector at a splat, in 2^-(2 B + 2) pixels: V of the page.
   *
   * @returns {[number, number]}
   */
  at(x, bitsX, y, bitsY, log2Cell) {
    const whole = 2 ** this.scale;
    const px = this.#place(x, log2Cell - bitsX, this.cols);
    const py = this.#place(y, log2Cell - bitsY, this.rows);
    const i = Math.floor(px / whole);
    const j = Math.floor(py / whole);
    const [f, g] = [px - i * whole, py - j * whole];
    const right = Math.min(i + 1, this.cols - 1);
    const below = Math.min(j + 1, this.rows - 1);
    const mixed = (axis) => {
      const v = (row, col) => this.vectors[2 * (row * this.cols + col) + axis];
      const top = (whole - f) * v(j, i) + f * v(j, right);
      const bottom = (whole - f) * v(below, i) + f * v(below, right);
      return (whole - g) * top + g * bottom;
    };
    return [mixed(0), mixed(1)];
  }

  #place(symbol, exponent, count) {
    const middle = (2 * symbol + 1) * 2 ** (exponent + 8);
    const corner = middle - 2 ** (this.scale - 1);
    return clamp(corner, 0, (count - 1) * 2 ** this.scale);
  }
}

function moved(symbol, bits, vector, scale, log2Cell) {
  const shift = 2 * scale + 2 + log2Cell - bits;
  const limit = CELL_LIMIT << bits;
  const by = Math.floor((vector + 2 ** (shift - 1)) / 2 ** shift);
  return clamp(symbol + by, -limit, limit - 1);
}

/**
 * @param {RangeDecoder} coder
 * @param {Columns} columns
 * @param {{width: number, height: number}} form
 * @param {number} log2Block
 */
function readMotionField(coder, columns, form, log2Block) {
  const rows = Math.ceil(form.height / 2 ** log2Block);
  const cols = Math.ceil(form.width / 2 ** log2Block);
  // Before memory is taken for what the size of the frames claims.
  const bytes = coder.end - coder.start + 8;
  if (2 * rows * cols > bytes * DECISIONS_A_BYTE) {
    refuse('a packet ends too soon');
  }
  const field = new MotionField(rows, cols, log2Block);
  columns.counted(coder, 'vector', (column) => {
    readVectors(coder, column, field);
  });
  return field;
}

function readVectors(coder, column, field) {
  const {rows, cols, vectors} = field;
  /** Reads a block between two others, by their places among the vectors. */
  const read = (at, p, q) => {
    for (let axis = 0; axis < 2; axis++) {
      const [a, b] = [
        p < 0 ? 0 : vectors[p + axis],
        q < 0 ? 0 : vectors[q + axis],
      ];
      const which = 5 * axis + Math.min(bitLength(Math.abs(a - b)), 4);
      const change = coder.value(column.set(which));
      if (Math.abs(change) > FIELD_CHANGE_LIMIT) refuse('a vector is too long');
      const value = ((a + b) >> 1) + change;
      if (Math.abs(value) > VECTOR_LIMIT) refuse('a vector is too long');
      vectors[at + axis] = value;
    }
  };
  const place = (row, col) => 2 * (row * cols + col);
  read(0, -1, -1);
  let stride = 1;
  while (stride < Math.max(rows, cols)) stride *= 2;
  while (stride > 1) {
    stride /= 2;
    for (let row = stride; row < rows; row += 2 * stride) {
      for (let col = 0; col < cols; col += 2 * stride) {
        const above = place(row - stride, col);
        const below = row + stride < rows ? place(row + stride, col) : above;
        read(place(row, col), above, below);
      }
    }
    for (let row = 0; row < rows; row += stride) {
      for (let col = stride; col < cols; col += 2 * stride) {
        const before = place(row, col - stride);
        const after = col + stride < cols ? place(row, col + stride) : before;
        read(place(row, col), before, after);
      }
    }
  }
}
