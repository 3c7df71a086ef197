"""A file to the frames of a video, in one call. Needs no JAX."""

from collections.abc import Iterator
import io
from typing import BinaryIO

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax import render
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback


def decode_video(
    data: bytes | BinaryIO,
    num_layers: int | None = None,
    *,
    first_frame: int = 0,
    num_frames: int | None = None,
    scale: float | None = None,
    max_pixels: int = 2**27,
) -> Iterator[UInt8[np.ndarray, 'h w c']]:
  """Decodes the frames of a .pgsvc video, whole, cut or still being written.

  Frames are decoded as they are asked for; one is held at a time.

  Args:
    data: the file, or a beginning of it; or the file opened for reading, of
      which the packets that are needed are read.
    num_layers: layers to show, the base counted; None: all that are whole, of
      each group of pictures.
    first_frame: the first to yield; decoding starts at the I-frame before it.
    num_frames: how many at most; None: all there are.
    scale: sides of the frames over those of the video; None: the size that the
      highest layer shown was fitted at, one for all frames.
    max_pixels: larger frames, as coded or as shown, are refused: a small file
      can claim them.

  Returns:
    Of the frames, one after the other: gray, gray + alpha, RGB or RGB + alpha.

  Raises:
    BitstreamError: the file is damaged, or what is asked for is not in it.
    ValueError: num_layers, num_frames or scale is not positive, or too many
      pixels.

  Example:
    >>> from fractions import Fraction
    >>> from pgsvc_jax import types
    >>> from pgsvc_jax.codec import quantize, syntax
    >>> from pgsvc_jax.video import frame_coding
    >>> one = types.Splats(
    ...     means=np.float32([[1.5, 0.5]]),
    ...     cholesky=np.float32([[1, 0, 1]]),
    ...     colors=np.float32([[0.8]]),
    ... )
    >>> layered = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=1, width=4
    ... )
    >>> file = io.BytesIO()
    >>> header = syntax.VideoHeader(
    ...     width=4, height=1, channels=1, num_layers=1,
    ...     time_base=Fraction(1, 24))
    >>> steps = quantize.StepSizes(color=8)
    >>> with stream.StreamWriter(file, header) as writer:
    ...   packets = frame_coding.encode_gop([layered], steps)
    ...   writer.add_gop([0], packets, last_duration=1)
    >>> (frame,) = decode_video(file.getvalue())
    >>> frame[..., 0]
    array([[123, 204, 125,  28]], dtype=uint8)
  """
  file = io.BytesIO(data) if isinstance(data, bytes) else data
  reader = stream.StreamReader(file)
  whole = reader.header.height, reader.header.width
  shape = playback.shown_shape(reader, num_layers, first_frame, scale)
  # The motion field is that of whole frames, whatever is shown.
  for height, width in (whole, shape):
    if height * width > max_pixels:
      raise ValueError(f'{width} x {height} is more than {max_pixels=}')
  frames = playback.frames(
      reader,
      num_layers=num_layers,
      first_frame=first_frame,
      num_frames=num_frames,
  )
  return (
      render.render_picture(render.resized(frame.layered, *shape))
      for frame in frames
  )
