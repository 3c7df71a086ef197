"""The Morton curve, on which splats that are neighbors stand together."""

from jaxtyping import Int
import numpy as np

# Positions relative to the origin of a layer have 24 bits.
END = 2**48

# Doubling steps of the bit interleave: after each, groups of that many bits
# stand with as many zero bits between them.
_SPREAD = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)


def encode(positions: Int[np.ndarray, 'n 2']) -> Int[np.ndarray, ' n']:
  """Interleaves the bits of x and y, those of y above those of x.

  Args:
    positions: symbols (x, y), each in 0..2**24 - 1.

  Returns:
    Codes below END; neighbors on the curve are neighbors in the plane.

  Example:
    >>> encode(np.array([[1, 2], [3, 5]]))
    array([ 9, 39])
  """
  bits = positions.astype(np.int64)
  for shift, mask in _SPREAD:
    bits = (bits | bits << shift) & mask
  return bits[:, 0] | bits[:, 1] << 1


def decode(codes: Int[np.ndarray, ' n']) -> Int[np.ndarray, 'n 2']:
  """The positions (x, y) of Morton codes in 0..END - 1.

  Example:
    >>> decode(np.array([9, 39])).tolist()
    [[1, 2], [3, 5]]
  """
  bits = np.stack([codes, codes >> 1], -1) & _SPREAD[-1][1]
  masks = [mask for _, mask in _SPREAD[-2::-1]] + [2**32 - 1]
  for (shift, _), mask in zip(_SPREAD[::-1], masks, strict=True):
    bits = (bits | bits >> shift) & mask
  return bits


def from_gaps(gaps: Int[np.ndarray, ' n']) -> Int[np.ndarray, 'n 2']:
  """The positions of splats, given the distances along the Morton curve.

  Raises:
    ValueError: a distance is negative, or leads beyond the curve.
  """
  # One by one first: then no sum of them can wrap around before it has passed
  # the end of the curve.
  if ((gaps < 0) | (gaps >= END)).any():
    raise ValueError('position off the curve')
  codes = np.cumsum(gaps)
  if (codes >= END).any():
    raise ValueError('position off the curve')
  return decode(codes)
