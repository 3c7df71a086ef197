"""Decodes a .pgsvc file, whole or cut, into a picture or a video.

python -m launch.decode --input=FILE.pgsvc --output=PICTURE.png [--layers=K]
python -m launch.decode --input=FILE.pgsvc --output=VIDEO.mp4 [--layers=K]
    [--start=FRAME|SECONDSs] [--frames=N]
python -m launch.decode --input=FILE.pgsvc --output=PICTURE.png --frame=N

A cut file gives the layers that are whole, a cut video the GOPs too. An output
without suffix is a folder of pictures. Needs no JAX.
"""

import pathlib
import sys
import time

from absl import flags
import numpy as np

from pgsvc_jax import bitstream
from pgsvc_jax import media
from pgsvc_jax import playback
from pgsvc_jax import render
from pgsvc_jax import video_bitstream

from . import caches
from . import command
from . import decode_video

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_OUTPUT = flags.DEFINE_string(
    'output',
    None,
    'picture or video to write; the suffix says the format',
    required=True,
)
_LAYERS = flags.DEFINE_integer(
    'layers', None, 'layers to show, the base counted; default: all there are'
)
_SCALE = flags.DEFINE_float('scale', 1.0, 'size of the picture / its own size')
_START = flags.DEFINE_string(
    'start', None, 'of a video: the first frame (48) or its time (2.5s)'
)
_FRAMES = flags.DEFINE_integer('frames', None, 'of a video: frames at most')
_FRAME = flags.DEFINE_string(
    'frame', None, 'of a video, into a picture: the frame (48) or time (2.5s)'
)
_TIMES = flags.DEFINE_bool(
    'times', False, 'of a video: one stage after the other, to time each alone'
)
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
  if command.is_video(_INPUT.value):
    with open(_INPUT.value, 'rb') as file:
      with command.about(_INPUT.value):
        reader = video_bitstream.VideoReader(file)
      _prepare(reader.header.width, reader.header.height)
      _decode_video(reader)
    return
  for flag in (_START, _FRAMES, _FRAME):
    if flag.value is not None:
      raise ValueError(
          f'{_INPUT.value} is a picture: --{flag.name} is for videos'
      )
  _decode_picture()


def _prepare(width: int, height: int) -> None:
  """Refuses what is too large, and loads what has to be compiled."""
  if width * height * _SCALE.value**2 > _MAX_PIXELS.value:
    raise ValueError(
        f'{_INPUT.value}: {width} x {height} at scale {_SCALE.value:g} is more'
        f' than --max_pixels={_MAX_PIXELS.value}'
    )
  caches.announce()
  _start_decoder()


def _decode_video(reader: video_bitstream.VideoReader) -> None:
  if _FRAME.value is None:
    decode_video.write_video(
        reader,
        _INPUT.value,
        _OUTPUT.value,
        num_layers=_LAYERS.value,
        start=_START.value or '0',
        num_frames=_FRAMES.value,
        scale=_SCALE.value,
        one_by_one=_TIMES.value,
    )
    return
  if _START.value is not None or _FRAMES.value is not None:
    raise ValueError('--frame is for one picture: leave out --start, --frames')
  with command.about(_INPUT.value):
    index = playback.frame_at(reader, _FRAME.value)
    (frame,) = playback.frames(
        reader, num_layers=_LAYERS.value, first_frame=index, num_frames=1
    )
  image = render.render_picture(render.scaled(frame.layered, _SCALE.value))
  media.write_picture(_OUTPUT.value, image)
  seconds = float((frame.time - reader.gop(0).start) * reader.header.time_base)
  print(
      f'frame {index} at {seconds:.3f} s, {len(frame.layered.layer_sizes)} of'
      f' {reader.header.num_layers} layers, {sum(frame.layered.layer_sizes)}'
      ' splats',
      file=sys.stderr,
  )


def _decode_picture() -> None:
  data = pathlib.Path(_INPUT.value).read_bytes()
  with command.about(_INPUT.value):
    header = bitstream.read_header(data)
  _prepare(header.width, header.height)
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
