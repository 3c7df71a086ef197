"""What PyAV neither says of a file nor writes into it.

How players crop it and whether it was cut, by the tables of contents of ISO
files (MP4, MOV), Matroska (MKV, WebM) and RIFF (AVI); of other files nothing is
said. And the shape of pixels in Matroska, and how long frames of GIF and WebP
last.
"""

import collections
from collections.abc import Iterator
from fractions import Fraction
import itertools
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


_SEEK_HEAD, _SEEK, _SEEK_ID, _SEEK_POSITION, _VOID, _INFO = (
    *(0x114D9B74, 0x4DBB, 0x53AB, 0x53AC, 0xEC, 0x1549A966),
)
_DISPLAY_SHAPE = (0x54B0, 0x54BA)
_DISPLAY_UNIT = 0x54B2
_PIXEL_SHAPE = (0xB0, 0xBA)


def _element(name: int, content: bytes) -> bytes:
  """An element of EBML, its size in as few bytes as can be."""
  length = next(k for k in range(1, 9) if len(content) < (1 << 7 * k) - 1)
  size = (1 << 7 * length | len(content)).to_bytes(length, 'big')
  return _bytes_of(name) + size + content


def set_matroska_aspect(path: str | os.PathLike[str], aspect: Fraction) -> None:
  """Writes the shape of pixels into a file that FFmpeg has written.

  The tables grow into the empty element before them, so that all else stays
  where it is.

  Args:
    path: the file, of one video track.
    aspect: width of a pixel divided by its height.

  Raises:
    ValueError: the file is not built like that.
  """
  with open(path, 'r+b') as file:
    end = os.fstat(file.fileno()).st_size
    (segment,) = [x for x in _elements(file, 0, end) if x.name == _SEGMENT]
    parts = list(
        itertools.islice(_elements(file, segment.begin, segment.end), 4)
    )
    if [x.name for x in parts] != [_SEEK_HEAD, _VOID, _INFO, _TRACKS]:
      raise ValueError('the tables of the file are not where they should be')
    head, _, info, tracks = parts
    infos = _element(_INFO, _content(file, info))
    moved = infos + _with_aspect(file, tracks, aspect)
    begin = tracks.end - len(moved)
    room = begin - head.end
    # One more byte would need a longer size, and so be two.
    void = next(
        (
            text
            for size in range(room - 9, room - 1)
            if size >= 0 and len(text := _element(_VOID, bytes(size))) == room
        ),
        None,
    )
    if void is None:
      raise ValueError('there is no room for the shape of the pixels')
    places = {_INFO: begin, _TRACKS: begin + len(infos)}
    for seek in _elements(file, head.begin, head.end):
      fields = {x.name: x for x in _elements(file, seek.begin, seek.end)}
      if seek.name == _SEEK and _value(file, fields[_SEEK_ID]) in places:
        place = places[_value(file, fields[_SEEK_ID])]
        field = fields[_SEEK_POSITION]
        size = field.end - field.begin
        file.seek(field.begin)
        file.write((place - segment.begin).to_bytes(size, 'big'))
    file.seek(head.end)
    file.write(void + moved)


def _bytes_of(number: int) -> bytes:
  return number.to_bytes((number.bit_length() + 7) // 8, 'big')


def _content(file: BinaryIO, part: _Part) -> bytes:
  file.seek(part.begin)
  return file.read(part.end - part.begin)


def _with_aspect(file: BinaryIO, part: _Part, aspect: Fraction) -> bytes:
  """The tables of tracks, or a part of them, with the shape of the pixels."""
  if part.name not in (_TRACKS, _TRACK, _VIDEO):
    return _element(part.name, _content(file, part))
  fields = list(_elements(file, part.begin, part.end))
  texts = [
      _with_aspect(file, x, aspect)
      for x in fields
      if x.name not in (*_DISPLAY_SHAPE, _DISPLAY_UNIT)
  ]
  if part.name == _VIDEO:
    sides = {x.name: x for x in fields}
    width, height = (_value(file, sides[name]) for name in _PIXEL_SHAPE)
    shape = width * aspect.numerator, height * aspect.denominator
    for name, side in zip(_DISPLAY_SHAPE, shape):
      texts.append(_element(name, _bytes_of(side)))
  return _element(part.name, b''.join(texts))


def set_durations(path: str | os.PathLike[str], durations: list[int]) -> None:
  """Writes how long frames last into a GIF or WebP that FFmpeg has written.

  Args:
    path: the file.
    durations: of all frames; for GIF in hundredths of a second, for WebP in
      thousandths. Of a GIF, all but the last are right already.
  """
  with open(path, 'r+b') as file:
    if file.read(3) == b'GIF':
      data = file.read()
      place = 3 + data.rindex(b'\x21\xf9\x04') + 4
      file.seek(place)
      file.write(struct.pack('<H', min(durations[-1], 0xFFFF)))
      return
    size = os.fstat(file.fileno()).st_size
    place, frames = 12, iter(durations)
    while place + 8 <= size:
      file.seek(place)
      name, length = struct.unpack('<4sI', file.read(8))
      if name == b'ANMF':
        file.seek(place + 8 + 12)
        file.write(min(next(frames), 0xFFFFFF).to_bytes(3, 'little'))
      place += 8 + length + length % 2


_WALKS = {'mov': _boxes, 'matroska': _elements, 'avi': _chunks}
