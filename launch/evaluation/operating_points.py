"""Every prefix of every file of a folder, measured.

A folder holds files of one operating point, FOLDER/NAME.pgsvc, or of several,
FOLDER/POINT/NAME.pgsvc; NAME is that of the original without its suffix. Where
there is one original for all, files may be called anything.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
import statistics
import tempfile
import time

import numpy as np

from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import bitstream

from .. import command
from .. import table

_REPEATS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A file, the name of its operating point and its original."""

  point: str
  file: pathlib.Path
  reference: pathlib.Path


def _files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Files of a folder by point; those right in it are named after it."""
  points = {}
  for path in sorted(folder.glob('*.pgsvc')):
    points.setdefault(folder.resolve().name, []).append(path)
  for path in sorted(folder.glob('*/*.pgsvc')):
    points.setdefault(path.parent.name, []).append(path)
  return points


def find(inputs: Sequence[str], references: str) -> list[Entry]:
  """Finds the files and the original of each.

  Args:
    inputs: folders, and files, each of which is a point named after it.
    references: folder of the originals, or the one original of all files.

  Returns:
    The files in the order of the inputs, then by point, then by name.

  Raises:
    ValueError: something is missing, or a name stands for two things.
  """
  root, originals = pathlib.Path(references), {}
  if not root.exists():
    raise ValueError(f'{references} is not a folder or a file')
  for path in sorted(root.iterdir()) if root.is_dir() else ():
    if path.is_file() and not path.name.startswith('.'):
      originals.setdefault(path.stem, []).append(path)
  entries, seen = [], {}
  for name in inputs:
    path = pathlib.Path(name)
    if not path.exists():
      raise ValueError(f'{name} is not a folder or a file')
    points = _files(path) if path.is_dir() else {path.stem: [path]}
    if not points:
      raise ValueError(f'{name}: no *.pgsvc, and no folders that have any')
    for point, files in points.items():
      for file in files:
        matches = originals.get(file.stem, []) if root.is_dir() else [root]
        if len(matches) != 1:
          found = ' and '.join(x.name for x in matches) or 'no original'
          raise ValueError(
              f'{file}: {references} has {found} of that name; need one'
          )
        other = seen.setdefault((point, matches[0]), file)
        if other != file:
          raise ValueError(f'{other} and {file} are both point {point!r}')
        entries.append(Entry(point=point, file=file, reference=matches[0]))
  return entries


def sha256(path: pathlib.Path) -> str:
  """The hash that tells whether a file is still the one that was measured."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


def check_size(document: dict, name: str, reference: np.ndarray, other: str):
  """Refuses a file of another size, before its pixels are allocated.

  Args:
    document: of `table.describe`.
    name: of the file.
    reference: the original.
    other: its name.

  Raises:
    ValueError: the sizes differ.
  """
  size = (document['height'], document['width'], document['channels'])
  if size != reference.shape:
    raise ValueError(
        f'{other} is {reference.shape}, {name} {size}'
        ' (height, width, channels)'
    )


def add_quality(row: dict, image: np.ndarray, reference: np.ndarray) -> None:
  """Adds psnr_db and ms_ssim of a decoded picture to its row.

  Args:
    row: of the table.
    image: as decoded, of any size.
    reference: the original, brought to that size.
  """
  decoded = image.astype(np.float32) / 255
  reference = resolution.downsample(reference, *image.shape[:2])
  psnr_db = metrics.psnr_db(decoded, reference)
  # JSON has no infinity: null where the pictures are identical.
  row['psnr_db'] = psnr_db if np.isfinite(psnr_db) else None
  row['ms_ssim'] = metrics.ms_ssim(decoded, reference)


def _decode(
    data: bytes, output: pathlib.Path
) -> tuple[np.ndarray, dict[str, float]]:
  """What `decode` does, and the milliseconds of its parts."""
  times = [time.perf_counter()]
  layered = bitstream.read_layers(data)
  times.append(time.perf_counter())
  image = render.render_picture(render.at_native_size(layered))
  times.append(time.perf_counter())
  media.write_picture(output, image)
  times.append(time.perf_counter())
  parts = ('entropy_ms', 'render_ms', 'write_ms')
  return image, {
      part: 1e3 * (b - a) for part, a, b in zip(parts, times, times[1:])
  }


def measure(entry: Entry, reference: np.ndarray) -> dict:
  """Cuts a file after each layer and decodes the bytes that are left.

  Args:
    entry: the file.
    reference: the pixels of its original.

  Returns:
    The document of `evaluate`, with `header_bytes`, and in each row
    `entropy_ms`, `render_ms`, `write_ms`: medians of three runs.

  Raises:
    ValueError: the file is damaged or of another size than the original.
  """
  data = entry.file.read_bytes()
  with command.about(str(entry.file)):
    document = table.describe(data)
    check_size(document, str(entry.file), reference, str(entry.reference))
    header = bitstream.read_header(data)
    # Not one of the samples: the first call loads the compiled kernels.
    render.render_picture(bitstream.read_layers(data, 1))
    with tempfile.TemporaryDirectory() as folder:
      output = pathlib.Path(folder) / 'picture.png'
      for row in document['layers']:
        if not row['available']:
          continue
        runs = [_decode(data[: row['bytes']], output) for _ in range(_REPEATS)]
        add_quality(row, runs[0][0], reference)
        for part in runs[0][1]:
          row[part] = statistics.median(times[part] for _, times in runs)
  return document | {'header_bytes': header.header_size}
