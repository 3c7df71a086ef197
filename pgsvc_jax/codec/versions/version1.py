"""Packets of version 1: read for ever, written no more.

A symbol's value is symbol * step size, the same step for every splat. The rows
of a packet are the distance along the Morton curve, log l11, shear l21 / l22,
log l22 and the colors; of three or more the first three stand as YCoCg-R.
`docs/format_v1.md` is the specification.
"""

import dataclasses
import struct

from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import morton

VERSION = 1

_STEP_UNIT = 2.0**-12
_MAX_STEP = 2**16 - 1
_SYMBOL_LIMIT = 2**22 - 1
# log l11 and log l22: diagonals between 1.1e-7 and 8.9e6 pixels.
_LOG_LIMIT = 16
_LOG_COLUMNS = (2, 4)
# Where the layer's Morton curve starts, in symbols.
_ORIGIN = struct.Struct('<ii')


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSizes:
  """Step sizes of one layer, in units of 2**-12 (each 1 to 65535)."""

  position: int
  cholesky: int
  shear: int
  color: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 1 <= value <= _MAX_STEP:
        raise ValueError(f'step size {name}={value} is not in 1..{_MAX_STEP}')


def decode_packet(
    packet: bytes, num_splats: int, channels: int
) -> Int[np.ndarray, 'n k']:
  """The symbols x, y, log l11, shear, log l22, colors of a layer.

  Raises:
    ValueError: no encoder wrote such a packet.
  """
  if not num_splats:
    return np.zeros((0, 5 + channels), np.int64)
  if len(packet) < _ORIGIN.size:
    raise ValueError('packet ends inside its origin')
  from pgsvc_jax.codec import range_coder  # Numba: only where it is needed.

  columns = 4 + channels
  decoder = range_coder.Decoder(packet[_ORIGIN.size :])
  coded = decoder.column(np.tile(np.arange(columns), num_splats))
  decoder.finish()
  coded = coded.reshape(num_splats, columns)
  positions = morton.from_gaps(coded[:, 0]) + _ORIGIN.unpack_from(packet)
  return np.concatenate([positions, coded[:, 1:]], axis=1)


def _column_steps(
    step_sizes: StepSizes, channels: int
) -> Float[np.ndarray, ' k']:
  s = step_sizes
  units = [s.position, s.position, s.cholesky, s.shear, s.cholesky]
  return np.array(units + [s.color] * channels, np.float64) * _STEP_UNIT


def _limits(step_sizes: StepSizes, channels: int) -> Int[np.ndarray, ' k']:
  """The largest magnitude of each column, colors before their lifting."""
  limits = np.full(5 + channels, _SYMBOL_LIMIT, np.int64)
  log_limit = int(_LOG_LIMIT / _STEP_UNIT) // step_sizes.cholesky
  limits[list(_LOG_COLUMNS)] = log_limit
  return limits


def _unlift(lifted: Int[np.ndarray, 'n 3']) -> Int[np.ndarray, 'n 3']:
  luma, orange, chroma_green = lifted.T
  middle = luma - (chroma_green >> 1)
  blue = middle - (orange >> 1)
  return np.stack([blue + orange, chroma_green + middle, blue], -1)


def _diagonal(
    symbols: Int[np.ndarray, ' n'], step: float
) -> Float[np.ndarray, ' n']:
  """The float32 diagonal of the decoded splat, widened to float64."""
  return np.exp(symbols * step).astype(np.float32).astype(np.float64)


def dequantize(
    symbols: Int[np.ndarray, 'n k'], step_sizes: StepSizes
) -> types.Splats:
  """The splats that symbols stand for.

  Args:
    symbols: symbols of one layer.
    step_sizes: those that the symbols were made with.

  Returns:
    float32 splats, all finite, l11 > 0 and l22 > 0.

  Raises:
    ValueError: a symbol is beyond what quantize gives.

  """
  symbols = np.array(symbols, np.int64)
  channels = symbols.shape[1] - 5
  # Before the lifting is undone, so that nothing below can wrap around.
  if (symbols != np.clip(symbols, -4 * _SYMBOL_LIMIT, 4 * _SYMBOL_LIMIT)).any():
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
