"""Encodes a video into a file that grows, and goes on with it.

It grows group by group under another name, OUTPUT.part, which any decoder
plays; the same command goes on after its last whole group. Processes leave
theirs in OUTPUT.parts.
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
from typing import Any, BinaryIO

from pgsvc_jax import config as config_lib
from pgsvc_jax import pipes
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax

from .. import command
from .. import locks
from . import progress
from . import source as video_source

# Of a rate; a file farther away says so.
_RATE_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What the command line asks for.

  Attributes:
    source: the video.
    output: the .pgsvc file to write.
    config: the settings.
    asked_for: of `run_log.Origin`, what the command line says.
    restart: do not go on with what is there of an earlier run.
    workdir: for the files of `run_log`, if any.
    num_processes: that share the groups.
    process_id: which one this is.
  """

  source: video_source.Source
  output: str
  config: config_lib.VideoConfig
  asked_for: Mapping[str, Any]
  restart: bool
  workdir: pathlib.Path | None
  num_processes: int
  process_id: int


def encode(run: Run, num_devices: int, use_cache: bool) -> None:
  """Encodes a video and says what became of it.

  Args:
    run: what is asked for.
    num_devices: to use; 0: all.
    use_cache: whether compiled code is kept between runs.
  """
  begin = time.perf_counter()
  command.check_output(run.output)
  _ = run.source.format  # What cannot be read need not wait for JAX.
  notes = run.source.notes
  _say_notes(run.source, notes)

  # Only now: --help, wrong settings and bad videos need not wait for JAX.
  from .. import runtime

  devices = runtime.set_up(num_devices, use_cache)
  runtime.return_freed_memory()
  runtime.prepare_kernels(devices, 3, run.asked_for['implementation'])
  # Not when threads are done with their frames: a first one takes minutes.
  command.leave_at_once_on_failure()
  title = pathlib.Path(run.source.path).name
  total = run.source.expected_frames() if run.num_processes == 1 else None
  shown = progress.FrameProgress(title, begin, total)
  parts = pathlib.Path(f'{run.output}.parts')
  with _interruptible(shown):
    if run.process_id:
      parts.mkdir(exist_ok=True)
      _encode_to(run, None, devices, parts, lambda event: _show(event, shown))
      return
    with locks.output(run.output):
      _encode_and_log(run, devices, parts, shown)
  shutil.rmtree(parts, ignore_errors=True)
  _say_notes(run.source, [x for x in run.source.notes if x not in notes])
  _say(run, shown, begin)


def _say_notes(source: video_source.Source, notes: Iterable[str]) -> None:
  for note in notes:
    print(f'{source.path}: {note}', file=sys.stderr)


def _encode_to(
    run: Run, file: BinaryIO | None, devices: list, parts: pathlib.Path, report
) -> None:
  """Encodes the groups of this process."""
  from pgsvc_jax.video import encoder
  from pgsvc_jax.video import workers

  encoder.encode_to(
      file,
      run.source,
      run.config,
      metadata=_metadata(run),
      devices=devices,
      implementation=run.asked_for['implementation'],
      report=report,
      share=workers.Share(
          num_processes=run.num_processes,
          process_id=run.process_id,
          folder=parts,
      ),
  )


def _encode_and_log(
    run: Run, devices: list, parts: pathlib.Path, shown: progress.FrameProgress
) -> None:
  """Encodes into OUTPUT.part, keeps the log of the run, and renames."""
  from pgsvc_jax.video import encoder
  from pgsvc_jax.video import workers

  from .. import run_log

  if run.restart:
    run_log.clear(run.workdir)
  origin = run_log.Origin(
      source=run.source.path,
      digest=_source_digest(run.source),
      devices=devices,
      packages=_packages(),
      any_devices=True,
      **run.asked_for,
  )
  part = pathlib.Path(f'{run.output}.part')
  header = encoder.make_header(run.source, run.config, _metadata(run))
  with (
      run_log.open_log(run.workdir, origin, tensorboard=False) as log,
      _growing(part, header, run.restart) as (file, done),
  ):
    if done:
      print(f'{part}: goes on after {done} frames', file=sys.stderr)
    rows = log.resume(done - 1, unit='frame')
    shown.done = done

    def report(event) -> None:
      _show(event, shown)
      if isinstance(event, workers.GroupDone):
        # Rows first: those of a group that is not in the file are dropped.
        log.append_rows(new := list(map(_row, event.frames)))
        rows.extend(new)

    _encode_to(run, file, devices, parts, report)
  os.replace(part, run.output)
  if run.workdir:
    run_log.note_finished(run.workdir, run.output, progress.mean_levels(rows))


def _show(event: Any, shown: progress.FrameProgress) -> None:
  from pgsvc_jax.video import workers

  if isinstance(event, workers.FrameDone):
    shown.add(_row(event))


def _row(event: Any) -> dict[str, Any]:
  """A line of metrics.jsonl, of a frame that is done."""
  return {
      'frame': event.frame,
      'kind': 'P' if event.index else 'I',
      'bytes': list(event.sizes),
      'psnr_db': list(event.psnr_db),
      'born': event.born,
      'still': event.still,
      'frame_seconds': event.seconds,
  }


@contextlib.contextmanager
def _interruptible(shown: progress.FrameProgress) -> Iterator[None]:
  """Ends the line of the progress, and says what an interrupted run leaves."""
  try:
    yield
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
        'the same command goes on after the last whole group'
    ) from None
  finally:
    shown.end()


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


def _metadata(run: Run) -> bytes:
  """What a run must have in common with one that it goes on with."""
  digest = _digest(_source_digest(run.source), dataclasses.asdict(run.config))
  return json.dumps({'run': digest[:16]}).encode()


@contextlib.contextmanager
def _growing(
    part: pathlib.Path, header: syntax.VideoHeader, restart: bool
) -> Iterator[tuple[BinaryIO, int]]:
  """The file that is written group by group, and the frames that it has.

  One of another run, with another video or other settings, is replaced.
  """
  done = None
  # Empty: stopped before anything was written.
  if part.exists() and part.stat().st_size and not restart:
    done = _frames_done(part, header)
    if done is None:
      print(
          f'{part} is of another video or of other settings: it is replaced',
          file=sys.stderr,
      )
  with open(part, 'w+b' if done is None else 'r+b') as file:
    yield file, done or 0


def _frames_done(part: pathlib.Path, header: syntax.VideoHeader) -> int | None:
  """Frames of the whole groups of a file; None if it has another header."""
  done = 0
  with open(part, 'rb') as file, contextlib.suppress(syntax.BitstreamError):
    reader = stream.StreamReader(file)
    if reader.header == header:
      with contextlib.suppress(syntax.BitstreamError):
        for gop in reader:
          reader.packets(gop.index, header.num_layers)
          done += gop.num_frames
      return done
  return None


def _say(run: Run, shown: progress.FrameProgress, begin: float) -> None:
  """Says what was written, and how far it is from what was asked for."""
  with open(run.output, 'rb') as file:
    reader = stream.StreamReader(file)
    gops = reader.gops
    seconds = float((gops[-1].end - gops[0].start) * reader.header.time_base)
  size = os.path.getsize(run.output)
  spent = time.perf_counter() - begin
  kbps = 8e-3 * size / max(seconds, 1e-9)
  target = run.config.target_kbps
  if target and abs(kbps / target - 1) > _RATE_TOLERANCE:
    print(
        f'{run.output}: {kbps:.4g} kbit/s is as near as it comes to {target:g}',
        file=sys.stderr,
    )
  line = (
      f'{run.output}: {size} bytes, {sum(x.num_frames for x in gops)} frames in'
      f' {len(gops)} groups, {kbps:.4g} kbit/s'
  )
  if shown.rows:
    line += (
        f'; decoded {shown.levels()} dB; {spent / len(shown.rows):.2f} s a'
        f' frame, all in {spent:.1f} s'
    )
  print(line, file=sys.stderr)
