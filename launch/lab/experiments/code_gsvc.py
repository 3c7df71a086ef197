"""Codes a video by the rules of GSVC: no file, but what it would take.

For `reproduce --experiment=video_gsvc`, which runs it in a process of its own;
gsvc.py has the rules. PSNR is of frames of 8 bits; all frames are one group of
pictures.
"""

import json
import math
import statistics

from absl import flags

from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render

from ... import caches
from ... import command
from ...videos import source as video_source

_INPUT = flags.DEFINE_string('input', None, 'the video', required=True)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'JSON file of the figures', required=True
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices', 0, 'devices to have; a clip is coded on one', lower_bound=0
)
_VIDEO = video_source.Flags()


def main() -> None:
  """Codes a clip and writes what it takes, and how it looks."""
  command.check_output(_OUTPUT.value)
  config = config_lib.from_mapping(
      config_lib.VideoConfig, _CONFIG.value.to_dict()
  )
  source = video_source.Source(path=_INPUT.value, options=_VIDEO.options())

  # Only now: --help and wrong settings need not wait for JAX.
  from ... import runtime
  from . import gsvc

  device = runtime.set_up(_NUM_DEVICES.value, caches.KEEP.value)[0]
  rows = []
  with source.open() as video:
    form = video.format
    coder = gsvc.Coder(config, form.height, form.width, device=device)
    for coded in coder.encode(frame.pixels for frame in video):
      image = render.render_picture(coded.layered)
      rows.append(
          {
              'splats': sum(coded.layered.layer_sizes),
              'bytes': math.ceil(coded.bits / 8),
              'psnr_db': metrics.psnr_db(image, coded.original),
          }
      )
  size = sum(row['bytes'] for row in rows)
  level = {
      'splats': None,  # As of any video.
      'bytes': size,
      'bpp': 8 * size / (len(rows) * form.height * form.width),
      'psnr_db': statistics.fmean(row['psnr_db'] for row in rows),
  }
  text = json.dumps({'levels': [level], 'frames': rows}, indent=1)
  command.write_bytes(_OUTPUT.value, text.encode())


if __name__ == '__main__':
  command.run(main, config='video.py')
