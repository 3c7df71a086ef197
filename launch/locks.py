"""One process at a time: in the folder of a run, or for the file it writes."""

from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import tempfile


@contextlib.contextmanager
def hold(path: pathlib.Path, busy: str) -> Iterator[None]:
  """Holds a lock; the system lifts it when the process ends, however it ends.

  Args:
    path: of a file for the lock, made if it is not there.
    busy: what is said where another process has it.

  Raises:
    OSError: another process has it, or the file cannot be made.
  """
  with open(path, 'a') as file:
    try:
      import fcntl
    except ImportError:  # Not on Windows.
      pass
    else:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise OSError(busy) from error
    yield


def output(path: str) -> contextlib.AbstractContextManager[None]:
  """While a file is made, which may take long, nobody else here makes it.

  The lock is in the folder for temporary files: a run that is killed leaves
  nothing beside its output.

  Raises:
    OSError: another process makes it.
  """
  name = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:32]
  lock = pathlib.Path(tempfile.gettempdir(), f'pgsvc-{name}.lock')
  return hold(lock, f'{path}: another process writes it')
