/** `<pgsvc-video>`: a video that plays at the quality that time allows. */

import {PgsvcElement} from './element.js';

// Frames that are decoded ahead.
const AHEAD = 8;
// A frame that is shown later than this is late, seconds.
const LATE = 0.04;
// Layers come back when nothing was late for so long, seconds.
const PATIENCE = 3;

const STYLE = `
  .bar { position: absolute; inset: auto 0 0 0; display: flex; gap: 0.6em;
    align-items: center; padding: 1.6em 0.7em 0.5em; color: #fff;
    font: 0.8125rem/1 system-ui, sans-serif; font-variant-numeric: tabular-nums;
    background: linear-gradient(transparent, rgb(0 0 0 / 0.75)); }
  :host(:not([controls])) .bar { display: none; }
  button { flex: none; width: 2.2em; height: 2.2em; padding: 0; border: 0;
    border-radius: 50%; font: inherit; font-size: 1rem; color: inherit;
    background: rgb(255 255 255 / 0.15); cursor: pointer; }
  button:hover { background: rgb(255 255 255 / 0.3); }
  input { flex: 1; min-width: 3em; accent-color: #fff; }
  :focus-visible { outline: 2px solid #fff; outline-offset: 2px; }
  svg { width: 1em; height: 1em; vertical-align: -0.1em; fill: currentColor; }
`;
const PLAY =
  '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 1l11 7-11 7z"/></svg>';
const PAUSE =
  '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 1h3v14H3zM10 1h3v14h-3z"/></svg>';

/** @param {number} seconds */
function clockTime(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  const rest = String(Math.floor(tenths / 10) % 60).padStart(2, '0');
  return `${Math.floor(tenths / 600)}:${rest}.${tenths % 10}`;
}

/**
 * Attributes as of `PgsvcElement`, and `controls`, `autoplay`, `loop`. The keys,
 * with the focus on it: space or k plays and pauses, the arrows and , and .
 * seek, - and + show fewer and more layers.
 *
 * Properties as of <video>: `currentTime`, `duration`, `paused`, `ended`,
 * `play()`, `pause()`. Events: those of `PgsvcElement`, `play`, `pause`, `ended`,
 * `timeupdate`, `gop` and `packet` for what arrives, and `layers` when it shows
 * more or fewer than before: layers are left out before frames are.
 */
export class PgsvcVideo extends PgsvcElement {
  constructor() {
    super();
    this.button = document.createElement('button');
    this.slider = document.createElement('input');
    this.time = document.createElement('span');
    /** Groups of pictures that are here, seconds. @type {any[]} */
    this.gops = [];
    /** The frame on show. @type {any} */
    this.frame = null;
    /** Frames that wait for their time. @type {any[]} */
    this.queue = [];
    this.epoch = 0;
    /** Layers that time allows. */
    this.level = Infinity;
    this.begun = 0;
    this.lateAt = 0;
    this.dropped = 0;
    this.shownFrames = 0;
    this.reset();
    this.#build();
    this.addEventListener('keydown', (event) => this.#key(event));
  }

  reset() {
    this.gops = [];
    this.queue = [];
    this.epoch++;
    this.paused = true;
    this.ended = false;
    this.frame = null;
    this.begun = 0;
    this.level = Infinity;
    this.lateAt = 0;
    this.last = false;
    this.seeking = false;
    this.dropped = 0;
    this.shownFrames = 0;
  }

  get ownRole() {
    return 'group';
  }

  ratioOf({width, height}) {
    const [n, d] = this.header?.pixelAspect ?? [1, 1];
    return `${width * n} / ${height * d}`;
  }

  #build() {
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    const root = /** @type {ShadowRoot} */ (this.shadowRoot);
    root.adoptedStyleSheets.push(style);
    const bar = document.createElement('div');
    bar.className = 'bar';
    this.button.type = 'button';
    this.button.addEventListener('click', () => this.#toggle());
    this.slider.type = 'range';
    this.slider.min = '0';
    this.slider.step = 'any';
    this.slider.setAttribute('aria-label', 'Time');
    this.slider.addEventListener('input', () => {
      this.currentTime = Number(this.slider.value);
    });
    bar.append(this.button, this.slider, this.time);
    root.append(bar);
    this.#showState();
  }

  connectedCallback() {
    super.connectedCallback();
    if (this.hasAttribute('controls') && !this.hasAttribute('tabindex')) {
      this.tabIndex = 0;
    }
  }

  unload() {
    super.unload();
    this.reset();
    this.#showState();
  }

  /** @param {any} message */
  receive(message) {
    super.receive(message);
    if (message.type === 'gop') this.#addGop(message.gop);
    else if (message.type === 'packet') this.#addPacket(message);
    else if (message.type === 'frame') this.#addFrame(message);
    else if (message.type === 'last') {
      if (message.epoch === this.epoch) this.last = true;
    } else if (message.type === 'loaded' && this.paused) {
      this.seekTo(this.frame?.index ?? 0);
    }
  }

  #addGop(gop) {
    const [n, d] = /** @type {[number, number]} */ (this.header?.timeBase);
    const zero = this.gops.length ? this.gops[0].times[0] : gop.times[0];
    const seconds = (time) => ((time - zero) * n) / d;
    this.gops.push({
      ...gop,
      start: seconds(gop.times[0]),
      stop: seconds(gop.end),
    });
    this.slider.max = String(this.duration);
    this.tell('gop', {gop});
  }

  #addPacket({gop, layer, frameBytes}) {
    this.tell('packet', {gop, layer, frameBytes});
    if (gop === 0 && layer === 0 && this.hasAttribute('autoplay')) this.play();
    // What stands still gets better.
    const {index} = this.frame ?? {index: 0};
    const {firstFrame, times} = this.gops[gop];
    const inside = index >= firstFrame && index < firstFrame + times.length;
    if (this.paused && inside) this.seekTo(index);
  }

  /** Frames from one on are asked for. @param {number} index */
  seekTo(index) {
    if (!this.client) return;
    this.queue = [];
    this.last = false;
    this.ended = false;
    this.seeking = true;
    const layers = Math.min(
      this.layers ?? Infinity,
      this.paused ? Infinity : this.level,
    );
    const credits = this.paused ? 1 : AHEAD;
    this.epoch++;
    this.client.post({
      type: 'play',
      frame: index,
      layers,
      epoch: this.epoch,
      credits,
    });
  }

  #addFrame(frame) {
    if (frame.epoch !== this.epoch) return;
    if (this.seeking) {
      this.seeking = false;
      this.begun = performance.now() / 1000 - frame.time;
      this.#showFrame(frame);
      if (!this.paused) this.client?.post({type: 'credit', credits: 1});
    } else {
      this.queue.push(frame);
    }
  }

  get duration() {
    return this.gops.at(-1)?.stop ?? 0;
  }

  /** Seconds after the first frame starts. */
  get currentTime() {
    return this.frame?.time ?? 0;
  }

  set currentTime(seconds) {
    this.seekTo(this.#frameAt(seconds));
  }

  /** The frame on show at a time. @param {number} seconds */
  #frameAt(seconds) {
    const [n, d] = this.header?.timeBase ?? [1, 1];
    const gop = this.gops.findLast((x) => x.start <= seconds) ?? this.gops[0];
    if (!gop) return 0;
    const time = this.gops[0].times[0] + ((seconds + 1e-6) * d) / n;
    const inside = gop.times.findLastIndex((start) => start <= time);
    return gop.firstFrame + Math.max(0, inside);
  }

  play() {
    if (!this.paused) return;
    this.paused = false;
    const again = this.ended || this.currentTime >= this.duration;
    this.seekTo(again ? 0 : (this.frame?.index ?? 0));
    this.tell('play');
    this.#showState();
    requestAnimationFrame(() => this.#tick());
  }

  pause() {
    if (this.paused) return;
    this.paused = true;
    this.tell('pause');
    this.#showState();
    // All layers of the frame that stays.
    if (this.frame) this.seekTo(this.frame.index);
  }

  #toggle() {
    if (this.paused) this.play();
    else this.pause();
  }

  #tick() {
    if (this.paused || !this.isConnected) return;
    requestAnimationFrame(() => this.#tick());
    if (this.seeking) return;
    const now = performance.now() / 1000;
    const time = now - this.begun;
    /** @type {any} */
    let due = null;
    let taken = 0;
    while (this.queue.length && this.queue[0].time <= time) {
      due = this.queue.shift();
      taken++;
    }
    if (due) {
      this.dropped += taken - 1;
      this.#adapt(now, time - due.time > LATE || taken > 1);
      this.#showFrame(due);
      this.client?.post({type: 'credit', credits: taken});
    } else if (!this.queue.length) {
      this.#wait(now, time);
    }
  }

  /** Nothing is there to show: the end, or the frames come too slowly. */
  #wait(now, time) {
    const frame = /** @type {any} */ (this.frame);
    const ends = frame.time + frame.duration;
    if (time < ends) return;
    if (this.last) {
      if (this.hasAttribute('loop')) {
        this.seekTo(0);
        return;
      }
      this.pause();
      this.ended = true;
      this.tell('ended');
      return;
    }
    // The clock stands still until the next frame is here.
    this.begun = now - ends;
    this.#adapt(now, true);
  }

  /** Fewer layers where frames are late, more where they have not been. */
  #adapt(now, isLate) {
    const most = this.header?.numLayers ?? 1;
    const level = Math.min(this.level, most);
    if (isLate && now - this.lateAt > 0.5) {
      this.#setLevel(Math.max(1, level - 1));
      this.lateAt = now;
    } else if (!isLate && level < most && now - this.lateAt > PATIENCE) {
      this.#setLevel(level + 1);
      this.lateAt = now;
    }
  }

  #setLevel(level) {
    if (level === this.level) return;
    this.level = level;
    const layers = Math.min(level, this.layers ?? Infinity);
    this.client?.post({type: 'level', layers});
    this.tell('layers', {layers});
  }

  async #showFrame(frame) {
    this.frame = frame;
    this.shownFrames++;
    frame.layers.forEach((splats, k) => this.renderer?.setLayer(k, splats));
    this.slider.value = String(frame.time);
    this.#showState();
    await this.draw();
    this.tell('timeupdate', {frame: frame.index});
  }

  async draw() {
    if (!this.frame || !this.renderer) return;
    const {width, height} = this.canvas.getBoundingClientRect();
    if (!width || !height) return;
    const here = this.frame.layers.length;
    const allowed = this.paused ? here : Math.min(here, this.level);
    const shown = Math.min(allowed, this.layers ?? Infinity);
    await this.renderer.draw(this.grid(), [...Array(shown).keys()]);
  }

  resized() {
    const layers = this.layers ?? undefined;
    this.client?.post({type: 'want', layers, shown: this.shownSize()});
    this.draw();
  }

  layersChanged() {
    this.resized();
    if (this.frame) this.seekTo(this.frame.index);
  }

  #showState() {
    this.button.innerHTML = this.paused ? PLAY : PAUSE;
    this.button.setAttribute('aria-label', this.paused ? 'Play' : 'Pause');
    const now = clockTime(this.currentTime);
    this.time.textContent = `${now} / ${clockTime(this.duration)}`;
    this.slider.setAttribute('aria-valuetext', now);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.header) return;
    // Buttons and sliders have their own.
    const target = event.composedPath()[0];
    if (target === this.button && event.key === ' ') return;
    if (target === this.slider && event.key.startsWith('Arrow')) return;
    const index = this.frame?.index ?? 0;
    const layers = this.layers ?? this.header.numLayers;
    /** @type {Record<string, () => void>} */
    const actions = {
      ' ': () => this.#toggle(),
      k: () => this.#toggle(),
      ArrowLeft: () => (this.currentTime = Math.max(0, this.currentTime - 1)),
      ArrowRight: () => (this.currentTime += 1),
      ',': () => this.seekTo(Math.max(0, index - 1)),
      '.': () => this.seekTo(index + 1),
      '-': () => (this.layers = Math.max(1, layers - 1)),
      '+': () =>
        (this.layers = Math.min(layers + 1, this.header?.numLayers ?? 1)),
    };
    const act = actions[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
