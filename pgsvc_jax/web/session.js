/**
 * A file being read and decoded: fetches its bytes, as many as are asked for,
 * and says what they complete. Runs in a worker, or in the page where there is
 * none; both ends speak in messages.
 */

import {Decoder} from './decoder.js';
import {layersFor} from './grid.js';
import {FormatError} from './range_coder.js';

// The header and, of most pictures, the base layer.
const FIRST_BYTES = 2 ** 16;
// Passing over fewer bytes than this takes longer by a request of its own.
const LEAST_GAP = 2 ** 16;

/**
 * @typedef {object} OpenMessage
 * @property {'open'} type
 * @property {string} [url]
 * @property {Blob} [blob]
 * @property {number} [layers] to read; otherwise those that `shown` asks for
 * @property {{width: number, height: number, saveData?: boolean}} [shown]
 * @property {number} [maxPixels]
 */

/**
 * @typedef {OpenMessage
 *   | {type: 'want', layers?: number,
 *      shown?: {width: number, height: number, saveData?: boolean}}
 *   | {type: 'play', frame: number, layers: number, epoch: number,
 *      credits: number}
 *   | {type: 'credit', credits: number}
 *   | {type: 'level', layers: number}
 *   | {type: 'close'}} SessionRequest
 */

/** Bytes of a file, from one place to another. */
class Source {
  /** @param {{url?: string, blob?: Blob}} where */
  constructor({url, blob}) {
    this.url = url;
    this.blob = blob;
    /** Bytes of the whole file, once known. @type {number | null} */
    this.total = blob ? blob.size : null;
    this.hasRanges = true;
    this.abort = new AbortController();
  }

  /**
   * @param {number} from
   * @param {number} to exclusive; Infinity: the end. A server without ranges
   *   goes on behind it, for as long as it is read
   * @returns {AsyncGenerator<Uint8Array>}
   */
  async *read(from, to) {
    if (this.blob) {
      // In parts, as a network would have it.
      for (
        let at = from;
        at < Math.min(to, this.blob.size);
        at += FIRST_BYTES
      ) {
        const end = Math.min(to, at + FIRST_BYTES, this.blob.size);
        yield new Uint8Array(await this.blob.slice(at, end).arrayBuffer());
      }
      return;
    }
    if (from && from === this.total) return;
    const response = await this.#request(from, to);
    let at = response.status === 206 ? from : 0;
    const reader = /** @type {ReadableStream<Uint8Array>} */ (
      response.body
    ).getReader();
    try {
      for (;;) {
        const {done, value} = await reader.read();
        if (done) break;
        const begin = Math.max(0, from - at);
        at += value.length;
        const part = value.subarray(begin, value.length);
        if (part.length) yield part;
      }
    } finally {
      await reader.cancel().catch(() => {});
    }
    if (to === Infinity) this.total ??= at;
  }

  async #request(from, to) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (this.hasRanges && (from || to < Infinity)) {
      headers.Range = `bytes=${from}-${to < Infinity ? to - 1 : ''}`;
    }
    const url = /** @type {string} */ (this.url);
    const {signal} = this.abort;
    const response = await fetch(url, {headers, signal});
    if (!response.ok || !response.body) {
      throw new FormatError(`${url}: the server answers ${response.status}`);
    }
    const range = /\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '');
    const length = response.headers.get('Content-Length');
    if (range) this.total = Number(range[1]);
    if (response.status !== 206) {
      this.hasRanges = false;
      const coded = response.headers.get('Content-Encoding');
      if (length && !coded) this.total = Number(length);
    }
    return response;
  }
}

/** One file, at the worker's end. */
export class Session {
  /** @param {(message: any, transfer?: Transferable[]) => void} post */
  constructor(post) {
    this.post = post;
    this.decoder = new Decoder();
    this.source = new Source({});
    this.closed = false;
    this.ended = false;
    /** @type {() => void} */
    this.wake = () => {};
    /** @type {{layers?: number, shown?: any}} */
    this.wish = {};
    /** Frames in the making. @type {Generator<any, void> | null} */
    this.frames = null;
    this.gop = 0;
    this.firstWanted = 0;
    this.level = Infinity;
    this.epoch = -1;
    this.credits = 0;
    this.pumping = false;
    this.pause = new MessageChannel();
  }

  /** @param {SessionRequest} message */
  handle(message) {
    if (message.type === 'open') {
      const {layers, shown, maxPixels} = message;
      this.wish = {layers, shown};
      this.source = new Source(message);
      this.decoder = new Decoder({maxPixels});
      this.#load().catch((error) => this.#fail(error));
    } else if (message.type === 'want') {
      const {layers, shown} = message;
      this.wish = {layers, shown};
      this.wake();
    } else if (message.type === 'play') {
      this.#play(message);
    } else if (message.type === 'credit') {
      this.credits += message.credits;
      this.#pump();
    } else if (message.type === 'level') {
      this.level = message.layers;
    } else if (message.type === 'close') {
      this.closed = true;
      this.pause.port1.close();
      this.source.abort.abort();
      this.wake();
    }
  }

  /** @param {any} error */
  #fail(error) {
    if (this.closed || error.name === 'AbortError') return;
    const known = error instanceof FormatError || error instanceof TypeError;
    if (!known) throw error;
    // A TypeError is how fetch says that there is no network.
    const network = error instanceof TypeError;
    const message = network
      ? `cannot read it: ${error.message}`
      : error.message;
    this.post({type: 'error', message});
  }

  /** Layers that are asked for. */
  #layers() {
    const {header} = this.decoder;
    if (!header) return 0;
    const {layers, shown} = this.wish;
    if (layers !== undefined) return Math.min(layers, header.numLayers);
    return shown ? layersFor(header, shown) : header.numLayers;
  }

  /** The place up to which bytes are asked for. */
  #end() {
    const {header} = this.decoder;
    if (!header) return FIRST_BYTES;
    if (header.isVideo) return Infinity;
    const layers = this.#layers();
    return layers < header.numLayers ? header.layers[layers - 1].end : Infinity;
  }

  async #load() {
    const {container} = this.decoder;
    while (!this.closed && !container.error) {
      const from = container.position + container.buffered;
      const to = this.#end();
      if (from >= to) {
        await new Promise((resolve) => (this.wake = () => resolve(null)));
        continue;
      }
      if (!(await this.#read(from, to))) break;
    }
    if (this.closed) return;
    this.ended = true;
    if (!container.error) this.decoder.finish();
    this.post({type: 'loaded', total: this.source.total});
    this.#pump();
  }

  /** @returns {Promise<boolean>} whether there may be more to read */
  async #read(from, to) {
    const {source} = this;
    const {container} = this.decoder;
    let at = from;
    for await (const bytes of source.read(from, to)) {
      if (this.closed || container.error) return false;
      at += bytes.length;
      this.#tell(this.decoder.push(bytes));
      this.post({type: 'progress', bytes: at, total: source.total});
      this.#limit();
      const needed = container.nextNeeded;
      if (source.hasRanges && needed - at > LEAST_GAP) {
        if (source.total !== null && needed >= source.total) return false;
        this.#tell(this.decoder.jump(needed));
        return true;
      }
      if (at >= this.#end()) return true;
    }
    return source.total === null ? at >= to : at < source.total;
  }

  /** Videos pass over the layers that are not asked for. */
  #limit() {
    const {header, container} = this.decoder;
    if (header?.isVideo) container.maxLayers = this.#layers();
  }

  /** @param {import('./decoder.js').DecoderEvent[]} events */
  #tell(events) {
    for (const event of events) {
      if (event.type === 'layer') {
        const {layer, count, splats, bits} = event;
        const {end} = /** @type {any} */ (this.decoder.header).layers[layer];
        const message = {type: 'layer', layer, count, splats, bits, end};
        this.post(message, [splats.buffer]);
      } else {
        if (event.type === 'header') this.#limit();
        this.post(event);
      }
    }
    if (events.some((event) => event.type === 'packet')) this.#pump();
  }

  /** Begins to send frames, from one on. */
  #play({frame, layers, epoch, credits}) {
    this.epoch = epoch;
    this.level = layers;
    this.credits = credits;
    this.firstWanted = frame;
    this.frames = null;
    const {gops} = this.decoder;
    this.gop = Math.max(
      0,
      gops.findLastIndex((x) => x.firstFrame <= frame),
    );
    this.#pump();
  }

  /** Whether a GOP has come as far as it will, or far enough. */
  #isReady(index) {
    const {decoder} = this;
    const {header, gops} = decoder;
    const layers = decoder.layersOf(index);
    if (!header || !layers) return false;
    const wanted = Math.min(this.level, this.#layers());
    const complete = layers >= wanted || index < gops.length - 1;
    return complete || this.ended || header.order === 'quality';
  }

  /** Sends frames, while the page has room for them. */
  async #pump() {
    if (this.pumping) return;
    this.pumping = true;
    try {
      while (this.credits > 0 && !this.closed && this.#advance()) {
        await this.#breathe();
      }
    } catch (error) {
      this.frames = null;
      this.credits = 0;
      this.#fail(error);
    } finally {
      this.pumping = false;
    }
  }

  /** Lets messages come in; sooner than a timer, which waits for 4 ms. */
  #breathe() {
    const {port1, port2} = this.pause;
    return new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
  }

  /** @returns {boolean} whether there may be more to do */
  #advance() {
    if (!this.frames) {
      if (!this.#isReady(this.gop)) {
        if (this.ended) {
          this.credits = 0;
          this.post({type: 'last', epoch: this.epoch});
        }
        return false;
      }
      const wanted = (layer) => layer < this.level;
      this.frames = this.decoder.frames(this.gop, this.level, wanted);
    }
    const begin = performance.now();
    const {done, value} = this.frames.next();
    if (done) {
      this.frames = null;
      this.gop++;
      return true;
    }
    if (value.index < this.firstWanted) return true;
    this.credits--;
    const ms = performance.now() - begin;
    const message = {type: 'frame', epoch: this.epoch, ms, ...value};
    this.post(
      message,
      value.layers.map((splats) => splats.buffer),
    );
    return true;
  }
}

/**
 * Serves any number of sessions over one channel.
 *
 * @param {{postMessage: (message: any, transfer: Transferable[]) => void,
 *   onmessage: ((event: MessageEvent) => void) | null}} channel
 */
export function serve(channel) {
  /** @type {Map<number, Session>} */
  const sessions = new Map();
  channel.onmessage = ({data: {id, message}}) => {
    let session = sessions.get(id);
    if (!session) {
      session = new Session((message, transfer = []) =>
        channel.postMessage({id, message}, transfer),
      );
      sessions.set(id, session);
    }
    session.handle(message);
    if (message.type === 'close') sessions.delete(id);
  };
}
