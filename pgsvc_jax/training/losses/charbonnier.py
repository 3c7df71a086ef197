"""The absolute error, smooth at 0: outliers count for less than squared.

`sqrt(d^2 + e^2) - e` of a difference d; see Charbonnier et al., Two
deterministic half-quadratic regularization algorithms for computed imaging,
ICIP 1994.
"""

import math

from jax import numpy as jnp

from pgsvc_jax.training import losses

# In units of the picture: differences below count as squares, which is about
# what 8 bits show.
_SMOOTH = 0.005


def _sum(images, target, pixel_weights):
  differences = images - target
  values = jnp.sqrt(differences**2 + _SMOOTH**2) - _SMOOTH
  return (pixel_weights[:, :, None] * values).sum((1, 2, 3))


LOSS = losses.Loss(
    error_fn=losses.of_images(_sum),
    unit='absolute error',
    per_squared_error=lambda mean: 0.5 / math.sqrt(mean + _SMOOTH**2),
)
