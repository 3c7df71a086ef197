"""Shows on standard error how far long work is, and how long it will take."""

from collections.abc import Callable, Iterator
import contextlib
import importlib.util
import sys
import threading
import time
from typing import Any, Protocol, Self

# Where no terminal shows a bar, such as in a log: between lines.
_SECONDS = 10.0


class Display:
  """A bar in a terminal, elsewhere a line every ten seconds and at the end.

  Used as a context; its methods may be called from several threads.

  Args:
    title: of the work.
    total: how much there is of it; None: not known (yet).
    unit: what is counted, such as `steps`.
  """

  def __init__(self, title: str, total: int | None = None, unit: str = ''):
    self._title = title
    self._unit = unit
    self._done, self._total, self._text = 0, total, ''
    self._first: tuple[int, float] | None = None
    self._lock = threading.Lock()
    self._end = threading.Event()
    self._bar = self._task = None

  def __enter__(self) -> Self:
    self._begin = time.monotonic()
    # The extra `jax` has rich; what does without that prints lines.
    if sys.stderr.isatty() and importlib.util.find_spec('rich'):
      self._bar = _make_bar(self)
      self._task = self._bar.add_task(self._title, total=self._total)
      self._bar.start()
    else:
      threading.Thread(target=self._print_lines, daemon=True).start()
    return self

  def __exit__(self, kind: type | None, *error: object) -> None:
    self._end.set()
    if self._bar:
      self._bar.stop()
    elif kind is None and self._first:
      seconds = time.monotonic() - self._begin
      self.say(f'{self._line()}, took {seconds:.1f} s')

  def update(self, done: int, total: int | None = None, text: str = '') -> None:
    """Shows where the work is.

    Args:
      done: of it.
      total: if it is another one now.
      text: what else there is to say.
    """
    with self._lock:
      self._done, self._text = done, text
      self._total = self._total if total is None else total
      is_first = self._first is None
      # Work may go on after any part of it, and begin slowly.
      self._first = self._first or (done, time.monotonic())
    if self._bar and is_first:
      self._bar.reset(self._task, completed=done, total=self._total)
    elif self._bar:
      self._bar.update(self._task, completed=done, total=self._total)

  @property
  def text(self) -> str:
    """What was last said."""
    return self._text

  def say(self, line: str) -> None:
    """Prints a line that stays."""
    if self._bar:
      self._bar.console.print(line, markup=False, highlight=False)
    else:
      print(line, file=sys.stderr, flush=True)

  def _print_lines(self) -> None:
    while not self._end.wait(_SECONDS):
      self.say(self._line() + self._time_left())

  def _line(self) -> str:
    with self._lock:
      count = f'{self._done}'
      count += '' if self._total is None else f' of {self._total}'
      count += f' {self._unit}' if self._unit else ''
      return f'{self._title}: {count}' + (self._text and f', {self._text}')

  def _time_left(self) -> str:
    with self._lock:
      now = time.monotonic()
      first, since = self._first or (0, now)
      if self._total is None or self._done <= first:
        return f', {now - self._begin:.0f} s so far'
      spent = now - since
      left = spent * (self._total - self._done) / (self._done - first)
      return f', {left:.0f} s left'


def _make_bar(display: Display) -> Any:
  """The bar, and the text in a line of its own: both fit into 80 columns."""
  from rich import console
  from rich import progress
  from rich import table
  from rich import text

  class Bar(progress.Progress):

    def get_renderables(self):
      yield self.make_tasks_table(self.tasks)
      if display.text:
        yield text.Text(f'  {display.text}', no_wrap=True, overflow='ellipsis')

  cut = table.Column(max_width=30, no_wrap=True, overflow='ellipsis')
  return Bar(
      progress.TextColumn('{task.description}', table_column=cut, markup=False),
      progress.BarColumn(bar_width=None),
      progress.MofNCompleteColumn(),
      progress.TimeRemainingColumn(elapsed_when_finished=True),
      console=console.Console(stderr=True),
  )


class FitState(Protocol):
  """Where a fit stands: `training.loop.Progress`."""

  step: int
  num_steps: int
  num_splats: int
  loss: float
  psnr_db: tuple[float, ...]


@contextlib.contextmanager
def reporter(title: str) -> Iterator[Callable[[FitState], None]]:
  """Yields a function that shows a fit's progress."""
  with Display(title, unit='steps') as display:

    def show(state: FitState) -> None:
      text = f'{levels(state.psnr_db)} dB, {state.num_splats} splats'
      text += f', loss {state.loss:.1e}'
      display.update(state.step, state.num_steps, text)

    yield show


def levels(psnr_db: tuple[float, ...] | list[float]) -> str:
  """PSNR of each prefix.

  Example:
    >>> levels((30.124, 31.0))
    '30.12 / 31.00'
  """
  return ' / '.join(f'{level:.2f}' for level in psnr_db)
