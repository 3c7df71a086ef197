// A browser and a site for tests. Environment: PGSVC_CHROMIUM, the browser;
// PGSVC_NPM, where playwright-core and axe-core are; PGSVC_FILES, a folder that
// the site has as /files.

import {once} from 'node:events';
import {existsSync, mkdtempSync, readFileSync} from 'node:fs';
import http from 'node:http';
import {createRequire} from 'node:module';
import {extname, join, normalize} from 'node:path';
import {fileURLToPath} from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const ROOTS = {
  web: here('../../pgsvc_jax/web/'),
  golden: here('../golden/'),
  files: process.env.PGSVC_FILES ?? '',
};
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
};

export const npm = createRequire(join(process.env.PGSVC_NPM ?? '.', 'x.js'));

/** Opens a browser with a profile of its own. */
export async function openBrowser(options = {}) {
  // It goes when the folder does: the browser writes to its very end.
  const profile = mkdtempSync(join(ROOTS.files, 'profile-'));
  const {chromium} = npm('playwright-core');
  const {args = [], ...rest} = options;
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.PGSVC_CHROMIUM,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--enable-unsafe-swiftshader',
      ...args,
    ],
    ...rest,
  });
  return context;
}

/**
 * Serves the folders, and pages by their text.
 *
 * @param {object} [options]
 * @param {Record<string, string>} [options.pages] HTML by path
 * @param {boolean} [options.ranges] whether it knows them
 * @param {number} [options.bytesPerSecond] of bodies, in slices of 20 ms
 * @param {number} [options.latency] milliseconds before an answer
 * @param {RegExp} [options.slow] paths that these two are for
 */
export async function openSite({
  pages = {},
  ranges = true,
  bytesPerSecond,
  latency = 0,
  slow = /./,
} = {}) {
  const requests = [];
  const server = http.createServer(async (request, response) => {
    const path = normalize(
      decodeURI(new URL(request.url, 'http://x').pathname),
    );
    const range = request.headers.range;
    const log = {path, range, sent: 0};
    requests.push(log);
    const [, folder, ...names] = path.split('/');
    const file = ROOTS[folder] && join(ROOTS[folder], ...names);
    if (!pages[path] && !(file && existsSync(file))) {
      response.writeHead(404).end();
      return;
    }
    const whole = pages[path] ? Buffer.from(pages[path]) : readFileSync(file);
    const part = /^bytes=(\d+)-(\d*)$/.exec(range ?? '');
    let body = whole;
    const isSlow = slow.test(path);
    if (isSlow && latency) {
      await new Promise((done) => setTimeout(done, latency));
    }
    const headers = {
      'Content-Type': pages[path]
        ? TYPES['.html']
        : (TYPES[extname(path)] ?? 'application/octet-stream'),
      'Cache-Control': 'no-store',
    };
    if (part && ranges) {
      const begin = Number(part[1]);
      const end = part[2]
        ? Math.min(Number(part[2]) + 1, whole.length)
        : whole.length;
      body = whole.subarray(begin, end);
      headers['Content-Range'] = `bytes ${begin}-${end - 1}/${whole.length}`;
    }
    headers['Content-Length'] = body.length;
    response.writeHead(part && ranges ? 206 : 200, headers);
    const rate = isSlow ? bytesPerSecond : 0;
    const slice = rate ? Math.ceil(rate / 50) : 2 ** 14;
    const begun = performance.now();
    for (let at = 0; at < body.length && !response.destroyed; at += slice) {
      response.write(body.subarray(at, at + slice));
      log.sent = Math.min(at + slice, body.length);
      // By the clock, so that a busy machine does not slow the line down.
      const due = rate ? (1000 * log.sent) / rate : 0;
      const wait = begun + due - performance.now();
      if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    }
    response.end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // A test that fails leaves it open.
  server.unref();
  const url = `http://127.0.0.1:${server.address().port}`;
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return {url, requests, close};
}
