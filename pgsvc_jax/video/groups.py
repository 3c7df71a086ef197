"""Where groups of pictures begin: at cuts, and after `gop` frames."""

from collections.abc import Iterable, Iterator
import dataclasses

import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import rate
from pgsvc_jax.training import schedule
from pgsvc_jax.video import flow
from pgsvc_jax.video import stream_format

# Rows that frames are shrunk to, at least, before they are compared.
_ROWS = 240
# The quality that groups are compared at.
_PSNR_DB = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Frames that are coded together.

  Attributes:
    index: of the group.
    first_frame: how many frames come before it.
    times: when its frames start, in ticks.
    last_duration: how long the last one lasts, in ticks.
    complexity: about the bits a pixel that its first frame takes at some
      quality, where there is a rate to share.
    num_bytes: its share of the rate, if there is one (`rate_control.py`).
  """

  index: int
  first_frame: int
  times: tuple[int, ...]
  last_duration: int
  complexity: float = 1.0
  num_bytes: int | None = None


def _shrink(pixels: np.ndarray) -> np.ndarray:
  """Means over blocks: flow and error do not need more."""
  height, width, channels = pixels.shape
  factor = max(1, height // _ROWS)
  rows, cols = height // factor, max(1, width // factor)
  if factor > width:
    return pixels
  pixels = pixels[: rows * factor, : cols * factor]
  blocks = pixels.reshape(rows, factor, cols, factor, channels)
  return blocks.mean(axis=(1, 3))


def find_groups(
    frames: Iterable[stream_format.Frame],
    config: config_lib.VideoConfig,
    *,
    first_index: int = 0,
    first_frame: int = 0,
) -> Iterator[Group]:
  """Cuts a video into groups, from its source alone.

  Args:
    frames: of the video; one is held at a time.
    config: the settings.
    first_index: of the first group to come.
    first_frame: how many frames were before the first to come.

  Yields:
    The groups.

  Raises:
    ValueError: times of frames do not increase.
  """
  times, durations = [], []
  before = None
  index, start = first_index, first_frame
  complexity = 1.0

  def group():
    return Group(
        index=index,
        first_frame=start,
        times=tuple(times),
        last_duration=durations[-1],
        complexity=complexity,
    )

  for frame in frames:
    small = _shrink(frame.pixels) if config.cut_ratio else None
    if times:
      is_cut = False
      if config.cut_ratio and len(times) < config.gop:
        height, width, _ = small.shape
        sizes = schedule.layer_sizes(config.image.fit, *frame.pixels.shape[:2])
        scale = height * width / (frame.pixels[..., 0].size)
        ratio = flow.cut_ratio(before, small, round(scale * sum(sizes)))
        is_cut = ratio > config.cut_ratio
      if is_cut or len(times) >= config.gop:
        yield group()
        index, start = index + 1, start + len(times)
        times, durations = [], []
    if not times and config.target_kbps:
      complexity = rate.estimate_bpp(frame.pixels, _PSNR_DB)
    times.append(frame.time)
    durations.append(frame.duration)
    before = small
  if times:
    yield group()
