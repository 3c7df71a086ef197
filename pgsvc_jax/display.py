"""Layered pictures as notebooks show them."""

import base64
import io

import numpy as np
from PIL import Image

from pgsvc_jax import render
from pgsvc_jax import types

# Pixels across a prefix in a row of them.
_WIDTH = 280


def png(layered: types.LayeredSplats) -> bytes:
  """The picture of all layers at the size of the highest one, a PNG file.

  Example:
    >>> splats = types.Splats(
    ...     np.float32([[2, 1]]), np.float32([[1, 0, 1]]), np.float32([[1.0]]))
    >>> layered = types.LayeredSplats(
    ...     splats=splats, layer_sizes=(1,), height=2, width=4)
    >>> png(layered)[1:4]
    b'PNG'
  """
  return _encode(render.render_picture(render.at_native_size(layered)))


def html(layered: types.LayeredSplats) -> str:
  """A row of all prefixes, base layer first, with their numbers of splats."""
  parts = []
  images = render.render_levels(layered)
  for k, (image, end) in enumerate(
      zip(images, np.cumsum(layered.layer_sizes).tolist())
  ):
    height, width = image.shape[:2]
    data = base64.b64encode(_encode(image)).decode('ascii')
    words = 'base layer' if k == 0 else f'layers 0 to {k}'
    parts.append(
        f'<figure style="margin: 0"><img src="data:image/png;base64,{data}"'
        f' alt="{words}" style="width: {_WIDTH}px"><figcaption>{words}:'
        f' {end} splats, {width} × {height}</figcaption></figure>'
    )
  style = 'display: flex; flex-wrap: wrap; gap: 1em'
  return f'<div style="{style}">{"".join(parts)}</div>'


def _encode(pixels: np.ndarray) -> bytes:
  if pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'PNG')
  return out.getvalue()
