"""Adam in the frame of the splat."""

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from pgsvc_jax import types
from pgsvc_jax.training import optimizer

BOUNDS = optimizer.Bounds(min_cholesky=1e-3, height=20, width=30)


def random_splats(seed, n=5):
  rng = np.random.default_rng(seed)
  return types.Splats(
      jnp.asarray(rng.uniform(0, 9, (n, 2)), jnp.float32),
      jnp.asarray(
          np.stack(
              [
                  rng.uniform(0.5, 3, n),
                  rng.normal(size=n),
                  rng.uniform(0.5, 3, n),
              ],
              1,
          ),
          jnp.float32,
      ),
      jnp.asarray(rng.normal(size=(n, 3)), jnp.float32),
  )


def to_matrix(triangle):
  l11, l21, l22 = triangle.T
  return np.array([[l11, np.zeros_like(l11)], [l21, l22]]).transpose(2, 0, 1)


def test_aged_adam_is_adam_for_splats_of_one_age():
  params, tx = random_splats(0), optimizer.scale_by_aged_adam(0.9, 0.99)
  other = optax.scale_by_adam(0.9, 0.99, eps=1e-8)
  state, other_state = tx.init(params), other.init(params)
  for seed in range(1, 6):
    grads = random_splats(seed)
    ours, state = tx.update(grads, state)
    theirs, other_state = other.update(grads, other_state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), ours, theirs
    )


def test_a_splat_reset_at_birth_starts_as_if_new():
  params, tx = random_splats(0), optimizer.scale_by_aged_adam(0.9, 0.99)
  state = tx.init(params)
  for seed in range(1, 4):
    _, state = tx.update(random_splats(seed), state)
  state = jax.tree.map(lambda x: x.at[2].set(0), state)
  grads = random_splats(9)
  after, _ = tx.update(grads, state)
  fresh, _ = tx.update(grads, tx.init(params))
  for a, b in zip(after, fresh):
    np.testing.assert_allclose(a[2], b[2], rtol=1e-6)
    assert not np.allclose(a[1], b[1])


def test_the_frame_gradient_is_the_chain_rule():
  """d/du f(mean + L u) and d/dM f(L (I + M)) at 0, by autodiff."""
  params, grads = random_splats(0), random_splats(1)
  factors = to_matrix(np.asarray(params.cholesky))

  def moved(u, m):
    matrix = jnp.zeros((5, 2, 2)).at[:, 0, 0].set(m[:, 0])
    matrix = matrix.at[:, 1, 0].set(m[:, 1]).at[:, 1, 1].set(m[:, 2])
    new = factors @ (jnp.eye(2) + matrix)
    triangle = jnp.stack([new[:, 0, 0], new[:, 1, 0], new[:, 1, 1]], 1)
    means = params.means + jnp.einsum('nij,nj->ni', factors, u)
    # A linear function whose gradient is `grads`.
    return jnp.vdot(means, grads.means) + jnp.vdot(triangle, grads.cholesky)

  zeros = jnp.zeros((5, 2)), jnp.zeros((5, 3))
  expected = jax.grad(moved, (0, 1))(*zeros)
  local = optimizer.to_splat_frame(grads, params)
  np.testing.assert_allclose(local.means, expected[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(local.cholesky, expected[1], rtol=1e-5, atol=1e-6)


def test_small_steps_agree_with_the_frame_and_large_ones_stay_valid():
  params, steps = random_splats(0), random_splats(1)
  small = jax.tree.map(lambda x: 1e-3 * x, steps)
  update = optimizer.from_splat_frame(small, params, BOUNDS)
  factors = to_matrix(np.asarray(params.cholesky))
  change = factors @ to_matrix(np.asarray(small.cholesky))
  np.testing.assert_allclose(
      to_matrix(np.asarray(update.cholesky)), change, atol=3e-5
  )
  expected = np.einsum('nij,nj->ni', factors, small.means)
  np.testing.assert_allclose(update.means, expected, rtol=1e-4, atol=1e-6)
  large = jax.tree.map(lambda x: -100 * jnp.abs(x), steps)
  update = optimizer.from_splat_frame(large, params, BOUNDS)
  assert (params.cholesky + update.cholesky)[:, ::2].min() >= 1e-3 - 1e-6


def test_rate_zero_freezes_a_splat():
  params = random_splats(0)
  tx = optimizer.splat_adam(0.1, 0.1, 0.1, b1=0.9, b2=0.99, bounds=BOUNDS)
  rates = jnp.array([0.0, 1, 0, 1, 1])
  updates, _ = tx.update(random_splats(1), tx.init(params), params, rates=rates)
  for x in updates:
    np.testing.assert_allclose(x[0], 0, atol=1e-7)
    assert (np.abs(x[1]).max() > 1e-3).all()


@pytest.mark.parametrize('scale', [1e-3, 1e3])
def test_steps_do_not_depend_on_the_size_of_the_gradient(scale):
  params, grads = random_splats(0), random_splats(1)
  tx = optimizer.splat_adam(0.1, 0.1, 0.1, b1=0.9, b2=0.99, bounds=BOUNDS)
  rates = jnp.ones(5)
  plain, _ = tx.update(grads, tx.init(params), params, rates=rates)
  scaled, _ = tx.update(
      jax.tree.map(lambda g: scale * g, grads),
      tx.init(params),
      params,
      rates=rates,
  )
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
      plain,
      scaled,
  )


def test_no_splat_leaves_the_bounds():
  """A background splat that every step tells to widen and move."""
  params = random_splats(0)
  steps = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
  for _ in range(200):
    update = optimizer.from_splat_frame(steps, params, BOUNDS)
    params = optax.apply_updates(params, update)
  assert float(jnp.abs(params.cholesky).max()) <= 30 * (1 + 1e-6)
  assert (params.means <= jnp.array([60.0, 40.0]) * (1 + 1e-6)).all()


def test_colors_decay_with_the_rate_of_the_splat():
  params = random_splats(0)
  rates = dict(means_rate=0.2, cholesky_rate=0.1, colors_rate=0.03)
  options = rates | dict(b1=0.9, b2=0.97, bounds=BOUNDS)
  plain = optimizer.splat_adam(**options)
  decaying = optimizer.splat_adam(**options, colors_decay=0.1)
  state, factors = plain.init(params), jnp.float32([1, 1, 0.5, 0, 1])
  grads = random_splats(1)
  without, _ = plain.update(grads, state, params, rates=factors)
  updates, _ = decaying.update(grads, state, params, rates=factors)
  np.testing.assert_array_equal(updates.means, without.means)
  np.testing.assert_array_equal(updates.cholesky, without.cholesky)
  np.testing.assert_allclose(
      updates.colors - without.colors,
      -0.1 * factors[:, np.newaxis] * params.colors,
      atol=1e-6,
  )
