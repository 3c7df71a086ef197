"""Picks the implementation of the operator when a program is lowered.

The operator's functions are JAX primitives whose lowering rule depends on the
platform, so one traced program serves every platform, and nothing of an
implementation is imported, traced or compiled for a platform that it does not
run on (`lax.platform_dependent` traces all branches).

An implementation is a module `pallas_kernels.NAME`, or another module or class
that is handed over itself, with the functions below, plain functions without
derivatives; the static arguments are those of `Static`:

    composite(means, cholesky, colors, static, platform) -> images
    composite_vjp(means, cholesky, colors, cotangents, static, platform)
        -> gradients of sum(images * cotangents), one per array
    composite_error(means, cholesky, colors, target, pixel_weights,
        level_weights, static, platform) -> (errors, *gradients of
        level_weights @ errors)

The last one only where it can do better than `_error_from_images`. They raise
NotImplementedError for what they cannot do; that is the only error after which
the next implementation is tried.
"""

from collections.abc import Callable, Sequence
import functools
import importlib
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import numpy as jnp
import jax.extend as jex
from jax.interpreters import mlir
from jaxtyping import Array

_Name = Literal['reference', 'xla', 'cpu', 'triton']

# One of the names, or a module or class with the functions above.
_Single = _Name | ModuleType | type
# Or several, of which the first is taken that can do what is asked.
Implementation = _Single | Sequence[_Single]

IMPLEMENTATIONS: tuple[str, ...] = get_args(_Name)

# Best first; every other platform takes 'xla'.
_DEFAULTS = {'cpu': ('cpu', 'xla'), 'cuda': ('triton', 'xla')}


class Static(NamedTuple):
  """What is known when a program is traced.

  Attributes:
    layer_sizes: splats per layer.
    height: of the images, pixels.
    width: of the images, pixels.
  """

  layer_sizes: tuple[int, ...]
  height: int
  width: int


def default_implementations(platform: str) -> tuple[str, ...]:
  """What runs on a platform by default: the first that can do what is asked.

  Args:
    platform: as JAX names it: 'cpu', 'cuda', 'tpu', ...; 'gpu', which is what
      devices say, is taken for 'cuda'.

  Returns:
    Names of implementations, best first.

  Example:
    >>> default_implementations('tpu')
    ('xla',)
  """
  return _DEFAULTS.get('cuda' if platform == 'gpu' else platform, ('xla',))


def _error_from_images(
    module: Any,
    means: Array,
    cholesky: Array,
    colors: Array,
    target: Array,
    pixel_weights: Array,
    level_weights: Array,
    static: Static,
    platform: str,
) -> tuple[Array, ...]:
  splats = means, cholesky, colors
  differences = module.composite(*splats, static, platform) - target
  weighted = pixel_weights[..., None] * differences
  errors = jnp.sum(weighted * differences, axis=(1, 2, 3))
  cotangents = 2 * level_weights[:, None, None, None] * weighted
  return errors, *module.composite_vjp(*splats, cotangents, static, platform)


def _load(implementation: str | ModuleType | type) -> Any:
  if isinstance(implementation, str):
    return importlib.import_module(f'pallas_kernels.{implementation}')
  return implementation


def _choose(module: ModuleType | type, function: str) -> Callable[..., Any]:
  if function == 'composite_error' and not hasattr(module, function):
    return functools.partial(_error_from_images, module)
  return getattr(module, function)


def _run(
    *arrays: Array,
    platform: str,
    function: str,
    static: Static,
    implementation: Implementation | None,
) -> tuple[Array, ...]:
  """The function by the implementation that is given, or by the best."""
  candidates = implementation
  if implementation is None:
    candidates = default_implementations(platform)
  elif not isinstance(implementation, tuple):
    candidates = (implementation,)
  reasons = []
  for candidate in candidates:
    module = _load(candidate)
    try:
      results = _choose(module, function)(*arrays, static, platform)
    except NotImplementedError as error:
      reasons.append(f'{module.__name__.rpartition(".")[-1]}: {error}')
    else:
      return results if isinstance(results, tuple) else (results,)
  raise NotImplementedError('; '.join(reasons))


def _shapes(
    *arrays: Any,
    function: str,
    static: Static,
    implementation: Implementation | None,
) -> tuple[jax.core.ShapedArray, ...]:
  del implementation
  splats = arrays[:3]
  num_layers, channels = len(static.layer_sizes), splats[2].shape[1]
  shapes = {
      'composite': [(num_layers, static.height, static.width, channels)],
      'composite_vjp': [x.shape for x in splats],
      'composite_error': [(num_layers,), *(x.shape for x in splats)],
  }
  return tuple(
      jax.core.ShapedArray(shape, splats[0].dtype) for shape in shapes[function]
  )


def _lower_for(platform: str) -> Callable[..., Any]:
  return mlir.lower_fun(
      functools.partial(_run, platform=platform), multiple_results=True
  )


_operator_p = jex.core.Primitive('splat_composite')
_operator_p.multiple_results = True
_operator_p.def_abstract_eval(_shapes)
mlir.register_lowering(_operator_p, _lower_for('other'))
for _platform in _DEFAULTS:
  mlir.register_lowering(_operator_p, _lower_for(_platform), platform=_platform)


@_operator_p.def_impl
def _run_eagerly(*arrays: Array, **params: Any) -> tuple[Array, ...]:
  """Where jit is turned off: for the platform of the first array."""
  device, *_ = jnp.asarray(arrays[0]).devices()
  platform = 'cuda' if device.platform == 'gpu' else device.platform
  return _run(*map(jnp.asarray, arrays), platform=platform, **params)


@functools.partial(
    jax.jit, static_argnames=('function', 'static', 'implementation')
)
def call(
    *arrays: Array,
    function: str,
    static: Static,
    implementation: Implementation | None,
) -> tuple[Array, ...]:
  """Calls one of the operator's functions; see the top of this module."""

  # Sequential under vmap: one picture is work enough for a device, and loops
  # with dynamic trip counts would copy their carry at every step.
  @jax.custom_batching.sequential_vmap
  def bind(*arrays):
    return tuple(
        _operator_p.bind(
            *arrays,
            function=function,
            static=static,
            implementation=implementation,
        )
    )

  return bind(*arrays)
