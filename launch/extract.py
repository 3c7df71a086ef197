"""Copies the first layers of a .pgsvc file into a smaller file.

python -m launch.extract --input=FILE.pgsvc --output=CUT.pgsvc --layers=K
"""

import pathlib

from absl import flags

from pgsvc_jax import bitstream

from . import command

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'file to write', required=True)
_LAYERS = flags.DEFINE_integer(
    'layers', None, 'layers to keep, the base counted', required=True
)


def main() -> None:
  """Copies bytes; nothing is decoded."""
  data = pathlib.Path(_INPUT.value).read_bytes()
  with command.about(_INPUT.value):
    cut = bitstream.extract(data, _LAYERS.value)
  command.write_bytes(_OUTPUT.value, cut)


if __name__ == '__main__':
  command.run(main)
