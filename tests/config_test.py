"""Settings, and the files in configs/."""

import dataclasses
import importlib
import math
import pathlib
import re
import runpy

import numpy as np
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax import fields
from pgsvc_jax.codec import quantize

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


def test_unknown_fields_are_refused_with_the_nearest_name():
  message = "FitConfig has no field 'num_step', did you mean num_steps?"
  with pytest.raises(ValueError, match=message):
    config_lib.from_mapping(config_lib.EncodeConfig, {'fit': {'num_step': 3}})


BOUNDED = [
    (cls, rule)
    for cls in (
        config_lib.FitConfig,
        config_lib.EncodeConfig,
        config_lib.VideoConfig,
        quantize.StepSizes,
    )
    for rule in fields._rules(cls)
    if rule.within
]


@pytest.mark.parametrize(
    ('cls', 'rule'), BOUNDED, ids=[f'{c.__name__}.{r.name}' for c, r in BOUNDED]
)
def test_values_out_of_bounds_are_refused(cls, rule):
  low, high = map(float, re.findall(r'[^\[\](), ]+', rule.within))
  beyond = [low - 1, math.nan] + ([high + 1] if high < math.inf else [high])
  beyond += [low] if rule.within[0] == '(' else []
  beyond += [high] if rule.within[-1] == ')' else []
  default = next(x for x in dataclasses.fields(cls) if x.name == rule.name)
  for value in beyond:
    if rule.is_integer and math.isfinite(value):
      value = int(value)
    value = (value,) if isinstance(default.default, tuple) else value
    with pytest.raises(ValueError, match=f'{rule.name} must be '):
      cls(**{rule.name: value})


@pytest.mark.parametrize('name', ['strategy', 'cycle'])
def test_choices_are_named(name):
  with pytest.raises(ValueError, match=f'{name} must be one of .*joint|step'):
    config_lib.FitConfig(**{name: 'other'})


def test_integers_are_integers():
  with pytest.raises(ValueError, match='num_steps must be an integer'):
    config_lib.FitConfig(num_steps=2.5)
  config_lib.FitConfig(num_steps=np.int64(3))


def test_every_field_has_a_meaning_and_the_page_of_settings_is_current():
  for settings in (config_lib.EncodeConfig(), config_lib.VideoConfig()):
    for row in fields.rows(settings):
      assert row.meaning, row.name
      assert (
          row.bounds
          or isinstance(row.default, bool)
          or row.name[-4:] == ('seed')
      )
  docs = pathlib.Path(__file__).parents[1] / 'docs'
  made = runpy.run_path(str(docs / 'settings.py'))['make']()
  written = (docs / 'settings.md').read_text(encoding='utf-8')
  assert made == written, 'run python docs/settings.py'


def test_help_fits_into_80_columns():
  text = fields.help_text(config_lib.VideoConfig())
  assert '--config.image.fit.num_steps=500\n' in text
  assert '(an integer, at least 1)\n' in text
  assert max(map(len, text.splitlines())) <= 80


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
  with pytest.raises(
      ValueError, match='layer_bpp must be (positive|increasing)'
  ):
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
