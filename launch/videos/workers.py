"""Who encodes which groups of a video: threads, one a device, and processes.

Of several processes on one file system, each takes every n-th group. All but
process 0 leave theirs in a folder, a small video each; process 0 puts them
together, and does itself what is not there when it has done its own: a process
that dies costs time, nothing else.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import pathlib
import queue
import threading
import time
from typing import Any

from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import groups
from pgsvc_jax.video import rate_control
from pgsvc_jax.video import stream_format

from . import progress
from . import source as video_source

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


def _read_part(
    path: pathlib.Path, header: syntax.VideoHeader, group: groups.Group
) -> list[bytes] | None:
  """The packets of a group that another process, or run, has left."""
  try:
    with open(path, 'rb') as file:
      reader = stream.StreamReader(file)
      if reader.header != header or reader.gop(0).times != group.times:
        return None
      return reader.packets(0, header.num_layers)
  except (OSError, bitstream.BitstreamError):
    return None


class Workers:
  """One thread a device; each takes the next group that nobody has.

  A context, which ends the threads.
  """

  def __init__(
      self,
      source: video_source.Source,
      config: config_lib.VideoConfig,
      form: stream_format.VideoFormat,
      devices: Sequence[Any],
      implementation: str | None,
  ):
    self._source = source
    self._config = config
    self._form = form
    self._implementation = implementation
    self._devices = queue.SimpleQueue()
    for device in devices:
      self._devices.put(device)
    self._num_devices = len(devices)
    self._fitters = {}
    self._readers = {}
    self._stop = threading.Event()
    # What reading the video has left out or changed, known at its end.
    self.notes: tuple[str, ...] = ()

  def __enter__(self) -> 'Workers':
    self._pool = concurrent.futures.ThreadPoolExecutor(self._num_devices)
    return self

  def __exit__(self, kind: type[BaseException] | None, *unused) -> None:
    self._stop.set()
    self._pool.shutdown(wait=kind is None, cancel_futures=True)
    if kind is None:
      for reader in self._readers.values():
        reader.close()

  def encode(
      self,
      found: Iterable[groups.Group],
      shown: progress.Progress,
      share: Share,
      parts: pathlib.Path,
      header: syntax.VideoHeader,
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
      header: syntax.VideoHeader,
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
        self.notes = video.notes
      self._config, every = rate_control.plan(
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
          self.notes = video.notes
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
      self, group: groups.Group, shown: progress.Progress
  ) -> tuple[list[bytes], list[dict]]:
    import jax

    from pgsvc_jax.video import gop_fit

    device = self._devices.get()
    try:
      if device not in self._fitters:
        self._fitters[device] = gop_fit.GopFitter(
            self._config,
            self._form.height,
            self._form.width,
            device=device,
            implementation=self._implementation,
        )
        self._readers[device] = self._source.open()
      fitter = self._fitters[device]
      first = group.first_frame
      frames = self._readers[device].frames(first, first + len(group.times))
      rows = []
      with jax.transfer_guard('disallow'):
        pixels = (frame.pixels for frame in frames)
        last = time.perf_counter()
        budget = rate_control.budget(group)
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
