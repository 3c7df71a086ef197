"""Frames of a .pgsvc video into a video file, as a stream.

Three stages, each a frame ahead of the next, so that both entropy decoding and
writing, which are one thread each, go on while the cores render.
"""

import collections
from collections.abc import Iterator
import concurrent.futures
import contextlib
import sys
import time
from typing import Any, TypeVar

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax import render
from pgsvc_jax.codec import stream
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import playback

from .. import command

_T = TypeVar('_T')

# Items that a stage has ready: enough for frames that differ in cost.
_DEPTH = 3


@contextlib.contextmanager
def _timing(seconds: collections.Counter[str], stage: str) -> Iterator[None]:
  """Adds the time that the block takes."""
  begin = time.perf_counter()
  try:
    yield
  finally:
    seconds[stage] += time.perf_counter() - begin


def ahead(items: Iterator[_T], depth: int = _DEPTH) -> Iterator[_T]:
  """The same items, made in a thread, a few before they are asked for.

  An exception in that thread is raised here, after the items before it.
  """
  end: Any = object()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    make = lambda: pool.submit(next, items, end)
    waiting = collections.deque(make() for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
      waiting.append(make())
      yield item


def _to_rgb(image: UInt8[np.ndarray, 'h w c']) -> UInt8[np.ndarray, 'h w 3']:
  return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def write_video(
    reader: stream.StreamReader,
    input_path: str,
    output_path: str,
    *,
    num_layers: int | None,
    first_frame: int,
    num_frames: int | None,
    shape: tuple[int, int],
    one_by_one: bool,
) -> None:
  """Decodes, renders and writes; says what and how fast.

  Args:
    reader: of the file.
    input_path: of the file, for messages.
    output_path: its suffix says the format; none: a folder of pictures.
    num_layers: to show; None for all that are whole.
    first_frame: the first to write.
    num_frames: at most; None for all there are.
    shape: height and width to show them at.
    one_by_one: let no stage run while another does.

  Raises:
    ValueError: the file is damaged, or there is not what is asked for.
  """
  header = reader.header
  if header.channels not in (1, 3):
    raise ValueError(
        f'{input_path}: {header.channels} channels cannot be written as video,'
        ' only as pictures, with --frame'
    )
  form = playback.video_format(header, *shape)
  seconds: collections.Counter[str] = collections.Counter()
  run = (lambda stage: stage) if one_by_one else ahead

  def decode() -> Iterator[playback.Frame]:
    with command.about(input_path):
      frames = playback.frames(
          reader,
          num_layers=num_layers,
          first_frame=first_frame,
          num_frames=num_frames,
      )
      while True:
        with _timing(seconds, 'entropy'):
          frame = next(frames, None)
        if frame is None:
          return
        yield frame

  def draw(
      frames: Iterator[playback.Frame],
  ) -> Iterator[tuple[playback.Frame, UInt8[np.ndarray, 'h w 3']]]:
    for frame in frames:
      with _timing(seconds, 'render'):
        image = render.render_picture(render.resized(frame.layered, *shape))
      yield frame, _to_rgb(image)

  count, layers = 0, set()
  begin = time.perf_counter()
  with (
      video_media.VideoWriter(output_path, form) as writer,
      contextlib.closing(run(draw(run(decode())))) as pictures,
  ):
    for note in writer.notes:
      print(f'{output_path}: {note}', file=sys.stderr)
    for frame, image in pictures:
      with _timing(seconds, 'write'):
        writer.write(image, frame.time, frame.duration)
      count += 1
      layers.add(len(frame.layered.layer_sizes))
  rate = count / (time.perf_counter() - begin)
  entropy, rendering, writing = (
      f'{seconds[stage] / count * 1e3:.1f} ms'
      for stage in ('entropy', 'render', 'write')
  )
  how = 'one after the other' if one_by_one else 'side by side'
  # Asked for a part, nobody looks at the rest.
  is_cut = num_frames is None and not reader.is_complete
  print(
      f'{count} frames, {" or ".join(map(str, sorted(layers)))} of'
      f' {header.num_layers} layers, {rate:.1f} frames a second; a frame:'
      f' entropy decoding {entropy}, rendering {rendering}, writing {writing},'
      f' {how}{"; the file is cut or still being written" if is_cut else ""}',
      file=sys.stderr,
  )
