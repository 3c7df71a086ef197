/**
 * Bytes to layers and frames, as they arrive. The whole decoder, with neither
 * page, worker nor network: it runs wherever JavaScript does.
 *
 * ```js
 * const decoder = new Decoder();
 * for await (const chunk of response.body) {
 *   for (const event of decoder.push(chunk)) {
 *     if (event.type === 'layer') draw(event.splats);
 *   }
 * }
 * decoder.finish();
 * ```
 */

import {ContainerReader} from './container.js';
import {MixedPicture} from './mixed_coding.js';
import {readLayer, readMixedLayer} from './splat_coding.js';
import {decodeGop, openPacket} from './video_coding.js';
import {FormatError} from './range_coder.js';

/** @typedef {import('./container.js').Header} Header */
/** @typedef {import('./container.js').Gop} Gop */

/**
 * @typedef {{type: 'header', header: Header}
 *   | {type: 'layer', layer: number, count: number, splats: Float32Array,
 *      bits: Record<string, number>, symbols: object}
 *   | {type: 'gop', gop: Gop}
 *   | {type: 'packet', gop: number, layer: number, frameBytes: number[]}
 *   | {type: 'damage', gop?: number, layer: number, message: string}
 *   | {type: 'error', message: string}
 *   | {type: 'end'}} DecoderEvent
 */

/**
 * A decoded frame.
 *
 * @typedef {object} VideoFrame
 * @property {number} index in the file
 * @property {number} time when it starts, seconds after the first frame
 * @property {number} duration seconds
 * @property {Float32Array[]} layers splats of each layer
 */

/** A file, as far as it has come. */
export class Decoder {
  /**
   * @param {object} [options]
   * @param {number} [options.maxLayers] layers from here on are passed over
   * @param {number} [options.maxPixels] larger pictures are refused
   */
  constructor(options) {
    this.container = new ContainerReader(options);
    /** @type {Gop[]} */
    this.gops = [];
    /** @type {Uint8Array[][]} */
    this.packets = [];
    /** @type {MixedPicture | null} */
    this.mixed = null;
  }

  /** @returns {Header | null} */
  get header() {
    return this.container.header;
  }

  /**
   * @param {Uint8Array} bytes the next ones of the file
   * @returns {DecoderEvent[]} what they complete; after an 'error' nothing more
   *   of the file is read
   */
  push(bytes) {
    return this.#decoded(this.container.push(bytes));
  }

  /**
   * Says that bytes up to `position` do not come.
   *
   * @param {number} position
   * @returns {DecoderEvent[]}
   */
  jump(position) {
    return this.#decoded(this.container.jump(position));
  }

  /**
   * @param {import('./container.js').ContainerEvent[]} found
   * @returns {DecoderEvent[]}
   */
  #decoded(found) {
    /** @type {DecoderEvent[]} */
    const events = [];
    for (const event of found) {
      try {
        events.push(this.#decode(event));
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        const {layer, gop} = /** @type {any} */ (event);
        const where = gop === undefined ? '' : ` of GOP ${gop}`;
        const message = `layer ${layer}${where} is damaged: ${error.message}`;
        if (gop === undefined) return events.concat(this.#cut(layer, message));
        events.push({type: 'damage', gop, layer, message});
      }
    }
    return events;
  }

  /** What the layers of a picture of version 6 know of each other. */
  #picture() {
    const {width, height, channels} = /** @type {Header} */ (this.header);
    this.mixed ??= new MixedPicture(width, height, channels);
    return this.mixed;
  }

  /**
   * A picture ends below a layer that is damaged.
   *
   * @param {number} layer
   * @param {string} message
   * @returns {DecoderEvent}
   */
  #cut(layer, message) {
    this.container.maxLayers = layer;
    if (layer) return {type: 'damage', layer, message};
    this.container.fail(new FormatError(message));
    return {type: 'error', message};
  }

  /**
   * @param {import('./container.js').ContainerEvent} event
   * @returns {DecoderEvent}
   */
  #decode(event) {
    if (event.type === 'layer') {
      const {version, channels, layers} = /** @type {Header} */ (this.header);
      const {count, steps} = layers[event.layer];
      const decoded =
        version === 6
          ? readMixedLayer(this.#picture(), event.data, count, steps)
          : readLayer(version, event.data, count, channels, steps);
      return {type: 'layer', layer: event.layer, ...decoded};
    }
    if (event.type === 'gop') {
      this.gops.push(event.gop);
      this.packets.push([]);
    } else if (event.type === 'packet') {
      const {gop, layer, data} = event;
      const {frames} = openPacket(data, this.gops[gop].times.length);
      this.packets[gop][layer] = data;
      const frameBytes = frames.map(({start, end}) => end - start);
      return {type: 'packet', gop, layer, frameBytes};
    }
    return event;
  }

  /**
   * No more bytes come.
   *
   * @throws {FormatError} what ended the reading, or that nothing of the file
   *   can be shown
   */
  finish() {
    this.container.finish();
  }

  /**
   * @param {number} gop
   * @returns {number} layers of the GOP that can be shown now
   */
  layersOf(gop) {
    const packets = this.packets[gop] ?? [];
    let layers = 0;
    while (packets[layers]) layers++;
    return layers;
  }

  /**
   * Decodes the frames of a GOP in order, from its first on.
   *
   * @param {number} index of the GOP
   * @param {number} [numLayers] at most
   * @param {(layer: number) => boolean} [wanted] as in `decodeGop`
   * @returns {Generator<VideoFrame, void>} frames; none where no layer has come
   * @throws {FormatError} a packet is damaged
   */
  *frames(index, numLayers = Infinity, wanted) {
    const header = /** @type {Header} */ (this.header);
    const gop = this.gops[index];
    const count = Math.min(this.layersOf(index), numLayers);
    if (!count) return;
    const {width, height, channels} = header;
    const numFrames = gop.times.length;
    const form = {numFrames, width, height, channels};
    const packets = this.packets[index].slice(0, count);
    const [n, d] = /** @type {[number, number]} */ (header.timeBase);
    const seconds = (time) => ((time - this.gops[0].times[0]) * n) / d;
    let t = 0;
    for (const layers of decodeGop(packets, form, wanted)) {
      const time = seconds(gop.times[t]);
      const duration = seconds(gop.times[t + 1] ?? gop.end) - time;
      yield {index: gop.firstFrame + t, time, duration, layers};
      t++;
    }
  }
}

/**
 * Decodes a picture that is all here, whole or cut.
 *
 * @param {Uint8Array} bytes
 * @param {{maxLayers?: number, maxPixels?: number}} [options]
 * @returns {{header: Header, layers: Float32Array[], damage: string | null}}
 *   splats of the layers that are whole, and why there are no more if one is
 *   damaged
 * @throws {FormatError} nothing can be shown
 */
export function decodePicture(bytes, options) {
  const decoder = new Decoder(options);
  const events = decoder.push(bytes);
  decoder.finish();
  const header = /** @type {Header} */ (decoder.header);
  if (header.isVideo) throw new FormatError('the file is a video');
  /** @type {Float32Array[]} */
  const layers = [];
  /** @type {string | null} */
  let damage = null;
  for (const event of events) {
    if (event.type === 'layer') layers.push(event.splats);
    if (event.type === 'damage') damage ??= event.message;
  }
  return {header, layers, damage};
}
