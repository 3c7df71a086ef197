"""Lists the layers of a .pgsvc file: splats, bytes, bits per pixel.

pgsvc info FILE.pgsvc [--attributes] [--json]

Of a video also its GOPs: frames, times, bytes of each layer.
"""

import os
import pathlib

from absl import flags

from pgsvc_jax.codec import stream

from . import command
from . import table
from .videos import info as video_info

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')
_ATTRIBUTES = flags.DEFINE_bool(
    'attributes', False, 'also the bits a splat that each attribute takes'
)


def main() -> None:
  """Prints the description."""
  if command.holds_video(_INPUT.value):
    if _ATTRIBUTES.value:
      raise ValueError(f'{_INPUT.value}: --attributes is for pictures')
    with open(_INPUT.value, 'rb') as file, command.about(_INPUT.value):
      size = os.fstat(file.fileno()).st_size
      info = video_info.describe(stream.StreamReader(file), size)
    print_info = video_info.print_info
  else:
    with command.about(_INPUT.value):
      data = pathlib.Path(_INPUT.value).read_bytes()
      info = table.describe(data)
      if _ATTRIBUTES.value:
        table.add_attributes(info, data)
    print_info = _print_picture
  if _JSON.value:
    table.print_json(info)
  else:
    print_info(info)


def _print_picture(info: dict) -> None:
  print(
      f'{info["width"]} x {info["height"]}, {info["channels"]} channels,'
      f' {info["file_bytes"]} bytes'
  )
  table.print_layers(info['layers'])
  if _ATTRIBUTES.value:
    table.print_attributes(info['layers'])


if __name__ == '__main__':
  command.run(main)
