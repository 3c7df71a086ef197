"""The published picture table: 5000 + 2000 + 2000 splats on Kodak (768x512).

  python -m launch.encode --input=kodim01.png --output=kodim01.pgsvc \
      --config=configs/kodak.py

Presets: '' (the default), fast (a quarter of the steps), smoke (a test).
Expected figures stand in docs/results.md.
"""

from ml_collections import config_dict

from . import image


def get_config(preset: str = '') -> config_dict.ConfigDict:
  """The settings of a preset."""
  config = image.get_config({'': 'medium'}.get(preset, preset))
  config.fit.layer_splats = (5000, 2000, 2000)
  if preset == 'smoke':
    config.fit.layer_splats = (50, 20, 20)
  return config
