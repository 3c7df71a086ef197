/** The viewer's comparing: with an original, with a JPEG, with anything else. */

import {makeRenderer} from './element.js';
import {wholeGrid} from './grid.js';
import {
  difference,
  downsampled,
  jpegOf,
  psnr,
  readImage,
} from './viewer_images.js';
import {byId, formatBytes} from './viewer_panels.js';

const FLICKER_MS = 500;
// So that a slider that is moved does not measure at every step.
const REST_MS = 60;
// Modes that need no original.
const ALONE = ['splats', 'pixels'];

/**
 * What is compared.
 *
 * @typedef {object} Subject
 * @property {any} header
 * @property {any} video of a video nothing is compared
 * @property {{end: number}[]} layers that are here
 * @property {(number | null)[]} psnrs of all prefixes; filled here
 */

/** One comparison: the subject changes, the original may stay. */
export class Comparison {
  /**
   * @param {import('./viewer_stage.js').Stage} stage
   * @param {object} page
   * @param {() => Subject} page.subject
   * @param {() => number[]} page.shownLayers
   * @param {() => void} page.update shows new figures
   * @param {(message: string) => void} page.fail
   */
  constructor(stage, page) {
    this.stage = stage;
    this.page = page;
    this.mode = 'splats';
    /** @type {{image: ImageData, name: string} | null} */
    this.original = null;
    /** Any other picture. @type {{image: ImageData, name: string, bytes: number} | null} */
    this.other = null;
    this.flickering = 0;
    this.timer = 0;
    this.forget();
    for (const input of this.#inputs()) {
      input.addEventListener('change', () => this.setMode(input.value));
    }
    for (const [id, type] of [
      ['against', 'change'],
      ['divider', 'input'],
    ]) {
      byId(id).addEventListener(type, () => this.schedule());
    }
  }

  /** The subject is another one. */
  forget() {
    this.renderer?.dispose();
    /** For measuring, on grids of its own. @type {any} */
    this.renderer = null;
    /** @type {Map<string, any>} */
    this.jpegs = new Map();
    /** One at a time uses the renderer. @type {Promise<unknown>} */
    this.turn = Promise.resolve();
  }

  /** @returns {HTMLInputElement[]} */
  #inputs() {
    return [...document.querySelectorAll('#modes input')].map(
      (input) => /** @type {HTMLInputElement} */ (input),
    );
  }

  /** @param {string} mode */
  setMode(mode) {
    const input = this.#inputs().find(({value}) => value === mode);
    if (!input || input.disabled) return;
    input.checked = true;
    this.mode = mode;
    clearInterval(this.flickering);
    const {style} = byId('overlay');
    style.visibility = '';
    if (mode === 'flicker') {
      this.flickering = setInterval(() => {
        style.visibility = style.visibility ? '' : 'hidden';
      }, FLICKER_MS);
    }
    this.enable();
  }

  /** Offers what there is something for. */
  enable() {
    const none = this.original === null;
    byId('drop-hint').hidden = !none;
    document.body.classList.toggle('no-psnr', none);
    for (const input of this.#inputs()) {
      input.disabled = none && !ALONE.includes(input.value);
    }
    byId('against').disabled = none;
    byId('divider-row').hidden = this.mode !== 'split';
    this.schedule();
  }

  /** @param {Blob} blob @param {string} name */
  async setOriginal(blob, name) {
    const image = await this.#read(blob, name);
    if (!image) return;
    this.original = {image, name};
    this.jpegs = new Map();
    this.page.subject().psnrs.length = 0;
    this.enable();
    await this.measure();
  }

  /** @param {File} picture to compare with, beside the original */
  async setOther(picture) {
    const {name, size} = picture;
    const image = await this.#read(picture, name);
    if (!image) return;
    this.other = {image, name, bytes: size};
    byId('other').hidden = false;
    byId('other').textContent = name;
    byId('against').value = 'other';
    this.schedule();
  }

  async #read(blob, name) {
    try {
      return await readImage(blob);
    } catch (error) {
      const {message} = /** @type {Error} */ (error);
      this.page.fail(`${name} cannot be shown: ${message}`);
      return null;
    }
  }

  /** PSNR of every prefix, one after the other. */
  async measure() {
    const subject = this.page.subject();
    const {header, layers, psnrs} = subject;
    if (!this.original || !header || subject.video) return;
    try {
      for (let k = 0; k < layers.length; k++) {
        const pixels = await this.#pixels([...Array(k + 1).keys()]);
        if (subject !== this.page.subject()) return;
        psnrs[k] = psnr(pixels, this.#originalAt(pixels), header.channels);
      }
    } catch (error) {
      this.page.fail(/** @type {Error} */ (error).message);
      this.original = null;
      this.setMode('splats');
    }
    this.page.update();
  }

  /**
   * Pixels of some layers, on the grid that they were made for.
   *
   * @param {number[]} layers
   * @returns {Promise<ImageData>}
   */
  #pixels(layers) {
    const {header} = this.page.subject();
    const draw = async () => {
      const [width, height] = header.nativeSizes[layers.at(-1) ?? 0];
      this.renderer ??= makeRenderer(
        document.createElement('canvas'),
        header.channels,
      );
      const {renderer} = this;
      for (const k of layers) {
        const splats = this.stage.splatsOf(k);
        if (renderer.layers[k] !== splats) renderer.setLayer(k, splats);
      }
      await renderer.draw(wholeGrid(header, width, height), layers);
      return renderer.pixels();
    };
    const result = this.turn.then(draw);
    this.turn = result.catch(() => {});
    return result;
  }

  /** The original, in the size of what it is compared with. */
  #originalAt(size) {
    if (!this.original) throw new Error('there is no original');
    return fitted(this.original.image, this.original.name, size);
  }

  /**
   * @param {ImageData} pixels
   * @param {number[]} layers
   * @returns {Promise<{image: ImageData, words: string}>}
   */
  async #reference(pixels, layers) {
    const subject = this.page.subject();
    const {channels} = subject.header;
    const source = this.#originalAt(pixels);
    const kind = byId('against').value;
    if (kind === 'original') {
      return {image: source, words: this.original?.name ?? ''};
    }
    if (kind === 'other' && this.other) {
      const {name, bytes} = this.other;
      const image = fitted(this.other.image, name, pixels);
      const dB = psnr(image, source, channels).toFixed(2);
      return {image, words: `${name}: ${formatBytes(bytes)}, ${dB} dB`};
    }
    const {end} = subject.layers[layers.at(-1) ?? 0];
    const key = `${end} ${pixels.width}`;
    if (!this.jpegs.has(key)) this.jpegs.set(key, await jpegOf(source, end));
    const jpeg = this.jpegs.get(key);
    if (!jpeg) throw new Error(`no JPEG has as few as ${formatBytes(end)}`);
    const {image, bytes, quality} = jpeg;
    const dB = psnr(image, source, channels).toFixed(2);
    const size = formatBytes(bytes);
    return {image, words: `JPEG of quality ${quality}: ${size}, ${dB} dB`};
  }

  /** Compares soon. */
  schedule() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.#compare().catch((error) => this.page.fail(error.message));
    }, REST_MS);
  }

  async #compare() {
    const subject = this.page.subject();
    const {header, video} = subject;
    const layers = this.page.shownLayers();
    const {mode} = this;
    const nothing = mode === 'splats' && !this.original;
    if (!header || video || !layers.length || nothing) {
      byId('verdict').textContent = '';
      this.#show(null, '');
      return;
    }
    const pixels = await this.#pixels(layers);
    /** @type {ImageData | null} */
    let shown = null;
    let caption = '';
    let verdict = '';
    if (mode === 'pixels') {
      shown = pixels;
      caption = `the same splats on ${pixels.width} × ${pixels.height} pixels`;
    }
    if (this.original) {
      const {image, words} = await this.#reference(pixels, layers);
      const dB = psnr(pixels, this.#originalAt(pixels), header.channels);
      const isOriginal = byId('against').value === 'original';
      verdict = `These layers: ${dB.toFixed(2)} dB. ${isOriginal ? '' : words}`;
      const captions = {
        reference: words,
        split: `left splats, right ${words}`,
        difference: `difference × 4 to ${words}`,
        flicker: `splats and ${words}`,
      };
      if (captions[mode]) {
        shown = mode === 'difference' ? difference(pixels, image) : image;
        caption = captions[mode];
      }
    }
    if (subject !== this.page.subject() || mode !== this.mode) return;
    byId('verdict').textContent = verdict;
    this.#show(shown, caption);
  }

  /** @param {ImageData | null} image over the splats @param {string} words */
  #show(image, words) {
    const {overlay} = this.stage.canvases;
    overlay.hidden = !image;
    byId('caption').hidden = !image;
    byId('caption').textContent = words;
    const isSplit = image && this.mode === 'split';
    this.stage.divided = isSplit ? Number(byId('divider').value) / 100 : 0;
    if (image) {
      overlay.width = image.width;
      overlay.height = image.height;
      overlay.getContext('2d')?.putImageData(image, 0, 0);
    }
    this.stage.place();
  }
}

/**
 * @param {ImageData} image
 * @param {string} name
 * @param {{width: number, height: number}} size
 * @returns {ImageData} in this size
 */
function fitted(image, name, {width, height}) {
  const turn = image.width / image.height / (width / height);
  const isLarge = image.width >= width && image.height >= height;
  if (!isLarge || Math.abs(turn - 1) > 0.05) {
    const size = `${image.width} × ${image.height}`;
    throw new Error(`${name} has another shape: ${size}`);
  }
  return downsampled(image, width, height);
}
