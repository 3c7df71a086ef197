"""What is said of the frames of a video while they are encoded."""

from collections.abc import Iterable, Mapping
import statistics
import sys
import threading
import time
from typing import Any


class Progress:
  """Says how it goes, on standard error; called from several threads."""

  def __init__(self, title: str, begin: float):
    self._title = title
    self._begin = begin
    self._last = 0.0
    self._lock = threading.Lock()
    self.done = 0  # Frames of an earlier run.
    self.rows = []

  def add(self, row: dict) -> None:
    """Takes in a frame that is done."""
    with self._lock:
      self.rows.append(row)
      now = time.perf_counter()
      if now - self._last < (0.5 if sys.stderr.isatty() else 10):
        return
      self._last = now
      self._print(end='\r' if sys.stderr.isatty() else '\n')

  def end(self) -> None:
    """Leaves the last line as it is."""
    if self.rows and sys.stderr.isatty():
      self._print(end='\n')

  def _print(self, end: str) -> None:
    count = len(self.rows)
    seconds = (time.perf_counter() - self._begin) / count
    print(
        f'{self._title}: {self.done + count} frames,'
        f' {self.mean_bytes():.0f} bytes a frame, {self.levels()} dB,'
        f' {seconds:.2f} s a frame',
        end=end,
        file=sys.stderr,
    )

  def mean_bytes(self) -> float:
    """Of the frames so far."""
    return statistics.fmean(sum(row['bytes']) for row in self.rows)

  def levels(self) -> str:
    """Mean PSNR of each prefix."""
    return ' / '.join(f'{level:.2f}' for level in mean_levels(self.rows))


def mean_levels(rows: Iterable[Mapping[str, Any]]) -> list[float]:
  """Mean PSNR of each prefix, over frames."""
  levels = zip(*(row['psnr_db'] for row in rows))
  return [statistics.fmean(level) for level in levels]
