"""Layered splats to 8-bit pictures, on the host.

The decoder's: Numba kernels, or plain NumPy where there is no Numba; no JAX and
no device.
"""

import concurrent.futures
import dataclasses
import os
from types import ModuleType

from jaxtyping import UInt, UInt8
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import resolution
from pgsvc_jax import types

# Rows rendered at a time: bounds the float memory, and is what threads share.
_ROWS = 64
# Sigmas that a splat reaches, 3.5, and what rounding may add.
_REACH = 3.51


def first_layers(
    layered: types.LayeredSplats, num_layers: int
) -> types.LayeredSplats:
  """The base and the enhancement layers below `num_layers`.

  Raises:
    ValueError: there are not that many layers.
  """
  if not 1 <= num_layers <= len(layered.layer_sizes):
    raise ValueError(
        f'{num_layers} layers asked for, of {len(layered.layer_sizes)}'
    )
  sizes = layered.layer_sizes[:num_layers]
  splats = types.Splats(*(x[: sum(sizes)] for x in layered.splats))
  shapes = layered.layer_shapes[:num_layers]
  return dataclasses.replace(
      layered, splats=splats, layer_sizes=sizes, layer_shapes=shapes
  )


def resized(
    layered: types.LayeredSplats, height: int, width: int
) -> types.LayeredSplats:
  """The same picture on another grid, anti-aliased where that is coarser.

  Pixel centres are at +0.5, so scaling all lengths moves nothing.
  """
  factors = width / layered.width, height / layered.height
  return dataclasses.replace(
      layered,
      splats=resolution.resize_splats(layered.splats, factors),
      height=height,
      width=width,
      layer_shapes=(),
  )


def scaled(layered: types.LayeredSplats, scale: float) -> types.LayeredSplats:
  """As `resized`, to `scale` times the size, both sides rounded.

  Raises:
    ValueError: the scale is not positive and finite.
  """
  return resized(
      layered, *resolution.scaled_shape(layered.height, layered.width, scale)
  )


def at_native_size(layered: types.LayeredSplats) -> types.LayeredSplats:
  """As `resized`, to the size of the grid of the highest layer."""
  return resized(layered, *layered.native_shapes[-1])


def cropped(
    layered: types.LayeredSplats, region: tuple[int, int, int, int]
) -> types.LayeredSplats:
  """A part of the picture: the splats that reach it, and no others.

  Args:
    layered: the picture, on the grid that it is to be seen on.
    region: left, top, width and height of the part, pixels.

  Returns:
    The part, as a picture of its own.

  Raises:
    ValueError: the region is empty, or not inside of the picture.

  Example:
    >>> splats = types.Splats(
    ...     np.float32([[1.5, 0.5], [90, 0.5]]), np.float32([[1, 0, 1]] * 2),
    ...     np.float32([[0.8], [0.8]]))
    >>> part = cropped(types.LayeredSplats(
    ...     splats=splats, layer_sizes=(2,), height=1, width=100), (1, 0, 3, 1))
    >>> part.width, part.layer_sizes, part.splats.means.tolist()
    (3, (1,), [[0.5, 0.5]])
  """
  left, top, width, height = region
  inside = 0 <= left < left + width <= layered.width
  if not (inside and 0 <= top < top + height <= layered.height):
    raise ValueError(
        f'the region {left},{top},{width},{height} is not inside of'
        f' {layered.width} x {layered.height} pixels'
    )
  x, y = layered.splats.means.T
  l11, l21, l22 = layered.splats.cholesky.T
  reach_x = _REACH * l11
  reach_y = _REACH * np.hypot(l21, l22)
  part = layered.keep(
      (x + reach_x > left)
      & (x - reach_x < left + width)
      & (y + reach_y > top)
      & (y - reach_y < top + height)
  )
  moved = part.splats._replace(
      means=part.splats.means - np.float32([left, top])
  )
  return dataclasses.replace(
      part, splats=moved, height=height, width=width, layer_shapes=()
  )


def render_levels(
    layered: types.LayeredSplats,
) -> list[UInt8[np.ndarray, '_ _ c']]:
  """Renders every operating point at its native size, clamped to 8 bits."""
  shapes = layered.native_shapes
  images = []
  for shape in sorted(set(shapes)):
    end = max(k for k, own in enumerate(shapes) if own == shape) + 1
    prefixes = render_prefixes(resized(first_layers(layered, end), *shape))
    images.extend(prefixes[len(images) :])
  return images


def _load_kernels() -> ModuleType:
  # Numba: imported only where it is needed, and not everywhere installed.
  try:
    from pallas_kernels import cpu_kernels as kernels
  except ImportError:
    from pallas_kernels import numpy_kernels as kernels
  return kernels


def prepare(channels: int) -> None:
  """Has kernels for so many channels compiled, or loaded.

  The first picture does so, too; this is to know for how long.

  Example:
    >>> prepare(3)
  """
  prepare_kernels = getattr(_load_kernels(), 'prepare', None)
  if prepare_kernels:  # NumPy has nothing to prepare.
    prepare_kernels(channels)


def render_prefixes(
    layered: types.LayeredSplats, dtype: type[np.unsignedinteger] = np.uint8
) -> UInt[np.ndarray, 'l h w c']:
  """Renders every operating point at the picture's size, clamped.

  Args:
    layered: the picture.
    dtype: of the pixels, uint8 or uint16.

  Returns:
    The pictures of layer 0, of layers 0 and 1, and so on.

  Example:
    >>> splats = types.Splats(
    ...     np.float32([[0.5, 0.5]]), np.float32([[1, 0, 1]]),
    ...     np.float32([[1.0]]))
    >>> render_prefixes(types.LayeredSplats(
    ...     splats=splats, layer_sizes=(1,), height=1, width=2)).tolist()
    [[[[255], [155]]]]
  """
  kernels = _load_kernels()
  height, width = layered.height, layered.width
  means, cholesky, colors = (
      np.ascontiguousarray(x, np.float32) for x in layered.splats
  )
  ends = np.cumsum(layered.layer_sizes).astype(np.int32)
  images = np.empty((len(ends), height, width, colors.shape[1]), dtype)

  def render_rows(top: int) -> None:
    bottom = min(top + _ROWS, height)
    band = np.empty((len(ends), bottom - top, *images.shape[2:]), np.float32)
    shifted = means - np.float32([0, top])
    if not kernels.composite(shifted, cholesky, colors, ends, band):
      raise MemoryError('too many splats cover too many tiles')
    images[:, top:bottom] = media.to_uint(band, dtype)

  # The kernels hold no GIL.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(render_rows, range(0, height, _ROWS)))
  return images


def render_picture(
    layered: types.LayeredSplats, dtype: type[np.unsignedinteger] = np.uint8
) -> UInt[np.ndarray, 'h w c']:
  """Renders the highest operating point at the picture's size.

  Args:
    layered: the picture.
    dtype: of the pixels, uint8 or uint16.

  Returns:
    The picture of all layers.

  Example:
    >>> splats = types.Splats(
    ...     np.float32([[0.5, 0.5]]), np.float32([[1, 0, 1]]),
    ...     np.float32([[1.0]]))
    >>> render_picture(types.LayeredSplats(
    ...     splats=splats, layer_sizes=(1,), height=1, width=2)).tolist()
    [[[255], [155]]]
  """
  flat = dataclasses.replace(layered, layer_sizes=(sum(layered.layer_sizes),))
  return render_prefixes(flat, dtype)[0]
