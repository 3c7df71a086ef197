"""Fits layered splats to a picture and writes one .pgsvc file.

python -m launch.encode --input=PICTURE --output=FILE.pgsvc \
    [--config=configs/image.py:medium] [--config.fit.num_steps=2000]
"""

import dataclasses
import json
import math
import pathlib
import sys
import time

from absl import flags
import numpy as np

from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import media

from . import command

_INPUT = flags.DEFINE_string(
    'input', None, 'picture in any format Pillow reads', required=True
)
_OUTPUT = flags.DEFINE_string(
    'output', None, '.pgsvc file to write', required=True
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'folder for config.json, run.json and metrics.jsonl'
)
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices',
    0,
    'devices to use, on CPU one a core; 0: all',
    lower_bound=0,
)
_CACHE = flags.DEFINE_bool('cache', True, 'keep compiled programs between runs')
_IMPLEMENTATION = flags.DEFINE_string(
    'implementation',
    None,
    'of the operator (reference, xla, cpu); '
    'default: the best for the device',
)


def main() -> None:
  """Reads, fits, writes, and says what each layer holds."""
  begin = time.perf_counter()
  config = config_lib.from_mapping(config_lib.EncodeConfig, _CONFIG.value)
  command.check_output(_OUTPUT.value)
  picture = media.read_picture(_INPUT.value)
  for note in picture.notes:
    print(f'{_INPUT.value}: {note}', file=sys.stderr)

  # Only now: --help, wrong settings and bad pictures need not wait for JAX.
  from pgsvc_jax import fit
  from pgsvc_jax import metrics
  from pgsvc_jax import render

  from . import progress
  from . import runtime

  devices = runtime.set_up(_NUM_DEVICES.value, _CACHE.value)
  log = _RunLog(_WORKDIR.value)
  log.start(runtime.versions(), devices)
  first_step = None

  with progress.reporter(pathlib.Path(_INPUT.value).name) as show:

    def report(state: fit.Progress) -> None:
      nonlocal first_step
      first_step = first_step or time.perf_counter() - begin
      show(state)
      log.append(dataclasses.asdict(state))

    layered = fit.fit_picture(
        picture.pixels,
        config.fit,
        step_sizes=config.step_sizes,
        devices=devices,
        implementation=_IMPLEMENTATION.value,
        report=report,
    )
  data = bitstream.write(layered, config.step_sizes)
  header = bitstream.read_header(data)
  # Of the bytes, not of the fit: what anyone who decodes them will see.
  images = render.render_prefixes(bitstream.read_layers(data))
  levels = ' / '.join(
      f'{metrics.psnr_db(x / np.float32(255), picture.pixels):.2f}'
      for x in images
  )
  command.write_bytes(_OUTPUT.value, data)
  print(
      f'{_OUTPUT.value}: {len(data)} bytes, layers end at'
      f' {", ".join(map(str, header.truncation_points))};'
      f' {header.bits_per_pixel[-1]:.3f} bpp; decoded {levels} dB;'
      f' first steps after {first_step:.1f} s,'
      f' all in {time.perf_counter() - begin:.1f} s',
      file=sys.stderr,
  )


class _RunLog:
  """What a run leaves in its workdir; nothing without one."""

  def __init__(self, workdir: str | None):
    self._folder = pathlib.Path(workdir) if workdir else None

  def start(self, versions: dict[str, str], devices: list) -> None:
    if self._folder is None:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    run = {
        'command': sys.argv,
        'versions': versions,
        'devices': [str(device) for device in devices],
    }
    (self._folder / 'run.json').write_text(json.dumps(run, indent=2))
    config = _CONFIG.value.to_json_best_effort(indent=2)
    (self._folder / 'config.json').write_text(config)
    (self._folder / 'metrics.jsonl').write_text('')

  def append(self, row: dict) -> None:
    if self._folder is None:
      return
    # JSON has no infinity: null where a prefix is exact.
    levels = [x if math.isfinite(x) else None for x in row['psnr_db']]
    row = row | {'psnr_db': levels}
    with open(self._folder / 'metrics.jsonl', 'a') as file:
      file.write(json.dumps(row) + '\n')


if __name__ == '__main__':
  command.run(main, config='image.py')
