/**
 * Files of all versions to packets, as their bytes arrive: headers, directories
 * and entries of docs/format.md and docs/format_video.md.
 *
 * Reading is written as generators that ask for bytes: `yield n` gives the next
 * n, whenever they have come, and `yield -n` passes over n that are not needed.
 */

import {checkSum, crc32, Fields} from './fields.js';
import {FormatError, refuse} from './range_coder.js';

const MAGIC = [0x89, 0x50, 0x47, 0x53, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_PIXELS_OF_FORMAT = 2 ** 28;
const MAX_GOPS = 2 ** 18;
const MAX_FRAMES_OF_GOP = 4096;
const MAX_TIME = 2n ** 53n;

/**
 * @typedef {object} LayerEntry
 * @property {number} count splats of this layer alone
 * @property {number} bytes of its packet
 * @property {number} end of its packet in the file
 * @property {number} checksum
 * @property {number[]} steps four numbers of the directory
 */

/**
 * What a file says of itself.
 *
 * @typedef {object} Header
 * @property {number} version
 * @property {boolean} isVideo
 * @property {number} width pixels
 * @property {number} height pixels
 * @property {number} channels 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha
 * @property {number} numLayers
 * @property {number} size of the header, bytes
 * @property {[number, number][]} nativeSizes width and height of each layer
 * @property {Uint8Array} metadata
 * @property {LayerEntry[]} layers of a picture; empty for a video
 * @property {'time' | 'quality'} [order] of a video
 * @property {[number, number]} [timeBase] of a video, seconds
 * @property {[number, number]} [frameRate] of a video; 0/0 is unknown
 * @property {[number, number]} [pixelAspect] of a video
 * @property {number[]} [colorTags] of a video
 */

/**
 * A group of pictures.
 *
 * @typedef {object} Gop
 * @property {number} index
 * @property {number} firstFrame
 * @property {number[]} times when frames start, units of the time base
 * @property {number} end when the last frame does
 * @property {number[]} bytes of its packets
 * @property {number[]} checksums of its packets
 */

/**
 * @typedef {{type: 'header', header: Header}
 *   | {type: 'layer', layer: number, data: Uint8Array}
 *   | {type: 'gop', gop: Gop}
 *   | {type: 'packet', gop: number, layer: number, data: Uint8Array}
 *   | {type: 'damage', gop?: number, layer: number, message: string}
 *   | {type: 'error', message: string}
 *   | {type: 'end'}} ContainerEvent
 */

/** A file as it arrives. */
export class ContainerReader {
  /** @param {{maxLayers?: number, maxPixels?: number}} [options] */
  constructor({maxLayers = Infinity, maxPixels = 2 ** 27} = {}) {
    /** Layers from here on are passed over. */
    this.maxLayers = maxLayers;
    this.maxPixels = maxPixels;
    /** The first byte of the file that is not used yet. */
    this.position = 0;
    /** Whether what was read ends where a file may. */
    this.complete = false;
    /** What ended the reading. @type {FormatError | null} */
    this.error = null;
    /** @type {Header | null} */
    this.header = null;
    this.hasPicture = false;
    /** @type {Uint8Array[]} */
    this.chunks = [];
    this.buffered = 0;
    /** @type {ContainerEvent[]} */
    this.events = [];
    this.parser = this.#read();
    this.wanted = this.parser.next().value ?? 0;
  }

  /**
   * @param {Uint8Array} bytes the next ones, from `position + buffered` on
   * @returns {ContainerEvent[]} what they complete; after an error nothing
   *   more is read
   */
  push(bytes) {
    this.events = [];
    if (this.error) return this.events;
    if (bytes.length) {
      this.chunks.push(bytes);
      this.buffered += bytes.length;
    }
    try {
      this.#parse();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.fail(error);
    }
    return this.events;
  }

  /** @param {FormatError} error that ends the reading */
  fail(error) {
    this.error = error;
    this.chunks = [];
    this.events.push({type: 'error', message: error.message});
  }

  #parse() {
    for (;;) {
      if (this.wanted < 0) {
        const passed = Math.min(-this.wanted, this.buffered);
        this.#take(passed);
        this.wanted += passed;
        if (this.wanted < 0) return;
        this.wanted = 0;
      }
      if (this.buffered < this.wanted) return;
      const taken = this.#take(this.wanted);
      this.wanted = /** @type {number} */ (this.parser.next(taken).value);
    }
  }

  /** Bytes from here on are not looked at before others have come. */
  get nextNeeded() {
    return this.position + (this.wanted < 0 ? -this.wanted : this.buffered);
  }

  /**
   * Says that bytes up to `position` do not come: they are not needed.
   *
   * @param {number} position at most `nextNeeded`
   * @returns {ContainerEvent[]} what that completes
   */
  jump(position) {
    if (position > this.nextNeeded || this.wanted >= 0) {
      throw new RangeError('bytes are needed before this place');
    }
    this.wanted += position - this.position;
    this.position = position;
    return this.push(new Uint8Array(0));
  }

  /**
   * No more bytes come.
   *
   * @throws {FormatError} what is wrong with the file, or that nothing of it
   *   can be shown
   */
  finish() {
    if (this.error) throw this.error;
    if (!this.header) refuse('the file ends inside its header');
    if (!this.hasPicture) refuse('the file ends inside its base layer');
  }

  #take(count) {
    this.position += count;
    this.buffered -= count;
    const first = this.chunks[0];
    if (first && first.length >= count) {
      // Most often: no copy.
      this.chunks[0] = first.subarray(count);
      if (!this.chunks[0].length) this.chunks.shift();
      return first.subarray(0, count);
    }
    const bytes = new Uint8Array(count);
    for (let at = 0; at < count;) {
      const part = this.chunks[0].subarray(0, count - at);
      bytes.set(part, at);
      at += part.length;
      this.chunks[0] = this.chunks[0].subarray(part.length);
      if (!this.chunks[0].length) this.chunks.shift();
    }
    return bytes;
  }

  /** @returns {Generator<number, void, Uint8Array>} */
  *#read() {
    const start = yield 12;
    if (MAGIC.some((byte, i) => start[i] !== byte)) refuse('no .pgsvc file');
    const [version, flags] = [start[8], start[9]];
    if (version < 1 || version > 6) {
      refuse(
        `version ${version} is newer than this decoder, which reads 1 to 6`,
      );
    }
    if (version === 6) {
      yield* this.#readCompact(start);
      return;
    }
    if (flags) refuse(`flags ${flags} are unknown`);
    const size = start[10] + 256 * start[11];
    if (size < 26) refuse('the header is too short');
    const rest = yield size - 12;
    const bytes = new Uint8Array(size);
    bytes.set(start);
    bytes.set(rest, 12);
    checkSum(bytes, 'the header');
    const isVideo = version === 3 || version === 5;
    const header = (isVideo ? readVideoHeader : readPictureHeader)(
      version,
      bytes,
    );
    yield* this.#readRest(header);
  }

  /** @param {Uint8Array} start of a picture of version 6 */
  *#readCompact(start) {
    // The size takes three bytes at most, and those are here.
    const fields = new Fields(start);
    fields.skip(9);
    const size = fields.varint();
    if (size > 65535 || size < 24) refuse('the size of the header is wrong');
    const rest = yield size - 12;
    const bytes = new Uint8Array(size);
    bytes.set(start);
    bytes.set(rest, 12);
    checkSum(bytes, 'the header');
    yield* this.#readRest(readCompactHeader(bytes, fields.at));
  }

  /** @param {Header} header */
  *#readRest(header) {
    const {width, height, isVideo} = header;
    if (width * height > this.maxPixels) {
      refuse(`${width} x ${height} pixels are more than is allowed here`);
    }
    this.header = header;
    this.events.push({type: 'header', header});
    if (!isVideo) yield* this.#readLayers(header);
    else if (header.order === 'time') yield* this.#readByTime(header);
    else yield* this.#readByQuality(header);
    this.complete = true;
    this.events.push({type: 'end'});
    yield 1;
    refuse('the file has bytes after its end');
  }

  /** @param {Header} header */
  *#readLayers(header) {
    for (const [layer, entry] of header.layers.entries()) {
      if (layer >= this.maxLayers) {
        yield -entry.bytes;
        continue;
      }
      const data = yield entry.bytes;
      if (crc32(data) !== entry.checksum) {
        const message = `layer ${layer} is damaged: its checksum differs`;
        if (layer === 0) refuse(message);
        this.events.push({type: 'damage', layer, message});
        // Prefixes end here; nothing above it can be shown.
        this.maxLayers = layer;
        continue;
      }
      this.hasPicture = true;
      this.events.push({type: 'layer', layer, data});
    }
  }

  /** @param {Header} header */
  *#readByTime(header) {
    /** @type {Gop | null} */
    let before = null;
    for (let index = 0; ; index++) {
      const gop = yield* readEntry(index, header, before);
      if (!gop) return;
      if (index >= MAX_GOPS) refuse('the file has too many groups of pictures');
      this.events.push({type: 'gop', gop});
      for (let layer = 0; layer < header.numLayers; layer++) {
        yield* this.#readPacket(gop, layer);
      }
      before = gop;
    }
  }

  /** @param {Header} header */
  *#readByQuality(header) {
    const head = new Fields(yield 8);
    const [count, size] = [head.uint(4), head.uint(4)];
    if (count > MAX_GOPS) refuse('the file has too many groups of pictures');
    // Entries have a checksum each, and all of them one together.
    const rest = yield size + 4;
    const directory = new Uint8Array(size + 12);
    directory.set(head.bytes);
    directory.set(rest, 8);
    checkSum(directory, 'the directory');
    /** @type {Gop[]} */
    const gops = [];
    let at = 8;
    for (let index = 0; index < count; index++) {
      const reading = readEntry(index, header, gops[index - 1] ?? null);
      let step = reading.next();
      while (!step.done) {
        const end = at + step.value;
        if (end > size + 8) refuse('the directory ends too soon');
        const part = directory.subarray(at, end);
        at = end;
        step = reading.next(part);
      }
      if (!step.value) refuse('the directory ends too soon');
      gops.push(step.value);
      this.events.push({type: 'gop', gop: step.value});
    }
    if (at !== size + 8) refuse('the directory has bytes left over');
    for (let layer = 0; layer < header.numLayers; layer++) {
      for (const gop of gops) yield* this.#readPacket(gop, layer);
    }
  }

  /**
   * @param {Gop} gop
   * @param {number} layer
   */
  *#readPacket(gop, layer) {
    if (layer >= this.maxLayers) {
      yield -gop.bytes[layer];
      return;
    }
    const data = yield gop.bytes[layer];
    const {index} = gop;
    if (crc32(data) !== gop.checksums[layer]) {
      const message = `layer ${layer} of GOP ${index} is damaged: its checksum differs`;
      this.events.push({type: 'damage', gop: index, layer, message});
      return;
    }
    this.hasPicture = true;
    // A copy: packets stay, and need not keep the chunks they came in.
    this.events.push({type: 'packet', gop: index, layer, data: data.slice()});
  }
}

/** What pictures and videos have in common. */
function readSize(fields) {
  fields.skip(12);
  return checkedSize(...[4, 4, 1, 1].map((n) => fields.uint(n)));
}

/**
 * @param {...number} numbers width, height, channels and layers
 */
function checkedSize(...[width, height, channels, numLayers]) {
  if (!width || !height || width * height > MAX_PIXELS_OF_FORMAT) {
    refuse(`${width} x ${height} pixels are no size of a picture`);
  }
  if (channels < 1 || channels > 4) refuse(`${channels} channels`);
  if (!numLayers) refuse('the file has no layers');
  return {width, height, channels, numLayers};
}

/**
 * @param {number} version
 * @param {Uint8Array} bytes
 * @returns {Header}
 */
function readPictureHeader(version, bytes) {
  const fields = new Fields(bytes.subarray(0, -4));
  const {width, height, channels, numLayers} = readSize(fields);
  /** @type {LayerEntry[]} */
  const layers = [];
  /** @type {[number, number][]} */
  const nativeSizes = [];
  let end = bytes.length;
  for (let k = 0; k < numLayers; k++) {
    const [count, size, checksum] = [4, 4, 4].map((n) => fields.uint(n));
    const steps = [2, 2, 2, 2].map((n) => fields.uint(n));
    if (count > size || (count === 0) !== (size === 0)) {
      refuse(`layer ${k} has ${count} splats in ${size} bytes`);
    }
    if (!steps[0] || !steps[1] || !steps[2] || (version === 1 && !steps[3])) {
      refuse('a step size is 0');
    }
    if (version !== 1 && steps[3] > 15) refuse('log2_cell is out of range');
    end += size;
    layers.push({count, bytes: size, end, checksum, steps});
    nativeSizes.push(
      version === 4
        ? readNativeSize(fields, nativeSizes[k - 1], width, height)
        : [width, height],
    );
  }
  const metadata = bytes.slice(fields.at, -4);
  const isVideo = false;
  const size = bytes.length;
  const form = {version, isVideo, width, height, channels, numLayers, size};
  return {...form, nativeSizes, metadata, layers};
}

/**
 * @param {Uint8Array} bytes of a header of version 6
 * @param {number} start of what follows its size
 * @returns {Header}
 */
function readCompactHeader(bytes, start) {
  const fields = new Fields(bytes.subarray(0, -4));
  fields.skip(start);
  const {width, height, channels, numLayers} = checkedSize(
    ...[0, 1, 2, 3].map(() => fields.varint()),
  );
  if (numLayers > 255) refuse(`${numLayers} layers`);
  /** @type {LayerEntry[]} */
  const layers = [];
  /** @type {[number, number][]} */
  const nativeSizes = [];
  let [end, steps] = [bytes.length, [256, 6889, 4871, 2]];
  /** @type {[number, number]} */
  let native = [width, height];
  for (let k = 0; k < numLayers; k++) {
    const [count, size] = [fields.varint(), fields.varint()];
    const [checksum, flags] = [fields.uint(4), fields.uint(1)];
    if (count > size || (count === 0) !== (size === 0)) {
      refuse(`layer ${k} has ${count} splats in ${size} bytes`);
    }
    if (flags > 31) refuse('a layer has unknown flags');
    steps = steps.map((below, i) => {
      if (!(flags & (1 << i))) return below;
      const step = fields.varint();
      if (step === below) refuse('a step size is told twice');
      return step;
    });
    if (steps.some((step, i) => (i < 3 ? !step || step > 65535 : step > 15))) {
      refuse('a step size is out of range');
    }
    if (flags & 16) {
      /** @type {[number, number]} */
      const found = [fields.varint(), fields.varint()];
      if (found[0] === native[0] && found[1] === native[1]) {
        refuse('the size of a layer is told twice');
      }
      native = found;
    }
    nativeSizes.push(checkedNative(native, nativeSizes[k - 1], width, height));
    end += size;
    layers.push({count, bytes: size, end, checksum, steps});
  }
  const metadata = bytes.slice(fields.at, -4);
  const form = {version: 6, isVideo: false, width, height, channels, numLayers};
  return {...form, size: bytes.length, nativeSizes, metadata, layers};
}

/** @returns {[number, number]} */
function readNativeSize(fields, below, width, height) {
  /** @type {[number, number]} */
  const size = [fields.uint(4), fields.uint(4)];
  return checkedNative(size, below, width, height);
}

/** @returns {[number, number]} */
function checkedNative([w, h], below = [1, 1], width, height) {
  if (w < below[0] || w > width || h < below[1] || h > height) {
    refuse(`${w} x ${h} pixels are no size of a layer`);
  }
  return [w, h];
}

/**
 * @param {number} version
 * @param {Uint8Array} bytes
 * @returns {Header}
 */
function readVideoHeader(version, bytes) {
  const fields = new Fields(bytes.subarray(0, -4));
  const {width, height, channels, numLayers} = readSize(fields);
  const order = fields.uint(1);
  if (order > 1) refuse(`order ${order} is unknown`);
  const colorTags = [1, 1, 1, 1].map((n) => fields.uint(n));
  if (colorTags[3] > 1) refuse('the range of colors is unknown');
  if (fields.uint(1)) refuse('the reserved byte is not 0');
  const [timeBase, frameRate, pixelAspect] = [false, true, false].map(
    (mayBeUnknown) => readFraction(fields, mayBeUnknown),
  );
  /** @type {[number, number][]} */
  const nativeSizes = [];
  for (let k = 0; k < numLayers; k++) {
    nativeSizes.push(
      version === 5
        ? readNativeSize(fields, nativeSizes[k - 1], width, height)
        : [width, height],
    );
  }
  return {
    version,
    isVideo: true,
    width,
    height,
    channels,
    numLayers,
    size: bytes.length,
    nativeSizes,
    metadata: bytes.slice(fields.at, -4),
    layers: [],
    order: order ? 'quality' : 'time',
    timeBase,
    frameRate,
    pixelAspect,
    colorTags,
  };
}

/** @returns {[number, number]} */
function readFraction(fields, mayBeUnknown) {
  const [n, d] = [fields.uint(4), fields.uint(4)];
  let [a, b] = [n, d];
  while (b) [a, b] = [b, a % b];
  const unknown = n === 0 && d === 0;
  if (!(unknown && mayBeUnknown) && (!n || !d || a !== 1)) {
    refuse(`${n}/${d} is no fraction in lowest terms`);
  }
  return [n, d];
}

/**
 * @param {number} index
 * @param {Header} header
 * @param {Gop | null} before
 * @returns {Generator<number, Gop | null, Uint8Array>} null at the end mark
 */
function* readEntry(index, header, before) {
  const first = yield 2;
  const size = first[0] + 256 * first[1];
  if (size === 0) return null;
  if (size < 6) refuse(`the entry of GOP ${index} is too short`);
  const rest = yield size - 2;
  const bytes = new Uint8Array(size);
  bytes.set(first);
  bytes.set(rest, 2);
  checkSum(bytes, `the entry of GOP ${index}`);
  const fields = new Fields(bytes.subarray(2, -4));
  const numFrames = fields.varint();
  if (numFrames < 1 || numFrames > MAX_FRAMES_OF_GOP) {
    refuse(`GOP ${index} has ${numFrames} frames`);
  }
  const {times, end} = readTimes(fields, numFrames, before);
  /** @type {number[]} */
  const sizes = [];
  /** @type {number[]} */
  const checksums = [];
  for (let k = 0; k < header.numLayers; k++) {
    const packetSize = fields.varint();
    if (packetSize >= 2 ** 32) refuse('a packet is too large');
    sizes.push(packetSize);
    checksums.push(fields.uint(4));
  }
  if (!fields.atEnd) refuse(`the entry of GOP ${index} has bytes left over`);
  const firstFrame = before ? before.firstFrame + before.times.length : 0;
  return {index, firstFrame, times, end, bytes: sizes, checksums};
}

/**
 * @param {Fields} fields
 * @param {number} numFrames
 * @param {Gop | null} before
 */
function readTimes(fields, numFrames, before) {
  const folded = fields.bigVarint();
  const distance = folded % 2n ? -(folded + 1n) / 2n : folded / 2n;
  if (before && distance < 0n) refuse('a GOP starts before the last one ends');
  let time = BigInt(before ? before.end : 0) + distance;
  if (time < -MAX_TIME || time > MAX_TIME) refuse('a time is out of range');
  /** @type {number[]} */
  const times = [];
  let last = 0n;
  while (times.length < numFrames) {
    const [duration, count] = [fields.bigVarint(), fields.varint()];
    if (!duration || !count || duration === last) refuse('durations are wrong');
    if (count > numFrames - times.length) refuse('durations are too many');
    last = duration;
    for (let i = 0; i < count; i++) {
      times.push(Number(time));
      time += duration;
    }
    if (time > MAX_TIME) refuse('a time is out of range');
  }
  return {times, end: Number(time)};
}
