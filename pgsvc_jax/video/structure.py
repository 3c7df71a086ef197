"""What PyAV does not say of a file: how players crop it, and if it was cut.

Only the tables of contents of ISO files (MP4, MOV), Matroska (MKV, WebM) and
RIFF (AVI) are read; of other files nothing is said.
"""

import collections
from collections.abc import Iterator
from fractions import Fraction
import os
import struct
from typing import BinaryIO, NamedTuple

_ISO_SIZE = 8
# Of a sample description of video, before the boxes in it.
_VISUAL_ENTRY_SIZE = 78
_SEGMENT, _TRACKS, _TRACK, _TRACK_TYPE, _VIDEO, _CLUSTER = (
    *(0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0, 0x1F43B675),
)
_PIXEL_CROPS = (0x54CC, 0x54DD, 0x54BB, 0x54AA)  # left, right, top, bottom
_VIDEO_TRACK = 1


class Crop(NamedTuple):
  """Pixels that players leave out on each side of the coded picture."""

  left: int = 0
  right: int = 0
  top: int = 0
  bottom: int = 0


class _Part(NamedTuple):
  """A box, element or chunk: its name, and where its content is."""

  name: bytes | int
  begin: int
  end: int


def crops(path: str | os.PathLike[str], kind: str) -> list[Crop]:
  """How each track of video is cropped.

  Args:
    path: the file.
    kind: FFmpeg's name of its format.

  Returns:
    Of the video tracks, in order; empty where the format has no such fields.
  """
  with open(path, 'rb') as file:
    try:
      if kind.startswith('mov'):
        return list(_iso_crops(file))
      if kind.startswith('matroska'):
        return list(_matroska_crops(file))
    except (struct.error, IndexError):  # FFmpeg was content with less.
      pass
  return []


def is_cut(path: str | os.PathLike[str], kind: str) -> bool:
  """Whether the file ends before its last part does.

  Args:
    path: the file.
    kind: FFmpeg's name of its format.
  """
  walk = next((f for name, f in _WALKS.items() if kind.startswith(name)), None)
  if walk is None:
    return False
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    try:
      parts = collections.deque(walk(file, 0, size), maxlen=1)
    except (struct.error, IndexError):
      return True
  if not parts or parts[0].end <= size:
    return False
  # In a whole video other boxes may reach too far, and no player minds; where
  # the frames are is for the index of the container to say.
  return not kind.startswith('mov') or parts[0].name == b'moof'


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[_Part]:
  """The boxes of an ISO file or of a box of it."""
  while begin + _ISO_SIZE <= end:
    file.seek(begin)
    size, name = struct.unpack('>I4s', file.read(8))
    content = begin + 8
    if size == 1:
      (size,) = struct.unpack('>Q', file.read(8))
      content += 8
    elif size == 0:  # To the end.
      size = end - begin
    if begin + size < content:
      return
    yield _Part(name, content, begin + size)
    begin += size


def _iso_crops(file: BinaryIO) -> Iterator[Crop]:
  def inside(parts: list[_Part], name: bytes) -> list[_Part]:
    return [
        part
        for parent in parts
        for part in _boxes(file, parent.begin, parent.end)
        if part.name == name
    ]

  whole = _Part(b'', 0, os.fstat(file.fileno()).st_size)
  for track in inside(inside([whole], b'moov'), b'trak'):
    media = inside([track], b'mdia')
    (handler,) = inside(media, b'hdlr')[:1] or [None]
    if handler is None:
      continue
    file.seek(handler.begin + 8)
    if file.read(4) != b'vide':
      continue
    crop = Crop()
    tables = inside(inside(media, b'minf'), b'stbl')
    for table in inside(tables, b'stsd'):
      for entry in _boxes(file, table.begin + 8, table.end):
        file.seek(entry.begin + 24)
        shape = struct.unpack('>HH', file.read(4))
        within = _Part(b'', entry.begin + _VISUAL_ENTRY_SIZE, entry.end)
        for clap in inside([within], b'clap'):
          file.seek(clap.begin)
          crop = _clean_aperture(*shape, struct.unpack('>8i', file.read(32)))
        break  # FFmpeg, too, reads the first description.
    yield crop


def _clean_aperture(width: int, height: int, values: tuple[int, ...]) -> Crop:
  """The crop of a `clap` box; none where it is no whole number of pixels."""
  if not all(values[1::2]):
    return Crop()
  w, h, x, y = (Fraction(*values[k : k + 2]) for k in range(0, 8, 2))
  left, top = (width - w) / 2 + x, (height - h) / 2 + y
  sides = (left, width - w - left, top, height - h - top)
  if min(w, h) <= 0 or any(side < 0 or side.denominator > 1 for side in sides):
    return Crop()
  return Crop(*map(int, sides))


def _number(file: BinaryIO, keep_marker: bool) -> int | None:
  """A number of EBML; None for a size that is unknown."""
  first = file.read(1)[0]
  length = 9 - first.bit_length()
  if length > 8:
    raise IndexError('no number of EBML')
  value = int.from_bytes(bytes([first]) + file.read(length - 1), 'big')
  if keep_marker:
    return value
  value &= (1 << 7 * length) - 1
  return None if value == (1 << 7 * length) - 1 else value


def _elements(file: BinaryIO, begin: int, end: int) -> Iterator[_Part]:
  """The elements of a Matroska file or of an element of it."""
  while begin < end:
    file.seek(begin)
    name = _number(file, keep_marker=True)
    size = _number(file, keep_marker=False)
    content = file.tell()
    begin = end if size is None else content + size
    yield _Part(name or 0, content, begin)


def _matroska_crops(file: BinaryIO) -> Iterator[Crop]:
  end = os.fstat(file.fileno()).st_size
  for segment in _elements(file, 0, end):
    if segment.name != _SEGMENT:
      continue
    for tracks in _elements(file, segment.begin, min(segment.end, end)):
      if tracks.name == _CLUSTER:  # The frames; the tracks come before.
        return
      if tracks.name != _TRACKS:
        continue
      for track in _elements(file, tracks.begin, tracks.end):
        if track.name != _TRACK:
          continue
        fields = {x.name: x for x in _elements(file, track.begin, track.end)}
        kind = fields.get(_TRACK_TYPE)
        if kind is None or _VIDEO not in fields:
          continue
        if _value(file, kind) == _VIDEO_TRACK:
          video = fields[_VIDEO]
          values = {
              x.name: _value(file, x)
              for x in _elements(file, video.begin, video.end)
              if x.name in _PIXEL_CROPS
          }
          yield Crop(*(values.get(name, 0) for name in _PIXEL_CROPS))


def _value(file: BinaryIO, part: _Part) -> int:
  if part.end - part.begin > 8:
    raise IndexError('no number')
  file.seek(part.begin)
  return int.from_bytes(file.read(part.end - part.begin), 'big')


def _chunks(file: BinaryIO, begin: int, end: int) -> Iterator[_Part]:
  """The chunks of a RIFF file."""
  while begin + 8 <= end:
    file.seek(begin)
    name, size = struct.unpack('<4sI', file.read(8))
    if name != b'RIFF' or size in (0, 0xFFFFFFFF):  # Written to a pipe.
      return
    yield _Part(name, begin + 8, begin + 8 + size)
    begin += 8 + size + size % 2


_WALKS = {'mov': _boxes, 'matroska': _elements, 'avi': _chunks}
