"""New splats matched to what is missing of a picture: place, size and shape.

One step of matching pursuit for many splats at a time: peaks of the residual
say where (`peaks.py`), and the splat of a set of sizes, elongations and angles
that takes the most off the squared error there says which.
"""

import functools
import itertools
from typing import NamedTuple

from jaxtyping import Float
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.training import peaks

# Shapes that are tried: standard deviations, pixels, whose axes are multiplied
# and divided by the root of the elongation, in as many directions.
_SIZES = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_ELONGATIONS = (1.0, 2.0, 4.0)
_ANGLES = 8
# Thinner ones fall between pixel centres.
_THINNEST = 0.45
# They are compared with the residual so far from the centre, pixels.
_RADIUS = 9

# Of the best splat, what the new one has of its size and color: neighbours are
# matched to the same residual, and what is there already moves too. Whole, a
# smooth picture lost 0.4 dB.
_SIZE_FACTOR = 0.7
_COLOR_FACTOR = 0.8

# Centres that are matched at a time: patches of 40 MB.
_BATCH = 4096


class Matched(NamedTuple):
  """New splats, and what each takes off the squared error at its best.

  Attributes:
    splats: in pixels of the residual.
    gains: weighted squared error, summed over pixels and channels.
  """

  splats: types.Splats
  gains: Float[np.ndarray, ' n']


def match(
    residual: Float[np.ndarray, 'h w c'],
    pixel_weights: Float[np.ndarray, 'h w'],
    found: peaks.Peaks,
    rng: np.random.Generator,
) -> Matched:
  """Matches a splat to each peak of a residual.

  Args:
    residual: the picture minus what is shown of it.
    pixel_weights: of the squared error of each pixel.
    found: its peaks.
    rng: decides where in its pixel the mean of each splat is.

  Returns:
    As many splats, in the same order.

  Example:
    >>> residual = np.zeros((20, 20, 1), np.float32)
    >>> residual[8:12, 5:15] = 0.5
    >>> rng = np.random.default_rng(0)
    >>> weights = np.ones((20, 20))
    >>> found = peaks.find(residual, weights, 1)
    >>> splats, gains = match(residual, weights, found, rng)
    >>> (l11, l21, l22), = splats.cholesky
    >>> bool(l11 > 1.5 * l22), round(float(splats.colors[0, 0]), 1)
    (True, 0.6)
  """
  roots = np.sqrt(pixel_weights, dtype=np.float32)
  weighted = residual * roots[..., np.newaxis]
  bank = _bank()
  parts = []
  for first in range(0, len(found.x), _BATCH):
    batch = slice(first, first + _BATCH)
    parts.append(_best(bank, weighted, roots, found.x[batch], found.y[batch]))
  shapes, colors, gains = (
      map(np.concatenate, zip(*parts))
      if parts
      else (np.zeros(0, int), np.zeros((0, residual.shape[2])), np.zeros(0))
  )
  corners = np.stack([found.x, found.y], 1)
  splats = types.Splats(
      np.float32(corners + rng.uniform(size=corners.shape)),
      np.float32(_SIZE_FACTOR * bank.cholesky[shapes]),
      np.float32(_COLOR_FACTOR * colors),
  )
  return Matched(splats, gains)


class _Bank(NamedTuple):
  """Shapes: Cholesky factors, and weights at the pixels around the centre."""

  cholesky: Float[np.ndarray, 'shapes 3']
  weights: Float[np.ndarray, 'shapes p']
  norms: Float[np.ndarray, ' shapes']


@functools.cache
def _bank() -> _Bank:
  shapes = []
  for size, elongation in itertools.product(_SIZES, _ELONGATIONS):
    long, short = size * np.sqrt(elongation), size / np.sqrt(elongation)
    if short < _THINNEST:
      continue
    for k in range(_ANGLES if elongation > 1 else 1):
      cos, sin = np.cos(np.pi * k / _ANGLES), np.sin(np.pi * k / _ANGLES)
      l11 = np.hypot(cos * long, sin * short)
      l21 = cos * sin * (long**2 - short**2) / l11
      shapes.append((l11, l21, long * short / l11))
  offsets = np.arange(-_RADIUS, _RADIUS + 1)
  y, x = (z.ravel() for z in np.meshgrid(offsets, offsets, indexing='ij'))
  l11, l21, l22 = np.transpose(shapes)[..., np.newaxis]
  z1 = x / l11
  z2 = (y - l21 * z1) / l22
  weights = np.float32(np.exp(-(z1**2 + z2**2) / 2))
  return _Bank(np.float32(shapes), weights, np.linalg.norm(weights, axis=1))


def _best(bank, weighted, roots, x, y):
  """The best shape at every centre, its color and its gain."""
  residuals = _patches(weighted, x, y)
  num, channels, _ = residuals.shape
  products = residuals.reshape(num * channels, -1) @ bank.weights.T
  products = products.reshape(num, channels, -1)
  shapes = ((products / bank.norms) ** 2).sum(1).argmax(1)
  # Least squares over the pixels of the picture, by their weights.
  weights = bank.weights[shapes] * _patches(roots[..., np.newaxis], x, y)[:, 0]
  squares = np.maximum(np.einsum('np,np->n', weights, weights), 1e-12)
  products = np.einsum('np,ncp->nc', weights, residuals)
  gains = (products**2).sum(1) / squares
  return shapes, products / squares[:, np.newaxis], gains


def _patches(planes, x, y):
  """The pixels around each centre [n, c, p]; 0 outside of the picture."""
  height, width, channels = planes.shape
  offsets = np.arange(-_RADIUS, _RADIUS + 1)
  rows = y[:, np.newaxis, np.newaxis] + offsets[:, np.newaxis]
  columns = x[:, np.newaxis, np.newaxis] + offsets
  inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
  rows = np.clip(rows, 0, height - 1)
  columns = np.clip(columns, 0, width - 1)
  patches = planes[rows, columns] * inside[..., np.newaxis]
  patches = patches.reshape(len(x), len(offsets) ** 2, channels)
  return np.ascontiguousarray(np.moveaxis(patches, 2, 1))
