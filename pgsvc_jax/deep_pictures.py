"""Color pictures of 16 bits a sample, which Pillow reads at 8 and cannot write.

They are read by PyAV, where it is installed.
"""

import importlib
import struct
from typing import Any, BinaryIO
import zlib

from jaxtyping import Float, UInt8, UInt16
import numpy as np

_READERS = {
    b'\x89P': 'png_pipe',
    b'II': 'tiff_pipe',
    b'MM': 'tiff_pipe',
    b'P6': 'ppm_pipe',
    b'P7': 'pam_pipe',
}
# Turns by EXIF orientation, of an array.
_TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def read(
    file: BinaryIO, same: UInt8[np.ndarray, 'h w c'], orientation: Any
) -> Float[np.ndarray, 'h w c'] | None:
  """Reads the samples that a picture has.

  Args:
    file: the picture.
    same: as read at 8 bits, upright.
    orientation: by EXIF.

  Returns:
    The picture in [0, 1]; None where it cannot be read so.
  """
  try:
    av = importlib.import_module('av')
  except ModuleNotFoundError:
    return None
  file.seek(0)
  kind = _READERS.get(file.read(2))
  file.seek(0)
  if kind is None:
    return None
  options = {'protocol_whitelist': 'none'}
  try:
    with av.open(file, 'r', format=kind, options=options) as container:
      frame = next(container.decode(video=0))
  except (av.error.FFmpegError, StopIteration, ValueError):
    return None
  name = frame.format.name
  channels = {'rgb48': 3, 'rgba64': 4, 'ya16': 2}.get(name[:-2])
  if channels != same.shape[2]:
    return None
  dtype = '>u2' if name.endswith('be') else '<u2'
  rows = np.frombuffer(frame.planes[0], dtype).reshape(frame.height, -1)
  values = rows[:, : frame.width * channels]
  values = values.reshape(frame.height, frame.width, channels)
  values = _TURNS.get(orientation, lambda x: x)(values)
  # Two readers must agree on what it is.
  if values.shape != same.shape or np.any(
      np.abs((values >> 8) - same.astype(np.int32)) > 1
  ):
    return None
  return np.divide(values, np.float32(65535), dtype=np.float32)


def png(
    image: UInt16[np.ndarray, 'h w c'], profile: bytes, exif: bytes
) -> bytes:
  """A PNG file."""

  def chunk(name: bytes, body: bytes) -> bytes:
    checksum = struct.pack('>I', zlib.crc32(name + body))
    return struct.pack('>I', len(body)) + name + body + checksum

  height, width, channels = image.shape
  kinds = {1: 0, 2: 4, 3: 2, 4: 6}
  header = struct.pack('>IIBBBBB', width, height, 16, kinds[channels], 0, 0, 0)
  rows = image.astype('>u2').view(np.uint8).reshape(height, -1)
  # The filter 'up': differences to the row above.
  filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
  filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
  parts = [chunk(b'IHDR', header)]
  if profile:
    parts.append(chunk(b'iCCP', b'ICC\0\0' + zlib.compress(profile)))
  if exif:
    parts.append(chunk(b'eXIf', exif.removeprefix(b'Exif\0\0')))
  parts.append(chunk(b'IDAT', zlib.compress(filtered.tobytes())))
  return b'\x89PNG\r\n\x1a\n' + b''.join(parts) + chunk(b'IEND', b'')


def tiff(
    image: UInt16[np.ndarray, 'h w c'], profile: bytes, exif: bytes
) -> bytes:
  """A TIFF file; without EXIF data.

  Raises:
    ValueError: it is gray with alpha, which Pillow cannot read.
  """
  del exif
  height, width, channels = image.shape
  if channels == 2:
    raise ValueError('TIFF cannot hold 16-bit LA; take .png')
  data = zlib.compress(image.astype('<u2').tobytes())
  bits = struct.pack(f'<{channels}H', *[16] * channels)
  tags: dict[int, tuple[int, bytes]] = {
      256: (4, struct.pack('<I', width)),
      257: (4, struct.pack('<I', height)),
      258: (3, bits),
      259: (3, struct.pack('<H', 8)),  # Deflate
      262: (3, struct.pack('<H', 2 if channels > 2 else 1)),
      273: (4, struct.pack('<I', 8)),
      277: (3, struct.pack('<H', channels)),
      278: (4, struct.pack('<I', height)),
      279: (4, struct.pack('<I', len(data))),
  }
  if channels in (2, 4):
    tags[338] = (3, struct.pack('<H', 2))  # Alpha, not premultiplied.
  if profile:
    tags[34675] = (7, profile)
  sizes = {3: 2, 4: 4, 7: 1}
  body, table = data + bytes(len(data) % 2), b''
  for tag, (kind, value) in sorted(tags.items()):
    if len(value) > 4:
      place = 8 + len(body)
      body += value + bytes(len(value) % 2)
      field = struct.pack('<I', place)
    else:
      field = value.ljust(4, b'\0')
    table += struct.pack('<HHI', tag, kind, len(value) // sizes[kind]) + field
  head = struct.pack('<2sHI', b'II', 42, 8 + len(body))
  return head + body + struct.pack('<H', len(tags)) + table + bytes(4)


WRITERS = {'PNG': png, 'TIFF': tiff}
