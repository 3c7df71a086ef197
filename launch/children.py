"""Commands in processes of their own, which do not outlive their parent.

A process that is killed cannot end its children. These therefore watch their
standard input, a pipe that only the parent holds: when it closes, they end.
"""

from collections.abc import Callable, Sequence
import contextlib
import os
import signal
import subprocess
import threading
import time

_VARIABLE = 'PGSVC_END_WITH_PARENT'
# Time to leave in order. A parent's work may be taken up elsewhere afterwards.
_SECONDS_TO_LEAVE = 10


def start(command: Sequence[str], stdout, stderr) -> subprocess.Popen:
  """Starts a command of this package.

  It is a process group of its own: Ctrl-C reaches the parent alone, which
  decides what becomes of it.

  Args:
    command: of `command.verb_line`, or a program that does as `end_with_parent`
      does.
    stdout: file for its standard output.
    stderr: file for its standard error.

  Returns:
    The process.
  """
  return subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=stdout,
      stderr=stderr,
      env=os.environ | {_VARIABLE: '1'},
      process_group=0,
  )


def run(
    command: Sequence[str],
    stdout,
    stderr,
    beat: Callable[[], None],
    seconds: float,
) -> int:
  """Runs a command of this package to its end, as `start` does.

  Args:
    command: as in `start`.
    stdout: file for its standard output.
    stderr: file for its standard error.
    beat: called again and again meanwhile; what it raises ends the command.
    seconds: from one beat to the next.

  Returns:
    Its exit status.
  """
  child = start(command, stdout, stderr)
  try:
    while True:
      beat()
      with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(seconds)
  except BaseException:  # Ctrl-C too: nobody would wait for the child.
    stop(child)
    raise
  finally:
    child.stdin.close()


def stop(process: subprocess.Popen) -> None:
  """Asks a child to end, makes it end, and waits until it has."""
  process.terminate()
  try:
    process.wait(_SECONDS_TO_LEAVE)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()


def end_with_parent() -> None:
  """In a child of `start`: ends this process when the parent is gone."""
  if os.environ.pop(_VARIABLE, None):
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
  os.read(0, 1)  # Returns when the pipe is closed: nobody writes to it.
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(_SECONDS_TO_LEAVE)
  os._exit(1)
