"""What a fit lowers: a module for each loss, by whose name settings choose it.

A module of this package defines `LOSS`; nothing else has to know of it:
`FitConfig.loss`, and so `--config.fit.loss`, take its name.
"""

from collections.abc import Callable
import dataclasses
import importlib
import pkgutil
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
  """A loss, and what a fit has to know of it.

  Attributes:
    error_fn: called and differentiated as `pallas_kernels.composite_error` is.
      It returns the loss, summed over pixels, channels and prefixes with their
      weights, and the squared error of every prefix, for progress and rate.
    unit: what the loss of one number is.
    needs: `bands`: a loss that is a sum over pixels, so that devices can share
      the rows of a picture; `whole`: one that looks at neighbours.
    per_squared_error: by how much it changes with the squared error of a
      number, where that is as given on average. It says what bits are worth in
      predicted frames.
  """

  error_fn: Callable[..., tuple[Any, Any]]
  unit: str
  needs: Literal['bands', 'whole'] = 'bands'
  per_squared_error: Callable[[float], float] = lambda mean: 1.0


def names() -> tuple[str, ...]:
  """The losses that there are.

  Example:
    >>> 'squared' in names()
    True
  """
  return tuple(sorted(x.name for x in pkgutil.iter_modules(__path__)))


def get(name: str) -> Loss:
  """The loss of that name.

  Raises:
    ValueError: there is none.

  Example:
    >>> get('squared').needs
    'bands'
  """
  if name not in names():
    raise ValueError(f'loss {name!r} is not one of {names()}')
  return importlib.import_module(f'{__name__}.{name}').LOSS


def of_images(function: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
  """Makes the `error_fn` of a loss that is a function of the prefix images.

  Args:
    function: (images [l, h, w, c], target [h, w, c], pixel_weights [h, w]) ->
      the loss of every image [l], in JAX.

  Returns:
    For `Loss.error_fn`. The images are written to memory, which
    `pallas_kernels.composite_error` does without where it can.
  """

  def error_fn(
      means,
      cholesky,
      colors,
      target,
      pixel_weights,
      level_weights,
      *,
      layer_sizes,
      implementation=None,
  ):
    import jax  # Settings know the names without it.

    import pallas_kernels

    images = pallas_kernels.composite(
        means,
        cholesky,
        colors,
        layer_sizes=layer_sizes,
        height=target.shape[0],
        width=target.shape[1],
        implementation=implementation,
    )
    losses = function(images, target, pixel_weights)
    squares = pixel_weights[:, :, None] * (images - target) ** 2
    errors = jax.lax.stop_gradient(squares.sum((1, 2, 3)))
    return (level_weights * losses).sum(), errors

  return error_fn
