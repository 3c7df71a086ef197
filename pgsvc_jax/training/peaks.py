"""Where one more splat would lower the squared error most: over place and size.

A round splat of standard deviation s, of the best color, takes 4 pi s^2 |G r|^2
off the error, where G r is the residual r blurred by s. Peaks of that over the
picture, for a ladder of sizes, are where new splats should be.

The loops are compiled: SciPy's filters took ten times as long, 27 % of a fit of
500 steps. All compiled code stands in this one file because Numba's cache does
not notice changes of functions imported from another.
"""

import math
from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

from pallas_kernels import jit

# Standard deviations, pixels: half an octave apart.
SIZES = (0.7, 1.0, 1.5, 2.2, 3.3, 5.0)

# Where a Gaussian ends, standard deviations.
_REACH = 2.7

# Blurred by so many pixels, a residual is halved in size; not below so many
# pixels across.
_COARSE = 2.0
_SMALLEST = 16

# Pixels: peaks in cells that do not touch never suppress one another.
_CELL = 16
if 2 * max(SIZES) > _CELL:
  raise AssertionError('a peak reaches past the cells around its own')

_compiled = jit.njit(nogil=True, fastmath={'contract'})


class Peaks(NamedTuple):
  """Peaks, best first.

  Attributes:
    x: column of the pixel.
    y: row of the pixel.
    size: standard deviation of the round splat that gains most there, pixels.
    gain: what it takes off the weighted squared error.
  """

  x: Int[np.ndarray, ' n']
  y: Int[np.ndarray, ' n']
  size: Float[np.ndarray, ' n']
  gain: Float[np.ndarray, ' n']


def find(
    residual: Float[np.ndarray, 'h w c'],
    pixel_weights: Float[np.ndarray, 'h w'],
    count: int,
    *,
    small_first: float = 0.0,
) -> Peaks:
  """Finds the highest peaks that are no nearer than the sum of their sizes.

  Args:
    residual: the picture minus what is shown of it.
    pixel_weights: of the squared error of each pixel.
    count: how many peaks at most.
    small_first: peaks are as high as the gain over this power of the size.

  Returns:
    Fewer than `count` where there are no more.

  Example:
    >>> residual = np.zeros((9, 9, 1), np.float32)
    >>> residual[3, 5] = 1.0
    >>> peaks = find(residual, np.ones((9, 9)), 4)
    >>> int(peaks.x[0]), int(peaks.y[0]), round(float(peaks.size[0]), 1)
    (5, 3, 0.7)
  """
  height, width, channels = residual.shape
  # Their squares are what the weights say.
  roots = np.sqrt(pixel_weights, dtype=np.float32)
  planes = np.empty((channels, height, width), np.float32)
  np.multiply(np.moveaxis(residual, 2, 0), roots, out=planes)
  pixel, blurred = 1, 0.0
  found = []
  for index, size in enumerate(SIZES):
    while size >= _COARSE * pixel and min(planes.shape[1:]) >= _SMALLEST:
      # The mean of 2x2 pixels blurs too.
      planes = _halve(planes)
      blurred = math.hypot(blurred, pixel / 2)
      pixel *= 2
    # What is blurred already is blurred further.
    sigma = math.sqrt(size**2 - blurred**2) / pixel
    blurred = size
    factor = 4 * np.pi * size ** (2 - small_first)
    x, y, gain = _peaks_of(planes, _taps(sigma), np.float32(factor))
    corner = pixel // 2
    found.append(
        (pixel * x + corner, pixel * y + corner, gain, np.full(len(x), index))
    )
  x, y, gain, index = (np.concatenate(z) for z in zip(*found))
  order = np.argsort(-gain, kind='stable')
  x, y, size = x[order], y[order], np.float32(SIZES)[index[order]]
  kept = _apart(x, y, size, height, width, count)
  size = size[kept]
  gain = gain[order[kept]] * size**small_first
  return Peaks(x[kept], y[kept], size, gain)


def _halve(planes: Float[np.ndarray, 'c h w']) -> Float[np.ndarray, 'c v u']:
  """Means of 2x2 pixels; an odd row or column at the end is left out."""
  height, width = (n // 2 * 2 for n in planes.shape[1:])
  rows = planes[:, :height:2, :width] + planes[:, 1:height:2, :width]
  return np.float32(0.25) * (rows[..., ::2] + rows[..., 1::2])


def _peaks_of(
    planes: Float[np.ndarray, 'c h w'],
    taps: Float[np.ndarray, ' taps'],
    factor: np.float32,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Blurs the planes; where their squares have peaks (x, y), and how high."""
  _, height, width = planes.shape
  rows = np.empty((height, width), np.float32)
  for plane in planes:
    _blur(plane, rows, taps)
  # In a frame that is lower than any pixel.
  framed = np.full((height + 2, width + 2), -1, np.float32)
  gains = framed[1:-1, 1:-1]
  _sum_squares(planes, factor, gains)
  marks = np.empty((height, width), bool)
  # Most pixels are below the mean, where no splat should go.
  _mark_maxima(framed, gains.mean(), marks)
  y, x = np.divmod(np.flatnonzero(marks), width)
  return x, y, gains[y, x]


def _taps(sigma: float) -> Float[np.ndarray, ' taps']:
  """Half of a Gaussian of sum 1, from its centre on."""
  offsets = np.arange(max(1, math.ceil(_REACH * sigma)) + 1)
  taps = np.exp(-0.5 * (offsets / sigma) ** 2)
  return (taps / (2 * taps.sum() - taps[0])).astype(np.float32)


@_compiled
def _blur(plane, rows, taps):
  """Blurs in place; pixels past an edge are as those at the edge."""
  height, width = plane.shape
  reach = len(taps) - 1
  padded = np.empty(width + 2 * reach, np.float32)
  for y in range(height):
    padded[reach : reach + width] = plane[y]
    padded[:reach] = plane[y, 0]
    padded[reach + width :] = plane[y, width - 1]
    row = rows[y]
    for x in range(width):
      row[x] = taps[0] * padded[reach + x]
    for i in range(1, reach + 1):
      tap = taps[i]
      left = padded[reach - i : reach - i + width]
      right = padded[reach + i : reach + i + width]
      for x in range(width):
        row[x] += tap * (left[x] + right[x])
  for y in range(height):
    row = plane[y]
    middle = rows[y]
    for x in range(width):
      row[x] = taps[0] * middle[x]
    for i in range(1, reach + 1):
      tap = taps[i]
      above = rows[max(y - i, 0)]
      below = rows[min(y + i, height - 1)]
      for x in range(width):
        row[x] += tap * (above[x] + below[x])


@_compiled
def _sum_squares(planes, factor, sums):
  """Sums the squares over the planes, times a factor."""
  channels, height, width = planes.shape
  for y in range(height):
    row = sums[y]
    for x in range(width):
      row[x] = 0
    for c in range(channels):
      plane = planes[c, y]
      for x in range(width):
        row[x] += factor * plane[x] * plane[x]


@_compiled
def _mark_maxima(values, threshold, marks):
  """Marks what is above a threshold and what no neighbour exceeds.

  Of equal neighbours the first one counts. `values` has a frame of lower ones.
  """
  height, width = marks.shape
  for y in range(height):
    above, row, below = values[y], values[y + 1], values[y + 2]
    for x in range(width):
      value = row[x + 1]
      marks[y, x] = (
          (value > threshold)
          & (value > above[x])
          & (value > above[x + 1])
          & (value > above[x + 2])
          & (value > row[x])
          & (value >= row[x + 2])
          & (value >= below[x])
          & (value >= below[x + 1])
          & (value >= below[x + 2])
      )


@_compiled
def _apart(x, y, size, height, width, count):
  """The first `count` that are not too near to one before them."""
  columns = width // _CELL + 1
  newest = np.full((height // _CELL + 1) * columns, -1)
  older = np.empty(count, np.int64)
  kept = np.empty(count, np.int64)
  num_kept = 0
  for i in range(len(x)):
    if num_kept == count:
      break
    column, row = x[i] // _CELL, y[i] // _CELL
    is_apart = True
    for v in range(max(row - 1, 0), min(row + 1, height // _CELL) + 1):
      for u in range(max(column - 1, 0), min(column + 1, columns - 1) + 1):
        k = newest[v * columns + u]
        while k >= 0:
          j = kept[k]
          reach = size[i] + size[j]
          if (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 < reach**2:
            is_apart = False
          k = older[k]
    if is_apart:
      kept[num_kept] = i
      older[num_kept] = newest[row * columns + column]
      newest[row * columns + column] = num_kept
      num_kept += 1
  return kept[:num_kept]
