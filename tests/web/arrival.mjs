// What a picture looks like while it arrives, over a slow line, in a browser:
//
//   PGSVC_CHROMIUM=... PGSVC_NPM=... PGSVC_FILES=FOLDER KBITS=1000 \
//     node arrival.mjs OUT NAME...
//
// Each NAME is a picture in FOLDER, of 512 x 512 pixels. OUT gets what is on the
// screen as PNG files, NAME.MILLISECONDS.png, and NAME.json: times of events.
// docs/arrival.py makes the plot and the strip of them.

import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';

import {openBrowser, openSite} from './site.mjs';

const [out, ...names] = process.argv.slice(2);
const BYTES_PER_SECOND = 125 * Number(process.env.KBITS ?? 1000);
const LATENCY_MS = 100;
const SIDE = 512;
mkdirSync(out, {recursive: true});

const page = `<!DOCTYPE html><html lang="en"><title>Arrival</title>
  <link rel="icon" href="data:,"><body style="margin: 0; background: #fff">
  <script type="module">
    globalThis.begin = (name) => {
      const splats = name.endsWith('.pgsvc');
      const image = document.createElement(splats ? 'pgsvc-image' : 'img');
      const events = [];
      const note = (type, more) => events.push({type, at: Date.now(), ...more});
      image.addEventListener('header', () => note('header'));
      image.addEventListener('layer', ({detail}) => note('layer', detail));
      image.addEventListener('load', () => note('load'));
      Object.assign(image.style, {width: '${SIDE}px', height: '${SIDE}px', display: 'block'});
      note('begin');
      image.src = '/files/' + name;
      document.body.append(image);
      globalThis.events = events;
    };
    if (new URL(location).searchParams.has('splats')) {
      await import('/web/elements.js');
      // The worker and WebGL have started, as on the second picture of a page.
      const first = document.createElement('pgsvc-image');
      first.src = '/golden/v2_three_layers.pgsvc';
      document.body.append(first);
      await new Promise((done) => first.addEventListener('load', done));
      await new Promise((done) => setTimeout(done, 500));
      first.remove();
    }
    globalThis.ready = true;
  </script>`;

const browser = await openBrowser({
  viewport: {width: SIDE, height: SIDE},
  args: ['--enable-features=JXLImageFormat'],
});
for (const name of names) {
  const site = await openSite({
    pages: {'/page': page},
    bytesPerSecond: BYTES_PER_SECOND,
    latency: LATENCY_MS,
    slow: /^\/files/,
  });
  const tab = await browser.newPage();
  const query = name.endsWith('.pgsvc') ? '?splats' : '';
  await tab.goto(`${site.url}/page${query}`);
  await tab.waitForFunction(() => globalThis.ready);
  const devtools = await browser.newCDPSession(tab);
  const frames = [];
  devtools.on('Page.screencastFrame', ({data, metadata, sessionId}) => {
    frames.push({at: 1000 * metadata.timestamp, data});
    devtools.send('Page.screencastFrameAck', {sessionId}).catch(() => {});
  });
  await devtools.send('Page.startScreencast', {
    format: 'png',
    everyNthFrame: 1,
  });
  await tab.waitForTimeout(300);
  await tab.evaluate((name) => begin(name), name);
  // Asking at every frame would take time from what is measured.
  const isHere = () => events.some(({type}) => type === 'load');
  await tab.waitForFunction(isHere, null, {polling: 250});
  await tab.waitForTimeout(1500);
  await devtools.send('Page.stopScreencast');
  const events = await tab.evaluate(() => events);
  const [{at: begun}] = events;
  for (const {at, data} of frames) {
    const ms = Math.round(at - begun);
    const label = String(Math.max(0, ms)).padStart(5, '0');
    writeFileSync(
      join(out, `${name}.${label}.png`),
      Buffer.from(data, 'base64'),
    );
  }
  const told = events.map((event) => ({...event, at: event.at - begun}));
  const {sent} = site.requests.find(({path}) => path.endsWith(name));
  writeFileSync(
    join(out, `${name}.json`),
    JSON.stringify({events: told, sent}),
  );
  console.log(name, frames.length, 'frames', JSON.stringify(told));
  await tab.close();
  site.close();
}
await browser.close();
process.exit();
