"""The headers of pictures and videos and the entries of GOPs, as bytes.

A .pgsvc file of any version starts alike:

  magic, version, flags, header size, width, height, channels, layers

Then come, in the header of

  a picture  of each layer its splats, packet and step sizes: versions 1 and 2,
             or 4, which also has the sizes of the layers
  a video    order of the packets, color tags, time base, frame rate, pixel
             aspect: version 3, or 5, which also has the sizes of the layers

and metadata and a checksum. The header of a picture of version 6 says the same
in fewer bytes: numbers as long as need be, and of a layer only in what it
differs from the one below. What follows is one packet a layer for every group
of pictures (GOP): opaque bytes that hold all its frames of that layer. A GOP
starts with an I-frame and needs no other GOP. In a video, an entry before its
packets tells the times of its frames and the sizes of its packets; a picture
is one GOP of one frame, and its header tells them. Times are integers that
count units of the time base. Numbers are little-endian; no float is stored.

`docs/format.md` and `docs/format_video.md` are the specification; `stream` puts
the parts together.
"""

from collections.abc import Sequence
import dataclasses
import enum
import fractions
import io
import itertools
import struct
from typing import BinaryIO, Self
import zlib

from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec.versions import version1

# As PNG's: not ASCII, a line end of either kind and an end-of-file character,
# so that a transfer in text mode shows at once.
MAGIC = b'\x89PGS\r\n\x1a\n'
VERSION = 6
# Older ones, of layers of one size and of several.
PLAIN_VERSION = 2
LADDER_VERSION = 4
PICTURE_VERSIONS = (version1.VERSION, PLAIN_VERSION, LADDER_VERSION, VERSION)
VIDEO_VERSION = 3
VIDEO_LADDER_VERSION = 5
VIDEO_VERSIONS = (VIDEO_VERSION, VIDEO_LADDER_VERSION)

MAX_CHANNELS = 4
MAX_LAYERS = 255
MAX_PIXELS = 2**28
MAX_HEADER_SIZE = 2**16 - 1
MAX_FRAMES = 4096  # A GOP.
MAX_GOPS = 2**18
MAX_TIME = 2**53
MAX_PACKET_SIZE = 2**32 - 1

# An entry, and its size, start with it; 0 is no entry but the end of the video.
ENTRY_SIZE = struct.Struct('<H')
CHECKSUM = struct.Struct('<I')
# Magic, version, flags, header size, width, height, channels, layers.
_COMMON = struct.Struct('<8sBBHIIBB')
# Of a layer of a picture: splats, packet size, packet checksum, step sizes.
_LAYER = struct.Struct('<IIIHHHH')
# Of a video: order, primaries, transfer, matrix, full range, reserved, time
# base, frame rate, pixel aspect.
_VIDEO = struct.Struct('<6B6I')
# Width and height of a layer's own grid, in versions that have one.
_SHAPE = struct.Struct('<II')
_MAX_VARINT_BYTES = 8


class BitstreamError(ValueError):
  """The bytes are no valid .pgsvc file; the message is one line."""


class PacketOrder(enum.IntEnum):
  """What comes first in the file of a video."""

  TIME = 0
  QUALITY = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerEntry:
  """What the header of a picture says of one layer.

  Attributes:
    num_splats: splats of this layer alone.
    packet_size: bytes.
    checksum: CRC-32 of the packet.
    step_sizes: of its symbols.
    shape: height and width of its own grid; None where that is the picture's in
      all layers.
  """

  num_splats: int
  packet_size: int
  checksum: int
  step_sizes: quantize.StepSizes | version1.StepSizes
  shape: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """All that the file of a picture says before its first packet.

  Attributes:
    width: pixels.
    height: pixels.
    channels: colors a splat.
    layers: the directory, base layer first.
    metadata: bytes for the user, UTF-8 JSON by convention; decoding needs none.
    version: of the syntax of its packets.

  Example:
    >>> layers = tuple(
    ...     LayerEntry(
    ...         num_splats=9, packet_size=size, checksum=0,
    ...         step_sizes=quantize.StepSizes())
    ...     for size in (100, 50))
    >>> header = Header(width=40, height=30, channels=3, layers=layers)
    >>> [point - header.header_size for point in header.truncation_points]
    [100, 150]
  """

  width: int
  height: int
  channels: int
  layers: tuple[LayerEntry, ...]
  metadata: bytes = b''
  version: int = VERSION

  @property
  def num_layers(self) -> int:
    """Layers of the whole file."""
    return len(self.layers)

  @property
  def header_size(self) -> int:
    """Bytes before the first packet."""
    return _header_size(self)

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    whole = self.height, self.width
    return tuple(entry.shape or whole for entry in self.layers)

  @property
  def layer_shapes(self) -> tuple[tuple[int, int], ...]:
    """As `native_shapes`; empty where all are those of the picture."""
    whole = {(self.height, self.width)}
    has_shapes = self.version == LADDER_VERSION or (
        self.version == VERSION and set(self.native_shapes) != whole
    )
    return self.native_shapes if has_shapes else ()

  def first_layers(self, num_layers: int) -> Self:
    """The header of the same picture with fewer layers."""
    return dataclasses.replace(self, layers=self.layers[:num_layers])

  def available_layers(self, num_bytes: int) -> int:
    """How many layers are whole within the first bytes of the file."""
    return sum(point <= num_bytes for point in self.truncation_points)

  def shown_shape(
      self, num_bytes: int, num_layers: int | None = None
  ) -> tuple[int, int]:
    """Height and width of what decodes from the first bytes of the file.

    Args:
      num_bytes: bytes at hand, from the start of the file.
      num_layers: at most; None: all that are whole.

    Returns:
      The native shape of the highest layer; of the base where nothing decodes.
    """
    available = self.available_layers(num_bytes)
    shown = min(num_layers or available, available)
    return self.native_shapes[max(shown, 1) - 1]

  @property
  def packet_offsets(self) -> tuple[int, ...]:
    """Where each packet starts in the file."""
    return (self.header_size, *self.truncation_points[:-1])

  @property
  def truncation_points(self) -> tuple[int, ...]:
    """Bytes of the file up to the end of each operating point."""
    sizes = (entry.packet_size for entry in self.layers)
    return tuple(itertools.accumulate(sizes, initial=self.header_size))[1:]

  @property
  def file_size(self) -> int:
    """Bytes of the whole file."""
    return self.truncation_points[-1]

  @property
  def bits_per_pixel(self) -> tuple[float, ...]:
    """Rate of each operating point, header included, at the full size."""
    pixels = self.width * self.height
    return tuple(8 * size / pixels for size in self.truncation_points)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoHeader:
  """What the file of a video says before its first GOP.

  Color tags are those of the source, code points of ITU-T H.273; 2 is
  "unspecified". Fields that `stream_format.VideoFormat` has too are the same
  there: of what the video was read from, and of what it is decoded to.

  Attributes:
    width: pixels.
    height: pixels.
    channels: colors a splat.
    num_layers: of every GOP.
    time_base: seconds of one unit of time.
    frame_rate: nominal, a second; None if unknown. Times do not follow it.
    pixel_aspect: width of a pixel divided by its height, for the output.
    primaries: ColourPrimaries.
    transfer: TransferCharacteristics.
    matrix: MatrixCoefficients.
    full_range: samples use all codes, not only 16..235 (of 8 bits).
    order: of the packets.
    metadata: bytes for the user, UTF-8 JSON by convention; decoding needs none.
    layer_shapes: height and width of the grid of each layer, as in
      `types.LayeredSplats`; empty where all are those of the frames.

  Example:
    >>> header = VideoHeader(
    ...     width=40, height=30, channels=3, num_layers=2,
    ...     layer_shapes=((15, 20), (30, 40)),
    ...     time_base=fractions.Fraction(1, 24))
    >>> header.version, header.first_layers(1).native_shapes
    (5, ((15, 20),))
  """

  width: int
  height: int
  channels: int
  num_layers: int
  time_base: fractions.Fraction
  frame_rate: fractions.Fraction | None = None
  pixel_aspect: fractions.Fraction = fractions.Fraction(1)
  primaries: int = 2
  transfer: int = 2
  matrix: int = 2
  full_range: bool = False
  order: PacketOrder = PacketOrder.TIME
  metadata: bytes = b''
  layer_shapes: tuple[tuple[int, int], ...] = ()

  @property
  def version(self) -> int:
    """Of the syntax."""
    return VIDEO_LADDER_VERSION if self.layer_shapes else VIDEO_VERSION

  @property
  def header_size(self) -> int:
    """Bytes before the directory or the first GOP."""
    return _header_size(self)

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    return self.layer_shapes or ((self.height, self.width),) * self.num_layers

  def first_layers(self, num_layers: int) -> Self:
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


def _layout(version: int) -> tuple[int, int]:
  """Bytes of a header before its layers, and of each layer."""
  shape = _SHAPE.size * (version in (LADDER_VERSION, VIDEO_LADDER_VERSION))
  if version in VIDEO_VERSIONS:
    return _COMMON.size + _VIDEO.size, shape
  return _COMMON.size, _LAYER.size + shape


def _header_size(header: Header | VideoHeader) -> int:
  if header.version == VERSION:
    return len(_pack_compact(header))
  fixed, a_layer = _layout(header.version)
  layers = header.num_layers * a_layer
  return fixed + layers + len(header.metadata) + CHECKSUM.size


def pack_header(header: Header | VideoHeader) -> bytes:
  """The bytes of a header that breaks no rule."""
  if isinstance(header, Header) and header.version == VERSION:
    return _pack_compact(header)
  parts = [
      _COMMON.pack(
          *(MAGIC, header.version, 0, header.header_size),
          *(header.width, header.height, header.channels, header.num_layers),
      )
  ]
  if isinstance(header, VideoHeader):
    parts.append(_pack_video(header))
  shapes = header.layer_shapes or (None,) * header.num_layers
  for k, shape in enumerate(shapes):
    if isinstance(header, Header):
      parts.append(_pack_layer(header.layers[k]))
    if shape:
      parts.append(_SHAPE.pack(*shape[::-1]))
  body = b''.join(parts) + header.metadata
  return body + CHECKSUM.pack(zlib.crc32(body))


def _pack_compact(header: Header) -> bytes:
  """The header of a picture of version 6."""
  numbers = [header.width, header.height, header.channels, header.num_layers]
  body = b''.join(map(pack_varint, numbers))
  steps = dataclasses.astuple(quantize.StepSizes())
  shape = header.height, header.width
  for entry, native in zip(header.layers, header.native_shapes):
    body += pack_varint(entry.num_splats) + pack_varint(entry.packet_size)
    body += CHECKSUM.pack(entry.checksum)
    below, steps = steps, dataclasses.astuple(entry.step_sizes)
    differs = [a != b for a, b in zip(below, steps)] + [shape != native]
    shape = native
    news = itertools.compress(steps, differs)
    body += bytes([sum(bit << k for k, bit in enumerate(differs))])
    body += b''.join(map(pack_varint, news))
    if differs[-1]:
      body += pack_varint(native[1]) + pack_varint(native[0])
  body += header.metadata
  start = MAGIC + bytes([header.version])
  rest = len(start) + len(body) + CHECKSUM.size
  size = rest + 1
  while rest + len(pack_varint(size)) != size:
    size += 1
  body = start + pack_varint(size) + body
  return body + CHECKSUM.pack(zlib.crc32(body))


def _pack_layer(entry: LayerEntry) -> bytes:
  return _LAYER.pack(
      *(entry.num_splats, entry.packet_size, entry.checksum),
      *dataclasses.astuple(entry.step_sizes),
  )


def _pack_video(header: VideoHeader) -> bytes:
  rate = header.frame_rate
  return _VIDEO.pack(
      *(header.order, header.primaries, header.transfer, header.matrix),
      *(header.full_range, 0),
      *header.time_base.as_integer_ratio(),
      *(rate.as_integer_ratio() if rate else (0, 0)),
      *header.pixel_aspect.as_integer_ratio(),
  )


def check_header(header: Header | VideoHeader) -> None:
  """Raises ValueError where a header breaks a rule of the syntax."""
  width, height = header.width, header.height
  if not (width >= 1 and height >= 1 and width * height <= MAX_PIXELS):
    raise ValueError(f'bad picture size {width}x{height}')
  if not 1 <= header.channels <= MAX_CHANNELS:
    raise ValueError(f'bad number of channels {header.channels}')
  if not 1 <= header.num_layers <= MAX_LAYERS:
    raise ValueError(f'bad number of layers {header.num_layers}')
  if len(header.native_shapes) != header.num_layers:
    raise ValueError(
        f'{len(header.native_shapes)} sizes for {header.num_layers} layers'
    )
  _check_shapes(header.native_shapes, height, width)
  if header.header_size > MAX_HEADER_SIZE:
    raise ValueError(f'metadata of {len(header.metadata)} bytes is too long')
  if isinstance(header, VideoHeader):
    _check_video(header)
    return
  for layer, entry in enumerate(header.layers):
    num_splats, size = entry.num_splats, entry.packet_size
    if num_splats > splat_coding.SPLATS_PER_BYTE * size or (
        size and not num_splats
    ):
      raise ValueError(
          f'bad layer {layer}: {num_splats} splats in {size} bytes'
      )


def _check_shapes(
    shapes: Sequence[tuple[int, int]], height: int, width: int
) -> None:
  """Raises ValueError where sizes of layers fall or exceed the picture's."""
  for below, above in itertools.pairwise(((1, 1), *shapes, (height, width))):
    if below[0] > above[0] or below[1] > above[1]:
      raise ValueError(
          f'bad sizes of layers, {above[1]}x{above[0]} above'
          f' {below[1]}x{below[0]}'
      )


def _check_video(header: VideoHeader) -> None:
  for name in ('time_base', 'frame_rate', 'pixel_aspect'):
    ratio = getattr(header, name)
    if ratio is not None and not (
        ratio > 0 and max(ratio.as_integer_ratio()) < 2**32
    ):
      raise ValueError(f'bad {name.replace("_", " ")} {ratio}')
  codes = header.primaries, header.transfer, header.matrix
  if not all(0 <= code <= 255 for code in codes):
    raise ValueError(f'bad color tags {codes}')


def read_version(data: bytes) -> int:
  """The version of a file, which tells pictures from videos.

  Args:
    data: the file or its first 9 bytes.

  Returns:
    The version, whether or not it is one that this decoder knows.

  Raises:
    BitstreamError: the data is no .pgsvc file.

  Example:
    >>> read_version(MAGIC + bytes([3])) == VIDEO_VERSION
    True
  """
  if data[: len(MAGIC)] != MAGIC[: len(data)]:
    raise BitstreamError('not a .pgsvc file')
  if len(data) <= len(MAGIC):
    raise BitstreamError(f'file ends inside the header (has {len(data)} bytes)')
  return data[len(MAGIC)]


def read_header(data: bytes) -> Header | VideoHeader:
  """Reads and checks the header; nothing behind it is looked at.

  Args:
    data: the file or any beginning of it that holds the header, which is at
      most 65,535 bytes.

  Returns:
    The header of a picture or of a video, all of its rules checked.

  Raises:
    BitstreamError: the data is no .pgsvc file of a version that is known, its
      header is damaged, or it ends inside the header.

  Example:
    >>> read_header(b'GIF89a')
    Traceback (most recent call last):
    pgsvc_jax.codec.syntax.BitstreamError: not a .pgsvc file
  """
  version = read_version(data)
  if version not in PICTURE_VERSIONS + VIDEO_VERSIONS:
    raise BitstreamError(f'version {version} is not supported')
  if version == VERSION:
    return _read_compact(data)
  fixed, a_layer = _layout(version)
  if len(data) < fixed:
    raise BitstreamError(f'file ends inside the header (has {len(data)} bytes)')
  _, _, flags, size, width, height, channels, layers = _COMMON.unpack_from(data)
  metadata_start = fixed + layers * a_layer
  if size < metadata_start + CHECKSUM.size:
    raise BitstreamError('header is damaged (size)')
  if len(data) < size:
    raise BitstreamError(
        f'file ends inside the header (has {len(data)} of {size} bytes)'
    )
  end = size - CHECKSUM.size
  if CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
    raise BitstreamError('header is damaged (checksum)')
  if flags:
    raise BitstreamError(f'flags {flags:#04x} are not supported')
  # With a good checksum only a faulty or malicious writer fails here.
  parse = _parse_video if version in VIDEO_VERSIONS else _parse_picture
  try:
    header = parse(
        data[_COMMON.size : metadata_start],
        version,
        layers,
        width=width,
        height=height,
        channels=channels,
        metadata=data[metadata_start:end],
    )
    check_header(header)
  except ValueError as error:
    raise BitstreamError(f'header is invalid ({error})') from None
  return header


def _read_compact(data: bytes) -> Header:
  """Reads and checks the header of a picture of version 6."""
  file = io.BytesIO(data[:MAX_HEADER_SIZE])
  file.seek(len(MAGIC) + 1)
  try:
    size = read_varint(file)
  except ValueError:
    if len(data) > len(MAGIC) + _MAX_VARINT_BYTES:
      raise BitstreamError('header is damaged (size)') from None
    size = MAX_HEADER_SIZE
  if not file.tell() + CHECKSUM.size <= size <= MAX_HEADER_SIZE:
    raise BitstreamError('header is damaged (size)')
  if len(data) < size:
    raise BitstreamError(
        f'file ends inside the header (has {len(data)} of {size} bytes)'
    )
  end = size - CHECKSUM.size
  if CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
    raise BitstreamError('header is damaged (checksum)')
  # With a good checksum only a faulty or malicious writer fails here.
  try:
    header = _parse_compact(io.BytesIO(data[file.tell() : end]))
    check_header(header)
    if header.header_size != size:
      raise ValueError('spelt longer than need be')
  except ValueError as error:
    raise BitstreamError(f'header is invalid ({error})') from None
  return header


def _parse_compact(file: BinaryIO) -> Header:
  """Reads what stands between the size of a header and its checksum."""
  width, height, channels, num_layers = (read_varint(file) for _ in range(4))
  if num_layers > MAX_LAYERS:
    raise ValueError(f'bad number of layers {num_layers}')
  steps = dataclasses.asdict(quantize.StepSizes())
  shape = height, width
  entries = []
  for _ in range(num_layers):
    num_splats, packet_size = read_varint(file), read_varint(file)
    fixed = file.read(CHECKSUM.size + 1)
    if len(fixed) <= CHECKSUM.size:
      raise ValueError('ends too early')
    differs = fixed[-1]
    if differs >> len(steps) + 1:
      raise ValueError(f'unknown flags {differs:#04x}')
    for k, name in enumerate(steps):
      if differs >> k & 1:
        steps[name] = read_varint(file)
    if differs >> len(steps):
      native_width = read_varint(file)
      shape = read_varint(file), native_width
    entries.append(
        LayerEntry(
            num_splats=num_splats,
            packet_size=packet_size,
            checksum=int.from_bytes(fixed[:-1], 'little'),
            step_sizes=quantize.StepSizes(**steps),
            shape=shape,
        )
    )
  if all(entry.shape == (height, width) for entry in entries):
    entries = [dataclasses.replace(entry, shape=None) for entry in entries]
  return Header(
      width=width,
      height=height,
      channels=channels,
      layers=tuple(entries),
      metadata=file.read(),
      version=VERSION,
  )


def _parse_picture(
    data: bytes, version: int, num_layers: int, **common
) -> Header:
  """Reads what stands between the common part and the metadata."""
  cls = (
      version1.StepSizes if version == version1.VERSION else quantize.StepSizes
  )
  names = [field.name for field in dataclasses.fields(cls)]
  _, a_layer = _layout(version)
  entries = []
  for start in range(0, num_layers * a_layer, a_layer):
    num_splats, size, checksum, *steps = _LAYER.unpack_from(data, start)
    shape = None
    if version == LADDER_VERSION:
      shape = _SHAPE.unpack_from(data, start + _LAYER.size)[::-1]
    entries.append(
        LayerEntry(
            num_splats=num_splats,
            packet_size=size,
            checksum=checksum,
            step_sizes=cls(**dict(zip(names, steps, strict=True))),
            shape=shape,
        )
    )
  return Header(layers=tuple(entries), version=version, **common)


def _parse_video(
    data: bytes, version: int, num_layers: int, **common
) -> VideoHeader:
  """Reads what stands between the common part and the metadata."""
  order, primaries, transfer, matrix, full_range, reserved, *ratios = (
      _VIDEO.unpack_from(data)
  )
  if reserved or full_range > 1:
    raise ValueError(f'unknown flags {full_range}, {reserved}')
  if version == VIDEO_LADDER_VERSION and not num_layers:
    raise ValueError('bad number of layers 0')
  return VideoHeader(
      num_layers=num_layers,
      time_base=_read_ratio(*ratios[:2]),
      frame_rate=_read_ratio(*ratios[2:4]) if any(ratios[2:4]) else None,
      pixel_aspect=_read_ratio(*ratios[4:]),
      primaries=primaries,
      transfer=transfer,
      matrix=matrix,
      full_range=bool(full_range),
      order=PacketOrder(order),
      layer_shapes=tuple(
          shape[::-1] for shape in _SHAPE.iter_unpack(data[_VIDEO.size :])
      ),
      **common,
  )


def _read_ratio(numerator: int, denominator: int) -> fractions.Fraction:
  if numerator and denominator:
    ratio = fractions.Fraction(numerator, denominator)
    if ratio.denominator == denominator:
      return ratio
  raise ValueError(f'bad fraction {numerator}/{denominator}')


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
    raise BitstreamError(f'{where} damaged (size)')
  if CHECKSUM.unpack_from(data, end) != (zlib.crc32(data[:end]),):
    raise BitstreamError(f'{where} damaged (checksum)')
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
    raise BitstreamError(f'{where} invalid ({error})') from None
  return gop
