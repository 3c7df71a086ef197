"""A rate for a video: shared among its groups, and kept to in each."""

import dataclasses
from fractions import Fraction
import subprocess
import sys

import jax
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import stream
from pgsvc_jax.video import gop_fit
from pgsvc_jax.video import groups
from pgsvc_jax.video import rate_control

from . import clips

CONFIG = config_lib.VideoConfig(target_kbps=100)


def make_group(index, num_frames, complexity=1.0):
  return groups.Group(
      index=index,
      first_frame=0,
      times=tuple(range(num_frames)),
      last_duration=1,
      complexity=complexity,
  )


def plan(config, *planned):
  return rate_control.plan(
      config, planned, height=360, width=640, time_base=Fraction(1, 25)
  )


def test_shares_are_the_rate_times_the_duration():
  _, planned = plan(CONFIG, make_group(0, 20), make_group(1, 30, 2.0))
  assert sum(x.num_bytes for x in planned) == 100_000 / 8 * 50 / 25


def test_more_to_code_and_more_frames_get_more():
  _, (one, complex_one, long_one) = plan(
      CONFIG, make_group(0, 20), make_group(1, 20, 2.0), make_group(2, 40)
  )
  assert 1.4 < complex_one.num_bytes / one.num_bytes < 1.6
  # Less than twice as much: there is a first frame in both.
  assert 1.5 < long_one.num_bytes / one.num_bytes < 1.9


def test_splats_follow_the_rate_unless_they_are_given():
  twice = dataclasses.replace(CONFIG, target_kbps=200)
  sizes = [
      sum(plan(config, make_group(0, 20))[0].image.fit.layer_splats)
      for config in (CONFIG, twice)
  ]
  assert sizes[1] == pytest.approx(2 * sizes[0], abs=3)
  fit = dataclasses.replace(CONFIG.image.fit, layer_splats=(30, 20))
  image = dataclasses.replace(CONFIG.image, fit=fit)
  given = dataclasses.replace(CONFIG, image=image)
  assert plan(given, make_group(0, 20))[0] == given


@pytest.mark.parametrize('ratio', [0.03, 0.1, 0.15, 0.3, 0.6])
@pytest.mark.parametrize('num_frames, miss', [(2, 0.4), (8, 0.1), (32, 0.03)])
def test_a_group_keeps_to_its_bytes_whatever_later_frames_take(
    ratio, num_frames, miss
):
  """Of a model: frames that cost `ratio` of the first at a cost of 1."""
  budget = rate_control.Budget(10_000, num_frames)
  first = second = 0
  for _ in range(10):
    first = budget.first_bytes
    second = ratio * first
    if not budget.is_off(first, second):
      break
  else:
    pytest.fail('it goes on for ever')
  used, last = first + second, second
  budget.spend(1, used, last)
  for index in range(2, num_frames):
    last = ratio * first * budget.cost**-0.35 * (1.1 if index % 2 else 0.9)
    used += last
    budget.spend(index, used, last)
  assert used == pytest.approx(10_000, rel=miss)


@pytest.mark.slow
def test_a_fitted_group_has_about_the_bytes_that_are_asked_for():
  fit = config_lib.FitConfig(
      layer_splats=(60, 30), num_steps=30, num_births=4, rounding_steps=30
  )
  config = config_lib.VideoConfig(
      image=config_lib.EncodeConfig(fit=fit),
      update_steps=10,
      update_rounding_steps=30,
  )
  fitter = gop_fit.GopFitter(config, 48, 64, device=jax.devices()[0])
  frames = clips.moving(8) / 255
  sizes = []
  for num_bytes in (2000, 3500):
    budget = rate_control.Budget(num_bytes, len(frames))
    stats = list(fitter.encode(frames, budget=budget))
    assert [x.index for x in stats] == list(range(len(frames)))
    sizes.append(sum(map(len, fitter.packets())))
  assert sizes == pytest.approx([2000, 3500], rel=0.1)


def test_a_rate_needs_a_cost_to_vary():
  with pytest.raises(ValueError, match='bit_weight'):
    config_lib.VideoConfig(target_kbps=10, bit_weight=0)


@pytest.mark.slow
def test_the_command_keeps_to_a_rate_however_it_is_run(tmp_path):
  """The same bytes by one process, by two, and by one that was stopped."""
  clip = tmp_path / 'clip.mkv'
  clips.write(clip, clips.with_cut(16, cut=8, width=128, height=96))

  def encode(name, *options):
    words = [sys.executable, '-m', 'launch.encode', f'--input={clip}']
    words += ['--config=configs/video.py:smoke', '--config.gop=8']
    words += ['--target_kbps=100', f'--output={tmp_path / name}', *options]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'as near as it comes' not in result.stderr
    return (tmp_path / name).read_bytes() if '1' not in name else b''

  data = encode('one', '--num_devices=2')
  assert len(data) == pytest.approx(100_000 / 8 * 16 / 25, rel=0.05)
  encode('two', '--num_devices=1', '--num_processes=2', '--process_id=0')
  assert (tmp_path / 'two').read_bytes() == data
  with open(tmp_path / 'one', 'rb') as file:
    _, second = stream.StreamReader(file)
  (tmp_path / 'three.part').write_bytes(data[: second.packet_offsets[0]])
  assert encode('three') == data
