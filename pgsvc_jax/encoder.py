"""A picture to a file: the fit, and the rounding that the settings ask for."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jaxtyping import Float, UInt8
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import rate
from pgsvc_jax.training import fit
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop
from pgsvc_jax.training import train


def encode(
    image: Float[np.ndarray, 'h w c'] | UInt8[np.ndarray, 'h w c'],
    config: config_lib.EncodeConfig | None = None,
    *,
    metadata: bytes = b'',
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    initializer: initialize.Initializer = initialize.new_splats,
    pixel_weights: Float[np.ndarray, 'h w'] | None = None,
    error_fn: train.ErrorFn | None = None,
    report: Callable[[loop.Progress], None] | None = None,
) -> bytes:
  """Fits layered splats to a picture and writes them, as `pgsvc encode` does.

  Args:
    image: gray, gray + alpha, RGB or RGB + alpha in [0, 1]; uint8 is divided
      by 255.
    config: the settings, which decide rate and quality; None: the defaults.
    metadata: stored in the header as it is.
    devices: as in `fit_picture`, like all that follow.
    implementation: of the operator.
    initializer: makes the new splats of each birth.
    pixel_weights: of each pixel in the loss.
    error_fn: the loss.
    report: called after every chunk of steps.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: settings out of range, or not a picture.
    DivergenceError: the loss is not finite any more.

  Example:
    >>> image = np.full((16, 16, 3), 0.5, np.float32)
    >>> settings = config_lib.FitConfig(layer_splats=(3, 2), num_steps=20)
    >>> data = encode(image, config_lib.EncodeConfig(fit=settings))
    >>> len(bitstream.read_header(data).layers)
    2
  """
  (layers,) = fit_for_files(
      [in_unit_range(image)],
      config or config_lib.EncodeConfig(),
      devices=devices,
      implementation=implementation,
      initializer=initializer,
      pixel_weights=None if pixel_weights is None else [pixel_weights],
      error_fn=error_fn,
      report=report and (lambda states: report(states[0])),
  )
  return bitstream.write(layers, metadata=metadata)


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


def in_unit_range(image: np.ndarray) -> np.ndarray:
  """The picture as floats in [0, 1]; uint8 is divided by 255.

  Raises:
    ValueError: it is of another type or range.

  Example:
    >>> in_unit_range(np.uint8([[[0, 255]]]))
    array([[[0., 1.]]], dtype=float32)
  """
  image = np.asarray(image)
  if image.dtype == np.uint8:
    return image / np.float32(255)
  if not np.issubdtype(image.dtype, np.floating):
    raise ValueError(f'pixels are floats or uint8, not {image.dtype}')
  if image.size and not (image.min() >= 0 and image.max() <= 1):
    raise ValueError(
        f'pixels lie in [{image.min():g}, {image.max():g}], not in [0, 1]'
    )
  return image
