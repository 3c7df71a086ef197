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
@pytest.mark.parametrize(
    'name', ['target_bpp', 'target_psnr', 'rounding_noise', 'max_seconds']
)
def test_rates_and_noise_are_at_least_0_and_finite(name, value):
  with pytest.raises(ValueError, match=name):
    config_lib.EncodeConfig(**{name: value})


@pytest.mark.parametrize(
    'rates', [(0.2, 0.1), (0.1, 0.1), (0.0, 0.1), (-1.0,), (0.1, float('inf'))]
)
def test_rates_of_layers_are_positive_and_increasing(rates):
  with pytest.raises(ValueError, match='layer_bpp must be positive'):
    config_lib.EncodeConfig(layer_bpp=rates)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'target_bpp': 1.0, 'target_psnr': 30.0}, 'only one of them'),
        ({'layer_bpp': (0.1,), 'target_psnr': 30.0}, 'only one of them'),
        (
            {'fit': config_lib.FitConfig(strategy='prune')},
            "strategy 'prune' fits one layer",
        ),
        (
            {'fit': config_lib.FitConfig(layer_splats=(3, 2, 1))},
            '2 rates in layer_bpp, 3 layers',
        ),
    ],
)
def test_what_contradicts_a_rate_is_refused(fields, message):
  rates = {} if 'target_bpp' in fields else {'layer_bpp': (0.1, 0.2)}
  with pytest.raises(ValueError, match=message):
    config_lib.EncodeConfig(**(rates | fields))


def test_rates_of_layers_come_from_a_list():
  config = config_lib.from_mapping(
      config_lib.EncodeConfig, {'layer_bpp': [0.1, 0.2]}
  )
  assert config.layer_bpp == (0.1, 0.2)
