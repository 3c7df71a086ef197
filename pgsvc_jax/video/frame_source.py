"""Where the frames of a video to be encoded come from.

They are needed twice: one after the other, to find the groups, and group by
group, by whoever encodes it. A file is read again for that; frames that can be
had only once are kept in between.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import fractions
import itertools
import threading
from typing import Any

import numpy as np

from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format


class FrameSource:
  """A video to be encoded."""

  @property
  def format(self) -> stream_format.VideoFormat:
    """Size, times and colors."""
    raise NotImplementedError

  @property
  def channels(self) -> int:
    """Of a pixel."""
    return 3

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    raise NotImplementedError

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Frames that were walked over, once; may be called from any thread."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFile(FrameSource):
  """A video file or a folder of pictures.

  Attributes:
    path: of it.
    options: further arguments of `open_video`.
  """

  path: str
  options: dict[str, Any] = dataclasses.field(default_factory=dict)

  def open(
      self, first_frame: int = 0, frames: int | None = None
  ) -> video_media.VideoReader:
    """The video, or some of its frames."""
    options = dict(self.options)
    options['start'] = options.get('start', 0) + first_frame
    if frames is None and options.get('frames') is not None:
      frames = options['frames'] - first_frame
    options['frames'] = frames
    return video_media.open_video(self.path, **options)

  @property
  def format(self) -> stream_format.VideoFormat:
    """Size, times and colors."""
    with self.open() as video:
      return video.format

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    with self.open(first_frame) as video:
      yield from video

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Some of the frames."""
    with self.open(start, stop - start) as video:
      yield from video


class OpenVideo(FrameSource):
  """A video that somebody has opened."""

  def __init__(self, reader: video_media.VideoReader):
    self._reader = reader
    self._lock = threading.Lock()

  @property
  def format(self) -> stream_format.VideoFormat:
    """Size, times and colors."""
    return self._reader.format

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    return itertools.islice(self._reader, first_frame, None)

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Some of the frames, read at once: there is only one reader."""
    with self._lock:
      return iter(list(itertools.islice(self._reader, start, stop)))


class HeldFrames(FrameSource):
  """Frames that can be had once: kept from being walked over to being taken."""

  def __init__(
      self, frames: Iterable[stream_format.Frame], rate: fractions.Fraction
  ):
    """Looks at the first.

    Raises:
      ValueError: there is none.
    """
    self._frames = iter(frames)
    first = next(self._frames, None)
    if first is None:
      raise ValueError('a video has at least a frame')
    self._held: dict[int, stream_format.Frame] = {}
    self._frames = itertools.chain([first], self._frames)
    height, width, self._channels = np.shape(first.pixels)
    self._format = stream_format.VideoFormat(
        width=width, height=height, time_base=1 / rate, frame_rate=rate
    )

  @property
  def format(self) -> stream_format.VideoFormat:
    """Of frames that all last as long."""
    return self._format

  @property
  def channels(self) -> int:
    """Of a pixel."""
    return self._channels

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames, which are kept."""
    frames = itertools.islice(self._frames, first_frame, None)
    for index, frame in enumerate(frames, first_frame):
      self._held[index] = frame
      yield frame

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Some of them, which are kept no longer."""
    for index in range(start, stop):
      yield self._held.pop(index)
