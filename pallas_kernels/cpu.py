"""The `cpu` implementation: the Numba kernels as typed XLA FFI calls."""

from collections.abc import Sequence
import ctypes
import functools
import threading

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from pallas_kernels import cpu_handlers
from pallas_kernels import cpu_kernels
from pallas_kernels import dispatch


def _require_support(colors: Array, platform: str) -> None:
  if platform != 'cpu':
    raise NotImplementedError(f'runs on CPU, not {platform}')
  if colors.dtype != jnp.float32:
    raise NotImplementedError(f'computes in float32, not {colors.dtype}')


# Videos are encoded by several threads, and XLA takes a name only once.
_registering = threading.Lock()


def register(function: str, channels: int) -> str:
  """Has a handler compiled, or loaded, and known to XLA; returns its name."""
  with _registering:
    return _register(function, channels)


@functools.cache
def _register(function: str, channels: int) -> str:
  handler = getattr(cpu_handlers, f'make_{function}')(channels)
  name = f'pgsvc_{function}_{channels}'
  capsule = jax.ffi.pycapsule(ctypes.c_void_p(handler.address))
  jax.ffi.register_ffi_target(name, capsule, platform='cpu')
  return name


def prepare(channels: int) -> None:
  """Has what `composite_error` needs compiled, or loaded.

  A program does so when it is lowered; this is to know for how long.
  """
  for group in cpu_kernels.channel_groups(channels):
    register('composite_error', group.stop - group.start)


def _call(
    function: str, results: tuple[jax.ShapeDtypeStruct, ...], *arrays: Array
) -> tuple[Array, ...]:
  target = register(function, arrays[2].shape[1])
  return tuple(jax.ffi.ffi_call(target, results)(*arrays))


def _total(arrays: Sequence[Array]) -> Array:
  return functools.reduce(jnp.add, arrays)


def _gradients(
    parts: list[tuple[Array, ...]],
) -> tuple[Array, Array, Array]:
  """Those of the splats, from the gradients of groups of channels."""
  means, cholesky, colors = zip(*parts, strict=True)
  return _total(means), _total(cholesky), jnp.concatenate(colors, axis=1)


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
  images = []
  for group in cpu_kernels.channel_groups(colors.shape[1]):
    own = colors[:, group]
    shape = (len(layer_sizes), height, width, own.shape[1])
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    images += _call(
        'composite', (result,), means, cholesky, own, _layer_ends(layer_sizes)
    )
  return jnp.concatenate(images, axis=-1)


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
  ends = _layer_ends(static.layer_sizes)
  parts = []
  for group in cpu_kernels.channel_groups(colors.shape[1]):
    splats = means, cholesky, colors[:, group]
    own = cotangents[..., group]
    parts.append(_call('composite_vjp', _shapes(*splats), *splats, ends, own))
  return _gradients(parts)


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
  weights = pixel_weights, level_weights
  ends = _layer_ends(static.layer_sizes)
  errors, parts = [], []
  for group in cpu_kernels.channel_groups(colors.shape[1]):
    splats = means, cholesky, colors[:, group]
    results = _shapes(level_weights, *splats)
    own = target[..., group]
    error, *part = _call(
        'composite_error', results, *splats, ends, own, *weights
    )
    errors.append(error)
    parts.append(part)
  return _total(errors), *_gradients(parts)
