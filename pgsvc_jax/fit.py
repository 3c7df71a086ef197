"""Fits layered splats to a picture."""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
import time
import zlib

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float
import numpy as np

import pallas_kernels
from pgsvc_jax import bands
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


# Of all layers, or one of each.
StepSizes = quantize.StepSizes | Sequence[quantize.StepSizes]

# (picture, its fit before rounding, squared error) -> step sizes.
ChooseStepSizes = Callable[[int, types.LayeredSplats, float], StepSizes]


class DivergenceError(ArithmeticError):
  """The fit produced numbers that are not finite."""


def fit_picture(
    image: Float[np.ndarray, 'h w c'],
    config: config_lib.FitConfig,
    *,
    step_sizes: StepSizes | None = None,
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
    devices: one band of rows each; None takes all local ones. Of several
      processes (`jax.distributed`), each makes the same call with all devices,
      equally many of each process, and gets the same result.
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
  (layered,) = fit_pictures(
      [image],
      config,
      step_sizes=step_sizes,
      devices=devices,
      implementation=implementation,
      report=report and (lambda states: report(states[0])),
  )
  return layered


def fit_pictures(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    *,
    step_sizes: StepSizes | ChooseStepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    report: Callable[[list[Progress]], None] | None = None,
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
    report: called after every chunk, with one entry a picture.
    deadline: when to be done, as `time.perf_counter` counts; steps are left out
      for it, evenly, but no birth and no rounding. One process only.

  Returns:
    The fitted splats of every picture.

  Raises:
    ValueError: settings out of range, or not pictures of one size.
    DivergenceError: the loss of one picture is not finite any more.
  """
  shape = np.shape(images[0])
  if len(shape) != 3 or 0 in shape:
    raise ValueError(f'a picture is [h, w, c]: {shape=}')
  if any(np.shape(image) != shape for image in images):
    raise ValueError(f'pictures of several sizes: {set(map(np.shape, images))}')
  images = [np.asarray(image, np.float32) for image in images]
  height, width, channels = shape
  schedule = schedule_lib.make_schedule(
      config, height, width, rounding=step_sizes is not None
  )
  devices = list(devices or jax.local_devices())
  num_bands = len(devices) // len(images)
  if not num_bands:
    raise ValueError(f'{len(devices)} devices for {len(images)} pictures')
  devices = devices[: num_bands * len(images)]
  if _spread(devices):
    if deadline is not None:
      raise ValueError('a deadline is for one process')
    # What chooses step sizes cannot be compared; process 0 has the last word.
    settings = (config, None if callable(step_sizes) else step_sizes)
    _require_agreement(images, settings, len(devices))

  error_fn = functools.partial(
      pallas_kernels.composite_error, implementation=implementation
  )
  chunk = train.make_train_chunk(
      config, schedule, devices, error_fn, len(images)
  )
  render = train.make_render(devices, implementation, len(images))
  inputs = train.place([schedule.inputs] * len(devices), devices)
  fits = [
      _Fit(
          image,
          train.create_train_state(sum(schedule.layer_sizes), channels),
          bands.cut_evenly(height, num_bands),
      )
      for image in images
  ]
  state = cut = None
  births, roundings = list(schedule.births), list(schedule.roundings)
  pace = _Pace(deadline, schedule.num_steps)
  step = 0
  while step < schedule.num_steps:
    while births and births[0].step <= step:
      if state is not None:
        _fetch_into(fits, state, render(state, cut))
      before = [x.edges for x in fits]
      _give_births(fits, births.pop(0), config.seed, devices)
      state = _place(fits, devices)
      if cut is None or before != [x.edges for x in fits]:
        cut = train.place(
            [band for x in fits for band in train.make_bands(x.image, x.edges)],
            devices,
        )
    while roundings and roundings[0].step <= step:
      hosted = train.fetch(state, len(fits))
      if fits[0].rounder is None:
        hosted = _begin_rounding(
            fits, hosted, states, step_sizes, config, schedule
        )
      _round(fits, hosted, roundings.pop(0), devices)
      state = _place(fits, devices)
    state, errors = chunk(state, inputs, cut)
    states = [
        _progress(schedule, step + config.chunk_steps, x, images[0].size)
        for x in train.fetch(errors, len(images))
    ]
    for picture in states:
      if not np.isfinite(picture.loss):
        raise DivergenceError(
            f'the loss is not finite after step {picture.step}: lower the rates'
        )
    if report:
      report(states)
    step += config.chunk_steps
    later = pace.next_step(step, config.chunk_steps)
    if births:  # None is left out: the file would lack layers.
      later = min(later, births[-1].step)
    if later > step:
      step = later
      skipped = train.place([np.int32(step)] * len(devices), devices)
      state = state.replace(step=skipped)
  hosted = train.fetch(state, len(fits))
  if step_sizes is not None and fits[0].rounder is None:
    hosted = _begin_rounding(fits, hosted, states, step_sizes, config, schedule)
  for last in roundings:
    _round(fits, hosted, last, devices)
    hosted = [x.state for x in fits]
  results = []
  for fitted in hosted:
    layered = _layered(fitted, schedule)
    if config.strategy == 'prune':
      sizes = schedule_lib.layer_sizes(config, height, width)
      # Of the last layer are those that rounding has taken out.
      ends = np.minimum(np.cumsum(sizes), sum(layered.layer_sizes))
      layered = rank_into_layers(layered, np.diff(ends, prepend=0).tolist())
    results.append(layered)
  return results


@dataclasses.dataclass
class _Fit:
  """A picture and, on the host at births, where its fit stands.

  Attributes:
    image: the picture.
    state: of the fit (NumPy).
    edges: of its bands.
    rounder: what is rounded already; None: nothing will be.
    render: what the splats alive show; None before the first birth.
  """

  image: np.ndarray
  state: train.TrainState
  edges: list[int]
  rounder: rounding.Rounder | None = None
  render: np.ndarray | None = None


class _Pace:
  """Leaves out steps, the same share everywhere, so that a fit ends in time."""

  def __init__(self, deadline: float | None, num_steps: int):
    self._deadline = deadline
    self._num_steps = num_steps
    self._chunks = 0
    self._begin = 0.0
    self._position = 0.0

  def next_step(self, step: int, chunk_steps: int) -> int:
    """Where to go on after the chunk that ended before `step`."""
    now = time.perf_counter()
    if self._deadline is None:
      return step
    if not self._chunks:  # The first one compiles.
      self._begin, self._chunks, self._position = now, 1, step
      return step
    # Of all chunks so far, for births take time too.
    seconds = (now - self._begin) / self._chunks
    self._chunks += 1
    affordable = max((self._deadline - now) / seconds, 0.5)
    left = self._num_steps - step
    # Where the last chunk began; the fraction is kept, so that they add up.
    start = step - chunk_steps
    slack = chunk_steps / 2
    start = min(max(self._position, start - slack), start + slack)
    self._position = start + max(chunk_steps, left / affordable)
    chunks = round(self._position / chunk_steps)
    return min(self._num_steps, max(step, chunks * chunk_steps))


def _layered(
    state: train.TrainState, schedule: schedule_lib.Schedule
) -> types.LayeredSplats:
  """The splats alive, in their layers."""
  ends = np.cumsum(schedule.layer_sizes)
  alive = np.concatenate([[0], np.cumsum(state.active)])[[0, *ends]]
  return types.LayeredSplats(
      splats=types.Splats(*(x[state.active] for x in state.params)),
      layer_sizes=tuple(np.diff(alive).tolist()),
      height=schedule.height,
      width=schedule.width,
  )


def _begin_rounding(
    fits: list[_Fit],
    states: list[train.TrainState],
    progress: list[Progress],
    step_sizes: StepSizes | ChooseStepSizes,
    config: config_lib.FitConfig,
    schedule: schedule_lib.Schedule,
) -> list[train.TrainState]:
  """Decides the steps of every picture; returns the states to be rounded."""
  results = []
  for i, (x, state) in enumerate(zip(fits, states)):
    steps = step_sizes
    if callable(steps):
      error = progress[i].loss * x.image.size
      steps = steps(i, _layered(state, schedule), error)
    sizes = schedule.layer_sizes
    steps = quantize.per_layer(
        steps, len(sizes), schedule.height, schedule.width
    )
    x.rounder = rounding.Rounder(config, steps, sizes)
    results.append(x.rounder.drop_weak(state))
  return results


def _place(fits: list[_Fit], devices: Sequence[jax.Device]) -> train.TrainState:
  """Puts the states on the devices, as many of them for each picture."""
  num_bands = len(devices) // len(fits)
  return train.place([x.state for x in fits for _ in range(num_bands)], devices)


def _spread(devices: Sequence[jax.Device]) -> bool:
  """Whether the devices belong to several processes."""
  return len({device.process_index for device in devices}) > 1


def _require_agreement(images: list, settings: tuple, num_devices: int) -> None:
  """Compares the fit with that of the other processes.

  Different programs would wait for each other forever, and bands of different
  pictures would make one.

  Raises:
    ValueError: the other processes fit something else; in all of them.
  """
  if len(images) > 1:
    raise ValueError('several processes fit one picture at a time')
  text = f'{images[0].shape} {settings} {num_devices}'.encode()
  digest = np.uint32(zlib.crc32(images[0].tobytes(), zlib.crc32(text)))
  with jax.transfer_guard('allow'):  # It places its arrays implicitly.
    digests = multihost_utils.process_allgather(digest)
  if len(np.unique(digests)) > 1:
    raise ValueError('the processes do not have the same picture and settings')


def _fetch_into(fits: list[_Fit], state, renders) -> None:
  """Brings states and rendered bands to the host, in one transfer."""
  fetched = train.fetch((state, renders), len(fits))
  for x, (host_state, images) in zip(fits, fetched):
    x.state = host_state
    x.render = bands.join_rows(images, x.edges, len(x.image))


def _give_births(
    fits: list[_Fit],
    birth: schedule_lib.Birth,
    seed: int,
    devices: Sequence[jax.Device],
) -> None:
  """Gives birth in every picture, and cuts the bands anew."""
  # NumPy and SciPy release the lock in what takes long.
  with concurrent.futures.ThreadPoolExecutor(len(fits)) as pool:
    list(pool.map(lambda x: _give_birth(x, birth, seed), fits))
  if _spread(devices):
    # Other machines may round differently: all take what the first one has.
    (x,) = fits
    with jax.transfer_guard('allow'):
      x.state, edges = multihost_utils.broadcast_one_to_all(
          (x.state, np.int32(x.edges))
      )
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
  if _spread(devices):
    # As with births.
    (x,) = fits
    with jax.transfer_guard('allow'):
      x.state = multihost_utils.broadcast_one_to_all(x.state)


def _give_birth(x: _Fit, birth: schedule_lib.Birth, seed: int) -> None:
  """Adds the splats of one birth, where they are needed most."""
  height, width, _ = x.image.shape
  rng = np.random.default_rng((seed, birth.first))
  is_first = x.render is None
  if is_first:
    source = x.image
    density = initialize.gradient_density(x.image)
  else:
    source = x.image - x.render
    density = initialize.residual_density(source)
  centres = initialize.sample_centres(density, birth.last - birth.first, rng)
  params = x.state.params
  alive = np.concatenate([params.means[x.state.active], centres])
  splats = initialize.born_splats(
      centres,
      alive,
      source,
      size_factor=0.7 if is_first else 0.5,
      color_factor=0.3,
  )
  x.state = train.add_splats(x.state, birth.first, splats)
  alive = jax.tree.map(lambda a: a[x.state.active], x.state.params)
  work = bands.row_work(alive, height, width)
  x.edges = bands.cut_rows(work, len(x.edges) - 1)


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
