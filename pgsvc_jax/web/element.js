/** What the elements for pictures and for videos have in common. */

import {CanvasRenderer} from './canvas.js';
import {Client} from './client.js';
import {wholeGrid} from './grid.js';
import {hasWebGl, WebGlRenderer} from './webgl.js';

// Beyond this, a picture that is shown larger is stretched.
const MAX_SIDE = 8192;
const MAX_SHOWN_PIXELS = 2 ** 24;

export const BASE_STYLE = `
  :host {
    display: inline-block;
    position: relative;
    max-width: 100%;
    vertical-align: bottom;
    overflow: hidden;
  }
  :host([hidden]) { display: none; }
  canvas { display: block; width: 100%; height: 100%; }
  .alt { position: absolute; inset: 0; padding: 0.5em; overflow: auto;
    font: 0.875rem/1.4 system-ui, sans-serif; }
  .alt:empty { display: none; }
`;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} channels
 * @param {string | null} [kind] 'canvas' or 'half': not the best there is
 * @returns {WebGlRenderer | CanvasRenderer}
 */
export function makeRenderer(canvas, channels, kind = null) {
  return kind !== 'canvas' && hasWebGl()
    ? new WebGlRenderer(canvas, channels, {halfFloats: kind === 'half'})
    : new CanvasRenderer(canvas, channels);
}

// Where modules are read on a server, there are no elements to extend.
const Base = /** @type {typeof HTMLElement} */ (
  globalThis.HTMLElement ?? class {}
);

/**
 * A file on the page: its session, its size, its canvas.
 *
 * Attributes: `src`, `alt`, `width`, `height`, `layers`, `loading="lazy"`,
 * `renderer` ("canvas": without WebGL). Events, which do not bubble: `header`,
 * `progress`, `load`, `error`; `detail` says more.
 */
export class PgsvcElement extends Base {
  static observedAttributes = ['src', 'alt', 'width', 'height', 'layers'];

  constructor() {
    super();
    const root = this.attachShadow({mode: 'open'});
    this.sheet = new CSSStyleSheet();
    this.style_ = new CSSStyleSheet();
    this.style_.replaceSync(BASE_STYLE);
    root.adoptedStyleSheets = [this.style_, this.sheet];
    this.canvas = document.createElement('canvas');
    this.alt_ = document.createElement('div');
    this.alt_.className = 'alt';
    root.append(this.canvas, this.alt_);
    this.internals = this.attachInternals();
    this.ready = false;
    /** @type {import('./container.js').Header | null} */
    this.header = null;
    /** @type {Client | null} */
    this.client = null;
    /** @type {WebGlRenderer | CanvasRenderer | null} */
    this.renderer = null;
    this.observer = new ResizeObserver(() => this.resized());
    this.sight = new IntersectionObserver(
      (entries) => entries.some((x) => x.isIntersecting) && this.#begin(),
      {rootMargin: '50%'},
    );
  }

  connectedCallback() {
    this.ready = true;
    this.observer.observe(this);
    this.#describe();
    this.#layOut();
    this.#load();
  }

  disconnectedCallback() {
    this.ready = false;
    this.observer.disconnect();
    this.unload();
  }

  /**
   * @param {string} name
   * @param {string | null} before
   * @param {string | null} now
   */
  attributeChangedCallback(name, before, now) {
    // While the page is read, attributes come before the element is there.
    if (!this.ready || before === now) return;
    if (name === 'src') this.#load();
    else if (name === 'alt') this.#describe();
    else if (name === 'layers') this.layersChanged();
    else this.#layOut();
  }

  get src() {
    return this.getAttribute('src') ?? '';
  }

  set src(value) {
    this.setAttribute('src', value);
  }

  get alt() {
    return this.getAttribute('alt') ?? '';
  }

  set alt(value) {
    this.setAttribute('alt', value);
  }

  /** Layers to show at most; null: as many as the size asks for. */
  get layers() {
    const layers = Number(this.getAttribute('layers'));
    return layers >= 1 ? Math.floor(layers) : null;
  }

  set layers(value) {
    if (value === null) this.removeAttribute('layers');
    else this.setAttribute('layers', String(value));
  }

  /** Shows a file that is at hand. @param {Blob} blob */
  show(blob) {
    this.unload();
    this.open({blob});
  }

  #load() {
    this.unload();
    if (!this.src) return;
    if (this.getAttribute('loading') === 'lazy') this.sight.observe(this);
    else this.#begin();
  }

  #begin() {
    this.sight.disconnect();
    if (!this.client)
      this.open({url: new URL(this.src, document.baseURI).href});
  }

  /** @param {{url?: string, blob?: Blob}} where */
  open(where) {
    const layers = this.layers ?? undefined;
    this.client = new Client(
      {type: 'open', layers, shown: this.shownSize(), ...where},
      (message) => this.receive(message),
    );
  }

  unload() {
    this.sight.disconnect();
    this.client?.close();
    this.client = null;
    this.renderer?.dispose();
    this.renderer = null;
    this.header = null;
    this.alt_.textContent = '';
    this.internals.states?.delete('loaded');
  }

  /** What a session says. @param {any} message */
  receive(message) {
    if (message.type === 'header') {
      this.header = message.header;
      this.renderer = makeRenderer(
        this.canvas,
        message.header.channels,
        this.getAttribute('renderer'),
      );
      this.#layOut();
      this.tell('header', {header: message.header});
    } else if (message.type === 'progress') {
      this.tell('progress', {bytes: message.bytes, total: message.total});
    } else if (message.type === 'loaded') {
      this.internals.states?.add('loaded');
      this.tell('load', {total: message.total});
    } else if (message.type === 'error' || message.type === 'damage') {
      // What is shown stays.
      if (!this.header) this.alt_.textContent = this.alt || message.message;
      this.tell('error', {message: message.message});
    }
  }

  /**
   * @param {string} name
   * @param {object} [detail]
   */
  tell(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  #describe() {
    this.internals.role =
      this.hasAttribute('alt') && !this.alt ? 'presentation' : this.ownRole;
    this.internals.ariaLabel = this.alt || null;
  }

  get ownRole() {
    return 'img';
  }

  /** Sizes as those of <img>: attributes, then the header; styles go before. */
  #layOut() {
    const given = (name) => Number(this.getAttribute(name)) || null;
    const [width, height] = [given('width'), given('height')];
    const ratio = this.header ?? (width && height ? {width, height} : null);
    const rules = [];
    if (ratio) rules.push(`aspect-ratio: ${this.ratioOf(ratio)}`);
    const ownWidth = width ?? (height ? null : (this.header?.width ?? 300));
    if (ownWidth) rules.push(`width: ${ownWidth}px`);
    if (height && !width) rules.push(`height: ${height}px`);
    this.sheet.replaceSync(`:host { ${rules.join('; ')} }`);
  }

  /** @param {{width: number, height: number}} size */
  ratioOf({width, height}) {
    return `${width} / ${height}`;
  }

  /** Pixels of the screen that it takes, and whether data are to be saved. */
  shownSize() {
    const {width, height} = this.canvas.getBoundingClientRect();
    const saveData = Boolean(
      /** @type {any} */ (navigator).connection?.saveData,
    );
    const ratio = saveData ? 1 : devicePixelRatio;
    return {width: width * ratio, height: height * ratio, saveData};
  }

  /** The grid of pixels of the screen. */
  grid() {
    const header = /** @type {import('./container.js').Header} */ (this.header);
    const box = this.canvas.getBoundingClientRect();
    let width = Math.max(1, Math.round(box.width * devicePixelRatio));
    let height = Math.max(1, Math.round(box.height * devicePixelRatio));
    const excess = Math.max(
      Math.max(width, height) / MAX_SIDE,
      Math.sqrt((width * height) / MAX_SHOWN_PIXELS),
    );
    if (excess > 1) {
      width = Math.max(1, Math.floor(width / excess));
      height = Math.max(1, Math.floor(height / excess));
    }
    return wholeGrid(header, width, height);
  }

  /** Its place on the page has another size. */
  resized() {}

  /** The attribute `layers` has changed. */
  layersChanged() {}
}
