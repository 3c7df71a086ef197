"""Motion fields fitted to splats: they find a motion, and keep still."""

import jax
import numpy as np
import pytest

from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import lattice
from pgsvc_jax.codec import quantize
from pgsvc_jax.video import motion
from pgsvc_jax.video import motion_fit

_HEIGHT, _WIDTH, _LOG2_BLOCK = 48, 64, 4
_STEPS = quantize.StepSizes(position=512)


@pytest.fixture(name='splats', scope='module')
def _splats():
  rng = np.random.default_rng(0)
  count = 150
  splats = types.Splats(
      np.float32(rng.uniform((0, 0), (_WIDTH, _HEIGHT), (count, 2))),
      np.float32(np.tile([2, 0.5, 1.5], (count, 1))),
      np.float32(rng.normal(0, 0.2, (count, 3))),
  )
  symbols = quantize.quantize(splats, _STEPS)
  return symbols, quantize.dequantize(symbols, _STEPS)


def show(splats):
  """The splats before gray, and what they show."""
  # What is below 0 would be cut off.
  shifted = splats._replace(
      means=np.append(splats.means, [[32, 24]], axis=0).astype(np.float32),
      cholesky=np.append(splats.cholesky, [[1e3, 0, 1e3]], axis=0).astype(
          np.float32
      ),
      colors=np.append(splats.colors, [[0.5] * 3], axis=0).astype(np.float32),
  )
  layered = types.LayeredSplats(
      splats=shifted,
      layer_sizes=(len(shifted.means),),
      height=_HEIGHT,
      width=_WIDTH,
  )
  return shifted, render.render_picture(layered) / np.float32(255)


def refine(splats, frame, bit_error=1e-3):
  fitter = motion_fit.FieldFitter(200, 40, device=jax.local_devices()[0])
  shape = motion.field_shape(_HEIGHT, _WIDTH, _LOG2_BLOCK)
  still = np.zeros((*shape, 2), np.int64)
  return fitter.refine(still, _LOG2_BLOCK, splats, frame, bit_error)


def test_corners_move_splats_as_the_decoder_does(splats):
  symbols, decoded = splats
  points, where = lattice.from_symbols(symbols, _STEPS)
  shape = motion.field_shape(_HEIGHT, _WIDTH, _LOG2_BLOCK)
  vectors = np.random.default_rng(1).integers(-40, 40, (*shape, 2))
  moved = motion.move(points, where, _STEPS, vectors, _LOG2_BLOCK)
  moved = lattice.splats(moved, where, _STEPS)
  indices, weights = motion_fit.corners(decoded.means, shape, _LOG2_BLOCK)
  assert weights.sum(axis=1) == pytest.approx(1)
  offsets = (weights[..., None] * vectors.reshape(-1, 2)[indices]).sum(axis=1)
  expected = decoded.means + offsets / 2**motion.VECTOR_BITS
  half = lattice.steps(where, _STEPS, 3)[:, :2] / 2
  assert (np.abs(moved.means - expected) <= half + 1e-4).all()


def test_a_motion_is_found(splats):
  _, decoded = splats
  shift = np.array([1.5, -0.75])
  shown, _ = show(decoded)
  _, frame = show(decoded._replace(means=np.float32(decoded.means + shift)))
  vectors = refine(shown, frame)
  assert np.abs(vectors - 4 * shift).max() <= 1


def test_what_stands_still_is_left_alone(splats):
  _, decoded = splats
  shown, frame = show(decoded)
  assert not refine(shown, frame).any()


def test_what_gains_less_than_its_bits_is_left_alone(splats):
  _, decoded = splats
  shown, _ = show(decoded)
  _, frame = show(decoded._replace(means=decoded.means + np.float32(0.5)))
  assert refine(shown, frame).any()
  assert not refine(shown, frame, bit_error=1e9).any()
