"""Fits layered splats to pictures or a video and writes .pgsvc files.

pgsvc encode PICTURE FILE.pgsvc [--config=fast] [--config.fit.num_steps=2000]
pgsvc encode VIDEO FILE.pgsvc [--config=fast] [--start=N] [--frames=N]
pgsvc encode FOLDER FOLDER [--skip_existing]

With a folder, or several inputs, every picture becomes OUTPUT/NAME.pgsvc; one
that fails is reported, the others are still written. A folder of frames is a
video with --config=video.

With --workdir, a run that was ended, however it was, goes on where its last
checkpoint is when the same command is given again (docs/running.md).
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags
from PIL import Image

from pgsvc_jax import config as config_lib
from pgsvc_jax import inputs as inputs_lib
from pgsvc_jax.video import av_writer
from pgsvc_jax.video import media as video_media

from . import caches
from . import command
from .pictures import jobs as jobs_lib
from .videos import encoding as encode_video
from .videos import source as video_source

_INPUT = flags.DEFINE_multi_string(
    'input',
    None,
    'picture in any format Pillow reads, or a folder of pictures',
    required=True,
)
_OUTPUT = flags.DEFINE_string(
    'output',
    None,
    '.pgsvc file to write; of several pictures, the folder for NAME.pgsvc',
    required=True,
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_TARGET_BPP = flags.DEFINE_float(
    'target_bpp', None, 'bits per pixel of the file, as config.target_bpp'
)
_TARGET_KBPS = flags.DEFINE_float(
    'target_kbps',
    None,
    'of a video: thousand bits a second of the file, as config.target_kbps',
)
_TARGET_PSNR = flags.DEFINE_float(
    'target_psnr', None, 'dB of the decoded file, as config.target_psnr'
)
_LAYER_BPP = flags.DEFINE_list(
    'layer_bpp',
    None,
    'bits per pixel of the file up to the end of each layer, such as'
    ' 0.1,0.25,0.5, as config.layer_bpp',
)
_MAX_SECONDS = flags.DEFINE_float(
    'max_seconds',
    None,
    'seconds a picture may take, as config.max_seconds: leaves out steps; the'
    ' bytes then depend on the speed of the machine',
)
_SKIP_EXISTING = flags.DEFINE_bool(
    'skip_existing', False, 'of several pictures: leave files as they are'
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'folder for checkpoints, config.json, run.json and metrics.jsonl; of'
    ' several pictures, in a folder NAME each. The same command goes on there',
)
_CHECKPOINT_EVERY = flags.DEFINE_float(
    'checkpoint_every',
    10.0,
    'seconds from one checkpoint in --workdir to the next, at least',
    lower_bound=0.0,
)
_COLOR = flags.DEFINE_enum(
    'color',
    'srgb',
    ['srgb', 'keep'],
    'srgb: pictures of other colors are converted, HDR is tone-mapped; keep:'
    ' values stay, the profile or the tags of a video come back on decode',
)
_METADATA = flags.DEFINE_enum(
    'metadata',
    'none',
    ['none', 'keep', 'all'],
    'EXIF of a picture that the file holds, to come back on decode: none, all'
    ' but the place where it was taken, or all',
)
_RESTART = flags.DEFINE_bool(
    'restart', False, 'remove what --workdir has of another run, and begin anew'
)
_TENSORBOARD = flags.DEFINE_bool(
    'tensorboard', False, 'write event files for TensorBoard into --workdir'
)
_INIT_FROM = flags.DEFINE_string(
    'init_from',
    None,
    "splats to begin with: a .pgsvc file, another run's --workdir, or a folder"
    ' of either, by the names of the pictures',
)
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices',
    0,
    'devices to use (of each process), on CPU one a core; 0: all',
    lower_bound=0,
)
_PARALLEL = flags.DEFINE_enum(
    'parallel',
    'auto',
    ['auto', 'bands', 'batch'],
    'bands: one picture after the other, its rows shared by all devices; batch:'
    ' as many pictures of one size at a time as there are devices, fewer share'
    ' the devices evenly; auto: batch as long as there is a picture for every'
    ' device, bands for the rest',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of process 0, the same in all processes of a run on several'
    ' hosts: each runs this command, process 0 writes',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes',
    None,
    'with --coordinator, or of a video on one file system: how many',
    lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'which one of them this is', lower_bound=0
)
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'one of several processes, on a cluster that says which (Slurm, Open MPI,'
    ' TPU pods)',
)
flags.declare_key_flag('cache')
_VIDEO = video_source.Flags()
_IMPLEMENTATION = flags.DEFINE_string(
    'implementation',
    None,
    'of the operator (reference, xla, cpu), or several, tried in order:'
    ' cpu,xla; default: the best for the device',
)


_FOR_PICTURES = (
    _MAX_SECONDS,
    _SKIP_EXISTING,
    _INIT_FROM,
    _TENSORBOARD,
    _COORDINATOR,
    _DISTRIBUTED,
)


def main() -> None:
  """Reads, fits, writes, and says what became of it."""
  _check_suffix(_OUTPUT.value)
  if 'image' in _CONFIG.value:
    _encode_video(_config(config_lib.VideoConfig))
  else:
    _encode_pictures(_config(config_lib.EncodeConfig))


def _check_suffix(output: str) -> None:
  """Refuses names of pictures and videos: what is written is neither."""
  suffix = pathlib.Path(output).suffix.lower()
  if suffix in {*av_writer.ENCODINGS, *Image.registered_extensions()}:
    raise ValueError(
        f'{output}: encode writes .pgsvc files, and decode makes {suffix} of'
        ' them'
    )


def _config(cls: type) -> Any:
  """The settings, with those that have a flag of their own."""
  values = {
      'target_bpp': _TARGET_BPP.value,
      'target_kbps': _TARGET_KBPS.value,
      'target_psnr': _TARGET_PSNR.value,
      'max_seconds': _MAX_SECONDS.value,
      'layer_bpp': _rates(_LAYER_BPP.value),
  }
  values = {name: x for name, x in values.items() if x is not None}
  for name in set(values) - {field.name for field in dataclasses.fields(cls)}:
    is_video = cls is config_lib.VideoConfig
    hint = '; --target_kbps is for videos' if name == 'target_bpp' else ''
    raise ValueError(
        f'--{name} is for pictures{hint}'
        if is_video
        else f'--{name} is for videos, with --config=video'
    )
  config = config_lib.from_mapping(cls, _CONFIG.value)
  return dataclasses.replace(config, **values)


def _rates(texts: list[str] | None) -> tuple[float, ...] | None:
  try:
    return None if texts is None else tuple(map(float, texts))
  except ValueError:
    rates = ','.join(texts)
    raise ValueError(f'--layer_bpp={rates}: not all numbers') from None


def _encode_pictures(config: config_lib.EncodeConfig) -> None:
  """Encodes the picture, or every one of them."""
  begin = time.perf_counter()
  for name in _VIDEO.given():
    raise ValueError(f'--{name} is for videos, with --config=video')
  _check_process_flags(config)
  jobs = jobs_lib.list_jobs(
      _INPUT.value,
      _OUTPUT.value,
      _WORKDIR.value,
      color=_COLOR.value,
      metadata=_METADATA.value,
  )
  if _SKIP_EXISTING.value:
    jobs.skip_existing()
  alone = not (_DISTRIBUTED.value or _COORDINATOR.value)
  jobs.is_batch = jobs.is_batch and alone
  if alone:
    jobs_lib.check_outputs(jobs, _OUTPUT.value)
  # What is no picture need not wait for JAX, nor for the others.
  shapes = {}
  for job in jobs.jobs:
    with jobs.of(job):
      read = jobs_lib.read(job)
      shapes[job] = read.pixels.shape
      for note in read.notes:
        print(f'{job.picture}: {note}', file=sys.stderr)
  if not shapes:
    jobs.sum_up()
    return

  # Only now: --help, wrong settings and bad pictures need not wait for JAX.
  from . import runtime

  if not alone:
    command.leave_at_once_on_failure()
    runtime.join_processes(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  devices = runtime.set_up(_NUM_DEVICES.value, caches.KEEP.value)
  runtime.return_freed_memory()
  leads = runtime.is_leader()
  if leads and not alone:
    jobs_lib.check_outputs(jobs, _OUTPUT.value)
  # Pictures fitted at a time have as many splats, which a quality decides.
  parallel = 'bands' if config.target_psnr or not alone else _PARALLEL.value
  from .pictures import encoding

  run = encoding.Run(
      config=config,
      devices=devices,
      leads=leads,
      jobs=jobs,
      output=_OUTPUT.value,
      begin=begin,
      init_from=_INIT_FROM.value,
      implementation=_implementation(),
      asked_for=_asked_for(config),
      checkpoint_every=_CHECKPOINT_EVERY.value,
      restart=_RESTART.value,
      tensorboard=_TENSORBOARD.value,
  )
  groups = jobs_lib.group_jobs(shapes, len(devices), parallel)
  encoding.encode_all(run, groups)


def _check_process_flags(config: config_lib.EncodeConfig) -> None:
  """Refuses flags of several processes that do not go together."""
  values = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  several = _COORDINATOR.value or _DISTRIBUTED.value
  in_batch = _PARALLEL.value == 'batch'
  refused = {
      '--coordinator, --num_processes, --process_id: all or none': (
          None in values and values != (None, None, None)
      ),
      '--distributed finds the coordinator itself': (
          _COORDINATOR.value and _DISTRIBUTED.value
      ),
      '--process_id counts from 0': (
          None not in values and _PROCESS_ID.value >= _NUM_PROCESSES.value
      ),
      '--parallel=batch is for one process': in_batch and several,
      (
          '--parallel=batch: a target_psnr gives every picture its own number'
          ' of splats'
      ): in_batch
      and config.target_psnr,
      'max_seconds is for one process': config.max_seconds and several,
      '--restart and --tensorboard are for runs with --workdir': (
          (_RESTART.value or _TENSORBOARD.value) and not _WORKDIR.value
      ),
  }
  for message, is_so in refused.items():
    if is_so:
      raise ValueError(message)


def _encode_video(config: config_lib.VideoConfig) -> None:
  """Encodes the one video, or the folder of its frames."""
  if len(_INPUT.value) != 1:
    raise ValueError('one video at a time')
  command.refuse(_FOR_PICTURES, f'{_INPUT.value[0]} is a video', 'for pictures')
  if _METADATA.value != 'none':
    raise ValueError('--metadata is for pictures')
  options = _VIDEO.options()
  if _COLOR.value != 'srgb':
    options['color'] = _COLOR.value
  processes = _NUM_PROCESSES.value, _PROCESS_ID.value
  if None in processes and processes != (None, None):
    raise ValueError('--num_processes and --process_id: both or none')
  num_processes, process_id = processes if None not in processes else (1, 0)
  if process_id >= num_processes:
    raise ValueError('--process_id counts from 0')
  run = encode_video.Run(
      source=video_source.Source(path=_INPUT.value[0], options=options),
      output=_OUTPUT.value,
      config=config,
      asked_for=_asked_for(config),
      restart=_RESTART.value,
      workdir=pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None,
      num_processes=num_processes,
      process_id=process_id,
  )
  encode_video.encode(run, _NUM_DEVICES.value, caches.KEEP.value)


def _implementation() -> str | tuple[str, ...] | None:
  names = _IMPLEMENTATION.value
  return tuple(names.split(',')) if names and ',' in names else names


def _asked_for(
    config: config_lib.EncodeConfig | config_lib.VideoConfig,
) -> dict[str, Any]:
  """Of `run_log.Origin`, what the command line says."""
  flag = flags.FLAGS['config']
  return {
      'init_from': _INIT_FROM.value,
      'config': dataclasses.asdict(config),
      'config_file': config_flags.get_config_filename(flag),
      'overrides': config_flags.get_override_values(flag),
      'implementation': _implementation(),
  }


def _default_config(inputs: list[str]) -> str:
  if len(inputs) == 1 and not inputs[0].lower().endswith(inputs_lib.ANIMATIONS):
    # A cut video, or one where PyAV is missing, is refused as what it is.
    named = inputs[0].lower().endswith(video_media.SUFFIXES)
    if named or video_source.is_clip(inputs[0]):
      return 'video.py'
  return 'image.py'


if __name__ == '__main__':
  command.run(main, config=_default_config)
