"""The train step: one joint step over all splats, sharded over bands of rows.

Each device of a `pmap` holds one band of a picture and all its splats;
gradients are summed over the bands of the picture. Devices can be dealt out to
several pictures of one size, consecutive ones to each; nothing passes between
pictures.

Shapes are fixed, so a whole incremental fit compiles once: splats not yet born
are parked far outside the picture, where they cost nothing and have zero
gradient, and bands that become lower end in rows of weight 0.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import TypeVar

import flax.struct
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np
import optax

import pallas_kernels
from pallas_kernels import constants
from pgsvc_jax import config as config_lib
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import lattice
from pgsvc_jax.training import bands as bands_lib
from pgsvc_jax.training import optimizer
from pgsvc_jax.training import schedule as schedule_lib

AXIS = 'bands'

types.register_pytrees()

# (means, cholesky, colors, target, pixel_weights, level_weights, *,
# layer_sizes) -> (loss, errors [L]), both sums over the pixels, of which some
# have weight 0. Errors are squared errors, for progress and rate.
ErrorFn = Callable[..., tuple[Array, Array]]

_T = TypeVar('_T')

# Outside any picture, being negative by more than any splat is wide.
_PARKED = -65536.0


@flax.struct.dataclass
class Prior:
  """What splats are predicted to be, and what departing from it costs.

  A change of u steps costs `weight` log2(1 + (u / 0.3)^2) / 2: about the bits
  that code it, and smooth where it rounds to none.

  Attributes:
    coordinates: the prediction, as in `lattice.coordinates`.
    per_step: 1 / step of each coordinate; 0: it is free to change.
    weight: squared error, summed over pixels and channels, a bit is worth.
  """

  coordinates: Float[Array, 'n k']
  per_step: Float[Array, 'n k']
  weight: Float[Array, '']


# In steps: changes below this are as good as none.
_CHANGE_SCALE = 0.3


def _change_cost(params: types.Splats, prior: Prior) -> Float[Array, '']:
  changes = lattice.coordinates(params, jnp) - prior.coordinates
  steps = changes * prior.per_step / _CHANGE_SCALE
  return prior.weight * jnp.log2(1 + steps**2).sum() / 2


@flax.struct.dataclass
class TrainState:
  """All that changes during a fit."""

  step: Int[Array, '']
  params: types.Splats
  opt_state: optimizer.AgedAdamState
  active: Bool[Array, ' n']
  # Attributes that are rounded and stay as they are, [n, 1] each.
  frozen: types.Splats
  # In the frames of a video that are predicted.
  prior: Prior | None = None


@flax.struct.dataclass
class Band:
  """Rows `top` to `bottom` (exclusive) of a picture on one device.

  The arrays may be higher; the rows past the end have weight 0.

  Attributes:
    target: the picture on this grid.
    pixel_weights: of the squared error; on a coarser grid the sum over the area
      of each pixel, so that errors on grids of several sizes compare.
    top: pixels of this grid.
    bottom: pixels of this grid.
    coarser: about the same rows of coarser grids, coarsest first.
  """

  target: Float[Array, 'h w c']
  pixel_weights: Float[Array, 'h w']
  top: Float[Array, '']
  bottom: Float[Array, '']
  coarser: tuple['Band', ...] = ()


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
      colors_decay=config.colors_decay,
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
  # As `optimizer.init_aged_adam`, without a transfer.
  zeros = jax.tree.map(np.zeros_like, params)
  opt_state = optimizer.AgedAdamState(
      zeros, zeros, np.zeros(num_splats, np.int32)
  )
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
  return put_splats(state, slice(first, first + len(splats.means)), splats)


def put_splats(
    state: TrainState,
    slots: slice | Int[np.ndarray, ' m'],
    splats: types.Splats,
) -> TrainState:
  """Gives the splats these slots, as just born (state in NumPy)."""

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


def _into_band(
    params: types.Splats,
    active: Bool[Array, ' n'],
    band: Band,
    factors: tuple[float, float] = (1, 1),
) -> types.Splats:
  """Splats in the coordinates of a band, parked where they do not reach it.

  The factors are those of the grid of the band.
  """
  params = resolution.resize_splats(params, factors)
  l21, l22 = params.cholesky[:, 1], params.cholesky[:, 2]
  extent = constants.CUTOFF_SIGMAS * jnp.sqrt(l21**2 + l22**2)
  # Those below would only be evaluated in rows of weight 0. A pixel of margin:
  # leaving out a splat that does reach in would be an error, the rest is speed.
  # Not `<`: a splat that is not a number must show up in the errors.
  below = params.means[:, 1] - extent > band.bottom + 1
  params = park(params, active & ~below)
  shift = jnp.stack([jnp.zeros_like(band.top), band.top])
  return params._replace(means=params.means - shift)


def _groups(num_devices: int, num_pictures: int) -> list[list[int]]:
  """Which devices share a picture."""
  return np.arange(num_devices).reshape(num_pictures, -1).tolist()


def make_train_step(
    config: config_lib.FitConfig,
    layout: schedule_lib.Layout,
    error_fn: ErrorFn = pallas_kernels.composite_error,
    groups: list[list[int]] | None = None,
    crop: bool = False,
) -> Callable[
    [TrainState, schedule_lib.StepInputs, Band],
    tuple[TrainState, Float[Array, ' l']],
]:
  """Makes `step(state, inputs, band) -> (state, squared errors [L])`.

  The loss is sum_k level_weights[k] |R_k - target|^2, summed over pixels and
  channels; with the weights of `schedule.make_schedule` this is P-GSVC's joint
  loss. Each prefix is rendered on its own grid, one pass for each grid. To be
  called where the axis `AXIS` is bound. While only coarse levels have weight,
  the finer grids are not rendered, and their errors are 0.

  Args:
    config: the settings.
    layout: what is fitted.
    error_fn: `pallas_kernels.composite_error`, or what replaces it: the loss,
      and a figure per prefix.
    groups: positions on the axis that share a picture; None: all do.
    crop: leave out the rows of weight 0 past the end of a picture of one band,
      for losses that look at neighbours.

  Returns:
    The step.

  Example:
    >>> config = config_lib.FitConfig(layer_splats=(1,), num_steps=10)
    >>> schedule = schedule_lib.make_schedule(config, 8, 8)
    >>> one = types.Splats(
    ...     np.float32([[4, 4]]), np.float32([[2, 0, 2]]), np.float32([[0.5]]))
    >>> state = add_splats(create_train_state(1, 1), 0, one)
    >>> (band,) = make_bands(np.full((8, 8, 1), 0.5, np.float32), [0, 8])
    >>> row = jax.tree.map(lambda x: x[0], schedule.inputs)
    >>> step = jax.vmap(make_train_step(config, schedule), axis_name=AXIS)
    >>> one_device = lambda tree: jax.tree.map(lambda x: x[np.newaxis], tree)
    >>> state, errors = step(*map(one_device, (state, row, band)))
    >>> errors.shape
    (1, 1)
  """
  tx = make_optimizer(config, layout.height, layout.width)
  layer_sizes = layout.layer_sizes
  layer_of_splat = np.repeat(np.arange(len(layer_sizes)), layer_sizes)
  num_bands = len(groups[0]) if groups else 1
  grids = layout.grids
  first_levels = np.cumsum([len(x.layer_sizes) for x in grids[:-1]], dtype=int)

  def step(state, inputs, band):
    def grid_loss(grid, part, level_weights, params):
      shown = jax.tree.map(
          lambda x: x[: grid.num_splats], (params, state.active)
      )
      rows = slice(0, grid.height if crop else None)
      return error_fn(
          *_into_band(*shown, part, grid.factors),
          part.target[rows],
          part.pixel_weights[rows],
          level_weights,
          layer_sizes=grid.layer_sizes,
      )

    def loss_fn(params):
      weights = jnp.split(inputs.level_weights, first_levels)
      parts = zip(grids, (*band.coarser, band), weights, strict=True)
      coarsest, *finer = (functools.partial(grid_loss, *x) for x in parts)
      results = [coarsest(params)]
      for first, grid, loss in zip(first_levels, grids[1:], finer):
        nothing = jnp.zeros(()), jnp.zeros(len(grid.layer_sizes))
        needed = inputs.level_weights[first:].any()
        skip = lambda _, nothing=nothing: nothing
        results.append(lax.cond(needed, loss, skip, params))
      losses, errors = zip(*results)
      loss = functools.reduce(jnp.add, losses)
      if state.prior is not None:
        # Once for all bands, whose gradients are summed.
        loss += _change_cost(params, state.prior) / num_bands
      return loss, jnp.concatenate(errors)

    grads, errors = jax.grad(loss_fn, has_aux=True)(state.params)
    # One device a picture has nothing to sum; XLA would not drop the sum.
    if groups is None or len(groups[0]) > 1:
      grads, errors = lax.psum((grads, errors), AXIS, axis_index_groups=groups)
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
    layout: schedule_lib.Layout,
    devices: Sequence[jax.Device],
    error_fn: ErrorFn = pallas_kernels.composite_error,
    num_pictures: int = 1,
    *,
    crop: bool = False,
) -> Callable[[TrainState, schedule_lib.StepInputs, Band], tuple]:
  """Makes the compiled unit of a fit: `chunk_steps` steps in one scan.

  Args:
    config: the settings.
    layout: what is fitted.
    devices: one per band.
    error_fn: as in `make_train_step`.
    num_pictures: the devices are dealt out to, in equal runs.
    crop: as in `make_train_step`.

  Returns:
    `chunk(state, inputs, bands) -> (state, errors [L])`, a pmap over `devices`:
    the state is the same on all devices of a picture, `inputs` holds the whole
    schedule on every device and the chunk reads its rows at `state.step`; the
    errors are those of the last step; where they look well, NaN for prefixes
    with a parameter that is not finite (the operator may skip such a splat).
  """
  groups = _groups(len(devices), num_pictures)
  step = make_train_step(config, layout, error_fn, groups, crop)

  @functools.partial(jax.pmap, axis_name=AXIS, devices=devices)
  def chunk(state, inputs, band):
    rows = jax.tree.map(
        lambda x: lax.dynamic_slice_in_dim(x, state.step, config.chunk_steps),
        inputs,
    )
    state, errors = lax.scan(lambda s, row: step(s, row, band), state, rows)
    finite = [jnp.isfinite(x).all(1) for x in jax.tree.leaves(state.params)]
    finite = jnp.stack(finite).all(0)
    ends = np.cumsum(layout.layer_sizes)
    prefixes = jnp.stack([finite[:end].all() for end in ends])
    told = jnp.where(prefixes, errors[-1], jnp.nan)
    return state, jnp.where(jnp.isfinite(errors[-1]).all(), told, errors[-1])

  return chunk


def make_render(
    devices: Sequence[jax.Device],
    implementation: pallas_kernels.Implementation | None = None,
    num_pictures: int = 1,
    grid: schedule_lib.Grid | None = None,
) -> Callable[..., Float[Array, 'devices bands h w c']]:
  """Makes `render(state, bands, ends)`: what splats show, band by band.

  A pmap like the chunk; every device returns all bands of its picture. Shown
  are those alive of the slots before `ends`, equal on all devices; without it,
  of all. Of a grid, the bands are its own, and slots past its highest prefix
  are never shown.
  """
  groups = _groups(len(devices), num_pictures)
  factors = grid.factors if grid else (1, 1)

  @functools.partial(jax.pmap, axis_name=AXIS, devices=devices)
  def render(state, band, end=None):
    height, width, _ = band.target.shape
    count = grid.num_splats if grid else len(state.active)
    active = state.active
    if end is not None:
      active &= jnp.arange(len(active)) < end
    shown = jax.tree.map(lambda x: x[:count], (state.params, active))
    (image,) = pallas_kernels.composite(
        *_into_band(*shown, band, factors),
        layer_sizes=(count,),
        height=height,
        width=width,
        implementation=implementation,
    )
    return lax.all_gather(image, AXIS, axis_index_groups=groups)

  return render


def on_coarser_grids(
    image: Float[np.ndarray, 'h w c'],
    pixel_weights: Float[np.ndarray, 'h w'],
    grids: Sequence[schedule_lib.Grid],
) -> list[tuple[np.ndarray, np.ndarray]]:
  """The picture on each grid, and the weights summed over its pixels."""
  results = []
  for grid in grids:
    shape = grid.height, grid.width
    area = pixel_weights.size / math.prod(shape)
    means = resolution.downsample(pixel_weights[..., np.newaxis], *shape)
    results.append((resolution.downsample(image, *shape), area * means[..., 0]))
  return results


def make_bands(
    image: Float[np.ndarray, 'h w c'],
    edges: Sequence[int],
    pixel_weights: Float[np.ndarray, 'h w'] | None = None,
    coarser: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> list[Band]:
  """Cuts a picture into bands (NumPy) at the edges of `bands.cut_rows`.

  Args:
    image: the picture.
    edges: of the bands.
    pixel_weights: of its pixels; None: 1.
    coarser: the picture and the weights on coarser grids, whose rows go to the
      nearest bands.

  Returns:
    The bands.
  """
  rows = bands_lib.capacity(len(image), len(edges) - 1)
  parts = []
  for other, weights in coarser:
    ratio = len(other) / len(image)
    other_edges = bands_lib.scale_edges(edges, ratio)
    parts.append(_cut(other, weights, other_edges, math.ceil(rows * ratio)))
  if pixel_weights is None:
    pixel_weights = np.ones(image.shape[:2], np.float32)
  return [
      band.replace(coarser=tuple(others))
      for band, *others in zip(_cut(image, pixel_weights, edges, rows), *parts)
  ]


def _cut(
    image: Float[np.ndarray, 'h w c'],
    pixel_weights: Float[np.ndarray, 'h w'],
    edges: Sequence[int],
    rows: int,
) -> list[Band]:
  """Bands in arrays of so many rows."""
  _, width, channels = image.shape
  cut = []
  for top, bottom in zip(edges, edges[1:]):
    part = image[top:bottom]
    target = np.zeros((rows, width, channels), np.float32)
    target[: len(part)] = part
    weights = np.zeros((rows, width), np.float32)
    weights[: len(part)] = pixel_weights[top:bottom]
    cut.append(Band(target, weights, np.float32(top), np.float32(bottom)))
  return cut


def place(trees: Sequence[_T], devices: Sequence[jax.Device]) -> _T:
  """Puts one tree of NumPy arrays on each device, as a pmap wants them.

  The leading axis of the result is a device of this process, laid out as the
  pmap's own outputs are: arrays placed in any other way compile the chunk a
  second time when its output comes back as input.
  """
  local = [
      i
      for i, device in enumerate(devices)
      if device.process_index == jax.process_index()
  ]
  sharding = jax.sharding.NamedSharding(
      jax.sharding.Mesh(np.array([devices[i] for i in local]), (AXIS,)),
      jax.sharding.PartitionSpec(AXIS),
  )
  stacked = jax.tree.map(lambda *x: np.stack(x), *(trees[i] for i in local))
  return jax.device_put(stacked, sharding)


def fetch(tree: _T, num_pictures: int = 1) -> list[_T]:
  """Each picture's first copy in this process, as trees of NumPy arrays."""

  def copies(x):
    shards = sorted(
        x.addressable_shards, key=lambda shard: shard.index[0].start
    )
    return [shard.data for shard in shards[:: len(shards) // num_pictures]]

  leaves, treedef = jax.tree.flatten(tree)
  # One call: all copies start before the first is waited for.
  fetched = jax.device_get([copies(x) for x in leaves])
  return [
      jax.tree.unflatten(treedef, [np.asarray(x[i])[0] for x in fetched])
      for i in range(num_pictures)
  ]
