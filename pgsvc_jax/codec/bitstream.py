"""Layered splats to the bytes of a picture and back.

A layer's packet needs at most those of the layers below to be decoded, and a
file may be cut anywhere: what is left shows the layers that are whole.
Everything else that is wrong with a file is a BitstreamError.
"""

from collections.abc import Iterator, Sequence
import contextlib
import io
from typing import TYPE_CHECKING
import zlib

import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.codec.versions import version1

if TYPE_CHECKING:
  from pgsvc_jax.codec import layer_coding

BitstreamError = syntax.BitstreamError
read_header = syntax.read_header


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
  header, packets = encode(layered, metadata)
  file = io.BytesIO()
  with stream.StreamWriter(file, header) as writer:
    writer.add_picture(packets)
  return file.getvalue()


def encode(
    layers: quantized.QuantizedLayers, metadata: bytes = b''
) -> tuple[syntax.Header, list[bytes]]:
  """The header and the packets of a picture."""
  coder = _layer_coder(layers)
  packets = list(map(coder.write, layers.symbols, layers.step_sizes))
  is_ladder = set(layers.native_shapes) != {(layers.height, layers.width)}
  columns = (
      layers.layer_sizes,
      packets,
      layers.step_sizes,
      layers.native_shapes,
  )
  header = syntax.Header(
      width=layers.width,
      height=layers.height,
      channels=layers.channels,
      layers=tuple(
          syntax.LayerEntry(
              num_splats=size,
              packet_size=len(packet),
              checksum=zlib.crc32(packet),
              step_sizes=steps,
              shape=shape if is_ladder else None,
          )
          for size, packet, steps, shape in zip(*columns, strict=True)
      ),
      metadata=metadata,
  )
  return header, packets


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
  return decode_layers(*_packets(data, num_layers))


def read_symbols(
    data: bytes, num_layers: int | None = None
) -> quantized.QuantizedLayers:
  """The integers of the first layers of a file of version 2 or later.

  Args:
    data: the file or a beginning of it.
    num_layers: how many layers; None for all that are whole.

  Raises:
    BitstreamError: as `read_layers`, or a file of version 1.
    ValueError: num_layers is not positive.
  """
  return _decode_symbols(*_packets(data, num_layers))


def _decode_symbols(
    header: syntax.Header, packets: Sequence[bytes]
) -> quantized.QuantizedLayers:
  """The integers of the first packets of a picture."""
  if header.version == version1.VERSION:
    raise BitstreamError('version 1 has other symbols')
  channels = header.channels
  coder = _layer_coder(header)
  entries = header.layers[: len(packets)]
  symbols = []
  for k, (packet, entry) in enumerate(zip(packets, entries)):
    num_splats, steps = entry.num_splats, entry.step_sizes
    with _damage(k):
      if header.version == syntax.VERSION:
        layer = coder.read(packet, num_splats, steps)
      else:
        layer = splat_coding.decode(packet, num_splats, channels, steps)
      quantize.check(layer, steps)
      symbols.append(layer)
  return quantized.QuantizedLayers(
      symbols=tuple(symbols),
      step_sizes=tuple(entry.step_sizes for entry in entries),
      height=header.height,
      width=header.width,
      layer_shapes=header.layer_shapes[: len(packets)],
  )


def decode_layers(
    header: syntax.Header, packets: Sequence[bytes]
) -> types.LayeredSplats:
  """The splats of the first packets of a picture.

  Raises:
    BitstreamError: a packet is damaged.
  """
  if header.version != version1.VERSION:
    return _decode_symbols(header, packets).dequantize()
  layers = []
  for k, (packet, entry) in enumerate(zip(packets, header.layers)):
    with _damage(k):
      rows = version1.decode_packet(packet, entry.num_splats, header.channels)
      layers.append(version1.dequantize(rows, entry.step_sizes))
  return types.LayeredSplats(
      splats=types.Splats(*map(np.concatenate, zip(*layers, strict=True))),
      layer_sizes=tuple(len(layer.means) for layer in layers),
      height=header.height,
      width=header.width,
  )


def _layer_coder(
    picture: syntax.Header | quantized.QuantizedLayers,
) -> 'layer_coding.LayerCoder':
  """Codes the layers of a picture of the newest version."""
  from pgsvc_jax.codec import layer_coding  # Numba: only where it is needed.

  return layer_coding.LayerCoder(
      picture.height, picture.width, picture.channels
  )


@contextlib.contextmanager
def _damage(layer: int) -> Iterator[None]:
  """Says which packet is damaged."""
  try:
    yield
  except ValueError as error:
    message = f'layer {layer}: packet is damaged ({error})'
    raise BitstreamError(message) from None


def _packets(
    data: bytes, num_layers: int | None
) -> tuple[syntax.Header, list[bytes]]:
  """The header and the packets of the first layers (None: all at hand)."""
  reader = picture_reader(data)
  assert isinstance(reader.header, syntax.Header)
  ((_, num_layers),) = reader.playable(num_layers)
  return reader.header, reader.packets(0, num_layers)


def picture_reader(data: bytes) -> stream.StreamReader:
  """Reads the file of a picture.

  Raises:
    BitstreamError: it is that of a video, or its header is damaged.
  """
  if syntax.read_version(data) in syntax.VIDEO_VERSIONS:
    raise BitstreamError('the file is a video, not a picture')
  return stream.StreamReader(data)


def attribute_bits(data: bytes) -> list[dict[str, float]]:
  """The bits of each layer that is whole, by attribute.

  Args:
    data: the file or a beginning of it.

  Returns:
    One entry a layer: what its splats take in this version, by position,
    color, scale, aspect and shear; padding is left out.

  Raises:
    BitstreamError: as `read_layers`, or a file of version 1.
  """
  if syntax.read_version(data) == version1.VERSION:
    raise BitstreamError('version 1 has no bits by attribute')
  layers = read_symbols(data)
  coder = _layer_coder(layers)
  result = []
  for pair in zip(layers.symbols, layers.step_sizes):
    before = coder.attribute_bits()
    coder.write(*pair)
    now = coder.attribute_bits()
    result.append({name: now[name] - before[name] for name in now})
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
  file = io.BytesIO()
  stream.extract(picture_reader(data), file, num_layers=num_layers)
  return file.getvalue()
