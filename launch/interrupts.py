"""Ctrl-C of a command, from its first import to its last callback.

A command is interrupted in three ways. While it is imported there is nothing to
clean up, and the process just ends, as any program does that knows nothing of
Ctrl-C. Then KeyboardInterrupt is raised wherever the main thread is. Where that
is a function called from C (by the garbage collector or by LLVM), Python can
only report and forget it: it is raised once more.
"""

import _thread
from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import time

_SECONDS_TO_LEAVE_A_CALLBACK = 0.05

_raises = signal.default_int_handler


def end_at_once() -> None:
  """Until `catch`, Ctrl-C ends the process, without a traceback."""
  # Not where it is ignored, as in the background.
  if signal.getsignal(signal.SIGINT) is _raises:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def catch() -> None:
  """From now on, Ctrl-C and SIGTERM are a KeyboardInterrupt, never lost."""
  if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
    signal.signal(signal.SIGINT, _raises)
  # Ended by a scheduler, as by Ctrl-C: temporary files are removed.
  signal.signal(signal.SIGTERM, _raises)
  sys.unraisablehook = _raise_again


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
  """In the block, after `catch`, both end the process without cleaning up.

  For imports of what is written in C++: that is lost there, or a crash.
  """
  caught = [
      number
      for number in (signal.SIGINT, signal.SIGTERM)
      # Elsewhere than in a command, it is none of our business.
      if sys.unraisablehook is _raise_again
      and signal.getsignal(number) is _raises
  ]
  for number in caught:
    signal.signal(number, signal.SIG_DFL)
  try:
    yield
  finally:
    for number in caught:
      signal.signal(number, _raises)


def _raise_again(unraisable) -> None:
  if issubclass(unraisable.exc_type, KeyboardInterrupt):
    # Not threading.Thread, whose start waits, and would be interrupted here.
    _thread.start_new_thread(_interrupt, ())
  else:
    sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
  time.sleep(_SECONDS_TO_LEAVE_A_CALLBACK)
  # As from outside, so that a main thread that waits is woken.
  os.kill(os.getpid(), signal.SIGINT)
