"""The `cpu` implementation: the Numba kernels as typed XLA FFI calls."""

import ctypes
import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from pallas_kernels import cpu_kernels

_TARGETS = {
    'pgsvc_composite': cpu_kernels.composite_handler,
    'pgsvc_composite_vjp': cpu_kernels.composite_vjp_handler,
    'pgsvc_composite_error': cpu_kernels.composite_error_handler,
}


def _require_support(colors: Array) -> None:
  if jax.default_backend() != 'cpu':
    raise NotImplementedError(f'runs on CPU, not {jax.default_backend()}')
  if colors.dtype != jnp.float32:
    raise NotImplementedError(f'computes in float32, not {colors.dtype}')
  _register()


@functools.cache
def _register() -> None:
  """Registers the handlers with XLA; once a process, at the first call."""
  for name, handler in _TARGETS.items():
    capsule = jax.ffi.pycapsule(ctypes.c_void_p(handler.address))
    jax.ffi.register_ffi_target(name, capsule, platform='cpu')


def _layer_ends(layer_sizes: tuple[int, ...]) -> np.ndarray:
  return np.cumsum(layer_sizes).astype(np.int32)


def _shapes(*arrays: Array) -> tuple[jax.ShapeDtypeStruct, ...]:
  return tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    layer_sizes: tuple[int, ...],
    height: int,
    width: int,
) -> Float[Array, 'l h w c']:
  """See `pallas_kernels.composite`."""
  _require_support(colors)
  shape = (len(layer_sizes), height, width, colors.shape[1])
  return jax.ffi.ffi_call(
      'pgsvc_composite',
      jax.ShapeDtypeStruct(shape, jnp.float32),
      vmap_method='sequential',
  )(means, cholesky, colors, _layer_ends(layer_sizes))


def _composite_fwd(means, cholesky, colors, layer_sizes, height, width):
  images = composite(means, cholesky, colors, layer_sizes, height, width)
  return images, (means, cholesky, colors)


def _composite_bwd(layer_sizes, height, width, residuals, cotangents):
  del height, width
  return jax.ffi.ffi_call(
      'pgsvc_composite_vjp', _shapes(*residuals), vmap_method='sequential'
  )(*residuals, _layer_ends(layer_sizes), cotangents)


composite.defvjp(_composite_fwd, _composite_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def composite_error(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    target: Float[Array, 'h w c'],
    pixel_weights: Float[Array, 'h w'],
    level_weights: Float[Array, ' l'],
    layer_sizes: tuple[int, ...],
) -> tuple[Float[Array, ''], Float[Array, ' l']]:
  """See `pallas_kernels.composite_error`."""
  return _composite_error_fwd(
      means, cholesky, colors, target, pixel_weights, level_weights, layer_sizes
  )[0]


def _composite_error_fwd(
    means, cholesky, colors, target, pixel_weights, level_weights, layer_sizes
):
  _require_support(colors)
  errors, *gradients = jax.ffi.ffi_call(
      'pgsvc_composite_error',
      _shapes(level_weights, means, cholesky, colors),
      vmap_method='sequential',
  )(
      means,
      cholesky,
      colors,
      _layer_ends(layer_sizes),
      target,
      pixel_weights,
      level_weights,
  )
  return (jnp.vdot(level_weights, errors), errors), gradients


def _composite_error_bwd(layer_sizes, gradients, cotangents):
  del layer_sizes
  # The errors are for reporting; only the loss carries a gradient.
  scale, _ = cotangents
  return (*(scale * x for x in gradients), None, None, None)


composite_error.defvjp(_composite_error_fwd, _composite_error_bwd)
