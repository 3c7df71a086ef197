"""The published picture table: 5000 + 2000 + 2000 splats on Kodak (768x512).

  python -m launch.encode --input=kodim01.png --output=kodim01.pgsvc \
      --config=configs/kodak.py

Presets: none (4,400 steps), fast (500 steps), smoke (a test).
Expected figures stand in docs/results.md.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

_STEPS = {'': 4400, 'fast': 500, 'smoke': 30}


def get_config(preset: str = '') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.EncodeConfig()))
  config.fit.num_steps = _STEPS[preset]
  if preset == 'fast':
    config.fit.num_births = 18
  elif not preset:
    # A long fit has the time for more and later births: +0.04 dB.
    config.fit.num_births = 72
    config.fit.growth_fraction = 0.75
  # Near the float fit: the table compares splats, not bytes.
  config.rounding_noise = 0.02
  smoke = preset == 'smoke'
  if smoke:
    config.fit.rounding_steps = 0
  config.fit.layer_splats = (50, 20, 20) if smoke else (5000, 2000, 2000)
  return config
