"""Where splats are born."""

import numpy as np

from pgsvc_jax.training import initialize


def test_sampling_takes_each_pixel_at_most_once_and_follows_the_density():
  density = np.zeros((8, 8))
  density[2, 3] = density[5, 6] = 0.5
  rng = np.random.default_rng(0)
  centres = initialize.sample_centres(density, 2, rng)
  pixels = {tuple(p) for p in centres.astype(int)}
  assert pixels == {(3, 2), (6, 5)}


def test_sampling_frequencies_are_those_of_the_density():
  density = np.array([[0.5, 0.3, 0.2]])
  rng = np.random.default_rng(0)
  columns = [
      int(initialize.sample_centres(density, 1, rng)[0, 0]) for _ in range(4000)
  ]
  shares = np.bincount(columns, minlength=3) / 4000
  np.testing.assert_allclose(shares, density[0], atol=0.03)  # 4 sigma


def test_more_splats_than_pixels_wrap_around():
  rng = np.random.default_rng(0)
  centres = initialize.sample_centres(np.full((1, 2), 0.5), 5, rng)
  counts = np.bincount(centres[:, 0].astype(int))
  assert sorted(counts) == [2, 3]
  assert (centres >= 0).all() and (centres < [2, 1]).all()


def test_edges_attract_first_splats_and_residuals_later_ones():
  image = np.zeros((32, 32, 3), np.float32)
  image[:, 16:] = 1
  density = initialize.gradient_density(image)
  np.testing.assert_allclose(density.sum(), 1, rtol=1e-5)
  assert density[:, 15:17].sum() > 4 * density[:, :2].sum()
  residual = np.zeros((32, 32, 3), np.float32)
  residual[10, 20] = -1
  density = initialize.residual_density(residual)
  assert np.unravel_index(density.argmax(), density.shape) == (10, 20)


def test_a_flat_picture_and_a_perfect_fit_give_uniform_densities():
  flat = np.full((4, 4, 1), 0.5, np.float32)
  np.testing.assert_allclose(initialize.gradient_density(flat), 1 / 16)
  np.testing.assert_allclose(initialize.residual_density(flat * 0), 1 / 16)


def test_newborn_splats_fill_the_space_between_neighbours():
  x, y = np.meshgrid(np.arange(5) * 4.0 + 2, np.arange(5) * 4.0 + 2)
  grid = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
  image = np.full((20, 20, 2), 0.5, np.float32)
  born = initialize.born_splats(
      grid[12:13], grid, image, size_factor=0.7, color_factor=0.3
  )
  np.testing.assert_allclose(born.cholesky, [[2.8, 0, 2.8]], atol=1e-6)
  np.testing.assert_allclose(born.colors, [[0.15, 0.15]], rtol=1e-6)
  alone = initialize.born_splats(
      grid[:1], grid[:1], image, size_factor=0.7, color_factor=0.3
  )
  np.testing.assert_allclose(alone.cholesky, [[14, 0, 14]], rtol=1e-6)


def test_newborn_splats_lie_along_edges():
  """On a diagonal edge the covariance is stretched along the diagonal."""
  y, x = np.mgrid[:40, :40]
  image = (x + y > 40).astype(np.float32)[..., None]
  centres = np.float32([[20.5, 20.5], [19.5, 19.5]])
  born = initialize.born_splats(
      centres, centres, image, size_factor=1.0, color_factor=0.3
  )
  l11, l21, l22 = born.cholesky[0]
  covariance = np.array([[l11**2, l11 * l21], [l11 * l21, l21**2 + l22**2]])
  values, vectors = np.linalg.eigh(covariance)
  assert values[1] > 4 * values[0]
  np.testing.assert_allclose(np.abs(vectors[:, 1] @ [1, -1]), 2**0.5, rtol=0.02)
  # Stretching keeps the area: the distance to the neighbour, squared.
  np.testing.assert_allclose(l11 * l22, 2, rtol=1e-4)
