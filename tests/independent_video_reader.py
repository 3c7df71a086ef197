"""A second reader of .pgsvc videos, from docs/format_video.md alone.

It shares no line with `pgsvc_jax`, and holds the whole file in memory. Names
are those of the page.
"""

import dataclasses
import math
import struct
from typing import Any
import zlib

from tests import independent_decoder

_require = independent_decoder.require
_MAGIC = bytes.fromhex('895047530D0A1A0A')


@dataclasses.dataclass
class Gop:
  """An entry, and where its packets are: (start, end, checksum) by layer."""

  starts: list[int]
  end: int
  sizes: list[int]
  checksums: list[int]
  places: list[tuple[int, int]]


@dataclasses.dataclass
class Video:
  """A file, as far as it is there.

  `packets` has, for each GOP, those that are whole and undamaged, up to the
  first that is cut; None for a damaged one.
  """

  header: dict[str, Any]
  gops: list[Gop]
  whole: bool
  packets: list[list[bytes | None]]


def _crc_fits(data: bytes) -> bool:
  return struct.unpack('<I', data[-4:])[0] == zlib.crc32(data[:-4])


def _read_header(data: bytes) -> dict[str, Any]:
  _require(len(data) >= 56, 'header: cut')
  names = (
      'version flags S width height C L order primaries transfer matrix full'
      ' reserved tn td fn fd an ad'
  ).split()
  values = struct.unpack('<BBHIIBB6B6I', data[8:52])
  header: dict[str, Any] = dict(zip(names, values))
  size = header['S']
  _require(data[:8] == _MAGIC, 'header: magic')
  _require(header['version'] in (3, 5), 'header: no video')
  begin = 52 if header['version'] == 3 else 52 + 8 * header['L']
  _require(begin + 4 <= size <= len(data), 'header: size')
  _require(_crc_fits(data[:size]), 'header: checksum')
  _require(header['flags'] == header['reserved'] == 0, 'header: flags')
  width, height = header['width'], header['height']
  _require(0 < width and 0 < height and width * height <= 2**28, 'size')
  _require(1 <= header['C'] <= 4 and header['L'] >= 1, 'header: C, L')
  _require(header['order'] <= 1 and header['full'] <= 1, 'header: order, range')
  for a, b, may_be_unknown in (
      ('tn', 'td', 0),
      ('fn', 'fd', 1),
      ('an', 'ad', 0),
  ):
    n, d = header[a], header[b]
    unknown = n == d == 0
    fine = n >= 1 and d >= 1 and math.gcd(n, d) == 1
    _require(fine or (may_be_unknown and unknown), f'header: {a}/{b}')
  header['native'] = [(width, height)] * header['L']
  if header['version'] == 5:
    header['native'] = list(struct.iter_unpack('<II', data[52:begin]))
    below = (1, 1)
    for native in header['native']:
      for least, side, most in zip(below, native, (width, height)):
        _require(least <= side <= most, 'header: native size')
      below = native
  header['metadata'] = data[begin : size - 4]
  return header


class Bytes:
  """Fields, one after the other."""

  def __init__(self, data: bytes):
    self.data = data
    self.at = 0

  def take(self, n: int) -> bytes:
    _require(self.at + n <= len(self.data), 'entry: too short')
    self.at += n
    return self.data[self.at - n : self.at]

  def varint(self) -> int:
    groups = []
    while True:
      byte = self.take(1)[0]
      groups.append(byte % 128)
      if byte < 128:
        break
      _require(len(groups) < 8, 'varint: too long')
    _require(len(groups) == 1 or groups[-1] != 0, 'varint: not the shortest')
    return sum(group << 7 * k for k, group in enumerate(groups))


def _read_entry(data: bytes, num_layers: int, before: Gop | None) -> Gop:
  _require(len(data) >= 6 and _crc_fits(data), 'entry: checksum')
  fields = Bytes(data[2:-4])
  num_frames = fields.varint()
  _require(1 <= num_frames <= 4096, 'entry: F')
  s = fields.varint()
  durations, last = [], None
  first = (before.end if before else 0) + (
      s // 2 if s % 2 == 0 else -(s + 1) // 2
  )
  while len(durations) < num_frames:
    duration, count = fields.varint(), fields.varint()
    _require(duration >= 1 and count >= 1 and duration != last, 'entry: pair')
    _require(count <= num_frames - len(durations), 'entry: too many durations')
    durations += [duration] * count
    last = duration
  sizes, checksums = [], []
  for _ in range(num_layers):
    sizes.append(fields.varint())
    checksums += struct.unpack('<I', fields.take(4))
    _require(sizes[-1] < 2**32, 'entry: size of a packet')
  _require(fields.at == len(fields.data), 'entry: bytes left')
  starts = [first]
  for duration in durations:
    starts.append(starts[-1] + duration)
  end = starts.pop()
  _require(abs(end) <= 2**53 and abs(first) <= 2**53, 'entry: time')
  _require(before is None or first >= before.end, 'entry: start')
  return Gop(starts, end, sizes, checksums, [])


def _read_by_time(data: bytes, at: int, num_layers: int) -> tuple[list, bool]:
  gops = []
  while True:
    if at + 2 > len(data):
      return gops, False
    (size,) = struct.unpack('<H', data[at : at + 2])
    if size == 0:
      _require(at + 2 == len(data), 'bytes after the end mark')
      return gops, True
    if at + size > len(data):
      return gops, False
    _require(len(gops) < 2**18, 'too many GOPs')
    before = gops[-1] if gops else None
    gop = _read_entry(data[at : at + size], num_layers, before)
    at += size
    for packet_size in gop.sizes:
      gop.places.append((at, at + packet_size))
      at += packet_size
    gops.append(gop)


def _read_by_quality(
    data: bytes, at: int, num_layers: int
) -> tuple[list, bool]:
  _require(at + 8 <= len(data), 'directory: cut')
  count, size = struct.unpack('<II', data[at : at + 8])
  directory = data[at : at + 8 + size + 4]
  _require(len(directory) == size + 12, 'directory: cut')
  _require(_crc_fits(directory), 'directory: checksum')
  _require(count <= 2**18, 'too many GOPs')
  entries = Bytes(directory[8:-4])
  gops = []
  for _ in range(count):
    (entry_size,) = struct.unpack('<H', entries.take(2))
    entries.at -= 2
    before = gops[-1] if gops else None
    gops.append(_read_entry(entries.take(entry_size), num_layers, before))
  _require(entries.at == size, 'directory: bytes left')
  at += size + 12
  for layer in range(num_layers):
    for gop in gops:
      gop.places.append((at, at + gop.sizes[layer]))
      at += gop.sizes[layer]
  _require(len(data) <= at, 'bytes after the last packet')
  return gops, len(data) == at


def read(data: bytes) -> Video:
  """Reads a file, which may be cut.

  Raises:
    independent_decoder.FormatError: the page does not allow it.
  """
  header = _read_header(data)
  read_gops = (_read_by_time, _read_by_quality)[header['order']]
  gops, whole = read_gops(data, header['S'], header['L'])
  packets = []
  for gop in gops:
    packets.append([])
    for (start, end), checksum in zip(gop.places, gop.checksums):
      if end > len(data):
        break
      packet = data[start:end]
      packets[-1].append(packet if zlib.crc32(packet) == checksum else None)
  return Video(header, gops, whole, packets)
