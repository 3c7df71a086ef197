"""Writes docs/settings.md, a table of all settings: `python docs/settings.py`.

What it says of each field stands in `pgsvc_jax/config.py`.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]


def make() -> str:
  """The page."""
  from pgsvc_jax import config
  from pgsvc_jax import fields

  text = """# Settings

Every field of the config, with its default, its bounds and its meaning, as
`--help` of a command with `--config` shows them, too. On the command line a
field is `--config.NAME=VALUE`. This page is written by `docs/settings.py`.
"""
  for settings, title in (
      (config.EncodeConfig(), 'Pictures: `EncodeConfig`'),
      (config.VideoConfig(), 'Videos: `VideoConfig`'),
  ):
    text += f'\n## {title}\n\n| field | default | bounds | meaning |\n'
    text += '|---|---|---|---|\n'
    for row in fields.rows(settings):
      meaning = '<br>'.join(row.meaning.splitlines())
      cells = (f'`{row.name}`', f'`{row.default}`', row.bounds, meaning)
      text += f'| {" | ".join(cells)} |\n'
  return text


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  (ROOT / 'docs' / 'settings.md').write_text(make(), encoding='utf-8')
