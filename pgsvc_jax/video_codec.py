"""The packets of a GOP: every frame on its own, as pictures are coded.

A packet holds one layer of all frames of a GOP. For each frame it has, as
varints, the number of splats, the four step sizes and the number of bytes, and
then these bytes: the layer's packet in a picture of format version 2.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import io

import numpy as np

from pgsvc_jax import bitstream
from pgsvc_jax import quantize
from pgsvc_jax import splat_coding
from pgsvc_jax import types
from pgsvc_jax import video_syntax

_STEPS = tuple(field.name for field in dataclasses.fields(quantize.StepSizes))


def encode_gop(
    frames: Sequence[types.LayeredSplats], step_sizes: quantize.StepSizes
) -> list[bytes]:
  """The packets of a GOP, one a layer.

  Args:
    frames: all of one size and number of layers.
    step_sizes: of every frame.

  Returns:
    The packets, base layer first.
  """
  packets = [bytearray() for _ in frames[0].layer_sizes]
  for frame in frames:
    data = bitstream.write(frame, step_sizes)
    header = bitstream.read_header(data)
    for k, entry in enumerate(header.layers):
      steps = dataclasses.astuple(entry.step_sizes)
      for number in (entry.num_splats, *steps, entry.packet_size):
        packets[k] += video_syntax.pack_varint(number)
      start = header.packet_offsets[k]
      packets[k] += data[start : start + entry.packet_size]
  return [bytes(packet) for packet in packets]


def decode_gop(
    packets: Sequence[bytes],
    *,
    num_frames: int,
    height: int,
    width: int,
    channels: int,
) -> Iterator[types.LayeredSplats]:
  """Decodes a GOP frame by frame.

  Args:
    packets: of its first layers, as many as are to be shown.
    num_frames: of the GOP.
    height: pixels.
    width: pixels.
    channels: colors a splat.

  Yields:
    The frames in order.

  Raises:
    BitstreamError: a packet is damaged; the message names its layer.
  """
  files = [io.BytesIO(packet) for packet in packets]
  for frame in range(num_frames):
    layers = []
    for k, file in enumerate(files):
      try:
        layers.append(_decode_layer(file, channels))
        if frame + 1 == num_frames and file.read(1):
          raise ValueError('ends too late')
      except ValueError as error:
        raise bitstream.BitstreamError(
            f'layer {k}: packet is damaged in frame {frame} ({error})'
        ) from None
    yield types.LayeredSplats(
        splats=types.Splats(*map(np.concatenate, zip(*layers))),
        layer_sizes=tuple(len(layer.means) for layer in layers),
        height=height,
        width=width,
    )


def _decode_layer(file: io.BytesIO, channels: int) -> types.Splats:
  num_splats, *steps, size = (video_syntax.read_varint(file) for _ in range(6))
  step_sizes = quantize.StepSizes(**dict(zip(_STEPS, steps)))
  packet = file.read(size)
  if len(packet) < size or num_splats > 8 * size or (size and not num_splats):
    raise ValueError(f'{num_splats} splats in {len(packet)} bytes')
  symbols = splat_coding.decode(packet, num_splats, channels, step_sizes)
  return quantize.dequantize(symbols, step_sizes)
