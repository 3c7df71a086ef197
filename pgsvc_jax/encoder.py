"""The front door to encoding: a picture or a video to the bytes of a file."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import fractions
import functools
import io
import itertools
from typing import Any, Unpack

import jax
from jaxtyping import Float
import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax import inputs
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import rate
from pgsvc_jax.training import fit
from pgsvc_jax.video import encoder as video_encoder
from pgsvc_jax.video import workers


def encode(
    source: inputs.Source,
    config: config_lib.EncodeConfig | config_lib.VideoConfig | None = None,
    *,
    metadata: bytes = b'',
    frame_rate: fractions.Fraction | float = 24,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[Any], None] | None = None,
    **options: Unpack[fit.FitOptions],
) -> bytes:
  """Fits layered splats to a picture or video and writes them.

  Args:
    source: a picture: an array [h, w, c] or [h, w] of gray, gray + alpha, RGB
      or RGB + alpha, floats in [0, 1], uint8 or uint16; what `read_picture`
      gives, or a Pillow image. A video: an array [t, h, w, c], anything that
      gives such pictures one by one, or what `open_video` gives. Or the path
      or the open file of either; a folder of pictures is a video.
    config: the settings, which decide rate and quality; an `EncodeConfig` takes
      the source for a picture, a `VideoConfig` for a video. None: the defaults
      of what it is.
    metadata: stored in the header as it is; by default, of what `read_picture`
      gives its own.
    frame_rate: frames a second, of frames without times.
    devices: of a picture, they share its rows or `fit_picture` says how; of a
      video, each encodes a group of pictures at a time, which are held in
      memory where the source is no file. None: all, of a video the first.
    report: called with `Progress` after every chunk of steps; of a video with
      `FrameDone` after every frame, by a thread for each device.
    options: see `FitOptions`; of a video, the `implementation` of the operator.

  Returns:
    The bytes of the file.

  Raises:
    TypeError: not a source or settings for it; the message says what to do.
    ValueError: settings or pixels out of range, frames of several sizes.
    MediaError: a file cannot be read.
    DivergenceError: the loss is not finite any more.

  Example:
    >>> image = np.full((16, 16, 3), 0.5, np.float32)
    >>> settings = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> data = encode(image, config_lib.EncodeConfig(fit=settings))
    >>> len(bitstream.read_header(data).layers)
    2
    >>> settings = config_lib.VideoConfig(
    ...     image=config_lib.EncodeConfig(fit=settings), update_steps=10)
    >>> data = encode([image, image], settings, frame_rate=30)
    >>> bitstream.read_header(data).frame_rate
    Fraction(30, 1)
  """
  unknown = set(options) - set(fit.FitOptions.__annotations__)
  if unknown:
    raise TypeError(f'encode() has no argument {min(unknown)!r}')
  with contextlib.ExitStack() as stack:
    opened = inputs.read(source, config, frame_rate, stack)
    if isinstance(opened, np.ndarray):
      (data,) = encode_pictures(
          [opened],
          config or config_lib.EncodeConfig(),
          metadata=[metadata or getattr(source, 'metadata', b'')],
          report=report and (lambda states: report(states[0])),
          devices=devices,
          **_in_lists(options),
      )
      return data
    for name in set(options) - {'implementation'}:
      raise TypeError(f'{name} is for pictures, not for videos')
    file = io.BytesIO()
    video_encoder.encode_to(
        file,
        opened,
        config or config_lib.VideoConfig(),
        metadata=metadata,
        report=report and (lambda event: _pass_frames(event, report)),
        devices=devices,
        implementation=options.get('implementation'),
    )
    return file.getvalue()


def _pass_frames(event: Any, report: Callable[[Any], None]) -> None:
  """Reports frames; groups are the matter of what writes files."""
  if isinstance(event, workers.FrameDone):
    report(event)


def _in_lists(options: fit.FitOptions) -> dict[str, Any]:
  """The options of a picture as those of several."""
  several = ('pixel_weights', 'initial')
  return {
      name: [value] if name in several and value is not None else value
      for name, value in options.items()
  }


def encode_pictures(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.EncodeConfig,
    *,
    metadata: Sequence[bytes] = (),
    **options: Any,
) -> list[bytes]:
  """Encodes pictures of one size, fitted at the same time.

  Args:
    images: the pictures, float32 in [0, 1].
    config: the settings.
    metadata: stored in the headers as it is; empty: none.
    options: of `fit_pictures`.

  Returns:
    The bytes of the files.

  Raises:
    ValueError: as `fit_pictures`.
    DivergenceError: as `fit_pictures`.

  Example:
    >>> image = np.full((16, 16, 3), 0.5, np.float32)
    >>> settings = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> files = encode_pictures(
    ...     [image], config_lib.EncodeConfig(fit=settings),
    ...     devices=jax.devices()[:1])
    >>> [bitstream.read_layers(data).layer_sizes for data in files]
    [(3, 2)]
  """
  return [
      bitstream.write(layers, metadata=own)
      for layers, own in zip(
          fit_for_files(images, config, **options),
          metadata or itertools.repeat(b''),
      )
  ]


def fit_for_files(
    images: Sequence[Float[np.ndarray, 'h w c']],
    config: config_lib.EncodeConfig,
    **options: Any,
) -> list[quantized.QuantizedLayers]:
  """Fits pictures of one size and rounds them as the settings ask for.

  Args:
    images: the pictures, float32 in [0, 1].
    config: the settings.
    **options: of `fit.fit_pictures`.

  Returns:
    What to write, a picture each.

  Raises:
    ValueError: as `fit.fit_pictures`.
    DivergenceError: as `fit.fit_pictures`.
  """
  shape = np.shape(images[0])
  if len(shape) != 3:
    raise ValueError(f'a picture is [h, w, c]: {shape=}')
  settings = dataclasses.replace(
      config.fit, layer_splats=rate.layer_splats(config, images[0])
  )

  rates = [functools.partial(rate.choose_step_sizes, config)] * len(images)
  fitted = fit.fit_quantized(images, settings, rates=rates, **options)
  return [rate.trim(config, *pair) for pair in zip(fitted, images)]
