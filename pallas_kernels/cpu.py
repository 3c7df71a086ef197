"""The `cpu` implementation: the Numba kernels as typed XLA FFI calls."""

import ctypes
import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from pallas_kernels import cpu_kernels
from pallas_kernels import dispatch

_TARGETS = {
    'pgsvc_composite': cpu_kernels.composite_handler,
    'pgsvc_composite_vjp': cpu_kernels.composite_vjp_handler,
    'pgsvc_composite_error': cpu_kernels.composite_error_handler,
}


def _require_support(colors: Array, platform: str) -> None:
  if platform != 'cpu':
    raise NotImplementedError(f'runs on CPU, not {platform}')
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


def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    static: dispatch.Static,
    platform: str,
) -> Float[Array, 'l h w c']:
  """See `pallas_kernels.composite`."""
  _require_support(colors, platform)
  layer_sizes, height, width = static
  shape = (len(layer_sizes), height, width, colors.shape[1])
  return jax.ffi.ffi_call(
      'pgsvc_composite', jax.ShapeDtypeStruct(shape, jnp.float32)
  )(means, cholesky, colors, _layer_ends(layer_sizes))


def composite_vjp(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    cotangents: Float[Array, 'l h w c'],
    static: dispatch.Static,
    platform: str,
) -> tuple[Array, ...]:
  """Gradients of sum(images * cotangents)."""
  _require_support(colors, platform)
  return tuple(
      jax.ffi.ffi_call('pgsvc_composite_vjp', _shapes(means, cholesky, colors))(
          means, cholesky, colors, _layer_ends(static.layer_sizes), cotangents
      )
  )


def composite_error(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    target: Float[Array, 'h w c'],
    pixel_weights: Float[Array, 'h w'],
    level_weights: Float[Array, ' l'],
    static: dispatch.Static,
    platform: str,
) -> tuple[Array, ...]:
  """Errors and gradients in one pass; see `pallas_kernels.composite_error`."""
  _require_support(colors, platform)
  return tuple(
      jax.ffi.ffi_call(
          'pgsvc_composite_error',
          _shapes(level_weights, means, cholesky, colors),
      )(
          means,
          cholesky,
          colors,
          _layer_ends(static.layer_sizes),
          target,
          pixel_weights,
          level_weights,
      )
  )
