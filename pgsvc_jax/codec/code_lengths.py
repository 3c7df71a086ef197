"""Symbols that are cheap rather than nearest: distortion plus rate.

A symbol nearer to zero takes fewer bits. With steps so fine that the error is
uniform, the squared error of a number is step^2 / 12, and a bit more divides it
by 4: there a bit is worth 2 log(2) / 12 squared steps. So the symbol is the one
that has the least

  (value - symbol)^2 + weight * 2 log(2) / 12 * bits(symbol)

in steps; see Sullivan and Wiegand, Rate-distortion optimization for video
compression, 1998. Bits are those of the adaptive coder once it has seen the
layer: from how often every prefix and leading bit is used in each context.
"""

import math

from jaxtyping import Bool, Float, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import splat_coding

_BIT = 2 * math.log(2) / 12
# Of the magnitude, plus one.
_MAX_SIZE = 24
# The precisions, halved, are up to 16; no column has more contexts.
_MAX_CONTEXTS = 17
# What a context has seen before it has seen anything: mostly what all have.
_PRIOR = 4.0


# A table of bits: by context, size and second bit of a prefix.
Table = Float[np.ndarray, 'contexts sizes 2']


def learn(
    values: Int[np.ndarray, ' n'], contexts: Int[np.ndarray, ' n']
) -> Table:
  """How many bits each prefix takes in each context.

  Example:
    >>> table = learn(np.array([0] * 90 + [5] * 10), np.zeros(100, int))
    >>> bits = count_bits(table, np.array([0, 5]), np.zeros(2, int))
    >>> bool(bits[0] < 1 < 3 < bits[1])
    True
  """
  counts = np.zeros((_MAX_CONTEXTS, _MAX_SIZE, 2))
  np.add.at(counts, (contexts, *_prefix(values)), 1)
  seen = counts.sum(axis=0) + 0.25
  counts += _PRIOR * seen / seen.sum()
  return -np.log2(counts / counts.sum(axis=(1, 2), keepdims=True))


def count_bits(
    table: Table,
    values: Int[np.ndarray, ' n'],
    contexts: Int[np.ndarray, ' n'],
) -> Float[np.ndarray, ' n']:
  """The bits of each value in its context."""
  size, second = _prefix(values)
  rest = np.maximum(size - 1, 0) + (values != 0)
  return table[contexts, size, second] + rest


def learn_layer(
    symbols: quantize.Symbols,
) -> Float[np.ndarray, 'columns contexts sizes 2']:
  """Tables of a layer, one a column: colors, aspects and shears.

  Args:
    symbols: the nearest ones of the layer, without weak splats.

  Returns:
    The tables.
  """
  colors = list(symbols.colors.T)
  tables = []
  for k, color in enumerate(colors):
    contexts = splat_coding.color_contexts(colors[:k], symbols.classes)
    signs = splat_coding.sign(colors[0]) if k else 1
    tables.append(learn(color * signs, contexts))
  halves = quantize.precisions(symbols.colors) >> 1
  tables += [learn(symbols.aspects, halves), learn(symbols.shears, halves)]
  return np.stack(tables)


def _prefix(values: Int[np.ndarray, ' n']):
  """Size of |value| + 1 and the bit below its leading one."""
  shifted = np.abs(values) + 1
  size = np.minimum(quantize.bit_lengths(shifted) - 1, _MAX_SIZE - 1)
  return size, np.where(size > 0, shifted >> np.maximum(size - 1, 0) & 1, 0)


class RateAware(quantize.Nearest):
  """Chooses the symbols of one layer, cheap ones rather than the nearest."""

  def __init__(
      self,
      tables: Float[np.ndarray, 'columns contexts sizes 2'],
      weight: float,
  ):
    """Chooses by the tables of `learn_layer`.

    Args:
      tables: of the layer.
      weight: of the bits; 1 is what they are worth.
    """
    self._weight = weight * _BIT
    *self._colors, aspects, shears = tables
    self._shapes = {'aspects': aspects, 'shears': shears}

  def _choose(self, table, values, contexts):
    nearest, inner = np.rint(values), np.trunc(values)
    costs = [
        (values - x) ** 2
        + self._weight * count_bits(table, x.astype(np.int64), contexts)
        for x in (nearest, inner)
    ]
    return np.where(costs[1] < costs[0], inner, nearest)

  def colors(
      self, values: Float[np.ndarray, 'n c'], classes: Int[np.ndarray, ' n']
  ) -> Float[np.ndarray, 'n c']:
    """Integers for colors in steps, channel after channel."""
    chosen = []
    for k, table in enumerate(self._colors):
      contexts = splat_coding.color_contexts(chosen, classes)
      sign = splat_coding.sign(chosen[0]) if k else 1
      color = sign * self._choose(table, sign * values[:, k], contexts)
      chosen.append(color.astype(np.int64))
    result = np.stack(chosen, -1)
    # Weak ones have been left out; no other is to become one.
    weak = np.square(result).sum(axis=1) <= 1
    return np.where(weak[:, np.newaxis], np.rint(values), result)

  def shape(
      self,
      name: str,
      values: Float[np.ndarray, ' n'],
      precision: Int[np.ndarray, ' n'],
  ) -> Float[np.ndarray, ' n']:
    """Integers for aspects or shears in steps."""
    return self._choose(self._shapes[name], values, precision >> 1)


def round_strong(
    splats: types.Splats, step_sizes: quantize.StepSizes, weight: float
) -> tuple[quantize.Symbols, Bool[np.ndarray, ' n']]:
  """Rounds a layer at once, as the staged rounding of a fit begins to.

  Args:
    splats: of the layer.
    step_sizes: of the layer.
    weight: of the bits; 0 takes the nearest symbols.

  Returns:
    The symbols of the splats that are not weak, and which those are.
  """
  nearest = quantize.quantize(splats, step_sizes)
  strong = ~quantize.weak(nearest)
  nearest = quantize.Symbols(*(x[strong] for x in nearest))
  if not weight or not strong.any():
    return nearest, strong
  chooser = RateAware(learn_layer(nearest), weight)
  splats = types.Splats(*(x[strong] for x in splats))
  return quantize.quantize(splats, step_sizes, chooser), strong
