// Decodes files and prints what is in them as JSON: node symbols.mjs FILE...
// Of a picture its layers, of a video the layers of every frame; of each layer
// the integers and the splats.

import {readFileSync} from 'node:fs';

import {Decoder} from '../../pgsvc_jax/web/decoder.js';
import {LayerDecoder} from '../../pgsvc_jax/web/video_coding.js';
import {reconstruct} from '../../pgsvc_jax/web/splat_coding.js';

const describe = (symbols, splats) => ({
  symbols: Array.isArray(symbols)
    ? symbols.map((column) => [...column])
    : {
        numbers: symbols.numbers.map((column) => [...column]),
        ...Object.fromEntries(
          ['K', 'T', 'bitsX', 'bitsY', 'n'].map((x) => [x, [...symbols[x]]]),
        ),
      },
  splats: [...splats],
});

/** Frames of a GOP, with the integers that `decodeGop` keeps to itself. */
function framesOf(decoder, gop) {
  const {width, height, channels} = decoder.header;
  const numFrames = gop.times.length;
  const form = {numFrames, width, height, channels};
  const layers = decoder.packets[gop.index].map(
    (x) => new LayerDecoder(x, form),
  );
  return gop.times.map((_, t) => {
    let field = null;
    return layers.map((layer, k) => {
      layer.begin(t);
      if (k === 0 && t > 0) field = layer.readField();
      if (field) layer.move(field);
      layer.readFrame();
      const splats = reconstruct(layer.symbols, channels, layer.steps);
      return describe(layer.symbols, splats);
    });
  });
}

const files = process.argv.slice(2).map((path) => {
  const decoder = new Decoder();
  const events = decoder.push(readFileSync(path));
  decoder.finish();
  const {header} = decoder;
  const layers = events
    .filter((event) => event.type === 'layer')
    .map(({symbols, splats}) => describe(symbols, splats));
  const frames = decoder.gops.flatMap((gop) => framesOf(decoder, gop));
  // As players have them.
  const shown = decoder.gops.flatMap((gop) => [...decoder.frames(gop.index)]);
  return {
    header: {...header, metadata: new TextDecoder().decode(header.metadata)},
    layers,
    frames,
    times: shown.map(({time, duration}) => [time, duration]),
    shown: shown.map((frame) => frame.layers.map((splats) => [...splats])),
  };
});
console.log(JSON.stringify(files));
