"""Splats of one layer <-> integer symbols.

A symbol is the integer that is coded for one attribute of one splat; its value
is symbol * step size. The columns of a symbol array are

  x, y, log l11, shear l21 / l22, log l22, colors

With three or more channels the first three colors stand as YCoCg-R, a lossless
integer lifting of the rounded RGB that takes out what the channels share.

Every number of the file is an integer: a step size is a whole number of
`STEP_UNIT`s. What a symbol may be is limited (`SYMBOL_LIMIT`, `LOG_LIMIT`) so
that float32 can tell neighboring symbols apart; values beyond are clamped.
"""

import dataclasses
import math

from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import types

# Fine enough to steer a rate by percents instead of by octaves.
STEP_UNIT = 2.0**-12
MAX_STEP = 2**16 - 1

# Positions, shears and colors: float32 has 24 bits, so the nearest float32 of
# the largest value is still within a quarter of a step.
SYMBOL_LIMIT = 2**22 - 1
# log l11 and log l22: diagonals between 1.1e-7 and 8.9e6 pixels.
LOG_LIMIT = 16

# Positions relative to the layer's origin have 24 bits.
MORTON_END = 2**48

_LOG_COLUMNS = (2, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSizes:
  """Step sizes of one layer, in units of 2**-12 (each 1 to 65535).

  The defaults cost 0.07 dB on a fit of kodim23 with 9000 splats at 40.8 dB and
  less on worse fits; there each column costs about the same.

  Attributes:
    position: of x and y; 128 is 1/32 pixel.
    cholesky: of log l11 and log l22, a relative size; 32 is 1/128.
    shear: of l21 / l22; 64 is 1/64.
    color: of the colors; 6 is 1/683.
  """

  position: int = 128
  cholesky: int = 32
  shear: int = 64
  color: int = 6

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 1 <= value <= MAX_STEP:
        raise ValueError(f'step size {name}={value} is not in 1..{MAX_STEP}')


def reaching(step_sizes: StepSizes, height: int, width: int) -> StepSizes:
  """Step sizes whose positions reach one picture beyond a picture.

  Example:
    >>> reaching(StepSizes(), 512, 768) == StepSizes()
    True
    >>> reaching(StepSizes(), 8, 150_000).position
    293
  """
  span = 2 * max(height, width)
  smallest = math.ceil(span / (SYMBOL_LIMIT * STEP_UNIT))
  return dataclasses.replace(
      step_sizes, position=max(step_sizes.position, smallest)
  )


def _column_steps(
    step_sizes: StepSizes, channels: int
) -> Float[np.ndarray, ' k']:
  s = step_sizes
  units = [s.position, s.position, s.cholesky, s.shear, s.cholesky]
  return np.array(units + [s.color] * channels, np.float64) * STEP_UNIT


def _limits(step_sizes: StepSizes, channels: int) -> Int[np.ndarray, ' k']:
  """The largest magnitude of each column, colors before their lifting."""
  limits = np.full(5 + channels, SYMBOL_LIMIT, np.int64)
  log_limit = int(LOG_LIMIT / STEP_UNIT) // step_sizes.cholesky
  limits[list(_LOG_COLUMNS)] = log_limit
  return limits


def _lift(rgb: Int[np.ndarray, 'n 3']) -> Int[np.ndarray, 'n 3']:
  """RGB to YCoCg-R (Malvar and Sullivan, JVT-I014r3), exactly invertible."""
  red, green, blue = rgb.T
  orange = red - blue
  middle = blue + (orange >> 1)
  chroma_green = green - middle
  return np.stack([middle + (chroma_green >> 1), orange, chroma_green], -1)


def _unlift(lifted: Int[np.ndarray, 'n 3']) -> Int[np.ndarray, 'n 3']:
  luma, orange, chroma_green = lifted.T
  middle = luma - (chroma_green >> 1)
  blue = middle - (orange >> 1)
  return np.stack([blue + orange, chroma_green + middle, blue], -1)


def quantize(
    splats: types.Splats, step_sizes: StepSizes
) -> Int[np.ndarray, 'n k']:
  """Rounds splats to symbols.

  The shear is rounded last, against the diagonals as the decoder will see them
  and keeping the slope l21 / l11: rounding a diagonal then scales the splat
  along its own axes and does not turn it.

  Args:
    splats: NumPy splats of one layer.
    step_sizes: what one step of each attribute is.

  Returns:
    int64 symbols. Values beyond the limits of this module are clamped.

  Raises:
    ValueError: a value is not finite or a diagonal is not positive.

  Example:
    >>> splats = types.Splats(
    ...   means=np.float32([[1.5, 2.0]]),
    ...   cholesky=np.float32([[1.0, 0.5, 2.0]]),
    ...   colors=np.float32([[0.25]]),
    ... )
    >>> quantize(splats, StepSizes())
    array([[ 48,  64,   0,  16,  89, 171]])
  """
  means, cholesky, colors = (np.asarray(a, np.float64) for a in splats)
  for name, value in zip(
      splats._fields, (means, cholesky, colors), strict=True
  ):
    if not np.isfinite(value).all():
      raise ValueError(f'{name} are not all finite')
  l11, l21, l22 = cholesky.T
  if not ((l11 > 0).all() and (l22 > 0).all()):
    raise ValueError('cholesky diagonals are not all positive')

  channels = colors.shape[1]
  steps = _column_steps(step_sizes, channels)
  limits = _limits(step_sizes, channels)

  def to_symbols(values, column):
    limit = limits[column]
    return np.clip(np.rint(values / steps[column]), -limit, limit)

  symbols = np.empty((len(means), 5 + channels), np.int64)
  symbols[:, 0] = to_symbols(means[:, 0], 0)
  symbols[:, 1] = to_symbols(means[:, 1], 1)
  symbols[:, 2] = to_symbols(np.log(l11), 2)
  symbols[:, 4] = to_symbols(np.log(l22), 4)
  rounded_l11 = _diagonal(symbols[:, 2], steps[2])
  rounded_l22 = _diagonal(symbols[:, 4], steps[4])
  symbols[:, 3] = to_symbols(l21 / l11 * rounded_l11 / rounded_l22, 3)
  for column in range(5, 5 + channels):
    symbols[:, column] = to_symbols(colors[:, column - 5], column)
  if channels >= 3:
    symbols[:, 5:8] = _lift(symbols[:, 5:8])
  return symbols


def _diagonal(
    symbols: Int[np.ndarray, ' n'], step: float
) -> Float[np.ndarray, ' n']:
  """The float32 diagonal of the decoded splat, widened to float64."""
  return np.exp(symbols * step).astype(np.float32).astype(np.float64)


def dequantize(
    symbols: Int[np.ndarray, 'n k'], step_sizes: StepSizes
) -> types.Splats:
  """The splats that symbols stand for; quantize takes them back exactly.

  Args:
    symbols: symbols of one layer.
    step_sizes: those that the symbols were made with.

  Returns:
    float32 splats, all finite, l11 > 0 and l22 > 0.

  Raises:
    ValueError: a symbol is beyond what quantize gives.

  Example:
    >>> dequantize(np.array([[48, 64, 0, 16, 89, 171]]), StepSizes()).means
    array([[1.5, 2. ]], dtype=float32)
  """
  symbols = np.array(symbols, np.int64)
  channels = symbols.shape[1] - 5
  # Before the lifting is undone, so that nothing below can wrap around.
  if (symbols != np.clip(symbols, -4 * SYMBOL_LIMIT, 4 * SYMBOL_LIMIT)).any():
    raise ValueError('symbols out of range')
  if channels >= 3:
    symbols[:, 5:8] = _unlift(symbols[:, 5:8])
  if (np.abs(symbols) > _limits(step_sizes, channels)).any():
    raise ValueError('symbols out of range')

  steps = _column_steps(step_sizes, channels)
  values = symbols * steps
  l11 = _diagonal(symbols[:, 2], steps[2])
  l22 = _diagonal(symbols[:, 4], steps[4])
  cholesky = np.stack([l11, values[:, 3] * l22, l22], -1)
  return types.Splats(
      means=values[:, :2].astype(np.float32),
      cholesky=cholesky.astype(np.float32),
      colors=values[:, 5:].astype(np.float32),
  )


# Doubling steps of the bit interleave: after each, groups of that many bits
# stand with as many zero bits between them.
_SPREAD = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)


def morton_codes(positions: Int[np.ndarray, 'n 2']) -> Int[np.ndarray, ' n']:
  """Interleaves the bits of x and y, those of y above those of x.

  Args:
    positions: symbols (x, y), each in 0..2**24 - 1.

  Returns:
    Codes below MORTON_END; neighbors on the curve are neighbors in the plane.

  Example:
    >>> morton_codes(np.array([[1, 2], [3, 5]]))
    array([ 9, 39])
  """
  bits = positions.astype(np.int64)
  for shift, mask in _SPREAD:
    bits = (bits | bits << shift) & mask
  return bits[:, 0] | bits[:, 1] << 1


def from_morton_codes(codes: Int[np.ndarray, ' n']) -> Int[np.ndarray, 'n 2']:
  """The positions (x, y) of Morton codes in 0..MORTON_END - 1.

  Example:
    >>> from_morton_codes(np.array([9, 39])).tolist()
    [[1, 2], [3, 5]]
  """
  bits = np.stack([codes, codes >> 1], -1) & _SPREAD[-1][1]
  masks = [mask for _, mask in _SPREAD[-2::-1]] + [2**32 - 1]
  for (shift, _), mask in zip(_SPREAD[::-1], masks, strict=True):
    bits = (bits | bits >> shift) & mask
  return bits


def origin(symbols: Int[np.ndarray, 'n k']) -> Int[np.ndarray, '2']:
  """The corner (least x, least y) that a layer's curve starts from, n > 0.

  A curve over the whole range of positions would jump where a coordinate
  changes its sign, at some 11 bytes a jump, and splats do lie over the edge.

  Example:
    >>> origin(np.array([[9, -1, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]]))
    array([ 1, -1])
  """
  return symbols[:, :2].min(axis=0)


def order(symbols: Int[np.ndarray, 'n k']) -> Int[np.ndarray, ' n']:
  """The permutation that sorts splats along a Morton curve of (x, y).

  A sum has no order, so sorting costs nothing and makes the positions
  increasing numbers, which saves log2(n!) bits.

  Args:
    symbols: symbols of one layer.

  Returns:
    Indices into the splats, ties in their given order.

  Example:
    >>> order(np.array([[9, 9, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]]))
    array([1, 0])
  """
  if not len(symbols):
    return np.zeros(0, np.int64)
  codes = morton_codes(symbols[:, :2] - origin(symbols))
  return np.argsort(codes, kind='stable')
