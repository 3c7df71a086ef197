"""Encodes a video: groups of pictures, one a device at a time.

Groups need nothing from one another, so the file is the same however many
devices and processes there are. It grows group by group under another name,
OUTPUT.part, which any decoder plays; the same command goes on after its last
whole group.

Of several processes on one file system, each takes every n-th group. All but
process 0 leave theirs in OUTPUT.parts, a small video each; process 0 puts them
together, and does itself what is not there when it has done its own: a process
that dies costs time, nothing else.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import queue
import shutil
import statistics
import sys
import threading
import time
from typing import Any

from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import groups
from pgsvc_jax import schedule
from pgsvc_jax import video_bitstream
from pgsvc_jax import video_rate
from pgsvc_jax import video_syntax

from .. import command
from . import source as video_source

# Of a rate; a file farther away says so.
_RATE_TOLERANCE = 0.05
# For the file of another process, which may be on another host: there is no one
# to wake this one up.
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """Which groups a process takes: every n-th.

  Attributes:
    num_processes: how many there are.
    process_id: which one this is.
  """

  num_processes: int = 1
  process_id: int = 0

  def has(self, index: int) -> bool:
    """Whether a group is of this process."""
    return index % self.num_processes == self.process_id


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
    share: Share = Share(),
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
  for note in notes:
    print(f'{source.path}: {note}', file=sys.stderr)
  sizes = schedule.layer_sizes(config.image.fit, form.height, form.width)
  header = video_syntax.VideoHeader(
      width=form.width,
      height=form.height,
      channels=3,
      num_layers=1 if config.image.fit.strategy == 'single' else len(sizes),
      time_base=form.time_base,
      frame_rate=form.frame_rate,
      pixel_aspect=form.pixel_aspect,
      color=video_syntax.ColorTags(
          primaries=form.primaries,
          transfer=form.transfer,
          matrix=form.matrix,
          full_range=form.full_range,
      ),
      metadata=_metadata(source, config),
  )

  # Only now: --help, wrong settings and bad videos need not wait for JAX.
  from .. import run_log
  from .. import runtime

  devices = runtime.set_up(num_devices, use_cache)
  runtime.return_freed_memory()
  # Not when threads are done with their frames: a first one takes minutes.
  command.leave_at_once_on_failure()
  workers = _Workers(source, config, form, devices, asked_for['implementation'])
  shown = _Progress(pathlib.Path(source.path).name, begin)
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
          writer.add_gop(
              group.times, packets, last_duration=group.last_duration
          )
          log.append_rows(frames)
          rows += frames
      os.replace(part, output)
      if workdir:
        run_log.note_finished(workdir, output, _levels(rows))
  shutil.rmtree(_parts_of(output), ignore_errors=True)
  _say(output, shown, begin, config.target_kbps)


@contextlib.contextmanager
def _interruptible(shown: '_Progress') -> Iterator[None]:
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
    workers: '_Workers',
    share: Share,
    header: video_syntax.VideoHeader,
    output: str,
    shown: '_Progress',
) -> None:
  """Encodes the groups of a process that is not process 0."""
  folder = _parts_of(output)
  folder.mkdir(exist_ok=True)
  found = workers.find(0, 0)
  for group, packets, _ in workers.encode(found, shown, share, folder, header):
    if not folder.is_dir():  # Process 0 has not waited.
      return
    with command.replacing(str(folder / f'{group.index}.pgsvc')) as file:
      with video_bitstream.VideoWriter(file, header) as writer:
        writer.add_gop(group.times, packets, last_duration=group.last_duration)


def _read_part(
    path: pathlib.Path, header: video_syntax.VideoHeader, group: groups.Group
) -> list[bytes] | None:
  """The packets of a group that another process, or run, has left."""
  try:
    with open(path, 'rb') as file:
      reader = video_bitstream.VideoReader(file)
      if reader.header != header or reader.gop(0).times != group.times:
        return None
      return reader.packets(0, header.num_layers)
  except (OSError, bitstream.BitstreamError):
    return None


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
  stat = os.stat(source.path)
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
    part: pathlib.Path, header: video_syntax.VideoHeader, restart: bool
) -> Iterator[video_bitstream.VideoWriter]:
  """The file that is written group by group, or goes on being written."""
  writer = None
  # Empty: stopped before anything was written.
  if part.exists() and part.stat().st_size and not restart:
    with open(part, 'r+b') as file:
      with contextlib.suppress(bitstream.BitstreamError):
        writer = video_bitstream.VideoWriter.resume(file)
      if writer is not None and writer.header == header:
        with writer:
          yield writer
        return
    raise ValueError(
        f'{part} is of a run with other settings: --restart begins anew'
    )
  with open(part, 'wb') as file:
    with video_bitstream.VideoWriter(file, header) as writer:
      yield writer


class _Workers:
  """One thread a device; each takes the next group that nobody has."""

  def __init__(self, source, config, form, devices, implementation):
    self._source = source
    self._config = config
    self._form = form
    self._implementation = implementation
    self._devices = queue.SimpleQueue()
    for device in devices:
      self._devices.put(device)
    self._num_devices = len(devices)
    self._fitters = {}
    self._stop = threading.Event()

  def __enter__(self) -> '_Workers':
    self._pool = concurrent.futures.ThreadPoolExecutor(self._num_devices)
    return self

  def __exit__(self, kind: type[BaseException] | None, *unused) -> None:
    self._stop.set()
    self._pool.shutdown(wait=kind is None, cancel_futures=True)

  def encode(
      self,
      found: Iterable[groups.Group],
      shown: '_Progress',
      share: Share,
      parts: pathlib.Path,
      header: video_syntax.VideoHeader,
  ) -> Iterator[tuple[groups.Group, list[bytes], list[dict]]]:
    """Encodes groups as they are found.

    Args:
      found: the groups.
      shown: takes in frames that are done.
      share: of this process; process 0 yields the groups of all.
      parts: where those of other processes are.
      header: that these have.

    Yields:
      Groups in order, their packets and what became of their frames (nothing
      is known of those of other processes).
    """
    running = collections.deque()
    for group in found:
      mine = share.has(group.index)
      if not mine and share.process_id:
        continue
      packets = _read_part(parts / f'{group.index}.pgsvc', header, group)
      if packets is not None and share.process_id:
        continue  # Of an earlier run.
      submit = functools.partial(
          self._pool.submit, self._encode_group, group, shown
      )
      if packets is not None:
        running.append((group, lambda x=packets: (x, [])))
      elif mine:
        running.append((group, submit().result))
      else:
        wait = functools.partial(self._await_part, parts, header, group, submit)
        running.append((group, wait))
      if len(running) >= 2 * self._num_devices * share.num_processes:
        group, result = running.popleft()
        yield group, *result()
    while running:
      group, result = running.popleft()
      yield group, *result()

  def _await_part(
      self,
      parts: pathlib.Path,
      header: video_syntax.VideoHeader,
      group: groups.Group,
      submit: Callable[[], concurrent.futures.Future],
  ) -> tuple[list[bytes], list[dict]]:
    """The group of another process, or of this one once it is idle."""
    path = parts / f'{group.index}.pgsvc'
    while self._devices.qsize() < self._num_devices:
      packets = _read_part(path, header, group)
      if packets is not None:
        return packets, []
      time.sleep(_SECONDS_BETWEEN_LOOKS)
    packets = _read_part(path, header, group)
    return (packets, []) if packets is not None else submit().result()

  def find(self, first_index: int, first_frame: int) -> Iterator[groups.Group]:
    """The groups from there on; looking for cuts runs ahead of the fits.

    But for a rate: its share depends on all of them.
    """
    if self._config.target_kbps:
      with self._source.open() as video:
        every = list(groups.find_groups(video, self._config))
      self._config, every = video_rate.plan(
          self._config,
          every,
          height=self._form.height,
          width=self._form.width,
          time_base=self._form.time_base,
      )
      yield from every[first_index:]
      return
    found = queue.Queue(2 * self._num_devices)

    def look() -> None:
      try:
        with self._source.open(first_frame) as video:
          for group in groups.find_groups(
              video,
              self._config,
              first_index=first_index,
              first_frame=first_frame,
          ):
            if not self._put(found, group):
              return
        self._put(found, None)
      except Exception as error:  # Of any type: it is raised again below.
        self._put(found, error)

    threading.Thread(target=look, daemon=True).start()
    while (item := found.get()) is not None:
      if isinstance(item, Exception):
        raise item
      yield item

  def _put(self, found: queue.Queue, item) -> bool:
    while not self._stop.is_set():
      try:
        found.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def _encode_group(
      self, group: groups.Group, shown: '_Progress'
  ) -> tuple[list[bytes], list[dict]]:
    import jax

    from pgsvc_jax import video_fit

    device = self._devices.get()
    try:
      if device not in self._fitters:
        self._fitters[device] = video_fit.GopFitter(
            self._config,
            self._form.height,
            self._form.width,
            device=device,
            implementation=self._implementation,
        )
      fitter = self._fitters[device]
      rows = []
      with (
          jax.transfer_guard('disallow'),
          self._source.open(group.first_frame, len(group.times)) as video,
      ):
        pixels = (frame.pixels for frame in video)
        last = time.perf_counter()
        budget = video_rate.budget(group)
        for stats in fitter.encode(pixels, group.first_frame, budget):
          if self._stop.is_set():
            raise concurrent.futures.CancelledError
          now = time.perf_counter()
          row = {
              'frame': group.first_frame + stats.index,
              'kind': 'P' if stats.index else 'I',
              'bytes': list(stats.sizes),
              'psnr_db': list(stats.psnr_db),
              'born': stats.born,
              'still': stats.still,
              'frame_seconds': now - last,
          }
          last = now
          rows.append(row)
          shown.add(row)
      if len(rows) != len(group.times):
        raise ValueError(
            f'{self._source.path}: {len(rows)} frames where there were'
            f' {len(group.times)}: it changes while it is read'
        )
      return fitter.packets(), rows
    finally:
      self._devices.put(device)


class _Progress:
  """Says how it goes, on standard error; called from several threads."""

  def __init__(self, title: str, begin: float):
    self._title = title
    self._begin = begin
    self._last = 0.0
    self._lock = threading.Lock()
    self.done = 0  # Frames of an earlier run.
    self.rows = []

  def add(self, row: dict) -> None:
    """Takes in a frame that is done."""
    with self._lock:
      self.rows.append(row)
      now = time.perf_counter()
      if now - self._last < (0.5 if sys.stderr.isatty() else 10):
        return
      self._last = now
      self._print(end='\r' if sys.stderr.isatty() else '\n')

  def end(self) -> None:
    """Leaves the last line as it is."""
    if self.rows and sys.stderr.isatty():
      self._print(end='\n')

  def _print(self, end: str) -> None:
    count = len(self.rows)
    seconds = (time.perf_counter() - self._begin) / count
    print(
        f'{self._title}: {self.done + count} frames,'
        f' {self.mean_bytes():.0f} bytes a frame, {self.levels()} dB,'
        f' {seconds:.2f} s a frame',
        end=end,
        file=sys.stderr,
    )

  def mean_bytes(self) -> float:
    """Of the frames so far."""
    return statistics.fmean(sum(row['bytes']) for row in self.rows)

  def levels(self) -> str:
    """Mean PSNR of each prefix."""
    return ' / '.join(f'{level:.2f}' for level in _levels(self.rows))


def _levels(rows: Iterable[Mapping[str, Any]]) -> list[float]:
  """Mean PSNR of each prefix, over frames."""
  levels = zip(*(row['psnr_db'] for row in rows))
  return [statistics.fmean(level) for level in levels]


def _say(
    output: str, shown: _Progress, begin: float, target_kbps: float
) -> None:
  with open(output, 'rb') as file:
    reader = video_bitstream.VideoReader(file)
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
