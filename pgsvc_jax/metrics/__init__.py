"""How close a picture or a clip is to its reference.

A metric is one module of this package, with what it measures and all that
tables, plots and documents say of it, in a tuple METRICS. To add one, add a
module: it is found here, and nothing else has to know it.
"""

from collections.abc import Iterable, Sequence
import contextlib
import importlib
import pkgutil
from typing import Self

import numpy as np

from pgsvc_jax.metrics.metric import Figure
from pgsvc_jax.metrics.metric import Metric
from pgsvc_jax.metrics.multiscale_ssim import ms_ssim
from pgsvc_jax.metrics.psnr import psnr_db

__all__ = ['ALL', 'Metric', 'Scores', 'choose', 'ms_ssim', 'psnr_db', 'score']


def _find() -> dict[str, Metric]:
  modules = [
      importlib.import_module(f'{__name__}.{module.name}')
      for module in pkgutil.iter_modules(__path__)
  ]
  found = [x for module in modules for x in getattr(module, 'METRICS', ())]
  return {x.name: x for x in sorted(found, key=lambda x: (x.order, x.name))}


# Every metric, by its name in JSON documents, in the order of columns.
ALL = _find()


def choose(is_video: bool, requested: Iterable[str] = ()) -> list[Metric]:
  """The metrics that are measured of pictures, or of videos.

  Args:
    is_video: whether of videos.
    requested: names of others, which are measured only when asked for.

  Returns:
    The metrics, in the order of columns.

  Raises:
    ValueError: there is no such metric, or it is for videos only.

  Example:
    >>> [metric.name for metric in choose(is_video=False)]
    ['psnr_db', 'ms_ssim']
    >>> [metric.title for metric in choose(is_video=True, requested=['vmaf'])]
    ['PSNR', 'Y PSNR', 'YUV PSNR', 'MS-SSIM', 'VMAF']
  """
  names = set(requested)
  fitting = [x for x in ALL.values() if is_video or x.is_for_pictures]
  for name in sorted(names):
    if name not in ALL:
      raise ValueError(f'no metric {name!r}, there are {", ".join(ALL)}')
    if ALL[name] not in fitting:
      raise ValueError(f'{name} is for videos')
  return [x for x in fitting if not x.on_request or x.name in names]


class Scores:
  """Figures of several metrics for each frame of a clip; used as a context.

  Example:
    >>> frame = np.full((8, 8, 3), 0.5)
    >>> with Scores(choose(is_video=False)) as scores:
    ...   scores.add(frame, frame + 0.1)
    ...   rows = scores.rows()
    >>> round(rows[0]['psnr_db'], 3), rows[0]['ms_ssim']
    (20.0, None)
  """

  def __init__(self, metrics: Sequence[Metric]):
    self._meters = {metric.name: metric.meter() for metric in metrics}
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> Self:
    for meter in self._meters.values():
      self._stack.enter_context(meter)
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def add(self, image: np.ndarray, reference: np.ndarray) -> None:
    """Takes a frame, `[H, W, C]`, uint8 or in [0, 1], and its reference."""
    for meter in self._meters.values():
      meter.add(image, reference)

  def rows(self) -> list[dict[str, Figure]]:
    """The figures of every frame; None where there is none.

    The PSNR of equal pictures is none, too.
    """
    columns = {name: meter.figures() for name, meter in self._meters.items()}
    return [
        dict(zip(columns, values))
        for values in zip(*columns.values(), strict=True)
    ]


def score(
    metrics: Sequence[Metric], image: np.ndarray, reference: np.ndarray
) -> dict[str, Figure]:
  """The figures of one picture; see `Scores`."""
  with Scores(metrics) as scores:
    scores.add(image, reference)
    (row,) = scores.rows()
  return row
