"""Puts the packets of a video in another order; nothing is decoded.

pgsvc reorder VIDEO.pgsvc OTHER.pgsvc --order=time|quality

In order of time a video is written, streamed and played; in order of quality a
cut anywhere leaves all of it, at fewer layers. Back again gives the same bytes.
"""

import sys

from absl import flags

from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax

from . import command

_INPUT, _OUTPUT = command.define_paths('a .pgsvc video', 'file to write')
_ORDER = flags.DEFINE_enum_class(
    'order',
    None,
    syntax.PacketOrder,
    'what comes first',
    required=True,
)


def main() -> None:
  """Copies packets."""
  with open(_INPUT.value, 'rb') as file:
    with command.about(_INPUT.value):
      reader = stream.StreamReader(file)
    with command.replacing(_OUTPUT.value) as output:
      with command.about(_INPUT.value):
        stream.reorder(reader, output, _ORDER.value)
      size = output.tell()
  order = _ORDER.value.name.lower()
  print(f'{_OUTPUT.value}: {size} bytes in order of {order}', file=sys.stderr)


if __name__ == '__main__':
  command.run(main)
