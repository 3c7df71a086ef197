"""A file to a picture, in one call. Needs no JAX."""

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import bitstream


def decode(
    data: bytes,
    num_layers: int | None = None,
    *,
    scale: float | None = None,
    max_pixels: int = 2**27,
) -> UInt8[np.ndarray, 'h w c']:
  """Decodes a .pgsvc file, whole or cut, into a picture.

  Args:
    data: the file or a beginning of it.
    num_layers: layers to show, the base counted; None: all that are whole.
    scale: sides of the result over those of the whole picture; None: the size
      that the highest layer shown was fitted at.
    max_pixels: larger results are refused: a small file can claim one.

  Returns:
    The picture: gray, gray + alpha, RGB or RGB + alpha.

  Raises:
    BitstreamError: the file is damaged, has fewer layers, or ends before the
      base layer does.
    ValueError: num_layers or scale is not positive, or too many pixels.

  Example:
    >>> from pgsvc_jax.codec import quantize
    >>> from pgsvc_jax import types
    >>> one = types.Splats(
    ...     means=np.float32([[1.5, 0.5]]),
    ...     cholesky=np.float32([[1, 0, 1]]),
    ...     colors=np.float32([[0.8]]),
    ... )
    >>> layered = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=1, width=4
    ... )
    >>> data = bitstream.write(layered, quantize.StepSizes(color=8))
    >>> decode(data)[..., 0]
    array([[123, 204, 125,  28]], dtype=uint8)
    >>> decode(data, scale=2).shape
    (2, 8, 1)
  """
  header = bitstream.picture_reader(data).header
  shape = header.shown_shape(len(data), num_layers)
  if scale is not None:
    shape = resolution.scaled_shape(header.height, header.width, scale)
  height, width = shape
  if height * width > max_pixels:
    raise ValueError(f'{width} x {height} is more than {max_pixels=}')
  layered = bitstream.read_layers(data, num_layers)
  return render.render_picture(render.resized(layered, height, width))
