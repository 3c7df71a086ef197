"""A second decoder of video packets, from docs/format_video.md alone.

With the range coder and the columns of `independent_decoder`, and otherwise
in the same way: slow, plain, the names of the page, no line of `pgsvc_jax`.
"""

from collections.abc import Sequence
import dataclasses
import struct

from tests import independent_decoder
from tests import independent_video_reader

_require = independent_decoder.require
_Row = dict[str, int]
_Vector = tuple[int, int]


@dataclasses.dataclass
class _Packet:
  """A packet of a layer, not decoded yet."""

  entry: tuple[int, int, int, int]
  log2_block: int
  frames: list[bytes]


def _open_packet(packet: bytes, num_frames: int) -> _Packet:
  _require(len(packet) >= 9, 'packet: too short')
  *entry, log2_block = struct.unpack_from('<4HB', packet)
  _require(min(entry[:3]) >= 1, 'step sizes')
  _require(entry[3] <= 15, 'log2_cell')
  _require(2 <= log2_block <= 6, 'log2_block')
  fields = independent_video_reader.Bytes(packet[9:])
  sizes = [fields.varint() for _ in range(num_frames)]
  frames = [fields.take(size) for size in sizes]
  _require(fields.at == len(fields.data), 'bytes left')
  return _Packet(tuple(entry), log2_block, frames)


class _Columns:
  """The columns of a frame; what they learn stays for the next."""

  def __init__(self, data: bytes, contexts: dict[str, dict]):
    self.coder = independent_decoder.RangeDecoder(data)
    self.contexts = contexts

  def value(self, name: str, which: int = 0) -> int:
    return self.coder.value(self.contexts.setdefault(name, {}), which)


def _read_field(columns: _Columns, rows: int, cols: int) -> list[list[_Vector]]:
  field = {}

  def read(at: tuple[int, int], before: tuple, after: tuple) -> None:
    p = field.get(before, (0, 0))
    q = field.get(after, p)
    vector = []
    for axis in (0, 1):
      spread = independent_decoder.bits(abs(p[axis] - q[axis]))
      difference = columns.value('vector', 5 * axis + min(spread, 4))
      _require(abs(difference) <= 1 << 17, 'vector')
      vector.append(((p[axis] + q[axis]) >> 1) + difference)
      _require(abs(vector[-1]) <= 1 << 15, 'vector')
    field[at] = tuple(vector)

  read((0, 0), (-1, -1), (-1, -1))
  stride = 1
  while stride < max(rows, cols):
    stride *= 2
  while stride > 1:
    stride //= 2
    for j in range(stride, rows, 2 * stride):
      for i in range(0, cols, 2 * stride):
        read((j, i), (j - stride, i), (j + stride, i))
    for j in range(0, rows, stride):
      for i in range(stride, cols, 2 * stride):
        read((j, i), (j, i - stride), (j, i + stride))
  return [[field[j, i] for i in range(cols)] for j in range(rows)]


def _move(
    s: _Row, field: list[list[_Vector]], log2_cell: int, log2_block: int
) -> None:
  scale = log2_block + 9

  def place(axis: str, count: int) -> tuple[int, int, int]:
    exponent = log2_cell - s['bits_' + axis]
    middle = ((2 * s[axis] + 1) << (exponent + 8)) - (1 << (scale - 1))
    at = independent_decoder.clamp(middle, 0, (count - 1) << scale)
    block = at >> scale
    return block, at - (block << scale), min(block + 1, count - 1)

  i, f, right = place('x', len(field[0]))
  j, g, below = place('y', len(field))
  whole = 1 << scale
  for axis, name in enumerate('xy'):
    top = (whole - f) * field[j][i][axis] + f * field[j][right][axis]
    bottom = (whole - f) * field[below][i][axis] + f * field[below][right][axis]
    vector = (whole - g) * top + g * bottom
    shift = 2 * scale + 2 + log2_cell - s['bits_' + name]
    limit = (2**14 - 1) << s['bits_' + name]
    moved = s[name] + ((vector + (1 << (shift - 1))) >> shift)
    s[name] = independent_decoder.clamp(moved, -limit, limit - 1)


def _change(
    columns: _Columns, survivors: list[_Row], numbers: Sequence[str]
) -> None:
  """Reads what changes, and changes it."""
  for s in survivors:
    which = min(independent_decoder.bits(s['e']), 3)
    s['still'] = columns.value('still', which)
    s['e'] = 0
  for k, name in enumerate(numbers):
    for s in survivors:
      if s['still']:
        continue
      which = min(independent_decoder.bits(s['e']), 3)
      change = columns.value(f'change {k}', which)
      _require(abs(change) <= 1 << 30, f'change {k}')
      s[name] += change
      s['e'] += abs(change)


def _check(s: _Row, numbers: Sequence[str]) -> None:
  limits = {
      'x': (2**14 - 1) << s['bits_x'],
      'y': (2**14 - 1) << s['bits_y'],
      'A': 47 * s['n'],
      'b': 12 * 2**28 // s['D'],
      'h': 2**20 - 1,
  }
  for name in numbers:
    limit = limits.get(name, 2**22 - 1)
    _require(abs(s[name]) <= limit, f'{name}={s[name]}')


def _read_births(
    columns: _Columns, frame: bytes, channels: int, entry: tuple
) -> list[_Row]:
  n = columns.value('births')
  _require(0 <= n <= len(frame), f'births {n}')
  if not n:
    return []
  origin = columns.value('origin', 0), columns.value('origin', 1)
  for cell in origin:
    _require(abs(cell) <= 2**14 - 1, 'origin')
  rows = independent_decoder.read_symbols(
      columns.coder, n, channels, origin, entry, columns.contexts
  )
  for s in rows:
    s['A'] = s['K'] * s['n'] + s['j']
    s['e'] = 1
  return rows


def _read_frame(
    columns: _Columns,
    frame: bytes,
    rows: list[_Row],
    channels: int,
    entry: tuple,
) -> list[_Row]:
  """The splats of a frame, from those of the frame before, moved."""
  numbers = ['x', 'y', 'A', 'b', 'h', *(f'c{i}' for i in range(channels))]
  survivors = []
  for s in rows:
    dead = columns.value('dead', min(s['T'] >> 2, 3))
    if not dead:
      survivors.append(s)
  _change(columns, survivors, numbers)
  for s in survivors:
    _check(s, numbers)
  return survivors + _read_births(columns, frame, channels, entry)


def _as_layer(
    rows: list[_Row], channels: int, entry: tuple
) -> independent_decoder.Layer:
  # A = K n + j, so the size that the page gives is that of a picture's splat
  # with this j, which may be any integer.
  rows = [s | {'j': s['A'] - s['K'] * s['n']} for s in rows]
  splats = [independent_decoder.reconstruct(s, channels, entry) for s in rows]
  return independent_decoder.make_layer(rows, splats, channels)


def decode_gop(
    packets: Sequence[bytes],
    num_frames: int,
    width: int,
    height: int,
    channels: int,
) -> list[list[independent_decoder.Layer]]:
  """Decodes a GOP.

  Args:
    packets: of its layers, from the first on; those above may be missing.
    num_frames: of the GOP.
    width: pixels.
    height: pixels.
    channels: colors a splat.

  Returns:
    The layers of each frame. Symbols are those of
    `independent_decoder.Layer`, after all changes, and the size `A`.

  Raises:
    FormatError: where the page says to refuse.
  """
  fields = [None] * num_frames
  layers = []
  for k, data in enumerate(packets):
    packet = _open_packet(data, num_frames)
    if k == 0:
      log2_block = packet.log2_block
      rows_of_blocks = -(-height >> log2_block)
      cols_of_blocks = -(-width >> log2_block)
    rows, contexts, frames = [], {}, []
    for t, frame in enumerate(packet.frames):
      columns = _Columns(frame, contexts)
      if k == 0 and t > 0:
        moves = columns.value('moves')
        if moves:
          fields[t] = _read_field(columns, rows_of_blocks, cols_of_blocks)
      if fields[t] is not None:
        for s in rows:
          _move(s, fields[t], packet.entry[3], log2_block)
      rows = _read_frame(columns, frame, rows, channels, packet.entry)
      columns.coder.finish()
      frames.append(_as_layer(rows, channels, packet.entry))
    layers.append(frames)
  return [list(frame) for frame in zip(*layers)]


def decode(data: bytes) -> list[list[independent_decoder.Layer]]:
  """Decodes all frames of a file, or what a cut has left of it.

  Args:
    data: the bytes of a file of version 3 or 5.

  Returns:
    For each frame, its layers; none after the first GOP without a whole layer.

  Raises:
    FormatError: where the page says to refuse.
  """
  video = independent_video_reader.read(data)
  frames = []
  for gop, packets in zip(video.gops, video.packets):
    if not packets:
      break
    _require(None not in packets, 'packet: checksum')
    frames += decode_gop(
        packets,
        len(gop.starts),
        video.header['width'],
        video.header['height'],
        video.header['C'],
    )
  return frames
