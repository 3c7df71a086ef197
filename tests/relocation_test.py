"""Splats that show little move to where one gains more."""

import dataclasses

import jax
import numpy as np
import pytest
import skimage.data

from pgsvc_jax import config as config_lib
from pgsvc_jax import types
from pgsvc_jax.training import fit
from pgsvc_jax.training import relocation
from pgsvc_jax.training import train

CONFIG = config_lib.FitConfig(
    layer_splats=(120, 60, 60), num_steps=200, num_births=6, num_relocations=4
)


@pytest.fixture(scope='module')
def image():
  return skimage.data.astronaut()[30:126, 180:276] / np.float32(255)


def fitted(image, **changes):
  """A fit, and the PSNR of its prefixes at its end."""
  last = []
  devices = changes.pop('devices', None)
  config = dataclasses.replace(CONFIG, **changes)
  layered = fit.fit_picture(image, config, report=last.append, devices=devices)
  return layered, np.array(last[-1].psnr_db)


def missing(height=40, width=40):
  """A residual with one thing missing, at (30, 20)."""
  residual = np.zeros((height, width, 3), np.float32)
  residual[17:24, 28:33] = 0.5
  return residual


def splats_at(means, colors):
  count = len(means)
  return types.Splats(
      np.float32(means),
      np.tile(np.float32([1.5, 0, 1.5]), (count, 1)),
      np.repeat(np.float32(colors)[:, np.newaxis], 3, axis=1),
  )


def test_the_cheapest_splat_goes_where_most_is_missing():
  splats = splats_at([(5, 5), (9, 30), (20, 8)], [0.3, 0.01, 0.2])
  moves = relocation.choose_moves(
      splats, missing(), np.ones((40, 40), np.float32), 1,
      np.random.default_rng(0),
  )  # fmt: skip
  assert moves.chosen.tolist() == [1]
  assert np.hypot(*(moves.splats.means[0] - [30, 20])) < 3
  assert moves.splats.colors.min() > 0.2


def test_none_moves_for_less_than_it_shows():
  splats = splats_at([(5, 5), (9, 30), (20, 8)], [0.9, 0.8, 0.7])
  weights = np.ones((40, 40), np.float32)
  rng = np.random.default_rng(0)
  moves = relocation.choose_moves(splats, 0.1 * missing(), weights, 3, rng)
  assert not len(moves.chosen)
  # A splat that counts little may go.
  weights[25:, :15] = 1e-4
  moves = relocation.choose_moves(splats, 0.1 * missing(), weights, 3, rng)
  assert moves.chosen.tolist() == [1]


def test_costs_are_what_the_error_rises_by():
  splats = splats_at([(20, 20), (-30, 20)], [0.5, 0.5])
  cost = relocation.costs(splats, np.full((40, 40), 2, np.float32))
  y, x = np.mgrid[:40, :40] + 0.5
  shown = 0.5 * np.exp(-((x - 20) ** 2 + (y - 20) ** 2) / 2 / 1.5**2)
  np.testing.assert_allclose(cost[0], 2 * 3 * (shown**2).sum(), rtol=1e-3)
  assert cost[1] < cost[0]


def test_what_moves_begins_anew():
  state = train.create_train_state(4, 3)
  state = state.replace(opt_state=jax.tree.map(np.ones_like, state.opt_state))
  moved = train.put_splats(
      state, np.array([2, 0]), splats_at([(1, 2), (3, 4)], [0.1, 0.2])
  )
  np.testing.assert_array_equal(moved.params.means[[2, 0]], [[1, 2], [3, 4]])
  for x in jax.tree.leaves(moved.opt_state):
    assert not x[[0, 2]].any() and x[[1, 3]].all()


@pytest.mark.parametrize('strategy', ['joint', 'all_levels', 'single'])
def test_relocation_makes_prefixes_better(image, strategy):
  _, without = fitted(image, strategy=strategy, num_relocations=0)
  _, psnr = fitted(image, strategy=strategy)
  assert psnr.mean() > without.mean() + 0.1


def test_frozen_layers_stay_as_they_are(image):
  """With the base frozen, its picture is that of a fit of the base alone."""
  layered, _ = fitted(
      image, strategy='sequential', layer_splats=(120, 60), num_steps=200,
      num_relocations=4,
  )  # fmt: skip
  alone, _ = fitted(
      image, strategy='single', layer_splats=(120,), num_steps=100,
      num_births=4, num_relocations=2,
  )  # fmt: skip
  np.testing.assert_allclose(
      layered.splats.means[:120], alone.splats.means, atol=1e-3
  )


def test_one_seed_gives_one_result_and_bands_differ_by_rounding(image):
  layered, psnr = fitted(image)
  again, _ = fitted(image)
  for a, b in zip(layered.splats, again.splats):
    np.testing.assert_array_equal(a, b)
  _, banded = fitted(image, devices=jax.devices()[:3])
  np.testing.assert_allclose(banded, psnr, atol=0.25)


def test_layers_of_several_sizes_relocate_on_their_own_grids(image):
  sizes = {'layer_scales': (0.5, 0.5, 1), 'coarse_steps': 0.3, 'num_steps': 100}
  _, without = fitted(image, num_relocations=0, **sizes)
  _, psnr = fitted(image, **sizes)
  assert psnr.mean() > without.mean()
