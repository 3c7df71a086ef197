"""Conventions and the containers that every module shares.

Images are `[H, W, C]` float32 in [0, 1]; splat arrays are `[N, .]`.
Coordinates are (x, y) in pixels and the centre of pixel (row i, column j) is at
(j + 0.5, i + 0.5). A splat has a mean (pixels), a lower Cholesky factor
(l11, l21, l22) of its covariance (pixels, l11 > 0, l22 > 0) and a color of C
linear coefficients with the opacity folded in, which may be negative. A picture
is the plain sum of its splats: no order, no transmittance, no background.

Splats of a layered picture stand in layer order; layer 0 is the base. Operating
point k shows layers 0..k. A layer may belong to a coarser grid than that of the
picture; means and Cholesky factors are in pixels of the picture all the same.

The containers are pytrees to JAX without this module (and the decoder, which
imports it) importing JAX: `register_pytrees` is called by all that does, and
here where JAX is imported already.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
import numpy as np


class Splats(NamedTuple):
  """N 2D Gaussian splats (NumPy or JAX arrays).

  Attributes:
    means: centres (x, y), pixels.
    cholesky: (l11, l21, l22) of the lower factor L, covariance = L L^T, pixels.
    colors: linear color coefficients.

  Example:
    >>> one = Splats(
    ...     means=np.float32([[1.5, 0.5]]),  # The centre of pixel (0, 1).
    ...     cholesky=np.float32([[2, 0, 1]]),  # Twice as wide as high.
    ...     colors=np.float32([[0.8, 0.4, 0.0]]),
    ... )
    >>> one.colors.shape
    (1, 3)
  """

  means: Float[Any, 'n 2']
  cholesky: Float[Any, 'n 3']
  colors: Float[Any, 'n c']


def contributions(splats: Splats) -> Float[np.ndarray, ' n']:
  """How much each splat adds: the integral of |color|, over 2 pi.

  Example:
    >>> wide = Splats(np.zeros((1, 2)), np.ones((1, 3)), np.array([[3., 4.]]))
    >>> contributions(wide)
    array([5.])
  """
  area = splats.cholesky[:, 0] * splats.cholesky[:, 2]
  return area * np.linalg.norm(splats.colors, axis=1)


def energies(splats: Splats) -> Float[Any, ' n']:
  """How much each splat shows: the integral of its square, over pi.

  This is the squared error of the picture without the splat, if none overlap.
  """
  area = splats.cholesky[:, 0] * splats.cholesky[:, 2]
  return area * (splats.colors**2).sum(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayeredSplats:
  """A layered picture: its splats in layer order, and what frames them.

  Attributes:
    splats: all splats (NumPy, float32), layer after layer.
    layer_sizes: splats per layer; sums to the number of splats.
    height: pixels.
    width: pixels.
    layer_shapes: height and width of each layer's own grid, never falling; a
      prefix is meant to be seen on the grid of its highest layer. Empty where
      all are those of the picture.

  Example:
    >>> splats = Splats(np.zeros((5, 2)), np.ones((5, 3)), np.zeros((5, 1)))
    >>> layered = LayeredSplats(
    ...     splats=splats, layer_sizes=(3, 2), height=32, width=48
    ... )
    >>> layered.channels
    1
  """

  splats: Splats
  layer_sizes: tuple[int, ...]
  height: int
  width: int
  layer_shapes: tuple[tuple[int, int], ...] = ()

  @property
  def channels(self) -> int:
    """Channels of the picture."""
    return np.shape(self.splats.colors)[1]

  @property
  def layers(self) -> tuple[Splats, ...]:
    """The splats of each layer."""
    ends = np.cumsum(self.layer_sizes)
    return tuple(
        Splats(*(x[end - size : end] for x in self.splats))
        for size, end in zip(self.layer_sizes, ends)
    )

  def keep(self, mask: Bool[np.ndarray, ' n']) -> 'LayeredSplats':
    """The same picture with only those splats."""
    parts = np.split(mask, np.cumsum(self.layer_sizes)[:-1])
    return dataclasses.replace(
        self,
        splats=Splats(*(x[mask] for x in self.splats)),
        layer_sizes=tuple(int(part.sum()) for part in parts),
    )

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    whole = ((self.height, self.width),) * len(self.layer_sizes)
    return self.layer_shapes or whole

  def _repr_png_(self) -> bytes:
    """The picture of all layers, as notebooks show it."""
    from pgsvc_jax import display  # It draws these: a circle, but for here.

    return display.png(self)

  def _repr_html_(self) -> str:
    """The pictures of all prefixes, as notebooks show them."""
    from pgsvc_jax import display

    return display.html(self)


def register_pytrees() -> None:
  """Makes `LayeredSplats` a pytree, of arrays with static sizes; needs JAX."""
  import jax

  global _are_registered
  if _are_registered:
    return
  jax.tree_util.register_dataclass(
      LayeredSplats,
      data_fields=['splats'],
      meta_fields=['layer_sizes', 'height', 'width', 'layer_shapes'],
  )
  _are_registered = True


_are_registered = False
if sys.modules.get('jax'):  # None where it is kept out.
  register_pytrees()
