"""Files of pictures, measured: every prefix, as decoded from its bytes."""

from collections.abc import Iterator, Sequence
import contextlib
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
from . import anchors
from . import folders

_REPEATS = 3


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


def quality(
    measured: Sequence[metrics.Metric], image: np.ndarray, reference: np.ndarray
) -> dict[str, metrics.Figure]:
  """Figures of a decoded picture.

  Args:
    measured: what is measured.
    image: as decoded, of any size.
    reference: the original, which is brought to that size.
  """
  reference = resolution.downsample(reference, *image.shape[:2])
  return metrics.score(measured, image, reference)


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


class Pictures:
  """As `folders.Kind`.

  Args:
    codecs: names; None: all that the installed Pillow has.
    requested: names of further metrics.

  Raises:
    ValueError: a codec or a metric is not known.
  """

  is_video = False

  def __init__(self, codecs: Sequence[str] | None, requested: Sequence[str]):
    names = list(anchors.CODECS) if codecs is None else codecs
    folders.check_codecs(names, anchors.CODECS)
    self.metrics = metrics.choose(False, requested)
    there = [name for name in names if anchors.available(name)]
    self.codecs = {name: anchors.describe(name) for name in there}
    self.missing = [name for name in names if name not in there]

  def settings(self, codec: str) -> Sequence[float]:
    """Those of a codec, from the lowest rate."""
    return anchors.CODECS[codec].settings

  @contextlib.contextmanager
  def open(
      self, path: pathlib.Path, entries: Sequence[folders.Entry]
  ) -> Iterator[folders.Original]:
    """An original."""
    yield _Original(media.read_picture(path).pixels, self.metrics)


class _Original:

  def __init__(self, pixels: np.ndarray, measured: Sequence[metrics.Metric]):
    height, width, channels = pixels.shape
    self.row = {'width': width, 'height': height, 'channels': channels}
    self.has_anchors = anchors.suits(channels)
    self._pixels = pixels
    self._metrics = measured

  def measure(self, entry: folders.Entry) -> dict:
    """Cuts a file after each layer and decodes the bytes that are left.

    Returns:
      The document of `evaluate`, with `header_bytes`, and in each row
      `entropy_ms`, `render_ms`, `write_ms`: medians of three runs.
    """
    data = entry.file.read_bytes()
    with command.about(str(entry.file)):
      document = table.describe(data)
      check_size(document, str(entry.file), self._pixels, str(entry.reference))
      # Not one of the samples: the first call loads the compiled kernels.
      render.render_picture(bitstream.read_layers(data, 1))
      with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / 'picture.png'
        for row in document['layers']:
          if row['available']:
            self._measure_prefix(data[: row['bytes']], row, output)
    return document | {'header_bytes': bitstream.read_header(data).header_size}

  def _measure_prefix(self, data: bytes, row: dict, output: pathlib.Path):
    runs = [_decode(data, output) for _ in range(_REPEATS)]
    row |= quality(self._metrics, runs[0][0], self._pixels)
    for part in runs[0][1]:
      row[part] = statistics.median(times[part] for _, times in runs)

  def anchor(self, codec: str, setting: float) -> dict:
    """The figures of a codec at one of its settings."""
    return anchors.measure(codec, setting, self._pixels, self._metrics)
