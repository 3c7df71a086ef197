"""Fits pictures of one size at a time, and writes their files."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Any

import jax

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import encoder
from pgsvc_jax import memory
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import rate
from pgsvc_jax.training import loop
from pgsvc_jax.training import schedule

from .. import caches
from .. import checkpoints
from .. import command
from .. import locks
from .. import progress
from .. import run_log
from .. import runtime
from . import jobs as jobs_lib

# Of rates, and of dB; a file farther away says so.
_RATE_TOLERANCE = 0.05
_PSNR_TOLERANCE = 0.15
# Of --max_seconds, for what comes after the steps, and what else may happen: a
# share, for each pixel, and in all.
_SPARE_SHARE = 0.02
_PIXEL_SECONDS = 3e-6
_LAST_SECONDS = 0.3


@dataclasses.dataclass(kw_only=True)
class Run:
  """What all pictures of a run share.

  Attributes:
    config: the settings.
    devices: of all processes.
    leads: whether this process writes and says anything.
    jobs: what is to be done, and what became of it.
    output: the file, or the folder of several.
    begin: of the pictures that are fitted now; at first, of the run.
    init_from: splats to begin with, as --init_from says.
    implementation: of the operator; None takes the best.
    asked_for: what the command line says, of `run_log.Origin`.
    checkpoint_every: seconds.
    restart: do not go on with what is there of an earlier run.
    tensorboard: whether there are event files in the folders of the run.
  """

  config: config_lib.EncodeConfig
  devices: list[jax.Device]
  leads: bool
  jobs: jobs_lib.Jobs
  output: str
  begin: float
  init_from: str | None
  implementation: pallas_kernels.Implementation | None
  asked_for: dict[str, Any]
  checkpoint_every: float
  restart: bool
  tensorboard: bool


def encode_all(run: Run, groups: list[list[jobs_lib.Job]]) -> None:
  """Encodes group after group, and sums up.

  Raises:
    ValueError: some pictures failed.
    KeyboardInterrupt: with what is left, and how to go on.
  """
  held = locks.output(run.output) if run.leads else contextlib.nullcontext()
  try:
    with held:
      if run.leads and run.restart:
        for job in run.jobs.jobs:
          run_log.clear(job.workdir)
      for group in groups:
        encode(run, group)
        run.begin = time.perf_counter()
  except KeyboardInterrupt:
    raise KeyboardInterrupt(_how_to_go_on(run.jobs)) from None
  if run.leads:
    run.jobs.sum_up()


def _how_to_go_on(jobs: jobs_lib.Jobs) -> str:
  if jobs.jobs[0].workdir:
    return 'the same command goes on after the last checkpoint'
  if jobs.is_batch:
    count = len(jobs.sizes)
    return f'{count} files are written; --skip_existing does the others'
  return 'nothing was written; with --workdir=FOLDER, a run resumes'


def encode(run: Run, jobs: list[jobs_lib.Job]) -> None:
  """Fits pictures of one size at the same time, and writes their files."""
  try:
    files, first_step = _fit(run, jobs)
  except command.USER_ERRORS as error:
    if len(jobs) == 1:
      run.jobs.note(jobs[0], error)
      return
    # One picture may be the reason: the others get their files.
    command.complain(f'{command.explain(error)}; now one by one')
    for job in jobs:
      encode(run, [job])
    return
  if run.leads:
    for job, data in zip(jobs, files):
      with run.jobs.of(job):
        _write(run, job, data, first_step)


def _fit(run: Run, jobs: list[jobs_lib.Job]) -> tuple[list[bytes], float]:
  """Returns the files, and when the first steps were done."""
  pictures = [jobs_lib.read(job) for job in jobs]
  images = [picture.pixels for picture in pictures]
  here = [x for x in run.devices if x.process_index == jax.process_index()]
  with command.about(jobs[0].picture):
    line = runtime.require_memory(_estimate(run, images, len(here)), here)
  if run.leads:
    print(line, file=sys.stderr)
    runtime.prepare_kernels(run.devices, images[0].shape[2], run.implementation)
  initial = None
  if run.init_from:
    stems = [pathlib.Path(job.picture).stem for job in jobs]
    initial = [checkpoints.read_initial(run.init_from, x) for x in stems]
  has_folders = jobs[0].workdir is not None
  title = pathlib.Path(jobs[0].picture).name
  if len(jobs) > 1:
    title += f' and {len(jobs) - 1} more'
  first_step = 0.0

  with contextlib.ExitStack() as stack:
    logs = []
    if run.leads and has_folders:
      for i, job in enumerate(jobs):
        start = initial[i] if initial else None
        origin = run_log.Origin(
            source=job.picture,
            digest=run_log.digest(images[i], start),
            devices=run.devices,
            **run.asked_for,
        )
        log = run_log.open_log(job.workdir, origin, run.tensorboard)
        logs.append(stack.enter_context(log))
    saver = stack.enter_context(
        checkpoints.Saver(
            logs, dataclasses.asdict(run.config), run.checkpoint_every
        )
    )
    show = None
    if run.leads:
      show = stack.enter_context(progress.reporter(title))

    def report(states: list[loop.Progress]) -> None:
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
      files = encoder.encode_pictures(
          images,
          run.config,
          metadata=[picture.metadata for picture in pictures],
          devices=run.devices,
          implementation=run.implementation,
          report=report,
          initial=initial,
          deadline=deadline,
          checkpointer=saver if has_folders else None,
      )
    except loop.DivergenceError as error:
      rest = saver.last_good()
      raise type(error)('; '.join(filter(None, [str(error), rest]))) from error
  return files, first_step


def _estimate(run: Run, images: list, num_devices: int) -> memory.Estimate:
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
      implementation=run.implementation,
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
    run: Run,
    job: jobs_lib.Job,
    data: bytes,
    first_step: float,
) -> None:
  """Writes a file and says what it holds."""
  pixels = jobs_lib.read(job).pixels
  header = bitstream.read_header(data)
  # Of the bytes, not of the fit: what anyone who decodes them will see.
  images = render.render_levels(bitstream.read_layers(data))
  levels = [
      metrics.psnr_db(x, resolution.downsample(pixels, *x.shape[:2]))
      for x in images
  ]
  pathlib.Path(job.file).parent.mkdir(exist_ok=True)
  command.write_bytes(job.file, data)
  if job.workdir:
    run_log.note_finished(job.workdir, job.file, levels)
  run.jobs.sizes.append((len(data), header.bits_per_pixel[-1]))
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
