/** Numbers and checksums of headers, directories and entries. */

import {refuse} from './range_coder.js';

const CRC_TABLE = Uint32Array.from({length: 256}, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/**
 * @param {Uint8Array} bytes
 * @returns {number} the CRC-32 of zlib
 */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) {
    crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/**
 * Refuses bytes whose last four are not the checksum of those before.
 *
 * @param {Uint8Array} bytes
 * @param {string} what
 */
export function checkSum(bytes, what) {
  const end = bytes.length - 4;
  const sum = new Fields(bytes.subarray(end)).uint(4);
  if (sum !== crc32(bytes.subarray(0, end))) {
    refuse(`${what} is damaged: its checksum differs`);
  }
}

/** Little-endian fields, one after the other. */
export class Fields {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get atEnd() {
    return this.at === this.bytes.length;
  }

  /**
   * @param {number} count bytes to pass over
   * @returns {number} the place after them
   */
  skip(count) {
    if (this.at + count > this.bytes.length) refuse('a field is cut off');
    return (this.at += count);
  }

  /**
   * @param {number} size bytes, at most 4
   * @returns {number} an unsigned number
   */
  uint(size) {
    const start = this.at;
    let value = 0;
    for (let i = this.skip(size) - 1; i >= start; i--) {
      value = value * 256 + this.bytes[i];
    }
    return value;
  }

  /** @returns {bigint} below 2^56 */
  bigVarint() {
    let value = 0n;
    for (let k = 0; k < 8; k++) {
      const byte = this.uint(1);
      value |= BigInt(byte & 127) << BigInt(7 * k);
      if (byte < 128) {
        if (k && !byte) refuse('a number is longer than it needs to be');
        return value;
      }
    }
    return refuse('a number is too long');
  }

  /** @returns {number} exact below 2^53 */
  varint() {
    return Number(this.bigVarint());
  }
}
