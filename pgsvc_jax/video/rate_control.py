"""A rate for a video: how many splats, and the bytes of each group.

Groups are encoded apart, in any order, so what each may take follows from the
source alone; how it keeps to that, from its own bytes:

  1. the rate decides the splats of all frames;
  2. it is shared among the groups by their length and by how much there is to
     code in their first frames;
  3. the first frame of a group is rounded to its part of the share, once more
     if the bytes of the second show that this part was a wrong one;
  4. later frames make up for what the ones before took: the fewer bytes are
     left, the dearer are changes.
"""

from collections.abc import Sequence
import dataclasses
import fractions
import math

from pgsvc_jax import config as config_lib
from pgsvc_jax.video import groups as groups_lib

# Bits of a splat in a first frame, at the default rounding.
_BITS_PER_SPLAT = 30
# Bytes of a later frame over those of the first: 0.06 to 0.21 on four clips.
_LATER_FRAME = 0.15
# Twice as much to code gets 1.5 times the bytes: between one rate for all
# groups and one quality for all.
_COMPLEXITY_POWER = 0.6

# A first frame is encoded again where its group would take more or less than
# what was asked for by that factor: later frames can make up for less.
_FACTOR_LEFT = 1.3
_RETRIES = 2
# Beyond, no less is coded, and no more.
_COST_LIMIT = 16.0


def _frames_of_first(num_frames: int) -> float:
  """About the bytes of a group over those of its first frame."""
  return 1 + _LATER_FRAME * (num_frames - 1)


def plan(
    config: config_lib.VideoConfig,
    groups: Sequence[groups_lib.Group],
    *,
    height: int,
    width: int,
    time_base: fractions.Fraction,
) -> tuple[config_lib.VideoConfig, list[groups_lib.Group]]:
  """The splats for `target_kbps`, and the bytes of each group.

  Args:
    config: the settings.
    groups: all of the video.
    height: of the frames, pixels.
    width: of the frames, pixels.
    time_base: seconds a tick.

  Returns:
    The settings with `layer_splats`, and the groups with `num_bytes`.

  Example:
    >>> first = groups_lib.Group(
    ...     index=0, first_frame=0, times=tuple(range(24)), last_duration=1,
    ...     complexity=0.5)
    >>> second = dataclasses.replace(first, index=1, complexity=1.0)
    >>> config, planned = plan(
    ...     config_lib.VideoConfig(target_kbps=200), [first, second],
    ...     height=360, width=640, time_base=fractions.Fraction(1, 24))
    >>> config.image.fit.layer_splats
    (827, 336, 336)
    >>> [group.num_bytes for group in planned]
    [19875, 30125]
  """
  ticks = sum(x.times[-1] - x.times[0] + x.last_duration for x in groups)
  num_bytes = config.target_kbps * 1000 / 8 * float(ticks * time_base)
  lengths = [_frames_of_first(len(x.times)) for x in groups]
  fit = config.image.fit
  if not fit.layer_splats:
    total = num_bytes * 8 / _BITS_PER_SPLAT / sum(lengths)
    # More than one for every other pixel shows nothing.
    total = min(total, height * width / 2)
    shares = [x / sum(fit.layer_density) for x in fit.layer_density]
    fit = dataclasses.replace(
        fit, layer_splats=tuple(max(1, round(total * x)) for x in shares)
    )
  weights = [
      length * group.complexity**_COMPLEXITY_POWER
      for length, group in zip(lengths, groups)
  ]
  scale = num_bytes / sum(weights)
  image = dataclasses.replace(config.image, fit=fit)
  return dataclasses.replace(config, image=image), [
      dataclasses.replace(group, num_bytes=round(scale * weight))
      for group, weight in zip(groups, weights)
  ]


def budget(group: groups_lib.Group) -> 'Budget | None':
  """To encode a group with; None where there is no rate.

  Example:
    >>> budget(groups_lib.Group(
    ...     index=0, first_frame=0, times=(0,), last_duration=1))
  """
  if group.num_bytes is None:
    return None
  return Budget(group.num_bytes, len(group.times))


class Budget:
  """The bytes of a group, as they are spent.

  Attributes:
    first_bytes: of the first frame, to be aimed at.
    cost: of a bit of the next frame / that in the settings.

  Example:
    >>> budget = Budget(1000, num_frames=11)
    >>> budget.first_bytes
    400.0
    >>> budget.is_off(400, 150)  # 1900 bytes in all.
    True
    >>> round(budget.first_bytes)
    290
    >>> budget.is_off(290, 90)
    False
    >>> budget.spend(1, used=380, last=90)
    >>> round(budget.cost, 2)
    1.31
  """

  def __init__(self, num_bytes: int, num_frames: int):
    self._num_bytes = num_bytes
    self._num_frames = num_frames
    self._retries = _RETRIES
    self.first_bytes = num_bytes / _frames_of_first(num_frames)
    self.cost = 1.0

  def is_off(self, first: int, second: int) -> bool:
    """Whether the first frame is to be encoded again, and with how many bytes.

    Args:
      first: bytes of the first frame.
      second: bytes of the second frame.
    """
    expected = first + (self._num_frames - 1) * second
    factor = self._num_bytes / expected
    if not self._retries or 1 / _FACTOR_LEFT < factor < _FACTOR_LEFT:
      return False
    self._retries -= 1
    # Half of it, in octaves, is left to the later frames.
    self.first_bytes *= math.sqrt(factor)
    return True

  def spend(self, index: int, used: int, last: int) -> None:
    """Takes in a later frame that is coded; decides the cost of the next.

    Args:
      index: of the frame, the first of the group being 0.
      used: bytes of all frames so far.
      last: those of this one.
    """
    frames_left = self._num_frames - index - 1
    if frames_left:
      wanted = max((self._num_bytes - used) / frames_left, 1.0)
      # Bytes fall with about the cube root of the cost, so this takes a few
      # frames; at once, they would swing.
      cost = self.cost * last / wanted
      self.cost = min(max(cost, 1 / _COST_LIMIT), _COST_LIMIT)
