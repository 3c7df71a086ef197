"""The motion field of a frame: one vector a block, straight lines in between.

Splats are moved by it before anything else is said of them. All arithmetic is
on integers below 2**53, so that every decoder moves them to the same places.
"""

from collections.abc import Callable

from jaxtyping import Int
import numpy as np

from pgsvc_jax.codec import lattice as lattice_lib
from pgsvc_jax.codec import quantize

# Vectors are integers in units of 2**-VECTOR_BITS pixels.
VECTOR_BITS = 2
VECTOR_LIMIT = 2**15
MIN_LOG2_BLOCK, MAX_LOG2_BLOCK = 2, 6

# Positions are integers in units of 2**-_PIXEL_BITS pixels: half of the
# smallest step, so that the middle of each step is one.
_PIXEL_BITS = 1 + quantize.MAX_CELL_BITS

# (contexts, values or None) -> values: a column that is written, or read.
CodeColumn = Callable[
    [Int[np.ndarray, ' n'], Int[np.ndarray, ' n'] | None],
    Int[np.ndarray, ' n'],
]


def field_shape(height: int, width: int, log2_block: int) -> tuple[int, int]:
  """Rows and columns of the blocks of a frame.

  Example:
    >>> field_shape(480, 854, 4)
    (30, 54)
  """
  return -(-height >> log2_block), -(-width >> log2_block)


def move(
    points: Int[np.ndarray, 'n k'],
    lattice: lattice_lib.Lattice,
    step_sizes: quantize.StepSizes,
    vectors: Int[np.ndarray, 'rows cols 2'],
    log2_block: int,
) -> Int[np.ndarray, 'n k']:
  """Points moved by the field where they are, to whole steps.

  Vectors hold in the middle of their blocks; between these the field is
  bilinear, outside it is constant.

  Args:
    points: as in `lattice.py`.
    lattice: their steps.
    step_sizes: of their layer.
    vectors: (x, y) in 2**-VECTOR_BITS pixels.
    log2_block: of the pixels across a block.

  Returns:
    The points, clipped to what positions can be.
  """
  # log2 of the step, in pixels.
  exponents = step_sizes.cell - lattice.bits
  places = (2 * points[:, :2] + 1) << (exponents + _PIXEL_BITS - 1)
  bits = log2_block + _PIXEL_BITS
  last = np.array(vectors.shape[1::-1]) - 1
  places = np.clip(places - (1 << (bits - 1)), 0, last << bits)
  first = places >> bits
  x0, y0 = first.T
  x1, y1 = np.minimum(first + 1, last).T
  fx, fy = (places - (first << bits)).T[:, :, np.newaxis]
  one = 1 << bits
  total = (one - fy) * ((one - fx) * vectors[y0, x0] + fx * vectors[y0, x1])
  total += fy * ((one - fx) * vectors[y1, x0] + fx * vectors[y1, x1])
  shift = 2 * bits + VECTOR_BITS + exponents
  moved = points[:, :2] + ((total + (1 << (shift - 1))) >> shift)
  limits = quantize.CELL_LIMIT << lattice.bits
  points = points.copy()
  points[:, :2] = np.clip(moved, -limits, limits - 1)
  return points


def code(
    code_column: CodeColumn,
    shape: tuple[int, int],
    vectors: Int[np.ndarray, 'rows cols 2'] | None = None,
) -> Int[np.ndarray, 'rows cols 2']:
  """Writes or reads a field from coarse to fine.

  Every vector is coded as the difference to the mean of the two known ones
  beside it; how far these are apart is the context.

  Args:
    code_column: takes contexts and values, or gives values.
    shape: rows and columns.
    vectors: what is written; None where it is read.

  Returns:
    The field.

  Raises:
    ValueError: a vector is too long.
  """
  rows, cols = shape
  field = np.zeros((rows, cols, 2), np.int64)
  known = None if vectors is None else np.asarray(vectors, np.int64)
  stride = 1
  while stride < max(rows, cols):
    stride *= 2

  def code_at(y, x, axis):
    """Vectors at rows y and columns x, between neighbors along an axis."""
    y, x = (grid.ravel() for grid in np.meshgrid(y, x, indexing='ij'))
    if not len(y):
      return
    before, after = np.zeros((2, len(y), 2), np.int64)
    if axis is not None:
      offset = np.array([stride, 0] if axis == 0 else [0, stride])
      before = field[y - offset[0], x - offset[1]]
      inside = (y + offset[0] < rows) & (x + offset[1] < cols)
      after = before.copy()
      after[inside] = field[y[inside] + offset[0], x[inside] + offset[1]]
    predicted = (before + after) >> 1
    apart = np.minimum(quantize.bit_lengths(np.abs(before - after)), 4)
    contexts = (apart + [0, 5]).ravel()
    values = None if known is None else (known[y, x] - predicted).ravel()
    values = code_column(contexts, values)
    if (np.abs(values) > 4 * VECTOR_LIMIT).any():
      raise ValueError('motion vector out of range')
    field[y, x] = predicted + values.reshape(-1, 2)

  code_at([0], [0], None)
  while stride > 1:
    stride //= 2
    odd, even = slice(stride, None, 2 * stride), slice(0, None, 2 * stride)
    code_at(np.arange(rows)[odd], np.arange(cols)[even], 0)
    code_at(np.arange(rows)[::stride], np.arange(cols)[odd], 1)
  if (np.abs(field) > VECTOR_LIMIT).any():
    raise ValueError('motion vector out of range')
  return field
