// The elements and the renderers in a browser. Files and the pixels that `decode`
// gives are in the folder PGSVC_FILES: see tests/browser_test.py.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {after, before, test} from 'node:test';

import {openBrowser, openSite} from './site.mjs';

const EXPECTED = JSON.parse(
  readFileSync(`${process.env.PGSVC_FILES}/expected.json`, 'utf8'),
);
const page = (body) =>
  `<!DOCTYPE html><html lang="en"><title>Test</title>
  <link rel="icon" href="data:,">
  <script type="module" src="/web/elements.js"></script>
  <body style="margin: 0">${body}`;
const PAGES = {
  '/empty': page(''),
  '/image': page('<pgsvc-image src="/files/large.pgsvc" alt="Noise" controls>'),
  '/ladder': page('<pgsvc-image src="/files/ladder.pgsvc" width="100">'),
  '/canvas': page('<pgsvc-image src="/files/large.pgsvc" renderer="canvas">'),
  '/video': page(
    '<pgsvc-video src="/golden/v3_video.pgsvc" controls width="470">',
  ),
  '/broken': page('<pgsvc-image src="/files/broken.pgsvc" alt="A boat">'),
  '/gone': page('<pgsvc-image src="/files/none.pgsvc">'),
};

let browser;
let site;
const failures = [];

before(async () => {
  browser = await openBrowser({viewport: {width: 800, height: 600}});
  site = await openSite({pages: PAGES});
});
after(async () => {
  await browser?.close();
  site?.close();
});

async function newTab() {
  const tab = await browser.newPage();
  tab.setDefaultTimeout(10_000);
  tab.on('pageerror', (error) => failures.push(error.message));
  return tab;
}

async function open(path, from = site) {
  const tab = await newTab();
  await tab.goto(from.url + path);
  return tab;
}

/** Waits until the element has fired an event, or had before. */
const loaded = (tab, selector) =>
  tab.waitForFunction(
    (selector) => document.querySelector(selector).matches(':state(loaded)'),
    selector,
  );

for (const kind of ['webgl', 'half', 'canvas']) {
  test(`pixels of ${kind} are those of decode`, async () => {
    const tab = await open('/empty');
    for (const {url, native, raw} of EXPECTED) {
      for (const [k, [width, height]] of native.entries()) {
        const [worst, equal] = await tab.evaluate(
          async ({kind, url, raw, k, width, height}) => {
            const {decodePicture} = await import('/web/decoder.js');
            const {makeRenderer} = await import('/web/element.js');
            const {wholeGrid} = await import('/web/grid.js');
            const bytes = async (url) =>
              new Uint8Array(await (await fetch(url)).arrayBuffer());
            const {header, layers} = decodePicture(await bytes(url));
            const canvas = document.createElement('canvas');
            const renderer = makeRenderer(canvas, header.channels, kind);
            layers.forEach((splats, i) => renderer.setLayer(i, splats));
            const grid = wholeGrid(header, width, height);
            // One after the other, as they arrive.
            for (let i = 0; i <= k; i++) {
              await renderer.draw(grid, [...Array(i + 1).keys()]);
            }
            const {data} = renderer.pixels();
            const expected = await bytes(`/files/${raw}.${k}`);
            let [worst, equal] = [0, 0];
            expected.forEach((value, i) => {
              worst = Math.max(worst, Math.abs(value - data[i]));
              equal += value === data[i];
            });
            renderer.dispose();
            return [worst, equal / expected.length];
          },
          {kind, url, raw, k, width, height},
        );
        // Half floats have eleven bits, and sums of many splats lose some.
        const most = kind === 'half' ? 3 : 1;
        assert.ok(worst <= most, `${url} layer ${k}: ${worst}`);
        assert.ok(equal > (kind === 'half' ? 0.9 : 0.999), `${url}: ${equal}`);
      }
    }
    await tab.close();
  });
}

test('a picture comes layer by layer, and moves nothing', async () => {
  const slow = await openSite({pages: PAGES, bytesPerSecond: 20_000});
  const tab = await newTab();
  await tab.addInitScript(() => {
    globalThis.seen = [];
    globalThis.shifts = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) shifts += entry.value;
    }).observe({type: 'layout-shift', buffered: true});
    addEventListener('DOMContentLoaded', () => {
      const image = document.querySelector('pgsvc-image');
      const note = (type, value) => seen.push([type, value]);
      image?.addEventListener('header', () => note('header'));
      image?.addEventListener('layer', ({detail}) =>
        note('layer', detail.layer),
      );
      image?.addEventListener('progress', () => note('here', image.count));
    });
  });
  await tab.goto(`${slow.url}/image`);
  await tab.waitForFunction(
    () => seen.filter(([type]) => type === 'layer').length === 3,
  );
  const seen = await tab.evaluate(() => seen);
  const order = seen
    .filter(([type]) => type !== 'here')
    .map((x) => x.join(' '));
  assert.deepEqual(order, ['header ', 'layer 0', 'layer 1', 'layer 2']);
  const here = seen
    .filter(([type]) => type === 'here')
    .map(([, count]) => count);
  assert.deepEqual([...new Set(here)], [0, 1, 2, 3]);
  // 300 pixels are taken before the header is here: it decides afterwards.
  const box = await tab.locator('pgsvc-image').boundingBox();
  assert.deepEqual([box.width, box.height], [96, 64]);
  assert.equal(await tab.evaluate(() => shifts), 0);
  await tab.close();
  slow.close();
});

test('a small place asks for small layers alone, a larger one for more', async () => {
  const tab = await open('/ladder');
  await tab.waitForFunction(
    () => document.querySelector('pgsvc-image').count === 1,
  );
  await tab.waitForTimeout(300);
  const image = tab.locator('pgsvc-image');
  assert.equal(await image.evaluate((x) => x.count), 1);
  await image.evaluate((x) => x.setAttribute('width', 300));
  await tab.waitForFunction(
    () => document.querySelector('pgsvc-image').count === 2,
  );
  await tab.close();
});

test('with ranges no byte is read that nobody wants', async () => {
  for (const ranges of [true, false]) {
    const own = await openSite({pages: PAGES, ranges, bytesPerSecond: 4e6});
    const tab = await open('/empty', own);
    const [before, ends] = await tab.evaluate(async () => {
      const image = document.createElement('pgsvc-image');
      image.src = '/files/ladder.pgsvc';
      image.layers = 1;
      document.body.append(image);
      await new Promise((done) => image.addEventListener('layer', done));
      await new Promise((done) => setTimeout(done, 300));
      const before = image.count;
      image.layers = 2;
      await new Promise((done) => image.addEventListener('layer', done));
      return [before, image.header.layers.map((layer) => layer.end)];
    });
    assert.equal(before, 1);
    const asked = own.requests.filter((x) => x.path.endsWith('.pgsvc'));
    const expected = ranges
      ? [`bytes=0-65535`, `bytes=65536-${ends[0] - 1}`, `bytes=${ends[0]}-`]
      : ['bytes=0-65535', undefined];
    assert.deepEqual(
      asked.map((x) => x.range),
      expected,
    );
    await tab.close();
    own.close();
  }
});

test('keys change the layers of a picture', async () => {
  const tab = await open('/image');
  await loaded(tab, 'pgsvc-image');
  await tab.keyboard.press('Tab');
  const image = tab.locator('pgsvc-image');
  assert.ok(await image.evaluate((x) => document.activeElement === x));
  await tab.keyboard.press('-');
  await tab.keyboard.press('-');
  assert.equal(await image.evaluate((x) => x.shown), 1);
  await tab.keyboard.press('+');
  assert.equal(await image.evaluate((x) => x.shown), 2);
  const name = await tab.evaluate(
    () => document.querySelector('pgsvc-image').internals.ariaLabel,
  );
  assert.equal(name, 'Noise');
  await tab.close();
});

test('without WebGL the canvas has the same picture', async () => {
  const tab = await open('/canvas');
  await loaded(tab, 'pgsvc-image');
  const name = await tab
    .locator('pgsvc-image')
    .evaluate((x) => x.renderer.constructor.name);
  assert.equal(name, 'CanvasRenderer');
  await tab.close();
});

test('a video plays all of its frames at their times', async () => {
  const tab = await open('/video');
  await loaded(tab, 'pgsvc-video');
  const played = await tab.locator('pgsvc-video').evaluate(async (video) => {
    const frames = [];
    video.addEventListener('timeupdate', (event) =>
      frames.push([event.detail.frame, performance.now() / 1000]),
    );
    const ended = new Promise((done) => video.addEventListener('ended', done));
    video.play();
    await ended;
    return {frames, duration: video.duration, dropped: video.dropped};
  });
  const order = played.frames.map(([index]) => index);
  assert.ok(order.includes(0) && order.includes(4));
  assert.ok(order.every((x, i) => i === 0 || x >= order[i - 1]));
  assert.ok(Math.abs(played.duration - 0.75) < 1e-9);
  // The last of the five frames starts after 0.55 s.
  const times = new Map(played.frames.toReversed());
  assert.ok(times.get(4) - times.get(0) > 0.4);
  await tab.close();
});

test('keys play, seek and change the layers of a video', async () => {
  const tab = await open('/video');
  await loaded(tab, 'pgsvc-video');
  const video = tab.locator('pgsvc-video');
  await tab.keyboard.press('Tab');
  await tab.waitForFunction(() => document.querySelector('pgsvc-video').frame);
  await tab.keyboard.press('.');
  await tab.waitForFunction(
    () => document.querySelector('pgsvc-video').frame.index === 1,
  );
  await tab.keyboard.press('-');
  assert.equal(await video.evaluate((x) => x.layers), 2);
  await tab.keyboard.press(' ');
  assert.equal(await video.evaluate((x) => x.paused), false);
  await tab.close();
});

test('what cannot be read is said in words', async () => {
  for (const [path, words, shown] of [
    ['/broken', /checksum/, 'A boat'],
    ['/gone', /404/, /404/],
  ]) {
    const tab = await newTab();
    await tab.addInitScript(() => {
      globalThis.errors = [];
      addEventListener(
        'error',
        (e) => e.detail && errors.push(e.detail.message),
        true,
      );
    });
    await tab.goto(site.url + path);
    await tab.waitForFunction(() => errors.length);
    assert.match((await tab.evaluate(() => errors))[0], words);
    const text = await tab
      .locator('pgsvc-image')
      .evaluate((x) => x.shadowRoot.querySelector('.alt').textContent);
    assert.match(text, new RegExp(shown));
    await tab.close();
  }
});

test('no page failed on the way', () => {
  assert.deepEqual(failures, []);
});
