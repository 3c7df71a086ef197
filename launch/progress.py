"""Shows how a fit goes, on standard error."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time

from rich import console as rich_console
from rich import progress as rich_progress

from pgsvc_jax.training import loop


@contextlib.contextmanager
def reporter(title: str) -> Iterator[Callable[[loop.Progress], None]]:
  """Yields a function that shows a fit's progress.

  A bar in a terminal; elsewhere, such as in a log, a line every tenth.
  """
  if not sys.stderr.isatty():
    yield _print_tenths(title)
    return
  bar = rich_progress.Progress(
      rich_progress.TextColumn('{task.description}'),
      rich_progress.BarColumn(bar_width=None),
      rich_progress.MofNCompleteColumn(),
      rich_progress.TextColumn('{task.fields[quality]}'),
      rich_progress.TimeRemainingColumn(),
      console=rich_console.Console(stderr=True),
  )
  with bar:
    task = bar.add_task(title, total=None, quality='starting')

    def show(progress: loop.Progress) -> None:
      bar.update(
          task,
          completed=progress.step,
          total=progress.num_steps,
          quality=_quality(progress),
      )

    yield show


def _quality(progress: loop.Progress) -> str:
  levels = ' / '.join(f'{psnr:.2f}' for psnr in progress.psnr_db)
  return f'{progress.num_splats} splats, loss {progress.loss:.2e}, {levels} dB'


def _print_tenths(title: str) -> Callable[[loop.Progress], None]:
  shown = first = 0
  begin = 0.0

  def show(progress: loop.Progress) -> None:
    nonlocal shown, first, begin
    left = ''
    if first:
      spent = time.monotonic() - begin
      steps = (progress.num_steps - progress.step) / (progress.step - first)
      left = f', {spent * steps:.0f} s left'
    else:  # A fit may go on after any step, and compiling is over.
      first, begin = progress.step, time.monotonic()
    tenth = 10 * progress.step // progress.num_steps
    if tenth > shown:
      shown = tenth
      print(
          f'{title}: step {progress.step} of {progress.num_steps},'
          f' {_quality(progress)}{left}',
          file=sys.stderr,
      )

  return show
