/**
 * Packets of pictures: the columns of docs/format_v2.md and the rows of
 * docs/format_v1.md, to integers and on to splats. Names are those of the pages.
 */

import {bitLength, clamp, Column, RangeDecoder, refuse} from './range_coder.js';

/** Numbers a splat in the arrays of splats: x, y, l11, l21, l22, 4 colors. */
export const SPLAT_FLOATS = 9;

const CODE_LIMIT = 2 ** 48;
export const COLOR_LIMIT = 2 ** 22 - 1;
export const SHEAR_LIMIT = 2 ** 20 - 1;

/**
 * Step sizes of a packet of version 2 and later.
 *
 * @typedef {object} Steps
 * @property {number} color
 * @property {number} shape
 * @property {number} position
 * @property {number} log2Cell
 */

/**
 * Splats as integers, an array a name: those that stay what they were at birth,
 * and those that a video changes. `numbers` are x, y, size A, aspect, shear and
 * the colors.
 *
 * @typedef {object} Symbols
 * @property {number} count
 * @property {Int32Array} K
 * @property {Int32Array} T
 * @property {Uint32Array} D
 * @property {Int32Array} n
 * @property {Int32Array} bitsX
 * @property {Int32Array} bitsY
 * @property {Int32Array[]} numbers
 */

/** Bits 0, 2, 4, ... of a Morton code, side by side. */
function evenBits(code) {
  const low = code % 0x1000000;
  const high = Math.floor(code / 0x1000000);
  return (squeeze(high) << 12) | squeeze(low);
}

function squeeze(bits) {
  bits &= 0x555555;
  bits = (bits | (bits >> 1)) & 0x333333;
  bits = (bits | (bits >> 2)) & 0x0f0f0f;
  bits = (bits | (bits >> 4)) & 0xff00ff;
  return (bits | (bits >> 8)) & 0xffff;
}

/** Columns by name, with what they have learned and the bits they took. */
export class Columns {
  constructor() {
    /** @type {Map<string, Column>} */
    this.byName = new Map();
  }

  /** @param {string} name */
  get(name) {
    let column = this.byName.get(name);
    if (!column) this.byName.set(name, (column = new Column()));
    return column;
  }

  /**
   * Runs what decodes a column, and counts its bits.
   *
   * @template Result
   * @param {RangeDecoder} coder
   * @param {string} name
   * @param {(column: Column) => Result} decode
   * @returns {Result}
   */
  counted(coder, name, decode) {
    const column = this.get(name);
    const before = coder.spent();
    const result = decode(column);
    column.bits += coder.spent() - before;
    return result;
  }

  /** @returns {Record<string, number>} bits by column */
  bits() {
    return Object.fromEntries(
      [...this.byName].map(([name, column]) => [name, column.bits]),
    );
  }
}

/**
 * The columns of N splats, of a picture or newly born in a frame.
 *
 * @param {RangeDecoder} coder at the first column
 * @param {Columns} columns what they have learned; changed
 * @param {number} count splats
 * @param {number} channels colors a splat
 * @param {number[]} origin the least cell x and y
 * @param {Steps} steps
 * @returns {Symbols}
 */
export function readSymbols(coder, columns, count, channels, origin, steps) {
  const ints = () => new Int32Array(count);
  const [gapBits, x, y] = [ints(), ints(), ints()];
  columns.counted(coder, 'gap', (column) => {
    let code = 0;
    const set = column.set(0);
    for (let i = 0; i < count; i++) {
      const gap = coder.value(set);
      code = nextCode(code, gap);
      gapBits[i] = Math.min(bitLength(gap), 7);
      x[i] = checkedCell(origin[0] + evenBits(code));
      y[i] = checkedCell(origin[1] + evenBits(Math.floor(code / 2)));
    }
  });

  /**
   * @param {string} name
   * @param {(i: number) => number} which set of the value
   * @param {(i: number) => number} limit of its magnitude
   * @param {(i: number) => number} [sign]
   */
  const read = (name, which, limit, sign = () => 1) => {
    const values = ints();
    columns.counted(coder, name, (column) => {
      for (let i = 0; i < count; i++) {
        const value = sign(i) * coder.value(column.set(which(i)));
        if (Math.abs(value) > limit(i)) refuse(`${name} is out of range`);
        values[i] = value;
      }
    });
    return values;
  };

  const K = read(
    'class',
    (i) => gapBits[i],
    () => 46,
  );
  /** @type {Int32Array[]} */
  const colors = [];
  const colorSets = [
    (i) => clamp((K[i] + 8) >> 1, 0, 15),
    (i) => Math.min(bitLength(Math.abs(colors[0][i])), 6),
    (i) => {
      const [c0, c1] = [Math.abs(colors[0][i]), Math.abs(colors[1][i])];
      return Math.min(bitLength((c0 >> 1) + 2 * c1), 6);
    },
  ];
  for (let c = 0; c < channels; c++) {
    const sign = (i) => (c && colors[0][i] < 0 ? -1 : 1);
    const sets = colorSets[Math.min(c, 2)];
    colors.push(read(`color ${c}`, sets, () => COLOR_LIMIT, sign));
  }
  const found = lattice(count, colors, steps);
  const {T, D, n} = found;
  const j = read(
    'size',
    (i) => T[i],
    (i) => n[i] - 1,
  );
  if (j.some((value) => value < 0)) refuse('size is out of range');
  const shear = read(
    'shear',
    (i) => T[i] >> 1,
    () => SHEAR_LIMIT,
  );
  const aspect = read(
    'aspect',
    (i) => {
      const skew = Math.floor((Math.abs(shear[i]) * D[i]) / 2 ** 27);
      return 5 * (T[i] >> 1) + Math.min(bitLength(skew), 4);
    },
    (i) => aspectLimit(D[i]),
  );
  const [bitsX, bitsY] = positionBits(K, T, D, aspect, steps);
  for (const [name, symbols, bits] of /** @type {const} */ ([
    ['x', x, bitsX],
    ['y', y, bitsY],
  ])) {
    columns.counted(coder, name, () => {
      for (let i = 0; i < count; i++) {
        for (let b = bits[i]; b > 0; b--) {
          symbols[i] = 2 * symbols[i] + coder.bit(0x8000);
        }
      }
    });
  }
  const size = ints();
  for (let i = 0; i < count; i++) size[i] = K[i] * n[i] + j[i];
  const numbers = [x, y, size, aspect, shear, ...colors];
  return {count, K, T, D, n, bitsX, bitsY, numbers};
}

function nextCode(code, gap) {
  if (gap < 0 || code + gap >= CODE_LIMIT) refuse('gap is out of range');
  return code + gap;
}

function checkedCell(cell) {
  if (cell < 1 - 2 ** 14 || cell > 2 ** 14 - 2) refuse('cell is out of range');
  return cell;
}

/** @param {number} D */
export function aspectLimit(D) {
  return Math.floor((12 * 2 ** 28) / D);
}

/** T, D and n, which follow from the colors. */
function lattice(count, colors, steps) {
  const T = new Int32Array(count);
  const D = new Uint32Array(count);
  const n = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    let energy = 0;
    for (const color of colors) energy += color[i] * color[i];
    const t = clamp(bitLength(energy), 1, 32);
    const octave = steps.shape * (t % 2 ? 65536 : 46341);
    const d = Math.max(2 ** 12, octave >>> ((t - 1) >> 1));
    T[i] = t;
    D[i] = d;
    n[i] = Math.max(1, Math.floor((263136042 + (d >>> 1)) / d));
  }
  return {T, D, n};
}

/** Bits of the positions of each splat below its cell. */
function positionBits(K, T, D, aspect, steps) {
  const o = bitLength(steps.position) - 1;
  const p = 256 * (o - 12) + ((steps.position * 256) >> o) - 256;
  const bitsX = new Int32Array(K.length);
  const bitsY = new Int32Array(K.length);
  for (let i = 0; i < K.length; i++) {
    const q = p + 128 * (K[i] - T[i] + 1);
    const r = Math.floor((aspect[i] * D[i] * 185) / 2 ** 28);
    bitsX[i] = clamp(steps.log2Cell - ((q + r + 128) >> 8), 0, 8);
    bitsY[i] = clamp(steps.log2Cell - ((q - r + 128) >> 8), 0, 8);
  }
  return [bitsX, bitsY];
}

/**
 * @param {Symbols} symbols
 * @param {number} channels
 * @param {Steps} steps
 * @returns {Float32Array} SPLAT_FLOATS a splat
 */
export function reconstruct(symbols, channels, steps) {
  const {count, K, D, n, bitsX, bitsY, numbers} = symbols;
  const [x, y, size, aspect, shear, ...colors] = numbers;
  const splats = new Float32Array(SPLAT_FLOATS * count);
  for (let i = 0, at = 0; i < count; i++, at += SPLAT_FLOATS) {
    const d = D[i] * 2 ** -28;
    const a = Math.LN2 * ((size[i] + 0.5) / n[i] - 0.5);
    const l22 = Math.exp((a - aspect[i] * d) / 2);
    splats[at] = (x[i] + 0.5) * 2 ** (steps.log2Cell - bitsX[i]);
    splats[at + 1] = (y[i] + 0.5) * 2 ** (steps.log2Cell - bitsY[i]);
    splats[at + 2] = Math.exp((a + aspect[i] * d) / 2);
    splats[at + 3] = shear[i] * d * l22;
    splats[at + 4] = l22;
    const step = steps.color * 2 ** -12 * 2 ** (-K[i] / 2);
    for (let c = 0; c < channels; c++) splats[at + 5 + c] = colors[c][i] * step;
    if (channels >= 3) {
      const e = (colors[0][i] * step) / Math.sqrt(3);
      const f = (colors[1][i] * step) / Math.SQRT2;
      const g = (colors[2][i] * step) / Math.sqrt(6);
      splats[at + 5] = e + f - g;
      splats[at + 6] = e + 2 * g;
      splats[at + 7] = e - f - g;
    }
  }
  return splats;
}

/**
 * A packet of a picture.
 *
 * @typedef {object} Layer
 * @property {number} count splats
 * @property {Float32Array} splats SPLAT_FLOATS a splat
 * @property {Record<string, number>} bits that each column took
 * @property {Symbols | VersionOneSymbols} symbols
 */

/**
 * @param {number} version of the file
 * @param {Uint8Array} packet
 * @param {number} count splats
 * @param {number} channels
 * @param {number[]} steps the four numbers of the directory
 * @returns {Layer}
 */
export function readLayer(version, packet, count, channels, steps) {
  const columns = new Columns();
  const read = version === 1 ? readVersionOne : readVersionTwo;
  if (count && packet.length < 8) refuse('a packet ends too soon');
  const empty = new Uint8Array(8);
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
  const origin = count ? [view.getInt32(0, true), view.getInt32(4, true)] : [];
  const coder = count
    ? new RangeDecoder(packet, 8, packet.length)
    : new RangeDecoder(empty, 0, empty.length);
  const {symbols, splats} = read(
    coder,
    columns,
    count,
    channels,
    origin,
    steps,
  );
  if (count) coder.finish();
  return {count, splats, bits: columns.bits(), symbols};
}

/**
 * A packet of a picture of version 6.
 *
 * @param {import('./mixed_coding.js').MixedPicture} picture
 * @param {Uint8Array} packet
 * @param {number} count splats
 * @param {number[]} fields the four step sizes
 * @returns {Layer}
 */
export function readMixedLayer(picture, packet, count, fields) {
  const [color, shape, position, log2Cell] = fields;
  const steps = {color, shape, position, log2Cell};
  const {channels} = picture;
  if (!count) {
    const empty = new Uint8Array(4);
    const coder = new RangeDecoder(empty, 0, empty.length);
    const columns = new Columns();
    const symbols = readSymbols(coder, columns, 0, channels, [0, 0], steps);
    return {count, splats: new Float32Array(0), bits: {}, symbols};
  }
  const symbols = picture.read(packet, count, steps);
  const splats = reconstruct(symbols, channels, steps);
  return {count, splats, bits: picture.bits, symbols};
}

function readVersionTwo(coder, columns, count, channels, origin, fields) {
  const [color, shape, position, log2Cell] = fields;
  const steps = {color, shape, position, log2Cell};
  const symbols = readSymbols(coder, columns, count, channels, origin, steps);
  return {symbols, splats: reconstruct(symbols, channels, steps)};
}

/**
 * Rows of version 1: x, y, log l11, shear, log l22 and the colors as coded,
 * Y, Co, Cg where there are three or more.
 *
 * @typedef {Int32Array[]} VersionOneSymbols
 */

function readVersionOne(coder, columns, count, channels, origin, fields) {
  const names = ['gap', 'log l11', 'shear', 'log l22'];
  for (let c = 0; c < channels; c++) names.push(`color ${c}`);
  const found = names.map((name) => columns.get(name));
  const logLimit = Math.floor(2 ** 16 / fields[1]);
  // Colors within their limits are differences and means of numbers within this
  // one; what is beyond may have lost its last bits.
  const codedLimit = 2 ** 25;
  const limits = [Infinity, logLimit, COLOR_LIMIT, logLimit];
  const [sPosition, sLog, sShear, sColor] = fields.map((s) => s * 2 ** -12);
  const symbols = Array.from(
    {length: 5 + channels},
    () => new Int32Array(count),
  );
  const splats = new Float32Array(SPLAT_FLOATS * count);
  let code = 0;
  let spent = coder.spent();
  const row = new Array(names.length).fill(0);
  for (let i = 0, at = 0; i < count; i++, at += SPLAT_FLOATS) {
    for (let k = 0; k < found.length; k++) {
      row[k] = coder.value(found[k].set(0));
      const now = coder.spent();
      found[k].bits += now - spent;
      spent = now;
      if (Math.abs(row[k]) > (limits[k] ?? codedLimit)) {
        refuse(`${names[k]} is out of range`);
      }
    }
    code = nextCode(code, row[0]);
    const x = origin[0] + evenBits(code);
    const y = origin[1] + evenBits(Math.floor(code / 2));
    const colors = versionOneColors(row.slice(4));
    for (const value of [x, y, ...colors]) {
      if (Math.abs(value) > COLOR_LIMIT) refuse('a symbol is out of range');
    }
    [x, y, ...row.slice(1)].forEach((value, k) => (symbols[k][i] = value));
    const l22 = Math.fround(Math.exp(row[3] * sLog));
    splats[at] = x * sPosition;
    splats[at + 1] = y * sPosition;
    splats[at + 2] = Math.exp(row[1] * sLog);
    splats[at + 3] = row[2] * sShear * l22;
    splats[at + 4] = l22;
    colors.forEach((color, c) => (splats[at + 5 + c] = color * sColor));
  }
  return {symbols, splats};
}

/** @param {number[]} coded */
function versionOneColors(coded) {
  if (coded.length < 3) return coded;
  const [luma, orange, green, ...rest] = coded;
  const t = luma - Math.floor(green / 2);
  const blue = t - Math.floor(orange / 2);
  return [blue + orange, green + t, blue, ...rest];
}
