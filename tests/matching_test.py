"""Peaks of a residual, and the splats that are matched to them."""

import numpy as np
import pytest

import pallas_kernels
from pgsvc_jax.training import matching
from pgsvc_jax.training import peaks


def blob(height, width, x, y, sigma, elongation=1.0, angle=0.0):
  """A Gaussian of height 1."""
  v, u = np.mgrid[:height, :width]
  cos, sin = np.cos(angle), np.sin(angle)
  along = cos * (u - x) + sin * (v - y)
  across = cos * (v - y) - sin * (u - x)
  root = np.sqrt(elongation)
  z = (along / (sigma * root)) ** 2 + (across * root / sigma) ** 2
  return np.exp(-z / 2).astype(np.float32)[..., np.newaxis]


def ones(residual):
  return np.ones(residual.shape[:2], np.float32)


def test_peaks_are_where_blobs_are_and_as_large():
  small, large = blob(60, 80, 20, 15, 1.0), blob(60, 80, 52, 37, 3.3)
  residual = 0.8 * small - 0.5 * large
  found = peaks.find(residual, ones(residual), 2)
  # The large one is missing more.
  np.testing.assert_allclose(found.x, [52, 20], atol=1)
  np.testing.assert_allclose(found.y, [37, 15], atol=1)
  np.testing.assert_allclose(found.size, [3.3, 1.0])
  # Blurring by its own size halves its height: 4 pi s^2 (a / 2)^2.
  gains = np.pi * np.square([0.5 * 3.3, 0.8 * 1.0])
  np.testing.assert_allclose(found.gain, gains, rtol=0.1)
  first = peaks.find(residual, ones(residual), 2, small_first=2.0)
  np.testing.assert_allclose(first.x, [20, 52], atol=1)


def test_no_peak_lies_within_another():
  rng = np.random.default_rng(0)
  residual = rng.normal(size=(50, 70, 3)).astype(np.float32)
  found = peaks.find(residual, ones(residual), 10_000)
  assert len(found.x) > 100
  assert (np.diff(found.gain) <= 0).all()
  distances = np.hypot(
      found.x[:, np.newaxis] - found.x, found.y[:, np.newaxis] - found.y
  )
  reach = found.size[:, np.newaxis] + found.size
  np.fill_diagonal(distances, np.inf)
  assert (distances >= reach * (1 - 1e-6)).all()


def test_weights_say_where_peaks_count():
  residual = blob(40, 40, 10, 10, 1.5) + blob(40, 40, 30, 30, 1.5)
  weights = np.ones((40, 40), np.float32)
  weights[:20] = 0.04
  found = peaks.find(residual, weights, 1)
  assert (found.x[0], found.y[0]) == (30, 30)
  splats, gains = matching.match(
      residual,
      weights,
      peaks.find(residual, weights, 2),
      np.random.default_rng(),
  )
  # The same splat, which is worth less.
  np.testing.assert_allclose(splats.colors[0], splats.colors[1], rtol=1e-3)
  np.testing.assert_allclose(gains[1], 0.04 * gains[0], rtol=1e-3)


@pytest.mark.parametrize('shape', [(1, 1, 3), (1, 37, 1), (9, 1, 4), (3, 2, 2)])
def test_pictures_of_any_size_have_peaks_inside(shape):
  residual = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  found = peaks.find(residual, ones(residual), 5)
  assert (found.x < shape[1]).all() and (found.y < shape[0]).all()
  splats, gains = matching.match(
      residual, ones(residual), found, np.random.default_rng(0)
  )
  assert splats.colors.shape == (len(gains), shape[2])
  assert all(np.isfinite(x).all() for x in splats)
  flat = np.zeros(shape, np.float32)
  assert not len(peaks.find(flat, ones(flat), 5).x)


@pytest.mark.parametrize('angle', [0.0, np.pi / 4, 3 * np.pi / 4])
def test_a_matched_splat_has_the_shape_and_takes_off_what_it_says(angle):
  residual = 0.5 * blob(40, 50, 24, 19, 2.0, elongation=4.0, angle=angle)
  found = peaks.find(residual, ones(residual), 1)
  splats, gains = matching.match(
      residual, ones(residual), found, np.random.default_rng(0)
  )
  l11, l21, l22 = np.float64(splats.cholesky[0])
  covariance = np.array([[l11**2, l11 * l21], [l11 * l21, l21**2 + l22**2]])
  values, vectors = np.linalg.eigh(covariance)
  assert values[1] > 4 * values[0]
  direction = [np.cos(angle), np.sin(angle)]
  assert abs(vectors[:, 1] @ direction) > 0.95
  # What is missing is one splat: without it, next to nothing is.
  energy = float((residual**2).sum())
  assert 0.7 * energy < gains[0] <= energy * (1 + 1e-5)
  shown = pallas_kernels.composite(
      *splats, layer_sizes=(1,), height=40, width=50
  )
  left = float(np.square(residual - np.asarray(shown[0])).sum())
  assert left < 0.6 * energy
