"""Means of an experiment, and what is claimed and recorded of them."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
import statistics

import numpy as np

from ..reports import bd_rate
from ..reports import curves

# How far, as a share, numbers of splats may differ from published ones.
_SAME_SPLATS = 0.02


@dataclasses.dataclass(frozen=True)
class Row:
  """A variant on one picture or clip, one value a prefix.

  Attributes:
    variant: its name.
    source: name of the picture or clip.
    splats: None of a video.
    bytes: of the file up to the end of the prefix.
    bpp: the same in bits a pixel.
    psnr_db: of the prefix as decoded.
    seconds: of encoding.
    shift: pixels between each prefix and the picture; empty: not measured.
    frames: (bytes, PSNR) of each frame of a video, all layers.
  """

  variant: str
  source: str
  splats: tuple[int | None, ...]
  bytes: tuple[int, ...]
  bpp: tuple[float, ...]
  psnr_db: tuple[float, ...]
  seconds: float
  shift: tuple[float, ...] = ()
  frames: tuple[tuple[int, float], ...] = ()


class Figures:
  """Means over the pictures; see `configs/experiments.py`."""

  def __init__(self, rows: Sequence[Row], published_set: str = ''):
    self.rows = rows
    self._set = published_set

  @property
  def variants(self) -> list[str]:
    """In order."""
    return list(dict.fromkeys(row.variant for row in self.rows))

  def of(self, variant: str) -> list[Row]:
    """The rows of a variant."""
    return [row for row in self.rows if row.variant == variant]

  def mean(self, variant: str, name: str) -> list[float]:
    """Means of a field, one a prefix."""
    columns = zip(*(getattr(row, name) for row in self.of(variant)))
    return [statistics.fmean(column) for column in columns]

  def psnr_db(self, variant: str) -> list[float]:
    """PSNR of each prefix."""
    return self.mean(variant, 'psnr_db')

  def bpp(self, variant: str) -> list[float]:
    """Bits a pixel of each prefix."""
    return self.mean(variant, 'bpp')

  def shifts(self, variant: str) -> list[float]:
    """Pixels between each prefix and the picture; empty: not measured."""
    return self.mean(variant, 'shift')

  def splats(self, variant: str) -> list[int] | None:
    """Splats of each prefix, rounded; None of videos."""
    if None in self.of(variant)[0].splats:
      return None
    return [round(mean) for mean in self.mean(variant, 'splats')]

  def seconds(self, variant: str) -> float:
    """The median over the pictures."""
    return statistics.median(row.seconds for row in self.of(variant))

  def curves(self, variants: Sequence[str]) -> list[list[tuple[int, float]]]:
    """(bytes, PSNR) of whole files of these variants, a list a source."""
    points = [
        [(row.bytes[-1], row.psnr_db[-1]) for row in self.of(name)]
        for name in variants
    ]
    return [list(curve) for curve in zip(*points)]

  def bytes_percent(self, variants: Sequence[str], anchor: str) -> list[float]:
    """Bytes of whole files at the PSNR of another, in percent of its own.

    Args:
      variants: files of several rates; between them, the logarithm of bytes
        is linear. Where all are better, the smallest counts; infinite where
        all are worse.
      anchor: the other.

    Returns:
      One a source.
    """
    shares = []
    (anchors,) = zip(*self.curves([anchor]))
    for curve, (size, psnr_db) in zip(self.curves(variants), anchors):
      ours, levels = np.array(sorted(curve, key=lambda point: point[1])).T
      at = np.exp(np.interp(psnr_db, levels, np.log(ours), right=np.inf))
      shares.append(100 * float(at) / size)
    return shares

  def bd_rates(
      self, variants: Sequence[str], anchors: Sequence[str]
  ) -> list[float]:
    """BD-rate of whole files in percent, one a source; NaN: none."""
    pairs = zip(self.curves(anchors), self.curves(variants))
    found = [bd_rate.bd_rate(*pair).percent for pair in pairs]
    return [math.nan if x is None else x for x in found]

  def frames_percent(
      self, variant: str, intra: Mapping[float, Sequence[str]]
  ) -> list[float]:
    """Bytes of predicted frames, in percent of I-frames of their PSNR.

    Args:
      variant: files of one group of pictures.
      intra: by the place of a frame in the group, as a share of it, variants
        that have this frame alone.

    Returns:
      One a source and frame, but for those that the I-frames do not reach.
    """
    shares = []
    for place, names in intra.items():
      for group, *alone in zip(*map(self.of, (variant, *names))):
        size, psnr_db = group.frames[frame_at(place, len(group.frames))]
        equal = intra_bytes([row.frames[0] for row in alone], psnr_db)
        if equal:
          shares.append(100 * size / equal)
    return shares

  def published(self, codec: str) -> dict | None:
    """The entry of published.json at the splats of the first variant."""
    totals = self.splats(self.variants[0])
    for entry in curves.load_published()['by_splats']:
      if (
          (entry['codec'], entry['set']) == (codec, self._set)
          and len(totals or ()) == len(entry['splats'])
          # Rounding leaves out weak ones.
          and np.allclose(totals, entry['splats'], rtol=_SAME_SPLATS)
      ):
        return entry
    return None

  def published_db(self, codec: str) -> list[float]:
    """Its PSNR; empty where there is none."""
    entry = self.published(codec)
    return entry['psnr_db'] if entry else []

  def gaps_db(self, variants: Sequence[str]) -> list[float]:
    """Between neighboring levels, the mean over the rates they share.

    Args:
      variants: files of several rates.

    Returns:
      dB; one less than there are levels.

    Raises:
      ValueError: two levels have no rates in common.
    """
    lines = []
    for name in variants:
      pairs = zip(self.bpp(name), self.psnr_db(name))
      rows = [{'bpp': rate, 'psnr_db': psnr} for rate, psnr in pairs]
      lines.append(curves.Curve(name=name, kind='point', key=name, rows=rows))
    gaps = []
    for lower, upper in itertools.pairwise(curves.levels(lines)):
      gap = curves.gap(lower, upper)
      if not gap:
        raise ValueError(f'{lower.name}, {upper.name}: no rates in common')
      gaps.append(statistics.fmean(db for _, db in gap))
    return gaps


def frame_at(place: float, num_frames: int) -> int:
  """The predicted frame at a share of a group."""
  return max(1, int(place * num_frames))


def intra_bytes(
    points: Sequence[tuple[int, float]], psnr_db: float
) -> float | None:
  """Bytes of an I-frame of that PSNR.

  Args:
    points: (bytes, PSNR) of I-frames; those that another one beats in both
      are left out.
    psnr_db: dB.

  Returns:
    Straight lines of PSNR over log(bytes); None beyond what there is.

  Example:
    >>> round(intra_bytes([(100, 30.0), (400, 34.0)], 32.0))
    200
  """
  best = []
  for size, level in sorted(points, key=lambda x: (x[0], -x[1])):
    if not best or level > best[-1][1]:
      best.append((size, level))
  if not best or not best[0][1] <= psnr_db <= best[-1][1]:
    return None
  sizes, levels = zip(*best)
  return math.exp(np.interp(psnr_db, levels, np.log(sizes)))


def published_set(names: Sequence[str], published: Mapping) -> str:
  """The set of published.json that the pictures are of, or ''."""
  document = {'pictures': [{'name': name} for name in names]}
  return curves.published_set(document, published)['title'] or ''


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What became of a claim.

  Attributes:
    text: of the claim.
    published: what was published of it.
    values: the differences here.
    holds: whether all are in the interval; None where it does not apply.
    unit: of the values.
  """

  text: str
  published: str
  values: tuple[float, ...]
  holds: bool | None
  unit: str = 'dB'


def judge(claim, figures: Figures) -> Verdict:
  """Compares a claim (`configs/experiments.py`) with the figures."""
  values = tuple(float(x) for x in claim.difference(figures))
  holds = all(claim.above < x < claim.below for x in values) if values else None
  return Verdict(claim.text, claim.published, values, holds, claim.unit)


def record(figures: Figures, recorded: dict) -> None:
  """Puts figures in, to be compared with later.

  Args:
    figures: of now.
    recorded: by variant and picture (JSON); others stay as they are.
  """
  for row in figures.rows:
    recorded.setdefault(row.variant, {})[row.source] = {
        'bytes': list(row.bytes),
        'psnr_db': [round(x, 3) for x in row.psnr_db],
        'seconds': round(row.seconds, 1),
    }


def compare(
    figures: Figures, recorded: Mapping, tolerance_db: float
) -> tuple[dict[str, list[float]], list[str]]:
  """Compares with the figures recorded of the same pictures.

  Args:
    figures: of now.
    recorded: as `record` made them.
    tolerance_db: of the means.

  Returns:
    The differences of the means of each variant, dB a prefix, and a line for
    each that is too large. A variant without pictures in common is left out.
  """
  differences, misses = {}, []
  for variant in figures.variants:
    known = recorded.get(variant, {})
    pairs = [
        (row.psnr_db, known[row.source]['psnr_db'])
        for row in figures.of(variant)
        if row.source in known
    ]
    if not pairs:
      continue
    if any(len(now) != len(before) for now, before in pairs):
      misses.append(f'{variant}: not as many levels as recorded')
      continue
    columns = zip(*(np.subtract(now, before) for now, before in pairs))
    differences[variant] = [float(np.mean(column)) for column in columns]
    for level, value in enumerate(differences[variant]):
      if abs(value) > tolerance_db:
        misses.append(
            f'{variant}, level {level}: {value:+.2f} dB from the recorded,'
            f' more than {tolerance_db:g}'
        )
  return differences, misses
