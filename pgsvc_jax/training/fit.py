"""Fits layered splats to a picture."""

from collections.abc import Callable, Sequence
import dataclasses
import pickle
from typing import Any
import zlib

import jax
from jaxtyping import Float, Int
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import pace as pace_lib
from pgsvc_jax import processes
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.training import checkpoint
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop as loop_lib
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train
from pgsvc_jax.training import warm_start


def fit_picture(
    image: Float[np.ndarray, 'h w c'],
    config: config_lib.FitConfig,
    *,
    step_sizes: loop_lib.StepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    initializer: initialize.Initializer = initialize.new_splats,
    pixel_weights: Float[np.ndarray, 'h w'] | None = None,
    error_fn: train.ErrorFn | None = None,
    report: Callable[[loop_lib.Progress], None] | None = None,
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
    step_sizes: loop_lib.StepSizes | loop_lib.ChooseStepSizes | None = None,
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    initializer: initialize.Initializer = initialize.new_splats,
    pixel_weights: Sequence[Float[np.ndarray, 'h w']] | None = None,
    error_fn: train.ErrorFn | None = None,
    report: Callable[[list[loop_lib.Progress]], None] | None = None,
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
  pictures = _fit(
      images,
      config,
      step_sizes=step_sizes,
      devices=devices,
      implementation=implementation,
      initializer=initializer,
      pixel_weights=pixel_weights,
      error_fn=error_fn,
      report=report,
      initial=initial,
      checkpointer=checkpointer,
      deadline=deadline,
  )
  return [finish(x.snapshot().layered, config) for x in pictures]


def fit_quantized(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    *,
    step_sizes: loop_lib.StepSizes | loop_lib.ChooseStepSizes,
    **options: Any,
) -> list[quantized.QuantizedLayers]:
  """Fits pictures as `fit_pictures` does, and returns what files hold.

  Args:
    images: the pictures, float32 in [0, 1].
    config: the settings.
    step_sizes: as in `fit_pictures`.
    **options: the other arguments of `fit_pictures`.

  Returns:
    The symbols of every picture, with their step sizes.

  Raises:
    ValueError: as `fit_pictures`.
    DivergenceError: as `fit_pictures`.
  """
  pictures = _fit(images, config, step_sizes=step_sizes, **options)
  return [
      finish_quantized(x.quantized(), x.snapshot().layered, config)
      for x in pictures
  ]


def _fit(
    images,
    config,
    *,
    step_sizes=None,
    devices=None,
    implementation=None,
    initializer=initialize.new_splats,
    pixel_weights=None,
    error_fn=None,
    report=None,
    initial=None,
    checkpointer=None,
    deadline=None,
) -> list[loop_lib.Picture]:
  """The pictures, fitted."""
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

  pictures = [
      loop_lib.Picture(image, weights, config, schedule, num_bands)
      for image, weights in zip(images, pixel_weights)
  ]
  for picture, start in zip(pictures, starts):
    picture.begin_with(start)
  loop = loop_lib.Loop(
      pictures, config, schedule, devices, implementation, error_fn
  )
  step = _restore(pictures, checkpointer, devices)
  if step or any(schedule.filled):
    loop.place()
  births = [x for x in schedule.births if x.step >= step]
  relocations = [x for x in schedule.relocations if x >= step]
  roundings = [x for x in schedule.roundings if x.step >= step]
  milestones = [x.step for x in schedule.roundings[:1]] + [schedule.num_steps]
  pace = pace_lib.Pace(deadline, schedule.num_steps)
  while step < schedule.num_steps:
    while births and births[0].step <= step:
      loop.give_births(births.pop(0), initializer)
    if relocations and relocations[0] <= step:
      loop.relocate(step)
      relocations = [x for x in relocations if x > step]
    while roundings and roundings[0].step <= step:
      loop.begin_rounding(step_sizes)
      loop.round(roundings.pop(0))
    states = loop.run_chunk(step)
    if report:
      report(states)
    done = step + config.chunk_steps
    if checkpointer and checkpointer.is_due(done in milestones):
      loop.fetch()
      checkpointer.save([x.snapshot() for x in pictures])
    step = pace.next_step(done, config.chunk_steps)
    if births:  # None is left out: the file would lack layers.
      step = max(done, min(step, births[-1].step))
    if step > done:
      loop.skip_to(step)
  loop.fetch()
  if step_sizes is not None:
    loop.begin_rounding(step_sizes)
  for last in roundings:
    loop.round(last)
  return pictures


def finish(
    layered: types.LayeredSplats, config: config_lib.FitConfig
) -> types.LayeredSplats:
  """The layers that the strategy hands out, of the splats as fitted."""
  order, sizes, shapes = _hand_out(layered, config)
  return dataclasses.replace(
      layered,
      splats=types.Splats(*(x[order] for x in layered.splats)),
      layer_sizes=sizes,
      layer_shapes=shapes,
  )


def finish_quantized(
    layers: quantized.QuantizedLayers,
    layered: types.LayeredSplats,
    config: config_lib.FitConfig,
) -> quantized.QuantizedLayers:
  """The symbols of the layers that the strategy hands out.

  Args:
    layers: as fitted.
    layered: their splats, in the same order.
    config: the settings.

  Returns:
    The symbols in other layers, where the strategy has others.
  """
  order, sizes, shapes = _hand_out(layered, config)
  columns = (np.concatenate(x)[order] for x in zip(*layers.symbols))
  parts = zip(*(np.split(x, np.cumsum(sizes)[:-1]) for x in columns))
  return dataclasses.replace(
      layers,
      symbols=tuple(quantize.Symbols(*x) for x in parts),
      step_sizes=finish_step_sizes(layers.step_sizes, len(sizes)),
      layer_shapes=shapes,
  )


def finish_step_sizes(
    step_sizes: Sequence[quantize.StepSizes], num_layers: int
) -> tuple[quantize.StepSizes, ...]:
  """Step sizes of the layers handed out: all of one, where one was fitted."""
  if len(step_sizes) == num_layers:
    return tuple(step_sizes)
  (steps,) = step_sizes
  return (steps,) * num_layers


def _hand_out(
    layered: types.LayeredSplats, config: config_lib.FitConfig
) -> tuple[Int[np.ndarray, ' n'], tuple[int, ...], tuple[tuple[int, int], ...]]:
  """Order, layer sizes and layer shapes of what the strategy hands out.

  `prune` cuts a finished fit into layers, splats of largest contribution first.
  This is the naive scheme that joint training replaces: splats that were fitted
  together depend on one another, so low layers have holes.
  """
  sizes, shapes = schedule_lib.finished_layers(
      config, layered.height, layered.width
  )
  if config.strategy != 'prune':
    order = np.arange(sum(layered.layer_sizes))
    return order, layered.layer_sizes, shapes
  # Of the last layer are those that rounding has taken out.
  ends = np.minimum(np.cumsum(sizes), sum(layered.layer_sizes))
  contributions = types.contributions(layered.splats)
  order = np.argsort(-contributions, kind='stable')
  return order, tuple(np.diff(ends, prepend=0).tolist()), shapes


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


def _common_sizes(starts: list[list[types.Splats]]) -> list[int]:
  """Slots filled in all pictures: they share one schedule."""
  return [min(map(_count, layers)) for layers in zip(*starts)]


def _count(splats: types.Splats) -> int:
  return len(splats.means)


def _restore(
    pictures: list[loop_lib.Picture],
    checkpointer: checkpoint.Checkpointer | None,
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
  for picture, snapshot in zip(pictures, snapshots):
    picture.restore(snapshot)
  return snapshots[0].step
