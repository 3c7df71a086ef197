"""Bjontegaard delta rate, where it means something.

The mean difference in rate at equal quality over the range of qualities that
two curves share, in percent of the anchor's rate: negative is better.
"""

from collections.abc import Sequence
import dataclasses

import bjontegaard
import numpy as np

FEWEST_POINTS = 4
# Of the shorter curve's range of qualities. The library measures the share of
# the union, which an anchor that reaches further would spoil for nothing.
_LEAST_OVERLAP = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class BdRate:
  """Percent; or None, and why not."""

  percent: float | None
  reason: str = ''


def _refusal(rates: np.ndarray, qualities: np.ndarray, whose: str) -> str:
  if len(rates) < FEWEST_POINTS:
    return f'{whose} has {len(rates)} points, {FEWEST_POINTS} are needed'
  if (np.diff(rates) <= 0).any() or (np.diff(qualities) <= 0).any():
    return f'{whose} is not monotone'
  return ''


def bd_rate(
    anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]
) -> BdRate:
  """Compares two curves of (rate, quality), in any order of their points.

  Args:
    anchor: the curve compared with.
    test: the curve in question.

  Returns:
    The percentage, or the reason why there is none.

  Example:
    >>> anchor = [(1, 30), (2, 33), (4, 36), (8, 39)]
    >>> half = [(rate / 2, quality) for rate, quality in anchor]
    >>> round(bd_rate(anchor, half).percent, 6)
    -50.0
    >>> bd_rate(anchor, half[1:])
    BdRate(percent=None, reason='it has 3 points, 4 are needed')
  """
  curves = []
  for points, whose in ((anchor, 'the anchor'), (test, 'it')):
    rates, qualities = np.array(sorted(points), float).reshape(-1, 2).T
    if reason := _refusal(rates, qualities, whose):
      return BdRate(percent=None, reason=reason)
    curves.append((rates, qualities))
  ends = [(qualities[0], qualities[-1]) for _, qualities in curves]
  shared = min(high for _, high in ends) - max(low for low, _ in ends)
  shorter = min(high - low for low, high in ends)
  if shared <= 0:
    return BdRate(percent=None, reason='no quality in common')
  if shared < _LEAST_OVERLAP * shorter:
    share = shared / shorter
    return BdRate(
        percent=None, reason=f'only {share:.0%} of the qualities in common'
    )
  # pchip: as monotone between the points as the points are.
  percent = bjontegaard.bd_rate(
      *curves[0],
      *curves[1],
      method='pchip',
      require_matching_points=False,
      min_overlap=0,
  )
  return BdRate(percent=float(percent))
