"""What is said of the frames of a video while they are encoded."""

from collections.abc import Iterable, Mapping
import statistics
import threading
import time
from typing import Any

from .. import progress


class FrameProgress:
  """Says how it goes, on standard error; called from several threads.

  Attributes:
    done: frames of an earlier run.
    rows: of the frames of this run.
  """

  def __init__(self, title: str, begin: float, total: int | None):
    self._begin = begin
    self._lock = threading.Lock()
    self._display = progress.Display(title, total, 'frames')
    self._display.__enter__()
    self.done = 0
    self.rows = []

  def add(self, row: dict) -> None:
    """Takes in a frame that is done."""
    with self._lock:
      self.rows.append(row)
      count = len(self.rows)
      seconds = (time.perf_counter() - self._begin) / count
      text = f'{self.mean_bytes():.0f} bytes a frame, {self.levels()} dB'
      text += f', {seconds:.2f} s a frame'
    self._display.update(self.done + count, text=text)

  def end(self) -> None:
    """Leaves what was said last as it is."""
    self._display.__exit__(None)

  def mean_bytes(self) -> float:
    """Of the frames so far."""
    return statistics.fmean(sum(row['bytes']) for row in self.rows)

  def levels(self) -> str:
    """Mean PSNR of each prefix."""
    return progress.levels(mean_levels(self.rows))


def mean_levels(rows: Iterable[Mapping[str, Any]]) -> list[float]:
  """Mean PSNR of each prefix, over frames."""
  levels = zip(*(row['psnr_db'] for row in rows))
  return [statistics.fmean(level) for level in levels]
