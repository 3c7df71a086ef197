"""The published picture table: 5000 + 2000 + 2000 splats on Kodak (768x512).

  python -m launch.encode --input=kodim01.png --output=kodim01.pgsvc \
      --config=configs/kodak.py

Presets: none (2,000 steps), fast (500 steps), smoke (a test).
Expected figures stand in docs/results.md.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

# Steps of the fit, and of its rounding.
_STEPS = {'': (2000, 330), 'fast': (500, 110), 'smoke': (30, 0)}


def get_config(preset: str = '') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.EncodeConfig()))
  config.fit.num_steps, config.fit.rounding_steps = _STEPS[preset]
  if not preset:
    config.fit.num_relocations = 12
  # Near the float fit: the table compares splats, not bytes.
  config.rounding_noise = 0.02
  config.fit.colors_decay = 0.0
  smoke = preset == 'smoke'
  config.fit.layer_splats = (50, 20, 20) if smoke else (5000, 2000, 2000)
  return config
