"""Files of pictures and videos: packets written, read and rearranged.

The file of a video stands in one of two orders:

  time     header, then GOP after GOP: its entry, its packets; then an end mark.
           Written as a stream. A cut file plays to its last whole GOP, and the
           layers that are whole of the next.
  quality  header, directory of all entries, then the base layer's packets of
           all GOPs, then those of the layer above, ... A cut file plays at the
           last layer that is whole, and one more in its first GOPs.

`reorder` turns one into the other and back, to the same bytes. That of a
picture is header and packets, base layer first, of what is read here as one GOP
of one frame; a cut file shows the layers that are whole. What is in the packets
is the matter of `bitstream` and `frame_coding`, what is around them that of
`syntax`. `docs/format.md` and `docs/format_video.md` are the specification.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import io
import itertools
import struct
from typing import BinaryIO
import zlib

from pgsvc_jax.codec import syntax

_END_MARK = syntax.ENTRY_SIZE.pack(0)
# GOPs, bytes of all their entries.
_DIRECTORY = struct.Struct('<II')
_NOTHING_WHOLE = 'the file ends before the base layer of its first GOP does'


def _located(gop: syntax.GopEntry, offset: int) -> syntax.GopEntry:
  """The GOP whose packets stand one after the other from there."""
  ends = itertools.accumulate(gop.packet_sizes, initial=offset)
  return dataclasses.replace(gop, packet_offsets=tuple(ends)[:-1])


class StreamWriter:
  """Writes a picture, or a video in order of time, GOP by GOP.

  Used as a context, it ends the video where no exception did.

  Example:
    >>> import fractions
    >>> file = io.BytesIO()
    >>> header = syntax.VideoHeader(
    ...     width=4, height=2, channels=3, num_layers=2,
    ...     time_base=fractions.Fraction(1, 24))
    >>> with StreamWriter(file, header) as writer:
    ...   writer.add_gop([0, 1, 2], [b'base', b'more'], last_duration=1)
    >>> reader = StreamReader(file)
    >>> [(gop.times, gop.end) for gop in reader]
    [((0, 1, 2), 3)]
    >>> reader.packets(0, 2)
    [b'base', b'more']
  """

  def __init__(
      self, file: BinaryIO, header: syntax.Header | syntax.VideoHeader
  ):
    """Writes the header.

    Raises:
      ValueError: it breaks a rule of the syntax, or asks for another order.
    """
    syntax.check_header(header)
    self._is_video = isinstance(header, syntax.VideoHeader)
    if self._is_video and header.order != syntax.PacketOrder.TIME:
      raise ValueError('a video is written in order of time, then reordered')
    self.header = header
    self._file = file
    self._last: syntax.GopEntry | None = None
    file.write(syntax.pack_header(header))
    file.flush()

  @classmethod
  def resume(cls, file: BinaryIO) -> 'StreamWriter':
    """Goes on after the last GOP of a video that is whole and undamaged.

    What follows it is cut off: a crash may have left anything there.

    Args:
      file: readable, writable, seekable.

    Raises:
      BitstreamError: it is no such video, or its header is damaged.
    """
    reader = StreamReader(file)
    if not reader.is_video or reader.header.order != syntax.PacketOrder.TIME:
      raise syntax.BitstreamError('the file is not in order of time')
    writer = cls.__new__(cls)
    writer.header, writer._file = reader.header, file
    writer._is_video, writer._last = True, None
    end = reader.header.header_size
    with contextlib.suppress(syntax.BitstreamError):
      for gop in reader:
        reader.packets(gop.index, reader.header.num_layers)
        writer._last = gop
        end = gop.packet_offsets[-1] + gop.packet_sizes[-1]
    file.truncate(end)
    file.seek(end)
    return writer

  @property
  def num_gops(self) -> int:
    """Written so far."""
    return self._last.index + 1 if self._last else 0

  @property
  def num_frames(self) -> int:
    """Written so far."""
    return self._last.first_frame + self._last.num_frames if self._last else 0

  def add_gop(
      self,
      times: Sequence[int],
      packets: Sequence[bytes],
      *,
      last_duration: int,
  ) -> None:
    """Writes the next GOP, and flushes.

    Args:
      times: when its frames start, in units of the time base; they increase.
      packets: one a layer.
      last_duration: how long its last frame lasts.

    Raises:
      ValueError: that breaks a rule of the syntax.
    """
    if len(packets) != self.header.num_layers:
      raise ValueError(f'{len(packets)=} for {self.header.num_layers} layers')
    if not len(times):
      raise ValueError('a GOP of no frames')
    durations = [b - a for a, b in itertools.pairwise(times)]
    groups = itertools.groupby([*durations, last_duration])
    gop = syntax.GopEntry(
        index=self.num_gops,
        first_frame=self.num_frames,
        start=times[0],
        runs=tuple((duration, len(list(run))) for duration, run in groups),
        packet_sizes=tuple(map(len, packets)),
        checksums=tuple(map(zlib.crc32, packets)),
    )
    syntax.check_entry(gop, self._last)
    self._file.write(syntax.pack_entry(gop, self._last))
    self._file.writelines(packets)
    self._file.flush()
    self._last = gop

  def add_picture(self, packets: Sequence[bytes]) -> None:
    """Writes all there is of a picture after its header.

    Args:
      packets: those that the header tells of.
    """
    self._file.writelines(packets)

  def close(self) -> None:
    """Ends the video; the file stays open."""
    if self._is_video:
      self._file.write(_END_MARK)
    self._file.flush()

  def __enter__(self) -> 'StreamWriter':
    return self

  def __exit__(self, exc_type, *unused) -> None:
    if exc_type is None:
      self.close()


class StreamReader:
  """Reads a picture or video, whole, cut or still being written.

  Keeps entries only, and those of a file in order of time only as far as they
  have been asked for: damage beyond is not noticed. Iterating gives all entries
  there are, of GOPs of which nothing else may be there.

  Attributes:
    header: of the file.

  Example:
    >>> from pgsvc_jax.codec import quantize
    >>> header = syntax.Header(width=4, height=2, channels=1, layers=(
    ...     syntax.LayerEntry(
    ...         num_splats=3, packet_size=6, checksum=zlib.crc32(b'splats'),
    ...         step_sizes=quantize.StepSizes()),))
    >>> reader = StreamReader(syntax.pack_header(header) + b'splats')
    >>> reader.is_video, [gop.num_frames for gop in reader]
    (False, [1])
    >>> reader.packet(0, layer=0)
    b'splats'
  """

  def __init__(self, file: BinaryIO | bytes):
    """Reads the header, and the directory if there is one.

    Args:
      file: the bytes, or a seekable file of which only what is asked for is
        read.

    Raises:
      BitstreamError: header or directory are not there, or damaged.
    """
    if isinstance(file, bytes):
      file = io.BytesIO(file)
    self._file = file
    self._size = file.seek(0, io.SEEK_END)
    self.header = syntax.read_header(
        self._read(0, min(self._size, syntax.MAX_HEADER_SIZE))
    )
    self._gops: list[syntax.GopEntry] = []
    self._end = self.header.header_size  # Of what has been walked over.
    self._ended = False
    if not self.is_video:
      self._take_picture()
    elif self.header.order == syntax.PacketOrder.QUALITY:
      self._read_directory()

  @property
  def is_video(self) -> bool:
    """Whether the file is that of a video."""
    return isinstance(self.header, syntax.VideoHeader)

  def _read(self, offset: int, size: int) -> bytes:
    """Reads what lies within the file, whatever its header claims."""
    self._file.seek(offset)
    data = self._file.read(size)
    if len(data) < size:
      raise syntax.BitstreamError('the file became shorter')
    return data

  def _take_picture(self) -> None:
    """A picture is a GOP of one frame; its header is the entry."""
    gop = syntax.GopEntry(
        index=0,
        first_frame=0,
        start=0,
        runs=((1, 1),),
        packet_sizes=tuple(x.packet_size for x in self.header.layers),
        checksums=tuple(x.checksum for x in self.header.layers),
    )
    self._gops = [_located(gop, self._end)]
    self._finish(self.header.file_size)

  def _finish(self, end: int) -> None:
    """All entries are known; so is where the last packet ends."""
    self._end, self._ended = end, True
    if self._size > end:
      raise syntax.BitstreamError(
          f'{self._size - end} bytes after the last packet'
      )

  def _read_directory(self) -> None:
    start = self._end
    offset = start + _DIRECTORY.size
    if self._size < offset:
      raise syntax.BitstreamError('file ends inside the directory')
    num_gops, size = _DIRECTORY.unpack(self._read(start, _DIRECTORY.size))
    if self._size < offset + size + syntax.CHECKSUM.size:
      raise syntax.BitstreamError('file ends inside the directory')
    data = self._read(start, _DIRECTORY.size + size + syntax.CHECKSUM.size)
    end = len(data) - syntax.CHECKSUM.size
    if syntax.CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
      raise syntax.BitstreamError('directory is damaged (checksum)')
    at = _DIRECTORY.size
    for index in range(num_gops):
      if end - at < syntax.ENTRY_SIZE.size:
        raise syntax.BitstreamError(f'directory ends before GOP {index}')
      (entry_size,) = syntax.ENTRY_SIZE.unpack_from(data, at)
      if entry_size > end - at:
        raise syntax.BitstreamError(f'directory ends inside GOP {index}')
      self._append(data[at : at + entry_size])
      at += entry_size
    if at != end:
      raise syntax.BitstreamError('directory has bytes after its last GOP')
    offset = start + len(data)
    offsets = []
    for sizes in zip(*(gop.packet_sizes for gop in self._gops)):
      offsets.append(list(itertools.accumulate(sizes, initial=offset)))
      offset = offsets[-1].pop()
    self._gops = [
        dataclasses.replace(gop, packet_offsets=packet_offsets)
        for gop, packet_offsets in zip(self._gops, zip(*offsets))
    ]
    self._finish(offset)

  def _append(self, entry: bytes) -> None:
    before = self._gops[-1] if self._gops else None
    layers = self.header.num_layers
    self._gops.append(syntax.parse_entry(entry, layers, before))

  def _walk(self) -> bool:
    """Reads the entry of the next GOP, if it is there."""
    offset = self._end
    if self._ended or self._size < offset + syntax.ENTRY_SIZE.size:
      return False
    (size,) = syntax.ENTRY_SIZE.unpack(
        self._read(offset, syntax.ENTRY_SIZE.size)
    )
    if not size:
      self._ended = True
      self._end += len(_END_MARK)
      if self._size > self._end:
        raise syntax.BitstreamError(
            f'{self._size - self._end} bytes after the end of the video'
        )
      return False
    if self._size < offset + size:
      return False
    self._append(self._read(offset, size))
    gop = self._gops[-1] = _located(self._gops[-1], offset + size)
    self._end = gop.packet_offsets[-1] + gop.packet_sizes[-1]
    return True

  def refresh(self) -> None:
    """Looks again how long the file is: it may be growing."""
    self._size = self._file.seek(0, io.SEEK_END)

  def __iter__(self) -> Iterator[syntax.GopEntry]:
    for index in itertools.count():
      if index == len(self._gops) and not self._walk():
        return
      yield self._gops[index]

  @property
  def gops(self) -> tuple[syntax.GopEntry, ...]:
    """All entries there are."""
    return tuple(self)

  @property
  def whole_size(self) -> int:
    """Bytes of the file of these GOPs once nothing is missing."""
    for _ in self:
      pass
    return self._end + (0 if self._ended else len(_END_MARK))

  @property
  def is_complete(self) -> bool:
    """Whether nothing is missing: the file is neither cut nor being written."""
    return self._size == self.whole_size and self._ended

  def _name(self, index: int, end: str) -> str:
    """What a message about a GOP starts with; a picture has only one."""
    return f'GOP {index}{end} ' if self.is_video else ''

  def gop(self, index: int) -> syntax.GopEntry:
    """The entry of one GOP.

    Raises:
      BitstreamError: it is not there, or one up to it is damaged.
    """
    while len(self._gops) <= index and self._walk():
      pass
    if not self._gops:
      raise syntax.BitstreamError(_NOTHING_WHOLE)
    if not 0 <= index < len(self._gops):
      raise syntax.BitstreamError(
          f'GOP {index} is not there, the file has {len(self._gops)}'
      )
    return self._gops[index]

  def available_layers(self, index: int) -> int:
    """How many layers of a GOP are whole, 0 to all."""
    gop = self.gop(index)
    return sum(
        offset + size <= self._size
        for offset, size in zip(gop.packet_offsets, gop.packet_sizes)
    )

  def packet(self, index: int, layer: int) -> bytes:
    """The packet of one layer of one GOP.

    Raises:
      BitstreamError: it is not there, cut off or damaged.
    """
    gop = self.gop(index)
    where = f'{self._name(index, ",")}layer {layer}:'
    if not 0 <= layer < self.header.num_layers:
      raise syntax.BitstreamError(
          f'{where} the file has {self.header.num_layers} layers'
      )
    offset, size = gop.packet_offsets[layer], gop.packet_sizes[layer]
    if self._size < offset + size:
      raise syntax.BitstreamError(f'{where} file ends before its packet does')
    packet = self._read(offset, size)
    if zlib.crc32(packet) != gop.checksums[layer]:
      raise syntax.BitstreamError(f'{where} packet is damaged (checksum)')
    return packet

  def packets(self, index: int, num_layers: int) -> list[bytes]:
    """The packets of the first layers of a GOP; raises as `packet`."""
    return [self.packet(index, layer) for layer in range(num_layers)]

  def gop_at(self, time: int) -> int:
    """The GOP that is on show at a time, or the next where none is.

    Raises:
      BitstreamError: the video ends before.
    """
    for gop in self:
      if time < gop.end:
        return gop.index
    raise syntax.BitstreamError(f'the file ends before time {time}')

  def gop_of_frame(self, frame: int) -> int:
    """The GOP that holds a frame, counted from 0.

    Raises:
      BitstreamError: the video has fewer.
    """
    for gop in self:
      if 0 <= frame < gop.first_frame + gop.num_frames:
        return gop.index
    if not self._gops:
      raise syntax.BitstreamError(_NOTHING_WHOLE)
    raise syntax.BitstreamError(f'frame {frame} is not in the file')

  def playable(
      self, num_layers: int | None = None, first_gop: int = 0
  ) -> Iterator[tuple[syntax.GopEntry, int]]:
    """GOPs in order, up to the first that is cut below what is asked for.

    Args:
      num_layers: to be shown; None for all that are whole, which may differ.
      first_gop: where to start.

    Yields:
      Entry, and how many layers to show; one GOP at least.

    Raises:
      BitstreamError: the first GOP has not got these layers.
      ValueError: num_layers is not positive.
    """
    if num_layers is not None and num_layers < 1:
      raise ValueError(f'{num_layers=} is not positive')
    if (num_layers or 1) > self.header.num_layers:
      raise syntax.BitstreamError(
          f'{num_layers} layers asked for, the file has'
          f' {self.header.num_layers}'
      )
    available = self.available_layers(first_gop)
    if not available and not self.is_video:
      raise syntax.BitstreamError(
          f'file ends inside the base layer (has {self._size} of'
          f' {self.header.truncation_points[0]} bytes)'
      )
    if not available and first_gop == 0:
      raise syntax.BitstreamError(_NOTHING_WHOLE)
    if available < (num_layers or 1):
      raise syntax.BitstreamError(
          f'{self._name(first_gop, ":")}{num_layers or 1} layers asked for,'
          f' the file is cut after {available} of {self.header.num_layers}'
      )
    for gop in itertools.islice(self, first_gop, None):
      available = self.available_layers(gop.index)
      if available < (num_layers or 1):
        return
      yield gop, num_layers or available


def _copy(
    reader: StreamReader,
    file: BinaryIO,
    header: syntax.Header | syntax.VideoHeader,
    gops: Sequence[syntax.GopEntry],
) -> None:
  """Writes a file of these GOPs in the order that the header says."""
  layers = range(header.num_layers)
  if not reader.is_video:
    with StreamWriter(file, header) as writer:
      writer.add_picture(reader.packets(0, header.num_layers))
    return
  entries = []
  for before, gop in zip([None, *gops], gops):
    kept = dataclasses.replace(
        gop,
        packet_sizes=gop.packet_sizes[: len(layers)],
        checksums=gop.checksums[: len(layers)],
    )
    entries.append(syntax.pack_entry(kept, before))
  file.write(syntax.pack_header(header))
  if header.order == syntax.PacketOrder.TIME:
    for gop, entry in zip(gops, entries):
      file.write(entry)
      file.writelines(reader.packet(gop.index, layer) for layer in layers)
    file.write(_END_MARK)
    return
  directory = b''.join(entries)
  directory = _DIRECTORY.pack(len(entries), len(directory)) + directory
  file.write(directory + syntax.CHECKSUM.pack(zlib.crc32(directory)))
  for layer in layers:
    file.writelines(reader.packet(gop.index, layer) for gop in gops)


def reorder(
    reader: StreamReader, file: BinaryIO, order: syntax.PacketOrder
) -> None:
  """Writes the same video in another order; no packet is decoded.

  Args:
    reader: of a whole file.
    file: to write to, one packet in memory at a time.
    order: of the new file. Back again gives the same bytes.

  Raises:
    BitstreamError: the file is of a picture or not whole, or a packet is
      damaged.
  """
  if not isinstance(reader.header, syntax.VideoHeader):
    raise syntax.BitstreamError('the file is a picture, not a video')
  if not reader.is_complete:
    raise syntax.BitstreamError(
        'the file is cut or still being written; extract what is whole first'
    )
  header = dataclasses.replace(reader.header, order=order)
  _copy(reader, file, header, reader.gops)


def extract(
    reader: StreamReader,
    file: BinaryIO,
    *,
    num_layers: int | None = None,
    first_gop: int = 0,
    num_gops: int | None = None,
) -> int:
  """Writes a whole file of some layers and GOPs; no packet is decoded.

  Args:
    reader: of the file, which may be cut.
    file: to write to, one packet in memory at a time.
    num_layers: to keep; None for all that the first GOP has.
    first_gop: the first to keep. Times stay as they are.
    num_gops: to keep; None for all that follow and have these layers.

  Returns:
    How many GOPs were kept.

  Raises:
    BitstreamError: these layers of these GOPs are not there, or damaged.
    ValueError: num_layers or num_gops is not positive.
  """
  if num_gops is not None and num_gops < 1:
    raise ValueError(f'{num_gops=} is not positive')
  if num_layers is None:
    num_layers = max(1, reader.available_layers(first_gop))
  playable = reader.playable(num_layers, first_gop)
  kept = [gop for gop, _ in itertools.islice(playable, num_gops)]
  if num_gops is not None and len(kept) < num_gops:
    raise syntax.BitstreamError(
        f'{num_gops} GOPs asked for, {len(kept)} have these layers'
    )
  header = reader.header.first_layers(num_layers)
  _copy(reader, file, header, kept)
  return len(kept)
