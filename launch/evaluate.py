"""Measures every operating point of a .pgsvc file against the original.

python -m launch.evaluate --input=FILE.pgsvc --reference=PICTURE [--json]

Pictures are compared as decoded, at 8 bits: PSNR over all channels, and the
five-scale MS-SSIM (none for pictures under 161 pixels).
"""

import math
import pathlib

from absl import flags
import numpy as np

from pgsvc_jax import bitstream
from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render

from . import caches
from . import command
from . import table

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_REFERENCE = flags.DEFINE_string(
    'reference', None, 'the original picture', required=True
)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')

flags.declare_key_flag('cache')


def main() -> None:
  """Decodes all prefixes and prints the table."""
  data = pathlib.Path(_INPUT.value).read_bytes()
  reference = media.read_picture(_REFERENCE.value).pixels
  with command.about(_INPUT.value):
    document = table.describe(data)
    caches.announce()
    layered = bitstream.read_layers(data)
  # Before anything of the claimed size is allocated.
  size = (document['height'], document['width'], document['channels'])
  if size != reference.shape:
    raise ValueError(
        f'{_REFERENCE.value} is {reference.shape}, {_INPUT.value} {size}'
        ' (height, width, channels)'
    )
  images = render.render_prefixes(layered)
  for row, image in zip(document['layers'], images):
    decoded = image.astype(np.float32) / 255
    psnr_db = metrics.psnr_db(decoded, reference)
    # JSON has no infinity: null where the pictures are identical.
    row['psnr_db'] = psnr_db if math.isfinite(psnr_db) else None
    row['ms_ssim'] = metrics.ms_ssim(decoded, reference)
  if _JSON.value:
    table.print_json(document)
    return
  table.print_layers(document['layers'])


if __name__ == '__main__':
  command.run(main)
