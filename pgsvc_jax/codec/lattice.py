"""Splats as integer points that keep their steps while they move.

In a group of pictures a splat keeps the steps that it was born with
(`quantize.py`: they follow from its size class and the norm of its color), so
that a change of any of its numbers is a change of an integer:

  position   x, y in steps of 2**(cell - bits) pixels
  size       classes * levels + size, which is log(l11 l22) in log(2) / levels
  aspect     log(l11 / l22)
  shear      l21 / l22
  colors     rotated as in `quantize.py`
"""

import math
from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize

# Columns of points; colors follow.
X, Y, SIZE, ASPECT, SHEAR, COLORS = range(6)


class Lattice(NamedTuple):
  """The steps of n splats, as they were at birth.

  Attributes:
    classes: size class K.
    precision: T.
    bits: of x and y below the cell.
  """

  classes: Int[np.ndarray, ' n']
  precision: Int[np.ndarray, ' n']
  bits: Int[np.ndarray, 'n 2']


def from_symbols(
    symbols: quantize.Symbols, step_sizes: quantize.StepSizes
) -> tuple[Int[np.ndarray, 'n k'], Lattice]:
  """The points of splats just born, and the lattice they found."""
  precision = quantize.precisions(symbols.colors)
  levels = quantize.size_levels(precision, step_sizes)
  lattice = Lattice(
      classes=symbols.classes,
      precision=precision,
      bits=quantize.cell_bits(symbols, step_sizes),
  )
  points = np.concatenate(
      [
          symbols.positions,
          (symbols.classes * levels + symbols.sizes)[:, None],
          symbols.aspects[:, None],
          symbols.shears[:, None],
          symbols.colors,
      ],
      axis=1,
  )
  return points, lattice


def steps(
    lattice: Lattice, step_sizes: quantize.StepSizes, channels: int
) -> Float[np.ndarray, 'n k']:
  """What one step of each integer means in `coordinates`."""
  shape = (
      quantize.shape_steps(lattice.precision, step_sizes)
      * 2.0**-quantize.SHAPE_BITS
  )
  levels = quantize.size_levels(lattice.precision, step_sizes)
  (color,) = quantize.color_steps(lattice.classes, step_sizes).T
  columns = [
      *np.exp2(step_sizes.cell - lattice.bits).T,
      math.log(2) / levels,
      shape,
      shape,
      *([color] * channels),
  ]
  return np.stack(columns, -1)


def offsets(
    lattice: Lattice, step_sizes: quantize.StepSizes, channels: int
) -> Float[np.ndarray, 'n k']:
  """The coordinates of the point 0."""
  unit = steps(lattice, step_sizes, channels)
  result = np.zeros_like(unit)
  result[:, [X, Y, SIZE]] = unit[:, [X, Y, SIZE]] / 2
  result[:, SIZE] -= math.log(2) / 2
  return result


def coordinates(splats: types.Splats, xp=np) -> Float[np.ndarray, 'n k']:
  """Splats in the coordinates that points count steps of."""
  l11, l21, l22 = splats.cholesky.T
  log11, log22 = xp.log(l11), xp.log(l22)
  colors = quantize.rotate_colors(splats.colors, xp)
  shape = xp.stack([log11 + log22, log11 - log22, l21 / l22], -1)
  return xp.concatenate([splats.means, shape, colors], 1)


def splats(
    points: Int[np.ndarray, 'n k'],
    lattice: Lattice,
    step_sizes: quantize.StepSizes,
) -> types.Splats:
  """The splats that points stand for."""
  channels = points.shape[1] - COLORS
  unit = steps(lattice, step_sizes, channels)
  return values(offsets(lattice, step_sizes, channels) + points * unit)


def check(
    points: Int[np.ndarray, 'n k'],
    lattice: Lattice,
    step_sizes: quantize.StepSizes,
) -> None:
  """Raises ValueError where a point is beyond what `quantize.py` allows."""
  levels = quantize.size_levels(lattice.precision, step_sizes)
  limits = np.empty_like(points)
  limits[:, [X, Y]] = quantize.CELL_LIMIT << lattice.bits
  limits[:, SIZE] = (quantize.CLASS_LIMIT + 1) * levels
  limits[:, ASPECT] = quantize.ASPECT_LIMIT // quantize.shape_steps(
      lattice.precision, step_sizes
  )
  limits[:, SHEAR] = quantize.SHEAR_LIMIT
  limits[:, COLORS:] = quantize.COLOR_LIMIT
  if (np.abs(points) > limits).any():
    raise ValueError('a splat leaves the range of symbols')


def values(coords: Float[np.ndarray, 'n k']) -> types.Splats:
  """The splats at coordinates; the inverse of `coordinates`."""
  return types.Splats(
      coords[:, :SIZE].astype(np.float32),
      quantize.make_cholesky(*coords[:, SIZE:COLORS].T),
      quantize.unrotate_colors(coords[:, COLORS:]).astype(np.float32),
  )
