"""Uncompressed video: YUV4MPEG2, 4:4:4 of 8 bits. It may go to a pipe."""

import pathlib
from typing import BinaryIO

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax.video import color
from pgsvc_jax.video import stream_format


class Y4mWriter:
  """Writes frames at a constant rate; to `VideoWriter` as `AvWriter` is."""

  def __init__(
      self, path: pathlib.Path | BinaryIO, form: stream_format.VideoFormat
  ):
    if form.frame_rate is None:
      raise ValueError('y4m needs a frame rate')
    self._form = form
    self._first_time: int | None = None
    self._num_frames = 0
    # Without a tag for it, readers will guess the matrix.
    self._matrix = color.guessed_matrix(
        stream_format.untagged(form.width, form.height)
    )
    self._full_range = (
        form.full_range and form.matrix != stream_format.RGB_MATRIX
    )
    self._owns = isinstance(path, pathlib.Path)
    self._file = open(path, 'xb') if isinstance(path, pathlib.Path) else path
    rate, aspect = form.frame_rate, form.pixel_aspect
    header = (
        f'YUV4MPEG2 W{form.width} H{form.height}'
        f' F{rate.numerator}:{rate.denominator} Ip'
        f' A{aspect.numerator}:{aspect.denominator} C444'
        f' XCOLORRANGE={"FULL" if self._full_range else "LIMITED"}\n'
    )
    self._file.write(header.encode())

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Writes the next frame."""
    del duration
    if self._first_time is None:
      self._first_time = time
    exact = self._num_frames / self._form.frame_rate / self._form.time_base
    if abs(time - self._first_time - exact) > 1:
      raise ValueError(
          f'y4m needs a constant frame rate: frame {self._num_frames} is at'
          f' {time}, not {float(self._first_time + exact):g}'
      )
    planes = color.to_yuv(pixels, self._matrix, self._full_range)
    self._file.write(b'FRAME\n' + planes.tobytes())
    self._num_frames += 1

  def finish(self) -> None:
    """Completes the file."""
    if self._owns:
      self._file.close()
    else:
      self._file.flush()

  def abandon(self) -> None:
    """Closes the file, whose content is of no use."""
    if self._owns:
      self._file.close()
