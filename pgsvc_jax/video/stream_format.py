"""What videos are, however they are stored: sizes, times, colors, frames.

Tags are code points of ITU-T H.273 (CICP); 2 is unspecified.
"""

import dataclasses
from fractions import Fraction

from jaxtyping import Float
import numpy as np

UNSPECIFIED = 2
RGB_MATRIX = 0

# A rate has to be made up for streams without times that name none.
DEFAULT_RATE = Fraction(25)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFormat:
  """What a video is, apart from its frames.

  Attributes:
    width: of the upright picture.
    height: of the upright picture.
    time_base: seconds a tick.
    frame_rate: frames a second, average or nominal; None if unknown.
    primaries: code point of the color primaries.
    transfer: code point of the transfer characteristics.
    matrix: code point of the matrix coefficients; 0 for RGB.
    full_range: whether the codes use their full range.
    pixel_aspect: width of a pixel divided by its height.
  """

  width: int
  height: int
  time_base: Fraction
  frame_rate: Fraction | None
  primaries: int = UNSPECIFIED
  transfer: int = UNSPECIFIED
  matrix: int = UNSPECIFIED
  full_range: bool = False
  pixel_aspect: Fraction = Fraction(1)


def untagged(width: int, height: int) -> VideoFormat:
  """A format that says no more than its size."""
  return VideoFormat(
      width=width, height=height, time_base=Fraction(1), frame_rate=None
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
  """One frame of a video.

  Attributes:
    pixels: RGB in [0, 1].
    time: when it is shown first, in ticks of the video's time base.
    duration: how long, in ticks; to the next frame, where there is one.
  """

  pixels: Float[np.ndarray, 'h w 3']
  time: int
  duration: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawFormat:
  """What the file does not say of raw video without any header.

  Attributes:
    width: in pixels.
    height: in pixels.
    pixel_format: FFmpeg's name, such as 'yuv420p' or 'yuv420p10le'.
    frame_rate: frames a second.
  """

  width: int
  height: int
  pixel_format: str
  frame_rate: Fraction
