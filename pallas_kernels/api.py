"""The operator: one signature and one derivative for all implementations.

`dispatch` picks the implementation; the rules of differentiation stand here.
"""

from collections.abc import Sequence
import functools
from types import ModuleType

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch


def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    *,
    layer_sizes: tuple[int, ...],
    height: int,
    width: int,
    implementation: dispatch.Implementation | None = None,
) -> Float[Array, 'l h w c']:
  """Composites layered 2D Gaussian splats into the images of all prefixes.

  Image k is the sum over the splats n of layers 0..k of `colors[n] * exp(-s_n)`
  with `s_n(p) = |z|^2 / 2`, `z = L_n^-1 (p - means[n])`; a contribution is
  dropped where s_n exceeds `constants.S_MAX`. All prefixes cost one render:
  the running sum after the last splat of a layer is that layer's image.
  Differentiable in `means`, `cholesky` and `colors` (the exact gradient, the
  cut-off taken as fixed); a `shard_map` around it needs check_vma=False. The
  form is GaussianImage's accumulated summation
  (https://arxiv.org/abs/2403.08551, section 3.2).

  Args:
    means: centres (x, y) in pixels; pixel centres are at +0.5. May lie outside.
    cholesky: (l11, l21, l22) of the lower Cholesky factor L of the covariance,
      pixels; l11 and l22 must be positive.
    colors: linear coefficients, may be negative.
    layer_sizes: splats per layer, base first; sums to n, zeros are allowed.
    height: of the images, pixels.
    width: of the images, pixels.
    implementation: a name of `IMPLEMENTATIONS`, a module or class with the
      functions that `dispatch` lists, or several of these, tried in order;
      None takes the best one that can do it, for the platform that the program
      is lowered for.

  Returns:
    The prefix images, not clamped. A splat with a parameter that is not finite
    may spoil the pixels it touches or contribute nothing.

  Raises:
    ValueError: wrong shapes, dtypes or sizes.
    NotImplementedError: no implementation named can do it, with every reason;
      when the program is lowered.

  Example:
    >>> from jax import numpy as jnp
    >>> image = composite(
    ...     jnp.array([[2.5, 1.5]]), jnp.array([[1.0, 0.0, 1.0]]),
    ...     jnp.array([[0.5]]), layer_sizes=(1,), height=3, width=5)
    >>> image.shape, round(float(image[0, 1, 2, 0]), 6)
    ((1, 3, 5, 1), 0.5)
  """
  _check_splats(means, cholesky, colors, layer_sizes)
  if height < 1 or width < 1:
    raise ValueError(f'an image has at least one pixel: {height=} {width=}')
  implementation = _checked(implementation)
  static = dispatch.Static(tuple(layer_sizes), height, width)
  return _images(means, cholesky, colors, static, implementation)


def composite_error(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    target: Float[Array, 'h w c'],
    pixel_weights: Float[Array, 'h w'],
    level_weights: Float[Array, ' l'],
    *,
    layer_sizes: tuple[int, ...],
    implementation: dispatch.Implementation | None = None,
) -> tuple[Float[Array, ''], Float[Array, ' l']]:
  """Weighted squared error of all prefix images against one target.

  `errors[k] = sum_p pixel_weights[p] * |R_k[p] - target[p]|^2` with R_k as in
  `composite`, and `loss = sum_k level_weights[k] * errors[k]`: every training
  strategy of layered splats is a choice of `level_weights` over the steps.
  Implementations may compute the gradient in the same pass (`cpu` does, and
  never writes a prefix image to memory).

  Args:
    means: as in `composite`.
    cholesky: as in `composite`.
    colors: as in `composite`.
    target: the picture.
    pixel_weights: weight of each pixel; 0 leaves it out.
    level_weights: weight of each prefix.
    layer_sizes: as in `composite`.
    implementation: as in `composite`.

  Returns:
    (loss, errors). Only the loss carries a gradient: to the splats, and to the
    other arrays where it is asked for, at the price of a render.

  Raises:
    ValueError: wrong shapes, dtypes or sizes.
    NotImplementedError: the named implementation cannot do it.

  Example:
    >>> from jax import numpy as jnp
    >>> loss, errors = composite_error(
    ...     jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0, 1.0]]),
    ...     jnp.array([[0.75]]), jnp.ones((1, 1, 1)), jnp.ones((1, 1)),
    ...     jnp.array([2.0]), layer_sizes=(1,))
    >>> round(float(loss), 6), round(float(errors[0]), 6)
    (0.125, 0.0625)
  """
  _check_splats(means, cholesky, colors, layer_sizes)
  for x in (target, pixel_weights, level_weights):
    if x.dtype != means.dtype:
      raise ValueError(f'{x.dtype=} does not fit {means.dtype=}')
  if target.ndim != 3 or target.shape[2] != colors.shape[1]:
    raise ValueError(f'target must be [h, w, c]: {target.shape=}')
  if pixel_weights.shape != target.shape[:2]:
    raise ValueError(f'{pixel_weights.shape=} does not fit {target.shape=}')
  if level_weights.shape != (len(layer_sizes),):
    raise ValueError(f'{level_weights.shape=} does not fit {layer_sizes=}')
  implementation = _checked(implementation)
  static = dispatch.Static(tuple(layer_sizes), *target.shape[:2])
  return _error(
      means,
      cholesky,
      colors,
      target,
      pixel_weights,
      level_weights,
      static,
      implementation,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _images(means, cholesky, colors, static, implementation):
  return dispatch.call(
      means,
      cholesky,
      colors,
      function='composite',
      static=static,
      implementation=implementation,
  )[0]


def _images_fwd(means, cholesky, colors, static, implementation):
  splats = means, cholesky, colors
  return _images(*splats, static, implementation), splats


def _images_bwd(static, implementation, splats, cotangents):
  return dispatch.call(
      *splats,
      cotangents,
      function='composite_vjp',
      static=static,
      implementation=implementation,
  )


_images.defvjp(_images_fwd, _images_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _error(
    means,
    cholesky,
    colors,
    target,
    pixel_weights,
    level_weights,
    static,
    implementation,
):
  arrays = means, cholesky, colors, target, pixel_weights, level_weights
  return _error_and_gradients(arrays, static, implementation)[0]


def _error_and_gradients(arrays, static, implementation):
  errors, *gradients = dispatch.call(
      *arrays,
      function='composite_error',
      static=static,
      implementation=implementation,
  )
  return (jnp.vdot(arrays[-1], errors), errors), gradients


def _error_fwd(
    means,
    cholesky,
    colors,
    target,
    pixel_weights,
    level_weights,
    static,
    implementation,
):
  primals = means, cholesky, colors, target, pixel_weights, level_weights
  arrays = [x.value for x in primals]
  (loss, errors), gradients = _error_and_gradients(
      arrays, static, implementation
  )
  *splats, picture, weights, levels = arrays
  others = [None, None, errors]
  # A fit asks for none of these, and has the prefix images never written.
  if target.perturbed or pixel_weights.perturbed:
    differences = _images(*splats, static, implementation) - picture
    others[0] = -2 * jnp.einsum('l,hw,lhwc->hwc', levels, weights, differences)
    others[1] = jnp.einsum('l,lhwc->hw', levels, differences**2)
  return (loss, errors), (*gradients, *others)


def _error_bwd(static, implementation, gradients, cotangents):
  del static, implementation
  # The errors are for reporting; only the loss carries a gradient.
  scale, _ = cotangents
  if isinstance(scale, jax.custom_derivatives.SymbolicZero):
    scale = jnp.zeros(scale.shape, scale.dtype)
  return tuple(None if x is None else scale * x for x in gradients)


_error.defvjp(_error_fwd, _error_bwd, symbolic_zeros=True)


def _checked(implementation):
  """The implementation as it is, or several as a tuple, which can be hashed."""
  if isinstance(implementation, Sequence) and not isinstance(
      implementation, str
  ):
    if not implementation:
      raise ValueError('implementation is an empty sequence')
    for single in implementation:
      _check_implementation(single)
    return tuple(implementation)
  if implementation is not None:
    _check_implementation(implementation)
  return implementation


def _check_implementation(implementation) -> None:
  if implementation in dispatch.IMPLEMENTATIONS:
    return
  missing = {'composite', 'composite_vjp'} - set(dir(implementation))
  if not isinstance(implementation, ModuleType | type) or missing:
    raise ValueError(
        f'{implementation=} is not one of {dispatch.IMPLEMENTATIONS}, nor a'
        ' module or class with composite and composite_vjp'
    )


def _check_splats(means, cholesky, colors, layer_sizes) -> None:
  num_splats = means.shape[0] if means.ndim else -1
  if means.shape != (num_splats, 2):
    raise ValueError(f'means must be [n, 2]: {means.shape=}')
  if cholesky.shape != (num_splats, 3):
    raise ValueError(f'cholesky must be [n, 3]: {cholesky.shape=}')
  if colors.ndim != 2 or colors.shape[0] != num_splats or not colors.shape[1]:
    raise ValueError(f'colors must be [n, c]: {colors.shape=}')
  if not means.dtype == cholesky.dtype == colors.dtype:
    raise ValueError(f'{means.dtype=} {cholesky.dtype=} {colors.dtype=} differ')
  if not jnp.issubdtype(means.dtype, jnp.floating):
    raise ValueError(f'splats must be floating point: {means.dtype=}')
  if not layer_sizes or min(layer_sizes) < 0 or sum(layer_sizes) != num_splats:
    raise ValueError(f'{layer_sizes=} must sum to {num_splats=}')
