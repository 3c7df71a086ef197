"""Settings, and the files in configs/."""

import dataclasses
import importlib

import pytest

from pgsvc_jax import config as config_lib

PRESETS = {
    'image': ['smoke', 'fast', 'medium', 'slow'],
    'kodak': ['smoke', 'fast', ''],
    'resolution': ['smoke', 'fast', 'medium', 'slow', 'mixed'],
}


@pytest.mark.parametrize(
    ('name', 'preset'), [(n, p) for n, ps in PRESETS.items() for p in ps]
)
def test_every_preset_makes_valid_settings(name, preset):
  module = importlib.import_module(f'configs.{name}')
  config = config_lib.from_mapping(
      config_lib.EncodeConfig, module.get_config(preset)
  )
  assert isinstance(config, config_lib.EncodeConfig)


@pytest.mark.parametrize('name', PRESETS)
def test_an_unknown_preset_is_named(name):
  module = importlib.import_module(f'configs.{name}')
  with pytest.raises(ValueError, match="unknown preset 'huge'"):
    module.get_config('huge')


def test_kodak_has_the_published_counts():
  config = importlib.import_module('configs.kodak').get_config()
  assert tuple(config.fit.layer_splats) == (5000, 2000, 2000)


def test_mapping_round_trip():
  config = config_lib.EncodeConfig(
      fit=config_lib.FitConfig(layer_splats=(3, 2), seed=7)
  )
  mapping = dataclasses.asdict(config)
  mapping['fit']['layer_splats'] = [3, 2]  # as JSON has it
  assert config_lib.from_mapping(config_lib.EncodeConfig, mapping) == config


def test_unknown_fields_are_refused():
  with pytest.raises(ValueError, match="no field 'steps'"):
    config_lib.from_mapping(config_lib.FitConfig, {'steps': 3})


@pytest.mark.parametrize('value', [-0.1, float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['target_bpp', 'rounding_noise'])
def test_rates_and_noise_are_at_least_0_and_finite(name, value):
  with pytest.raises(ValueError, match=name):
    config_lib.EncodeConfig(**{name: value})
