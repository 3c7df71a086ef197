"""What predicted frames cost against I-frames of the same quality.

python -m launch.predicted --clips=FOLDER --output=FOLDER --size=854x480 \
    --config=configs/video.py:medium

Encodes the first frames of every clip as one group of pictures, and some of
those frames by themselves too, at several densities of splats and roundings.
The bytes of a predicted frame, motion field included, are compared with those
that an I-frame of its PSNR would have: straight lines of PSNR over log(bytes)
between I-frames that no other one beats in both; nothing is said beyond them.
Every file is an ordinary `encode`, decoded again; what is there is not encoded
again. Writes OUTPUT/predicted.json and prints a table in Markdown.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
import statistics

from absl import flags
from ml_collections import config_flags
import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax.codec import stream

from . import caches
from . import command
from .lab.experiments import units
from .videos import quality as video_quality

_CLIPS = flags.DEFINE_string('clips', None, 'folder of videos', required=True)
_NAMES = flags.DEFINE_list(
    'names', [], 'clips to take, by the start of their names; none: all'
)
_OUTPUT = flags.DEFINE_string(
    'output', 'predicted', 'folder for the files and predicted.json'
)
_SIZE = flags.DEFINE_string('size', None, 'WIDTHxHEIGHT to shrink them to')
_FRAMES = flags.DEFINE_integer(
    'frames', 16, 'of each clip, one group', lower_bound=2
)
_COMPARED = flags.DEFINE_list(
    'compared', ['4', '8', '12'], 'frames that are coded by themselves, too'
)
_WORKERS = flags.DEFINE_integer(
    'workers', 1, 'files to encode at a time', lower_bound=1
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
flags.declare_key_flag('cache')

# Of the I-frames: splats, as a share of the default, and `rounding_noise`.
_POINTS = ((0.125, 0.5), (0.25, 0.5), (0.5, 0.5), (1.0, 0.5), (1.0, 0.15))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodedFrame:
  """A frame as decoded: all its layers.

  Attributes:
    bytes: of it.
    psnr_db: at 8 bits.
  """

  bytes: int
  psnr_db: float


def intra_bytes(points: Sequence[CodedFrame], psnr_db: float) -> float | None:
  """Bytes of an I-frame of that PSNR; None: beyond those that there are.

  Example:
    >>> points = [CodedFrame(bytes=100, psnr_db=30.0)]
    >>> points += [CodedFrame(bytes=400, psnr_db=34.0)]
    >>> round(intra_bytes(points, 32.0))
    200
  """
  best = []
  for point in sorted(points, key=lambda x: (x.bytes, -x.psnr_db)):
    if not best or point.psnr_db > best[-1].psnr_db:
      best.append(point)
  if not best or not best[0].psnr_db <= psnr_db <= best[-1].psnr_db:
    return None
  sizes = np.log([x.bytes for x in best])
  return math.exp(np.interp(psnr_db, [x.psnr_db for x in best], sizes))


def _coded_frames(unit: units.Unit, folder: pathlib.Path) -> list[CodedFrame]:
  """The frames of a file, as decoded again."""
  with open(units.file_of(unit, folder), 'rb') as opened:
    reader = stream.StreamReader(opened)
    sizes = video_quality.prefix_bytes(reader)[-1]
    return [
        CodedFrame(
            bytes=size,
            psnr_db=metrics.psnr_db(frame.images[-1], frame.original),
        )
        for size, frame in zip(
            sizes, video_quality.compare(reader, unit.originals), strict=True
        )
    ]


def _unit(
    clip: pathlib.Path, overrides: dict, start: int, frames: int
) -> units.Unit:
  return units.Unit(
      source=clip,
      config=pathlib.Path(
          config_flags.get_config_filename(flags.FLAGS['config'])
      ).name,
      overrides=overrides,
      start=start,
      frames=frames,
      size=_SIZE.value,
  )


def _plan(clip: pathlib.Path) -> tuple[units.Unit, dict[int, list[units.Unit]]]:
  """The group of a clip, and by frame, the I-frames."""
  given = config_flags.get_override_values(flags.FLAGS['config'])
  group = _unit(clip, given | {'gop': _FRAMES.value}, 0, _FRAMES.value)
  density = config_lib.VideoConfig().image.fit.layer_density
  overrides = [
      {
          'image.fit.layer_density': tuple(share * x for x in density),
          'image.rounding_noise': noise,
      }
      for share, noise in _POINTS
  ]
  frames = sorted(map(int, _COMPARED.value))
  if not all(0 < frame < _FRAMES.value for frame in frames):
    raise ValueError(f'--compared: predicted frames are 1..{_FRAMES.value - 1}')
  return group, {k: [_unit(clip, x, k, 1) for x in overrides] for k in frames}


def _measure(
    group: units.Unit,
    alone: dict[int, list[units.Unit]],
    folder: pathlib.Path,
) -> dict:
  """The figures of a clip."""
  frames = _coded_frames(group, folder)
  compared = {}
  for index, others in alone.items():
    points = [frame for x in others for frame in _coded_frames(x, folder)]
    equal = intra_bytes(points, frames[index].psnr_db)
    compared[index] = {
        'intra': [dataclasses.asdict(point) for point in points],
        'share': equal and frames[index].bytes / equal,
    }
  return {
      'clip': group.source.name,
      'frames': [dataclasses.asdict(frame) for frame in frames],
      'compared': compared,
  }


def _row(figures: dict) -> str:
  first, *others = (CodedFrame(**frame) for frame in figures['frames'])
  shares = (x['share'] for x in figures['compared'].values())
  columns = [
      figures['clip'],
      f'{first.bytes}, {first.psnr_db:.2f}',
      f'{statistics.fmean(x.bytes for x in others):.0f},'
      f' {statistics.fmean(x.psnr_db for x in others):.2f}',
      ', '.join('-' if x is None else f'{100 * x:.0f}' for x in shares) + ' %',
      f'{others[0].psnr_db:.2f} to {others[-1].psnr_db:.2f}',
  ]
  return '| ' + ' | '.join(columns) + ' |'


def main() -> None:
  """Encodes what is missing, and prints the table."""
  folder = pathlib.Path(_OUTPUT.value)
  clips = sorted(
      path
      for path in pathlib.Path(_CLIPS.value).iterdir()
      if not path.name.startswith('.')
      and path.name.startswith(tuple(_NAMES.value) or '')
  )
  if not clips:
    raise ValueError(f'no such clips in {_CLIPS.value}')
  plans = [_plan(clip) for clip in clips]
  folder.mkdir(parents=True, exist_ok=True)
  caches.prepare()
  files = folder / 'units'
  planned = [
      x for group, alone in plans for x in (group, *sum(alone.values(), []))
  ]
  units.run(planned, files, _WORKERS.value)
  rows = [_measure(group, alone, files) for group, alone in plans]
  text = json.dumps(rows, indent=1)
  command.write_bytes(str(folder / 'predicted.json'), text.encode())
  frames = ', '.join(map(str, plans[0][1]))
  print(
      '| clip | I-frame: bytes, dB | P-frames, mean: bytes, dB |'
      f' of an I-frame of the same PSNR (frames {frames}) |'
      ' first to last P-frame, dB |\n' + '|---' * 5 + '|'
  )
  for row in rows:
    print(_row(row))


if __name__ == '__main__':
  command.run(main, config='video.py')
