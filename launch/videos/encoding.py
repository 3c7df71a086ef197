"""Encodes a video: groups of pictures, one a device at a time.

Groups need nothing from one another, so the file is the same however many
devices and processes there are (`workers.py`). It grows group by group under
another name, OUTPUT.part, which any decoder plays; the same command goes on
after its last whole group. Processes leave theirs in OUTPUT.parts.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Any

from pgsvc_jax import config as config_lib
from pgsvc_jax import pipes
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.training import schedule

from .. import command
from . import progress
from . import source as video_source
from . import workers as workers_lib

# Of a rate; a file farther away says so.
_RATE_TOLERANCE = 0.05


def encode(
    source: video_source.Source,
    output: str,
    config: config_lib.VideoConfig,
    *,
    num_devices: int,
    use_cache: bool,
    asked_for: Mapping[str, Any],
    restart: bool,
    workdir: pathlib.Path | None,
    share: workers_lib.Share,
) -> None:
  """Encodes a video and says what became of it.

  Args:
    source: the video.
    output: the .pgsvc file to write.
    config: the settings.
    num_devices: to use; 0: all.
    use_cache: whether compiled code is kept between runs.
    asked_for: of `run_log.Origin`, what the command line says.
    restart: do not go on with what is there of an earlier run.
    workdir: for the files of `run_log`, if any.
    share: of the groups that this process takes.
  """
  begin = time.perf_counter()
  command.check_output(output)
  with source.open() as video:
    notes, form = video.notes, video.format
  _say_notes(source, notes)
  sizes, shapes = schedule.finished_layers(
      config.image.fit, form.height, form.width
  )
  header = syntax.VideoHeader(
      width=form.width,
      height=form.height,
      channels=3,
      num_layers=len(sizes),
      layer_shapes=shapes,
      time_base=form.time_base,
      frame_rate=form.frame_rate,
      pixel_aspect=form.pixel_aspect,
      primaries=form.primaries,
      transfer=form.transfer,
      matrix=form.matrix,
      full_range=form.full_range,
      metadata=_metadata(source, config),
  )

  # Only now: --help, wrong settings and bad videos need not wait for JAX.
  from .. import run_log
  from .. import runtime

  devices = runtime.set_up(num_devices, use_cache)
  runtime.return_freed_memory()
  # Not when threads are done with their frames: a first one takes minutes.
  command.leave_at_once_on_failure()
  workers = workers_lib.Workers(
      source, config, form, devices, asked_for['implementation']
  )
  shown = progress.Progress(pathlib.Path(source.path).name, begin)
  with workers, _interruptible(shown):
    if share.process_id:
      _encode_share(workers, share, header, output, shown)
      return
    part = pathlib.Path(f'{output}.part')
    if workdir and restart:
      run_log.clear(workdir)
    origin = run_log.Origin(
        source=source.path,
        digest=_source_digest(source),
        devices=devices,
        packages=_packages(),
        any_devices=True,
        **asked_for,
    )
    with run_log.open_log(workdir, origin, tensorboard=False) as log:
      with _growing(part, header, restart) as writer:
        done = writer.num_frames
        if done:
          print(
              f'{part}: goes on after {done} frames in {writer.num_gops}'
              ' groups',
              file=sys.stderr,
          )
        rows = log.resume(done - 1, unit='frame')
        shown.done = done
        found = workers.find(writer.num_gops, done)
        encoded = workers.encode(found, shown, share, _parts_of(output), header)
        for group, packets, frames in encoded:
          # Rows first: those of a group that is not in the file are dropped.
          log.append_rows(frames)
          writer.add_gop(
              group.times, packets, last_duration=group.last_duration
          )
          rows += frames
      os.replace(part, output)
      if workdir:
        run_log.note_finished(workdir, output, progress.mean_levels(rows))
  shutil.rmtree(_parts_of(output), ignore_errors=True)
  _say_notes(source, [note for note in workers.notes if note not in notes])
  _say(output, shown, begin, config.target_kbps)


def _say_notes(source: video_source.Source, notes: Iterable[str]) -> None:
  for note in notes:
    print(f'{source.path}: {note}', file=sys.stderr)


@contextlib.contextmanager
def _interruptible(shown: progress.Progress) -> Iterator[None]:
  """Ends the line of the progress, and says what an interrupted run leaves."""
  try:
    yield
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
        'the same command goes on after the last whole group'
    ) from None
  finally:
    shown.end()


def _parts_of(output: str) -> pathlib.Path:
  """Where processes leave groups for process 0."""
  return pathlib.Path(f'{output}.parts')


def _encode_share(
    workers: workers_lib.Workers,
    share: workers_lib.Share,
    header: syntax.VideoHeader,
    output: str,
    shown: progress.Progress,
) -> None:
  """Encodes the groups of a process that is not process 0."""
  folder = _parts_of(output)
  folder.mkdir(exist_ok=True)
  found = workers.find(0, 0)
  for group, packets, _ in workers.encode(found, shown, share, folder, header):
    if not folder.is_dir():  # Process 0 has not waited.
      return
    with command.replacing(str(folder / f'{group.index}.pgsvc')) as file:
      with stream.StreamWriter(file, header) as writer:
        writer.add_gop(group.times, packets, last_duration=group.last_duration)


def _packages() -> dict[str, str]:
  """Versions of what reads videos and finds motion."""
  import cv2

  versions = {'opencv': cv2.__version__}
  if importlib.util.find_spec('av'):  # A folder of frames goes without.
    versions['av'] = importlib.metadata.version('av')
  return versions


def _digest(*parts: Any) -> str:
  text = json.dumps(parts, default=str)
  return hashlib.sha256(text.encode()).hexdigest()


def _source_digest(source: video_source.Source) -> str:
  """Says whether it is the same source; reading all of it would take long."""
  stat = os.stat(pipes.seekable(source.path))
  return _digest(
      os.path.abspath(source.path),
      stat.st_size,
      stat.st_mtime_ns,
      sorted(source.options.items(), key=str),
  )


def _metadata(
    source: video_source.Source, config: config_lib.VideoConfig
) -> bytes:
  """What a run must have in common with one that it goes on with."""
  digest = _digest(_source_digest(source), dataclasses.asdict(config))
  return json.dumps({'run': digest[:16]}).encode()


@contextlib.contextmanager
def _growing(
    part: pathlib.Path, header: syntax.VideoHeader, restart: bool
) -> Iterator[stream.StreamWriter]:
  """The file that is written group by group, or goes on being written."""
  writer = None
  # Empty: stopped before anything was written.
  if part.exists() and part.stat().st_size and not restart:
    with open(part, 'r+b') as file:
      with contextlib.suppress(bitstream.BitstreamError):
        writer = stream.StreamWriter.resume(file)
      if writer is not None and writer.header == header:
        with writer:
          yield writer
        return
    raise ValueError(
        f'{part} is of a run with other settings: --restart begins anew'
    )
  with open(part, 'wb') as file:
    with stream.StreamWriter(file, header) as writer:
      yield writer


def _say(
    output: str, shown: progress.Progress, begin: float, target_kbps: float
) -> None:
  with open(output, 'rb') as file:
    reader = stream.StreamReader(file)
    gops = reader.gops
    seconds = float((gops[-1].end - gops[0].start) * reader.header.time_base)
  size = os.path.getsize(output)
  spent = time.perf_counter() - begin
  kbps = 8e-3 * size / max(seconds, 1e-9)
  if target_kbps and abs(kbps / target_kbps - 1) > _RATE_TOLERANCE:
    print(
        f'{output}: {kbps:.4g} kbit/s is as near as it comes to'
        f' {target_kbps:g}',
        file=sys.stderr,
    )
  line = (
      f'{output}: {size} bytes, {sum(x.num_frames for x in gops)} frames in'
      f' {len(gops)} groups, {kbps:.4g} kbit/s'
  )
  if shown.rows:
    line += (
        f'; decoded {shown.levels()} dB; {spent / len(shown.rows):.2f} s a'
        f' frame, all in {spent:.1f} s'
    )
  print(line, file=sys.stderr)
