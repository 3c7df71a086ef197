"""Lists the layers of a .pgsvc file: splats, bytes, bits per pixel.

python -m launch.info --input=FILE.pgsvc [--json]
"""

import pathlib

from absl import flags

from . import command
from . import table

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')


def main() -> None:
  """Prints the description."""
  with command.about(_INPUT.value):
    info = table.describe(pathlib.Path(_INPUT.value).read_bytes())
  if _JSON.value:
    table.print_json(info)
    return
  print(
      f'{info["width"]} x {info["height"]}, {info["channels"]} channels,'
      f' {info["file_bytes"]} bytes'
  )
  table.print_layers(info['layers'])


if __name__ == '__main__':
  command.run(main)
