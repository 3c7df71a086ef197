"""Decodes a .pgsvc file, whole or cut, into a picture or a video.

python -m launch.decode --input=FILE.pgsvc --output=PICTURE.png [--layers=K] \
    [--scale=S]
python -m launch.decode --input=FILE.pgsvc --output=VIDEO.mp4 [--layers=K]
    [--start=FRAME|SECONDSs] [--frames=N]
python -m launch.decode --input=FILE.pgsvc --output=PICTURE.png --frame=N

A cut file gives the layers that are whole, a cut video the GOPs too. A picture
has the size that the highest layer shown was fitted at, or S times that of the
whole file. An output without suffix is a folder of pictures. Needs no JAX.
"""

import math
import pathlib
import sys
import time

from absl import flags
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import playback

from . import caches
from . import command
from .videos import decoding as decode_video

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
_SCALE = flags.DEFINE_float(
    'scale',
    None,
    'size of the picture / that of the whole file, any positive number;'
    ' default: the size of the highest layer shown',
)
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
_BACKGROUND = flags.DEFINE_string(
    'background',
    None,
    'of a picture with alpha: the color to put it on, such as white or #ffffff',
)
_DEPTH = flags.DEFINE_enum(
    'depth', '8', ['8', '16'], 'bits a sample of a picture; 16: PNG and TIFF'
)
_MAX_PIXELS = flags.DEFINE_integer(
    'max_pixels', 2**27, 'refuse larger pictures: a small file can claim one'
)

flags.declare_key_flag('cache')


def _start_decoder() -> None:
  """Loads compiled code: half a second of start-up, part of no time."""
  from pgsvc_jax.codec import range_coder

  range_coder.Decoder(b'').column(np.zeros(0, np.int64))


def _output_shape(header: syntax.Header, num_bytes: int) -> tuple[int, int]:
  """Height and width of the picture to write."""
  if _SCALE.value is not None:
    return resolution.scaled_shape(header.height, header.width, _SCALE.value)
  return header.shown_shape(num_bytes, _LAYERS.value)


def main() -> None:
  """Reads, renders and writes; says how long each took."""
  if command.is_video(_INPUT.value):
    with open(_INPUT.value, 'rb') as file:
      with command.about(_INPUT.value):
        reader = stream.StreamReader(file)
      _decode_video(reader)
    return
  for flag in (_START, _FRAMES, _FRAME):
    if flag.value is not None:
      raise ValueError(
          f'{_INPUT.value} is a picture: --{flag.name} is for videos'
      )
  _decode_picture()


def _prepare(height: int, width: int) -> None:
  """Refuses what is too large to show, and loads what has to be compiled."""
  if height * width > _MAX_PIXELS.value:
    raise ValueError(
        f'{_INPUT.value}: {width} x {height} is more than'
        f' --max_pixels={_MAX_PIXELS.value}'
    )
  caches.announce()
  _start_decoder()


def _decode_video(reader: stream.StreamReader) -> None:
  parts = _START.value is not None or _FRAMES.value is not None
  if _FRAME.value is not None and parts:
    raise ValueError('--frame is for one picture: leave out --start, --frames')
  header = reader.header
  with command.about(_INPUT.value):
    index = playback.frame_at(reader, _FRAME.value or _START.value or '0')
    shape = playback.shown_shape(reader, _LAYERS.value, index, _SCALE.value)
  # The motion field is that of whole frames, whatever is shown.
  _prepare(*max((header.height, header.width), shape, key=math.prod))
  if _FRAME.value is None:
    if _BACKGROUND.value or _DEPTH.value != '8':
      raise ValueError('--background and --depth are for pictures')
    decode_video.write_video(
        reader,
        _INPUT.value,
        _OUTPUT.value,
        num_layers=_LAYERS.value,
        first_frame=index,
        num_frames=_FRAMES.value,
        shape=shape,
        one_by_one=_TIMES.value,
    )
    return
  with command.about(_INPUT.value):
    (frame,) = playback.frames(
        reader, num_layers=_LAYERS.value, first_frame=index, num_frames=1
    )
  _write_picture(_render(render.resized(frame.layered, *shape)))
  seconds = float((frame.time - reader.gop(0).start) * reader.header.time_base)
  print(
      f'frame {index} at {seconds:.3f} s, {len(frame.layered.layer_sizes)} of'
      f' {reader.header.num_layers} layers, {sum(frame.layered.layer_sizes)}'
      ' splats',
      file=sys.stderr,
  )


def _render(layered: types.LayeredSplats) -> np.ndarray:
  dtype = np.uint16 if _DEPTH.value == '16' else np.uint8
  return render.render_picture(layered, dtype)


def _write_picture(image: np.ndarray, metadata: bytes = b'') -> None:
  suffix = pathlib.Path(_OUTPUT.value).suffix.lower()
  if image.shape[2] in (2, 4) and not _BACKGROUND.value:
    if suffix in ('.jpg', '.jpeg'):
      raise ValueError(
          f'{_OUTPUT.value}: JPEG holds no alpha: take .png, or'
          ' --background=white to put it on a color'
      )
  media.write_picture(
      _OUTPUT.value,
      image,
      background=_BACKGROUND.value,
      **media.read_metadata(metadata),
  )


def _decode_picture() -> None:
  data = pathlib.Path(_INPUT.value).read_bytes()
  with command.about(_INPUT.value):
    header = bitstream.read_header(data)
    height, width = _output_shape(header, len(data))
  _prepare(height, width)
  times = [time.perf_counter()]
  with command.about(_INPUT.value):
    layered = bitstream.read_layers(data, _LAYERS.value)
  times.append(time.perf_counter())
  image = _render(render.resized(layered, height, width))
  times.append(time.perf_counter())
  _write_picture(image, header.metadata)
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
