"""Puts the packets of a video in another order; nothing is decoded.

python -m launch.reorder --input=VIDEO.pgsvc --output=OTHER.pgsvc
    --order=time|quality

In order of time a video is written, streamed and played; in order of quality a
cut anywhere leaves all of it, at fewer layers. Back again gives the same bytes.
"""

from absl import flags

from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax

from . import command

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc video', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'file to write', required=True)
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


if __name__ == '__main__':
  command.run(main)
