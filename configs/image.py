"""Any picture: splats in proportion to its pixels, three layers.

  python -m launch.encode --input=PICTURE --output=FILE.pgsvc \
      --config=configs/image.py:medium

Presets: smoke (a test, a second), fast, medium (the default), slow.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

# Steps of the fit, and of its rounding.
_STEPS = {
    'smoke': (30, 0),
    'fast': (250, 110),
    'medium': (400, 110),
    'slow': (2000, 330),
}


def get_config(preset: str = 'medium') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.EncodeConfig()))
  config.fit.num_steps, config.fit.rounding_steps = _STEPS[preset]
  if preset == 'slow':
    config.fit.num_relocations = 12
  if preset == 'smoke':
    config.fit.layer_density = (0.002, 0.001, 0.001)
  return config
