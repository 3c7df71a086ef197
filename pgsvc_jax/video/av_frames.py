"""Frames of an open video file in order of display, from any frame on.

Decoding begins at the key frame before. Which that is follows from the times
of the packets, which are read, but not decoded, up to the frame asked for.
Where they do not tell (a packet may hold two frames, or none), decoding begins
with the first frame.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Generator, Iterable, Iterator
import contextlib
import dataclasses
from fractions import Fraction
import itertools
from typing import TYPE_CHECKING, NamedTuple

import lazy_loader

from pgsvc_jax import media

# Loaded on first use: what reads pictures does without it.
if TYPE_CHECKING:
  import av
else:
  av = lazy_loader.load('av')

# Of other codecs, a packet may hold a frame, half of one, or several.
_FRAME_A_PACKET = frozenset(
    'av1 bmp ffv1 flv1 h263 h264 hevc mpeg1video mpeg2video mpeg4 png qoi targa'
    ' theora tiff vp8 vp9 vvc webp'.split()
)
# Of these, later frames are drawn over the ones before, whatever flags say.
_DRAWN_OVER = ('apng', 'gif')
_I_FRAME = 1
# Streams that were put together from several, in seconds: as FFmpeg has it.
_CAN_JUMP = ('flv', 'mpeg', 'mpegts', 'ogg')
_LONGEST_STEP_BACK = Fraction(1, 10)
_LONGEST_STEP = 10

Opener = Callable[
    [],
    contextlib.AbstractContextManager[
        'tuple[av.container.InputContainer, av.VideoStream]'
    ],
]


class Decoded(NamedTuple):
  """A frame as decoded.

  Attributes:
    frame: of PyAV.
    stamp: its time by the file, in ticks; None if that has none.
  """

  frame: av.VideoFrame
  stamp: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
  """What is known of the times of a file.

  Attributes:
    tick: seconds.
    step: how long a frame lasts at the nominal rate, in ticks.
    has_times: whether frames have times; otherwise they are `step` apart.
    by_order: whether the times are those of decoding (AVI).
    can_jump: whether they may begin anew within the file, as they do where
      several were put together.
  """

  tick: Fraction
  step: int
  has_times: bool
  by_order: bool
  can_jump: bool

  def jumps(self, step: int) -> bool:
    """Whether this lies not between the end of a frame and the next one."""
    if not self.can_jump:
      return False
    return not -_LONGEST_STEP_BACK <= step * self.tick <= _LONGEST_STEP


def may_jump(container: av.container.InputContainer) -> bool:
  """Whether times may begin anew within a file of this kind."""
  return container.format.name in _CAN_JUMP


class Decoder:
  """Decodes packets; knows which frames may be missing, and which may not.

  Frames that refer to others before the first key frame, or before the first
  one after a jump in time, cannot be decoded and are left out. Any other
  failure is damage.

  Attributes:
    lacking: how many frames were left out before the first.
    joints: of each jump in time, the frame that it comes before, and how many
      frames were left out there.
  """

  def __init__(self, timing: Timing, first_frame: int = 0):
    self._timing = timing
    self._end: int | None = None  # of the packet before
    self.lacking = 0
    self.joints: list[tuple[int, int]] = []
    self._count = first_frame
    self._begin()

  def _begin(self) -> None:
    """Before the first packet, and after a jump."""
    self._key_time: int | None = None
    self._has_shown = False
    # Times of packets that no frame has come of.
    self._sent: list[int] = []
    self._num_failed = 0

  def frames(self, packets: Iterable[av.Packet]) -> Iterator[Decoded]:
    """Decodes.

    Args:
      packets: in order of decoding, from a key frame on.

    Yields:
      Frames in order of display.

    Raises:
      ValueError: a frame is damaged.
    """
    last: av.VideoFrame | None = None
    repeats: list[int] = []
    for frame in self._decode(packets, repeats):
      stamp = frame.dts if self._timing.by_order else frame.pts
      while last is not None and repeats and stamp and repeats[0] < stamp:
        yield self._count_in(last, repeats.pop(0))
      last = frame
      yield self._count_in(frame, stamp)
    if last is not None:
      for stamp in repeats:
        yield self._count_in(last, stamp)

  def _count_in(self, frame: av.VideoFrame, stamp: int | None) -> Decoded:
    self._count += 1
    return Decoded(frame, stamp)

  def _decode(
      self, packets: Iterable[av.Packet], repeats: list[int]
  ) -> Iterator[av.VideoFrame]:
    """Decodes packets; times of empty ones are added to `repeats`."""
    failure: Exception | None = None
    for packet in packets:
      if self._jumps(packet):
        # What was cut off there is no damage.
        lacking, failure = int(failure is not None), None
        context = packet.stream.codec_context
        yield from context.decode(None)
        context.flush_buffers()
        self._begin()
        self.joints.append((self._count, lacking))
      if failure is not None:
        raise failure
      time = packet.dts if self._timing.by_order else packet.pts
      if not packet.size and time is not None:
        bisect.insort(repeats, time)  # Shows the frame before once more.
        continue
      try:
        # Of a transport stream, one that comes before a gap may be whole.
        if packet.is_corrupt and not self._timing.can_jump:
          raise ValueError('its data are incomplete')
        frames = packet.decode()
      except (av.error.FFmpegError, ValueError) as error:
        if self._may_lack_references(packet):
          self._note_sent(packet)
          self._num_failed += 1
        elif packet.is_corrupt and self._timing.can_jump:
          failure = error
        else:
          raise self._damage(error) from error
        continue
      self._note_sent(packet)
      for frame in frames:
        if frame.is_corrupt:
          if self._precedes_key(frame.pts):
            self._num_failed += 1
            continue
          raise ValueError(f'frame {self._count} is damaged')
        self._show(frame)
        yield frame
    if failure is not None:
      raise self._damage(failure) from failure

  def _damage(self, error: Exception) -> ValueError:
    return ValueError(f'frame {self._count} is damaged: {media.reason(error)}')

  def _jumps(self, packet: av.Packet) -> bool:
    """Whether the times of decoding begin anew at a packet."""
    if packet.dts is None:
      return False
    end, self._end = self._end, packet.dts + (packet.duration or 0)
    return end is not None and self._timing.jumps(packet.dts - end)

  def _note_sent(self, packet: av.Packet) -> None:
    # FFmpeg drops damaged frames of H.264 without a word.
    is_h264 = packet.stream.codec_context.name == 'h264'
    is_counted = not self._timing.by_order and (is_h264 or not self._has_shown)
    if is_counted and packet.pts is not None and not packet.is_discard:
      self._sent.append(packet.pts)
    if packet.is_keyframe and self._key_time is None and not self._has_shown:
      self._key_time = packet.pts

  def _precedes_key(self, time: int | None) -> bool:
    """Whether something may refer to what is before the first key frame."""
    if self._key_time is None or time is None:
      return not self._has_shown
    return time < self._key_time

  def _may_lack_references(self, packet: av.Packet) -> bool:
    is_first = self._key_time is None and not self._has_shown
    if packet.is_keyframe and (is_first or packet.pts is None):
      return False
    return self._precedes_key(packet.pts)

  def _show(self, frame: av.VideoFrame) -> None:
    """Once a frame is shown, it is known which are missing before it."""
    if frame.pts is None or not self._sent:
      lacking = 0 if self._has_shown else self._num_failed
    else:
      lacking = sum(time < frame.pts for time in self._sent)
      self._sent = [time for time in self._sent if time > frame.pts]
    if self._has_shown:
      # The second field of a frame has a time of its own.
      if lacking and not frame.interlaced_frame:
        raise ValueError(f'frame {self._count} is damaged')
    elif self.joints:
      where, before = self.joints[-1]
      self.joints[-1] = where, before + lacking
    else:
      self.lacking = lacking
    self._has_shown = True


class Key(NamedTuple):
  """A key frame that decoding can begin at.

  Attributes:
    time: when it is shown.
    decoded: when it is decoded, where known.
    packet_idx: how many packets come before it.
  """

  time: int
  decoded: int | None
  packet_idx: int


class Index:
  """Which frames there are and where decoding can begin, as far as was read.

  Args:
    packets: all of the file, from its start; they are read as needed.
    codec: that they are of.
    timing: of the file.
    is_progressive: whether frames are coded whole, not as two fields.
  """

  def __init__(
      self,
      packets: Generator[av.Packet],
      codec: av.Codec,
      timing: Timing,
      is_progressive: bool,
  ):
    name = codec.canonical_name
    self._is_vp8 = name == 'vp8'
    self._packets = packets
    self._timing = timing
    self._is_sure = (
        timing.has_times
        and is_progressive
        and (
            name in _FRAME_A_PACKET
            or codec.intra_only
            and name not in _DRAWN_OVER
        )
    )
    self._keys: list[Key] = []
    self._decoded: int | None = None  # the last time of decoding
    self._packet_idx = 0
    self.times: list[int] = []

  def close(self) -> None:
    """Ends reading packets."""
    self._is_sure = False
    self._packets.close()

  def find(self, frame_idx: int) -> tuple[Key, int] | None:
    """Where decoding begins for a frame.

    Args:
      frame_idx: of the frame, in order of display.

    Returns:
      The key frame and its number; None if decoding has to begin at the start.

    Raises:
      ValueError: there is no such frame.
    """
    while self._is_sure and not self._is_settled(frame_idx):
      packet = next(self._packets, None)
      if packet is None:
        self._decoded = None if not self.times else self.times[-1]
        break
      self._is_sure = self._add(packet)
    if not self._is_sure:
      return None
    if frame_idx >= len(self.times):
      num_frames = len(self.times)
      raise ValueError(f'it has {num_frames} frames, none from {frame_idx} on')
    time = self.times[frame_idx]
    key = max((key for key in self._keys if key.time <= time), default=None)
    if key is None:
      return None
    return key, bisect.bisect_left(self.times, key.time)

  def _is_settled(self, frame_idx: int) -> bool:
    """No later packet is shown before one that is decoded already."""
    if self._decoded is None:
      return False
    return bisect.bisect_right(self.times, self._decoded) > frame_idx

  def _add(self, packet: av.Packet) -> bool:
    """Takes in a packet; False if it leaves in doubt what is shown."""
    index, self._packet_idx = self._packet_idx, self._packet_idx + 1
    if packet.pts is None:
      return not packet.size  # What ends the stream.
    if packet.is_corrupt or not index and not packet.is_keyframe:
      return False
    if packet.dts is not None:
      before = packet.dts if self._decoded is None else self._decoded
      step = packet.dts - before
      if step < 0 or self._timing.jumps(step):
        return False
      self._decoded = packet.dts
    hidden = self._is_vp8 and packet.size and not bytes(packet)[0] & 0x10
    if packet.is_discard or hidden:
      return True
    if self._keys and packet.pts < self._keys[0].time:
      return False  # It may lack what it refers to.
    place = bisect.bisect_left(self.times, packet.pts)
    if self.times[place : place + 1] == [packet.pts]:
      return False
    self.times.insert(place, packet.pts)
    if packet.is_keyframe and packet.size:
      self._keys.append(Key(packet.pts, packet.dts, index))
    return True


class Timed(NamedTuple):
  """A frame with its times.

  Attributes:
    index: of the frame, in order of display.
    frame: of PyAV.
    time: when it is shown, in ticks.
    duration: how long, in ticks.
  """

  index: int
  frame: av.VideoFrame
  time: int
  duration: int


class Clip:
  """An open file whose frames can be had from any of them on.

  Args:
    opener: opens the file anew.
    index: of the file.
    timing: of the file.

  Attributes:
    container: of PyAV.
    stream: of the container.
    decoder: what has decoded the frames that were asked for last.
  """

  decoder: Decoder

  def __init__(self, opener: Opener, index: Index, timing: Timing):
    self._opener = opener
    self._index = index
    self._timing = timing
    self._stack = contextlib.ExitStack()
    self._open()

  def close(self) -> None:
    """Closes the file."""
    self._stack.close()

  def _open(self) -> None:
    self._stack.close()
    self.container, self.stream = self._stack.enter_context(self._opener())
    self._is_fresh = True

  def frames(self, start: int) -> Iterator[Timed]:
    """Decodes frames from one of them on.

    Args:
      start: how many frames come before it.

    Yields:
      Frames in order of display.

    Raises:
      ValueError: there are fewer frames, or one is damaged.
    """
    found = self._index.find(start) if start else None
    num_frames = 0
    # Reading may find the way by the file's own index, or by counting packets;
    # or the key frame is not what it seems.
    for way in (self._sought, self._counted) if found is not None else ():
      frames = self._from_key(*found, start, way)
      try:
        for timed in self._timed(frames, found[1]):
          if timed.index >= start:
            num_frames = timed.index + 1
            yield timed
      except (av.error.FFmpegError, ValueError):
        if num_frames:
          raise
      if num_frames:
        break
    if not num_frames:
      if not self._is_fresh:
        self._open()
      self._is_fresh = False
      self.decoder = Decoder(self._timing)
      packets = self.container.demux(self.stream)
      for timed in self._timed(self.decoder.frames(packets), 0):
        num_frames = timed.index + 1
        if timed.index >= start:
          yield timed
    if num_frames <= start:
      raise ValueError(f'it has {num_frames} frames, none from {start} on')

  def _timed(
      self, frames: Iterator[Decoded], first_frame: int
  ) -> Iterator[Timed]:
    """Adds times in order, and durations that end where the next begins."""
    timing = self._timing
    waiting: tuple[int, av.VideoFrame, int] | None = None
    offset = 0  # where times begin anew
    failure = None
    try:
      for index, (frame, stamp) in enumerate(frames, first_frame):
        if waiting is None:
          time = 0 if stamp is None or not timing.has_times else stamp
        else:
          before, last = waiting[2], waiting[1]
          expected = before + (last.duration or timing.step)
          if stamp is None or not timing.has_times:
            time = before + timing.step
          else:
            time = stamp + offset
            if timing.jumps(time - expected):
              offset = expected - stamp
              time = expected
            elif time <= before:
              time = before + timing.step
          yield Timed(*waiting, time - before)
        waiting = index, frame, time
        del frame
    except (av.error.FFmpegError, ValueError) as error:
      failure = error
    if waiting is not None:
      duration = waiting[1].duration if timing.has_times else 0
      yield Timed(*waiting, duration or timing.step)
    if failure is not None:
      raise failure

  def _from_key(
      self,
      key: Key,
      frame_idx: int,
      start: int,
      way: Callable[[Key], Iterator[av.Packet]],
  ) -> Iterator[Decoded]:
    """Frames from a key frame on; ends if they are not where they should be."""
    self._is_fresh = False
    self.decoder = Decoder(self._timing, frame_idx)
    is_first = True
    for decoded in self.decoder.frames(way(key)):
      frame, stamp = decoded
      if is_first:
        if stamp is None or stamp < key.time:
          continue  # Refers to what is before the key frame.
        if not frame.key_frame or int(frame.pict_type) != _I_FRAME:
          return  # A gradual refresh, which is whole only later.
        is_first = False
      if frame_idx <= start and stamp != self._index.times[frame_idx]:
        return
      yield decoded
      frame_idx += 1

  def _counted(self, key: Key) -> Iterator[av.Packet]:
    """The packets from a key frame on, by their number."""
    self._open()
    self._is_fresh = False
    packets = self.container.demux(self.stream)
    return itertools.islice(packets, key.packet_idx, None)

  def _sought(self, key: Key) -> Iterator[av.Packet]:
    """The same by the index of the file; none if that does not lead there."""
    decoded = key.time if key.decoded is None else key.decoded
    with contextlib.suppress(av.error.FFmpegError):
      self.container.seek(decoded, stream=self.stream)
      packets = self.container.demux(self.stream)
      for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
          if packet.pts == key.time:
            return itertools.chain([packet], packets)
          if packet.pts > key.time:
            break
    return iter(())
