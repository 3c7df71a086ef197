"""Fits layered splats to a picture."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
from jaxtyping import Float
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import initialize
from pgsvc_jax import quantize
from pgsvc_jax import rounding
from pgsvc_jax import schedule as schedule_lib
from pgsvc_jax import train
from pgsvc_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
  """Where a fit stands, after a chunk of steps.

  Attributes:
    step: steps done.
    num_steps: steps in all.
    num_splats: splats alive.
    loss: mean squared error of the highest prefix alive.
    psnr_db: of each prefix alive, float pictures.
  """

  step: int
  num_steps: int
  num_splats: int
  loss: float
  psnr_db: tuple[float, ...]


class DivergenceError(ArithmeticError):
  """The fit produced numbers that are not finite."""


def fit_picture(
    image: Float[np.ndarray, 'h w c'],
    config: config_lib.FitConfig,
    *,
    step_sizes: quantize.StepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    report: Callable[[Progress], None] | None = None,
) -> types.LayeredSplats:
  """Fits layered splats to one picture.

  Args:
    image: the picture, float32 in [0, 1].
    config: the settings.
    step_sizes: those that the file will have; with them, and `rounding_steps`,
      the last steps fit what remains to what is already rounded, and the
      result is one that `bitstream.write` does not change. None: not rounded.
    devices: one band of rows each; None takes all local ones.
    implementation: of the operator; None takes the best.
    report: called after every chunk.

  Returns:
    The fitted splats in layer order.

  Raises:
    ValueError: settings out of range, or not a picture.
    DivergenceError: the loss is not finite any more.

  Example:
    >>> import numpy as np
    >>> image = np.full((16, 16, 1), 0.5, np.float32)
    >>> config = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> fit_picture(image, config).layer_sizes
    (3, 2)
  """
  if image.ndim != 3 or 0 in image.shape:
    raise ValueError(f'a picture is [h, w, c]: {image.shape=}')
  height, width, channels = image.shape
  image = np.asarray(image, np.float32)
  schedule = schedule_lib.make_schedule(
      config, height, width, rounding=step_sizes is not None
  )
  devices = list(devices or jax.local_devices())
  # A band is at least one row of tiles.
  devices = devices[: max(1, -(-height // 8))]

  sharding = train.band_sharding(devices)
  error_fn = functools.partial(
      pallas_kernels.composite_error, implementation=implementation
  )
  chunk = train.make_train_chunk(config, schedule, devices, error_fn)
  bands = jax.device_put(train.make_bands(image, len(devices)), sharding)
  inputs = train.replicate(schedule.inputs, sharding)
  state = train.replicate(
      train.create_train_state(sum(schedule.layer_sizes), channels),
      sharding,
  )
  births = list(schedule.births)
  roundings = list(schedule.roundings)
  if step_sizes is not None:
    step_sizes = quantize.reaching(step_sizes, height, width)
    rounder = rounding.Rounder(config, step_sizes, sum(schedule.layer_sizes))
  for step in range(0, schedule.num_steps, config.chunk_steps):
    while births and births[0].step == step:
      state = _give_birth(
          train.fetch(state), births.pop(0), image, config.seed, implementation
      )
      state = train.replicate(state, sharding)
    while roundings and roundings[0].step == step:
      state = rounder.round(train.fetch(state), roundings.pop(0))
      state = train.replicate(state, sharding)
    state, errors = chunk(state, inputs, bands)
    progress = _progress(
        schedule, step + config.chunk_steps, train.fetch(errors), image.size
    )
    if not np.isfinite(progress.loss):
      raise DivergenceError(
          f'the loss is not finite after step {progress.step}: lower the rates'
      )
    if report:
      report(progress)
  state = train.fetch(state)
  for last in roundings:
    state = rounder.round(state, last)
  layered = types.LayeredSplats(
      splats=state.params,
      layer_sizes=schedule.layer_sizes,
      height=height,
      width=width,
  )
  if config.strategy == 'prune':
    sizes = schedule_lib.layer_sizes(config, height, width)
    layered = rank_into_layers(layered, sizes)
  return layered


@functools.partial(
    jax.jit, static_argnames=('height', 'width', 'implementation')
)
def _render_top(state, *, height, width, implementation):
  params = train.park(state.params, state.active)
  return pallas_kernels.composite(
      *params,
      layer_sizes=(len(params.means),),
      height=height,
      width=width,
      implementation=implementation,
  )[0]


def _give_birth(
    state: train.TrainState,
    birth: schedule_lib.Birth,
    image: np.ndarray,
    seed: int,
    implementation: pallas_kernels.Implementation | None,
) -> train.TrainState:
  """Adds the splats of one birth, where they are needed most."""
  height, width, _ = image.shape
  rng = np.random.default_rng((seed, birth.first))
  is_first = not state.active.any()
  if is_first:
    source = image
    density = initialize.gradient_density(image)
  else:
    render = _render_top(
        state, height=height, width=width, implementation=implementation
    )
    source = image - np.asarray(render)
    density = initialize.residual_density(source)
  centres = initialize.sample_centres(density, birth.last - birth.first, rng)
  alive = np.concatenate([state.params.means[state.active], centres])
  splats = initialize.born_splats(
      centres,
      alive,
      source,
      size_factor=0.7 if is_first else 0.5,
      color_factor=0.3,
  )
  return train.add_splats(state, birth.first, splats)


def _progress(
    schedule: schedule_lib.Schedule,
    step: int,
    errors: Float[np.ndarray, ' l'],
    num_values: int,
) -> Progress:
  born = [birth for birth in schedule.births if birth.step < step]
  num_splats = born[-1].last if born else 0
  first_splats = np.cumsum((0, *schedule.layer_sizes[:-1]))
  alive = max(1, int(np.sum(first_splats < num_splats)))
  mse = np.asarray(errors[:alive], np.float64) / num_values
  with np.errstate(divide='ignore'):
    psnr_db = -10 * np.log10(mse)
  return Progress(
      step=step,
      num_steps=schedule.num_steps,
      num_splats=num_splats,
      loss=float(mse[-1]),
      psnr_db=tuple(psnr_db.tolist()),
  )


def rank_into_layers(
    layered: types.LayeredSplats, layer_sizes: tuple[int, ...]
) -> types.LayeredSplats:
  """Cuts a finished fit into layers, splats of largest contribution first.

  The contribution is the integral of |color| over the plane, 2 pi l11 l22 |c|.
  This is the naive scheme that joint training replaces: splats that were fitted
  together depend on one another, so low layers have holes.

  Args:
    layered: a fit.
    layer_sizes: of the result; sums to the number of splats.

  Returns:
    The same splats in another order.
  """
  means, cholesky, colors = layered.splats
  area = cholesky[:, 0] * cholesky[:, 2]
  contribution = area * np.linalg.norm(colors, axis=1)
  order = np.argsort(-contribution, kind='stable')
  return dataclasses.replace(
      layered,
      splats=types.Splats(means[order], cholesky[order], colors[order]),
      layer_sizes=tuple(layer_sizes),
  )
