"""When which splats are born, and what each step optimises.

A step is data: the weight of every prefix in the loss and the learning rate of
every layer. The train step knows nothing else of strategies (`strategies.py`).
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax import resolution
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import strategies

# Factor of the rates of a layer that begins with splats fitted before. With
# factors of 1, 0.3, 0.1, 0.03, 100 steps from a rounded fit of 40.7 dB led to
# 40.0, 43.1, 43.3, 42.9 dB (300: 44.0, 44.9, 44.6, 43.9; 30: 32.6, 40.6, 42.2,
# 42.1; 192x128 pixels of kodim05, 0.046 splats a pixel).
_WARM_RATE = 0.1

# The mean squared error of a level counts by this power of its size, so that no
# level loses much more than the others against a fit of its own: at 1/4, 1/2
# and 1, 0.2, 0.5, 0.5 dB with these weights, 0.1, 0.6, 0.5 with 0.5, 0.5, 1 (16
# Kodak pictures, 500 steps).
_SIZE_POWER = 0.75

# Shares of a fit between which splats relocate. Earlier they have not settled,
# later the new ones would not.
_RELOCATED = 0.2, 0.86

# Steps for which the cycle `epoch` stays with a prefix. (A single picture has
# no epochs; long against the memory of Adam, short against a fit.)
_EPOCH_STEPS = 50


class StepInputs(NamedTuple):
  """What the scan over train steps reads, one row a step.

  Attributes:
    level_weights: weight of each prefix's squared error in the loss.
    layer_rates: learning-rate factor of each layer; 0 freezes it.
  """

  level_weights: Float[np.ndarray, 'steps l']
  layer_rates: Float[np.ndarray, 'steps l']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Birth:
  """Splats `first` to `last` (exclusive) come to life before step `step`."""

  step: int
  first: int
  last: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounding:
  """Before step `step`, one attribute of every `groups`-th splat is rounded.

  The splats are those at `group`, `group + groups`, ... of a random order.
  """

  step: int
  attribute: str
  group: int


class Grid(NamedTuple):
  """A grid that prefixes are compared with the picture on, all in one pass.

  Attributes:
    height: pixels.
    width: pixels.
    factors: lengths on this grid / those on the picture's, along x and y.
    layer_sizes: splats to composite for each prefix, on top of those for the
      prefix before; the first prefix of the grid includes all layers below.
  """

  height: int
  width: int
  factors: tuple[float, float]
  layer_sizes: tuple[int, ...]

  @property
  def num_splats(self) -> int:
    """Splats of the highest prefix."""
    return sum(self.layer_sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """What is fitted: the slots of every layer, and the grids that show them.

  Attributes:
    height: of the picture, pixels.
    width: of the picture, pixels.
    layer_sizes: splats per layer as they are fitted.
    layer_shapes: as in `types.LayeredSplats`.
  """

  height: int
  width: int
  layer_sizes: tuple[int, ...]
  layer_shapes: tuple[tuple[int, int], ...] = ()

  @property
  def grids(self) -> tuple[Grid, ...]:
    """The grids of all prefixes, coarse to fine; the last is the picture's."""
    whole = (self.height, self.width)
    shapes = self.layer_shapes or (whole,) * len(self.layer_sizes)
    grids = []
    below = 0
    for height, width in sorted(set(shapes)):
      first, *others = (
          size
          for size, shape in zip(self.layer_sizes, shapes)
          if shape == (height, width)
      )
      factors = width / self.width, height / self.height
      grids.append(Grid(height, width, factors, (below + first, *others)))
      below = grids[-1].num_splats
    return tuple(grids)

  def grid_of(self, splat: int) -> int:
    """The index in `grids` of the one that a splat's layer belongs to."""
    ends = [grid.num_splats for grid in self.grids]
    return int(np.searchsorted(ends, splat, side='right'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Layout):
  """A whole fit, fixed before it starts.

  Attributes:
    filled: splats of each layer that are there before the first step.
    births: of the others, in order of steps.
    relocations: steps before which splats of the layers that move then may go
      elsewhere, ascending.
    roundings: in order of steps, the last one behind the last step.
    inputs: one row a step; a whole number of chunks.
  """

  filled: tuple[int, ...]
  births: tuple[Birth, ...]
  relocations: tuple[int, ...]
  roundings: tuple[Rounding, ...]
  inputs: StepInputs

  @property
  def num_steps(self) -> int:
    """Steps of the fit."""
    return len(self.inputs.level_weights)

  def alive(self, step: int) -> tuple[int, int]:
    """Splats and layers alive in the step before `step`."""
    born = [birth for birth in self.births if birth.step < step]
    starts = np.cumsum((0, *self.layer_sizes))
    last = max((birth.last for birth in born), default=0)
    for start, count in zip(starts, self.filled):
      last = max(last, start + count if count else 0)
    num_splats = sum(self.filled) + sum(x.last - x.first for x in born)
    return num_splats, max(1, int(np.sum(starts[:-1] < last)))

  @property
  def layout(self) -> Layout:
    """What is fitted, which can be compared and hashed."""
    return Layout(
        height=self.height,
        width=self.width,
        layer_sizes=self.layer_sizes,
        layer_shapes=self.layer_shapes,
    )


def layer_sizes(
    config: config_lib.FitConfig, height: int, width: int
) -> tuple[int, ...]:
  """Splats per layer of the finished picture, from counts or densities.

  Example:
    >>> layer_sizes(config_lib.FitConfig(layer_density=(0.1, 0.05)), 10, 20)
    (20, 10)
  """
  if config.layer_splats:
    sizes = tuple(config.layer_splats)
  else:
    sizes = tuple(
        max(1, round(density * height * width))
        for density in config.layer_density
    )
  if not sizes or min(sizes) < 0:
    raise ValueError(f'no layers, or a negative count: {sizes}')
  return sizes


def finished_layers(
    config: config_lib.FitConfig, height: int, width: int
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
  """Splats per layer of what is handed out, and `layer_shapes` of it.

  Example:
    >>> config = config_lib.FitConfig(
    ...     layer_splats=(20, 10), layer_scales=(0.5, 1))
    >>> finished_layers(config, 16, 24)
    ((20, 10), ((8, 12), (16, 24)))
  """
  sizes = layer_sizes(config, height, width)
  strategy = strategies.STRATEGIES[config.strategy]
  if strategy.merges and not strategy.ranks:
    return strategy.handed_out(sizes), ()
  shapes = resolution.layer_shapes(config.layer_scales, height, width)
  return strategy.handed_out(sizes), shapes


def fitted_sizes(
    config: config_lib.FitConfig, height: int, width: int
) -> tuple[int, ...]:
  """Splats per layer while they are fitted.

  Example:
    >>> config = config_lib.FitConfig(layer_splats=(20, 10), strategy='prune')
    >>> fitted_sizes(config, 10, 20)
    (30,)
  """
  sizes = layer_sizes(config, height, width)
  return strategies.STRATEGIES[config.strategy].fitted(sizes)


def make_schedule(
    config: config_lib.FitConfig,
    height: int,
    width: int,
    *,
    rounding: bool = False,
    filled: Sequence[int] = (),
) -> Schedule:
  """Lays out a fit of a picture of the given size.

  Layers come one after the other; while layers 0..m exist, `joint` weighs the
  full prefix m with 1 and one lower prefix, step by step in turn, with
  `lower_weight` (P-GSVC's joint, incremental, cyclic training); `cycle` and
  `incremental` have variants of that. Where layers have grids of their own,
  each coarser grid first gets `coarse_steps` before the next one's splats are
  born.

  Args:
    config: the settings.
    height: pixels.
    width: pixels.
    rounding: whether `rounding_steps` follow.
    filled: splats that each layer has before the first step, in its first
      slots; those are not born, and the more there are, the slower the layer
      moves. Empty: none.

  Returns:
    The schedule; steps are rounded to whole chunks.

  Raises:
    ValueError: settings out of range.

  Example:
    >>> config = config_lib.FitConfig(
    ...     layer_splats=(4, 2), num_steps=40, num_births=2)
    >>> schedule = make_schedule(config, 8, 8)
    >>> [(birth.step, birth.first, birth.last) for birth in schedule.births]
    [(0, 0, 4), (20, 4, 6)]
    >>> schedule.inputs.level_weights.shape
    (40, 2)
  """
  sizes = fitted_sizes(config, height, width)
  shapes = resolution.layer_shapes(config.layer_scales, height, width)
  if strategies.STRATEGIES[config.strategy].merges:
    shapes = ()
  num_layers = len(sizes)
  num_chunks = max(1, round(config.num_steps / config.chunk_steps))

  filled = tuple(filled) or (0,) * num_layers
  turns = _turns(config, shapes, num_chunks, filled)
  births = _births(config, sizes, num_chunks, turns, filled)
  begins = [config.chunk_steps * turn for turn in turns]
  num_steps = begins[-1] + num_chunks * config.chunk_steps
  alive, start = _arrivals(births, sizes, filled, num_steps)
  weights, rates = _fit_inputs(config, alive, start, begins)
  rates *= np.float32(_WARM_RATE) ** (np.divide(filled, np.maximum(sizes, 1)))
  stages = _stages(config) if rounding else ()
  roundings, more = _roundings(config, stages, num_steps, num_layers)
  areas = [h * w / (height * width) for h, w in shapes] or [1] * num_layers
  counts = np.float32(areas) ** (_SIZE_POWER / 2)
  return Schedule(
      height=height,
      width=width,
      layer_sizes=sizes,
      layer_shapes=shapes,
      filled=filled,
      births=births,
      relocations=_relocations(config, start, num_steps),
      roundings=roundings,
      inputs=StepInputs(
          np.concatenate([weights, more.level_weights]) * counts,
          np.concatenate([rates, more.layer_rates]),
      ),
  )


def _arrivals(
    births: Sequence[Birth],
    sizes: Sequence[int],
    filled: Sequence[int],
    num_steps: int,
) -> tuple[Int[np.ndarray, ' steps'], Int[np.ndarray, ' ends']]:
  """The highest layer alive at each step; when each came, and the end."""
  ends = np.cumsum(sizes)
  alive = np.full(num_steps, max((0, *np.flatnonzero(filled))))
  start = np.zeros(len(sizes) + 1, np.int64)
  start[-1] = num_steps
  for birth in births:
    layer = int(np.searchsorted(ends, birth.first, side='right'))
    if layer > alive[birth.step]:
      start[layer] = birth.step
      alive[birth.step :] = layer
  return alive, start


def _fit_inputs(
    config: config_lib.FitConfig,
    alive: Int[np.ndarray, ' steps'],
    start: Int[np.ndarray, ' ends'],
    begins: Sequence[int],
) -> StepInputs:
  """The steps before the rounding.

  Args:
    config: the settings.
    alive: the highest layer alive at each step.
    start: when each layer came, and the end.
    begins: when the rates of each layer begin to fall.

  Returns:
    Weights, and rates that fall to `final_rate`.
  """
  strategy = strategies.STRATEGIES[config.strategy]
  num_steps, num_layers = len(alive), len(begins)
  weights = np.zeros((num_steps, num_layers), np.float32)
  rates = np.zeros((num_steps, num_layers), np.float32)
  for step, top in enumerate(alive):
    turn = _lower_prefixes(config, step, top)
    weights[step, strategy.lower_levels(turn, top)] = config.lower_weight
    weights[step, top] = 1
    if strategy.one_by_one:
      later = start[top + 1 :]
      end = later[later > start[top]].min()
      rates[step, top] = _falling(
          (step - start[top]) / (end - start[top]), config.final_rate
      )
      continue
    rates[step] = [
        _falling(max(0, step - begin) / (num_steps - begin), config.final_rate)
        for begin in begins
    ]
  return StepInputs(weights, rates)


def _stages(config: config_lib.FitConfig) -> tuple[tuple[str, int], ...]:
  """What is rounded one after the other: an attribute of a group each."""
  if not config.rounding_steps:
    return ()
  return tuple(
      itertools.product(quantize.ATTRIBUTES, range(config.rounding_groups))
  )


def _roundings(
    config: config_lib.FitConfig,
    stages: tuple[tuple[str, int], ...],
    first_step: int,
    num_layers: int,
) -> tuple[tuple[Rounding, ...], StepInputs]:
  """The steps of rounding: a stage for each attribute and group.

  All layers move, whatever the strategy: each step lowers the error of the
  full picture and of one lower prefix in turn, or else the layers below would
  pay for the rounding of those above.
  """
  # Nothing is left to refit after the last one.
  refits = max(0, len(stages) - 1)
  chunks = config.rounding_steps / config.chunk_steps / max(1, refits)
  stage_steps = max(1, round(chunks)) * config.chunk_steps
  roundings = tuple(
      Rounding(
          step=first_step + k * stage_steps, attribute=attribute, group=group
      )
      for k, (attribute, group) in enumerate(stages)
  )
  num_steps = refits * stage_steps
  weights = np.zeros((num_steps, num_layers), np.float32)
  weights[:, -1] = 1
  for step in range(num_steps):
    lower = _lower_prefixes(config, step, num_layers - 1)
    weights[step, lower] = config.lower_weight
  rates = np.geomspace(*config.rounding_rates, max(1, refits))[:refits]
  rates = np.repeat(rates, stage_steps).astype(np.float32)
  return roundings, StepInputs(
      weights, np.tile(rates[:, np.newaxis], (1, num_layers))
  )


def _lower_prefixes(
    config: config_lib.FitConfig, step: int, top: int
) -> list[int]:
  """The prefixes below `top` that a step weighs: one, or none."""
  if not top or config.cycle == 'none':
    return []
  if config.cycle == 'random':
    rng = np.random.default_rng((config.seed, step))
    return [int(rng.integers(top))]
  turn = step // _EPOCH_STEPS if config.cycle == 'epoch' else step
  return [turn % top]


def _falling(progress: float, final: float) -> float:
  return 1 + (final - 1) * progress


def _relocations(
    config: config_lib.FitConfig, starts: Sequence[int], num_steps: int
) -> tuple[int, ...]:
  """Places the relocations on chunk boundaries, in the middle of the fit.

  With `sequential`, in the middle of the time of each layer.
  """
  spans = [(0, num_steps)]
  if strategies.STRATEGIES[config.strategy].one_by_one:
    spans = [(a, b) for a, b in itertools.pairwise(starts) if a < b]
  each = round(config.num_relocations / len(spans))
  shares = np.linspace(*_RELOCATED, each)
  steps = {
      config.chunk_steps * round((a + share * (b - a)) / config.chunk_steps)
      for a, b in spans
      for share in shares
  }
  return tuple(sorted(steps))


def _turns(
    config: config_lib.FitConfig,
    shapes: Sequence[tuple[int, int]],
    num_chunks: int,
    filled: tuple[int, ...],
) -> list[int]:
  """The chunk at which each layer's grid gets its turn, never falling.

  What is there from the first step, on any grid, is fitted for `num_chunks`.
  """
  coarse = round(config.coarse_steps * num_chunks)
  one_by_one = strategies.STRATEGIES[config.strategy].one_by_one
  if one_by_one or not config.incremental or any(filled):
    coarse = 0
  order = sorted(set(shapes))
  return [order.index(x) * coarse for x in shapes] or [0] * len(filled)


def _births(
    config: config_lib.FitConfig,
    sizes: tuple[int, ...],
    num_chunks: int,
    turns: list[int],
    filled: tuple[int, ...],
) -> tuple[Birth, ...]:
  """Places the births on chunk boundaries, equally far apart on each grid.

  Each layer is born in parts in proportion to its size; to the root of it where
  layers have grids of their own, or else a small base would be there all at
  once, far from where its picture needs it (0.3 to 0.5 dB at 1/4). It is born
  after the one below or, not `incremental`, at the same time. With
  `sequential`, every layer has the same time, so that a frozen layer was fitted
  as long as any other.
  """
  missing = np.subtract(sizes, filled).tolist()
  power = 0.5 if config.layer_scales else 1
  total = max(sum(np.power(sizes, power)), 1)
  parts = [
      min(count, max(1, round(config.num_births * count**power / total)))
      for count in missing
  ]
  slots = []
  for end, count, births in zip(np.cumsum(sizes), missing, parts):
    cuts = [round(count * part / births) for part in range(1, births + 1)]
    bounds = [int(end) - count + cut for cut in (0, *cuts)]
    slots.extend(itertools.pairwise(bounds))

  # Runs of births: when its turn begins and for how many chunks it lasts, which
  # share of it has gone by, and how many there are.
  growth = config.growth_fraction
  if strategies.STRATEGIES[config.strategy].one_by_one:
    stages = [count for count in parts if count]
    growth /= max(1, len(stages))
    runs = [(0, num_chunks, k / len(stages), n) for k, n in enumerate(stages)]
  elif config.incremental:
    runs = []
    for begin, end in itertools.pairwise((*sorted(set(turns)), None)):
      length = num_chunks if end is None else end - begin
      count = sum(n for turn, n in zip(turns, parts) if turn == begin)
      runs.append((begin, length, 0, count))
  else:
    runs = [(0, num_chunks, 0, n) for n in parts]
  starts = [
      begin + length * (start + grown)
      for begin, length, start, count in runs
      for grown in np.linspace(0, growth, count)
  ]
  chunks = np.minimum(np.round(starts), turns[-1] + num_chunks - 1)
  births = (
      Birth(step=int(chunk) * config.chunk_steps, first=first, last=last)
      for chunk, (first, last) in zip(chunks, slots)
  )
  return tuple(sorted(births, key=lambda birth: birth.step))
