"""Fits layered splats to pictures."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pickle
from typing import Any, TypedDict, Unpack
import warnings
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
from pgsvc_jax.training import changes as changes_lib
from pgsvc_jax.training import checkpoint
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop as loop_lib
from pgsvc_jax.training import losses
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import strategies
from pgsvc_jax.training import train
from pgsvc_jax.training import warm_start

# Compiled once for all pictures of a size, and for the frames of a video.
_program = functools.lru_cache(maxsize=32)(loop_lib.Program)


class FitOptions(TypedDict, total=False):
  """What else a fit may be made of.

  Attributes:
    implementation: of the operator; without, the best.
    initializer: makes the new splats of each birth; called by a thread for each
      picture. Without, `initialize.new_splats`.
    loss: in place of that of `FitConfig.loss`.
    pixel_weights: of each pixel in the loss, at least 0; without, 1 each. For
      several pictures, one array each.
    initial: splats of another fit to begin with, of any size and number of
      layers (`warm_start.fill_layers`); those missing are born. For several
      pictures, one each.
    error_fn: deprecated, an `error_fn` of a `losses.Loss`, called without
      `implementation`.
  """

  implementation: pallas_kernels.Implementation | None
  initializer: initialize.Initializer
  loss: losses.Loss | None
  pixel_weights: Any
  initial: Any
  error_fn: train.ErrorFn | None


def fit_picture(
    image: Float[np.ndarray, 'h w c'],
    config: config_lib.FitConfig,
    *,
    step_sizes: quantize.StepSizes | Sequence[quantize.StepSizes] | None = None,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[loop_lib.Progress], None] | None = None,
    **options: Unpack[FitOptions],
) -> types.LayeredSplats:
  """Fits layered splats to one picture.

  Args:
    image: the picture, float32 in [0, 1].
    config: the settings.
    step_sizes: those that the file will have, of all layers or one a layer;
      with them, and `rounding_steps`, the last steps fit what remains to what
      is already rounded, and the result is one that `write` does not change.
      None: not rounded.
    devices: one band of rows each; None takes all local ones. A loss that needs
      the whole picture takes the first. Of several processes
      (`jax.distributed`), each makes the same call with all devices, equally
      many of each process, and gets the same result.
    report: called after every chunk.
    options: see `FitOptions`.

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
  for name in ('pixel_weights', 'initial'):
    if options.get(name) is not None:
      options[name] = [options[name]]
  (layered,) = fit_pictures(
      [image],
      config,
      step_sizes=step_sizes,
      devices=devices,
      report=report and (lambda states: report(states[0])),
      **options,
  )
  return layered


def fit_pictures(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    *,
    step_sizes: quantize.StepSizes | Sequence[quantize.StepSizes] | None = None,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[list[loop_lib.Progress]], None] | None = None,
    checkpointer: checkpoint.Checkpointer | None = None,
    deadline: float | None = None,
    **options: Unpack[FitOptions],
) -> list[types.LayeredSplats]:
  """Fits several pictures of one size at a time, each on devices of its own.

  Nothing passes between pictures: each comes out as from `fit_picture` on as
  many devices. That is the fast way with one device a picture, when there is
  nothing to sum and to wait for.

  Args:
    images: the pictures, float32 in [0, 1]; at most as many as devices.
    config: the settings.
    step_sizes: as in `fit_picture`.
    devices: dealt out evenly, the remainder is idle; None takes all local ones.
    report: called after every chunk, with one entry a picture.
    checkpointer: keeps where the fit stands, and has it go on from there; in
      every process, that of process 0 is asked.
    deadline: when to be done, as `time.perf_counter` counts; steps are left out
      for it, evenly, but no birth and no rounding. One process only.
    options: see `FitOptions`.

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
  rates = None
  if callable(step_sizes):
    _warn('step_sizes as a function', 'fit_quantized(..., rates=)')
    choose = step_sizes
    rates = [
        lambda layered, error, image, i=i: FixedSteps(
            choose(i, layered, error)
        )(layered, error, image)
        for i in range(len(images))
    ]
  elif step_sizes is not None:
    rates = [FixedSteps(step_sizes)] * len(images)
  hooks = _Hooks(report, checkpointer, deadline)
  pictures = _fit(images, config, rates, devices, hooks, options)
  if rates is None:
    layered = [x.snapshot().layered for x in pictures]
  else:
    layered = [x.quantized().dequantize() for x in pictures]
  return [finish(x, config) for x in layered]


def fit_quantized(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    *,
    rates: Sequence[changes_lib.Rate],
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[list[loop_lib.Progress]], None] | None = None,
    checkpointer: checkpoint.Checkpointer | None = None,
    deadline: float | None = None,
    **options: Unpack[FitOptions],
) -> list[quantized.QuantizedLayers]:
  """Fits pictures as `fit_pictures` does, and returns what files hold.

  Args:
    images: the pictures, float32 in [0, 1].
    config: the settings.
    rates: what chooses the step sizes of each picture, before the rounding or,
      if there is none, at the end.
    devices: as in `fit_pictures`, like all that follow.
    report: called after every chunk.
    checkpointer: keeps where the fit stands.
    deadline: when to be done.
    options: see `FitOptions`.

  Returns:
    The symbols of every picture, with their step sizes.

  Raises:
    ValueError: as `fit_pictures`.
    DivergenceError: as `fit_pictures`.

  Example:
    >>> image = np.full((16, 16, 1), 0.5, np.float32)
    >>> config = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> rate = FixedSteps(quantize.StepSizes(color=99))
    >>> (layers,) = fit_quantized([image], config, rates=[rate])
    >>> [x.color for x in layers.step_sizes]
    [99, 99]
  """
  hooks = _Hooks(report, checkpointer, deadline)
  pictures = _fit(images, config, rates, devices, hooks, options)
  return [
      finish_quantized(x.quantized(), x.snapshot().layered, config)
      for x in pictures
  ]


@dataclasses.dataclass(frozen=True)
class FixedSteps:
  """A rate that asks for these step sizes, of all layers or one a layer."""

  step_sizes: quantize.StepSizes | Sequence[quantize.StepSizes]

  def __call__(
      self,
      layered: types.LayeredSplats,
      error: float,
      image: Float[np.ndarray, 'h w c'],
  ) -> tuple[quantize.StepSizes, ...]:
    """The step sizes of every layer of the fit."""
    del error, image
    return quantize.per_layer(
        self.step_sizes,
        len(layered.layer_sizes),
        layered.height,
        layered.width,
    )


@dataclasses.dataclass(frozen=True)
class _Hooks:
  """Who listens to a fit; as in `fit_pictures`."""

  report: Callable[[list[loop_lib.Progress]], None] | None = None
  checkpointer: checkpoint.Checkpointer | None = None
  deadline: float | None = None


def _fit(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.FitConfig,
    rates: Sequence[changes_lib.Rate] | None,
    devices: Sequence[jax.Device] | None,
    hooks: _Hooks,
    options: FitOptions,
) -> list[loop_lib.PictureFit]:
  """The pictures, fitted and, with rates, rounded."""
  loss = _loss(config, options)
  images = _checked_images(images)
  pixel_weights = _checked_weights(options.get('pixel_weights'), images)
  height, width, _ = shape = images[0].shape
  initial = options.get('initial') or [None] * len(images)
  starts = [_start(x, config, shape) for x in initial]
  schedule = schedule_lib.make_schedule(
      config,
      height,
      width,
      rounding=rates is not None,
      filled=_common_sizes(starts),
  )
  devices = _dealt_out(devices, len(images), loss)
  if processes.are_several(devices):
    if hooks.deadline is not None:
      raise ValueError('a deadline is for one process')
    # What chooses step sizes cannot be compared; process 0 has the last word.
    settings = (
        config,
        [x for x in rates or () if isinstance(x, FixedSteps)],
        [zlib.crc32(pickle.dumps(x)) for x in starts],
        hooks.checkpointer is not None,
    )
    processes.require_agreement(images, pixel_weights, settings, len(devices))

  program = _program(
      dataclasses.replace(config, seed=0),  # It is compiled for any.
      schedule.layout,
      tuple(devices),
      loss=loss,
      implementation=options.get('implementation'),
      num_pictures=len(images),
  )
  pictures = [
      loop_lib.PictureFit(
          image, schedule, pixel_weights=weights, num_bands=program.num_bands
      )
      for image, weights in zip(images, pixel_weights)
  ]
  for picture, start in zip(pictures, starts):
    picture.begin_with(start)
  _restore(pictures, config, hooks.checkpointer, devices)
  initializer = options.get('initializer') or initialize.new_splats
  changes = changes_lib.births(config, schedule, initializer)
  changes += changes_lib.relocations(config, schedule)
  if rates is not None:
    by_picture = dict(zip(pictures, rates))
    changes += changes_lib.roundings(config, schedule, by_picture)
  changes.sort(key=lambda x: x.step)
  pace = pace_lib.Pace(hooks.deadline, schedule.num_steps)
  loop = loop_lib.Loop(program, schedule, pictures, changes, pace)
  for event in loop.run():
    if event.kind == 'steps' and hooks.report:
      hooks.report(list(event.progress))
    elif event.kind == 'checkpoint' and hooks.checkpointer:
      if hooks.checkpointer.is_due(event.is_milestone):
        hooks.checkpointer.save(loop.snapshots())
  return pictures


def _loss(config: config_lib.FitConfig, options: FitOptions) -> losses.Loss:
  unknown = set(options) - set(FitOptions.__annotations__)
  if unknown:
    raise TypeError(f'a fit has no option {min(unknown)!r}')
  error_fn = options.get('error_fn')
  if error_fn is None:
    return options.get('loss') or losses.get(config.loss)
  _warn('error_fn=', 'loss=losses.Loss(error_fn=...)')

  def without_implementation(*args, implementation=None, **kwargs):
    del implementation
    return error_fn(*args, **kwargs)

  return losses.Loss(error_fn=without_implementation, unit='its own')


def _warn(old: str, new: str) -> None:
  warnings.warn(
      f'{old} will be removed: {new} does it', DeprecationWarning, stacklevel=4
  )


def _dealt_out(
    devices: Sequence[jax.Device] | None, num_pictures: int, loss: losses.Loss
) -> list[jax.Device]:
  """The devices that are used, as many for each picture."""
  devices = list(devices or jax.local_devices())
  num_bands = len(devices) // num_pictures
  if not num_bands:
    raise ValueError(f'{len(devices)} devices for {num_pictures} pictures')
  if loss.needs == 'whole':
    if processes.are_several(devices):
      raise ValueError(
          f'a loss that is an {loss.unit} needs the whole picture on one'
          ' device, and several processes share its rows'
      )
    num_bands = 1
  return devices[: num_bands * num_pictures]


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
  """Order, layer sizes and layer shapes of what the strategy hands out."""
  sizes, shapes = schedule_lib.finished_layers(
      config, layered.height, layered.width
  )
  if not strategies.STRATEGIES[config.strategy].ranks:
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
  one_by_one = strategies.STRATEGIES[config.strategy].one_by_one
  return warm_start.fill_layers(layered, sizes, without_gaps=one_by_one)


def _common_sizes(starts: list[list[types.Splats]]) -> list[int]:
  """Slots filled in all pictures: they share one schedule."""
  return [min(map(_count, layers)) for layers in zip(*starts)]


def _count(splats: types.Splats) -> int:
  return len(splats.means)


def _restore(
    pictures: list[loop_lib.PictureFit],
    config: config_lib.FitConfig,
    checkpointer: checkpoint.Checkpointer | None,
    devices: Sequence[jax.Device],
) -> None:
  """Puts the fits where the snapshots are."""
  if checkpointer is None:
    return
  snapshots = checkpointer.restore()
  if processes.are_several(devices):
    snapshots = processes.object_of_first(snapshots)
  for picture, snapshot in zip(pictures, snapshots or ()):
    picture.restore(snapshot, config)
