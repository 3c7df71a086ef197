"""Strategies of layered fits: which prefixes a step lowers, and which move.

A strategy is data. To add one is to add its entry here.
"""

from collections.abc import Callable, Sequence
import dataclasses

# (prefixes below the highest whose turn it is, index of the highest) -> those
# that count.
LowerLevels = Callable[[Sequence[int], int], Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy:
  """What tells one way to fit layers from another.

  Attributes:
    meaning: what it does, for those who choose one.
    lower_levels: which prefixes below the highest one a step lowers too, with
      `FitConfig.lower_weight`.
    one_by_one: every layer has steps of its own, equally many; those below
      stand still.
    merges: all splats are fitted as one layer.
    ranks: what was merged is cut into layers at the end, splats of largest
      contribution first. This is the naive scheme that joint training
      replaces: splats that were fitted together depend on one another, so low
      layers have holes.

  Example:
    >>> STRATEGIES['joint'].lower_levels([1], 3)
    [1]
    >>> STRATEGIES['all_levels'].lower_levels([1], 3)
    range(0, 3)
  """

  meaning: str
  lower_levels: LowerLevels = lambda turn, top: ()
  one_by_one: bool = False
  merges: bool = False
  ranks: bool = False

  def fitted(self, layer_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Splats per layer while they are fitted."""
    return (sum(layer_sizes),) if self.merges else layer_sizes

  def handed_out(self, layer_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Splats per layer of the result."""
    return layer_sizes if self.ranks else self.fitted(layer_sizes)


STRATEGIES = {
    'joint': Strategy(
        meaning=(
            'each step lowers the error of the full picture and of one lower '
            'prefix, cycling through them (P-GSVC).'
        ),
        lower_levels=lambda turn, top: turn,
    ),
    'all_levels': Strategy(
        meaning='every prefix at every step.',
        lower_levels=lambda turn, top: range(top),
    ),
    'sequential': Strategy(
        meaning='layer by layer, the layers below frozen (LIG).',
        one_by_one=True,
    ),
    'single': Strategy(
        meaning='all splats in one layer; not scalable, the upper bound.',
        merges=True,
    ),
    'prune': Strategy(
        meaning=(
            'a single-layer fit, ranked by contribution and cut into layers.'
        ),
        merges=True,
        ranks=True,
    ),
}
