/**
 * The viewer page. It shows `?file=` and compares it with `?original=`, or with
 * what is dropped on it; a page that holds its files has them in a script of
 * JSON with the id `pgsvc-files`.
 */

import {Client} from './client.js';
import './elements.js';
import {Comparison} from './viewer_compare.js';
import {
  byId as $,
  drawTimeline,
  fillAttributes,
  fillLayers,
  formatBytes,
  make,
} from './viewer_panels.js';
import {layerColor, Stage} from './viewer_stage.js';

const stage = new Stage($('stage'), $('picture'), {
  splats: $('splats'),
  overlay: $('overlay'),
  outlines: $('outlines'),
  divider: $('divider-line'),
});

/** All that is about the file on show; a new one starts afresh. */
let file = emptyFile();
/** @type {any} */
let client = null;

const comparison = new Comparison(stage, {
  subject: () => file,
  shownLayers,
  update,
  fail,
});

function emptyFile() {
  return {
    name: '',
    // The header of the container, once it is here.
    header: /** @type {any} */ (null),
    /** @type {{count: number, end: number, bits: Record<string, number>}[]} */
    layers: [],
    /** @type {(number | null)[]} */
    psnrs: [],
    /** @type {Set<number>} */
    off: new Set(),
    here: 0,
    total: 0,
    // Bytes that the slider says; null: all that are here.
    cut: /** @type {number | null} */ (null),
    video: /** @type {any} */ (null),
    /** @type {number[][]} */
    frames: [],
    /** @type {any[]} */
    gops: [],
  };
}

// Opening

/** @param {{url?: string, blob?: Blob}} where @param {string} name */
function open(where, name) {
  client?.close();
  file.video?.remove();
  file = emptyFile();
  comparison.forget();
  file.name = name;
  stage.guest = null;
  stopReplay();
  $('error').hidden = true;
  $('name').textContent = name;
  document.title = `${name} – pgsvc viewer`;
  client = new Client({type: 'open', ...where}, (message) =>
    receive(message, where),
  );
}

/** @param {any} message @param {{url?: string, blob?: Blob}} where */
function receive(message, where) {
  if (message.type === 'header') begin(message.header, where);
  else if (message.type === 'layer') addLayer(message);
  else if (message.type === 'progress') {
    file.here = message.bytes;
    file.total = Math.max(message.total ?? 0, file.total);
    update();
  } else if (message.type === 'loaded') {
    file.total = Math.max(message.total ?? 0, file.here);
    update();
    comparison.measure();
  } else if (message.type === 'error' || message.type === 'damage') {
    fail(message.message);
  }
}

/** @param {string} message */
function fail(message) {
  $('error').textContent = file.name ? `${file.name}: ${message}` : message;
  $('error').hidden = false;
}

/** @param {import('./container.js').Header} header */
function begin(header, where) {
  file.header = header;
  const {width, height, channels, numLayers, isVideo} = header;
  const kinds = ['gray', 'gray and alpha', 'RGB', 'RGB and alpha'];
  $('facts').textContent = [
    `${width} × ${height}`,
    kinds[channels - 1],
    `${numLayers} ${numLayers === 1 ? 'layer' : 'layers'}`,
    `format version ${header.version}`,
  ].join(' · ');
  $('empty').hidden = true;
  for (const id of ['picture', 'zoom', 'dock', 'panel']) $(id).hidden = false;
  $('stage').classList.toggle('alpha', channels % 2 === 0);
  $('timeline').hidden = !isVideo;
  $('compare').hidden = isVideo;
  $('attributes').hidden = isVideo;
  $('speed').hidden = isVideo;
  $('splats').hidden = isVideo;
  if (isVideo) {
    makeSegments([1]);
    beginVideo(header, where);
  } else {
    const last = header.layers.at(-1);
    file.total = last ? last.end : 0;
    stage.begin(header);
    makeSegments(header.layers.map((layer) => layer.bytes));
    $('replay').setAttribute('aria-label', 'Replay the download');
  }
  comparison.setMode(comparison.original ? comparison.mode : 'splats');
  update();
}

/** @param {number[]} sizes of the layers */
function makeSegments(sizes) {
  $('segments').replaceChildren(
    ...sizes.map((bytes, k) =>
      make('i', {style: `flex: ${bytes} 0 0; --own: ${layerColor(k)}`}),
    ),
  );
}

function addLayer({layer, count, end, bits, splats}) {
  stage.renderer?.setLayer(layer, splats);
  file.layers[layer] = {count, end, bits};
  fillAttributes($('attribute-bars'), $('legend'), file.layers);
  update();
}

// What is on show

/** Layers that the slider and the boxes let through. */
function shownLayers() {
  const cut = file.cut ?? Infinity;
  const here = file.layers.filter((layer) => layer && layer.end <= cut).length;
  return [...Array(here).keys()].filter((k) => !file.off.has(k));
}

function update() {
  const {header, video} = file;
  if (!header) return;
  if (video) {
    updateVideo();
    return;
  }
  const layers = shownLayers();
  stage.show(layers);
  const cut = Math.min(file.cut ?? file.here, file.total);
  const slider = $('bytes');
  slider.max = file.total;
  slider.value = cut;
  let start = header.size;
  [...$('segments').children].forEach((segment, k) => {
    const {bytes, end} = header.layers[k];
    const full = Math.max(0, Math.min(1, (cut - start) / Math.max(1, bytes)));
    segment.style.setProperty('--full', full);
    segment.style.setProperty('--whole', end <= cut ? 1 : 0.45);
    start = end;
  });
  describeCut(cut, layers);
  fillLayers(
    $('layers').tBodies[0],
    header.layers.map(({count, end}, k) => ({
      count,
      end,
      psnr: file.psnrs[k] ?? null,
      on: !file.off.has(k),
      here: layers.includes(k),
    })),
    toggleLayer,
  );
  comparison.schedule();
}

/** @param {number} cut @param {number[]} layers */
function describeCut(cut, layers) {
  const {header} = file;
  const pixels = header.width * header.height;
  const whole = header.layers.filter((layer) => layer.end <= cut).length;
  const bpp = ((8 * cut) / pixels).toFixed(2);
  const share = Math.round((100 * cut) / Math.max(1, file.total));
  const worth = whole
    ? `${whole} of ${header.numLayers} layers${layers.length < whole ? `, ${layers.length} of them on` : ''}`
    : `nothing yet: the base layer ends at ${formatBytes(header.layers[0].end)}`;
  const dB = !file.off.size && whole ? file.psnrs[whole - 1] : null;
  $('worth').replaceChildren(
    make('b', {}, [`${formatBytes(cut)}`]),
    make('span', {}, [
      ` of ${formatBytes(file.total)} (${share} %, ${bpp} bits a pixel) · `,
    ]),
    worth,
    ...(dB
      ? [make('span', {}, [' · ']), make('b', {}, [`${dB.toFixed(2)} dB`])]
      : []),
  );
  $('bytes').setAttribute('aria-valuetext', `${formatBytes(cut)}: ${worth}`);
}

/** @param {number} layer */
function toggleLayer(layer) {
  if (!file.header || layer >= file.header.numLayers) return;
  if (file.video) {
    file.video.layers = layer + 1;
    updateVideo();
    return;
  }
  if (!file.off.delete(layer)) file.off.add(layer);
  update();
}

/** @param {number} step */
function stepLayers(step) {
  const {header, video} = file;
  if (!header) return;
  const clampTo = (k) => Math.max(1, Math.min(k, header.numLayers));
  if (video) {
    video.layers = clampTo((video.layers ?? header.numLayers) + step);
    updateVideo();
    return;
  }
  const cut = file.cut ?? file.here;
  const whole = header.layers.filter((layer) => layer.end <= cut).length;
  file.cut = header.layers[clampTo(whole + step) - 1].end;
  stopReplay();
  update();
}

// The download once more, as slowly as is asked for

let replay = 0;

function stopReplay() {
  cancelAnimationFrame(replay);
  replay = 0;
}

function startReplay() {
  stopReplay();
  const rate = (Number($('speed').value) * 1000) / 8;
  const begun = performance.now();
  const tick = (now) => {
    file.cut = Math.min(
      file.total,
      Math.round((rate * Math.max(0, now - begun)) / 1000),
    );
    update();
    replay = file.cut < file.total ? requestAnimationFrame(tick) : 0;
  };
  replay = requestAnimationFrame(tick);
}

// Videos

function beginVideo(header, where) {
  const [n, d] = header.pixelAspect;
  const size = {width: (header.width * n) / d, height: header.height};
  const video = /** @type {any} */ (document.createElement('pgsvc-video'));
  video.setAttribute('alt', file.name);
  video.setAttribute('layers', header.numLayers);
  video.style.maxWidth = 'none';
  file.video = video;
  stage.host(video, size);
  if (where.blob) video.show(where.blob);
  else video.src = where.url;
  client?.close();
  client = null;
  video.addEventListener('gop', ({detail: {gop}}) => {
    file.gops.push(gop);
    gop.times.forEach(() => file.frames.push([]));
    updateVideo();
  });
  video.addEventListener('packet', ({detail: {gop, layer, frameBytes}}) => {
    const {firstFrame} = file.gops[gop];
    frameBytes.forEach(
      (bytes, t) => (file.frames[firstFrame + t][layer] = bytes),
    );
    updateVideo();
  });
  video.addEventListener('progress', ({detail}) => {
    file.here = detail.bytes;
    file.total = detail.total ?? detail.bytes;
  });
  video.addEventListener('error', ({detail}) => fail(detail.message));
  for (const type of ['timeupdate', 'play', 'pause', 'layers', 'load']) {
    video.addEventListener(type, updateVideo);
  }
}

function updateVideo() {
  const {video, header} = file;
  if (!video || !header) return;
  const index = video.frame?.index ?? 0;
  const layers = Math.min(
    video.layers ?? header.numLayers,
    video.paused ? Infinity : video.level,
  );
  const slider = $('bytes');
  slider.max = Math.max(0, file.frames.length - 1);
  slider.value = index;
  slider.setAttribute('aria-label', 'Frame');
  slider.setAttribute('aria-valuetext', `frame ${index}`);
  $('replay').setAttribute('aria-label', video.paused ? 'Play' : 'Pause');
  const path = video.paused ? 'M3 1l11 7-11 7z' : 'M3 1h3v14H3zM10 1h3v14h-3z';
  $('replay').querySelector('path').setAttribute('d', path);
  drawTimeline($('bars'), file.frames, index, layers);
  const sums = file.gops.length
    ? header.nativeSizes.map((_, k) =>
        file.gops.reduce((sum, gop) => sum + gop.bytes[k], 0),
      )
    : [];
  const shown = sums.slice(0, layers).reduce((a, b) => a + b, 0);
  const rate = video.duration
    ? `${Math.round((8 * shown) / video.duration / 1000)} kbit/s`
    : '';
  $('worth').replaceChildren(
    make('b', {}, [`${video.currentTime.toFixed(2)} s`]),
    make('span', {}, [
      ` of ${video.duration.toFixed(2)} s · frame ${index} of ${file.frames.length} · `,
    ]),
    `${layers} of ${header.numLayers} layers`,
    make('span', {}, [` · ${formatBytes(shown)}, ${rate}`]),
  );
  let end = 0;
  fillLayers(
    $('layers').tBodies[0],
    sums.map((bytes, k) => ({
      count: video.frame?.layers[k] ? video.frame.layers[k].length / 9 : null,
      end: (end += bytes),
      psnr: null,
      on: k < layers,
      here: k < layers,
    })),
    toggleLayer,
  );
  stage.layers = [...Array(layers).keys()];
  if (stage.outlined) stage.redraw(true);
}

// Files that come: dropped, chosen, named

/** @param {Iterable<File>} files */
async function take(files) {
  const all = [...files];
  const isSplats = await Promise.all(
    all.map(async (one) => {
      const magic = new Uint8Array(await one.slice(1, 4).arrayBuffer());
      return (
        String.fromCharCode(...magic) === 'PGS' &&
        (await one.slice(0, 1).arrayBuffer())
      );
    }),
  );
  // Of two, the first is shown and the other compared with it.
  const first = isSplats.findIndex(Boolean);
  const rest = all.filter((_, i) => i !== first);
  if (first >= 0) {
    comparison.original = null;
    open({blob: all[first]}, all[first].name);
  } else if (!file.header && all.length) {
    fail(`${all[0].name}: no .pgsvc file`);
    return;
  }
  if (!rest.length) return;
  if (comparison.original) await comparison.setOther(rest[0]);
  else await comparison.setOriginal(rest[0], rest[0].name);
  if (rest.length > 1) await comparison.setOther(rest[1]);
}

function listen() {
  addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) document.body.classList.remove('dropping');
  });
  addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    take(event.dataTransfer?.files ?? []);
  });
  const choose = () => $('chooser').click();
  for (const id of ['open', 'choose', 'choose-original'])
    $(id).addEventListener('click', choose);
  $('chooser').addEventListener('change', () => take($('chooser').files));
  $('by-url').addEventListener('submit', (event) => {
    event.preventDefault();
    const url = $('url').value;
    open({url}, decodeURIComponent(url.split('/').at(-1) || url));
  });
  $('bytes').addEventListener('input', () => {
    const value = Number($('bytes').value);
    if (file.video) file.video.seekTo(value);
    else {
      stopReplay();
      file.cut = value;
      update();
    }
  });
  $('replay').addEventListener('click', playOrReplay);
  $('bars').addEventListener('click', (event) => {
    const share = event.offsetX / $('bars').clientWidth;
    file.video?.seekTo(Math.floor(share * file.frames.length));
  });
  $('outline').addEventListener('change', () => outline($('outline').checked));
  $('zoom-in').addEventListener('click', () => stage.zoom(1.5));
  $('zoom-out').addEventListener('click', () => stage.zoom(1 / 1.5));
  $('zoom-fit').addEventListener('click', () => stage.fit());
  $('help').addEventListener('click', () => $('keys').showModal());
  stage.onview = ({scale}) => {
    const percent = Math.round(100 * scale * devicePixelRatio);
    $('zoom-fit').textContent = `${percent}%`;
  };
  new ResizeObserver(() => file.video && updateVideo()).observe($('bars'));
}

function playOrReplay() {
  const {video} = file;
  if (video) {
    if (video.paused) video.play();
    else video.pause();
  } else if (replay) stopReplay();
  else startReplay();
}

/** @param {boolean} on */
function outline(on) {
  $('outline').checked = on;
  stage.outlined = on;
  stage.redraw(true);
}

/** @param {KeyboardEvent} event */
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.matches(
    'input:not([type=checkbox]):not([type=radio]), select',
  );
  const pressed = event.key;
  if (pressed === '?') return $('keys').showModal();
  if (
    typing &&
    (pressed.startsWith('Arrow') || target.matches('[type=url], select'))
  )
    return;
  if (pressed === ' ' && target.matches('button, input, select')) return;
  const moves = {
    ArrowLeft: [60, 0],
    ArrowRight: [-60, 0],
    ArrowUp: [0, 60],
    ArrowDown: [0, -60],
  };
  const modes = {
    s: 'splats',
    p: 'pixels',
    r: 'reference',
    l: 'split',
    d: 'difference',
    f: 'flicker',
  };
  if (moves[pressed]) {
    if (target !== $('stage')) return;
    stage.pan(...moves[pressed]);
  } else if (modes[pressed]) comparison.setMode(modes[pressed]);
  else if (pressed === '[') stepLayers(-1);
  else if (pressed === ']') stepLayers(1);
  else if (/^[1-9]$/.test(pressed)) toggleLayer(Number(pressed) - 1);
  else if (pressed === 'o') outline(!$('outline').checked);
  else if (pressed === '+' || pressed === '=') stage.zoom(1.25);
  else if (pressed === '-') stage.zoom(0.8);
  else if (pressed === '0') stage.fit();
  else if (pressed === ' ') playOrReplay();
  else return;
  event.preventDefault();
}

/** Files that came with the page, or that its address names. */
async function openFirst() {
  const held = $('pgsvc-files');
  const query = new URLSearchParams(location.search);
  if (held) {
    const {file: main, original: other} = JSON.parse(held.textContent);
    const blob = async ({data}) => (await fetch(`data:;base64,${data}`)).blob();
    open({blob: await blob(main)}, main.name);
    if (other) await comparison.setOriginal(await blob(other), other.name);
    return;
  }
  const nameOf = (url) =>
    decodeURIComponent(
      new URL(url, location.href).pathname.split('/').at(-1) ?? '',
    );
  const url = query.get('file');
  if (url) open({url: new URL(url, location.href).href}, nameOf(url));
  const other = query.get('original');
  if (!other) return;
  const response = await fetch(other);
  if (!response.ok)
    fail(`${nameOf(other)}: the server answers ${response.status}`);
  else await comparison.setOriginal(await response.blob(), nameOf(other));
  comparison.setMode(query.get('mode') ?? '');
}

listen();
addEventListener('keydown', key);
openFirst().catch((error) => fail(error.message));
