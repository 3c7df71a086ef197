// The decoder where a picture is whole, cut, damaged or made up. Its symbols
// against those of the library: tests/web_test.py.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {Decoder, decodePicture} from '../../pgsvc_jax/web/decoder.js';
import {crc32} from '../../pgsvc_jax/web/fields.js';
import {FormatError} from '../../pgsvc_jax/web/range_coder.js';

const golden = (name) =>
  new Uint8Array(readFileSync(new URL(`../golden/${name}`, import.meta.url)));
const PICTURES = [1, 2, 4, 6].map((v) => golden(`v${v}_three_layers.pgsvc`));
const VIDEOS = [golden('v3_video.pgsvc'), golden('v5_video.pgsvc')];

/** All that decoding in parts of these sizes gives, or the error. */
function decodeInParts(bytes, size, options) {
  const decoder = new Decoder(options);
  const events = [];
  for (let at = 0; at < bytes.length; at += size) {
    events.push(...decoder.push(bytes.subarray(at, at + size)));
  }
  const frames = decoder.gops.flatMap((gop) => [...decoder.frames(gop.index)]);
  try {
    decoder.finish();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
  }
  return {decoder, events, frames};
}

/** The bytes with the checksum of the header renewed. */
function resealed(bytes) {
  const size = bytes[10] + 256 * bytes[11];
  if (size < 4 || size > bytes.length) return bytes;
  const sum = crc32(bytes.subarray(0, size - 4));
  new DataView(bytes.buffer).setUint32(size - 4, sum, true);
  return bytes;
}

test('parts of any size give the same', () => {
  for (const bytes of [...PICTURES, ...VIDEOS]) {
    const whole = decodeInParts(bytes, bytes.length);
    assert.equal(whole.events.at(-1).type, 'end');
    for (const size of [1, 7, 100]) {
      const parts = decodeInParts(bytes, size);
      assert.deepEqual(parts.events, whole.events);
      assert.deepEqual(parts.frames, whole.frames);
    }
  }
});

test('a layer comes with the last byte of its packet, not before', () => {
  for (const bytes of PICTURES) {
    const decoder = new Decoder();
    const found = new Map();
    for (let at = 0; at < bytes.length; at++) {
      for (const event of decoder.push(bytes.subarray(at, at + 1))) {
        if (event.type === 'layer') found.set(event.layer, at + 1);
        if (event.type === 'header') assert.equal(at + 1, event.header.size);
      }
    }
    const ends = decoder.header.layers.map((layer) => layer.end);
    assert.deepEqual([...found.values()], ends);
    assert.equal(ends.at(-1), bytes.length);
  }
});

test('a cut picture shows its whole layers', () => {
  for (const bytes of PICTURES) {
    const {header, layers} = decodePicture(bytes);
    const ends = header.layers.map((layer) => layer.end);
    for (let size = 0; size <= bytes.length; size += 3) {
      const whole = ends.filter((end) => end <= size).length;
      if (!whole) {
        const where = size < header.size ? 'header' : 'base layer';
        assert.throws(() => decodePicture(bytes.subarray(0, size)), {
          name: 'FormatError',
          message: `the file ends inside its ${where}`,
        });
        continue;
      }
      const cut = decodePicture(bytes.subarray(0, size));
      assert.deepEqual(cut.layers, layers.slice(0, whole));
    }
  }
});

test('a cut video shows the frames whose packets are here', () => {
  for (const bytes of VIDEOS) {
    const whole = decodeInParts(bytes, bytes.length).frames;
    let before = 0;
    for (let size = 0; size <= bytes.length; size += 13) {
      const {decoder, frames} = decodeInParts(
        bytes.subarray(0, size),
        size || 1,
      );
      assert.equal(decoder.container.error, null);
      const count = frames.reduce((n, frame) => n + frame.layers.length, 0);
      assert.ok(count >= before);
      before = count;
      frames.forEach((frame, t) => {
        assert.deepEqual(
          frame.layers,
          whole[t].layers.slice(0, frame.layers.length),
        );
      });
    }
  }
});

test('layers that are not asked for are passed over', () => {
  for (const bytes of [...PICTURES, ...VIDEOS]) {
    for (const maxLayers of [1, 2]) {
      const {events, frames} = decodeInParts(bytes, 50, {maxLayers});
      const layers = events.filter((x) => ['layer', 'packet'].includes(x.type));
      assert.ok(layers.length && layers.every((x) => x.layer < maxLayers));
      assert.ok(frames.every((frame) => frame.layers.length === maxLayers));
      assert.equal(events.at(-1).type, 'end');
    }
  }
});

test('bytes that are not needed need not come', () => {
  const bytes = VIDEOS[0];
  const decoder = new Decoder({maxLayers: 1});
  let asked = 0;
  let at = 0;
  while (at < bytes.length) {
    asked++;
    decoder.push(bytes.subarray(at, ++at));
    while (decoder.container.nextNeeded > at) {
      at = decoder.container.nextNeeded;
      decoder.jump(at);
    }
  }
  decoder.finish();
  assert.ok(decoder.container.complete);
  const frames = decoder.gops.flatMap((gop) => [...decoder.frames(gop.index)]);
  const {frames: expected} = decodeInParts(bytes, 99, {maxLayers: 1});
  assert.deepEqual(frames, expected);
  const skipped = decoder.gops.flatMap((gop) => gop.bytes.slice(1));
  assert.equal(asked, bytes.length - skipped.reduce((a, b) => a + b));
});

test('a damaged layer is named, and those below it stay', () => {
  const bytes = PICTURES[1].slice();
  const {header} = decodePicture(bytes);
  for (const layer of [0, 1, 2]) {
    const damaged = bytes.slice();
    damaged[header.layers[layer].end - 3] ^= 4;
    if (layer === 0) {
      assert.throws(() => decodePicture(damaged), /layer 0 is damaged/);
      continue;
    }
    const {layers, damage} = decodePicture(damaged);
    assert.equal(layers.length, layer);
    assert.match(damage, new RegExp(`layer ${layer} is damaged`));
  }
});

test('a damaged packet of a video spoils its layer of its GOP alone', () => {
  const bytes = VIDEOS[0].slice();
  const {decoder} = decodeInParts(bytes, bytes.length);
  const [first, second] = decoder.gops;
  const total = second.bytes.reduce((a, b) => a + b);
  // The last packets end before the end mark.
  bytes[bytes.length - 2 - total + second.bytes[0] + 20] ^= 1;
  const {frames, events} = decodeInParts(bytes, 64);
  assert.deepEqual(
    frames.map((frame) => frame.layers.length),
    [3, 3, 3, 1, 1],
  );
  const damage = events.filter((event) => event.type === 'damage');
  assert.deepEqual(
    damage.map(({gop, layer}) => [gop, layer]),
    [[1, 1]],
  );
  assert.equal(first.times.length, 3);
});

test('what is no file of ours is refused in a sentence', () => {
  const version = (v) => {
    const bytes = PICTURES[1].slice();
    bytes[8] = v;
    return resealed(bytes);
  };
  const flags = PICTURES[1].slice();
  flags[9] = 1;
  const cases = [
    [new TextEncoder().encode('<!DOCTYPE html><html>'), /no \.pgsvc file/],
    [version(7), /version 7 is newer/],
    [version(0), /version 0/],
    [resealed(flags), /flags 1/],
    [new Uint8Array([...PICTURES[1], 0]), /bytes after its end/],
    [new Uint8Array([...VIDEOS[0], 0]), /bytes after its end/],
    [VIDEOS[0].subarray(0, 40), /ends inside its header/],
  ];
  for (const [bytes, message] of cases) {
    const decoder = new Decoder();
    decoder.push(bytes);
    assert.throws(() => decoder.finish(), {name: 'FormatError', message});
  }
});

test('a header takes no memory for what it claims', () => {
  const bytes = PICTURES[1].slice();
  const view = new DataView(bytes.buffer);
  view.setUint32(12, 1 << 14, true);
  view.setUint32(16, 1 << 14, true);
  view.setUint32(22, 2 ** 32 - 1, true);
  view.setUint32(26, 2 ** 32 - 1, true);
  const before = process.memoryUsage().arrayBuffers;
  const decoder = new Decoder({maxPixels: 2 ** 28});
  decoder.push(resealed(bytes));
  assert.equal(decoder.header.layers[0].count, 2 ** 32 - 1);
  assert.throws(() => decoder.finish(), /ends inside its base layer/);
  assert.ok(process.memoryUsage().arrayBuffers - before < 1e6);
  const limited = new Decoder();
  limited.push(bytes);
  assert.throws(() => limited.finish(), /more than is allowed/);
});

test('forged packets are refused or decoded, and never anything else', () => {
  // A generator of its own, so that a failure can be repeated.
  let state = 1;
  const random = (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  let refused = 0;
  const rounds = Number(process.env.PGSVC_MUTATIONS ?? 300);
  for (let i = 0; i < rounds; i++) {
    const kind = [...PICTURES, ...VIDEOS];
    const bytes = kind[random(kind.length)].slice();
    const size = bytes[10] + 256 * bytes[11];
    for (let k = random(3); k >= 0; k--) {
      const place = random(4)
        ? size + random(bytes.length - size)
        : random(size);
      bytes[place] = random(2) ? random(256) : bytes[place] ^ (1 << random(8));
    }
    if (random(8)) reseal(bytes);
    const end = random(4) ? bytes.length : random(bytes.length);
    const decoder = new Decoder();
    try {
      decoder.push(bytes.subarray(0, end));
      for (const gop of decoder.gops) {
        for (const frame of decoder.frames(gop.index)) assert.ok(frame.layers);
      }
      decoder.finish();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      refused++;
    }
  }
  assert.ok(refused > rounds / 20 && refused < rounds, `${refused} refused`);
});

/** Makes all checksums fit, as far as the structure still does. */
function reseal(bytes) {
  resealed(bytes);
  const view = new DataView(bytes.buffer);
  const isVideo = bytes[8] === 3 || bytes[8] === 5;
  let at = bytes[10] + 256 * bytes[11];
  if (!isVideo) {
    const entrySize = bytes[8] === 4 ? 28 : 20;
    for (let k = 0; k < bytes[21]; k++) {
      const entry = 22 + k * entrySize;
      if (entry + entrySize > bytes.length) return;
      const end = at + view.getUint32(entry + 4, true);
      if (end > bytes.length) return;
      view.setUint32(entry + 8, crc32(bytes.subarray(at, end)), true);
      at = end;
    }
    resealed(bytes);
    return;
  }
  while (at + 6 < bytes.length) {
    const size = view.getUint16(at, true);
    if (size < 6 || at + size > bytes.length) return;
    const entry = at;
    // The sizes and checksums of three packets end the entry of the golden
    // files: varints of two bytes, and u32.
    let field = at + size - 4 - 3 * 6;
    at += size;
    for (let k = 0; k < 3 && field > entry; k++, field += 6) {
      const length = (bytes[field] & 127) + 128 * (bytes[field + 1] & 127);
      if (at + length > bytes.length) break;
      view.setUint32(field + 2, crc32(bytes.subarray(at, at + length)), true);
      at += length;
    }
    view.setUint32(
      entry + size - 4,
      crc32(bytes.subarray(entry, entry + size - 4)),
      true,
    );
  }
}
