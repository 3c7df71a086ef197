"""The `reference` implementation: dense, no tiles, gradient by autodiff."""

import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import constants
from pallas_kernels import dispatch


def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    static: dispatch.Static,
    platform: str = '',
) -> Float[Array, 'l h w c']:
  """See `pallas_kernels.composite`; float32 or float64, memory N x H x W."""
  del platform  # Runs anywhere.
  layer_sizes, height, width = static
  xs = jnp.arange(width, dtype=means.dtype) + 0.5
  ys = jnp.arange(height, dtype=means.dtype) + 0.5
  dx = xs - means[:, 0, None, None]
  dy = ys[:, None] - means[:, 1, None, None]
  l11, l21, l22 = (cholesky[:, i, None, None] for i in range(3))
  z1 = dx / l11
  z2 = (dy - l21 * z1) / l22
  s = (z1 * z1 + z2 * z2) / 2
  weights = jnp.where(s <= constants.S_MAX, jnp.exp(-s), 0)  # [n, h, w]

  images = []
  image = jnp.zeros((height, width, colors.shape[1]), means.dtype)
  first = 0
  for size in layer_sizes:
    layer = slice(first, first + size)
    image = image + jnp.einsum(
        'nhw,nc->hwc',
        weights[layer],
        colors[layer],
        precision=jax.lax.Precision.HIGHEST,
    )
    images.append(image)
    first += size
  return jnp.stack(images)


def composite_vjp(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    cotangents: Float[Array, 'l h w c'],
    static: dispatch.Static,
    platform: str = '',
) -> tuple[Array, Array, Array]:
  """Gradients of sum(images * cotangents), by autodiff."""
  del platform
  images = functools.partial(composite, static=static)
  return jax.vjp(images, means, cholesky, colors)[1](cotangents)
