"""Fits layered splats to pictures and writes one .pgsvc file each.

python -m launch.encode --input=PICTURE --output=FILE.pgsvc \
    [--config=configs/image.py:medium] [--config.fit.num_steps=2000]
python -m launch.encode --input=FOLDER --output=FOLDER

With a folder, or --input given several times, every picture becomes
OUTPUT/NAME.pgsvc; one that fails is reported, the others are still written.

With --workdir, a run that was ended, however it was, goes on where its last
checkpoint is when the same command is given again (docs/running.md).
"""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import media
from pgsvc_jax import memory
from pgsvc_jax import quantize
from pgsvc_jax import rate
from pgsvc_jax import resolution
from pgsvc_jax import schedule
from pgsvc_jax import types

from . import caches
from . import command
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
    'of the operator (reference, xla, cpu); '
    'default: the best for the device',
)

# Of rates, and of dB; a file farther away says so.
_RATE_TOLERANCE = 0.05
_PSNR_TOLERANCE = 0.15
# Of --max_seconds, for what comes after the steps, and what else may happen: a
# share, for each pixel, and in all.
_SPARE_SHARE = 0.02
_PIXEL_SECONDS = 3e-6
_LAST_SECONDS = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
  """One picture and the file it becomes.

  Attributes:
    picture: path.
    file: path.
    workdir: for the records of the run, if any.
  """

  picture: str
  file: str
  workdir: pathlib.Path | None


@dataclasses.dataclass
class _Run:
  """What all pictures of a run share.

  Attributes:
    config: the settings.
    devices: of all processes.
    leads: whether this process writes and says anything.
    failures: of pictures, so far.
    begin: of the pictures that are fitted now; at first, of the run.
  """

  config: config_lib.EncodeConfig
  devices: list
  leads: bool
  failures: '_Failures'
  begin: float


def main() -> None:
  """Reads, fits, writes, and says what each layer holds."""
  if 'image' in _CONFIG.value:
    _encode_video()
    return
  rate_flag = [_TARGET_KBPS.name] if _TARGET_KBPS.value is not None else []
  for name in _VIDEO.given() + rate_flag:
    raise ValueError(f'--{name} is for videos, with --config=configs/video.py')
  begin = time.perf_counter()
  config = config_lib.from_mapping(config_lib.EncodeConfig, _CONFIG.value)
  config = dataclasses.replace(config, **_rate_flags())
  _check_process_flags(config)
  if (_RESTART.value or _TENSORBOARD.value) and not _WORKDIR.value:
    raise ValueError('--restart and --tensorboard are for runs with --workdir')
  jobs = _list_jobs(_INPUT.value, _OUTPUT.value, _WORKDIR.value)
  alone = not (_DISTRIBUTED.value or _COORDINATOR.value)
  if alone:
    _check_outputs(jobs)
  # What is no picture need not wait for JAX, nor for the others.
  shapes = {}
  failures = _Failures(fatal=len(jobs) == 1 or not alone)
  for job in jobs:
    with failures.of(job):
      read = _read(job.picture)
      shapes[job] = read.pixels.shape
      for note in read.notes:
        print(f'{job.picture}: {note}', file=sys.stderr)

  # Only now: --help, wrong settings and bad pictures need not wait for JAX.
  from . import runtime

  caches.announce()
  if not alone:
    command.leave_at_once_on_failure()
    runtime.join_processes(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  devices = runtime.set_up(_NUM_DEVICES.value, caches.KEEP.value)
  runtime.return_freed_memory()
  leads = runtime.is_leader()
  if leads and not alone:
    _check_outputs(jobs)
  # Pictures fitted at a time have as many splats, which a quality decides.
  parallel = 'bands' if config.target_psnr else _PARALLEL.value
  parallel = parallel if alone else 'bands'
  if leads and _RESTART.value:
    from . import run_log

    for job in jobs:
      run_log.clear(job.workdir)
  run = _Run(config, devices, leads, failures, begin)
  for group in _group_jobs(shapes, len(devices), parallel):
    _encode(run, group)
    run.begin = time.perf_counter()
  if failures.count:
    raise ValueError(f'{failures.count} of {len(jobs)} pictures failed')


def _encode_video() -> None:
  """Encodes the one video, or the folder of its frames."""
  config = config_lib.from_mapping(config_lib.VideoConfig, _CONFIG.value)
  if _TARGET_KBPS.value is not None:
    config = dataclasses.replace(config, target_kbps=_TARGET_KBPS.value)
  if len(_INPUT.value) != 1:
    raise ValueError('one video at a time')
  share = encode_video.Share()
  if (_NUM_PROCESSES.value, _PROCESS_ID.value) != (None, None):
    if None in (_NUM_PROCESSES.value, _PROCESS_ID.value):
      raise ValueError('--num_processes and --process_id: both or none')
    if _PROCESS_ID.value >= _NUM_PROCESSES.value:
      raise ValueError('--process_id counts from 0')
    share = encode_video.Share(
        num_processes=_NUM_PROCESSES.value, process_id=_PROCESS_ID.value
    )
  for flag in (
      _TARGET_BPP,
      _TARGET_PSNR,
      _LAYER_BPP,
      _MAX_SECONDS,
      _INIT_FROM,
      _TENSORBOARD,
      _COORDINATOR,
      _DISTRIBUTED,
  ):
    if flag.value:
      instead = '; --target_kbps is for videos' * (flag is _TARGET_BPP)
      raise ValueError(f'--{flag.name} is for pictures{instead}')
  encode_video.encode(
      video_source.Source(path=_INPUT.value[0], options=_VIDEO.options()),
      _OUTPUT.value,
      config,
      num_devices=_NUM_DEVICES.value,
      use_cache=caches.KEEP.value,
      asked_for=_asked_for(config),
      restart=_RESTART.value,
      workdir=pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None,
      share=share,
  )


def _rate_flags() -> dict[str, Any]:
  """The settings that have a flag of their own, where it is given."""
  values = {
      'target_bpp': _TARGET_BPP.value,
      'target_psnr': _TARGET_PSNR.value,
      'max_seconds': _MAX_SECONDS.value,
  }
  if _LAYER_BPP.value is not None:
    try:
      values['layer_bpp'] = tuple(map(float, _LAYER_BPP.value))
    except ValueError:
      rates = ','.join(_LAYER_BPP.value)
      raise ValueError(f'--layer_bpp={rates}: not all numbers') from None
  return {name: x for name, x in values.items() if x is not None}


def _check_process_flags(config: config_lib.EncodeConfig) -> None:
  values = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if None in values and values != (None, None, None):
    raise ValueError(
        '--coordinator, --num_processes, --process_id: all or none'
    )
  if _COORDINATOR.value:
    if _DISTRIBUTED.value:
      raise ValueError('--distributed finds the coordinator itself')
    if _PROCESS_ID.value >= _NUM_PROCESSES.value:
      raise ValueError('--process_id counts from 0')
  several = _COORDINATOR.value or _DISTRIBUTED.value
  if _PARALLEL.value == 'batch' and several:
    raise ValueError('--parallel=batch is for one process')
  if _PARALLEL.value == 'batch' and config.target_psnr:
    raise ValueError(
        '--parallel=batch: a target_psnr gives every picture its'
        ' own number of splats'
    )
  if config.max_seconds and several:
    raise ValueError('max_seconds is for one process')


def _list_jobs(
    inputs: Sequence[str], output: str, workdir: str | None
) -> list[_Job]:
  """What becomes what; folders stand for the files in them, without hidden."""
  pictures = []
  for name in inputs:
    path = pathlib.Path(name)
    if path.is_dir():
      pictures += sorted(
          str(file)
          for file in path.iterdir()
          if file.is_file() and not file.name.startswith('.')
      )
    else:
      pictures.append(name)
  if inputs == pictures and len(pictures) == 1:
    folder = pathlib.Path(workdir) if workdir else None
    return [_Job(picture=pictures[0], file=output, workdir=folder)]
  if not pictures:
    raise ValueError(f'no pictures in {", ".join(inputs)}')
  jobs = []
  for picture in pictures:
    stem = pathlib.Path(picture).stem
    jobs.append(
        _Job(
            picture=picture,
            file=str(pathlib.Path(output) / f'{stem}.pgsvc'),
            workdir=pathlib.Path(workdir) / stem if workdir else None,
        )
    )
  ((file, times),) = collections.Counter(x.file for x in jobs).most_common(1)
  if times > 1:
    raise ValueError(f'{times} pictures would become {file}')
  return jobs


def _check_outputs(jobs: list[_Job]) -> None:
  """Refuses what cannot be written, before long work is done for it."""
  folder = pathlib.Path(_OUTPUT.value)
  if jobs[0].file == _OUTPUT.value or folder.is_dir():
    for job in jobs:
      command.check_output(job.file)
  elif folder.exists():
    raise OSError(f'cannot write into {folder}: it is no folder')
  else:
    command.check_output(_OUTPUT.value)


# A single picture is read once; of many, none is kept until its turn.
@functools.lru_cache(maxsize=1)
def _read(picture: str) -> media.Picture:
  return media.read_picture(picture)


def _group_jobs(
    shapes: dict[_Job, tuple[int, ...]], num_devices: int, parallel: str
) -> list[list[_Job]]:
  """Which pictures are fitted at a time, as --parallel says."""
  by_shape = collections.defaultdict(list)
  for job, shape in shapes.items():
    by_shape[shape].append(job)
  groups = []
  for same in by_shape.values():
    for first in range(0, len(same), num_devices):
      group = same[first : first + num_devices]
      together = parallel == 'batch' or (
          parallel == 'auto' and len(group) == num_devices
      )
      groups += [group] if together else [[job] for job in group]
  return groups


class _Failures:
  """Pictures that could not be encoded: counted and said, or raised."""

  def __init__(self, fatal: bool):
    self.count = 0
    self._fatal = fatal

  def note(self, job: _Job, error: Exception) -> None:
    """To be called where the error is handled."""
    if self._fatal:
      raise error
    self.count += 1
    message = command.explain(error)
    named = job.picture in message or job.file in message
    command.complain(message if named else f'{job.picture}: {message}')

  @contextlib.contextmanager
  def of(self, job: _Job) -> Iterator[None]:
    """Notes what goes wrong in the block."""
    try:
      yield
    except command.USER_ERRORS as error:
      self.note(job, error)


def _encode(run: _Run, jobs: list[_Job]) -> None:
  """Fits pictures of one size at the same time, and writes their files."""
  try:
    fitted, first_step = _fit(run, jobs)
  except command.USER_ERRORS as error:
    if len(jobs) == 1:
      run.failures.note(jobs[0], error)
      return
    # One picture may be the reason: the others get their files.
    command.complain(f'{command.explain(error)}; now one by one')
    for job in jobs:
      _encode(run, [job])
    return
  if run.leads:
    for job, (layered, steps) in zip(jobs, fitted):
      with run.failures.of(job):
        _write(run, job, layered, steps, first_step)


def _fit(
    run: _Run, jobs: list[_Job]
) -> tuple[list[tuple[types.LayeredSplats, Any]], float]:
  """Returns what to write, and when the first steps were done."""
  import jax

  from pgsvc_jax import encoder
  from pgsvc_jax import fit

  from . import checkpoints
  from . import progress
  from . import run_log
  from . import runtime

  images = [_read(job.picture).pixels for job in jobs]
  here = [x for x in run.devices if x.process_index == jax.process_index()]
  with command.about(jobs[0].picture):
    line = runtime.require_memory(_estimate(run, images, len(here)), here)
  if run.leads:
    print(line, file=sys.stderr)
  initial = [_read_initial(job) for job in jobs] if _INIT_FROM.value else None
  title = pathlib.Path(jobs[0].picture).name
  if len(jobs) > 1:
    title += f' and {len(jobs) - 1} more'
  first_step = 0.0

  with contextlib.ExitStack() as stack:
    logs = []
    if run.leads and _WORKDIR.value:
      for i, job in enumerate(jobs):
        origin = _origin(run, job, images[i], initial and initial[i])
        log = run_log.open_log(job.workdir, origin, _TENSORBOARD.value)
        logs.append(stack.enter_context(log))
    saver = stack.enter_context(
        checkpoints.Saver(
            logs, dataclasses.asdict(run.config), _CHECKPOINT_EVERY.value
        )
    )
    show = None
    if run.leads:
      show = stack.enter_context(progress.reporter(title))

    def report(states: list[fit.Progress]) -> None:
      nonlocal first_step
      first_step = first_step or time.perf_counter()
      if show:
        show(_mean(states))
      for log, state in zip(logs, states):
        log.append(state)

    deadline = None
    if run.config.max_seconds:
      pixels = sum(image[..., 0].size for image in images)
      seconds = run.config.max_seconds * (1 - _SPARE_SHARE)
      seconds -= _PIXEL_SECONDS * pixels + _LAST_SECONDS
      deadline = run.begin + seconds
    # A transfer that nobody asked for would stop the devices at every step.
    stack.enter_context(jax.transfer_guard('disallow'))
    try:
      fitted = encoder.fit_for_files(
          images,
          run.config,
          devices=run.devices,
          implementation=_IMPLEMENTATION.value,
          report=report,
          initial=initial,
          deadline=deadline,
          checkpointer=saver if _WORKDIR.value else None,
      )
    except fit.DivergenceError as error:
      rest = saver.last_good()
      raise type(error)('; '.join(filter(None, [str(error), rest]))) from error
  return fitted, first_step


def _read_initial(job: _Job) -> types.LayeredSplats:
  from . import checkpoints

  stem = pathlib.Path(job.picture).stem
  return checkpoints.read_initial(_INIT_FROM.value, stem)


def _origin(run: _Run, job: _Job, image, initial: types.LayeredSplats | None):
  """What the run of one picture is started with."""
  from . import run_log

  return run_log.Origin(
      source=job.picture,
      digest=run_log.digest(image, initial),
      devices=run.devices,
      **_asked_for(run.config),
  )


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
      'implementation': _IMPLEMENTATION.value,
  }


def _estimate(run: _Run, images: list, num_devices: int) -> memory.Estimate:
  """The memory of this process while it fits these pictures."""
  height, width, channels = images[0].shape
  sizes = rate.layer_splats(run.config, images[0])
  sizes = sizes or schedule.layer_sizes(run.config.fit, height, width)
  return memory.estimate_fit(
      height,
      width,
      channels,
      sizes,
      num_devices=num_devices,
      num_pictures=len(images),
      platform=run.devices[0].platform,
      implementation=_IMPLEMENTATION.value,
      compiles=caches.is_empty(),
      layer_scales=run.config.fit.layer_scales,
  )


def _mean(states: list) -> Any:
  """The progress of several pictures as one: means over the pictures."""
  levels = zip(*(state.psnr_db for state in states))
  return dataclasses.replace(
      states[0],
      loss=statistics.fmean(state.loss for state in states),
      psnr_db=tuple(statistics.fmean(level) for level in levels),
  )


def _write(
    run: _Run,
    job: _Job,
    layered: types.LayeredSplats,
    step_sizes: quantize.StepSizes | tuple[quantize.StepSizes, ...],
    first_step: float,
) -> None:
  """Writes a file and says what it holds."""
  from pgsvc_jax import metrics
  from pgsvc_jax import render

  pixels = _read(job.picture).pixels
  data = bitstream.write(layered, step_sizes)
  header = bitstream.read_header(data)
  # Of the bytes, not of the fit: what anyone who decodes them will see.
  images = render.render_levels(bitstream.read_layers(data))
  levels = [
      metrics.psnr_db(x, resolution.downsample(pixels, *x.shape[:2]))
      for x in images
  ]
  if job.file != _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).mkdir(exist_ok=True)
  command.write_bytes(job.file, data)
  if job.workdir:
    from . import run_log

    run_log.note_finished(job.workdir, job.file, levels)
  seconds = time.perf_counter() - run.begin
  for miss in _misses(run.config, header.bits_per_pixel, levels[-1], seconds):
    print(f'{job.file}: {miss}', file=sys.stderr)
  since = ''
  if first_step:
    since = f' first steps after {first_step - run.begin:.1f} s,'
  print(
      f'{job.file}: {len(data)} bytes, layers end at'
      f' {", ".join(map(str, header.truncation_points))};'
      f' {header.bits_per_pixel[-1]:.3f} bpp; decoded'
      f' {" / ".join(f"{x:.2f}" for x in levels)} dB;{since}'
      f' all in {seconds:.1f} s',
      file=sys.stderr,
  )


def _misses(
    config: config_lib.EncodeConfig,
    bits_per_pixel: Sequence[float],
    psnr_db: float,
    seconds: float,
) -> Iterator[str]:
  """What was asked for and not reached, a line each."""
  targets = config.layer_bpp or (config.target_bpp,)
  # Of one target, that is the whole file.
  for layer, target in enumerate(targets, len(bits_per_pixel) - len(targets)):
    reached = bits_per_pixel[layer]
    if target and abs(reached / target - 1) > _RATE_TOLERANCE:
      yield f'{reached:.3f} bpp is as near as it comes to {target:g}'
  if config.target_psnr and abs(psnr_db - config.target_psnr) > _PSNR_TOLERANCE:
    more = ''
    if psnr_db < config.target_psnr:
      more = '; more splats (--config.fit.layer_splats) or steps may do'
    yield (
        f'{psnr_db:.2f} dB is as near as this fit comes to'
        f' {config.target_psnr:g}{more}'
    )
  if config.max_seconds and seconds > config.max_seconds:
    yield f'took {seconds:.1f} s, more than {config.max_seconds:g}'


def _default_config(inputs: list[str]) -> str:
  # Of an animation, a picture is the first frame.
  animations = ('.gif', '.png', '.apng', '.webp')
  if len(inputs) == 1 and not inputs[0].lower().endswith(animations):
    if video_source.is_video(inputs[0]):
      return 'video.py'
  return 'image.py'


if __name__ == '__main__':
  command.run(main, config=_default_config)
