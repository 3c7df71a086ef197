"""What `evaluate` does with videos: frame by frame, every prefix by itself."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
from fractions import Fraction
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Self

from pgsvc_jax.codec import stream
from pgsvc_jax.video import stream_format

from .. import command
from .. import table
from ..evaluation import operating_points
from . import anchors as video_anchors
from . import ffmpeg
from . import info as video_info
from . import quality as video_quality
from . import side_by_side
from . import source as video_source

_TIMES = ('entropy_ms', 'render_ms')


def has_ffmpeg() -> bool:
  """Whether there can be anchors and VMAF."""
  return importlib.util.find_spec('imageio_ffmpeg') is not None


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
        file.write(video_quality.yuv420_bytes(pixels))
  return clip


class _RawFrames:
  """Every prefix and the original at its size, as VMAF reads them.

  Used as a context: the files are gone after it.
  """

  def __init__(self, shapes: Sequence[tuple[int, int]]):
    self._shapes = shapes
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> Self:
    make = lambda: self._stack.enter_context(tempfile.NamedTemporaryFile())
    self._images = [make() for _ in self._shapes]
    self._targets = {shape: make() for shape in set(self._shapes)}
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def write(self, frame: video_quality.Comparison) -> None:
    """Adds a frame to all files."""
    for file, image in zip(self._images, frame.images):
      file.write(video_quality.yuv420_bytes(image))
    targets = dict(zip(self._shapes, frame.targets))
    for shape, file in self._targets.items():
      file.write(video_quality.yuv420_bytes(targets[shape]))

  def vmaf(self) -> Iterator[list[float | None]]:
    """Of each frame, for each prefix."""
    for shape, file in zip(self._shapes, self._images):
      target = self._targets[shape]
      for written in (file, target):
        written.flush()
      paths = (pathlib.Path(x.name) for x in (file, target))
      height, width = (side + side % 2 for side in shape)
      yield ffmpeg.vmaf(*paths, width, height)


def _measure(
    reader: stream.StreamReader,
    name: str,
    source: video_source.Source,
    *,
    with_vmaf: bool,
    shown: str | None = None,
) -> dict:
  """Decodes all prefixes in step with the originals.

  Args:
    reader: of the file.
    name: of the file.
    source: of its originals.
    with_vmaf: whether VMAF is computed.
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
  rows, splats, times = [[] for _ in prefixes], [], []
  with contextlib.ExitStack() as stack:
    writer = shown and stack.enter_context(
        side_by_side.Writer(
            shown,
            dataclasses.replace(form, time_base=base),
            [row['bits_per_second'] for row in prefixes],
        )
    )
    shapes = reader.header.native_shapes[: len(prefixes)]
    raw = with_vmaf and stack.enter_context(_RawFrames(shapes))
    for frame in video_quality.compare(reader, source):
      pairs = zip(frame.images, frame.targets)
      scores = [video_quality.score(*pair) for pair in pairs]
      for k, row in enumerate(scores):
        spent = {part: getattr(frame, part)[k] for part in _TIMES}
        rows[k].append(row | spent)
      if raw:
        raw.write(frame)
      if writer:
        writer.write(frame, scores)
      splats.append(frame.splats)
      times.append(frame.time)
    for k, found in enumerate(raw.vmaf() if raw else []):
      rows[k] = [x | {'vmaf': y} for x, y in zip(rows[k], found, strict=True)]
  for k, row in enumerate(prefixes):
    row |= video_quality.summary(rows[k])
    row['splats'] = statistics.fmean(x[k] for x in splats)
    row['per_frame']['bytes'] = sizes[k]
  firsts = {gop.first_frame for gop in reader.gops}
  return document | {
      'time_s': [float(time * base) for time in times],
      'is_key': [index in firsts for index in range(len(times))],
      'header_bytes': prefixes[0]['bytes'] - sum(sizes[0]),
  }


def evaluate_file(
    name: str,
    source: video_source.Source,
    *,
    with_vmaf: bool,
    shown: str | None,
    as_json: bool,
) -> None:
  """Measures one file and prints its table.

  Args:
    name: of the file.
    source: of its originals.
    with_vmaf: whether VMAF is computed.
    shown: path for a video of the prefixes side by side, if any.
    as_json: print one JSON document.
  """
  if with_vmaf:
    ffmpeg.version()  # Missing, it is missed now and not at the end.
  with _open(name) as reader:
    source = source.as_in(reader.header)
    document = _measure(reader, name, source, with_vmaf=with_vmaf, shown=shown)
  if as_json:
    table.print_json(document)
  else:
    _print_layers(document['layers'])


_COLUMNS = {
    'splats': ('splats', '.0f'),
    'bytes': ('bytes', '.0f'),
    'bits_per_second': ('bit/s', '.0f'),
    'bpp': ('bpp', '.4f'),
    'psnr_db': ('PSNR', '.2f'),
    'y_psnr_db': ('Y', '.2f'),
    'yuv_psnr_db': ('YUV', '.2f'),
    'ms_ssim': ('MS-SSIM', '.4f'),
    'vmaf': ('VMAF', '.2f'),
}


def cells(row: dict) -> list[str]:
  """A row of a table; `-` where a figure is not there."""
  return [
      '-' if row.get(name) is None else format(row[name], form)
      for name, (_, form) in _COLUMNS.items()
  ]


def header() -> list[str]:
  """The head of such a table."""
  return [title for title, _ in _COLUMNS.values()]


def _print_layers(layers: list[dict]) -> None:
  rows = [
      [
          str(row['layer']),
          *cells(row),
          '' if row['available'] else '(cut off)',
      ]
      for row in layers
  ]
  table.print_table(['layer', *header(), ''], rows)


def check_anchors(names: Sequence[str]) -> None:
  """Refuses names of codecs that are not known.

  Raises:
    ValueError: there is one.
  """
  for name in names:
    if name not in video_anchors.CODECS:
      raise ValueError(
          f'unknown anchor {name!r} of videos, there are'
          f' {list(video_anchors.CODECS)}'
      )


def _picture(
    entry: operating_points.Entry,
    reader: stream.StreamReader,
    select: dict[str, str],
    clip: video_anchors.Clip,
    output: pathlib.Path,
) -> dict:
  """The row of an original."""
  times = video_quality.frame_times(reader)
  return {
      'name': entry.reference.stem,
      'path': os.path.relpath(entry.reference, output.parent),
      'sha256': operating_points.sha256(entry.reference),
      'width': clip.width,
      'height': clip.height,
      'channels': reader.header.channels,
      'select': select,
      'frames': len(times),
      'start_s': float(times[0] * reader.header.time_base),
      'frames_per_second': float(clip.rate),
  }


def _identity(picture: dict) -> str:
  """What the figures of an anchor depend on, of an original."""
  names = ('sha256', 'select', 'width', 'height', 'frames', 'start_s')
  return json.dumps([picture[name] for name in names], sort_keys=True)


def _known_anchors(old: dict | None, codecs: dict, with_vmaf: bool) -> dict:
  """Rows of an older file, by original, codec and setting.

  Only those that today's codecs would give again.
  """
  if not old:
    return {}
  identities = {x['name']: _identity(x) for x in old['pictures']}
  return {
      (identities[row['picture']], row['codec'], row['setting']): row
      for row in old['anchors']
      if old['codecs'][row['codec']] == codecs.get(row['codec'])
      and ('vmaf' in row or not with_vmaf)
  }


def _longest_gop(entries: Sequence[operating_points.Entry]) -> int | None:
  """Frames of the longest group, where some clip is longer than that."""
  gops, clips = [], []
  for entry in entries:
    with _open(entry.file) as reader:
      gops += [gop.num_frames for gop, _ in reader.playable(1)]
      clips.append(len(video_quality.frame_times(reader)))
  return max(gops) if max(clips) > max(gops) else None


def evaluate_folders(
    entries: Sequence[operating_points.Entry],
    select: dict[str, str],
    output: pathlib.Path,
    *,
    codecs: Sequence[str],
    with_vmaf: bool,
    old: dict | None,
) -> dict:
  """Measures all files and anchors.

  Args:
    entries: the files.
    select: the flags that say which frames of the originals, and their size.
    output: of results.json, to which paths are relative.
    codecs: names of `video_anchors.CODECS`.
    with_vmaf: whether VMAF is computed.
    old: an older document of that name, for its anchors.

  Returns:
    Of results.json: pictures, files, anchors and codecs.

  Raises:
    ValueError: files of one original are not of the same frames.
  """
  if with_vmaf:
    ffmpeg.version()  # Missing, it is missed now and not at the end.
  gop = _longest_gop(entries)
  # The encoder's own choice of I-frames, and the same limit as ours.
  forms = {
      name if limit is None else f'{name}_gop': (name, limit)
      for limit in dict.fromkeys((None, gop))
      for name in codecs
  }
  described = {
      form: video_anchors.describe(*choice) for form, choice in forms.items()
  }
  known = _known_anchors(old, described, with_vmaf)
  document = {'pictures': [], 'files': [], 'anchors': [], 'codecs': described}
  originals = sorted({entry.reference for entry in entries})
  options = video_source.parse_options(select)
  for i, path in enumerate(originals):
    print(f'{i + 1}/{len(originals)} {path.name}', file=sys.stderr)
    source = video_source.Source(path=str(path), options=options)
    own = [entry for entry in entries if entry.reference == path]
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      with _open(own[0].file) as reader:
        source = source.as_in(reader.header)
        _form(reader, source)
        clip = _clip(reader, source, folder / 'clip.yuv', bool(codecs))
        times = _seconds(reader)
        picture = _picture(own[0], reader, select, clip, output)
        # Not one of the samples: the first call loads the compiled kernels.
        next(video_quality.compare(reader, source))
      document['pictures'].append(picture)
      for entry in own:
        with _open(entry.file) as reader:
          if _seconds(reader) != times:
            raise ValueError(f'not of the same frames as {own[0].file}')
          row = _measure(
              reader,
              str(entry.file),
              source,
              with_vmaf=with_vmaf,
          )
        document['files'].append(
            {
                'point': entry.point,
                'picture': picture['name'],
                'path': os.path.relpath(entry.file, output.parent),
                'sha256': operating_points.sha256(entry.file),
            }
            | row
        )
      for form, (codec, limit) in forms.items():
        for setting in video_anchors.CODECS[codec].settings:
          row = known.get((_identity(picture), form, setting))
          row = row or video_anchors.measure(
              codec, setting, limit, clip, folder, with_vmaf
          )
          document['anchors'].append(
              row | {'picture': picture['name'], 'codec': form}
          )
  return document


def _seconds(reader: stream.StreamReader) -> list[Fraction]:
  base = reader.header.time_base
  return [time * base for time in video_quality.frame_times(reader)]
