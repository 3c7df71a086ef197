"""The train step: one joint step over all splats, sharded over bands of rows.

Each device of a `pmap` holds one band of the picture and all splats; gradients
are summed over the bands. Capacity is fixed: splats not yet born are parked far
outside the picture, where they cost nothing and have zero gradient, so a whole
incremental fit compiles once.
"""

from collections.abc import Callable, Sequence
import functools
from typing import TypeVar

import flax.struct
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np
import optax

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import optimizer
from pgsvc_jax import schedule as schedule_lib
from pgsvc_jax import types

AXIS = 'bands'

# (means, cholesky, colors, target, pixel_weights, level_weights, *,
# layer_sizes) -> (loss, errors [L]).
ErrorFn = Callable[..., tuple[Array, Array]]

_T = TypeVar('_T')

# Outside any picture, being negative by more than any splat is wide.
_PARKED = -65536.0


@flax.struct.dataclass
class TrainState:
  """All that changes during a fit."""

  step: Int[Array, '']
  params: types.Splats
  opt_state: optimizer.AgedAdamState
  active: Bool[Array, ' n']
  # Attributes that are rounded and stay as they are, [n, 1] each.
  frozen: types.Splats


@flax.struct.dataclass
class Band:
  """Rows of the picture on one device.

  Rows past the end of the picture have weight 0.
  """

  target: Float[Array, 'h w c']
  pixel_weights: Float[Array, 'h w']
  top: Float[Array, '']


def make_optimizer(
    config: config_lib.FitConfig, height: int, width: int
) -> optax.GradientTransformationExtraArgs:
  """The optimiser that the settings ask for, for a picture of this size."""
  return optimizer.splat_adam(
      config.means_rate,
      config.cholesky_rate,
      config.colors_rate,
      b1=config.adam_b1,
      b2=config.adam_b2,
      bounds=optimizer.Bounds(
          min_cholesky=config.min_cholesky, height=height, width=width
      ),
  )


def create_train_state(num_splats: int, channels: int) -> TrainState:
  """A state (NumPy) with room for `num_splats`, none of them born."""
  params = types.Splats(
      np.zeros((num_splats, 2), np.float32),
      np.tile(np.float32([1, 0, 1]), (num_splats, 1)),
      np.zeros((num_splats, channels), np.float32),
  )
  opt_state = jax.tree.map(np.asarray, optimizer.init_aged_adam(params))
  return TrainState(
      step=np.int32(0),
      params=params,
      opt_state=opt_state,
      active=np.zeros(num_splats, bool),
      frozen=types.Splats(*(np.zeros((num_splats, 1), bool) for _ in range(3))),
  )


def add_splats(
    state: TrainState, first: int, splats: types.Splats
) -> TrainState:
  """Gives the splats the slots from `first` on (state in NumPy)."""
  slots = slice(first, first + len(splats.means))

  def put(array, new):
    array = np.array(array)
    array[slots] = new
    return array

  return state.replace(
      params=jax.tree.map(put, state.params, splats),
      opt_state=jax.tree.map(lambda x: put(x, 0), state.opt_state),
      active=put(state.active, True),
  )


def park(params: types.Splats, active: Bool[Array, ' n']) -> types.Splats:
  """Moves the splats that are not born out of every picture."""
  means = jnp.where(active[:, None], params.means, _PARKED)
  return params._replace(means=means)


def make_train_step(
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    error_fn: ErrorFn = pallas_kernels.composite_error,
) -> Callable[
    [TrainState, schedule_lib.StepInputs, Band],
    tuple[TrainState, Float[Array, ' l']],
]:
  """Makes `step(state, inputs, band) -> (state, squared errors [L])`.

  The loss is sum_k level_weights[k] |R_k - target|^2, summed over pixels and
  channels; with the weights of `schedule.make_schedule` this is P-GSVC's joint
  loss. To be called where the axis `AXIS` is bound.

  Args:
    config: the settings.
    schedule: what is fitted.
    error_fn: `pallas_kernels.composite_error`, or what replaces it: the loss,
      and a figure per prefix.

  Returns:
    The step.
  """
  tx = make_optimizer(config, schedule.height, schedule.width)
  layer_sizes = schedule.layer_sizes
  layer_of_splat = np.repeat(np.arange(len(layer_sizes)), layer_sizes)

  def step(state, inputs, band):
    def loss_fn(params):
      params = park(params, state.active)
      shift = jnp.stack([jnp.zeros_like(band.top), band.top])
      return error_fn(
          params.means - shift,
          params.cholesky,
          params.colors,
          band.target,
          band.pixel_weights,
          inputs.level_weights,
          layer_sizes=layer_sizes,
      )

    grads, errors = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, errors = lax.psum((grads, errors), AXIS)
    rates = inputs.layer_rates[layer_of_splat]
    updates, opt_state = tx.update(
        grads, state.opt_state, state.params, rates=rates
    )
    params = jax.tree.map(
        jnp.where,
        state.frozen,
        state.params,
        optax.apply_updates(state.params, updates),
    )
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state
    )
    return state, errors

  return step


def make_train_chunk(
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    devices: Sequence[jax.Device],
    error_fn: ErrorFn = pallas_kernels.composite_error,
) -> Callable[[TrainState, schedule_lib.StepInputs, Band], tuple]:
  """Makes the compiled unit of a fit: `chunk_steps` steps in one scan.

  Args:
    config: the settings.
    schedule: what is fitted.
    devices: one per band.
    error_fn: as in `make_train_step`.

  Returns:
    `chunk(state, inputs, bands) -> (state, errors [L])`, a pmap over `devices`:
    the state is replicated along a leading device axis, `inputs` holds the
    whole schedule on every device and the chunk reads its rows at `state.step`;
    the errors are those of the last step, NaN once a parameter is not finite
    (the operator may skip such a splat, and the errors alone would look well).
  """
  step = make_train_step(config, schedule, error_fn)

  @functools.partial(jax.pmap, axis_name=AXIS, devices=devices)
  def chunk(state, inputs, band):
    rows = jax.tree.map(
        lambda x: lax.dynamic_slice_in_dim(x, state.step, config.chunk_steps),
        inputs,
    )
    state, errors = lax.scan(lambda s, row: step(s, row, band), state, rows)
    finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)]
    return state, jnp.where(jnp.stack(finite).all(), errors[-1], jnp.nan)

  return chunk


def make_bands(image: Float[np.ndarray, 'h w c'], num_bands: int) -> Band:
  """Cuts a picture into bands of equal height, padded with weight-0 rows."""
  height, width, channels = image.shape
  # Whole tiles, so that no tile is worked on twice.
  rows = -(-height // (8 * num_bands)) * 8
  target = np.zeros((num_bands * rows, width, channels), np.float32)
  target[:height] = image
  weights = np.zeros((num_bands * rows, width), np.float32)
  weights[:height] = 1
  return Band(
      target=target.reshape(num_bands, rows, width, channels),
      pixel_weights=weights.reshape(num_bands, rows, width),
      top=np.arange(num_bands, dtype=np.float32) * rows,
  )


def band_sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
  """Where the pmap over bands keeps its arrays: the leading axis is a device.

  Arrays placed in any other way compile the chunk a second time when its own
  output comes back as input.
  """
  return jax.sharding.NamedSharding(
      jax.sharding.Mesh(np.array(devices), (AXIS,)),
      jax.sharding.PartitionSpec(AXIS),
  )


def replicate(tree: _T, sharding: jax.sharding.NamedSharding) -> _T:
  """Copies a tree of NumPy arrays to every device."""
  num_devices = sharding.mesh.size
  return jax.device_put(
      jax.tree.map(
          lambda x: np.broadcast_to(x, (num_devices, *np.shape(x))), tree
      ),
      sharding,
  )


def fetch(tree: _T) -> _T:
  """The first device's copy of a replicated tree, as NumPy arrays."""
  return jax.tree.map(
      lambda x: np.asarray(x.addressable_shards[0].data)[0], tree
  )
