"""The layer cycle, births and strategies, as data."""

import dataclasses

import numpy as np
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax.training import schedule
from pgsvc_jax.training import strategies

CONFIG = config_lib.FitConfig(
    layer_splats=(50, 20, 20), num_steps=200, chunk_steps=10
)


def make(**changes):
  return schedule.make_schedule(dataclasses.replace(CONFIG, **changes), 32, 32)


def birth_steps(plan, splat):
  return next(b.step for b in plan.births if b.first <= splat < b.last)


@pytest.mark.parametrize('strategy', list(strategies.STRATEGIES))
def test_every_splat_is_born_once_on_a_chunk_boundary(strategy):
  plan = make(strategy=strategy)
  slots = [n for b in plan.births for n in range(b.first, b.last)]
  assert slots == list(range(90))
  steps = [b.step for b in plan.births]
  assert steps == sorted(steps)
  assert all(step % CONFIG.chunk_steps == 0 for step in steps)
  assert steps[0] == 0 and steps[-1] < plan.num_steps == 200


def test_joint_weighs_the_top_and_cycles_through_the_lower_prefixes():
  plan = make(strategy='joint')
  weights = plan.inputs.level_weights
  second, third = birth_steps(plan, 50), birth_steps(plan, 70)
  np.testing.assert_array_equal(weights[:second], [[1, 0, 0]] * second)
  np.testing.assert_array_equal(
      weights[second:third], [[0.5, 1, 0]] * (third - second)
  )
  assert set(map(tuple, weights[third:])) == {(0.5, 0, 1), (0, 0.5, 1)}
  lower = weights[third:, :2].argmax(1)
  assert (lower[1:] != lower[:-1]).all()
  assert (plan.inputs.layer_rates.min(0) > 0).all()


def lower_prefixes(plan):
  """The lower prefix of every step where three layers are alive; -1: none."""
  weights = plan.inputs.level_weights[birth_steps(plan, 70) :, :2]
  assert ((weights > 0).sum(1) <= 1).all()
  return np.where(weights.any(1), weights.argmax(1), -1)


def test_an_epoch_stays_with_a_prefix():
  lower = lower_prefixes(make(cycle='epoch', num_steps=600))
  (changes,) = np.nonzero(np.diff(lower))
  assert set(np.diff(changes)) == {50} and set(lower) == {0, 1}


def test_a_random_cycle_is_even_and_follows_the_seed():
  lower = lower_prefixes(make(cycle='random', num_steps=2000))
  assert 0.4 < lower.mean() < 0.6 and set(lower) == {0, 1}
  assert 0.4 < (np.diff(lower) != 0).mean() < 0.6
  other = lower_prefixes(make(cycle='random', num_steps=2000, seed=1))
  assert (lower != other).any()


@pytest.mark.parametrize('rounding', [False, True])
def test_without_a_cycle_only_the_full_picture_counts(rounding):
  plan = schedule.make_schedule(
      dataclasses.replace(CONFIG, cycle='none'), 32, 32, rounding=rounding
  )
  weights = plan.inputs.level_weights
  np.testing.assert_array_equal(weights.sum(1), 1)
  assert (weights[birth_steps(plan, 70) :, 2] == 1).all()
  assert (plan.inputs.layer_rates > 0).all()


def test_layers_that_are_not_incremental_grow_at_the_same_time():
  plan = make(incremental=False)
  steps = [birth.step for birth in plan.births]
  assert steps == sorted(steps) and steps[-1] == 90
  slots = [n for b in plan.births for n in range(b.first, b.last)]
  assert sorted(slots) == list(range(90))
  assert plan.alive(1)[1] == 3
  assert [birth_steps(plan, x) for x in (0, 50, 70)] == [0, 0, 0]
  assert [birth_steps(plan, x) for x in (49, 69, 89)] == [90, 90, 90]
  assert plan.inputs.level_weights[0].tolist() == [0.5, 0, 1]


def test_all_levels_weighs_every_prefix_at_every_step():
  plan = make(strategy='all_levels')
  third = birth_steps(plan, 70)
  weights = plan.inputs.level_weights[third:]
  np.testing.assert_array_equal(weights, [[0.5, 0.5, 1]] * len(weights))


SIZES = {'layer_scales': (0.5, 1.0, 1.0), 'strategy': 'all_levels'}


def test_every_size_has_its_turn():
  """A coarse grid has half as many steps, then the next one is born."""
  plan = make(**SIZES)
  assert plan.num_steps == 300
  steps = {
      name: [b.step for b in plan.births if low <= b.first < high]
      for name, low, high in (('coarse', 0, 50), ('fine', 50, 90))
  }
  assert min(steps['coarse']) == 0 and max(steps['coarse']) == 40
  assert min(steps['fine']) == 100 and max(steps['fine']) == 190
  weights, rates = plan.inputs
  # 0.5 ** 0.75, and the default of `lower_weight`.
  np.testing.assert_allclose(
      weights[[0, 299]], [[0.595, 0, 0], [0.297, 0.5, 1]], atol=1e-3
  )
  assert (weights[:100] == weights[0]).all() and weights[100:, 1].all()
  # Layers begin at the full rate and end together.
  assert (rates[[0, 100], [0, 1]] == 1).all() and rates[100, 0] < 0.8
  np.testing.assert_allclose(rates[-1], 0.01, atol=0.01)
  assert make(**SIZES, coarse_steps=0.0).num_steps == 200


@pytest.mark.parametrize(
    'changes', [{'strategy': 'sequential'}, {'incremental': False}]
)
def test_layers_without_turns_have_no_more_steps(changes):
  assert make(**SIZES | changes).num_steps == 200


def test_splats_that_are_there_need_no_turn():
  config = dataclasses.replace(CONFIG, **SIZES)
  plan = schedule.make_schedule(config, 32, 32, filled=(50, 20, 0))
  assert plan.num_steps == 200 and plan.births[0].first == 70


def test_sequential_trains_one_layer_at_a_time_for_the_same_time():
  plan = make(strategy='sequential', num_steps=300)
  rates, weights = plan.inputs.layer_rates, plan.inputs.level_weights
  np.testing.assert_array_equal((rates > 0).sum(1), 1)
  np.testing.assert_array_equal(rates > 0, weights == 1)
  np.testing.assert_array_equal((rates > 0).sum(0), [100, 100, 100])
  # Each layer has a line of its own.
  np.testing.assert_allclose(rates[[0, 100, 200], [0, 1, 2]], 1, atol=1e-3)
  assert rates[[99, 199, 299], [0, 1, 2]].max() < 0.02


@pytest.mark.parametrize('strategy', ['single', 'prune'])
def test_a_single_layer_holds_all_splats(strategy):
  plan = make(strategy=strategy)
  assert plan.layer_sizes == (90,)
  np.testing.assert_array_equal(plan.inputs.level_weights, 1)


def test_rates_fall_along_a_line():
  rates = make(final_rate=0.1).inputs.layer_rates[:, 0]
  assert rates[0] == 1
  np.testing.assert_allclose(rates[100], 0.55, atol=1e-6)
  np.testing.assert_allclose(rates[50], 0.775, atol=1e-6)
  np.testing.assert_allclose(rates[-1], 0.1, atol=0.01)


@pytest.mark.parametrize('strategy', list(strategies.STRATEGIES))
def test_relocations_are_in_the_middle_of_what_is_fitted(strategy):
  plan = make(strategy=strategy, num_steps=600, num_relocations=6)
  steps = np.array(plan.relocations)
  assert len(steps) == 6 and not (steps % CONFIG.chunk_steps).any()
  spans = [(0, 600)]
  if strategy == 'sequential':  # Every layer has a third of the steps.
    spans = [(0, 200), (200, 400), (400, 600)]
  for first, last in spans:
    mine = steps[(steps >= first) & (steps < last)]
    assert len(mine) == 6 // len(spans)
    assert mine[0] >= first + 0.2 * (last - first)
    assert mine[-1] <= first + 0.9 * (last - first)
  assert make(num_relocations=0).relocations == ()


def test_layers_follow_density_or_count():
  config = config_lib.FitConfig(layer_density=(0.1, 0.05))
  assert schedule.layer_sizes(config, 10, 20) == (20, 10)
  assert schedule.layer_sizes(config, 1, 1) == (1, 1)
  assert schedule.layer_sizes(CONFIG, 1, 1) == (50, 20, 20)


def test_empty_layers_and_few_splats_are_ordinary():
  plan = make(layer_splats=(0, 3, 0))
  assert [(b.first, b.last) for b in plan.births] == [(0, 1), (1, 2), (2, 3)]
  assert make(layer_splats=(0,)).births == ()
  with pytest.raises(ValueError, match='at least 0'):
    make(layer_splats=(5, -1))


def test_settings_out_of_range_are_refused():
  for changes in (
      {'strategy': 'other'},
      {'cycle': 'other'},
      {'num_steps': 0},
      {'growth_fraction': 1.5},
      {'relocated_share': -0.1},
      {'num_relocations': -1},
      {'means_rate': -1.0},
      {'adam_b2': 1.0},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      dataclasses.replace(CONFIG, **changes)
  with pytest.raises(ValueError, match='incremental'):
    make(strategy='sequential', incremental=False)


@pytest.mark.parametrize('strategy', ['joint', 'sequential', 'single'])
def test_rounding_follows_the_fit_and_reaches_every_group(strategy):
  config = config_lib.FitConfig(
      layer_splats=(5, 2, 2), strategy=strategy, num_steps=100,
      rounding_steps=110, rounding_groups=2,
  )  # fmt: skip
  plain = schedule.make_schedule(config, 8, 8)
  rounded = schedule.make_schedule(config, 8, 8, rounding=True)
  assert rounded.births == plain.births
  assert not plain.roundings
  assert plain.num_steps == 100
  # Five refits between six roundings, in whole chunks.
  assert [x.step for x in rounded.roundings] == list(range(100, 201, 20))
  assert rounded.num_steps == 200
  assert len({(x.attribute, x.group) for x in rounded.roundings}) == 6
  for array, other in zip(rounded.inputs, plain.inputs, strict=True):
    np.testing.assert_array_equal(array[:100], other)
  assert (rounded.inputs.layer_rates[100:] > 0).all()
  assert (rounded.inputs.level_weights[100:, -1] == 1).all()
