/**
 * Bytes to integers: the binary range coder of docs/format_v2.md, its contexts and
 * its binarisation. All arithmetic is on whole numbers below 2^53, which
 * JavaScript's numbers hold exactly; values from 2^53 on are refused or only
 * compared with 0 by whoever asked for them, so they may lose their last bits.
 */

/** The bytes are not what the format allows. */
export class FormatError extends Error {
  /** @param {string} message what is wrong, for a person to read */
  constructor(message) {
    super(message);
    this.name = 'FormatError';
  }
}

/**
 * @param {string} message
 * @returns {never}
 */
export function refuse(message) {
  throw new FormatError(message);
}

const MAX_SIZE = 61;
// A set of contexts: prefixes, the sign, three nodes of the mantissa a size.
const SIGN = MAX_SIZE;
const MANTISSA = SIGN + 1;
const SET_SIZE = MANTISSA + 3 * (MAX_SIZE + 1);

/**
 * What a column has learned: sets of contexts, made when they are first used.
 * A context is three integers in a row: fast, slow and count.
 */
export class Column {
  constructor() {
    /** @type {Int32Array[]} */
    this.sets = [];
    /** Bits that its values have taken so far. */
    this.bits = 0;
  }

  /**
   * @param {number} which number of the set
   * @returns {Int32Array}
   */
  set(which) {
    let contexts = this.sets[which];
    if (contexts === undefined) {
      contexts = new Int32Array(3 * SET_SIZE).fill(1 << 19);
      for (let i = 2; i < contexts.length; i += 3) contexts[i] = 0;
      this.sets[which] = contexts;
    }
    return contexts;
  }
}

/** One run of the coder over bytes `start` to `end` of `data`. */
export class RangeDecoder {
  /**
   * @param {Uint8Array} data
   * @param {number} start
   * @param {number} end
   */
  constructor(data, start, end) {
    this.data = data;
    this.start = start;
    this.end = end;
    this.next = start;
    this.width = 2 ** 32;
    this.code = 0;
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.#byte();
  }

  #byte() {
    // Whoever asks for more than four bytes after the end is refused at the
    // end whatever comes: refused here, forged counts cost no time.
    if (this.next >= this.end + 4) refuse('a packet ends too soon');
    const byte = this.next < this.end ? this.data[this.next] : 0;
    this.next++;
    return byte;
  }

  /** @returns {number} bits that were read, to a fraction */
  spent() {
    return 8 * (this.next - this.start) - Math.log2(this.width);
  }

  /**
   * @param {number} chance of a 0, of 2^16
   * @returns {number} 0 or 1
   */
  bit(chance) {
    const bound = Math.floor((this.width * chance) / 65536);
    let bit = 0;
    if (this.code < bound) {
      this.width = bound;
    } else {
      bit = 1;
      this.code -= bound;
      this.width -= bound;
    }
    while (this.width < 0x1000000) {
      this.code = this.code * 256 + this.#byte();
      this.width *= 256;
    }
    return bit;
  }

  /**
   * A bit that its context learns from.
   *
   * @param {Int32Array} contexts a set
   * @param {number} place in the set
   * @returns {number} 0 or 1
   */
  #learned(contexts, place) {
    const at = 3 * place;
    const fast = contexts[at];
    const slow = contexts[at + 1];
    const bit = this.bit((fast + slow) >> 5);
    const memory = contexts[at + 2] + 2;
    const divisor = memory < 32 ? memory : 32;
    if (bit) {
      contexts[at] = fast - ((fast / divisor) | 0);
      contexts[at + 1] = slow - ((slow / memory) | 0);
    } else {
      contexts[at] = fast + (((0x100000 - fast) / divisor) | 0);
      contexts[at + 1] = slow + (((0x100000 - slow) / memory) | 0);
    }
    // So memory is 512 at most, as the slow one's limit.
    if (memory < 512) contexts[at + 2]++;
    return bit;
  }

  /**
   * @param {Int32Array} contexts a set of the column of the value
   * @returns {number} exact below 2^53
   */
  value(contexts) {
    let size = 0;
    while (size < MAX_SIZE && this.#learned(contexts, size)) size++;
    let m = 1;
    let node = 0;
    for (let i = 0; i < size; i++) {
      let bit;
      if (node < 3) {
        bit = this.#learned(contexts, MANTISSA + 3 * size + node);
        node = 2 * node + 1 + bit;
      } else {
        bit = this.bit(0x8000);
      }
      m = 2 * m + bit;
    }
    const value = m - 1;
    return value !== 0 && this.#learned(contexts, SIGN) ? -value : value;
  }

  /** Refuses what a sound packet does not end with. */
  finish() {
    for (let at = this.next; at < this.end; at++) {
      if (this.data[at] !== 0) refuse('a packet has bytes left over');
    }
  }
}

/**
 * @param {number} n a whole number >= 0, below 2^53
 * @returns {number} its binary digits
 */
export function bitLength(n) {
  return n < 0x100000000
    ? 32 - Math.clz32(n)
    : 64 - Math.clz32(Math.floor(n / 0x100000000));
}

/**
 * @param {number} n
 * @param {number} low
 * @param {number} high
 */
export function clamp(n, low, high) {
  return n < low ? low : n > high ? high : n;
}
