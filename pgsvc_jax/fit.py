"""Fits layered splats to a picture."""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
import math
import pickle
import zlib

import jax
from jaxtyping import Float
import numpy as np

import pallas_kernels
from pgsvc_jax import bands
from pgsvc_jax import checkpoint
from pgsvc_jax import config as config_lib
from pgsvc_jax import initialize
from pgsvc_jax import pace as pace_lib
from pgsvc_jax import processes
from pgsvc_jax import quantize
from pgsvc_jax import resolution
from pgsvc_jax import rounding
from pgsvc_jax import schedule as schedule_lib
from pgsvc_jax import train
from pgsvc_jax import types
from pgsvc_jax import warm_start

# A fit has diverged when its loss is so many times the lowest so far (of no
# splats at first), and above a limit: what is nearly exact may lose 20 dB in a
# chunk, and rounding for a very low rate may leave no splat.
_WORST_GROWTH = 100.0
_WORST_LOSS = 0.1
_WORST_ROUNDED_LOSS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
  """Where a fit stands, after a chunk of steps.

  Attributes:
    step: steps done.
    num_steps: steps in all.
    num_splats: splats alive.
    loss: mean squared error of the highest prefix alive.
    psnr_db: of each prefix alive, float pictures, on its own grid.
  """

  step: int
  num_steps: int
  num_splats: int
  loss: float
  psnr_db: tuple[float, ...]


# Of all layers, or one of each.
StepSizes = quantize.StepSizes | Sequence[quantize.StepSizes]

# (picture, its fit before rounding, squared error) -> step sizes.
ChooseStepSizes = Callable[[int, types.LayeredSplats, float], StepSizes]


class DivergenceError(ArithmeticError):
  """The fit went to numbers that are not finite, or off any picture."""


def fit_picture(
    image: Float[np.ndarray, 'h w c'],
    config: config_lib.FitConfig,
    *,
    step_sizes: StepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    initializer: initialize.Initializer = initialize.new_splats,
    pixel_weights: Float[np.ndarray, 'h w'] | None = None,
    error_fn: train.ErrorFn | None = None,
    report: Callable[[Progress], None] | None = None,
    initial: types.LayeredSplats | None = None,
) -> types.LayeredSplats:
  """Fits layered splats to one picture.

  Args:
    image: the picture, float32 in [0, 1].
    config: the settings.
    step_sizes: those that the file will have; with them, and `rounding_steps`,
      the last steps fit what remains to what is already rounded, and the
      result is one that `bitstream.write` does not change. None: not rounded.
    devices: one band of rows each; None takes all local ones. Of several
      processes (`jax.distributed`), each makes the same call with all devices,
      equally many of each process, and gets the same result.
    implementation: of the operator; None takes the best.
    initializer: makes the new splats of each birth.
    pixel_weights: of each pixel in the loss, at least 0; None: 1 each.
    error_fn: the loss, called and differentiated as `composite_error` in its
      place; None: `composite_error`. It sees a band of rows at a time.
    report: called after every chunk.
    initial: splats of another fit to begin with, of any size and number of
      layers (`warm_start.fill_layers`); those missing are born.

  Returns:
    The fitted splats in layer order.

  Raises:
    ValueError: settings out of range, not a picture, weights that do not fit,
      or what the initializer makes are not the splats asked for.
    DivergenceError: the fit diverged; the message has the step and the layer.

  Example:
    >>> import numpy as np
    >>> image = np.full((16, 16, 1), 0.5, np.float32)
    >>> config = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> fit_picture(image, config).layer_sizes
    (3, 2)
  """
  (layered,) = fit_pictures(
      [image],
      config,
      step_sizes=step_sizes,
      devices=devices,
      implementation=implementation,
      initializer=initializer,
      pixel_weights=None if pixel_weights is None else [pixel_weights],
      error_fn=error_fn,
      report=report and (lambda states: report(states[0])),
      initial=None if initial is None else [initial],
  )
  return layered


def fit_pictures(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    *,
    step_sizes: StepSizes | ChooseStepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    initializer: initialize.Initializer = initialize.new_splats,
    pixel_weights: Sequence[Float[np.ndarray, 'h w']] | None = None,
    error_fn: train.ErrorFn | None = None,
    report: Callable[[list[Progress]], None] | None = None,
    initial: Sequence[types.LayeredSplats] | None = None,
    checkpointer: checkpoint.Checkpointer | None = None,
    deadline: float | None = None,
) -> list[types.LayeredSplats]:
  """Fits several pictures of one size at a time, each on devices of its own.

  Nothing passes between pictures: each comes out as from `fit_picture` on as
  many devices. That is the fast way with one device a picture, when there is
  nothing to sum and to wait for.

  Args:
    images: the pictures, float32 in [0, 1]; at most as many as devices.
    config: the settings.
    step_sizes: as in `fit_picture`, or what chooses them before the rounding
      (at the end, if there is none); called with the index of the picture.
    devices: dealt out evenly, the remainder is idle; None takes all local ones.
    implementation: as in `fit_picture`.
    initializer: as in `fit_picture`; called by several threads at a time.
    pixel_weights: as in `fit_picture`, one array a picture.
    error_fn: as in `fit_picture`.
    report: called after every chunk, with one entry a picture.
    initial: as in `fit_picture`, one a picture.
    checkpointer: keeps where the fit stands, and has it go on from there; in
      every process, that of process 0 is asked.
    deadline: when to be done, as `time.perf_counter` counts; steps are left out
      for it, evenly, but no birth and no rounding. One process only.

  Returns:
    The fitted splats of every picture.

  Raises:
    ValueError: as `fit_picture`, or not pictures of one size.
    DivergenceError: the fit of one picture diverged.

  Example:
    >>> import numpy as np
    >>> images = [np.full((16, 16, 1), 0.5, np.float32)]  # One a device.
    >>> config = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> [layered.layer_sizes for layered in fit_pictures(images, config)]
    [(3, 2)]
  """
  images = _checked_images(images)
  pixel_weights = _checked_weights(pixel_weights, images)
  shape = height, width, channels = images[0].shape
  starts = [_start(x, config, shape) for x in initial or [None] * len(images)]
  schedule = schedule_lib.make_schedule(
      config,
      height,
      width,
      rounding=step_sizes is not None,
      filled=_common_sizes(starts),
  )
  devices = list(devices or jax.local_devices())
  num_bands = len(devices) // len(images)
  if not num_bands:
    raise ValueError(f'{len(devices)} devices for {len(images)} pictures')
  devices = devices[: num_bands * len(images)]
  if processes.are_several(devices):
    if deadline is not None:
      raise ValueError('a deadline is for one process')
    # What chooses step sizes cannot be compared; process 0 has the last word.
    settings = (
        config,
        None if callable(step_sizes) else step_sizes,
        [zlib.crc32(pickle.dumps(x)) for x in starts],
        checkpointer is not None,
    )
    processes.require_agreement(images, pixel_weights, settings, len(devices))

  error_fn = error_fn or functools.partial(
      pallas_kernels.composite_error, implementation=implementation
  )
  chunk = train.make_train_chunk(
      config, schedule, devices, error_fn, len(images)
  )
  renders = [
      train.make_render(devices, implementation, len(images), grid)
      for grid in schedule.grids
  ]
  inputs = train.place([schedule.inputs] * len(devices), devices)
  fits = [
      _Fit(
          image,
          weights,
          train.create_train_state(sum(schedule.layer_sizes), channels),
          bands.cut_evenly(height, num_bands),
          lowest_loss=float(np.mean(image**2)),
          coarser=[
              _on_grid(image, weights, grid) for grid in schedule.grids[:-1]
          ],
      )
      for image, weights in zip(images, pixel_weights)
  ]
  for x, start in zip(fits, starts):
    _begin_with(x, start, schedule)
  first_step = _restore(fits, checkpointer, config, schedule, devices)
  state = cut = None
  if first_step or any(schedule.filled):
    state, cut = _place(fits, devices), _place_bands(fits, devices)
  births = [x for x in schedule.births if x.step >= first_step]
  roundings = [x for x in schedule.roundings if x.step >= first_step]
  pace = pace_lib.Pace(deadline, schedule.num_steps)
  step = first_step
  while step < schedule.num_steps:
    while births and births[0].step <= step:
      birth = births.pop(0)
      grid = schedule.grid_of(birth.first)
      if state is not None:
        band = (*cut.coarser, cut)[grid]
        _fetch_into(fits, state, renders[grid](state, band), grid)
      before = [x.edges for x in fits]
      _give_births(fits, birth, schedule, initializer, config.seed, devices)
      state = _place(fits, devices)
      if cut is None or before != [x.edges for x in fits]:
        cut = _place_bands(fits, devices)
    while roundings and roundings[0].step <= step:
      hosted = train.fetch(state, len(fits))
      if fits[0].rounder is None:
        hosted = _begin_rounding(fits, hosted, step_sizes, config, schedule)
      _round(fits, hosted, roundings.pop(0), devices)
      state = _place(fits, devices)
    before, (state, errors) = state, chunk(state, inputs, cut)
    done = step + config.chunk_steps
    states = _figures(fits, errors, schedule, done)
    if any(map(_has_diverged, fits, states)):
      # By the end of a chunk all layers are lost: where did it begin?
      short = dataclasses.replace(config, chunk_steps=1)
      one = train.make_train_chunk(
          short, schedule, devices, error_fn, len(images)
      )
      for middle in range(step + 1, done + 1):
        before, errors = one(before, inputs, cut)
        _require_sound(fits, _figures(fits, errors, schedule, middle), schedule)
      raise DivergenceError(f'the fit diverged before step {done}')
    for x, picture in zip(fits, states):
      x.lowest_loss = min(x.lowest_loss, picture.loss)
    if report:
      report(states)
    begins = [x.step for x in schedule.roundings[:1]] + [schedule.num_steps]
    if checkpointer and checkpointer.is_due(done in begins):
      hosted = train.fetch(state, len(fits))
      checkpointer.save([_snapshot(*x, schedule) for x in zip(fits, hosted)])
    step = pace.next_step(done, config.chunk_steps)
    if births:  # None is left out: the file would lack layers.
      step = max(done, min(step, births[-1].step))
    if step > done:
      skipped = train.place([np.int32(step)] * len(devices), devices)
      state = state.replace(step=skipped)
  hosted = train.fetch(state, len(fits))
  if step_sizes is not None and fits[0].rounder is None:
    hosted = _begin_rounding(fits, hosted, step_sizes, config, schedule)
  for last in roundings:
    _round(fits, hosted, last, devices)
    hosted = [x.state for x in fits]
  return [
      finish(_snapshot(*fitted, schedule).layered, config)
      for fitted in zip(fits, hosted)
  ]


def finish(
    layered: types.LayeredSplats, config: config_lib.FitConfig
) -> types.LayeredSplats:
  """The layers that the strategy hands out, of the splats as fitted."""
  if config.strategy == 'single':
    return layered
  shapes = resolution.layer_shapes(
      config.layer_scales, layered.height, layered.width
  )
  layered = dataclasses.replace(layered, layer_shapes=shapes)
  if config.strategy != 'prune':
    return layered
  sizes = schedule_lib.layer_sizes(config, layered.height, layered.width)
  # Of the last layer are those that rounding has taken out.
  ends = np.minimum(np.cumsum(sizes), sum(layered.layer_sizes))
  return rank_into_layers(layered, np.diff(ends, prepend=0).tolist())


@dataclasses.dataclass
class _Fit:
  """A picture and, on the host at births, where its fit stands.

  Attributes:
    image: the picture.
    pixel_weights: of its pixels in the loss.
    state: of the fit (NumPy).
    edges: of its bands.
    lowest_loss: of all chunks, and of no splats.
    rounder: what is rounded already; None: nothing will be.
    step_sizes: of the rounder, as they were chosen.
    coarser: picture and weights on coarser grids.
    render: what the splats alive show on the grid of the birth; None before the
      first one.
    errors: of the prefixes, at the last step.
  """

  image: np.ndarray
  pixel_weights: np.ndarray
  state: train.TrainState
  edges: list[int]
  lowest_loss: float
  rounder: rounding.Rounder | None = None
  step_sizes: tuple[quantize.StepSizes, ...] | None = None
  coarser: Sequence[tuple[np.ndarray, np.ndarray]] = ()
  render: np.ndarray | None = None
  errors: np.ndarray | None = None


def _checked_images(
    images: Sequence[Float[np.ndarray, 'h w c']],
) -> list[Float[np.ndarray, 'h w c']]:
  shape = np.shape(images[0])
  if len(shape) != 3 or 0 in shape:
    raise ValueError(f'a picture is [h, w, c]: {shape=}')
  if any(np.shape(image) != shape for image in images):
    raise ValueError(f'pictures of several sizes: {set(map(np.shape, images))}')
  return [np.asarray(image, np.float32) for image in images]


def _checked_weights(
    pixel_weights: Sequence[Float[np.ndarray, 'h w']] | None,
    images: list[Float[np.ndarray, 'h w c']],
) -> list[Float[np.ndarray, 'h w']]:
  shapes = [image.shape[:2] for image in images]
  if pixel_weights is None:
    return [np.ones(shape, np.float32) for shape in shapes]
  pixel_weights = [np.asarray(x, np.float32) for x in pixel_weights]
  if [weights.shape for weights in pixel_weights] != shapes:
    raise ValueError(
        f'pixel weights {[x.shape for x in pixel_weights]} do not fit {shapes}'
    )
  for weights in pixel_weights:
    if not (weights.min() >= 0 and 0 < weights.sum() < np.inf):
      raise ValueError('pixel weights must be finite, at least 0, not all 0')
  return pixel_weights


def _start(
    initial: types.LayeredSplats | None,
    config: config_lib.FitConfig,
    shape: tuple[int, int, int],
) -> list[types.Splats]:
  """What every layer begins with; nothing without other splats."""
  if initial is None:
    return []
  height, width, channels = shape
  if initial.channels != channels:
    raise ValueError(
        f'splats of {initial.channels} channels to begin with, and'
        f' {channels} in the picture'
    )
  sizes = schedule_lib.fitted_sizes(config, height, width)
  layered = warm_start.resize(initial, height, width)
  return warm_start.fill_layers(
      layered, sizes, without_gaps=config.strategy == 'sequential'
  )


def _on_grid(
    image: Float[np.ndarray, 'h w c'],
    weights: Float[np.ndarray, 'h w'],
    grid: schedule_lib.Grid,
) -> tuple[np.ndarray, np.ndarray]:
  """The picture on a coarser grid, and the weights summed over its pixels."""
  shape = grid.height, grid.width
  area = image[..., 0].size / math.prod(shape)
  means = resolution.downsample(weights[..., np.newaxis], *shape)[..., 0]
  return resolution.downsample(image, *shape), area * means


def _common_sizes(starts: list[list[types.Splats]]) -> list[int]:
  """Slots filled in all pictures: they share one schedule."""
  return [min(map(_count, layers)) for layers in zip(*starts)]


def _count(splats: types.Splats) -> int:
  return len(splats.means)


def _begin_with(
    x: _Fit, start: list[types.Splats], schedule: schedule_lib.Schedule
) -> None:
  """Puts splats into the first slots of each layer."""
  first = 0
  for splats, size, count in zip(start, schedule.layer_sizes, schedule.filled):
    strongest = np.argsort(-warm_start.contributions(splats), kind='stable')
    kept = np.sort(strongest[:count])
    splats = types.Splats(*(a[kept] for a in splats))
    x.state = train.add_splats(x.state, first, splats)
    first += size
  if first:
    _cut(x)


def _cut(x: _Fit) -> None:
  """Cuts the bands so that all have the same work."""
  height, width, _ = x.image.shape
  alive = jax.tree.map(lambda a: a[x.state.active], x.state.params)
  work = bands.row_work(alive, height, width)
  x.edges = bands.cut_rows(work, len(x.edges) - 1)


def _snapshot(
    x: _Fit, state: train.TrainState, schedule: schedule_lib.Schedule
) -> checkpoint.Snapshot:
  return checkpoint.Snapshot(
      state=state,
      layer_sizes=schedule.layer_sizes,
      height=schedule.height,
      width=schedule.width,
      errors=x.errors,
      lowest_loss=x.lowest_loss,
      edges=np.int32(x.edges),
      step_sizes=x.step_sizes,
      decided=x.rounder and x.rounder.decided,
  )


def _restore(
    fits: list[_Fit],
    checkpointer: checkpoint.Checkpointer | None,
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    devices: Sequence[jax.Device],
) -> int:
  """Puts the fits where the snapshots are; returns the steps done."""
  if checkpointer is None:
    return 0
  snapshots = checkpointer.restore()
  if processes.are_several(devices):
    snapshots = processes.object_of_first(snapshots)
  if snapshots is None:
    return 0
  for x, snapshot in zip(fits, snapshots):
    if snapshot.layer_sizes != schedule.layer_sizes:
      raise ValueError('the checkpoint is of a fit with other layers')
    x.state = snapshot.state
    x.errors, x.lowest_loss = snapshot.errors, snapshot.lowest_loss
    if snapshot.step_sizes is not None:
      _set_steps(x, snapshot.step_sizes, config, schedule, snapshot.decided)
    if len(x.edges) == len(snapshot.edges):
      x.edges = snapshot.edges.tolist()
    else:  # Of another number of devices.
      _cut(x)
  return snapshots[0].step


def _figures(
    fits: list[_Fit],
    errors: jax.Array,
    schedule: schedule_lib.Schedule,
    step: int,
) -> list[Progress]:
  """Fetches the errors of the last step of a chunk."""
  for x, host_errors in zip(fits, train.fetch(errors, len(fits))):
    x.errors = host_errors
  return [_progress(schedule, step, x) for x in fits]


def _worst_loss(x: _Fit) -> float:
  """Above it, the fit has diverged."""
  limit = _WORST_LOSS if x.rounder is None else _WORST_ROUNDED_LOSS
  return max(limit, _WORST_GROWTH * x.lowest_loss)


def _has_diverged(x: _Fit, progress: Progress) -> bool:
  return not progress.loss <= _worst_loss(x)  # It may be no number.


def _require_sound(
    fits: list[_Fit], states: list[Progress], schedule: schedule_lib.Schedule
) -> None:
  """Raises `DivergenceError` where a fit has diverged."""
  for x, progress in zip(fits, states):
    if _has_diverged(x, progress):
      raise DivergenceError(_explain(x, progress, schedule))


def _explain(
    x: _Fit, progress: Progress, schedule: schedule_lib.Schedule
) -> str:
  """When and where a fit has diverged."""
  # The lowest prefix of which nothing is left.
  losses = 10 ** np.divide(progress.psnr_db, -10)
  layer = int(np.argmax(~(losses <= _worst_loss(x))))
  loss = f'{progress.loss:.3g}' if np.isfinite(progress.loss) else 'not finite'
  return (
      f'the fit diverged in layer {layer}: the loss is {loss} after step'
      f' {progress.step} of {schedule.num_steps}; lower the rates'
  )


def _set_steps(
    x: _Fit,
    step_sizes: StepSizes,
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
    decided: rounding.Decided | None = None,
) -> None:
  """Rounding with these steps begins, or goes on."""
  sizes = schedule.layer_sizes
  x.step_sizes = quantize.per_layer(
      step_sizes, len(sizes), schedule.height, schedule.width
  )
  x.rounder = rounding.Rounder(config, x.step_sizes, sizes, decided)


def _begin_rounding(
    fits: list[_Fit],
    states: list[train.TrainState],
    step_sizes: StepSizes | ChooseStepSizes,
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
) -> list[train.TrainState]:
  """Decides the steps of every picture; returns the states to be rounded."""
  results = []
  for i, (x, state) in enumerate(zip(fits, states)):
    steps = step_sizes
    if callable(steps):
      layered = _snapshot(x, state, schedule).layered
      steps = steps(i, layered, float(x.errors[-1]))
    _set_steps(x, steps, config, schedule)
    results.append(x.rounder.drop_weak(state))
  return results


def _place(fits: list[_Fit], devices: Sequence[jax.Device]) -> train.TrainState:
  """Puts the states on the devices, as many of them for each picture."""
  num_bands = len(devices) // len(fits)
  return train.place([x.state for x in fits for _ in range(num_bands)], devices)


def _place_bands(fits: list[_Fit], devices: Sequence[jax.Device]) -> train.Band:
  """Puts the bands of all pictures on the devices."""
  cut = [
      band
      for x in fits
      for band in train.make_bands(x.image, x.edges, x.pixel_weights, x.coarser)
  ]
  return train.place(cut, devices)


def _fetch_into(fits: list[_Fit], state, renders, grid: int) -> None:
  """Brings states and bands rendered on a grid to the host, in one transfer."""
  fetched = train.fetch((state, renders), len(fits))
  for x, (host_state, images) in zip(fits, fetched):
    x.state = host_state
    height = len((*x.coarser, (x.image, None))[grid][0])
    edges = bands.scale_edges(x.edges, height / len(x.image))
    x.render = bands.join_rows(images, edges, height)


def _give_births(
    fits: list[_Fit],
    birth: schedule_lib.Birth,
    schedule: schedule_lib.Schedule,
    initializer: initialize.Initializer,
    seed: int,
    devices: Sequence[jax.Device],
) -> None:
  """Gives birth in every picture, and cuts the bands anew."""
  # NumPy and SciPy release the lock in what takes long.
  with concurrent.futures.ThreadPoolExecutor(len(fits)) as pool:
    give = lambda x: _give_birth(x, birth, schedule, initializer, seed)
    list(pool.map(give, fits))
  if processes.are_several(devices):
    # Other machines may round differently: all take what the first one has.
    (x,) = fits
    x.state, edges = processes.arrays_of_first((x.state, np.int32(x.edges)))
    x.edges = [int(edge) for edge in edges]


def _round(
    fits: list[_Fit],
    states: list[train.TrainState],
    event: schedule_lib.Rounding,
    devices: Sequence[jax.Device],
) -> None:
  """Rounds one attribute of one group of splats in every picture."""
  for x, state in zip(fits, states):
    x.state = x.rounder.round(state, event)
  if processes.are_several(devices):
    # As with births.
    (x,) = fits
    x.state = processes.arrays_of_first(x.state)


def _give_birth(
    x: _Fit,
    birth: schedule_lib.Birth,
    schedule: schedule_lib.Schedule,
    initializer: initialize.Initializer,
    seed: int,
) -> None:
  """Adds the splats of one birth, where they are needed most on their grid."""
  index = schedule.grid_of(birth.first)
  image, weights = (*x.coarser, (x.image, x.pixel_weights))[index]
  grid = schedule.grids[index]
  factors = np.float32(grid.factors)
  rng = np.random.default_rng((seed, birth.first))
  # Splats for finer grids may be alive, but this one does not show them.
  shown = x.state.active & (np.arange(len(x.state.active)) < grid.num_splats)
  means = x.state.params.means[shown] * factors
  count = birth.last - birth.first
  splats = initializer(image, x.render, weights, means, count, rng)
  initialize.check_splats(splats, count, image.shape[2])
  splats = types.Splats(
      means=splats.means / factors,
      cholesky=splats.cholesky / factors[[0, 1, 1]],
      colors=splats.colors,
  )
  x.state = train.add_splats(x.state, birth.first, splats)
  _cut(x)


def _progress(schedule: schedule_lib.Schedule, step: int, x: _Fit) -> Progress:
  num_splats, alive = schedule.alive(step)
  # Of the weights: of all pixels, where each has the same.
  num_values = x.pixel_weights.sum(dtype=np.float64) * x.image.shape[2]
  mse = np.asarray(x.errors[:alive], np.float64) / num_values
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
  contributions = warm_start.contributions(layered.splats)
  order = np.argsort(-contributions, kind='stable')
  return dataclasses.replace(
      layered,
      splats=types.Splats(means[order], cholesky[order], colors[order]),
      layer_sizes=tuple(layer_sizes),
  )
