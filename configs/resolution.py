"""Three sizes in one file: layers for 1/4, 1/2 and the whole picture.

  python -m launch.encode --input=PICTURE --output=FILE.pgsvc \
      --config=configs/resolution.py:fast
  python -m launch.decode --input=FILE.pgsvc --output=SMALL.png --layers=1

The first `layers` decode to the size that their highest layer was fitted at,
`--scale` gives any other. Kodak pictures get 249 + 1245 + 7471 splats: with
each size, six times as many. More of them in the lower layers show more at
small sizes, and cost the levels above.

Presets: smoke (a test), fast (250 steps), medium (500 steps, the default),
slow (2,000 steps), and half as many more for each smaller size; mixed is medium
with two layers of quality for each of two sizes. Any other ladder:
--config.fit.layer_scales and --config.fit.layer_splats (or layer_density).
Expected figures stand in docs/resolution.md.
"""

import dataclasses

from ml_collections import config_dict

from pgsvc_jax import config as config_lib

_STEPS = {
    'smoke': 30,
    'fast': 250,
    'medium': 500,
    'slow': 2000,
    'mixed': 500,
}


def get_config(preset: str = 'medium') -> config_dict.ConfigDict:
  """The settings of a preset."""
  if preset not in _STEPS:
    raise ValueError(f'unknown preset {preset!r}, there are {list(_STEPS)}')
  config = config_dict.ConfigDict(dataclasses.asdict(config_lib.EncodeConfig()))
  config.fit.num_steps = _STEPS[preset]
  config.fit.layer_scales = (0.25, 0.5, 1.0)
  config.fit.layer_density = (0.000633, 0.003167, 0.019)
  # Every level is rendered at every step anyway.
  config.fit.strategy = 'all_levels'
  config.fit.lower_weight = 1.0
  # The splats of a small base, too, are to be born in several parts.
  config.fit.num_births = 54
  if preset == 'mixed':
    config.fit.layer_scales = (0.5, 0.5, 1.0, 1.0)
    config.fit.layer_density = (0.0019, 0.0019, 0.0095, 0.0095)
  if preset == 'slow':
    config.fit.rounding_steps = 330
    config.fit.num_relocations = 12
  if preset == 'smoke':
    config.fit.layer_density = (0.001, 0.001, 0.002)
    config.fit.rounding_steps = 0
  return config
