"""The pace of a fit that has to be done in time."""

import time


class Pace:
  """Leaves out steps, the same share everywhere, so that a fit ends in time.

  Args:
    deadline: when to be done, as `time.perf_counter` counts; None: no step is
      left out.
    num_steps: of the whole fit.

  Example:
    >>> Pace(None, 100).next_step(20, 10)
    20
  """

  def __init__(self, deadline: float | None, num_steps: int):
    self._deadline = deadline
    self._num_steps = num_steps
    self._chunks = 0
    self._begin = 0.0
    self._position = 0.0

  def next_step(self, step: int, chunk_steps: int) -> int:
    """Where to go on after a chunk.

    Args:
      step: before which the chunk ended.
      chunk_steps: steps in it.

    Returns:
      The step, a whole number of chunks from 0, or the last.
    """
    now = time.perf_counter()
    if self._deadline is None:
      return step
    if not self._chunks:  # The first one compiles.
      self._begin, self._chunks, self._position = now, 1, step
      return step
    # Of all chunks so far, for births take time too.
    seconds = (now - self._begin) / self._chunks
    self._chunks += 1
    affordable = max((self._deadline - now) / seconds, 0.5)
    left = self._num_steps - step
    # Where the last chunk began; the fraction is kept, so that they add up.
    start = step - chunk_steps
    slack = chunk_steps / 2
    start = min(max(self._position, start - slack), start + slack)
    self._position = start + max(chunk_steps, left / affordable)
    chunks = round(self._position / chunk_steps)
    return min(self._num_steps, max(step, chunks * chunk_steps))
