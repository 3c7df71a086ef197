"""Adam in the frame of each splat.

A step on raw pixels moves a small splat too far and a large one too little. In
the frame of a splat, z = L^-1 (p - mean), a step u moves the mean by L u and a
step M changes the factor to L (I + M): the same step means the same change of
the picture for splats of any size and shape.
"""

import dataclasses
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int
import optax

from pgsvc_jax import types


class AgedAdamState(NamedTuple):
  """Moments of Adam, and the steps each splat has seen."""

  mean: types.Splats
  square: types.Splats
  age: Int[Array, ' n']


def init_aged_adam(params: types.Splats) -> AgedAdamState:
  """The state of `scale_by_aged_adam` for splats just born."""
  zeros = jax.tree.map(jnp.zeros_like, params)
  return AgedAdamState(zeros, zeros, jnp.zeros(len(params.means), jnp.int32))


def scale_by_aged_adam(
    b1: float, b2: float, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam whose bias correction counts the steps of each splat by itself.

  Splats are born at different steps; with one common count the moments of the
  newborn would be taken as unbiased and their first steps would be tiny.
  Reset `mean`, `square` and `age` of a slot to 0 when a splat is born in it.
  """

  def update(updates, state, params=None):
    del params
    age = state.age + 1
    mean = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mean)
    square = jax.tree.map(
        lambda g, v: b2 * v + (1 - b2) * g * g, updates, state.square
    )
    steps = age.astype(jnp.float32)[:, None]
    c1, c2 = 1 - b1**steps, 1 - b2**steps
    scaled = jax.tree.map(
        lambda m, v: (m / c1) / (jnp.sqrt(v / c2) + eps), mean, square
    )
    return scaled, AgedAdamState(mean, square, age)

  return optax.GradientTransformation(init_aged_adam, update)


def to_splat_frame(grads: types.Splats, params: types.Splats) -> types.Splats:
  """Gradients with respect to u, M (lower triangle) and the colors."""
  l11, l21, l22 = params.cholesky.T
  gx, gy = grads.means.T
  g11, g21, g22 = grads.cholesky.T
  return types.Splats(
      means=jnp.stack([l11 * gx + l21 * gy, l22 * gy], 1),
      cholesky=jnp.stack([l11 * g11 + l21 * g21, l22 * g21, l22 * g22], 1),
      colors=grads.colors,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
  """What parameters are kept within.

  Without upper bounds a splat that serves as a background widens by the same
  factor every step, to 1e7 pixels and beyond what a file can hold.

  Attributes:
    min_cholesky: of l11 and l22, pixels.
    height: of the picture; bounds l11, l22 and |l21| together with the width.
    width: of the picture; means stay within one picture of the picture.
  """

  min_cholesky: float
  height: int
  width: int


def from_splat_frame(
    steps: types.Splats, params: types.Splats, bounds: Bounds
) -> types.Splats:
  """Additive updates of the parameters for steps u, M and of the colors.

  The diagonal of I + M is exp(M_ii), which keeps the factor's diagonal
  positive.
  """
  l11, l21, l22 = params.cholesky.T
  u1, u2 = steps.means.T
  m11, m21, m22 = steps.cholesky.T
  largest = max(bounds.height, bounds.width)
  grown11 = jnp.clip(l11 * jnp.exp(m11), bounds.min_cholesky, largest)
  grown22 = jnp.clip(l22 * jnp.exp(m22), bounds.min_cholesky, largest)
  grown21 = jnp.clip(l21 * (grown11 / l11) + l22 * m21, -largest, largest)
  size = jnp.array([bounds.width, bounds.height], jnp.float32)
  moved = params.means + jnp.stack([l11 * u1, l21 * u1 + l22 * u2], 1)
  return types.Splats(
      means=jnp.clip(moved, -size, 2 * size) - params.means,
      cholesky=jnp.stack([grown11, grown21, grown22], 1) - params.cholesky,
      colors=steps.colors,
  )


def splat_adam(
    means_rate: float,
    cholesky_rate: float,
    colors_rate: float,
    *,
    b1: float,
    b2: float,
    bounds: Bounds,
    colors_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """The optimiser of the fit; `update` takes `rates`, a factor per splat.

  Args:
    means_rate: step of the means in the splat's frame (standard deviations).
    cholesky_rate: relative step of the Cholesky factors.
    colors_rate: step of the colors.
    b1: decay of the mean gradient.
    b2: decay of the mean square.
    bounds: of means and Cholesky factors.
    colors_decay: share of the colors that each step takes off.

  Returns:
    An optax transformation whose updates are added to the parameters.

  Example:
    >>> import numpy as np
    >>> splats = types.Splats(
    ...     np.float32([[4, 4]]), np.float32([[2, 0, 2]]), np.float32([[0.5]]))
    >>> bounds = Bounds(min_cholesky=0.3, height=8, width=8)
    >>> tx = splat_adam(0.2, 0.14, 0.03, b1=0.9, b2=0.97, bounds=bounds)
    >>> gradients = jax.tree.map(np.ones_like, splats)
    >>> updates, _ = tx.update(
    ...     gradients, tx.init(splats), splats, rates=np.ones(1, np.float32))
    >>> np.round(updates.colors, 3)  # A first step is as long as the rate.
    Array([[-0.03]], dtype=float32)
  """
  adam = scale_by_aged_adam(b1, b2)
  scales = types.Splats(-means_rate, -cholesky_rate, -colors_rate)

  def update(grads, state, params, *, rates: Float[Array, ' n']):
    local = to_splat_frame(grads, params)
    scaled, state = adam.update(local, state)
    steps = jax.tree.map(lambda x, s: s * rates[:, None] * x, scaled, scales)
    decay = colors_decay * rates[:, None] * params.colors
    steps = steps._replace(colors=steps.colors - decay)
    return from_splat_frame(steps, params, bounds), state

  return optax.GradientTransformationExtraArgs(adam.init, update)
