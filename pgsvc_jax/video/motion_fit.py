"""Fits a motion field to what the splats show, moved by it (encoder only).

A flow is measured between pixels of the source, and blocks take its median. But
what is moved are splats as decoded, by a field that is bilinear between blocks:
the vectors that serve them best are found by descent on the squared error of
the picture.
"""

import functools
import math

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Float, Int
import numpy as np

import pallas_kernels
from pgsvc_jax import types
from pgsvc_jax.video import motion

# Share of a Newton step, if splats did not overlap; of the gradients before,
# what the next one keeps; pixels a step, at most.
_RATE = 1.0
_MEMORY = 0.8
_LONGEST = 1.0
# Squared error a squared pixel: what shows less than this hardly moves.
_STIFFNESS = 1.0
# Bits that a vector is taken to cost where it departs from the flow.
_VECTOR_BITS = 4
# Outside any picture.
_PARKED = -65536.0


def corners(
    means: Float[np.ndarray, 'n 2'], shape: tuple[int, int], log2_block: int
) -> tuple[Int[np.ndarray, 'n 4'], Float[np.ndarray, 'n 4']]:
  """Which vectors move a splat, and how much; as `motion.move` does, in floats.

  Args:
    means: pixels.
    shape: rows and columns of the field.
    log2_block: of the pixels across a block.

  Returns:
    Indices into the field, row after row, and weights that sum to 1.

  Example:
    >>> indices, weights = corners(np.array([[16.0, 8.0]]), (2, 2), 4)
    >>> indices.tolist(), weights.tolist()
    ([[0, 1, 2, 3]], [[0.5, 0.5, 0.0, 0.0]])
  """
  last = np.array(shape[::-1]) - 1
  places = np.clip(means / 2**log2_block - 0.5, 0, last)
  first = np.floor(places).astype(np.int64)
  (x0, y0), (x1, y1) = first.T, np.minimum(first + 1, last).T
  fx, fy = (places - first).T
  rows = np.stack([y0, y0, y1, y1], -1)
  columns = np.stack([x0, x1, x0, x1], -1)
  across = np.stack([1 - fx, fx, 1 - fx, fx], -1)
  down = np.stack([1 - fy, 1 - fy, fy, fy], -1)
  return rows * shape[1] + columns, across * down


class FieldFitter:
  """Refines motion fields on one device; compiled once for a size of frames."""

  def __init__(
      self,
      capacity: int,
      num_steps: int,
      *,
      device: jax.Device,
      implementation: pallas_kernels.Implementation | None = None,
  ):
    """For so many splats at most, in so many steps."""
    self._capacity = capacity
    self._device = device
    self._descend = jax.jit(
        functools.partial(_descend, num_steps, implementation)
    )

  def refine(
      self,
      vectors: Int[np.ndarray, 'rows cols 2'],
      log2_block: int,
      splats: types.Splats,
      frame: Float[np.ndarray, 'h w c'],
      bit_error: float,
  ) -> Int[np.ndarray, 'rows cols 2']:
    """A field that moves the splats closer to the frame.

    Args:
      vectors: where to start, in 2**-motion.VECTOR_BITS pixels.
      log2_block: of the pixels across a block.
      splats: as decoded.
      frame: where they go to, in [0, 1].
      bit_error: squared error that a bit is worth. Vectors that gain less than
        what they cost stay as they were.

    Returns:
      Vectors like those given.
    """
    unused = self._capacity - len(splats.means)
    indices, weights = corners(splats.means, vectors.shape[:2], log2_block)
    means, cholesky, colors, indices, weights = (
        np.pad(x, ((0, unused), (0, 0)), constant_values=value)
        for x, value in [
            (splats.means, _PARKED),
            (splats.cholesky, 1),
            (splats.colors, 0),
            (indices, 0),
            (np.float32(weights), 0),
        ]
    )
    unit = 2**motion.VECTOR_BITS
    start = np.float32(vectors.reshape(-1, 2) / unit)
    arguments = (means, cholesky, colors, indices, weights, start, frame)
    result = self._descend(*jax.device_put(arguments, self._device))
    found, stiffness = map(np.float64, jax.device_get(result))
    gains = stiffness * (found - start) ** 2 / 2
    found = np.where(gains > _VECTOR_BITS * bit_error, found, start)
    rounded = np.rint(found * unit).astype(np.int64)
    limit = motion.VECTOR_LIMIT
    return np.clip(rounded, -limit, limit).reshape(vectors.shape)


def _descend(
    num_steps,
    implementation,
    means,
    cholesky,
    colors,
    indices,
    weights,
    start,
    frame,
):
  """The vectors after the descent, and the second derivatives by them."""

  def loss(offsets):
    error, _ = pallas_kernels.composite_error(
        means + offsets,
        cholesky,
        colors,
        frame,
        jnp.ones(frame.shape[:2]),
        jnp.ones(1),
        layer_sizes=(len(means),),
        implementation=implementation,
    )
    return error

  def gather(values):
    """What belongs to splats, on the vectors that move them."""
    shares = weights[:, :, jnp.newaxis] * values[:, jnp.newaxis]
    return jnp.zeros_like(start).at[indices].add(shares)

  # The squared error of a splat moved by d: pi sigma^2 |c|^2 / 2 |L^-1 d|^2.
  l11, l21, l22 = cholesky.T
  lean = jnp.abs(l21 / l22)
  along = jnp.stack([(l22**2 + l21**2) / (l11 * l22), l11 / l22], -1)
  energies = math.pi * (colors**2).sum(1)
  stiffness = gather(energies[:, None] * (along + lean[:, None]))

  def step(_, carry):
    vectors, gradients = carry
    offsets = (weights[:, :, jnp.newaxis] * vectors[indices]).sum(1)
    new = gather(jax.grad(loss)(offsets))
    gradients = _MEMORY * gradients + (1 - _MEMORY) * new
    steps = _RATE * gradients / (stiffness + _STIFFNESS)
    return vectors - jnp.clip(steps, -_LONGEST, _LONGEST), gradients

  initial = start, jnp.zeros_like(start)
  vectors, _ = lax.fori_loop(0, num_steps, step, initial)
  return vectors, stiffness
