"""A video to a file: its groups of pictures, one after the other."""

import collections
from collections.abc import Callable, Iterable, Iterator
import fractions
import io
import itertools

import jax
from jaxtyping import Float, UInt8
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import encoder
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.training import schedule
from pgsvc_jax.video import gop_fit
from pgsvc_jax.video import groups
from pgsvc_jax.video import rate_control
from pgsvc_jax.video import stream_format


def encode_video(
    frames: Iterable[Float[np.ndarray, 'h w c'] | UInt8[np.ndarray, 'h w c']],
    config: config_lib.VideoConfig | None = None,
    *,
    frame_rate: fractions.Fraction | float = 24,
    metadata: bytes = b'',
    device: jax.Device | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    report: Callable[[gop_fit.FrameStats], None] | None = None,
) -> bytes:
  """Fits layered splats to the frames of a video, as `pgsvc encode` does.

  The command has more to offer: many devices and processes, stopping and going
  on, times and color tags of a file.

  Args:
    frames: [t, h, w, c] or whatever gives frames, of the kinds that `encode`
      takes. A group of pictures is held at a time; with `target_kbps`, all.
    config: the settings, which decide rate and quality; None: the defaults.
    frame_rate: frames a second, the same all the time.
    metadata: stored in the header as it is.
    device: to fit on; None: the first there is.
    implementation: of the operator; None: the best.
    report: called after every frame.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: settings out of range, or not frames of one size.
    DivergenceError: the loss is not finite any more.

  Example:
    >>> frames = np.full((2, 16, 16, 3), 0.5, np.float32)
    >>> settings = config_lib.VideoConfig(
    ...     image=config_lib.EncodeConfig(fit=config_lib.FitConfig(
    ...         layer_splats=(3, 2), num_steps=20, rounding_steps=20)),
    ...     update_steps=10, update_rounding_steps=10)
    >>> data = encode_video(frames, settings)
    >>> reader = stream.StreamReader(io.BytesIO(data))
    >>> [(gop.num_frames, reader.header.num_layers) for gop in reader]
    [(2, 2)]
  """
  config = config or config_lib.VideoConfig()
  rate = fractions.Fraction(frame_rate).limit_denominator(1001)
  if rate <= 0:
    raise ValueError(f'{frame_rate=} is not positive')
  held = collections.deque()
  found = groups.find_groups(_watch(frames, held), config)
  first = next(found, None)
  if first is None:
    raise ValueError('a video has at least a frame')
  height, width, channels = held[0].shape
  sizes, shapes = schedule.finished_layers(config.image.fit, height, width)
  header = syntax.VideoHeader(
      width=width,
      height=height,
      channels=channels,
      num_layers=len(sizes),
      layer_shapes=shapes,
      time_base=1 / rate,
      frame_rate=rate,
      metadata=metadata,
  )
  every = itertools.chain([first], found)
  if config.target_kbps:
    config, every = rate_control.plan(
        config, list(every), height=height, width=width, time_base=1 / rate
    )
  fitter = gop_fit.GopFitter(
      config,
      height,
      width,
      device=device or jax.local_devices()[0],
      implementation=implementation,
  )
  file = io.BytesIO()
  with stream.StreamWriter(file, header) as writer:
    for group in every:
      own = [held.popleft() for _ in group.times]
      for stats in fitter.encode(
          own, group.first_frame, rate_control.budget(group)
      ):
        if report:
          report(stats)
      writer.add_gop(
          group.times, fitter.packets(), last_duration=group.last_duration
      )
  return file.getvalue()


def _watch(
    frames: Iterable[np.ndarray], held: collections.deque[np.ndarray]
) -> Iterator[stream_format.Frame]:
  """The frames, which are kept until their group is encoded."""
  shape = None
  for index, frame in enumerate(frames):
    pixels = np.asarray(encoder.in_unit_range(frame), np.float32)
    shape = shape or pixels.shape
    if len(shape) != 3 or pixels.shape != shape:
      raise ValueError(
          f'frames are [h, w, c], all of one size: {shape}, {pixels.shape}'
      )
    held.append(pixels)
    yield stream_format.Frame(pixels=pixels, time=index, duration=1)
