/** The viewer's tables and bars. */

import {layerColor} from './viewer_stage.js';

// As `pgsvc info --attributes` has them, of the columns of each version.
const ATTRIBUTES = {
  position: ['gap', 'x', 'y'],
  color: ['color 0', 'color 1', 'color 2', 'color 3'],
  scale: ['class', 'size', 'log l11', 'log l22'],
  aspect: ['aspect'],
  shear: ['shear'],
};
const ATTRIBUTE_COLORS = [
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#e69f00',
];

/** @param {string} id @returns {any} the element */
export function byId(id) {
  return document.getElementById(id);
}

/** @param {number} bytes */
export function formatBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return `${(bytes / 1e6).toFixed(2)} MB`;
}

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {(Node | string)[]} [children]
 */
export function make(tag, properties = {}, children = []) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('--')) element.style.setProperty(name, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * @param {HTMLElement} body
 * @param {{count: number | null, end: number | null, psnr: number | null,
 *   on: boolean, here: boolean}[]} layers
 * @param {(layer: number) => void} toggle
 */
export function fillLayers(body, layers, toggle) {
  const focused = document.activeElement?.id;
  body.replaceChildren(
    ...layers.map(({count, end, psnr, on, here}, k) => {
      const box = make('input', {
        type: 'checkbox',
        checked: on,
        id: `layer-${k}`,
      });
      box.addEventListener('change', () => toggle(k));
      const label = make('label', {}, [
        box,
        make('i', {className: 'swatch', '--own': layerColor(k)}),
        k ? `${k}` : 'base',
      ]);
      return make('tr', {className: here ? '' : 'away'}, [
        make('td', {}, [label]),
        make('td', {}, [count === null ? '–' : count.toLocaleString('en')]),
        make('td', {}, [end === null ? '–' : formatBytes(end)]),
        make('td', {className: 'psnr'}, [
          psnr === null ? '–' : psnr.toFixed(2),
        ]),
      ]);
    }),
  );
  if (focused?.startsWith('layer-')) document.getElementById(focused)?.focus();
}

/**
 * @param {HTMLElement} bars
 * @param {HTMLElement} legend
 * @param {{count: number, bits: Record<string, number>}[]} layers
 */
export function fillAttributes(bars, legend, layers) {
  const rows = layers.map(({count, bits}) =>
    Object.values(ATTRIBUTES).map((columns) => {
      const sum = columns.reduce((sum, name) => sum + (bits[name] ?? 0), 0);
      return sum / Math.max(1, count);
    }),
  );
  const totals = rows.map((row) => row.reduce((a, b) => a + b, 0));
  const most = Math.max(1e-9, ...totals);
  const names = Object.keys(ATTRIBUTES);
  bars.replaceChildren(
    ...rows.map((row, k) => {
      const words = row
        .map((bits, i) => `${names[i]} ${bits.toFixed(1)}`)
        .join(', ');
      const parts = row.map((bits, i) =>
        make('i', {
          '--own': ATTRIBUTE_COLORS[i],
          style: `flex: ${bits} 0 0; --own: ${ATTRIBUTE_COLORS[i]}`,
          title: `${names[i]}: ${bits.toFixed(1)} bits a splat`,
        }),
      );
      const rest = make('i', {
        style: `flex: ${most - totals[k]} 0 0; background: none`,
      });
      return make('div', {className: 'bar-row'}, [
        make('span', {}, [`${k}`]),
        make(
          'div',
          {role: 'img', 'aria-label': `Layer ${k}: ${words} bits a splat`},
          [...parts, rest],
        ),
        make('b', {}, [totals[k].toFixed(1)]),
      ]);
    }),
  );
  legend.replaceChildren(
    ...names.map((name, i) =>
      make('li', {}, [
        make('i', {className: 'swatch', '--own': ATTRIBUTE_COLORS[i]}),
        name,
      ]),
    ),
  );
}

/**
 * Bytes of each frame, by layer.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} frames bytes of the layers of each frame
 * @param {number} current frame
 * @param {number} shown layers
 */
export function drawTimeline(canvas, frames, current, shown) {
  const ratio = devicePixelRatio;
  const {clientWidth, clientHeight} = canvas;
  canvas.width = Math.round(clientWidth * ratio);
  canvas.height = Math.round(clientHeight * ratio);
  const context = /** @type {CanvasRenderingContext2D} */ (
    canvas.getContext('2d')
  );
  context.scale(ratio, ratio);
  const sums = frames.map((row) => row.reduce((a, b) => a + (b ?? 0), 0));
  // Of first frames that tower above the others, the square root can be read.
  const height = (bytes) =>
    Math.sqrt(bytes / Math.max(1, ...sums)) * (clientHeight - 8);
  const step = clientWidth / Math.max(1, frames.length);
  frames.forEach((row, t) => {
    let below = 0;
    row.forEach((bytes = 0, layer) => {
      const [low, high] = [height(below), height(below + bytes)];
      below += bytes;
      context.globalAlpha = layer < shown ? 1 : 0.25;
      context.fillStyle = layerColor(layer);
      const gap = step > 3 ? 1 : 0;
      context.fillRect(t * step, clientHeight - high, step - gap, high - low);
    });
  });
  context.globalAlpha = 1;
  context.fillStyle = getComputedStyle(canvas).color;
  context.fillRect((current + 0.5) * step - 1, 0, 2, clientHeight);
  const total = sums.reduce((a, b) => a + b, 0);
  canvas.setAttribute(
    'aria-label',
    `Bytes by frame: ${frames.length} frames, ${formatBytes(total)}`,
  );
}
