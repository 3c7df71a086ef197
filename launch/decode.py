"""Decodes a .pgsvc file, whole or cut, into a picture or a video.

pgsvc decode FILE.pgsvc PICTURE.png [--layers=K] [--scale=S]
pgsvc decode FILE.pgsvc VIDEO.mp4 [--layers=K] [--start=FRAME|SECONDSs]
    [--frames=N]
pgsvc decode FILE.pgsvc PICTURE.png --frame=FRAME|SECONDSs
pgsvc decode FILE.pgsvc PART.png --region=X,Y,WIDTH,HEIGHT [--scale=S]

A cut file gives the layers that are whole, a cut video the GOPs too. A picture
has the size that the highest layer shown was fitted at, or S times that of the
whole file. An output without suffix is a folder of pictures. Needs no JAX.
"""

from collections.abc import Iterator
import contextlib
import itertools
import pathlib
import sys
import time

from absl import flags
import numpy as np
from PIL import Image

from pgsvc_jax import decoder
from pgsvc_jax import media
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import av_writer
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import playback

from . import caches
from . import command

_INPUT, _OUTPUT = command.define_paths(
    'a .pgsvc file', 'picture or video to write; the suffix says the format'
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
_REGION = flags.DEFINE_string(
    'region',
    None,
    'left, top, width and height of a part, in pixels of the result; only the'
    ' splats that reach it are evaluated',
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


def main() -> None:
  """Decodes and writes; says what, and how long it took."""
  with open(_INPUT.value, 'rb') as file:
    with command.about(_INPUT.value):
      reader = stream.StreamReader(file)
    is_one = not reader.is_video or _FRAME.value is not None
    _check_flags(reader.is_video)
    if _REGION.value is not None:
      _write_picture(reader, iter([_decode_region(reader, is_one)]))
      return
    with command.about(_INPUT.value):
      frames = decoder.decode_frames(
          reader,
          _LAYERS.value,
          first_frame=_FRAME.value or _START.value or 0,
          num_frames=1 if is_one else _FRAMES.value,
          scale=_SCALE.value,
          max_pixels=_MAX_PIXELS.value,
          depth=int(_DEPTH.value),
          side_by_side=not (is_one or _TIMES.value),
      )
    mixes = reader.header.version == syntax.VERSION
    caches.prepare(reader.header.channels, mixes=mixes)
    with contextlib.closing(_about_input(frames)) as frames:
      (_write_picture if is_one else _write_video)(reader, frames)


def _decode_region(
    reader: stream.StreamReader, is_one: bool
) -> decoder.DecodedFrame:
  if not is_one:
    raise ValueError('--region is for pictures: --frame=N says which')
  numbers = _REGION.value.split(',')
  try:
    left, top, width, height = map(int, numbers)
  except ValueError:
    raise ValueError(
        f'--region={_REGION.value} is not four whole numbers: X,Y,WIDTH,HEIGHT'
    ) from None
  with command.about(_INPUT.value):
    return decoder.decode_region(
        reader,
        (left, top, width, height),
        _LAYERS.value,
        first_frame=_FRAME.value or 0,
        scale=_SCALE.value,
        max_pixels=_MAX_PIXELS.value,
        depth=int(_DEPTH.value),
    )


def _check_flags(is_video: bool) -> None:
  """Refuses flags that do not go with the input, or with one another."""
  parts = [x for x in (_START, _FRAMES) if x.value is not None]
  if _FRAME.value is not None and parts:
    raise ValueError('--frame is for one picture: leave out --start, --frames')
  if not is_video:
    command.refuse(
        [*parts, _FRAME], f'{_INPUT.value} is a picture', 'for videos'
    )
  elif _FRAME.value is not None:
    return
  if is_video and (_BACKGROUND.value or _DEPTH.value != '8'):
    raise ValueError('--background and --depth are for pictures')
  if is_video and _holds_one_picture(_OUTPUT.value):
    raise ValueError(
        f'{_INPUT.value} is a video: {_OUTPUT.value} holds one picture;'
        ' --frame=N says which, or give a folder or .mp4'
    )


def _holds_one_picture(path: str) -> bool:
  suffix = pathlib.Path(path).suffix.lower()
  if suffix in av_writer.ENCODINGS:
    return False
  return suffix in Image.registered_extensions()


def _about_input(
    frames: Iterator[decoder.DecodedFrame],
) -> Iterator[decoder.DecodedFrame]:
  """The same frames; what is wrong with the file names it."""
  with command.about(_INPUT.value):
    yield from frames


def _write_picture(
    reader: stream.StreamReader, frames: Iterator[decoder.DecodedFrame]
) -> None:
  (frame,) = frames
  begin = time.perf_counter()
  if frame.pixels.shape[2] in (2, 4) and not _BACKGROUND.value:
    if pathlib.Path(_OUTPUT.value).suffix.lower() in ('.jpg', '.jpeg'):
      raise ValueError(
          f'{_OUTPUT.value}: JPEG holds no alpha: take .png, or'
          ' --background=white to put it on a color'
      )
  metadata = b'' if reader.is_video else reader.header.metadata
  media.write_picture(
      _OUTPUT.value,
      frame.pixels,
      background=_BACKGROUND.value,
      **media.read_metadata(metadata),
  )
  seconds = *frame.seconds, time.perf_counter() - begin
  where = ''
  if reader.is_video:
    start = frame.time - reader.gop(0).start
    start = float(start * reader.header.time_base)
    where = f'frame {frame.index} at {start:.3f} s, '
  print(
      f'{_OUTPUT.value}: {where}{frame.num_layers} of'
      f' {reader.header.num_layers} layers, {frame.num_splats} splats;'
      f' {_stages(seconds)}',
      file=sys.stderr,
  )


def _stages(seconds: tuple[float, ...]) -> str:
  entropy, rendering, writing = (f'{x * 1e3:.1f} ms' for x in seconds)
  return f'entropy decoding {entropy}, rendering {rendering}, writing {writing}'


def _write_video(
    reader: stream.StreamReader, frames: Iterator[decoder.DecodedFrame]
) -> None:
  """Writes frames as they come; says what and how fast."""
  header = reader.header
  if header.channels not in (1, 3):
    raise ValueError(
        f'{_INPUT.value}: {header.channels} channels cannot be written as'
        ' video, only as pictures, with --frame'
    )
  count, layers = 0, set()
  seconds = np.zeros(3)
  begin = time.perf_counter()
  first = next(frames)
  form = playback.video_format(header, *first.pixels.shape[:2])
  with video_media.VideoWriter(_OUTPUT.value, form) as writer:
    for note in writer.notes:
      print(f'{_OUTPUT.value}: {note}', file=sys.stderr)
    for frame in itertools.chain([first], frames):
      start = time.perf_counter()
      writer.write(_to_rgb(frame.pixels), frame.time, frame.duration)
      seconds += (*frame.seconds, time.perf_counter() - start)
      count += 1
      layers.add(frame.num_layers)
  rate = count / (time.perf_counter() - begin)
  how = 'one after the other' if _TIMES.value else 'side by side'
  # Asked for a part, nobody looks at the rest.
  is_cut = _FRAMES.value is None and not reader.is_complete
  print(
      f'{_OUTPUT.value}: {count} frames,'
      f' {" or ".join(map(str, sorted(layers)))} of {header.num_layers} layers,'
      f' {rate:.1f} frames a second; a frame: {_stages(seconds / count)},'
      f' {how}{"; the file is cut or still being written" if is_cut else ""}',
      file=sys.stderr,
  )


def _to_rgb(image: np.ndarray) -> np.ndarray:
  return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


if __name__ == '__main__':
  command.run(main)
