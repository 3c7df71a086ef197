"""Videos as folders of pictures, with a list of their times."""

from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import json
import pathlib
import re
from typing import Self

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from pgsvc_jax import media
from pgsvc_jax.video import stream_format

_TIMES_FILE = 'times.json'


class FolderReader:
  """A folder of pictures; to `media.VideoReader` as `AvReader` is.

  Attributes:
    format: as the list of times says, or of RGB at a constant rate.
    notes: what reading changes or leaves out.
  """

  def __init__(self, folder: pathlib.Path, frame_rate: Fraction):
    suffixes = Image.registered_extensions()
    self._paths = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes
            and not path.name.startswith('.')
            and path.is_file()
        ),
        key=_natural_key,
    )
    if not self._paths:
      raise ValueError('the folder has no pictures')
    by_stem: dict[str, pathlib.Path] = {}
    for path in self._paths:
      other = by_stem.setdefault(path.stem, path)
      if other is not path:
        raise ValueError(
            f'{other.name} and {path.name} would be two frames: leave one of'
            ' them in the folder'
        )
    first = media.read_picture(self._paths[0])
    height, width, channels = first.pixels.shape
    self.notes = [*first.notes]
    if channels in (2, 4):
      self.notes.append('alpha left out')
    times = folder / _TIMES_FILE
    if times.is_file():
      self.format, self._times = _read_times(times, len(self._paths))
      if (self.format.width, self.format.height) != (width, height):
        raise ValueError(
            f'{_TIMES_FILE} says {self.format.width}x{self.format.height},'
            f' {self._paths[0].name} is {width}x{height}'
        )
      return
    self.format = stream_format.VideoFormat(
        width=width,
        height=height,
        time_base=1 / frame_rate,
        frame_rate=frame_rate,
        matrix=stream_format.RGB_MATRIX,
        full_range=True,
    )
    self._times = [(time, 1) for time in range(len(self._paths))]

  def open(self) -> Self:
    """Itself, for `frames`."""
    return self

  def close(self) -> None:
    """Does nothing: no file stays open."""

  def frames(self, _: Self, start: int) -> Iterator[stream_format.Frame]:
    """Frames from `start` on."""
    if start >= len(self._paths):
      num_frames = len(self._paths)
      raise ValueError(f'it has {num_frames} frames, none from {start} on')
    shape = self.format.height, self.format.width
    for path, times in list(zip(self._paths, self._times))[start:]:
      pixels = media.read_picture(path).pixels
      if pixels.shape[:2] != shape:
        raise ValueError(
            f'the size changes from {shape[1]}x{shape[0]} to'
            f' {pixels.shape[1]}x{pixels.shape[0]} at {path.name}'
        )
      if pixels.shape[2] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
      yield stream_format.Frame(
          pixels=np.ascontiguousarray(pixels[..., :3]),
          time=times[0],
          duration=times[1],
      )


class FolderWriter:
  """Writes frames as pictures, and their times."""

  def __init__(self, folder: pathlib.Path, form: stream_format.VideoFormat):
    self._folder = folder
    self._form = form
    self._times: list[tuple[int, int]] = []
    folder.mkdir()

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Writes the next picture."""
    path = self._folder / f'frame_{len(self._times):06d}.png'
    media.write_picture(path, pixels)
    self._times.append((time, duration))

  def finish(self) -> None:
    """Writes the times."""
    record = {
        key: str(value) if isinstance(value, Fraction) else value
        for key, value in dataclasses.asdict(self._form).items()
    }
    record['times'] = [time for time, _ in self._times]
    record['durations'] = [duration for _, duration in self._times]
    text = json.dumps(record, indent=1) + '\n'
    (self._folder / _TIMES_FILE).write_text(text, encoding='utf-8')

  def abandon(self) -> None:
    """Does nothing: the folder is removed as a whole."""


def _read_times(
    path: pathlib.Path, num_frames: int
) -> tuple[stream_format.VideoFormat, list[tuple[int, int]]]:
  """Reads what `FolderWriter` wrote."""
  try:
    record = json.loads(path.read_text(encoding='utf-8'))
    times = [int(x) for x in record.pop('times')]
    durations = [int(x) for x in record.pop('durations')]
    for key in ('time_base', 'frame_rate', 'pixel_aspect'):
      if record[key] is not None:
        record[key] = Fraction(record[key])
        if record[key] <= 0:
          raise ValueError(f'{key} is not positive')
    form = stream_format.VideoFormat(**record)
  except (
      ArithmeticError,
      AttributeError,
      KeyError,
      TypeError,
      ValueError,
  ) as e:
    raise ValueError(f'{path.name}: {e}') from e
  if not len(times) == len(durations) == num_frames:
    raise ValueError(
        f'{path.name} lists {len(times)} frames, the folder has {num_frames}'
    )
  if any(late >= soon for late, soon in zip(times, times[1:])):
    raise ValueError(f'{path.name}: the times do not increase')
  return form, list(zip(times, durations))


def _natural_key(path: pathlib.Path) -> list[tuple[int, str]]:
  """Sorts numbers in names by value: 2 before 10."""
  parts = re.split(r'([0-9]+)', path.name)
  return [
      (int(part), part) if part.isdecimal() else (-1, part) for part in parts
  ]
