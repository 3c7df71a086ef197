"""What happens to the splats of a picture between the steps of its fit."""

from collections.abc import Callable, Mapping, Sequence
import functools

from jaxtyping import Float
import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop
from pgsvc_jax.training import relocation
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

# (the fit before rounding, its squared error, the picture) -> step sizes, of
# all layers or one a layer.
Rate = Callable[
    [types.LayeredSplats, float, np.ndarray], Sequence[quantize.StepSizes]
]


def births(
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    initializer: initialize.Initializer,
) -> list[loop.Change]:
  """Splats are added where they are needed most on their grid."""
  changes = []
  for birth in schedule.births:
    grid = schedule.grid_of(birth.first)
    # Splats for finer grids may be alive, but this one does not show them.
    view = loop.View(grid, schedule.grids[grid].num_splats)
    apply = functools.partial(
        _give_birth, config.seed, initializer, schedule, birth, view
    )
    changes.append(
        loop.Change(step=birth.step, apply=apply, views=(view,), kind='birth')
    )
  return changes


def _give_birth(
    seed: int,
    initializer: initialize.Initializer,
    schedule: schedule_lib.Schedule,
    birth: schedule_lib.Birth,
    view: loop.View,
    picture: loop.PictureFit,
    shown: list[Float[np.ndarray, 'h w c'] | None],
) -> None:
  state = picture.state
  factors = np.float32(schedule.grids[view.grid].factors)
  image, weights = picture.on_grid(view.grid)
  means = state.params.means[: view.end][state.active[: view.end]] * factors
  count = birth.last - birth.first
  rng = np.random.default_rng((seed, birth.first))
  splats = initializer(image, shown[0], weights, means, count, rng)
  initialize.check_splats(splats, count, image.shape[2])
  splats = initialize.from_grid(splats, factors)
  picture.state = train.add_splats(state, birth.first, splats)
  picture.balance()


def relocations(
    config: config_lib.FitConfig, schedule: schedule_lib.Schedule
) -> list[loop.Change]:
  """Splats that show next to nothing move, in all layers that are fitted."""
  ends = np.cumsum(schedule.layer_sizes)
  changes = []
  for step in schedule.relocations:
    if step >= schedule.num_steps:  # Nothing would refine them.
      continue
    born = {
        int(np.searchsorted(ends, x.first, side='right'))
        for x in schedule.births
        if x.step <= step
    }
    born |= set(np.flatnonzero(schedule.filled).tolist())
    moving = set(np.flatnonzero(schedule.inputs.layer_rates[step]).tolist())
    layers = sorted(born & moving)
    views = tuple(
        loop.View(schedule.grid_of(ends[k] - 1), int(ends[k])) for k in layers
    )
    apply = functools.partial(_relocate, config, schedule, step, layers)
    changes.append(
        loop.Change(step=step, apply=apply, views=views, kind='relocation')
    )
  return changes


def _relocate(
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    step: int,
    layers: Sequence[int],
    picture: loop.PictureFit,
    shown: list[Float[np.ndarray, 'h w c'] | None],
) -> None:
  state = picture.state
  for layer, prefix in zip(layers, shown):
    end = sum(schedule.layer_sizes[: layer + 1])
    slots = np.arange(end - schedule.layer_sizes[layer], end)
    slots = slots[picture.state.active[slots]]
    grid = schedule.grid_of(end - 1)
    factors = np.float32(schedule.grids[grid].factors)
    image, weights = picture.on_grid(grid)
    splats = types.Splats(*(x[slots] for x in picture.state.params))
    moves = relocation.choose_moves(
        initialize.to_grid(splats, factors),
        image - prefix,
        weights,
        round(config.relocated_share * len(slots)),
        np.random.default_rng((config.seed, step, layer)),
    )
    new = initialize.from_grid(moves.splats, factors)
    state = train.put_splats(state, slots[moves.chosen], new)
  picture.state = state
  picture.balance()


def roundings(
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    rates: Mapping[loop.PictureFit, Rate],
) -> list[loop.Change]:
  """Step sizes are chosen and weak splats left out; then all is rounded.

  What has no stage of its own is rounded when the symbols are asked for.
  """

  def begin(picture: loop.PictureFit, shown) -> None:
    del shown
    error = float(picture.errors[-1])
    layered = picture.snapshot().layered
    picture.round_with(rates[picture](layered, error, picture.image), config)
    picture.state = picture.rounder.drop_weak(picture.state)

  def round_one(
      event: schedule_lib.Rounding, picture: loop.PictureFit, shown
  ) -> None:
    del shown
    picture.state = picture.rounder.round(picture.state, event)

  first = next((x.step for x in schedule.roundings), schedule.num_steps)
  return [
      loop.Change(step=first, apply=begin),
      *(
          loop.Change(step=x.step, apply=functools.partial(round_one, x))
          for x in schedule.roundings
      ),
  ]
