/** The viewer's stage: splats at any zoom, what lies over them, and pointers. */

import {makeRenderer} from './element.js';
import {SPLAT_FLOATS} from './splat_coding.js';

export const LAYER_COLORS = [
  '#0072b2',
  '#e69f00',
  '#009e73',
  '#cc79a7',
  '#d55e00',
  '#56b4e9',
];
// Slower than this, the picture is moved as it is, and drawn when that ends.
const SLOW_MS = 40;
const REST_MS = 150;
const MAX_ZOOM = 64;

/** @param {number} layer */
export function layerColor(layer) {
  return LAYER_COLORS[layer % LAYER_COLORS.length];
}

/** A place for one picture, of `width` x `height` units of its own. */
export class Stage {
  /**
   * @param {HTMLElement} box what is seen of it
   * @param {HTMLElement} picture what takes the pointer
   * @param {{splats: HTMLCanvasElement, overlay: HTMLCanvasElement,
   *   outlines: HTMLCanvasElement, divider: HTMLElement}} canvases
   */
  constructor(box, picture, canvases) {
    this.box = box;
    this.picture = picture;
    this.canvases = canvases;
    this.size = {width: 1, height: 1};
    // Pixels of the screen (of CSS) in a pixel of the picture, and its corner.
    this.view = {scale: 1, x: 0, y: 0};
    this.fitted = true;
    this.renderer = null;
    /** @type {number[]} */
    this.layers = [];
    this.outlined = false;
    /** Where the overlay begins, of its width. */
    this.divided = 0;
    this.drawMs = 0;
    this.drawnView = this.view;
    this.pending = false;
    /** What else is placed with the picture. @type {HTMLElement | null} */
    this.guest = null;
    /** @type {(view: {scale: number}) => void} */
    this.onview = () => {};
    new ResizeObserver(() => this.#resized()).observe(box);
    this.#listen();
  }

  /** @param {import('./container.js').Header} header */
  begin(header) {
    this.renderer?.dispose();
    const kind = new URLSearchParams(location.search).get('renderer');
    this.size = {width: header.width, height: header.height};
    this.renderer = makeRenderer(this.canvases.splats, header.channels, kind);
    this.layers = [];
    this.fit();
  }

  /** @param {HTMLElement} element shown in place of splats */
  host(element, size) {
    this.guest?.remove();
    this.guest = element;
    this.size = size;
    this.picture.prepend(element);
    this.fit();
  }

  /** @param {number[]} layers */
  show(layers) {
    this.layers = layers;
    this.redraw(true);
  }

  fit() {
    const {clientWidth, clientHeight} = this.box;
    const {width, height} = this.size;
    const scale = Math.min(
      (clientWidth - 16) / width,
      (clientHeight - 16) / height,
    );
    const x = (clientWidth - width * scale) / 2;
    const y = (clientHeight - height * scale) / 2;
    this.fitted = true;
    this.#set({scale, x, y});
  }

  /**
   * @param {number} factor
   * @param {number} [cx] what stays in place
   * @param {number} [cy]
   */
  zoom(factor, cx = this.box.clientWidth / 2, cy = this.box.clientHeight / 2) {
    const least = 16 / Math.max(this.size.width, this.size.height);
    const scale = Math.min(Math.max(this.view.scale * factor, least), MAX_ZOOM);
    const by = scale / this.view.scale;
    const x = cx - (cx - this.view.x) * by;
    const y = cy - (cy - this.view.y) * by;
    this.fitted = false;
    this.#set({scale, x, y});
  }

  pan(dx, dy) {
    const {scale, x, y} = this.view;
    this.fitted = false;
    this.#set({scale, x: x + dx, y: y + dy});
  }

  #set(view) {
    this.view = view;
    this.place();
    this.onview(view);
    this.redraw(false);
  }

  #resized() {
    if (this.fitted) this.fit();
    else this.redraw(true);
  }

  /** Puts what is drawn already where it belongs now. */
  place() {
    const {scale, x, y} = this.view;
    const by = scale / this.drawnView.scale;
    const dx = x - this.drawnView.x * by;
    const dy = y - this.drawnView.y * by;
    const moved = `translate(${dx}px, ${dy}px) scale(${by})`;
    this.canvases.splats.style.transform = moved;
    this.canvases.outlines.style.transform = moved;
    const {overlay} = this.canvases;
    const pixel = (this.size.width * scale) / overlay.width;
    overlay.style.transform = `translate(${x}px, ${y}px)`;
    overlay.style.width = `${this.size.width * scale}px`;
    overlay.style.height = `${this.size.height * scale}px`;
    const {divider} = this.canvases;
    const across = x + this.size.width * scale * this.divided;
    divider.hidden = !this.divided;
    divider.style.transform = `translate(${across}px, ${y}px)`;
    divider.style.height = overlay.style.height;
    overlay.style.clipPath = `inset(0 0 0 ${100 * this.divided}%)`;
    overlay.classList.toggle('sharp', pixel * devicePixelRatio >= 1.5);
    if (this.guest) {
      this.guest.style.transform = `translate(${x}px, ${y}px)`;
      this.guest.style.width = `${this.size.width * scale}px`;
      this.guest.style.height = `${this.size.height * scale}px`;
    }
  }

  /** @param {boolean} now whatever it costs */
  redraw(now) {
    clearTimeout(this.timer);
    if (!now && this.drawMs > SLOW_MS) {
      this.timer = setTimeout(() => this.redraw(true), REST_MS);
      return;
    }
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.#draw();
    });
  }

  /** The grid of the screen's pixels over the view. */
  grid() {
    const ratio = devicePixelRatio;
    const {scale, x, y} = this.view;
    const f = scale * ratio;
    return {
      width: Math.max(1, Math.round(this.box.clientWidth * ratio)),
      height: Math.max(1, Math.round(this.box.clientHeight * ratio)),
      fx: f,
      fy: f,
      x0: x * ratio,
      y0: y * ratio,
    };
  }

  async #draw() {
    const view = this.view;
    if (this.renderer && !this.guest) {
      const begin = performance.now();
      await this.renderer.draw(this.grid(), this.layers);
      this.drawMs = performance.now() - begin;
    }
    this.drawnView = view;
    this.#clip();
    this.#outline();
    this.place();
  }

  /** Splats reach beyond the edges of the picture: they are not part of it. */
  #clip() {
    const {scale, x, y} = this.view;
    const {clientWidth, clientHeight} = this.box;
    const right = clientWidth - x - this.size.width * scale;
    const bottom = clientHeight - y - this.size.height * scale;
    const sides = [y, right, bottom, x].map((side) => `${Math.max(0, side)}px`);
    this.canvases.splats.style.clipPath = `inset(${sides.join(' ')})`;
  }

  #outline() {
    const canvas = this.canvases.outlines;
    canvas.hidden = !this.outlined;
    if (!this.outlined) return;
    const {width, height, fx, x0, y0} = this.grid();
    canvas.width = width;
    canvas.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (
      canvas.getContext('2d')
    );
    for (const layer of this.layers) {
      const splats = this.splatsOf(layer);
      context.beginPath();
      for (let at = 0; at < splats.length; at += SPLAT_FLOATS) {
        const [x, y, l11, l21, l22] = splats.subarray(at, at + 5);
        const [px, py] = [fx * x + x0, fx * y + y0];
        const reach = 1.2 * fx * Math.max(l11, Math.abs(l21) + l22);
        if (
          px + reach < 0 ||
          py + reach < 0 ||
          px - reach > width ||
          py - reach > height
        )
          continue;
        context.setTransform(fx * l11, fx * l21, 0, fx * l22, px, py);
        context.moveTo(1.2, 0);
        context.arc(0, 0, 1.2, 0, 2 * Math.PI);
      }
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.strokeStyle = layerColor(layer);
      context.lineWidth = devicePixelRatio;
      context.stroke();
    }
  }

  /** @param {number} layer @returns {Float32Array} */
  splatsOf(layer) {
    const guest = /** @type {any} */ (this.guest);
    const layers = guest ? (guest.frame?.layers ?? []) : this.renderer?.layers;
    return layers?.[layer] ?? new Float32Array(0);
  }

  #listen() {
    /** @type {Map<number, {x: number, y: number}>} */
    const fingers = new Map();
    const place = (event) => {
      const {left, top} = this.box.getBoundingClientRect();
      return {x: event.clientX - left, y: event.clientY - top};
    };
    const middle = () => {
      const all = [...fingers.values()];
      const x = all.reduce((sum, p) => sum + p.x, 0) / all.length;
      const y = all.reduce((sum, p) => sum + p.y, 0) / all.length;
      const spread =
        all.length > 1
          ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y)
          : 0;
      return {x, y, spread};
    };
    this.picture.addEventListener('pointerdown', (event) => {
      if (event.button || event.composedPath()[0] !== event.target) return;
      this.picture.setPointerCapture(event.pointerId);
      this.picture.classList.add('drag');
      fingers.set(event.pointerId, place(event));
    });
    this.picture.addEventListener('pointermove', (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = middle();
      fingers.set(event.pointerId, place(event));
      const after = middle();
      this.pan(after.x - before.x, after.y - before.y);
      if (before.spread && after.spread) {
        this.zoom(after.spread / before.spread, after.x, after.y);
      }
    });
    for (const type of ['pointerup', 'pointercancel']) {
      this.picture.addEventListener(type, (event) => {
        fingers.delete(/** @type {PointerEvent} */ (event).pointerId);
        if (!fingers.size) this.picture.classList.remove('drag');
      });
    }
    this.picture.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        const {x, y} = place(event);
        const lines = event.deltaMode ? 30 : 1;
        this.zoom(Math.exp(-event.deltaY * lines * 0.002), x, y);
      },
      {passive: false},
    );
    this.picture.addEventListener('dblclick', (event) => {
      const {x, y} = place(event);
      if (this.fitted) this.zoom(1 / this.view.scale / devicePixelRatio, x, y);
      else this.fit();
    });
  }
}
