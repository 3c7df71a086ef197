"""A second decoder of .pgsvc pictures, from the pages docs/format*.md alone.

It shares no line with `pgsvc_jax` and needs only NumPy: what it decodes is
what the page says, not what the library happens to do. It is slow and plain on
purpose, with Python integers wherever a file decides their size. Names are
those of the page.
"""

from collections.abc import Callable
import dataclasses
import math
import struct
import zlib

import numpy as np

from tests import independent_models

_MAGIC = b'\x89PGS\r\n\x1a\n'


class FormatError(ValueError):
  """The bytes are not what the page allows."""


def require(condition: bool, what: str) -> None:
  """Refuses what breaks a rule of the page."""
  if not condition:
    raise FormatError(what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
  """One layer: integers of the file, and the splats that they stand for.

  Attributes:
    symbols: one row a splat, of the names in the table of the page; `x` and `y`
      are whole symbols, not only their lowest bits.
    cholesky: float32 [N, 3], l11, l21, l22.
    means: float32 [N, 2], pixels.
    colors: float32 [N, C].
  """

  symbols: list[dict[str, int]]
  means: np.ndarray
  cholesky: np.ndarray
  colors: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A file as far as it was decoded, and the native size (w, h) of layers."""

  version: int
  width: int
  height: int
  channels: int
  metadata: bytes
  truncation_points: list[int]
  layers: list[Layer]
  native_sizes: list[tuple[int, int]]


class RangeDecoder:
  """The binary range coder, its contexts and its binarisation."""

  def __init__(self, data: bytes):
    self._data = data
    self._position = 0
    self._width = 1 << 32
    self._code = 0
    for _ in range(4):
      self._code = self._code * 256 + self._next_byte()

  def _next_byte(self) -> int:
    self._position += 1
    if self._position <= len(self._data):
      return self._data[self._position - 1]
    return 0

  def bit(self, chance: int = 1 << 15) -> int:
    bound = (self._width * chance) >> 16
    bit = int(self._code >= bound)
    if bit:
      self._code -= bound
      self._width -= bound
    else:
      self._width = bound
    while self._width < 1 << 24:
      self._code = self._code * 256 + self._next_byte()
      self._width *= 256
    return bit

  def _learned_bit(self, column: dict, key: tuple) -> int:
    fast, slow, count = column.get(key, (1 << 19, 1 << 19, 0))
    bit = self.bit((fast + slow) >> 5)
    learned = []
    for p, limit in ((fast, 32), (slow, 512)):
      d = min(count + 2, limit)
      learned.append(p - p // d if bit else p + ((1 << 20) - p) // d)
    column[key] = (*learned, count + (count + 2 < 512))
    return bit

  def value(self, column: dict, which: int = 0) -> int:
    """One value, with the set `which` of the contexts of its column."""
    size = 0
    while size < 61 and self._learned_bit(column, (which, 'prefix', size)):
      size += 1
    m, node = 1, 0
    for _ in range(size):
      if node < 3:
        bit = self._learned_bit(column, (which, 'mantissa', size, node))
        node = 2 * node + 1 + bit
      else:
        bit = self.bit()
      m = 2 * m + bit
    value = m - 1
    if value and self._learned_bit(column, (which, 'sign')):
      value = -value
    return value

  def finish(self) -> None:
    require(self._position <= len(self._data) + 4, 'packet: too short')
    require(not any(self._data[self._position :]), 'packet: bytes left')


def bits(n: int) -> int:
  """Binary digits of n >= 0."""
  return n.bit_length()


def clamp(n: int, low: int, high: int) -> int:
  """n, or the limit that it is beyond."""
  return max(low, min(n, high))


def _even_bits(code: int) -> int:
  return sum((code >> 2 * i & 1) << i for i in range(24))


def _next_code(code: int, gap: int) -> int:
  require(0 <= gap < 1 << 48, f'{gap=}')
  require(code + gap < 1 << 48, f'code={code + gap}')
  return code + gap


def read_symbols(
    coder: RangeDecoder,
    n: int,
    channels: int,
    origin: tuple,
    entry: tuple,
    contexts: dict[str, dict],
) -> list[dict[str, int]]:
  """The symbols of one packet, and the bits and steps that follow from them.

  Args:
    coder: at the first column.
    n: splats.
    channels: colors a splat.
    origin: the least cell x and y.
    entry: the three step sizes and `log2_cell`.
    contexts: what columns have learned before, by name; it is changed.

  Returns:
    A row a splat, of the names in the table of the page.

  Raises:
    FormatError: where the page says to refuse.
  """
  s_shape, s_position, log2_cell = entry[1:]
  rows = [{} for _ in range(n)]

  def column(name: str, which: Callable, valid: Callable) -> None:
    learned = contexts.setdefault(name, {})
    for s in rows:
      value = coder.value(learned, which(s))
      if name in ('c1', 'c2', 'c3') and s['c0'] < 0:
        value = -value
      require(valid(s, value), f'{name}={value}')
      s[name] = value

  learned, code = contexts.setdefault('gap', {}), 0
  for s in rows:
    s['gap'] = coder.value(learned)
    code = _next_code(code, s['gap'])
    s['cell_x'] = origin[0] + _even_bits(code)
    s['cell_y'] = origin[1] + _even_bits(code >> 1)
    for name in ('cell_x', 'cell_y'):
      require(1 - 2**14 <= s[name] <= 2**14 - 2, f'{name}={s[name]}')
  column('K', lambda s: min(bits(s['gap']), 7), lambda s, v: abs(v) <= 46)
  color_sets = (
      lambda s: clamp((s['K'] + 8) >> 1, 0, 15),
      lambda s: min(bits(abs(s['c0'])), 6),
      lambda s: min(bits((abs(s['c0']) >> 1) + 2 * abs(s['c1'])), 6),
  )
  for i in range(channels):
    column(f'c{i}', color_sets[min(i, 2)], lambda s, v: abs(v) < 1 << 22)
  for s in rows:
    energy = sum(s[f'c{i}'] ** 2 for i in range(channels))
    t = s['T'] = clamp(bits(energy), 1, 32)
    d = s_shape * (65536 if t % 2 else 46341) >> ((t - 1) >> 1)
    d = s['D'] = max(d, 1 << 12)
    s['n'] = max(1, (263136042 + (d >> 1)) // d)
  column('j', lambda s: s['T'], lambda s, v: 0 <= v < s['n'])
  column('h', lambda s: s['T'] >> 1, lambda s, v: abs(v) < 1 << 20)
  column(
      'b',
      lambda s: 5 * (s['T'] >> 1) + min(bits(abs(s['h']) * s['D'] >> 27), 4),
      lambda s, v: abs(v) <= 12 * 2**28 // s['D'],
  )
  o = bits(s_position) - 1
  p = 256 * (o - 12) + (s_position * 256 >> o) - 256
  for s in rows:
    q = p + 128 * (s['K'] - s['T'] + 1)
    r = s['b'] * s['D'] * 185 >> 28
    s['bits_x'] = clamp(log2_cell - ((q + r + 128) >> 8), 0, 8)
    s['bits_y'] = clamp(log2_cell - ((q - r + 128) >> 8), 0, 8)
  for axis in 'xy':
    for s in rows:
      symbol = s['cell_' + axis]
      for _ in range(s['bits_' + axis]):
        symbol = 2 * symbol + coder.bit()
      s[axis] = symbol
  return rows


def reconstruct(
    s: dict[str, int], channels: int, entry: tuple
) -> tuple[list[float], list[float]]:
  """A splat, (x, y, l11, l21, l22) and colors, from a row of symbols."""
  s_color, _, _, log2_cell = entry
  d = s['D'] * 2.0**-28
  a = math.log(2) * (s['K'] - 0.5 + (s['j'] + 0.5) / s['n'])
  l11 = math.exp((a + s['b'] * d) / 2)
  l22 = math.exp((a - s['b'] * d) / 2)
  x, y = (
      (s[axis] + 0.5) * 2.0 ** (log2_cell - s['bits_' + axis]) for axis in 'xy'
  )
  color = [
      s[f'c{i}'] * s_color * 2.0**-12 * 2.0 ** (-s['K'] / 2)
      for i in range(channels)
  ]
  if channels >= 3:
    e, f, g = (c / math.sqrt(k) for c, k in zip(color, (3, 2, 6)))
    color[:3] = [e + f - g, e + 2 * g, e - f - g]
  return [x, y, l11, s['h'] * d * l22, l22], color


def _symbols_v1(
    coder: RangeDecoder,
    n: int,
    channels: int,
    origin: tuple,
    entry: tuple,
    contexts: dict[str, dict],
) -> list[dict[str, int]]:
  names = ['gap', 'l11', 'shear', 'l22', *(f'c{i}' for i in range(channels))]
  limits = dict.fromkeys(('x', 'y', 'shear', 'c0', 'c1', 'c2', 'c3'), 2**22 - 1)
  limits |= dict.fromkeys(('l11', 'l22'), 2**16 // entry[1])
  rows, code = [], 0
  for _ in range(n):
    s = {name: coder.value(contexts.setdefault(name, {})) for name in names}
    code = _next_code(code, s['gap'])
    s['x'] = origin[0] + _even_bits(code)
    s['y'] = origin[1] + _even_bits(code >> 1)
    if channels >= 3:
      s['Y'], s['Co'], s['Cg'] = (s[f'c{i}'] for i in range(3))
      t = s['Y'] - (s['Cg'] >> 1)
      s['c1'] = s['Cg'] + t
      s['c2'] = t - (s['Co'] >> 1)
      s['c0'] = s['c2'] + s['Co']
    for name, limit in limits.items():
      require(abs(s.get(name, 0)) <= limit, f'{name}={s.get(name)}')
    rows.append(s)
  return rows


def _reconstruct_v1(
    s: dict[str, int], channels: int, entry: tuple
) -> tuple[list[float], list[float]]:
  s_position, s_log, s_shear, s_color = (size * 2.0**-12 for size in entry)
  l11, l22 = (float(np.float32(math.exp(s[k] * s_log))) for k in ('l11', 'l22'))
  color = [s[f'c{i}'] * s_color for i in range(channels)]
  l21 = s['shear'] * s_shear * l22
  return [s['x'] * s_position, s['y'] * s_position, l11, l21, l22], color


def make_layer(
    rows: list[dict[str, int]],
    splats: list[tuple[list[float], list[float]]],
    channels: int,
) -> Layer:
  """A layer of splats that are (x, y, l11, l21, l22) and colors."""
  n = len(rows)
  geometry = np.array([g for g, _ in splats], np.float32).reshape(n, 5)
  colors = np.array([c for _, c in splats], np.float32).reshape(n, channels)
  return Layer(
      symbols=rows,
      means=geometry[:, :2],
      cholesky=geometry[:, 2:],
      colors=colors,
  )


def _layer(
    version: int, packet: bytes, n: int, channels: int, entry: tuple
) -> Layer:
  rows = []
  if n:
    require(len(packet) >= 8, 'packet: too short')
    coder = RangeDecoder(packet[8:])
    read = _symbols_v1 if version == 1 else read_symbols
    origin = struct.unpack_from('<ii', packet)
    rows = read(coder, n, channels, origin, entry, {})
    coder.finish()
  make = _reconstruct_v1 if version == 1 else reconstruct
  return make_layer(rows, [make(s, channels, entry) for s in rows], channels)


def _morton(x: int, y: int) -> int:
  return sum(
      (x >> i & 1) << 2 * i | (y >> i & 1) << 2 * i + 1 for i in range(24)
  )


def _layer6(
    models: independent_models.PictureDecoder,
    packet: bytes,
    n: int,
    channels: int,
    entry: tuple,
) -> Layer:
  rows = []
  if n:
    coder = RangeDecoder(packet)
    rows = models.packet(coder, n, entry)
    coder.finish()
    rows.sort(key=lambda s: _morton(*s['at']))
  return make_layer(
      rows, [reconstruct(s, channels, entry) for s in rows], channels
  )


def _header(data: bytes) -> tuple[dict, list[tuple]]:
  """What the header says, and the directory: native sizes last."""
  require(len(data) >= 22, 'cut inside the header')
  version, flags, size, width, height, channels, count = struct.unpack_from(
      '<BBHIIBB', data, 8
  )
  require(version in (1, 2, 4), f'{version=}')
  entry_size = 28 if version == 4 else 20
  directory_end = 22 + entry_size * count
  require(flags == 0, f'{flags=}')
  require(size >= directory_end + 4, f'header size {size}')
  require(len(data) >= size, 'cut inside the header')
  (checksum,) = struct.unpack_from('<I', data, size - 4)
  require(checksum == zlib.crc32(data[: size - 4]), 'header: checksum')
  form = '<III4HII' if version == 4 else '<III4H'
  directory = [
      entry if version == 4 else (*entry, width, height)
      for entry in struct.iter_unpack(form, data[22:directory_end])
  ]
  return {
      'version': version,
      'size': size,
      'width': width,
      'height': height,
      'channels': channels,
      'metadata': data[directory_end : size - 4],
  }, directory


def _header6(data: bytes) -> tuple[dict, list[tuple]]:
  """The same of version 6."""
  at = 9

  def number(end: int) -> int:
    nonlocal at
    value = 0
    for k in range(8):
      require(at < min(end, len(data)), 'cut inside the header')
      byte = data[at]
      at += 1
      value += (byte & 127) << 7 * k
      if byte < 128:
        require(byte or not k, 'varint')
        return value
    raise FormatError('varint')

  size = number(2**16)
  end = size - 4
  require(at <= end and size <= 65535, f'header size {size}')
  require(len(data) >= size, 'cut inside the header')
  (checksum,) = struct.unpack_from('<I', data, end)
  require(checksum == zlib.crc32(data[:end]), 'header: checksum')
  width, height, channels, count = (number(end) for _ in range(4))
  require(count <= 255, f'{count} layers')
  below, directory = [256, 6889, 4871, 2, width, height], []
  for _ in range(count):
    n, packet_size = number(end), number(end)
    require(at + 5 <= end, 'cut inside the directory')
    checksum, flags = struct.unpack_from('<IB', data, at)
    at += 5
    require(flags <= 31, f'{flags=}')
    entry = list(below)
    for k in range(4):
      if flags >> k & 1:
        entry[k] = number(end)
        require(entry[k] != below[k], 'a flag of what is as below')
    if flags & 16:
      entry[4:] = number(end), number(end)
      require(entry[4:] != below[4:], 'a flag of what is as below')
    below = entry
    directory.append((n, packet_size, checksum, *entry))
  return {
      'version': 6,
      'size': size,
      'width': width,
      'height': height,
      'channels': channels,
      'metadata': data[at:end],
  }, directory


def decode(data: bytes, num_layers: int | None = None) -> Picture:
  """Decodes a file, or what a cut has left of it.

  Args:
    data: the bytes of a file of version 1, 2, 4 or 6.
    num_layers: layers to decode; without it, all that are there whole.

  Returns:
    The header's facts and the decoded layers.

  Raises:
    FormatError: where the page says to refuse.
  """
  require(data[:8] == _MAGIC, 'no .pgsvc file')
  read_header = _header6 if data[8:9] == b'\x06' else _header
  head, directory = read_header(data)
  width, height, channels = head['width'], head['height'], head['channels']
  require(min(width, height) >= 1 and width * height <= 2**28, 'picture size')
  require(1 <= channels <= 4 and directory, f'{channels=}, {len(directory)=}')
  below = 1, 1
  ends = [head['size']]
  for n, packet_size, _, *entry, w, h in directory:
    require(below[0] <= w <= width and below[1] <= h <= height, 'native size')
    below = w, h
    require(n <= packet_size and (n == 0) == (packet_size == 0), 'splats')
    require(1 <= min(entry[:3]) and max(entry[:3]) < 2**16, 'step sizes')
    last = entry[3] >= 1 if head['version'] == 1 else entry[3] <= 15
    require(last, 'last step size')
    ends.append(ends[-1] + packet_size)
  require(len(data) <= ends[-1], 'bytes after the last packet')
  whole = sum(end <= len(data) for end in ends[1:])
  require(whole >= (num_layers or 1), 'cut inside a layer that is needed')

  layers = []
  models = independent_models.PictureDecoder(
      width, height, channels, FormatError
  )
  for k in range(num_layers or whole):
    n, _, checksum, *entry, _, _ = directory[k]
    packet = data[ends[k] : ends[k + 1]]
    require(checksum == zlib.crc32(packet), f'layer {k}: checksum')
    if head['version'] == 6:
      layers.append(_layer6(models, packet, n, channels, tuple(entry)))
    else:
      layer = _layer(head['version'], packet, n, channels, tuple(entry))
      layers.append(layer)
  return Picture(
      version=head['version'],
      width=width,
      height=height,
      channels=channels,
      metadata=head['metadata'],
      native_sizes=[tuple(entry[-2:]) for entry in directory],
      truncation_points=ends[1:],
      layers=layers,
  )


def _on_grid(
    splat: list[float], fx: float, fy: float
) -> tuple[list[float], float]:
  """A splat on a grid (fx, fy) times as fine, and the factor of its color."""
  x, y, l11, l21, l22 = splat
  vx, vy = (max(0.0, 1 - f * f) / 10 for f in (fx, fy))
  a = math.sqrt((fx * l11) ** 2 + vx)
  b = fx * l11 * fy * l21 / a
  c = math.sqrt((fy * l22) ** 2 + vy + (fy * l21) ** 2 * vx / a**2)
  return [fx * x, fy * y, a, b, c], fx * l11 * fy * l22 / (a * c)


def render(
    picture: Picture,
    num_layers: int | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
  """The first `num_layers` layers at a size (w, h), float64 [h, w, C]."""
  w, h = size or (picture.width, picture.height)
  image = np.zeros((h, w, picture.channels))
  px = np.arange(w) + 0.5
  py = np.arange(h)[:, None] + 0.5
  for layer in picture.layers[:num_layers]:
    for mean, factor, color in zip(layer.means, layer.cholesky, layer.colors):
      splat = [float(f) for f in (*mean, *factor)]
      color = np.float64(color)
      if size:
        splat, gain = _on_grid(splat, w / picture.width, h / picture.height)
        color = color * gain
      x, y, l11, l21, l22 = splat
      u = (px - x) / l11
      v = (py - y - l21 * u) / l22
      half = (u**2 + v**2) / 2
      image += np.where(half <= 6.125, np.exp(-half), 0)[..., None] * color
  return np.clip(image, 0, 1)
