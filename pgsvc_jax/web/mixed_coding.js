/**
 * Packets of pictures of version 6: mixed, trained contexts, and what they look
 * at, as in docs/format.md. Names are those of the page. All numbers are whole
 * and below 2^53; those that may reach 2^31 are divided, not shifted.
 */

import {MODELS} from './models.js';
import {bitLength, clamp, RangeDecoder, refuse} from './range_coder.js';

const ONE = 65536;
const NODES = 27;
const NUM_MODELS = 5;
const MAX_WEIGHT = 2 ** 19 - 1;
const SIGMOID = [
  22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955,
  17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357,
  64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
];
const SQUASH = Int32Array.from({length: 4096}, (_, i) => {
  const [a, f] = [i >> 7, i & 127];
  const p = (SIGMOID[a] * (128 - f) + SIGMOID[a + 1] * f + 64) >> 7;
  return clamp(p, 32, ONE - 32);
});
const STRETCH = new Int32Array(4096);
for (let c = 0, i = 1; c < 4096; c++) {
  while (i + 1 < 4096 && SQUASH[i + 1] <= 16 * c + 8) i++;
  STRETCH[c] = i - 2048;
}
const LEARN = Int32Array.from({length: 256}, (_, n) =>
  Math.floor((5 * ONE) / (5 * n + 8)),
);
const STEP = Uint8Array.from(
  {length: 256},
  (_, n) => [1, 3, 8, 23, 64].filter((least) => least <= n).length,
);
const SEEN = [1, 4, 11, 24];
const DIGITS = new Map();
for (let code = 33; code < 127; code++) {
  if (code !== 34 && code !== 92) DIGITS.set(code, DIGITS.size);
}

/** Columns of values. */
const [BOX, CELL, CLASS, COLOR, SHEAR, ASPECT] = [0, 1, 2, 3, 6, 7];

/** States of a table, NODES twice a row, and where its rows start. */
function readTables() {
  const firstRows = [];
  let count = 0;
  const tables = MODELS.states.map((text) => text.split('\n'));
  for (const rows of tables) {
    firstRows.push(count);
    count += rows.length;
  }
  const chances = new Int32Array(count * 2 * NODES).fill(ONE / 2);
  const seen = new Uint8Array(chances.length);
  let row = 0;
  for (const rows of tables) {
    for (const text of rows) {
      for (let k = 0; k < text.length; k++) {
        const digit = DIGITS.get(text.charCodeAt(k));
        if (digit === undefined) continue;
        chances[row * 2 * NODES + k] = SQUASH[128 * (digit >> 2) + 640];
        seen[row * 2 * NODES + k] = SEEN[digit & 3];
      }
      row++;
    }
  }
  const weights = Int32Array.from(MODELS.weights.flat(), (w) => 256 * w);
  return {firstRows, chances, seen, weights};
}

/** @type {ReturnType<typeof readTables> | null} */
let trained = null;

const divide = (a, b) => Math.floor(a / b);
const sizeOf = (value, most) => Math.min(bitLength(Math.abs(value)), most);
const isNegative = (value) => (value < 0 ? 1 : 0);

/** 4 log2 n, in straight lines and rounded down. */
function log4(n) {
  const o = bitLength(n) - 1;
  return 4 * o + (divide(4 * n, 2 ** o) % 4);
}

/** Values, and what the models of a picture have learned from them. */
class Mixer {
  constructor() {
    trained ??= readTables();
    this.firstRows = trained.firstRows;
    this.chances = trained.chances.slice();
    this.seen = trained.seen.slice();
    this.weights = trained.weights.slice();
    this.rows = new Int32Array(NUM_MODELS);
    this.flips = new Int32Array(NUM_MODELS);
    this.inputs = new Int32Array(NUM_MODELS);
    this.places = new Int32Array(NUM_MODELS);
    this.mixed = new Int32Array(NUM_MODELS);
    /** @type {RangeDecoder} */
    this.coder = new RangeDecoder(new Uint8Array(4), 0, 4);
  }

  /**
   * Sets model k of a column to a row; `flip` as on the page.
   *
   * @param {number} column
   * @param {number} k
   * @param {number} row
   * @param {number} [flip]
   */
  set(column, k, row, flip = -1) {
    const first = this.firstRows[NUM_MODELS * column + k];
    this.rows[k] = (first + row) * 2 * NODES;
    this.flips[k] = flip;
  }

  /**
   * @param {number} column
   * @param {number} node
   * @param {number} negative
   */
  #decide(column, node, negative) {
    const {chances, seen, weights, inputs, places, mixed, flips} = this;
    const mixer = (column * NODES + node) * (NUM_MODELS + 1) * 6;
    const bias = mixer + NUM_MODELS * 6;
    let total = weights[bias] * 77;
    for (let k = 0; k < NUM_MODELS; k++) {
      const flip = flips[k];
      let place = this.rows[k] + node;
      if (node >= 2 && flip >= 0 && flip !== negative) place += NODES;
      const x = STRETCH[chances[place] >> 4];
      inputs[k] = node === 1 && flip === 1 ? -x : x;
      places[k] = place;
      mixed[k] = mixer + k * 6 + STEP[seen[place]];
      total += weights[mixed[k]] * inputs[k];
    }
    const p = SQUASH[clamp(divide(total, ONE), -2047, 2047) + 2048];
    const bit = this.coder.bit(ONE - p);
    const error = 8 * (bit * ONE - p);
    const learn = (at, x) => {
      const weight = weights[at] + ((error * x) >> 18);
      weights[at] = clamp(weight, -MAX_WEIGHT, MAX_WEIGHT);
    };
    learn(bias, 77);
    for (let k = 0; k < NUM_MODELS; k++) {
      learn(mixed[k], inputs[k]);
      const place = places[k];
      const goal = node === 1 && flips[k] === 1 ? 1 - bit : bit;
      const old = chances[place];
      // Below 2^31 wherever LEARN is that of a state that was seen.
      const change = divide((goal * ONE - old) * LEARN[seen[place]], ONE);
      chances[place] = clamp(old + change, 32, ONE - 32);
      if (seen[place] < 255) seen[place]++;
    }
    return bit;
  }

  /**
   * @param {number} column
   * @param {'any' | 'nonzero' | 'sign'} [kind]
   * @returns {number} by the models that were set
   */
  value(column, kind = 'any') {
    if (kind === 'any' && !this.#decide(column, 0, 0)) return 0;
    const negative = this.#decide(column, 1, 0);
    let m = 1;
    if (kind !== 'sign') {
      let size = 0;
      while (
        size < 40 &&
        this.#decide(column, 2 + Math.min(size, 9), negative)
      ) {
        size++;
      }
      const first = 12 + 3 * Math.min(size - 1, 4);
      for (let i = 0; i < size; i++) {
        let bit;
        if (i === 0) bit = this.#decide(column, first, negative);
        else if (i === 1) {
          bit = this.#decide(column, first + 1 + (m % 2), negative);
        } else bit = this.coder.bit(ONE / 2);
        m = 2 * m + bit;
      }
    }
    return negative ? -m : m;
  }

  /** @returns {number} in 0 .. count - 1, all alike */
  uniform(count) {
    let [low, high] = [0, count];
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      const chance = divide((middle - low) * ONE, high - low);
      if (this.coder.bit(chance)) low = middle;
      else high = middle;
    }
    return low;
  }

  /** @returns {number} */
  bits(count) {
    let value = 0;
    for (let i = 0; i < count; i++) value = 2 * value + this.coder.bit(ONE / 2);
    return value;
  }
}

/** Which splat of every block was entered last. */
class BlockTable {
  /** @param {number} size a power of two */
  constructor(size) {
    this.slots = new Int32Array(size).fill(-1);
  }

  #place(level, column, row) {
    const number =
      Math.imul(column, 73856093) +
      Math.imul(row, 19349663) +
      Math.imul(level, 83492791);
    return ((number >>> 0) >>> 7) & (this.slots.length - 1);
  }

  enter(splat, x, y) {
    for (let level = 1; level < 8; level++) {
      this.slots[this.#place(level, x >> (3 + level), y >> (3 + level))] =
        splat;
    }
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} level
   * @param {number[]} found is filled
   */
  search(x, y, level, found) {
    found.length = 0;
    const [column, row] = [x >> (3 + level), y >> (3 + level)];
    for (let v = -1; v < 2; v++) {
      for (let u = -1; u < 2; u++) {
        const splat = this.slots[this.#place(level, column + u, row + v)];
        if (splat >= 0) found.push(splat);
      }
    }
  }
}

/** Counts of the boxes of a level, 0 beyond its edges. */
class Grid {
  constructor(rows, columns) {
    this.rows = rows;
    this.columns = columns;
    this.counts = new Int32Array(rows * columns);
  }

  at(row, column) {
    const inside =
      row >= 0 && row < this.rows && column >= 0 && column < this.columns;
    return inside ? this.counts[row * this.columns + column] : 0;
  }
}

/** What is known of the splats of all layers so far. */
class Splats {
  constructor() {
    this.count = 0;
    this.numbers = new Int32Array(0);
  }

  /** Numbers of a splat: x, y, K, H, B, e0 .. e3. */
  static FIELDS = 9;

  grow(count) {
    const old = this.numbers;
    this.count += count;
    this.numbers = new Int32Array(this.count * Splats.FIELDS);
    this.numbers.set(old);
  }
}

const [X, Y, K_FIELD, H_FIELD, B_FIELD, E_FIELD] = [0, 1, 2, 3, 4, 5];

/** The layers of one picture of version 6, base layer first. */
export class MixedPicture {
  /**
   * @param {number} width pixels
   * @param {number} height pixels
   * @param {number} channels colors a splat
   */
  constructor(width, height, channels) {
    this.width = width;
    this.height = height;
    this.channels = channels;
    this.mixer = new Mixer();
    const q = clamp(bitLength(width * height) - 2, 12, 20);
    this.coarse = new BlockTable(2 ** q);
    this.fine = new BlockTable(2 ** q);
    this.splats = new Splats();
    /** @type {number[]} */
    this.found = [];
    /** @type {number[]} */
    this.weights = [];
    /** @type {Record<string, number>} */
    this.bits = {};
    /** Of the layer that is read. @type {import('./splat_coding.js').Steps} */
    this.steps = {color: 1, shape: 1, position: 1, log2Cell: 0};
    /** 1 where there are splats below. */
    this.above = 0;
  }

  /**
   * @param {Uint8Array} packet of the next layer
   * @param {number} count splats, > 0
   * @param {import('./splat_coding.js').Steps} steps
   * @returns {import('./splat_coding.js').Symbols} in the order of the page
   */
  read(packet, count, steps) {
    this.mixer.coder = new RangeDecoder(packet, 0, packet.length);
    this.bits = {};
    this.steps = steps;
    this.above = this.splats.count ? 1 : 0;
    const first = this.splats.count;
    const box = this.#counted('position', () => this.#readBox());
    const {cells, grid} = this.#counted('position', () =>
      this.#readCells(count, box),
    );
    const ints = () => new Int32Array(count);
    const symbols = {
      count,
      K: ints(),
      T: ints(),
      D: new Uint32Array(count),
      n: ints(),
      bitsX: ints(),
      bitsY: ints(),
      numbers: Array.from({length: 5 + this.channels}, ints),
    };
    this.splats.grow(count);
    this.#counted('class', () => {
      this.#readClasses(first, box, cells, grid, symbols.K);
    });
    const order = Uint32Array.from(symbols.K.keys()).sort(
      (a, b) => symbols.K[b] - symbols.K[a] || a - b,
    );
    for (const i of order) this.#readSplat(first, i, box, cells, symbols);
    this.mixer.coder.finish();
    return inMortonOrder(symbols, cells);
  }

  /**
   * Runs what reads something, and counts its bits.
   *
   * @template Result
   * @param {string} name
   * @param {() => Result} read
   * @returns {Result}
   */
  #counted(name, read) {
    const before = this.mixer.coder.spent();
    const result = read();
    const spent = this.mixer.coder.spent() - before;
    this.bits[name] = (this.bits[name] ?? 0) + spent;
    return result;
  }

  #readBox() {
    const {mixer, steps} = this;
    const side = 2 ** steps.log2Cell;
    const usual = [
      0,
      0,
      Math.ceil(this.width / side),
      Math.ceil(this.height / side),
    ];
    const [left, top, right, bottom] = usual.map((value, i) => {
      mixer.set(BOX, 0, 4 * this.above + i);
      for (let k = 1; k < NUM_MODELS; k++) mixer.set(BOX, k, 0);
      return value + mixer.value(BOX);
    });
    const limit = 2 ** 14 - 1;
    for (const [low, high] of [
      [left, right],
      [top, bottom],
    ]) {
      if (low < -limit || low >= high || high > limit) {
        refuse('the cells are out of range');
      }
    }
    return {left, top, w: right - left, g: bottom - top};
  }

  /** Cells in the box, x and y in turn, and the last grid of counts. */
  #readCells(count, {w, g}) {
    const [topA, topB] = [bitLength(w - 1), bitLength(g - 1)];
    let [a, b] = [0, 0];
    // Row, column, count of every box.
    let boxes = [0, 0, count];
    let grid = new Grid(1, 1);
    grid.counts[0] = count;
    let seen = true;
    while (a < topA || b < topB) {
      const byColumn = a < topA && (b === topB || w * 2 ** b >= g * 2 ** a);
      seen = seen && 2 ** (a + b + 1) <= 32 * count + 4096;
      const left = Math.min(topA - a + topB - b, 15);
      const made = seen
        ? new Grid(2 ** (byColumn ? b : b + 1), 2 ** (byColumn ? a + 1 : a))
        : grid;
      /** @type {number[]} */
      const next = [];
      const [length, halved] = byColumn ? [w, a] : [g, b];
      for (let at = 0; at < boxes.length; at += 3) {
        const [i, j, n] = [boxes[at], boxes[at + 1], boxes[at + 2]];
        const k = byColumn ? j : i;
        const low = divide(k * length, 2 ** halved);
        const middle = divide((2 * k + 1) * length, 2 ** (halved + 1));
        const high = divide((k + 1) * length, 2 ** halved);
        let n0 = middle === low ? 0 : n;
        if (middle !== low && middle !== high) {
          /** @type {[number, number, number, number]} */
          const nothing = [n, n, 0, 0];
          const around = seen
            ? lookAround(grid, made, i, j, byColumn)
            : nothing;
          const u = Math.sign(high - middle - (middle - low));
          this.#setSplitModels(n, around, u < 0 ? 2 : u, left);
          n0 = this.#readSplit(n);
        }
        for (let half = 0; half < 2; half++) {
          const part = half ? n - n0 : n0;
          if (!part) continue;
          const row = byColumn ? i : 2 * i + half;
          const column = byColumn ? 2 * j + half : j;
          next.push(row, column, part);
          if (seen) made.counts[row * made.columns + column] = part;
        }
      }
      boxes = next;
      grid = made;
      if (byColumn) a++;
      else b++;
    }
    const cells = new Int32Array(2 * count);
    for (let at = 0, to = 0; at < boxes.length; at += 3) {
      for (let n = boxes[at + 2]; n > 0; n--) {
        cells[to++] = divide(boxes[at + 1] * w, 2 ** a);
        cells[to++] = divide(boxes[at] * g, 2 ** b);
      }
    }
    return {cells, grid};
  }

  #setSplitModels(n, [near, far, side0, side1], u, left) {
    const z = n < 5 ? n : Math.min(2 + bitLength(n - 1), 9);
    const [l, m] = [near - far, side0 - side1];
    const t = 2 * (near + far) + side0 + side1;
    const density = clamp(log4(divide(2 * t, 6 * n) + 1) >> 1, 0, 7);
    const f = isNegative(2 * l + m);
    const r = Math.min(divide(24 * Math.abs(2 * l + m), t + 6), 15);
    const f1 = isNegative(l);
    const r1 = Math.min(divide(8 * Math.abs(l), near + far + 2), 7);
    const f2 = isNegative(m);
    const r2 = Math.min(divide(8 * Math.abs(m), side0 + side1 + 4), 7);
    const seenFrom = (flip) => (u && flip ? 3 - u : u);
    const {mixer} = this;
    mixer.set(CELL, 0, (16 * z + r) * 3 + seenFrom(f), f);
    const dense = (8 * z + r1) * 4 + (density >> 1);
    mixer.set(CELL, 1, dense * 3 + seenFrom(f1), f1);
    mixer.set(CELL, 2, (16 * z + left) * 8 + density);
    const agrees = f1 === f2 ? 1 : 0;
    const sides = (8 * Math.min(z, 5) + r2) * 8 + r1;
    mixer.set(CELL, 3, sides * 2 + agrees, f2);
    mixer.set(CELL, 4, (16 * z + left) * 16 + r, f);
  }

  #readSplit(n) {
    const kind = n === 1 ? 'sign' : n % 2 ? 'nonzero' : 'any';
    const v = this.mixer.value(CELL, kind);
    if (!v) return n / 2;
    const excess = 2 * Math.abs(v) - (n % 2);
    const n0 = divide(n + Math.sign(v) * excess, 2);
    if (n0 < 0 || n0 > n) refuse('a box has more splats than there are');
    return n0;
  }

  /** Weights of the splats found, their sum, and the first of the nearest. */
  #weigh(x, y, top, bottom, factor) {
    const {numbers} = this.splats;
    let [total, nearest, least] = [0, -1, Infinity];
    this.weights.length = 0;
    for (const splat of this.found) {
      const at = splat * Splats.FIELDS;
      const dx = Math.min(Math.abs(numbers[at + X] - x), 2 ** 18);
      const dy = Math.min(Math.abs(numbers[at + Y] - y), 2 ** 18);
      const d = dx * dx + dy * dy;
      const weight = divide(top, bottom + factor * d);
      this.weights.push(weight);
      total += weight;
      if (d < least) [nearest, least] = [at, d];
    }
    return {total, nearest, least};
  }

  /** Sum of the weights of the splats found, each times a number of it. */
  #sum(value) {
    let sum = 0;
    for (let i = 0; i < this.found.length; i++) {
      sum += this.weights[i] * value(this.found[i] * Splats.FIELDS);
    }
    return sum;
  }

  #readClasses(first, {left, top, w, g}, cells, grid, K) {
    const {mixer, splats, above} = this;
    const {numbers} = splats;
    const {log2Cell} = this.steps;
    const window = windowsOf(grid);
    const unit = Math.max(1, divide(64 * w * g, grid.rows * grid.columns));
    let before = 6;
    for (let i = 0; i < K.length; i++) {
      const [cellX, cellY] = [cells[2 * i], cells[2 * i + 1]];
      const column = divide((cellX + 1) * grid.columns - 1, w);
      const row = divide((cellY + 1) * grid.rows - 1, g);
      const own = window(row, column, 1)[0];
      let [count, area] = [0, 0];
      for (let reach = 1; reach <= 32 && count < 6; reach *= 2) {
        [count, area] = window(row, column, reach);
      }
      const spread = clamp(
        (log4(Math.max(1, divide(area * unit, count))) >> 1) -
          4 +
          4 * (log2Cell - 2),
        0,
        23,
      );
      const at = (first + i) * Splats.FIELDS;
      const x = middleOfCell(cellX + left, log2Cell);
      const y = middleOfCell(cellY + top, log2Cell);
      [numbers[at + X], numbers[at + Y]] = [x, y];
      const level = clamp((spread + 3) >> 2, 1, 7);
      const U = 64 * 4 ** level;
      this.coarse.search(x, y, level, this.found);
      const {total, nearest, least} = this.#weigh(x, y, 1024 * U, U, 4);
      const weighted = this.#sum((other) => numbers[other + K_FIELD]);
      const mean = divide(4 * weighted + 1536, total + 128);
      let [like, far] = [3, 7];
      if (nearest >= 0) {
        like = numbers[nearest + K_FIELD];
        far = clamp(log4(divide(16 * least, U) + 1) >> 2, 0, 7);
      }
      const crowd = clamp(own - 1, 0, 3);
      mixer.set(CLASS, 0, (24 * above + spread) * 4 + crowd);
      mixer.set(CLASS, 1, 24 * clamp((mean >> 1) + 5, 0, 23) + spread);
      const near = 8 * clamp(like + 3, 0, 15) + far;
      mixer.set(CLASS, 2, near * 16 + before);
      const known = Math.min(total >> 10, 3);
      mixer.set(CLASS, 3, 4 * clamp(mean + 10, 0, 47) + known);
      mixer.set(CLASS, 4, (4 * spread + crowd) * 16 + before);
      K[i] = checked(mixer.value(CLASS) + 3, 46, 'class');
      numbers[at + K_FIELD] = K[i];
      before = clamp(K[i] + 3, 0, 15);
      this.coarse.enter(first + i, x, y);
    }
  }

  #readSplat(first, i, {left, top}, cells, symbols) {
    const {mixer, steps, channels} = this;
    const {numbers} = this.splats;
    const at = (first + i) * Splats.FIELDS;
    const K = symbols.K[i];
    const [x, y] = [numbers[at + X], numbers[at + Y]];
    this.fine.search(x, y, clamp(((K + 1) >> 1) + 1, 1, 7), this.found);
    const reach = 64 * 2 ** clamp(K, 0, 24) + 256;
    const near = this.#weigh(x, y, 256 * reach, reach, 1);
    const place = {
      kind: clamp(K + 3, 0, 15),
      distance: 15,
      Z: near.total,
      like: 0,
    };
    if (near.nearest >= 0) {
      const apart = log4(divide(16 * near.least, reach) + 1);
      place.distance = clamp(apart >> 1, 0, 15);
      place.like = numbers[near.nearest + E_FIELD];
    }
    const colors = this.#counted('color', () => this.#readColors(place));
    let energy = 0;
    for (const color of colors) energy += color * color;
    const T = clamp(bitLength(energy), 1, 32);
    const octave = steps.shape * (T % 2 ? 65536 : 46341);
    const D = Math.max(2 ** 12, divide(octave, 2 ** ((T - 1) >> 1)));
    const n = Math.max(1, divide(263136042 + divide(D, 2), D));
    const j = this.#counted('size', () => mixer.uniform(n));
    const [h, b] = this.#readShape(place, T, D);

    const o = bitLength(steps.position) - 1;
    const p = 256 * (o - 12) + ((steps.position * 256) >> o) - 256;
    const q = p + 128 * (K - T + 1);
    const r = divide(b * D * 185, 2 ** 28);
    const bitsX = clamp(steps.log2Cell - ((q + r + 128) >> 8), 0, 8);
    const bitsY = clamp(steps.log2Cell - ((q - r + 128) >> 8), 0, 8);
    const [low, below] = this.#counted('position', () => [
      mixer.bits(bitsX),
      mixer.bits(bitsY),
    ]);
    const symbolX = (cells[2 * i] + left) * 2 ** bitsX + low;
    const symbolY = (cells[2 * i + 1] + top) * 2 ** bitsY + below;
    numbers[at + X] = eighths(symbolX, steps.log2Cell - bitsX + 2);
    numbers[at + Y] = eighths(symbolY, steps.log2Cell - bitsY + 2);
    const shape = (value) => clamp(divide(value * D, 2 ** 22), -256, 256);
    numbers[at + H_FIELD] = shape(h);
    numbers[at + B_FIELD] = shape(b);
    for (let c = 0; c < channels; c++) {
      const e = divide(colors[c] * steps.color, 16);
      numbers[at + E_FIELD + c] = clamp(e, -(2 ** 20), 2 ** 20);
    }
    this.fine.enter(first + i, numbers[at + X], numbers[at + Y]);
    const found = {T, D, n, bitsX, bitsY};
    for (const [name, value] of Object.entries(found)) symbols[name][i] = value;
    [symbolX, symbolY, K * n + j, b, h, ...colors].forEach((value, k) => {
      symbols.numbers[k][i] = value;
    });
  }

  /** @returns {number[]} */
  #readColors({kind, distance, Z, like}) {
    const {mixer, above} = this;
    const {numbers} = this.splats;
    const sColor = this.steps.color;
    const V = (Z + 32) * sColor;
    const e = (at, i) => numbers[at + E_FIELD + i];
    const short = (at, i) => clamp(e(at, i), -4096, 4096);
    /** @type {number[]} */
    const colors = [];
    let [c0, sign, first, second] = [0, 1, 0, 0];
    for (let i = 0; i < this.channels; i++) {
      const sum = this.#sum((at) => Math.abs(e(at, i)));
      const mag = log4(divide(32 * sum, V) + 1);
      if (i === 0) {
        const L = divide(16 * like, sColor);
        const M = divide(16 * this.#sum((at) => e(at, 0)), V);
        mixer.set(COLOR, 0, 2 * kind + above);
        mixer.set(COLOR, 1, 16 * clamp(mag >> 1, 0, 19) + kind);
        mixer.set(COLOR, 2, 16 * sizeOf(L, 7) + distance, isNegative(L));
        mixer.set(COLOR, 3, 16 * kind + distance);
        mixer.set(COLOR, 4, 16 * sizeOf(M, 7) + distance, isNegative(M));
        c0 = mixer.value(COLOR);
        sign = c0 < 0 ? -1 : 1;
        first = sizeOf(c0, 9);
        colors.push(checked(c0, 2 ** 22 - 1, 'color'));
        continue;
      }
      const column = COLOR + Math.min(i, 2);
      const slope = 2 * this.#sum((at) => short(at, 0) * short(at, i));
      const S = divide(
        slope * Math.min(Math.abs(c0), 4096),
        this.#sum((at) => short(at, 0) ** 2) + 64,
      );
      const [flip, size] = [isNegative(S), sizeOf(S, 7)];
      const all = (16 * first + kind) * 2 + isNegative(c0);
      if (i === 1) {
        const M = sign * divide(16 * this.#sum((at) => e(at, 1)), V);
        mixer.set(column, 0, all);
        mixer.set(column, 1, 10 * size + first, flip);
        const coarse = 8 * clamp(mag >> 2, 0, 7) + size;
        mixer.set(column, 2, coarse * 2 + above, flip);
        mixer.set(column, 3, 10 * clamp(mag >> 1, 0, 15) + first);
        mixer.set(column, 4, 10 * sizeOf(M, 7) + first, isNegative(M));
      } else {
        const R = divide(
          2 *
            this.#sum((at) => short(at, 1) * short(at, i)) *
            clamp(second, -4096, 4096),
          this.#sum((at) => short(at, 1) ** 2) + 64,
        );
        mixer.set(column, 0, 10 * clamp(mag >> 1, 0, 15) + first);
        const both = divide(Math.abs(c0), 2) + 2 * Math.abs(second);
        const row = 7 * sizeOf(second, 6) + Math.min(bitLength(both), 6);
        const agrees = isNegative(second) === flip ? 1 : 0;
        mixer.set(column, 1, row * 2 + agrees, isNegative(second));
        const other = 7 * sizeOf(R, 6) + sizeOf(second, 6);
        mixer.set(column, 2, other, isNegative(R));
        mixer.set(column, 3, 10 * size + first, flip);
        mixer.set(column, 4, all);
      }
      const value = checked(mixer.value(column), 2 ** 22 - 1, 'color');
      if (i === 1) second = value;
      colors.push(sign * value);
    }
    return colors;
  }

  /** @returns {[number, number]} shear and aspect */
  #readShape({kind, distance, Z}, T, D) {
    const {mixer, above} = this;
    const {numbers} = this.splats;
    const E = divide(
      this.#sum((at) => numbers[at + H_FIELD]),
      Z + 64,
    );
    const F = divide(
      this.#sum((at) => numbers[at + B_FIELD]),
      Z + 64,
    );
    const half = Math.min(T >> 1, 9);
    const size = (value, shift, most) =>
      Math.min(bitLength(Math.abs(value) >> shift), most);
    const inSteps = (value) =>
      bitLength(clamp(divide(2 * Math.abs(value) * 2 ** 22, D), 0, 127));
    mixer.set(SHEAR, 0, 16 * Math.min(T, 15) + kind);
    mixer.set(SHEAR, 1, 10 * inSteps(E) + half, isNegative(E));
    const both = (5 * size(E, 2, 5) + size(F, 3, 4)) * 2 + isNegative(F);
    const third = Math.min(divide(T, 3), 4);
    mixer.set(SHEAR, 2, both * 5 + third, isNegative(E));
    mixer.set(SHEAR, 3, 2 * Math.min(T, 19) + above);
    mixer.set(SHEAR, 4, 16 * half + distance);
    const h = this.#counted('shear', () => mixer.value(SHEAR));
    checked(h, 2 ** 20 - 1, 'shear');

    const H = clamp(divide(h * D, 2 ** 22), -256, 256);
    const skew = size(H, 3, 5);
    mixer.set(ASPECT, 0, (6 * kind + skew) * 10 + half);
    mixer.set(ASPECT, 1, 10 * inSteps(F) + half, isNegative(F));
    const row = (6 * size(F, 2, 6) + skew) * 4 + size(E, 3, 3);
    const differs = isNegative(H) === isNegative(E) ? 0 : 1;
    mixer.set(ASPECT, 2, row * 2 + differs, isNegative(F));
    mixer.set(ASPECT, 3, (6 * Math.min(T, 19) + skew) * 2 + above);
    mixer.set(ASPECT, 4, 16 * half + distance);
    const b = this.#counted('aspect', () => mixer.value(ASPECT));
    return [h, checked(b, divide(12 * 2 ** 28, D), 'aspect')];
  }
}

/** @returns {[number, number, number, number]} near, far, side0 and side1 */
function lookAround(before, made, i, j, byColumn) {
  const n = before.at(i, j);
  // Names as where columns are halved.
  const P = byColumn ? (r, c) => before.at(r, c) : (r, c) => before.at(c, r);
  const Q = byColumn ? (r, c) => made.at(r, c) : (r, c) => made.at(c, r);
  if (!byColumn) [i, j] = [j, i];
  const columns = byColumn ? before.columns : before.rows;
  const hasFar = j + 1 < columns;
  const far = hasFar ? P(i, j + 1) : 0;
  const near = j ? 2 * Q(i, 2 * j - 1) : hasFar ? far : n;
  const corners = (c) => P(i - 1, c) + P(i + 1, c);
  return [
    near,
    hasFar ? far : near,
    4 * Q(i - 1, 2 * j) + corners(j - 1),
    4 * Q(i - 1, 2 * j + 1) + corners(j + 1),
  ];
}

/** How many splats, in how many boxes, are up to `reach` boxes away. */
function windowsOf(grid) {
  const {rows, columns} = grid;
  const stride = columns + 1;
  const sums = new Float64Array((rows + 1) * stride);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const at = (r + 1) * stride + c + 1;
      sums[at] =
        grid.counts[r * columns + c] +
        sums[at - 1] +
        sums[at - stride] -
        sums[at - stride - 1];
    }
  }
  return (row, column, reach) => {
    const top = Math.max(row - reach, 0);
    const bottom = Math.min(row + reach + 1, rows);
    const left = Math.max(column - reach, 0);
    const right = Math.min(column + reach + 1, columns);
    const count =
      sums[bottom * stride + right] -
      sums[top * stride + right] -
      sums[bottom * stride + left] +
      sums[top * stride + left];
    return [count, (bottom - top) * (right - left)];
  };
}

const middleOfCell = (cell, log2Cell) => eighths(cell, log2Cell + 2);

/** (2 symbol + 1) 2^shift rounded down, and not beyond 2^28. */
function eighths(symbol, shift) {
  const place = Math.floor((2 * symbol + 1) * 2 ** shift);
  return clamp(place, -(2 ** 28), 2 ** 28);
}

function checked(value, limit, name) {
  if (Math.abs(value) > limit) refuse(`${name} is out of range`);
  return value;
}

/** Puts symbols in the order in which splats are added up. */
function inMortonOrder(symbols, cells) {
  const spread = (n) => {
    let code = 0;
    for (let k = 14; k >= 0; k--) code = code * 4 + ((n >> k) & 1);
    return code;
  };
  const codes = Float64Array.from(
    symbols.K,
    (_, i) => spread(cells[2 * i]) + 2 * spread(cells[2 * i + 1]),
  );
  const order = Array.from(symbols.K.keys()).sort(
    (a, b) => codes[a] - codes[b] || a - b,
  );
  const sorted = (column) => column.map((_, k) => column[order[k]]);
  const named = Object.fromEntries(
    ['K', 'T', 'D', 'n', 'bitsX', 'bitsY'].map((x) => [x, sorted(symbols[x])]),
  );
  return {...symbols, ...named, numbers: symbols.numbers.map(sorted)};
}
