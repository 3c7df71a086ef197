"""Encodes video files, one frame at a time, through PyAV (an extra)."""

from __future__ import annotations

import contextlib
import dataclasses
from fractions import Fraction
import importlib
import pathlib
from typing import TYPE_CHECKING

from jaxtyping import UInt8
import lazy_loader
import numpy as np
from PIL import Image

from pgsvc_jax.video import color
from pgsvc_jax.video import stream_format
from pgsvc_jax.video import structure

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
    # 256 colors a frame; times in hundredths of a second.
    '.gif': Encoding(
        container='gif',
        codec='gif',
        pixel_format='pal8',
        odd_format='pal8',
        options={},
    ),
    '.webp': Encoding(
        container='webp',
        codec='libwebp_anim',
        pixel_format='bgra',
        odd_format='bgra',
        options={'quality': '90'},
    ),
}


# Of a second.
_TICK_NAMES = {1000: 'millisecond', 100: 'hundredth of a second'}
_TICKS = {'matroska': 1000, 'webm': 1000, 'webp': 1000, 'gif': 100}


def _with_palette(pixels: UInt8[np.ndarray, 'h w 3']) -> av.VideoFrame:
  """A frame of 256 colors."""
  image = Image.fromarray(pixels).quantize(256)
  palette = np.zeros((256, 4), np.uint8)
  colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
  palette[: len(colors), 1:] = colors
  palette[:, 0] = 255
  return av.VideoFrame.from_ndarray((np.asarray(image), palette), 'pal8')


class AvWriter:
  """Encodes frames into a file."""

  def __init__(
      self,
      path: pathlib.Path,
      form: stream_format.VideoFormat,
      encoding: Encoding,
  ):
    self._form = form
    self._path = path
    self._name = encoding.container
    self._is_matroska = self._name in ('matroska', 'webm')
    # Containers round times to this.
    self._ticks = _TICKS.get(self._name)
    self._last_tick = -1
    self._first_time: int | None = None
    self._num_frames = 0
    rate = form.frame_rate or stream_format.DEFAULT_RATE
    self._time_base = form.time_base
    if self._name in ('gif', 'webp'):
      self._time_base = Fraction(1, self._ticks)
    is_odd = form.width % 2 or form.height % 2
    self._pixel_format = (
        encoding.odd_format if is_odd else encoding.pixel_format
    )
    self._is_rgb = not self._pixel_format.startswith('yuv')
    self._matrix = color.guessed_matrix(form)
    # Where players have chroma if nothing says so.
    location = 'left' if self._name == 'mp4' else 'center'
    self._scaler = color.Scaler(self._pixel_format, out_chroma_loc=location)
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
    # How long each frame is shown, in ticks.
    self._shown_for: list[int] = []

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Encodes the next frame."""
    time = self._shown_time(time)
    if self._name in ('gif', 'webp'):
      time, duration = self._last_tick, self._to_ticks(duration)
    if self._pixel_format == 'pal8':
      frame = _with_palette(pixels)
    elif self._is_rgb:
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      frame = frame.reformat(format=self._pixel_format)
    else:
      planes = color.to_yuv(pixels, self._matrix, self._full_range)
      frame = av.VideoFrame(self._form.width, self._form.height, 'yuv444p')
      for plane, values in zip(frame.planes, planes):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows)
      frame = self._scaler.scale(frame)
      if self._full_range:
        frame.color_range = color.FULL_RANGE
    frame.pts, frame.time_base, frame.duration = time, self._time_base, duration
    self._durations[time] = duration
    if self._num_frames:
      self._shown_for[-1] = time - self._before
    self._shown_for.append(duration)
    self._before = time
    self._mux(self._stream.encode(frame))
    self._num_frames += 1

  def finish(self) -> None:
    """Completes the file."""
    try:
      self._mux(self._stream.encode(None))
      self._container.close()
    finally:
      self._file.close()
    # What the muxers of PyAV do not take.
    if self._is_matroska and self._form.pixel_aspect != 1:
      structure.set_matroska_aspect(self._path, self._form.pixel_aspect)
    if self._name in ('gif', 'webp'):
      structure.set_durations(self._path, self._shown_for)

  def abandon(self) -> None:
    """Closes the file, whose content is of no use."""
    try:
      with contextlib.suppress(Exception):
        self._container.close()
    finally:
      self._file.close()

  def _to_ticks(self, time: int) -> int:
    return round(time * self._form.time_base * self._ticks)

  def _shown_time(self, time: int) -> int:
    """Times from zero on: players drop what comes before."""
    if self._first_time is None:
      self._first_time = min(0, time)
    time -= self._first_time
    if self._ticks is not None:
      tick = self._to_ticks(time)
      if tick <= self._last_tick:
        raise ValueError(
            f'frame {self._num_frames} is less than a'
            f' {_TICK_NAMES[self._ticks]}'
            f' after the one before, which {self._name} cannot tell apart'
        )
      self._last_tick = tick
    return time

  def _mux(self, packets: list[av.Packet]) -> None:
    for packet in packets:
      time = packet.pts * packet.time_base / self._time_base
      # Encoders guess durations; and no codec here needs another order.
      packet.pts = packet.dts = round(time)
      packet.time_base = self._time_base
      packet.duration = self._durations.pop(packet.pts, 0)
      self._container.mux(packet)
