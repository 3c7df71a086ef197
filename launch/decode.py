"""Decodes a .pgsvc file, whole or cut, into a picture.

python -m launch.decode --input=FILE.pgsvc --output=PICTURE.png [--layers=K]

A cut file gives the last layer that is whole. Needs no JAX.
"""

import pathlib
import sys
import time

from absl import flags
import numpy as np

from pgsvc_jax import bitstream
from pgsvc_jax import media
from pgsvc_jax import render

from . import caches
from . import command

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_OUTPUT = flags.DEFINE_string(
    'output',
    None,
    'picture to write; the suffix says the format',
    required=True,
)
_LAYERS = flags.DEFINE_integer(
    'layers', None, 'layers to show, the base counted; default: all there are'
)
_SCALE = flags.DEFINE_float('scale', 1.0, 'size of the picture / its own size')
_MAX_PIXELS = flags.DEFINE_integer(
    'max_pixels', 2**27, 'refuse larger pictures: a small file can claim one'
)

flags.declare_key_flag('cache')


def _start_decoder() -> None:
  """Loads compiled code: half a second of start-up, part of no time."""
  from pgsvc_jax import range_coder

  range_coder.Decoder(b'').column(np.zeros(0, np.int64))


def main() -> None:
  """Reads, renders and writes; says how long each took."""
  data = pathlib.Path(_INPUT.value).read_bytes()
  with command.about(_INPUT.value):
    header = bitstream.read_header(data)
  pixels = header.width * header.height * _SCALE.value**2
  if pixels > _MAX_PIXELS.value:
    raise ValueError(
        f'{_INPUT.value}: {header.width} x {header.height} at scale'
        f' {_SCALE.value:g} is more than --max_pixels={_MAX_PIXELS.value}'
    )
  caches.announce()
  _start_decoder()
  times = [time.perf_counter()]
  with command.about(_INPUT.value):
    layered = bitstream.read_layers(data, _LAYERS.value)
  times.append(time.perf_counter())
  image = render.render_picture(render.scaled(layered, _SCALE.value))
  times.append(time.perf_counter())
  media.write_picture(_OUTPUT.value, image)
  times.append(time.perf_counter())
  entropy, rendering, writing = (
      (b - a) * 1e3 for a, b in zip(times, times[1:])
  )
  print(
      f'{len(layered.layer_sizes)} of {len(header.layers)} layers,'
      f' {sum(layered.layer_sizes)} splats: entropy decoding {entropy:.0f} ms,'
      f' rendering {rendering:.0f} ms, writing {writing:.0f} ms',
      file=sys.stderr,
  )


if __name__ == '__main__':
  command.run(main)
