// The viewer page in a browser. PGSVC_FILES has photo.pgsvc, of three layers, its
// original photo.png, and page.html, an exported page of both.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {after, before, test} from 'node:test';
import {pathToFileURL} from 'node:url';

import {npm, openBrowser, openSite} from './site.mjs';

const FILES = process.env.PGSVC_FILES;
const PHOTO = '/web/viewer.html?file=/files/photo.pgsvc';
const BOTH = `${PHOTO}&original=/files/photo.png`;
const EXPECTED = JSON.parse(readFileSync(`${FILES}/expected.json`, 'utf8'));

let browser;
let site;
const failures = [];

before(async () => {
  browser = await openBrowser({viewport: {width: 1280, height: 800}});
  site = await openSite();
});
after(async () => {
  await browser?.close();
  site?.close();
});

async function open(path) {
  const tab = await browser.newPage();
  tab.setDefaultTimeout(15_000);
  tab.on('pageerror', (error) => failures.push(error.message));
  tab.on('console', (message) => {
    // WebGL says wrong calls there.
    if (/INVALID/.test(message.text())) failures.push(message.text());
  });
  await tab.goto(path.includes('://') ? path : site.url + path);
  return tab;
}

const says = (tab, id, words) =>
  tab.waitForFunction(
    ([id, words]) => document.getElementById(id).textContent.includes(words),
    [id, words],
  );

test('the slider shows what any number of bytes is worth', async () => {
  const tab = await open(BOTH);
  await says(tab, 'worth', '3 of 3 layers');
  const ends = EXPECTED.ends;
  for (const [bytes, words] of [
    [ends[0], '1 of 3 layers'],
    [ends[1] - 1, '1 of 3 layers'],
    [ends[1], '2 of 3 layers'],
    [ends[0] - 1, 'nothing yet'],
    [ends[2], '3 of 3 layers'],
  ]) {
    await tab.locator('#bytes').fill(String(bytes));
    await says(tab, 'worth', words);
  }
  await tab.close();
});

test('figures are those of evaluate', async () => {
  const tab = await open(BOTH);
  await tab.waitForFunction(() => {
    const cells = [...document.querySelectorAll('td.psnr')];
    return cells.length === 3 && cells.every((x) => x.textContent !== '–');
  });
  const shown = await tab.locator('td.psnr').allTextContents();
  shown.forEach((text, k) => {
    assert.ok(Math.abs(Number(text) - EXPECTED.psnr[k]) <= 0.011, text);
  });
  assert.equal(shown.length, 3);
  await tab.locator('#against').selectOption('jpeg');
  await says(tab, 'verdict', 'JPEG of quality');
  const bars = await tab.locator('.bar-row b').allTextContents();
  bars.forEach((text, k) => {
    assert.ok(Math.abs(Number(text) - EXPECTED.bits[k]) < 0.15, text);
  });
  await tab.close();
});

test('all can be done with the keys alone', async () => {
  const tab = await open(BOTH);
  await says(tab, 'worth', '3 of 3 layers');
  // Everything that can be pressed is reached by Tab, in order.
  const reached = [];
  for (let i = 0; i < 40; i++) {
    await tab.keyboard.press('Tab');
    const id = await tab.evaluate(() => {
      const {id, name} = document.activeElement;
      const box = document.activeElement.getBoundingClientRect();
      return box.width ? id || name : '';
    });
    if (reached.includes(id)) break;
    reached.push(id);
  }
  for (const id of [
    'open',
    'help',
    'stage',
    'replay',
    'bytes',
    'layer-0',
    'outline',
    'mode',
    'against',
    'zoom-in',
  ]) {
    assert.ok(reached.includes(id), `${id} in ${reached}`);
  }
  await tab.locator('#stage').focus();
  await tab.keyboard.press('[');
  await says(tab, 'worth', '2 of 3 layers');
  await tab.keyboard.press(']');
  await says(tab, 'worth', '3 of 3 layers');
  await tab.keyboard.press('2');
  await says(tab, 'worth', '2 of them on');
  await tab.keyboard.press('2');
  await tab.keyboard.press('o');
  assert.ok(await tab.locator('#outline').isChecked());
  const before = await tab.locator('#zoom-fit').textContent();
  await tab.keyboard.press('+');
  assert.notEqual(await tab.locator('#zoom-fit').textContent(), before);
  await tab.keyboard.press('ArrowLeft');
  await tab.keyboard.press('0');
  assert.equal(await tab.locator('#zoom-fit').textContent(), before);
  for (const [key, mode] of [
    ['p', 'pixels'],
    ['r', 'reference'],
    ['l', 'split'],
    ['d', 'difference'],
    ['f', 'flicker'],
    ['s', 'splats'],
  ]) {
    await tab.keyboard.press(key);
    assert.ok(await tab.locator(`#modes input[value=${mode}]`).isChecked());
    if (mode !== 'splats')
      await tab.locator('#overlay').waitFor({state: 'attached'});
  }
  await tab.keyboard.press('?');
  assert.ok(await tab.locator('#keys').evaluate((x) => x.open));
  await tab.keyboard.press('Escape');
  await tab.locator('#bytes').focus();
  await tab.keyboard.press('Home');
  await says(tab, 'worth', 'nothing yet');
  await tab.keyboard.press('End');
  await says(tab, 'worth', '3 of 3 layers');
  await tab.close();
});

test('splats stay smooth where pixels are blocks', async () => {
  const tab = await open(PHOTO);
  await says(tab, 'worth', '3 of 3 layers');
  await tab.locator('#stage').focus();
  for (let i = 0; i < 14; i++) await tab.keyboard.press('+');
  await tab.waitForTimeout(800);
  // Neighbours on the screen that are exactly equal, of a row of the middle.
  const equal = (selector) =>
    tab.locator(selector).evaluate((canvas) => {
      const {width, height} = canvas;
      const row = canvas
        .getContext('2d')
        .getImageData(0, height >> 1, width, 1).data;
      let same = 0;
      for (let i = 4; i < row.length; i += 4) {
        same += row[i] === row[i - 4] && row[i + 1] === row[i - 3];
      }
      return [same / (row.length / 4), width];
    });
  const [share, width] = await equal('#splats');
  assert.ok(width > 600);
  assert.ok(share < 0.95);
  await tab.keyboard.press('p');
  await tab.locator('#overlay').waitFor();
  assert.ok(
    await tab
      .locator('#overlay')
      .evaluate((x) => x.classList.contains('sharp')),
  );
  await tab.close();
});

test('files can be dropped, one after the other', async () => {
  const tab = await open('/web/viewer.html');
  await tab.locator('#chooser').setInputFiles(`${FILES}/photo.png`);
  await says(tab, 'error', 'no .pgsvc file');
  await tab.locator('#chooser').setInputFiles(`${FILES}/photo.pgsvc`);
  await says(tab, 'worth', '3 of 3 layers');
  await tab.locator('#chooser').setInputFiles(`${FILES}/photo.png`);
  await says(tab, 'verdict', 'dB');
  await tab.locator('#chooser').setInputFiles(`${FILES}/photo.jpg`);
  await says(tab, 'verdict', 'photo.jpg');
  await tab.locator('#chooser').setInputFiles(`${FILES}/broken.pgsvc`);
  await says(tab, 'error', 'damaged');
  await tab.close();
});

test('a video plays, with its bytes by frame and layer', async () => {
  const tab = await open('/web/viewer.html?file=/golden/v3_video.pgsvc');
  await says(tab, 'worth', 'of 5');
  await tab.locator('#stage').focus();
  await tab.keyboard.press(' ');
  await says(tab, 'worth', 'frame 4');
  assert.match(
    await tab.locator('#bars').getAttribute('aria-label'),
    /5 frames/,
  );
  await tab.keyboard.press('[');
  await says(tab, 'worth', '2 of 3 layers');
  await tab.locator('#bytes').fill('1');
  await says(tab, 'worth', 'frame 1');
  await tab.close();
});

test('an exported page needs no server', async () => {
  const tab = await open(pathToFileURL(`${FILES}/page.html`).href);
  await says(tab, 'worth', '3 of 3 layers');
  await says(tab, 'verdict', 'dB');
  await tab.close();
});

test('it fits a phone, in light and in dark', async () => {
  for (const scheme of ['light', 'dark']) {
    const tab = await open(BOTH);
    await tab.emulateMedia({colorScheme: scheme});
    await tab.setViewportSize({width: 360, height: 740});
    await says(tab, 'worth', '3 of 3 layers');
    const [wide, shown] = await tab.evaluate(() => [
      document.documentElement.scrollWidth,
      innerWidth,
    ]);
    assert.ok(wide <= shown, `${wide} > ${shown}`);
    await tab.close();
  }
});

test('axe finds nothing serious', async () => {
  const axe = readFileSync(npm.resolve('axe-core/axe.min.js'), 'utf8');
  for (const path of [
    '/web/viewer.html',
    BOTH,
    '/web/viewer.html?file=/golden/v3_video.pgsvc',
  ]) {
    for (const scheme of ['light', 'dark']) {
      const tab = await open(path);
      await tab.emulateMedia({colorScheme: scheme});
      if (path !== '/web/viewer.html') await says(tab, 'worth', 'layers');
      await tab.evaluate(axe);
      const found = await tab.evaluate(async () => {
        const {violations} = await globalThis.axe.run();
        return violations.map(({id, impact, nodes}) => [
          id,
          impact,
          nodes.map((node) => node.html).slice(0, 3),
        ]);
      });
      const serious = found.filter(([, impact]) =>
        /serious|critical/.test(impact),
      );
      assert.deepEqual(serious, [], `${path} ${scheme}`);
      await tab.close();
    }
  }
});

test('no page failed on the way', () => {
  assert.deepEqual(failures, []);
});
