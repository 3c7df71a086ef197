"""Runs units: one file each, encoded once, measured as decoded again.

A unit has a folder of its own, named by what decides its file: the input and
every setting. So units that are there are not run again, and experiments share
them.
"""

from collections.abc import Iterable, Iterator, Mapping
import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import shlex
import statistics
import sys
import threading
import time
from typing import Any

from ml_collections import config_dict
import numpy as np

from pgsvc_jax import config as config_lib
from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream

from ... import children
from ... import command
from ... import host
from ... import progress
from ... import table
from ...videos import info as video_info
from ...videos import quality as video_quality
from ...videos import source as video_source

_RESULT = 'result.json'
_LOG = 'log.txt'
_FILE = 'file.pgsvc'

# The command that makes the file of a unit; that of GSVC holds only figures.
CODERS = {'pgsvc': 'encode', 'gsvc': 'lab.experiments.code_gsvc'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
  """One file to be.

  Attributes:
    source: the picture or clip.
    config: file in configs/, with its preset.
    overrides: of its fields.
    start: frames of a clip to leave out.
    frames: of a clip, at most.
    size: of a clip, WIDTHxHEIGHT.
    scales: at which each prefix of a picture is measured; empty: at its native
      size.
    coder: of CODERS.
  """

  source: pathlib.Path
  config: str
  overrides: Mapping[str, Any]
  start: int = 0
  frames: int | None = None
  size: str | None = None
  scales: tuple[float, ...] = ()
  coder: str = 'pgsvc'

  @functools.cached_property
  def parsed(self) -> config_lib.EncodeConfig | config_lib.VideoConfig:
    """The settings, as resolved.

    Raises:
      ValueError: a field is unknown or out of range.
    """
    config = load_config(self.config)
    try:
      config.update_from_flattened_dict(dict(self.overrides))
    except (KeyError, TypeError) as error:
      raise ValueError(f'{self.config}: {error}') from error
    kind = config_lib.EncodeConfig
    if self.is_video:
      kind = config_lib.VideoConfig
    return config_lib.from_mapping(kind, config.to_dict())

  @property
  def settings(self) -> dict:
    """The same as JSON."""
    return json.loads(json.dumps(dataclasses.asdict(self.parsed)))

  @property
  def is_video(self) -> bool:
    """Whether the config is one of videos."""
    return 'image' in load_config(self.config)

  @property
  def name(self) -> str:
    """Of the folder."""
    source = _digest(self.source)
    decisive = [source, self.settings, self.frames, self.size]
    decisive += [self.scales] if self.scales else []
    decisive += [self.coder] if self.coder != 'pgsvc' else []
    decisive += [self.start] if self.start else []
    text = json.dumps(decisive, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{self.source.stem}-{digest[:12]}'

  @property
  def originals(self) -> video_source.Source:
    """The frames of a clip that are encoded."""
    values = {'start': self.start, 'frames': self.frames, 'size': self.size}
    given = {name: str(value) for name, value in values.items() if value}
    return video_source.Source(
        path=str(self.source), options=video_source.parse_options(given)
    )

  def encode_flags(self) -> list[str]:
    """Of `encode`, but for input and output."""
    flags = [f'--config={command.CONFIGS / self.config}']
    flags += [f'--config.{name}={x}' for name, x in self.overrides.items()]
    flags += [f'--start={self.start}'] if self.start else []
    flags += [f'--frames={self.frames}'] if self.frames else []
    return flags + ([f'--size={self.size}'] if self.size else [])


def file_of(unit: Unit, folder: pathlib.Path) -> pathlib.Path:
  """The file of a unit, below the folder that was given to `run`."""
  return folder / unit.name / _FILE


@functools.cache
def load_module(name: str) -> Any:
  """A module in configs/, wherever that is installed."""
  path = command.CONFIGS / f'{name}.py'
  spec = importlib.util.spec_from_file_location(f'pgsvc_configs_{name}', path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # Dataclasses look themselves up there.
  spec.loader.exec_module(module)
  return module


def load_config(config: str) -> config_dict.ConfigDict:
  """The config of NAME.py[:PRESET]."""
  file, colon, preset = config.partition(':')
  make = load_module(pathlib.Path(file).stem).get_config
  return make(preset) if colon else make()


@functools.cache
def _digest(source: pathlib.Path) -> str:
  """Of a file, or of the files in a folder."""
  files = [source]
  if source.is_dir():
    files = sorted(path for path in source.iterdir() if path.is_file())
  result = hashlib.sha256()
  for file in files:
    result.update(file.read_bytes())
  return result.hexdigest()


def run(
    units: Iterable[Unit], folder: pathlib.Path, num_workers: int
) -> dict[str, dict]:
  """Runs those that are not there.

  Args:
    units: to run.
    folder: where each has its folder.
    num_workers: units at a time; the cores are shared between them.

  Returns:
    By the names of the units: `levels`, rows with `splats` (None of a video),
    `bytes`, `bpp` and `psnr_db`; `seconds` of the `encode`; and what it was
    made of.

  Raises:
    ChildProcessError: an `encode` failed; the message has its last line.
  """
  by_name = {unit.name: unit for unit in units}
  missing = [x for x in by_name if not (folder / x / _RESULT).exists()]
  if len(missing) < len(by_name):
    print(
        f'{len(by_name) - len(missing)} of {len(by_name)} are there already',
        file=sys.stderr,
    )
  num_devices = max(1, host.num_cores() // num_workers)
  stop = threading.Event()
  pool = concurrent.futures.ThreadPoolExecutor(num_workers)
  try:
    with progress.Display('encode', len(missing), 'files') as display:
      futures = {
          pool.submit(_run, by_name[name], folder, num_devices, stop): name
          for name in missing
      }
      done = concurrent.futures.as_completed(futures)
      for count, future in enumerate(done, 1):
        # Here, not in the threads: not all that decodes bears several of them.
        name = futures[future]
        result = future.result()
        file = file_of(by_name[name], folder)
        result['levels'] = _measure(by_name[name], file)
        text = json.dumps(result, indent=1)
        command.write_bytes(str(folder / name / _RESULT), text.encode())
        quality = progress.levels([x['psnr_db'] for x in result['levels']])
        display.update(count)
        display.say(
            f'{count}/{len(missing)} {by_name[name].source.name}: {quality} dB,'
            f' {result["seconds"]:.1f} s'
        )
  finally:
    # After a failure, and Ctrl-C: the others end too.
    stop.set()
    pool.shutdown(cancel_futures=True)
  return {
      name: json.loads((folder / name / _RESULT).read_text())
      for name in by_name
  }


def _run(
    unit: Unit, folder: pathlib.Path, num_devices: int, stop: threading.Event
) -> dict:
  """Encodes one unit; returns what there is to say of it."""
  file = file_of(unit, folder)
  file.parent.mkdir(parents=True, exist_ok=True)
  line = command.verb_line(
      CODERS[unit.coder],
      f'--input={unit.source}',
      f'--output={file}',
      f'--num_devices={num_devices}',
      *unit.encode_flags(),
  )
  begin = time.perf_counter()
  _encode(line, file.parent / _LOG, stop)
  seconds = time.perf_counter() - begin
  return {
      'source': str(unit.source),
      'command': shlex.join(line),
      'versions': {
          name: importlib.metadata.version(name)
          for name in ('jax', 'numpy', 'numba')
      },
      'settings': unit.settings,
      'sha256': hashlib.sha256(file.read_bytes()).hexdigest(),
      'seconds': seconds,
  }


def _encode(line: list[str], log: pathlib.Path, stop: threading.Event) -> None:
  """Runs a command to its end, or until it is to stop."""

  def check() -> None:
    if stop.is_set():
      raise ChildProcessError('stopped')

  with open(log, 'a') as output:
    output.write(f'$ {shlex.join(line)}\n')
    output.flush()
    status = children.run(line, output, output, check, 0.2)
  if status:
    *_, last = [''] + log.read_text().splitlines()
    raise ChildProcessError(f'{last} ({log})')


def _measure(unit: Unit, file: pathlib.Path) -> list[dict]:
  if unit.coder == 'gsvc':
    return json.loads(file.read_bytes())['levels']
  measure = measure_video if unit.is_video else measure_picture
  return measure(file, unit)


def measure_picture(file: pathlib.Path, unit: Unit) -> list[dict]:
  """A row for every prefix of a file, decoded to 8 bits."""
  data = file.read_bytes()
  reference = media.read_picture(unit.source).pixels
  layered = bitstream.read_layers(data)
  images = render.render_levels(layered)
  if unit.scales:
    shapes = resolution.layer_shapes(unit.scales, *reference.shape[:2])
    images = [
        render.render_picture(
            render.resized(render.first_layers(layered, k), *shape)
        )
        for k, shape in enumerate(shapes, 1)
    ]
  rows = []
  for row, image in zip(table.describe(data)['layers'], images):
    kept = {name: row[name] for name in ('splats', 'bytes', 'bpp')}
    target = resolution.downsample(reference, *image.shape[:2])
    kept['psnr_db'] = metrics.psnr_db(image, target)
    if unit.scales:
      kept['shift'] = find_shift(image, target)
    rows.append(kept)
  return rows


def measure_video(file: pathlib.Path, unit: Unit) -> list[dict]:
  """A row for every prefix of a file; PSNR is the mean over the frames."""
  figures = [
      [_psnr_db(image, frame.original) for image in frame.images]
      for frame in _frames(file, unit)
  ]
  with open(file, 'rb') as opened:
    reader = stream.StreamReader(opened)
    info = video_info.describe(reader, file.stat().st_size)
    sizes = video_quality.prefix_bytes(reader)
  return [
      {
          'splats': None,
          'bytes': row['bytes'],
          'bpp': row['bpp'],
          'psnr_db': statistics.fmean(level),
          'frames': list(zip(sizes[k], level)),
      }
      for k, (row, level) in enumerate(zip(info['layers'], zip(*figures)))
  ]


def _frames(
    file: pathlib.Path, unit: Unit
) -> Iterator[video_quality.Comparison]:
  """The frames of a video, as decoded and as they were."""
  with open(file, 'rb') as opened:
    reader = stream.StreamReader(opened)
    yield from video_quality.compare(reader, unit.originals)


def show_base(
    unit: Unit, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
  """What the base layer of a unit shows, and the original; the last frame.

  Args:
    unit: there is its file.
    folder: that was given to `run`.

  Returns:
    uint8, and float32 in [0, 1].
  """
  file = file_of(unit, folder)
  if unit.is_video:
    *_, last = _frames(file, unit)
    return last.images[0], last.original
  layered = bitstream.read_layers(file.read_bytes(), 1)
  return render.render_picture(layered), media.read_picture(unit.source).pixels


def find_shift(image: np.ndarray, target: np.ndarray) -> float:
  """Pixels between a picture and the original, by phase correlation.

  Args:
    image: uint8.
    target: of the same size, float32 in [0, 1].

  Returns:
    The larger of both axes, in hundredths.
  """
  from skimage import registration

  shift, _, _ = registration.phase_cross_correlation(
      target.mean(-1), image.mean(-1) / 255, upsample_factor=100
  )
  return float(np.abs(shift).max())


def _psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
  reference = resolution.downsample(reference, *image.shape[:2])
  return metrics.psnr_db(image, reference)
