"""When which splats are born, and what each step optimises.

A strategy is data: per step, the weight of every prefix in the loss and the
learning rate of every layer. The train step knows nothing else of strategies.
"""

import dataclasses
from typing import NamedTuple

from jaxtyping import Float
import numpy as np

from pgsvc_jax import config as config_lib


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
class Schedule:
  """A whole fit, fixed before it starts.

  Attributes:
    height: of the picture, pixels.
    width: of the picture, pixels.
    layer_sizes: splats per layer as they are fitted.
    births: in order of steps.
    inputs: one row a step; a whole number of chunks.
  """

  height: int
  width: int
  layer_sizes: tuple[int, ...]
  births: tuple[Birth, ...]
  inputs: StepInputs

  @property
  def num_steps(self) -> int:
    """Steps of the fit."""
    return len(self.inputs.level_weights)


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


def make_schedule(
    config: config_lib.FitConfig, height: int, width: int
) -> Schedule:
  """Lays out a fit of a picture of the given size.

  Layers come one after the other; while layers 0..m exist, `joint` weighs the
  full prefix m with 1 and one lower prefix, step by step in turn, with
  `lower_weight` (P-GSVC's joint, incremental, cyclic training).

  Args:
    config: the settings.
    height: pixels.
    width: pixels.

  Returns:
    The schedule; steps are rounded to whole chunks.

  Raises:
    ValueError: settings out of range.
  """
  sizes = layer_sizes(config, height, width)
  if config.strategy in ('single', 'prune'):
    sizes = (sum(sizes),)
  num_layers = len(sizes)
  chunk = config.chunk_steps
  num_chunks = max(1, round(config.num_steps / chunk))

  births = _births(config, sizes, num_chunks)
  num_steps = num_chunks * chunk
  weights = np.zeros((num_steps, num_layers), np.float32)
  rates = np.zeros((num_steps, num_layers), np.float32)
  ends = np.cumsum(sizes)
  # The highest layer alive at each step, and when it came.
  alive = np.zeros(num_steps, np.int64)
  start = np.zeros(num_layers + 1, np.int64)
  start[num_layers] = num_steps
  for birth in births:
    layer = int(np.searchsorted(ends, birth.first, side='right'))
    if alive[birth.step] != layer:
      start[layer] = birth.step
    alive[birth.step :] = layer

  for step in range(num_steps):
    top = alive[step]
    weights[step, top] = 1
    if config.strategy == 'sequential':
      later = start[top + 1 :]
      end = later[later > start[top]].min()
      rates[step, top] = _cosine(
          (step - start[top]) / (end - start[top]), config.final_rate
      )
      continue
    rates[step] = _cosine(step / num_steps, config.final_rate)
    if top and config.strategy == 'joint':
      weights[step, step % top] = config.lower_weight
    elif top and config.strategy == 'all_levels':
      weights[step, :top] = config.lower_weight
  return Schedule(
      height=height,
      width=width,
      layer_sizes=sizes,
      births=births,
      inputs=StepInputs(weights, rates),
  )


def _cosine(progress: float, final: float) -> float:
  return final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2


def _births(
    config: config_lib.FitConfig, sizes: tuple[int, ...], num_chunks: int
) -> tuple[Birth, ...]:
  """Places the births on chunk boundaries, equally far apart.

  Each layer is born in parts in proportion to its size. With `sequential`,
  every layer has the same time, so that a frozen layer was fitted as long as
  any other.
  """
  parts = [
      min(size, max(1, round(config.num_births * size / max(sum(sizes), 1))))
      for size in sizes
  ]
  bounds = [0]
  for size, count in zip(sizes, parts):
    cuts = [round(size * part / count) for part in range(1, count + 1)]
    bounds.extend(np.add(cuts, bounds[-1]).tolist())

  stages = [count for count in parts if count]
  if config.strategy != 'sequential':
    stages = [sum(stages)]
  starts = []
  for stage, count in enumerate(stages):
    grown = np.linspace(0, config.growth_fraction, count)
    starts.extend((stage + grown) / len(stages))
  chunks = np.minimum(np.round(np.multiply(starts, num_chunks)), num_chunks - 1)
  return tuple(
      Birth(step=int(chunk) * config.chunk_steps, first=first, last=last)
      for chunk, first, last in zip(chunks, bounds, bounds[1:])
  )
