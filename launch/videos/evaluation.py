"""What `evaluate` does with videos: frame by frame, every prefix by itself."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
from fractions import Fraction
import os
import pathlib
import statistics
import tempfile

from pgsvc_jax import metrics
from pgsvc_jax.codec import stream
from pgsvc_jax.metrics import planes
from pgsvc_jax.video import ffmpeg
from pgsvc_jax.video import stream_format

from .. import command
from ..evaluation import folders
from . import anchors as video_anchors
from . import info as video_info
from . import quality as video_quality
from . import side_by_side
from . import source as video_source

_TIMES = ('entropy_ms', 'render_ms')


@contextlib.contextmanager
def _open(path: str | pathlib.Path) -> Iterator[stream.StreamReader]:
  with open(path, 'rb') as file, command.about(str(path)):
    yield stream.StreamReader(file)


def _form(
    reader: stream.StreamReader, source: video_source.Source
) -> stream_format.VideoFormat:
  """The format of the originals, if they are of the size of the file."""
  header = reader.header
  if header.channels != 3:
    raise ValueError(f'{header.channels} channels: only RGB is compared')
  with source.open() as video:
    form = video.format
  video_quality.check_size(form, source.path, header.width, header.height)
  return form


def _clip(
    reader: stream.StreamReader,
    source: video_source.Source,
    path: pathlib.Path,
    is_written: bool,
) -> video_anchors.Clip:
  """The frames of a file, as encoders and VMAF get them.

  Args:
    reader: of the file.
    source: of its originals.
    path: of the raw frames.
    is_written: whether they are needed.
  """
  header = reader.header
  times = [x * header.time_base for x in video_quality.frame_times(reader)]
  end = max(gop.end for gop, _ in reader.playable(1)) * header.time_base
  seconds = end - times[0]
  clip = video_anchors.Clip(
      path=path,
      width=header.width,
      height=header.height,
      rate=(len(times) / seconds).limit_denominator(100_000),
      seconds=float(seconds),
      originals=lambda: video_quality.originals(source, times),
  )
  if is_written:
    with open(path, 'wb') as file:
      for pixels in clip.originals():
        file.write(planes.yuv420_bytes(pixels))
  return clip


def measure(
    reader: stream.StreamReader,
    name: str,
    source: video_source.Source,
    measured: Sequence[metrics.Metric],
    shown: str | None = None,
) -> dict:
  """Decodes all prefixes in step with the originals.

  Args:
    reader: of the file.
    name: of the file.
    source: of its originals.
    measured: what is measured.
    shown: path for a video of the prefixes side by side, if any.

  Returns:
    The document of `info`, of each frame its time and whether it is an I-frame,
    and in the row of each layer the means of splats, figures and milliseconds a
    frame, and the figures of each frame.
  """
  document = video_info.describe(reader, os.path.getsize(name))
  if not document['layers'][0]['available']:
    count = len(video_quality.frame_times(reader))
    raise ValueError(
        f'{name} is cut inside the base layer of a group: measure what'
        f' `extract --frames={count}` leaves of it'
    )
  prefixes = document['layers'][: video_quality.num_layers(reader)]
  form = _form(reader, source)
  sizes = video_quality.prefix_bytes(reader)
  base = reader.header.time_base
  frames = []
  with contextlib.ExitStack() as stack:
    writer = shown and stack.enter_context(
        side_by_side.Writer(
            shown,
            dataclasses.replace(form, time_base=base),
            [row['bits_per_second'] for row in prefixes],
        )
    )
    scores = [stack.enter_context(metrics.Scores(measured)) for _ in prefixes]
    for frame in video_quality.compare(reader, source):
      for prefix, *pair in zip(scores, frame.images, frame.targets):
        prefix.add(*pair)
      if writer:
        writer.write(frame)
      frames.append(frame.without_pixels())
    rows = [prefix.rows() for prefix in scores]
  for k, row in enumerate(prefixes):
    for figures, frame in zip(rows[k], frames):
      figures |= {part: getattr(frame, part)[k] for part in _TIMES}
    row |= video_quality.summary(rows[k])
    row['splats'] = statistics.fmean(frame.splats[k] for frame in frames)
    row['per_frame']['bytes'] = sizes[k]
  firsts = {gop.first_frame for gop in reader.gops}
  return document | {
      'time_s': [float(frame.time * base) for frame in frames],
      'is_key': [frame.index in firsts for frame in frames],
      'header_bytes': prefixes[0]['bytes'] - sum(sizes[0]),
  }


def evaluate_file(
    name: str,
    source: video_source.Source,
    measured: Sequence[metrics.Metric],
    shown: str | None,
) -> dict:
  """Measures one file.

  Args:
    name: of the file.
    source: of its originals.
    measured: what is measured.
    shown: path for a video of the prefixes side by side, if any.

  Returns:
    The document of `measure`.
  """
  with _open(name) as reader:
    source = source.as_in(reader.header)
    return measure(reader, name, source, measured, shown)


def _longest_gop(entries: Sequence[folders.Entry]) -> int | None:
  """Frames of the longest group, where some clip is longer than that."""
  gops, clips = [], []
  for entry in entries:
    with _open(entry.file) as reader:
      gops += [gop.num_frames for gop, _ in reader.playable(1)]
      clips.append(len(video_quality.frame_times(reader)))
  return max(gops) if max(clips) > max(gops) else None


class Videos:
  """As `folders.Kind`.

  Args:
    codecs: names; None: the usual ones, if ffmpeg is there.
    requested: names of further metrics.
    select: the flags that say which frames of the originals, and their size.
    entries: the files.

  Raises:
    ValueError: a codec or a metric is not known.
  """

  is_video = True

  def __init__(
      self,
      codecs: Sequence[str] | None,
      requested: Sequence[str],
      select: dict[str, str],
      entries: Sequence[folders.Entry],
  ):
    self.missing = []
    if codecs is None:
      codecs = list(video_anchors.DEFAULT)
      if not ffmpeg.is_installed():
        codecs, self.missing = [], codecs
    folders.check_codecs(codecs, video_anchors.CODECS)
    self.metrics = metrics.choose(True, requested)
    self._select = select
    # The encoder's own choice of I-frames, and the same limit as ours.
    self._forms = {
        name if limit is None else f'{name}_gop': (name, limit)
        for limit in dict.fromkeys((None, _longest_gop(entries)))
        for name in codecs
    }
    self.codecs = {
        form: video_anchors.describe(*choice)
        for form, choice in self._forms.items()
    }

  def settings(self, codec: str) -> Sequence[float]:
    """Those of a codec, from the lowest rate."""
    return video_anchors.CODECS[self._forms[codec][0]].settings

  @contextlib.contextmanager
  def open(
      self, path: pathlib.Path, entries: Sequence[folders.Entry]
  ) -> Iterator[folders.Original]:
    """An original."""
    source = video_source.Source(
        path=str(path), options=video_source.parse_options(self._select)
    )
    with tempfile.TemporaryDirectory() as name:
      raw = pathlib.Path(name) / 'clip.yuv'
      with _open(entries[0].file) as reader:
        source = source.as_in(reader.header)
        _form(reader, source)
        clip = _clip(reader, source, raw, bool(self._forms))
        row = _row(reader, clip, self._select)
        times = _seconds(reader)
        # Not one of the samples: the first call loads the compiled kernels.
        next(video_quality.compare(reader, source))
      yield _Original(self, row, times, source, clip)

  def measure_anchor(
      self, codec: str, setting: float, clip: video_anchors.Clip
  ) -> dict:
    """The figures of a codec at one of its settings."""
    name, limit = self._forms[codec]
    return video_anchors.measure(name, int(setting), limit, clip, self.metrics)


def _row(
    reader: stream.StreamReader, clip: video_anchors.Clip, select: dict
) -> dict:
  """What tells which frames an original has."""
  times = _seconds(reader)
  return {
      'width': clip.width,
      'height': clip.height,
      'channels': reader.header.channels,
      'select': select,
      'frames': len(times),
      'start_s': float(times[0]),
      'frames_per_second': float(clip.rate),
  }


@dataclasses.dataclass
class _Original:
  """As `folders.Original`; `times` are those of its frames, in seconds."""

  kind: Videos
  row: dict
  times: list[Fraction]
  source: video_source.Source
  clip: video_anchors.Clip
  has_anchors: bool = True

  def measure(self, entry: folders.Entry) -> dict:
    """The figures of every prefix of a file."""
    with _open(entry.file) as reader:
      if _seconds(reader) != self.times:
        raise ValueError('not of the same frames as the others')
      return measure(reader, str(entry.file), self.source, self.kind.metrics)

  def anchor(self, codec: str, setting: float) -> dict:
    """The figures of a codec at one of its settings."""
    return self.kind.measure_anchor(codec, setting, self.clip)


def _seconds(reader: stream.StreamReader) -> list[Fraction]:
  base = reader.header.time_base
  return [time * base for time in video_quality.frame_times(reader)]
