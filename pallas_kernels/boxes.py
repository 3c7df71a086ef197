"""Which pixels a splat can touch; shared by implementations in JAX."""

from jax import numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from pallas_kernels import constants

# A box may hold a pixel too many but never one too few: it is widened by more
# than float32 rounding, relative and in pixels.
SLACK_RELATIVE = 1 + 1e-5
SLACK_PIXELS = 0.01


def pixel_boxes(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    height: int,
    width: int,
) -> tuple[Int[Array, 'n 2'], Int[Array, 'n 2']]:
  """First and last pixel (x, y) of the box around each splat's cut-off ellipse.

  A splat that touches no pixel centre, or with parameters that are not finite,
  has last = first - 1 = -1.
  """
  l11, l21, l22 = cholesky.T
  sigmas = jnp.stack([jnp.abs(l11), jnp.hypot(l21, l22)], axis=1)
  extent = constants.CUTOFF_SIGMAS * SLACK_RELATIVE * sigmas + SLACK_PIXELS
  # Clipped as floats: the int of a huge float is undefined.
  end = np.array([width - 1, height - 1])
  first = jnp.ceil(jnp.maximum(means - extent - 0.5, 0))
  last = jnp.floor(jnp.minimum(means + extent - 0.5, end))
  touches = jnp.all(first <= last, axis=1, keepdims=True)
  first = jnp.where(touches, first, 0).astype(jnp.int32)
  last = jnp.where(touches, last, -1).astype(jnp.int32)
  # A float32 rounds sides above 2^24 up.
  return first, jnp.minimum(last, end.astype(np.int32))
