"""Any picture: splats in proportion to its pixels, three layers.

  python -m launch.encode --input=PICTURE --output=FILE.pgsvc \
      --config=configs/image.py:medium

Presets: smoke (a test, a second), fast, medium (the default), slow. Two cores
take about 10 s, 30 s and 90 s for a picture of 768x512.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

_STEPS = {'smoke': 30, 'fast': 500, 'medium': 2000, 'slow': 6000}


def get_config(preset: str = 'medium') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.EncodeConfig()))
  config.fit.num_steps = _STEPS[preset]
  if preset == 'fast':
    config.fit.num_births = 18
  if preset == 'smoke':
    config.fit.layer_density = (0.002, 0.001, 0.001)
    config.fit.rounding_steps = 0
  return config
