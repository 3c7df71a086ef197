"""Columns of symbols <-> the range coder: which contexts each number has.

Splats are sorted along a Morton curve of cells, and the cell is coded as the
distance to the splat before. That it never is negative is what saves the
log2(n!) bits of the order.
"""

import struct
from typing import TYPE_CHECKING

from jaxtyping import Int
import numpy as np

from pgsvc_jax.codec import morton
from pgsvc_jax.codec import quantize

if TYPE_CHECKING:
  from pgsvc_jax.codec import range_coder

# A packet has at least a byte a splat (the encoder pads; those of pictures take
# three or more), so that the bytes that a reader has been given bound what it
# allocates, and its time: 1 MiB of zeros takes 1.5 s and 0.4 GiB.
SPLATS_PER_BYTE = 1

# Where the Morton curve of a packet starts, in cells.
_ORIGIN = struct.Struct('<ii')


def color_contexts(
    colors: list[Int[np.ndarray, ' n']],
    classes: Int[np.ndarray, ' n'],
) -> Int[np.ndarray, ' n']:
  """Contexts of the next color symbol, from those before it.

  The first is about as large as the size class says, the others as the first
  ones are.
  """
  if not colors:
    return np.clip(classes + 8 >> 1, 0, 15)
  sizes = np.abs(colors[0])
  if len(colors) > 1:
    sizes = (sizes >> 1) + 2 * np.abs(colors[1])
  return np.minimum(quantize.bit_lengths(sizes), 6)


def sign(symbols: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' n']:
  """-1 or 1; further colors are coded as seen from the first one."""
  return np.where(symbols < 0, -1, 1)


def _aspect_contexts(
    precision: Int[np.ndarray, ' n'],
    shears: Int[np.ndarray, ' n'],
    step_sizes: quantize.StepSizes,
) -> Int[np.ndarray, ' n']:
  steps = quantize.shape_steps(precision, step_sizes)
  halves = np.abs(shears) * steps >> 27
  return 5 * (precision >> 1) + np.minimum(quantize.bit_lengths(halves), 4)


def sort(
    symbols: quantize.Symbols, step_sizes: quantize.StepSizes
) -> tuple[quantize.Symbols, Int[np.ndarray, ' 2'], Int[np.ndarray, ' n']]:
  """Puts splats in the order in which they are coded.

  Returns:
    The symbols in order, the origin of their curve, and the order.
  """
  if not len(symbols.classes):
    return symbols, np.zeros(2, np.int64), np.zeros(0, np.int64)
  cells = symbols.positions >> quantize.cell_bits(symbols, step_sizes)
  origin = cells.min(axis=0)
  codes = morton.encode(cells - origin)
  order = np.argsort(codes, kind='stable')
  return quantize.Symbols(*(x[order] for x in symbols)), origin, order


def encode_columns(
    encoder: 'range_coder.Encoder',
    symbols: quantize.Symbols,
    origin: Int[np.ndarray, ' 2'],
    step_sizes: quantize.StepSizes,
    statistics: 'range_coder.Statistics | None' = None,
) -> None:
  """Codes what `sort` returned, at least one splat.

  Args:
    encoder: that takes the columns.
    symbols: in order.
    origin: of their curve.
    step_sizes: that the symbols were made with.
    statistics: kept from splats coded before, if any.
  """
  precision = quantize.precisions(symbols.colors)
  bits = quantize.cell_bits(symbols, step_sizes)
  codes = morton.encode((symbols.positions >> bits) - origin)
  gaps = np.diff(codes, prepend=0)
  if (gaps < 0).any():
    raise ValueError('splats are not sorted')

  def column(name, values, contexts):
    encoder.column(values, contexts, statistics, name)

  column('gap', gaps, np.zeros_like(gaps))
  column('class', symbols.classes, np.minimum(quantize.bit_lengths(gaps), 7))
  colors = list(symbols.colors.T)
  for k, color in enumerate(colors):
    signs = sign(colors[0]) if k else 1
    contexts = color_contexts(colors[:k], symbols.classes)
    column(f'color {k}', color * signs, contexts)
  column('size', symbols.sizes, precision)
  column('shear', symbols.shears, precision >> 1)
  contexts = _aspect_contexts(precision, symbols.shears, step_sizes)
  column('aspect', symbols.aspects, contexts)
  for axis in (0, 1):
    encoder.bits(symbols.positions[:, axis], bits[:, axis])


def decode_columns(
    decoder: 'range_coder.Decoder',
    num_splats: int,
    origin: Int[np.ndarray, ' 2'],
    channels: int,
    step_sizes: quantize.StepSizes,
    statistics: 'range_coder.Statistics | None' = None,
) -> quantize.Symbols:
  """What `encode_columns` coded.

  Raises:
    ValueError: the bytes cannot come from there.
  """

  def column(name, contexts):
    return decoder.column(contexts, statistics, name)

  gaps = column('gap', np.zeros(num_splats, np.int64))
  cells = morton.from_gaps(gaps) + origin
  classes = column('class', np.minimum(quantize.bit_lengths(gaps), 7))
  _check_symbols(classes, quantize.CLASS_LIMIT)
  colors = []
  for k in range(channels):
    color = column(f'color {k}', color_contexts(colors, classes))
    _check_symbols(color, quantize.COLOR_LIMIT)
    colors.append(color * sign(colors[0]) if k else color)
  precision = quantize.precisions(np.stack(colors, -1))
  sizes = column('size', precision)
  shears = column('shear', precision >> 1)
  _check_symbols(shears, quantize.SHEAR_LIMIT)
  contexts = _aspect_contexts(precision, shears, step_sizes)
  aspects = column('aspect', contexts)
  _check_symbols(aspects, quantize.ASPECT_LIMIT)
  symbols = quantize.Symbols(
      cells, classes, np.stack(colors, -1), sizes, aspects, shears
  )
  bits = quantize.cell_bits(symbols, step_sizes)
  low = np.stack([decoder.bits(bits[:, axis]) for axis in (0, 1)], -1)
  return symbols._replace(positions=(cells << bits) + low)


def encode(symbols: quantize.Symbols, step_sizes: quantize.StepSizes) -> bytes:
  """The packet of a layer of a picture; the splats in any order."""
  from pgsvc_jax.codec import range_coder  # Numba: only where it is needed.

  num_splats = len(symbols.classes)
  if not num_splats:
    return b''
  symbols, origin, _ = sort(symbols, step_sizes)
  encoder = range_coder.Encoder()
  encode_columns(encoder, symbols, origin, step_sizes)
  packet = _ORIGIN.pack(*origin.tolist()) + encoder.finish()
  return packet.ljust(-(-num_splats // SPLATS_PER_BYTE), b'\0')


# Of each column; the bits below the cell have no name.
_ATTRIBUTES = {
    'gap': 'position',
    'class': 'scale',
    'size': 'scale',
    'aspect': 'aspect',
    'shear': 'shear',
}


def attribute_bits(
    symbols: quantize.Symbols, step_sizes: quantize.StepSizes
) -> dict[str, float]:
  """The bits of a layer by attribute: position, color, scale, aspect, shear.

  Args:
    symbols: of the layer, in any order.
    step_sizes: that they were made with.

  Returns:
    The bits that `encode` spends on each attribute; origin and padding are
    left out.
  """
  from pgsvc_jax.codec import range_coder

  bits = dict.fromkeys(['position', 'color', 'scale', 'aspect', 'shear'], 0.0)
  if not len(symbols.classes):
    return bits

  class Meter(range_coder.Encoder):

    def column(self, values, contexts, statistics=None, name=''):
      before = self.num_bits
      super().column(values, contexts, statistics, name)
      bits[_ATTRIBUTES.get(name, 'color')] += self.num_bits - before

    def bits(self, values, widths):
      before = self.num_bits
      super().bits(values, widths)
      bits['position'] += self.num_bits - before

  ordered, origin, _ = sort(symbols, step_sizes)
  encode_columns(Meter(), ordered, origin, step_sizes)
  return bits


def decode(
    packet: bytes,
    num_splats: int,
    channels: int,
    step_sizes: quantize.StepSizes,
) -> quantize.Symbols:
  """The symbols of a packet, sorted.

  Raises:
    ValueError: the packet cannot come from `encode`.
  """
  from pgsvc_jax.codec import range_coder

  if not num_splats:
    return quantize.zeros(0, channels)
  if len(packet) < _ORIGIN.size:
    raise ValueError('packet ends inside its origin')
  origin = np.array(_ORIGIN.unpack_from(packet))
  decoder = range_coder.Decoder(packet[_ORIGIN.size :])
  symbols = decode_columns(decoder, num_splats, origin, channels, step_sizes)
  decoder.finish()
  return symbols


def _check_symbols(symbols: Int[np.ndarray, ' n'], limit: int) -> None:
  """Before they decide anything, so that nothing can wrap around."""
  if ((symbols > limit) | (symbols < -limit)).any():
    raise ValueError('symbols out of range')
