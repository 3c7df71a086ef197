"""The header of a video and the entries of its GOPs, to and from bytes.

A video is a .pgsvc file of version 3, or 5 where layers are of several sizes: a
sequence of groups of pictures (GOPs). A GOP starts with an I-frame and needs no
other GOP. It has an entry, which tells the times of its frames and the sizes of
its packets, and one packet a layer: opaque bytes that hold all its frames of
that layer. Times are integers that count units of the time base.
`docs/format_video.md` is the specification; `container` puts the parts
together.
"""

import dataclasses
import enum
import fractions
import io
import itertools
import struct
from typing import BinaryIO
import zlib

from pgsvc_jax.codec import bitstream

MAX_FRAMES = 4096  # A GOP.
MAX_GOPS = 2**18
MAX_TIME = 2**53
MAX_PACKET_SIZE = 2**32 - 1

# An entry, and its size, start with it; 0 is no entry but the end of the video.
ENTRY_SIZE = struct.Struct('<H')
CHECKSUM = struct.Struct('<I')
# Magic, version, flags, header size, width, height, channels, layers, order,
# primaries, transfer, matrix, full range, reserved, time base, frame rate,
# pixel aspect.
_FIXED = struct.Struct('<8sBBHIIBB6B6I')
_MAX_VARINT_BYTES = 8


class PacketOrder(enum.IntEnum):
  """What comes first in a file."""

  TIME = 0
  QUALITY = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorTags:
  """How the source's samples are meant: code points of ITU-T H.273.

  Attributes:
    primaries: ColourPrimaries; 2 is "unspecified", also below.
    transfer: TransferCharacteristics.
    matrix: MatrixCoefficients.
    full_range: samples use all codes, not only 16..235 (of 8 bits).
  """

  primaries: int = 2
  transfer: int = 2
  matrix: int = 2
  full_range: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoHeader:
  """What a file says before its first GOP.

  Attributes:
    width: pixels.
    height: pixels.
    channels: colors a splat.
    num_layers: of every GOP.
    time_base: seconds of one unit of time.
    frame_rate: nominal, a second; None if unknown. Times do not follow it.
    pixel_aspect: width of a pixel divided by its height, for the output.
    color: of the source, for the output.
    order: of the packets.
    metadata: bytes for the user, UTF-8 JSON by convention; decoding needs none.
    layer_shapes: height and width of the grid of each layer, as in
      `types.LayeredSplats`; empty where all are those of the frames.
  """

  width: int
  height: int
  channels: int
  num_layers: int
  time_base: fractions.Fraction
  frame_rate: fractions.Fraction | None = None
  pixel_aspect: fractions.Fraction = fractions.Fraction(1)
  color: ColorTags = ColorTags()
  order: PacketOrder = PacketOrder.TIME
  metadata: bytes = b''
  layer_shapes: tuple[tuple[int, int], ...] = ()

  @property
  def version(self) -> int:
    """Of the syntax."""
    if self.layer_shapes:
      return bitstream.VIDEO_LADDER_VERSION
    return bitstream.VIDEO_VERSION

  @property
  def header_size(self) -> int:
    """Bytes before the directory or the first GOP."""
    shapes = len(self.layer_shapes) * bitstream.SHAPE.size
    return _FIXED.size + shapes + len(self.metadata) + CHECKSUM.size

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    return self.layer_shapes or ((self.height, self.width),) * self.num_layers

  def first_layers(self, num_layers: int) -> 'VideoHeader':
    """The header of the same video with fewer layers."""
    shapes = self.layer_shapes[:num_layers]
    return dataclasses.replace(self, num_layers=num_layers, layer_shapes=shapes)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GopEntry:
  """What a file says of one GOP.

  Attributes:
    index: of the GOP.
    first_frame: how many frames come before it.
    start: time of its first frame.
    runs: (duration, how many frames in a row have it).
    packet_sizes: bytes, by layer.
    checksums: CRC-32 of the packets.
    packet_offsets: where they start in the file.
  """

  index: int
  first_frame: int
  start: int
  runs: tuple[tuple[int, int], ...]
  packet_sizes: tuple[int, ...]
  checksums: tuple[int, ...]
  packet_offsets: tuple[int, ...] = ()

  @property
  def num_frames(self) -> int:
    """Frames of this GOP."""
    return sum(count for _, count in self.runs)

  @property
  def durations(self) -> tuple[int, ...]:
    """Of its frames; all but the last end where the next starts."""
    return tuple(
        itertools.chain.from_iterable(
            itertools.repeat(*run) for run in self.runs
        )
    )

  @property
  def times(self) -> tuple[int, ...]:
    """When its frames start."""
    return tuple(itertools.accumulate(self.durations, initial=self.start))[:-1]

  @property
  def end(self) -> int:
    """When its last frame ends."""
    return self.start + sum(duration * count for duration, count in self.runs)


def pack_varint(value: int) -> bytes:
  """A number >= 0, seven bits a byte, lowest first; 128 says: more follow.

  Example:
    >>> pack_varint(300).hex()
    'ac02'
  """
  data = bytearray()
  while value > 127:
    data.append(value & 127 | 128)
    value >>= 7
  return bytes([*data, value])


def read_varint(file: BinaryIO) -> int:
  """Reads what `pack_varint` packs.

  Args:
    file: where to read; it is left behind the number.

  Returns:
    The number, below 2**56.

  Raises:
    ValueError: the file ends, or the number is longer than need be.
  """
  value = 0
  for k in range(_MAX_VARINT_BYTES):
    byte = file.read(1)
    if not byte:
      raise ValueError('ends too early')
    value |= (byte[0] & 127) << 7 * k
    if byte[0] < 128:
      if k and not byte[0]:
        break  # One number, one spelling: so reordering gives the same bytes.
      return value
  raise ValueError('a number is spelt wrong')


def pack_header(header: VideoHeader) -> bytes:
  """The bytes of a header that breaks no rule."""
  color = header.color
  rate = header.frame_rate
  body = (
      _FIXED.pack(
          bitstream.MAGIC,
          header.version,
          0,
          header.header_size,
          header.width,
          header.height,
          header.channels,
          header.num_layers,
          header.order,
          color.primaries,
          color.transfer,
          color.matrix,
          color.full_range,
          0,
          *header.time_base.as_integer_ratio(),
          *(rate.as_integer_ratio() if rate else (0, 0)),
          *header.pixel_aspect.as_integer_ratio(),
      )
      + b''.join(bitstream.SHAPE.pack(*x[::-1]) for x in header.layer_shapes)
      + header.metadata
  )
  return body + CHECKSUM.pack(zlib.crc32(body))


def check_header(header: VideoHeader) -> None:
  """Raises ValueError where a header breaks a rule of the syntax."""
  width, height = header.width, header.height
  if not (
      width >= 1 and height >= 1 and width * height <= bitstream.MAX_PIXELS
  ):
    raise ValueError(f'bad picture size {width}x{height}')
  if not 1 <= header.channels <= bitstream.MAX_CHANNELS:
    raise ValueError(f'bad number of channels {header.channels}')
  if not 1 <= header.num_layers <= bitstream.MAX_LAYERS:
    raise ValueError(f'bad number of layers {header.num_layers}')
  if len(header.native_shapes) != header.num_layers:
    raise ValueError(
        f'{len(header.layer_shapes)} sizes for {header.num_layers} layers'
    )
  bitstream.check_shapes(header.native_shapes, height, width)
  if header.header_size > bitstream.MAX_HEADER_SIZE:
    raise ValueError(f'metadata of {len(header.metadata)} bytes is too long')
  for name in ('time_base', 'frame_rate', 'pixel_aspect'):
    ratio = getattr(header, name)
    if ratio is not None and not (
        ratio > 0 and max(ratio.as_integer_ratio()) < 2**32
    ):
      raise ValueError(f'bad {name.replace("_", " ")} {ratio}')
  codes = dataclasses.astuple(header.color)[:3]
  if not all(0 <= code <= 255 for code in codes):
    raise ValueError(f'bad color tags {codes}')


def _read_ratio(numerator: int, denominator: int) -> fractions.Fraction:
  if numerator and denominator:
    ratio = fractions.Fraction(numerator, denominator)
    if ratio.denominator == denominator:
      return ratio
  raise ValueError(f'bad fraction {numerator}/{denominator}')


def read_header(data: bytes) -> VideoHeader:
  """Reads and checks the header; nothing behind it is looked at.

  Args:
    data: the file or any beginning of it that holds the header, which is at
      most 65,535 bytes.

  Returns:
    The header, all of its rules checked.

  Raises:
    BitstreamError: the data is no video of this version, its header is damaged,
      or it ends inside the header.

  Example:
    >>> read_header(b'GIF89a')
    Traceback (most recent call last):
    pgsvc_jax.codec.bitstream.BitstreamError: not a .pgsvc file
  """
  version = bitstream.read_version(data)
  if version in bitstream.PICTURE_VERSIONS:
    raise bitstream.BitstreamError('the file is a picture, not a video')
  if version not in bitstream.VIDEO_VERSIONS:
    raise bitstream.BitstreamError(f'version {version} is not supported')
  if len(data) < _FIXED.size:
    raise bitstream.BitstreamError(
        f'file ends inside the header (has {len(data)} bytes)'
    )
  _, _, flags, size, *frame = _FIXED.unpack_from(data)
  width, height, channels, layers, order, *rest = frame
  primaries, transfer, matrix, full_range, reserved, *ratios = rest
  has_shapes = version == bitstream.VIDEO_LADDER_VERSION
  begin = _FIXED.size + (layers * bitstream.SHAPE.size if has_shapes else 0)
  if size < begin + CHECKSUM.size or (has_shapes and not layers):
    raise bitstream.BitstreamError('header is damaged (size)')
  if len(data) < size:
    raise bitstream.BitstreamError(
        f'file ends inside the header (has {len(data)} of {size} bytes)'
    )
  end = size - CHECKSUM.size
  if CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
    raise bitstream.BitstreamError('header is damaged (checksum)')
  # With a good checksum only a faulty or malicious writer fails here.
  try:
    if flags or reserved or full_range > 1:
      raise ValueError(f'unknown flags {flags}, {full_range}, {reserved}')
    header = VideoHeader(
        width=width,
        height=height,
        channels=channels,
        num_layers=layers,
        time_base=_read_ratio(*ratios[:2]),
        frame_rate=_read_ratio(*ratios[2:4]) if any(ratios[2:4]) else None,
        pixel_aspect=_read_ratio(*ratios[4:]),
        color=ColorTags(
            primaries=primaries,
            transfer=transfer,
            matrix=matrix,
            full_range=bool(full_range),
        ),
        order=PacketOrder(order),
        metadata=data[begin:end],
        layer_shapes=tuple(
            shape[::-1]
            for shape in bitstream.SHAPE.iter_unpack(data[_FIXED.size : begin])
        ),
    )
    check_header(header)
  except ValueError as error:
    raise bitstream.BitstreamError(f'header is invalid ({error})') from None
  return header


def check_entry(gop: GopEntry, before: GopEntry | None) -> None:
  """Raises ValueError where an entry breaks a rule of the syntax.

  Args:
    gop: the entry.
    before: that of the GOP before.
  """
  if gop.index >= MAX_GOPS:
    raise ValueError(f'more than {MAX_GOPS} GOPs')
  if not 1 <= gop.num_frames <= MAX_FRAMES:
    raise ValueError(f'{gop.num_frames} frames, allowed are 1 to {MAX_FRAMES}')
  if min(duration for duration, _ in gop.runs) < 1:
    raise ValueError('times do not increase')
  if before and gop.start < before.end:
    raise ValueError('starts before the GOP before ends')
  if max(abs(gop.start), abs(gop.end)) > MAX_TIME:
    raise ValueError(f'times beyond {MAX_TIME}')
  if max(gop.packet_sizes) > MAX_PACKET_SIZE:
    raise ValueError(f'a packet of more than {MAX_PACKET_SIZE} bytes')


def pack_entry(gop: GopEntry, before: GopEntry | None) -> bytes:
  """The bytes of an entry.

  Args:
    gop: the entry, which breaks no rule.
    before: that of the GOP before; the time is coded from its end.
  """
  gap = gop.start - (before.end if before else 0)
  numbers = [gop.num_frames, 2 * gap if gap >= 0 else -2 * gap - 1]
  for duration, count in gop.runs:
    numbers += [duration, count]
  body = b''.join(map(pack_varint, numbers))
  for size, checksum in zip(gop.packet_sizes, gop.checksums, strict=True):
    body += pack_varint(size) + CHECKSUM.pack(checksum)
  body = ENTRY_SIZE.pack(ENTRY_SIZE.size + len(body) + CHECKSUM.size) + body
  return body + CHECKSUM.pack(zlib.crc32(body))


def parse_entry(
    data: bytes, num_layers: int, before: GopEntry | None
) -> GopEntry:
  """Reads an entry and checks all of its rules.

  Args:
    data: its bytes, as many as it says.
    num_layers: of the video.
    before: the entry of the GOP before.

  Returns:
    The entry, without offsets.

  Raises:
    BitstreamError: it is damaged or breaks a rule.
  """
  index = before.index + 1 if before else 0
  where = f'GOP {index}: entry is'
  end = len(data) - CHECKSUM.size
  if end < ENTRY_SIZE.size:
    raise bitstream.BitstreamError(f'{where} damaged (size)')
  if CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
    raise bitstream.BitstreamError(f'{where} damaged (checksum)')
  file = io.BytesIO(data[ENTRY_SIZE.size : end])
  try:
    num_frames, gap = read_varint(file), read_varint(file)
    if not 1 <= num_frames <= MAX_FRAMES:
      raise ValueError(f'{num_frames} frames, allowed are 1 to {MAX_FRAMES}')
    runs = []
    frames = 0
    while frames < num_frames:
      runs.append((read_varint(file), read_varint(file)))
      frames += runs[-1][1]
      if not runs[-1][1] or len(runs) > 1 and runs[-1][0] == runs[-2][0]:
        raise ValueError('durations are spelt wrong')
    if frames != num_frames:
      raise ValueError(f'{frames} durations for {num_frames} frames')
    sizes, checksums = [], []
    for _ in range(num_layers):
      sizes.append(read_varint(file))
      checksum = file.read(CHECKSUM.size)
      if len(checksum) < CHECKSUM.size:
        raise ValueError('ends too early')
      checksums += CHECKSUM.unpack(checksum)
    if file.read(1):
      raise ValueError('ends too late')
    gop = GopEntry(
        index=index,
        first_frame=before.first_frame + before.num_frames if before else 0,
        start=(before.end if before else 0)
        + (-(gap + 1 >> 1) if gap & 1 else gap >> 1),
        runs=tuple(runs),
        packet_sizes=tuple(sizes),
        checksums=tuple(checksums),
    )
    check_entry(gop, before)
  except ValueError as error:
    raise bitstream.BitstreamError(f'{where} invalid ({error})') from None
  return gop
