"""Encodes video files, one frame at a time, through PyAV (an extra)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
from typing import TYPE_CHECKING

from jaxtyping import UInt8
import lazy_loader
import numpy as np

from pgsvc_jax.video import color
from pgsvc_jax.video import stream_format

# Loaded on first use: what reads pictures does without it.
if TYPE_CHECKING:
  import av
else:
  av = lazy_loader.load('av')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
  """How a video is written.

  Attributes:
    container: FFmpeg's name.
    codec: FFmpeg's name.
    pixel_format: for even sizes.
    odd_format: for odd sizes.
    options: of the codec.
  """

  container: str
  codec: str
  pixel_format: str
  odd_format: str
  options: dict[str, str]


ENCODINGS = {
    # Without B-frames the times of the file are exact whoever reads them. At
    # 480p this preset takes a third of the default's time (23 for 68 ms) and
    # spends half as many bits again, at 0.6 dB more.
    '.mp4': Encoding(
        container='mp4',
        codec='libx264',
        pixel_format='yuv420p',
        odd_format='yuv444p',
        options={'preset': 'superfast', 'crf': '8', 'bf': '0'},
    ),
    '.mkv': Encoding(
        container='matroska',
        codec='ffv1',
        pixel_format='bgr0',
        odd_format='bgr0',
        options={},
    ),
    '.webm': Encoding(
        container='webm',
        codec='libvpx-vp9',
        pixel_format='yuv420p',
        odd_format='yuv420p',
        options={'crf': '12', 'b': '0', 'cpu-used': '4', 'row-mt': '1'},
    ),
    '.y4m': Encoding(
        container='yuv4mpegpipe',
        codec='rawvideo',
        pixel_format='yuv444p',
        odd_format='yuv444p',
        options={},
    ),
}


class AvWriter:
  """Encodes frames into a file."""

  def __init__(
      self,
      path: pathlib.Path,
      form: stream_format.VideoFormat,
      encoding: Encoding,
  ):
    self._form = form
    self._constant = encoding.container == 'yuv4mpegpipe'
    self._is_matroska = encoding.container in ('matroska', 'webm')
    self._first_time: int | None = None
    self._milliseconds = -1
    self._num_frames = 0
    if self._constant and form.frame_rate is None:
      raise ValueError('y4m needs a frame rate')
    rate = form.frame_rate or stream_format.DEFAULT_RATE
    self._time_base = 1 / rate if self._constant else form.time_base
    is_odd = form.width % 2 or form.height % 2
    self._pixel_format = (
        encoding.odd_format if is_odd else encoding.pixel_format
    )
    self._is_rgb = not self._pixel_format.startswith('yuv')
    # Without a tag for it, readers will guess the matrix of y4m.
    untagged = dataclasses.replace(form, matrix=stream_format.UNSPECIFIED)
    self._matrix = color.guessed_matrix(untagged if self._constant else form)
    self._full_range = (
        form.full_range and form.matrix != stream_format.RGB_MATRIX
    )
    options = {}
    if encoding.container == 'mp4':
      # Or the start is rounded to milliseconds.
      options['movie_timescale'] = str(form.time_base.denominator)
    # Missing, it is named by this error; not by that of the lazy module.
    importlib.import_module('av')
    self._file = open(path, 'xb')
    try:
      self._container = av.open(
          self._file, 'w', format=encoding.container, options=options
      )
      stream = self._container.add_stream(
          encoding.codec, rate=rate, options=encoding.options
      )
      stream.width, stream.height = form.width, form.height
      stream.pix_fmt = self._pixel_format
      stream.time_base = self._time_base
      codec = stream.codec_context
      codec.time_base = self._time_base
      codec.sample_aspect_ratio = form.pixel_aspect
      codec.color_primaries = form.primaries
      codec.color_trc = form.transfer
      if self._is_rgb:
        codec.colorspace = stream_format.RGB_MATRIX
      else:
        # What is unspecified or RGB will be guessed by readers as it is here.
        is_tagged = form.matrix == self._matrix
        codec.colorspace = (
            form.matrix if is_tagged else stream_format.UNSPECIFIED
        )
        codec.color_range = (
            color.FULL_RANGE if self._full_range else color.LIMITED_RANGE
        )
      self._stream = stream
    except BaseException:
      self._file.close()
      raise
    self._durations: dict[int, int] = {}

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Encodes the next frame."""
    if self._constant:
      time, duration = self._tick(time), 1
    else:
      time = self._shown_time(time)
    if self._is_rgb:
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      frame = frame.reformat(format=self._pixel_format)
    else:
      planes = color.to_yuv(pixels, self._matrix, self._full_range)
      frame = av.VideoFrame(self._form.width, self._form.height, 'yuv444p')
      for plane, values in zip(frame.planes, planes):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows)
      frame = color.same_range(frame, self._pixel_format, color.LIMITED_RANGE)
      if self._full_range:
        frame.color_range = color.FULL_RANGE
    frame.pts, frame.time_base, frame.duration = time, self._time_base, duration
    self._durations[time] = duration
    self._mux(self._stream.encode(frame))
    self._num_frames += 1

  def finish(self) -> None:
    """Completes the file."""
    try:
      self._mux(self._stream.encode(None))
      self._container.close()
    finally:
      self._file.close()

  def abandon(self) -> None:
    """Closes the file, whose content is of no use."""
    try:
      with contextlib.suppress(Exception):
        self._container.close()
    finally:
      self._file.close()

  def _shown_time(self, time: int) -> int:
    """Times from zero on: players drop what comes before."""
    if self._first_time is None:
      self._first_time = min(0, time)
    if self._is_matroska:
      milliseconds = round(1000 * (time - self._first_time) * self._time_base)
      if milliseconds <= self._milliseconds:
        raise ValueError(
            f'frame {self._num_frames} is less than a millisecond after the'
            ' one before, which Matroska cannot tell apart'
        )
      self._milliseconds = milliseconds
    return time - self._first_time

  def _tick(self, time: int) -> int:
    """The number of the frame, at a constant rate to within a tick."""
    if self._first_time is None:
      self._first_time = time
    exact = self._num_frames * self._time_base / self._form.time_base
    if abs(time - self._first_time - exact) > 1:
      raise ValueError(
          f'y4m needs a constant frame rate: frame {self._num_frames} is at'
          f' {time}, not {float(self._first_time + exact):g}'
      )
    return self._num_frames

  def _mux(self, packets: list[av.Packet]) -> None:
    for packet in packets:
      time = packet.pts * packet.time_base / self._time_base
      # Encoders guess durations; and no codec here needs another order.
      packet.pts = packet.dts = round(time)
      packet.time_base = self._time_base
      packet.duration = self._durations.pop(packet.pts)
      self._container.mux(packet)
