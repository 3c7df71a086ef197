"""Where the frames of a video to be encoded come from.

They are needed twice: one after the other, to find the groups, and group by
group, by whoever encodes it. A file is read again for that; frames that can be
had only once are kept in between.
"""

from collections.abc import Iterable, Iterator, Mapping
import fractions
import functools
import itertools
import threading
from typing import Any

import numpy as np

from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format


class FrameSource:
  """A video to be encoded.

  Attributes:
    format: size, times and colors.
    channels: of a pixel.
    notes: what reading changes or leaves out, for the user.
  """

  format: stream_format.VideoFormat
  channels: int = 3
  notes: tuple[str, ...] = ()

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    raise NotImplementedError

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Frames that were walked over, once; may be called from any thread."""
    raise NotImplementedError

  def close(self) -> None:
    """Nothing is read any more."""


class VideoFile(FrameSource):
  """A video file or a folder of pictures, read by each thread for itself.

  Attributes:
    path: of it.
    options: further arguments of `open_video`.
  """

  def __init__(self, *, path: str, options: Mapping[str, Any] | None = None):
    self.path = path
    self.options = dict(options or {})
    self._readers: dict[int, video_media.VideoReader] = {}

  def open(self, first_frame: int = 0) -> video_media.VideoReader:
    """The video, or its frames from one of them on."""
    options = dict(self.options)
    options['start'] = options.get('start', 0) + first_frame
    if options.get('frames') is not None:
      options['frames'] -= first_frame
    return video_media.open_video(self.path, **options)

  @functools.cached_property
  def format(self) -> stream_format.VideoFormat:
    """Size, times and colors."""
    with self.open() as video:
      self.notes = video.notes
      return video.format

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    with self.open(first_frame) as video:
      yield from video
      self.notes = video.notes  # Some are known only at the end.

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Some of the frames."""
    thread = threading.get_ident()
    if thread not in self._readers:
      self._readers[thread] = self.open()
    return self._readers[thread].frames(start, stop)

  def close(self) -> None:
    """Closes the file, when no thread reads it any more."""
    while self._readers:
      self._readers.popitem()[1].close()


class OpenVideo(FrameSource):
  """A video that somebody has opened."""

  def __init__(self, reader: video_media.VideoReader):
    self._reader = reader
    self._lock = threading.Lock()
    self.format = reader.format

  def walk(self, first_frame: int = 0) -> Iterator[stream_format.Frame]:
    """The frames from one of them on."""
    return itertools.islice(self._reader, first_frame, None)

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Some of the frames, read at once: there is only one reader."""
    with self._lock:
      return iter(list(self._reader.frames(start, stop)))


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
    height, width, self.channels = np.shape(first.pixels)
    self.format = stream_format.VideoFormat(
        width=width, height=height, time_base=1 / rate, frame_rate=rate
    )

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
