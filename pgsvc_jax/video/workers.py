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
import os
import pathlib
import queue
import threading
import time
from typing import Any

import jax

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_source
from pgsvc_jax.video import gop_fit
from pgsvc_jax.video import groups
from pgsvc_jax.video import rate_control

# For the file of another process, which may be on another host: there is no one
# to wake this one up.
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameDone:
  """A frame is encoded.

  Attributes:
    frame: which one, from 0.
    index: in its group; 0 is the I-frame.
    sizes: bytes of each layer.
    psnr_db: of each prefix as decoded to 8 bits, on its own grid.
    born: splats born.
    still: share of the other splats that did not change.
    seconds: that it took.

  Example:
    >>> done = FrameDone(frame=7, index=3, sizes=(90, 40), psnr_db=(30.1, 32.5),
    ...     born=2, still=0.9, seconds=0.5)
    >>> sum(done.sizes)
    130
  """

  frame: int
  index: int
  sizes: tuple[int, ...]
  psnr_db: tuple[float, ...]
  born: int
  still: float
  seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupDone:
  """A group is about to be written, after all those before it.

  Attributes:
    group: which one.
    packets: one a layer.
    frames: what became of them; none where another process encoded them.

  Example:
    >>> group = groups.Group(
    ...     index=0, first_frame=0, times=(0, 1), last_duration=1)
    >>> len(GroupDone(group=group, packets=[b'base', b'more']).group.times)
    2
  """

  group: groups.Group
  packets: list[bytes]
  frames: tuple[FrameDone, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """Which groups a process takes: every n-th.

  Attributes:
    num_processes: how many there are.
    process_id: which one this is.
    folder: where all but process 0 leave their groups.
  """

  num_processes: int = 1
  process_id: int = 0
  folder: pathlib.Path | None = None

  def has(self, index: int) -> bool:
    """Whether a group is of this process."""
    return index % self.num_processes == self.process_id

  def leave(self, done: GroupDone, header: syntax.VideoHeader) -> bool:
    """Leaves a group for process 0; says whether that one still waits."""
    if not self.folder.is_dir():
      return False
    path = self._path(done.group)
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file, stream.StreamWriter(file, header) as out:
      group = done.group
      out.add_gop(group.times, done.packets, last_duration=group.last_duration)
    os.replace(partial, path)
    return True

  def find(
      self, group: groups.Group, header: syntax.VideoHeader
  ) -> GroupDone | None:
    """What another process, or run, has left of a group."""
    if self.folder is None:
      return None
    try:
      with open(self._path(group), 'rb') as file:
        reader = stream.StreamReader(file)
        if reader.header != header or reader.gop(0).times != group.times:
          return None
        packets = reader.packets(0, header.num_layers)
        return GroupDone(group=group, packets=packets)
    except (OSError, syntax.BitstreamError):
      return None

  def _path(self, group: groups.Group) -> pathlib.Path:
    return self.folder / f'{group.index}.pgsvc'


class Workers:
  """One thread a device; each takes the next group that nobody has.

  A context, which ends the threads.
  """

  def __init__(
      self,
      source: frame_source.FrameSource,
      config: config_lib.VideoConfig,
      devices: Sequence[jax.Device],
      implementation: pallas_kernels.Implementation | None,
      report: Callable[[Any], None],
  ):
    self._source = source
    self._config = config
    self._form = source.format
    self._implementation = implementation
    self._report = report
    self._devices = queue.SimpleQueue()
    for device in devices:
      self._devices.put(device)
    self._num_devices = len(devices)
    self._fitters: dict[jax.Device, gop_fit.GopFitter] = {}
    self._stop = threading.Event()

  def __enter__(self) -> 'Workers':
    self._pool = concurrent.futures.ThreadPoolExecutor(self._num_devices)
    return self

  def __exit__(self, kind: type[BaseException] | None, *unused) -> None:
    self._stop.set()
    self._pool.shutdown(wait=kind is None, cancel_futures=True)
    if kind is None:
      self._source.close()

  def encode(
      self,
      header: syntax.VideoHeader,
      share: Share,
      first_index: int = 0,
      first_frame: int = 0,
  ) -> Iterator[GroupDone]:
    """Encodes groups as they are found.

    Args:
      header: that those of other processes have.
      share: of this process; process 0 yields the groups of all.
      first_index: the first group.
      first_frame: its first frame.

    Yields:
      Groups in order.
    """
    running = collections.deque()
    for group in self._find(first_index, first_frame):
      if share.process_id and not share.has(group.index):
        continue
      done = share.find(group, header)
      if done and share.process_id:
        continue  # Of an earlier run.
      submit = functools.partial(self._pool.submit, self._encode_group, group)
      if done:
        running.append(lambda x=done: x)
      elif share.has(group.index):
        running.append(submit().result)
      else:
        wait = functools.partial(self._wait, share, header, group, submit)
        running.append(wait)
      if len(running) >= 2 * self._num_devices * share.num_processes:
        yield running.popleft()()
    while running:
      yield running.popleft()()

  def _wait(
      self,
      share: Share,
      header: syntax.VideoHeader,
      group: groups.Group,
      submit: Callable[[], concurrent.futures.Future],
  ) -> GroupDone:
    """The group of another process, or of this one once it is idle."""
    while self._devices.qsize() < self._num_devices:
      if done := share.find(group, header):
        return done
      time.sleep(_SECONDS_BETWEEN_LOOKS)
    return share.find(group, header) or submit().result()

  def _find(self, first_index: int, first_frame: int) -> Iterator[groups.Group]:
    """The groups from there on; looking for cuts runs ahead of the fits.

    But for a rate: its share depends on all of them.
    """
    if self._config.target_kbps:
      every = list(groups.find_groups(self._source.walk(), self._config))
      self._config, every = rate_control.plan(
          self._config,
          every,
          height=self._form.height,
          width=self._form.width,
          time_base=self._form.time_base,
      )
      return iter(every[first_index:])
    return self._look_ahead(
        groups.find_groups(
            self._source.walk(first_frame),
            self._config,
            first_index=first_index,
            first_frame=first_frame,
        )
    )

  def _look_ahead(
      self, items: Iterable[groups.Group]
  ) -> Iterator[groups.Group]:
    found = queue.Queue(2 * self._num_devices)

    def put(item) -> bool:
      while not self._stop.is_set():
        try:
          found.put(item, timeout=0.1)
          return True
        except queue.Full:
          continue
      return False

    def look() -> None:
      try:
        for item in items:
          if not put(item):
            return
        put(None)
      except Exception as error:  # Of any type: it is raised again below.
        put(error)

    threading.Thread(target=look, daemon=True).start()
    while (item := found.get()) is not None:
      if isinstance(item, Exception):
        raise item
      yield item

  def _encode_group(self, group: groups.Group) -> GroupDone:
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
      fitter = self._fitters[device]
      num_frames, done = len(group.times), []
      stop = group.first_frame + num_frames
      pixels = (
          frame.pixels for frame in self._source.frames(group.first_frame, stop)
      )
      budget = rate_control.budget(group)
      last = time.perf_counter()
      with jax.transfer_guard('disallow'):
        for stats in fitter.encode(pixels, group.first_frame, budget):
          if self._stop.is_set():
            raise concurrent.futures.CancelledError
          now = time.perf_counter()
          done.append(
              FrameDone(
                  frame=group.first_frame + stats.index,
                  seconds=now - last,
                  **dataclasses.asdict(stats),
              )
          )
          last = now
          self._report(done[-1])
      if len(done) != num_frames:
        raise ValueError(
            f'{len(done)} frames where there were {num_frames}: the video'
            ' changes while it is read'
        )
      packets = fitter.packets()
      return GroupDone(group=group, packets=packets, frames=tuple(done))
    finally:
      self._devices.put(device)
