"""Any video: splats in proportion to its pixels, three layers, GOPs of 32.

  python -m launch.encode --input=VIDEO --output=FILE.pgsvc \
      --config=configs/video.py:medium

Presets: smoke (a test), fast, medium (the default), slow. Two cores take about
3 s, 5 s and 10 s a frame of 854x480. ladder is medium with layers for 1/4, 1/2
and the whole size (docs/resolution.md), of as many splats in all.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

# Steps of a first frame and of its rounding, and those of later frames.
_STEPS = {
    'smoke': (30, 30, 10, 30),
    'fast': (250, 110, 60, 80),
    'medium': (400, 110, 120, 160),
    'slow': (1000, 330, 240, 320),
    'ladder': (400, 110, 120, 160),
}


def get_config(preset: str = 'medium') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.VideoConfig()))
  first, first_rounding, later, later_rounding = _STEPS[preset]
  config.image.fit.num_steps = first
  config.image.fit.rounding_steps = first_rounding
  config.update_steps = later
  config.update_rounding_steps = later_rounding
  if preset == 'smoke':
    config.gop = 3
  if preset == 'ladder':
    fit = config.image.fit
    density = sum(fit.layer_density)
    fit.layer_scales = (0.25, 0.5, 1.0)
    # With each size, six times as many.
    fit.layer_density = tuple(density * x / 43 for x in (1.0, 6.0, 36.0))
    # Every level is rendered at every step anyway.
    fit.strategy = 'all_levels'
    fit.lower_weight = 1.0
    fit.num_births = 54
  return config
