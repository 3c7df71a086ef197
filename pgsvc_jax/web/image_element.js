/** `<pgsvc-image>`: a picture that sharpens as its bytes arrive. */

import {PgsvcElement} from './element.js';

// Shown for half a second after a key, then gone.
const BADGE_MS = 1200;
const STYLE = `
  :host(:focus-visible) { outline: 3px solid Highlight; outline-offset: 2px; }
  .badge { position: absolute; inset: auto 0.5em 0.5em auto; padding: 0.2em 0.6em;
    border-radius: 1em; font: 0.8125rem/1.5 system-ui, sans-serif; color: #fff;
    background: rgb(0 0 0 / 0.75); transition: opacity 0.2s; }
  .badge:empty { opacity: 0; }
  @media (prefers-reduced-motion: reduce) { .badge { transition: none; } }
`;

/**
 * Attributes as of `PgsvcElement`, and `controls`: with the focus on it, the
 * keys - and + (or the left and right arrow) show fewer and more layers.
 *
 * Further events: `layer`, for each one that is shown first, with `layer`,
 * `count` and `end`, the bytes up to it.
 */
export class PgsvcImage extends PgsvcElement {
  static observedAttributes = [...super.observedAttributes, 'controls'];

  constructor() {
    super();
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    const root = /** @type {ShadowRoot} */ (this.shadowRoot);
    root.adoptedStyleSheets.push(style);
    this.badge = document.createElement('div');
    this.badge.className = 'badge';
    this.badge.setAttribute('role', 'status');
    root.append(this.badge);
    /** Layers that are here. */
    this.count = 0;
    this.addEventListener('keydown', (event) => this.#key(event));
  }

  connectedCallback() {
    super.connectedCallback();
    this.#enable();
  }

  attributeChangedCallback(name, before, now) {
    super.attributeChangedCallback(name, before, now);
    if (name === 'controls') this.#enable();
  }

  #enable() {
    if (this.hasAttribute('controls') && !this.hasAttribute('tabindex')) {
      this.tabIndex = 0;
    }
  }

  /** @param {any} message */
  receive(message) {
    super.receive(message);
    if (message.type !== 'layer') return;
    const {layer, count, end, splats} = message;
    this.renderer?.setLayer(layer, splats);
    this.count = layer + 1;
    this.draw().then(() => this.tell('layer', {layer, count, end}));
  }

  unload() {
    super.unload();
    this.count = 0;
  }

  /** Layers that are shown. */
  get shown() {
    return Math.min(this.layers ?? Infinity, this.count);
  }

  async draw() {
    if (!this.shown || !this.renderer) return;
    const {width, height} = this.canvas.getBoundingClientRect();
    if (!width || !height) return;
    const layers = [...Array(this.shown).keys()];
    await this.renderer.draw(this.grid(), layers);
  }

  resized() {
    this.#want();
    this.draw();
  }

  layersChanged() {
    this.#want();
    this.draw();
  }

  #want() {
    const layers = this.layers ?? undefined;
    this.client?.post({type: 'want', layers, shown: this.shownSize()});
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.hasAttribute('controls') || !this.header) return;
    const steps = {'-': -1, ArrowLeft: -1, '+': 1, '=': 1, ArrowRight: 1};
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const {numLayers} = this.header;
    const now = this.shown + step;
    this.layers = Math.max(1, Math.min(now, numLayers));
    this.badge.textContent = `${this.layers} of ${numLayers} layers`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.badge.textContent = ''), BADGE_MS);
  }
}
