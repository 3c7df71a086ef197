"""The exact byte syntax of a .pgsvc file, version 2; version 1 is read too.

Version 4 is version 2 for layers of several sizes: the directory says them.

  header   magic, version, size, directory of the layers, metadata, checksum
  packets  one a layer, base layer first, nothing else

A layer's packet needs no other packet to be decoded, and a file may be cut
anywhere: what is left shows the layers that are whole. Everything else that is
wrong with a file is a BitstreamError. Numbers are little-endian; no float is
stored. `docs/format.md` is the specification.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import struct
import zlib

import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec import version1

# As PNG's: not ASCII, a line end of either kind and an end-of-file character,
# so that a transfer in text mode shows at once.
MAGIC = b'\x89PGS\r\n\x1a\n'
VERSION = 2
LADDER_VERSION = 4
PICTURE_VERSIONS = (version1.VERSION, VERSION, LADDER_VERSION)
# docs/format_video.md, video/container: of one size, and of several.
VIDEO_VERSION = 3
VIDEO_LADDER_VERSION = 5
VIDEO_VERSIONS = (VIDEO_VERSION, VIDEO_LADDER_VERSION)

MAX_CHANNELS = 4
MAX_LAYERS = 255
MAX_PIXELS = 2**28
MAX_HEADER_SIZE = 2**16 - 1

# Magic, version, flags, header size, width, height, channels, layers.
_FIXED = struct.Struct('<8sBBHIIBB')
# Splats, packet size, packet checksum, step sizes.
_ENTRY = struct.Struct('<IIIHHHH')
# Width and height of a layer's own grid; follows its entry in LADDER_VERSION.
SHAPE = struct.Struct('<II')
_CHECKSUM = struct.Struct('<I')


class BitstreamError(ValueError):
  """The bytes are no valid .pgsvc file; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerEntry:
  """What the directory says of one layer.

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
  """All that a file says before its first packet.

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
  def header_size(self) -> int:
    """Bytes before the first packet."""
    directory = len(self.layers) * _entry_size(self.version)
    return _FIXED.size + directory + len(self.metadata) + _CHECKSUM.size

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    whole = self.height, self.width
    return tuple(entry.shape or whole for entry in self.layers)

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
    available = available_layers(self, num_bytes)
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


def _entry_size(version: int) -> int:
  has_shape = version == LADDER_VERSION
  return _ENTRY.size + (SHAPE.size if has_shape else 0)


def _pack_header(header: Header) -> bytes:
  size, layers = header.header_size, len(header.layers)
  has_shapes = header.version == LADDER_VERSION
  frame = header.width, header.height, header.channels
  fixed = _FIXED.pack(MAGIC, header.version, 0, size, *frame, layers)
  directory = b''.join(
      _ENTRY.pack(
          entry.num_splats,
          entry.packet_size,
          entry.checksum,
          *dataclasses.astuple(entry.step_sizes),
      )
      + (SHAPE.pack(*shape[::-1]) if has_shapes else b'')
      for entry, shape in zip(header.layers, header.native_shapes)
  )
  body = fixed + directory + header.metadata
  return body + _CHECKSUM.pack(zlib.crc32(body))


def _check(header: Header) -> None:
  """Raises ValueError where a header breaks a rule of the syntax."""
  width, height = header.width, header.height
  if not (width >= 1 and height >= 1 and width * height <= MAX_PIXELS):
    raise ValueError(f'bad picture size {width}x{height}')
  if not 1 <= header.channels <= MAX_CHANNELS:
    raise ValueError(f'bad number of channels {header.channels}')
  if not 1 <= len(header.layers) <= MAX_LAYERS:
    raise ValueError(f'bad number of layers {len(header.layers)}')
  if header.header_size > MAX_HEADER_SIZE:
    raise ValueError(f'metadata of {len(header.metadata)} bytes is too long')
  for layer, entry in enumerate(header.layers):
    num_splats, size = entry.num_splats, entry.packet_size
    if num_splats > splat_coding.SPLATS_PER_BYTE * size or (
        size and not num_splats
    ):
      raise ValueError(
          f'bad layer {layer}: {num_splats} splats in {size} bytes'
      )
  check_shapes(header.native_shapes, height, width)


def check_shapes(
    shapes: Sequence[tuple[int, int]], height: int, width: int
) -> None:
  """Raises ValueError where sizes of layers fall or exceed the picture's."""
  for below, above in itertools.pairwise(((1, 1), *shapes, (height, width))):
    if below[0] > above[0] or below[1] > above[1]:
      raise ValueError(
          f'bad sizes of layers, {above[1]}x{above[0]} above'
          f' {below[1]}x{below[0]}'
      )


def write(
    layered: quantized.QuantizedLayers | types.LayeredSplats,
    step_sizes: quantize.StepSizes | Sequence[quantize.StepSizes] | None = None,
    *,
    metadata: bytes = b'',
) -> bytes:
  """The file of a layered picture.

  Args:
    layered: symbols as a fit ends with them; or NumPy splats in layer order,
      which are rounded to the nearest symbols.
    step_sizes: of splats, one for all layers, or one a layer; cells are larger
      where a picture of over 32,766 pixels needs it (`quantize.reaching`).
    metadata: stored in the header as it is.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: the picture does not fit the syntax or has values that are not
      finite.
    TypeError: splats without step sizes.

  Example:
    >>> one = types.Splats(
    ...   means=np.float32([[1.5, 2.0]]),
    ...   cholesky=np.float32([[1.0, 0.5, 2.0]]),
    ...   colors=np.float32([[0.25, 0.5, 0.125]]),
    ... )
    >>> picture = types.LayeredSplats(
    ...   splats=one, layer_sizes=(1,), height=4, width=3
    ... )
    >>> data = write(picture, quantize.StepSizes())
    >>> read_header(data).truncation_points == (len(data),)
    True
    >>> read_layers(data).splats.means
    array([[1.5625, 2.125 ]], dtype=float32)
  """
  if isinstance(layered, types.LayeredSplats):
    if step_sizes is None:
      raise TypeError('splats are written with step sizes')
    layered = quantized.quantize_layers(layered, step_sizes)
  packets = list(map(splat_coding.encode, layered.symbols, layered.step_sizes))
  is_ladder = set(layered.native_shapes) != {(layered.height, layered.width)}
  header = Header(
      width=layered.width,
      height=layered.height,
      channels=layered.channels,
      layers=tuple(
          LayerEntry(
              num_splats=size,
              packet_size=len(packet),
              checksum=zlib.crc32(packet),
              step_sizes=steps,
              shape=shape if is_ladder else None,
          )
          for size, packet, steps, shape in zip(
              layered.layer_sizes,
              packets,
              layered.step_sizes,
              layered.native_shapes,
              strict=True,
          )
      ),
      metadata=metadata,
      version=LADDER_VERSION if is_ladder else VERSION,
  )
  _check(header)
  return _pack_header(header) + b''.join(packets)


def header_size(num_layers: int) -> int:
  """Bytes before the first packet of a picture whose layers are of one size.

  Example:
    >>> header_size(3) - header_size(2)
    20
  """
  return _FIXED.size + num_layers * _entry_size(VERSION) + _CHECKSUM.size


def _read_entry(version: int, data: bytes) -> LayerEntry:
  num_splats, packet_size, checksum, *steps = _ENTRY.unpack_from(data)
  shape = None
  if version == LADDER_VERSION:
    shape = SHAPE.unpack_from(data, _ENTRY.size)[::-1]
  cls = (
      version1.StepSizes if version == version1.VERSION else quantize.StepSizes
  )
  names = (field.name for field in dataclasses.fields(cls))
  return LayerEntry(
      num_splats=num_splats,
      packet_size=packet_size,
      checksum=checksum,
      step_sizes=cls(**dict(zip(names, steps, strict=True))),
      shape=shape,
  )


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


def read_header(data: bytes) -> Header:
  """Reads and checks the header; nothing behind it is looked at.

  Args:
    data: the file or any beginning of it that holds the header.

  Returns:
    The header, all of its rules checked.

  Raises:
    BitstreamError: the data is no .pgsvc file of this version, its header is
      damaged, or it ends inside the header.

  Example:
    >>> read_header(b'GIF89a')
    Traceback (most recent call last):
    pgsvc_jax.codec.bitstream.BitstreamError: not a .pgsvc file
  """
  version = read_version(data)
  if version in VIDEO_VERSIONS:
    raise BitstreamError('the file is a video, not a picture')
  if version not in PICTURE_VERSIONS:
    raise BitstreamError(f'version {version} is not supported')
  if len(data) < _FIXED.size:
    raise BitstreamError(f'file ends inside the header (has {len(data)} bytes)')
  fixed = _FIXED.unpack_from(data)
  _, _, flags, header_size, width, height, channels, num_layers = fixed
  entry_size = _entry_size(version)
  directory_end = _FIXED.size + num_layers * entry_size
  if header_size < directory_end + _CHECKSUM.size:
    raise BitstreamError('header is damaged (size)')
  if len(data) < header_size:
    raise BitstreamError(
        f'file ends inside the header (has {len(data)} of {header_size} bytes)'
    )
  body_size = header_size - _CHECKSUM.size
  if _CHECKSUM.unpack_from(data, body_size) != (zlib.crc32(data[:body_size]),):
    raise BitstreamError('header is damaged (checksum)')
  if flags:
    raise BitstreamError(f'flags {flags:#04x} are not supported')
  # With a good checksum only a faulty or malicious writer fails here.
  entries = (
      data[start : start + entry_size]
      for start in range(_FIXED.size, directory_end, entry_size)
  )
  try:
    header = Header(
        width=width,
        height=height,
        channels=channels,
        layers=tuple(_read_entry(version, entry) for entry in entries),
        metadata=data[directory_end:body_size],
        version=version,
    )
    _check(header)
  except ValueError as error:
    raise BitstreamError(f'header is invalid ({error})') from None
  return header


def available_layers(header: Header, num_bytes: int) -> int:
  """How many layers are whole within the first bytes of a file.

  Args:
    header: the file's.
    num_bytes: bytes at hand, from the start of the file.

  Returns:
    0 (not even the base layer) to the number of layers.
  """
  return sum(point <= num_bytes for point in header.truncation_points)


def _checked_packets(
    data: bytes, header: Header, num_layers: int | None
) -> list[bytes]:
  """The packets of the first layers (None: all at hand), not yet decoded."""
  if num_layers is not None and num_layers < 1:
    raise ValueError(f'{num_layers=} is not positive')
  if len(data) > header.file_size:
    excess = len(data) - header.file_size
    raise BitstreamError(f'{excess} bytes after the last packet')
  if num_layers is not None and num_layers > len(header.layers):
    raise BitstreamError(
        f'{num_layers} layers asked for, the file has {len(header.layers)}'
    )
  available = available_layers(header, len(data))
  if not available:
    raise BitstreamError(
        'file ends inside the base layer (has'
        f' {len(data)} of {header.truncation_points[0]} bytes)'
    )
  if num_layers is None:
    num_layers = available
  if num_layers > available:
    raise BitstreamError(
        f'{num_layers} layers asked for, the file is cut after {available} of'
        f' {len(header.layers)}'
    )
  packets = []
  for layer, entry in enumerate(header.layers[:num_layers]):
    offset = header.packet_offsets[layer]
    packet = data[offset : offset + entry.packet_size]
    if zlib.crc32(packet) != entry.checksum:
      raise BitstreamError(f'packet of layer {layer} is damaged (checksum)')
    packets.append(packet)
  return packets


def _decode_layer(
    packet: bytes, entry: LayerEntry, channels: int
) -> types.Splats:
  steps = entry.step_sizes
  if isinstance(steps, version1.StepSizes):
    rows = version1.decode_packet(packet, entry.num_splats, channels)
    return version1.dequantize(rows, steps)
  symbols = splat_coding.decode(packet, entry.num_splats, channels, steps)
  return quantize.dequantize(symbols, steps)


def read_layers(
    data: bytes, num_layers: int | None = None
) -> types.LayeredSplats:
  """Decodes the first layers of a file, which may be cut anywhere.

  Args:
    data: the file or a beginning of it.
    num_layers: how many layers; None for all that are whole.

  Returns:
    Their splats, sorted along the curve within each layer.

  Raises:
    BitstreamError: the header or a packet is damaged, the file ends before the
      base layer does, it has fewer layers, or bytes follow its last packet.
    ValueError: num_layers is not positive.

  Example:
    >>> splats = types.Splats(*(np.ones((5, n), np.float32) for n in (2, 3, 1)))
    >>> data = write(
    ...     types.LayeredSplats(
    ...         splats=splats, layer_sizes=(3, 2), height=4, width=4),
    ...     quantize.StepSizes())
    >>> read_layers(data).layer_sizes
    (3, 2)
    >>> read_layers(data[:-1]).layer_sizes
    (3,)
  """
  header = read_header(data)
  layers = []
  for layer, packet in enumerate(_checked_packets(data, header, num_layers)):
    entry = header.layers[layer]
    try:
      layers.append(_decode_layer(packet, entry, header.channels))
    except ValueError as error:
      message = f'packet of layer {layer} is damaged ({error})'
      raise BitstreamError(message) from None
  return types.LayeredSplats(
      splats=types.Splats(*map(np.concatenate, zip(*layers, strict=True))),
      layer_sizes=tuple(len(layer.means) for layer in layers),
      height=header.height,
      width=header.width,
      layer_shapes=(
          header.native_shapes[: len(layers)]
          if header.version == LADDER_VERSION
          else ()
      ),
  )


def attribute_bits(data: bytes) -> list[dict[str, float]]:
  """The bits of each layer that is whole, by attribute.

  Args:
    data: the file or a beginning of it.

  Returns:
    One entry a layer, as `splat_coding.attribute_bits`.

  Raises:
    BitstreamError: as `read_layers`, or a file of version 1.
  """
  header = read_header(data)
  if header.version != VERSION:
    raise BitstreamError(
        f'version {header.version} has no bits by attribute, {VERSION} has'
    )
  result = []
  for layer, packet in enumerate(_checked_packets(data, header, None)):
    entry = header.layers[layer]
    steps = entry.step_sizes
    try:
      symbols = splat_coding.decode(
          packet, entry.num_splats, header.channels, steps
      )
    except ValueError as error:
      message = f'packet of layer {layer} is damaged ({error})'
      raise BitstreamError(message) from None
    result.append(splat_coding.attribute_bits(symbols, steps))
  return result


def extract(data: bytes, num_layers: int) -> bytes:
  """A file of the first layers only: packets copied, directory shortened.

  Args:
    data: the file, or a beginning of it that holds these layers.
    num_layers: how many layers to keep.

  Returns:
    The smaller file.

  Raises:
    BitstreamError: as read_layers.
    ValueError: num_layers is not positive.

  Example:
    >>> splats = types.Splats(*(np.ones((5, n), np.float32) for n in (2, 3, 1)))
    >>> data = write(
    ...     types.LayeredSplats(
    ...         splats=splats, layer_sizes=(3, 2), height=4, width=4),
    ...     quantize.StepSizes())
    >>> len(read_header(extract(data, 1)).layers)
    1
  """
  header = read_header(data)
  packets = _checked_packets(data, header, num_layers)
  kept = dataclasses.replace(header, layers=header.layers[:num_layers])
  return _pack_header(kept) + b''.join(packets)
