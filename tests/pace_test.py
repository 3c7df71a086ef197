"""Steps left out of a fit, by a clock of the test's own."""

import types

import numpy as np
import pytest

from pgsvc_jax import pace as pace_lib


def paced(budget, chunk_seconds, num_steps, monkeypatch):
  """The steps at which chunks begin when each takes so long."""
  now = [100.0]
  clock = types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(pace_lib, 'time', clock)
  pace = pace_lib.Pace(100.0 + budget, num_steps)
  starts, step = [], 0
  while step < num_steps:
    starts.append(step)
    now[0] += chunk_seconds
    step = pace.next_step(step + 10, 10)
  return starts, now[0] - 100.0


@pytest.mark.parametrize('budget', [2.0, 5.0, 7.7, 9.9])
def test_a_pace_leaves_out_steps_evenly(budget, monkeypatch):
  starts, seconds = paced(budget, 0.1, 1000, monkeypatch)
  assert budget - 0.3 < seconds < budget + 0.15
  gaps = np.diff(starts)[2:]
  assert gaps.max() - gaps.min() <= 10
  assert starts[-1] >= 1000 - 10 - gaps.max()


def test_a_pace_with_time_enough_leaves_out_nothing(monkeypatch):
  starts, _ = paced(10.5, 0.1, 1000, monkeypatch)
  assert starts == list(range(0, 1000, 10))
