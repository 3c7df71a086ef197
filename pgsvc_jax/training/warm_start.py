"""Splats of another fit as the start of a new one."""

from collections.abc import Sequence

import numpy as np

from pgsvc_jax import types


def resize(
    layered: types.LayeredSplats, height: int, width: int
) -> types.LayeredSplats:
  """The same picture at another size: splats are stretched with it.

  Example:
    >>> one = types.Splats(
    ...     np.float32([[1, 2]]), np.float32([[1, 1, 2]]), np.ones((1, 1)))
    >>> small = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=4, width=4)
    >>> resize(small, 8, 4).splats.cholesky
    array([[1., 2., 4.]], dtype=float32)
  """
  x, y = width / layered.width, height / layered.height
  means, cholesky, colors = layered.splats
  return types.LayeredSplats(
      splats=types.Splats(
          np.asarray(means * [x, y], np.float32),
          np.asarray(cholesky * [x, y, y], np.float32),
          np.asarray(colors, np.float32),
      ),
      layer_sizes=layered.layer_sizes,
      height=height,
      width=width,
  )


def fill_layers(
    layered: types.LayeredSplats,
    layer_sizes: Sequence[int],
    *,
    without_gaps: bool = False,
) -> list[types.Splats]:
  """Deals splats out to layers that have so many slots.

  Layer k of the picture goes into layer k, layers past the last into the last.
  Where there are too many, those of largest contribution stay and the others
  go to the next layer; what the last cannot hold is left out.

  Args:
    layered: the picture.
    layer_sizes: slots per layer.
    without_gaps: nothing above a layer that is not full.

  Returns:
    The splats of every layer, at most as many as its slots.

  Example:
    >>> splats = types.Splats(
    ...     np.zeros((3, 2)), np.tile([1, 0, 1], (3, 1)),
    ...     np.float32([[1], [3], [2]]))
    >>> picture = types.LayeredSplats(
    ...     splats=splats, layer_sizes=(3,), height=4, width=4)
    >>> [x.colors.ravel().tolist() for x in fill_layers(picture, (2, 5))]
    [[3.0, 2.0], [1.0]]
  """
  ends = np.cumsum(layered.layer_sizes)
  layer_of_splat = np.repeat(np.arange(len(ends)), layered.layer_sizes)
  last = len(layer_sizes) - 1
  strength = types.contributions(layered.splats)
  results, waiting, gap = [], np.zeros(0, np.int64), False
  for layer, size in enumerate(layer_sizes):
    own = layer_of_splat >= layer if layer == last else layer_of_splat == layer
    waiting = np.concatenate([waiting, np.flatnonzero(own)])
    if len(waiting) > size:
      waiting = waiting[np.argsort(-strength[waiting], kind='stable')]
    taken, waiting = np.sort(waiting[:size]), waiting[size:]
    if gap:
      taken = taken[:0]
    gap = without_gaps and (gap or len(taken) < size)
    results.append(types.Splats(*(x[taken] for x in layered.splats)))
  return results
