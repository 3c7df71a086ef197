"""Times compiled programs, compilation apart.

On CPU a sample is one call, from the call to `block_until_ready`; the host's
share of that is tens of microseconds. Elsewhere a sample is a run of calls,
enqueued without waiting, then one wait: the device works through the queue
while the host fills it, so the time per call is the device's. That holds as
long as a call takes the device longer than the host takes to enqueue it, which
is told too (`dispatch_ms`): where both are alike, the host was the limit, or
had to steer, as it does in loops whose trips the device counts.
"""

from collections.abc import Callable
import dataclasses
import math
import statistics
import time

import jax

# A queue of calls is at least this long, so that its ends do not count.
_MIN_QUEUE_MS = 50
_MAX_CALLS = 1000

# A slow program gets fewer samples, but some.
_MAX_SAMPLING_S = 10
_MIN_SAMPLES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
  """Milliseconds of one unit of work, compilation apart.

  Attributes:
    lower_ms: tracing and lowering, for the whole program.
    compile_ms: XLA's, for the whole program.
    median_ms: of the samples.
    low_ms: their first quartile.
    high_ms: their third quartile.
    samples: how many.
    calls: of the program, a sample.
    dispatch_ms: the host's time to enqueue a unit; None where not queued.
    cores: processor time over time, a figure for CPU only.
  """

  lower_ms: float
  compile_ms: float
  median_ms: float
  low_ms: float
  high_ms: float
  samples: int
  calls: int
  dispatch_ms: float | None
  cores: float | None


def compile_program(
    function: Callable, args: tuple
) -> tuple[Callable, float, float]:
  """Compiles a jitted or pmapped function for these arguments.

  Returns:
    (the compiled function, ms of tracing and lowering, ms of compiling).
  """
  begin = time.perf_counter()
  lowered = function.lower(*args)
  middle = time.perf_counter()
  compiled = lowered.compile()
  end = time.perf_counter()
  return compiled, (middle - begin) * 1e3, (end - middle) * 1e3


def time_program(
    function: Callable, args: tuple, *, samples: int, units: int = 1
) -> Timing:
  """Compiles a program, runs it once to warm up, and times it.

  Args:
    function: jitted or pmapped.
    args: on the device already.
    samples: how many to take, at least 2; fewer of a slow program.
    units: of work in a call, such as steps in a scan.

  Returns:
    The times of one unit.
  """
  compiled, lower_ms, compile_ms = compile_program(function, args)
  on_cpu = jax.default_backend() == 'cpu'
  jax.block_until_ready(compiled(*args))
  calls = 1
  if not on_cpu:
    call_ms, _, _ = _sample(compiled, args, 1)
    calls = min(max(math.ceil(_MIN_QUEUE_MS / call_ms), 1), _MAX_CALLS)
  rows = []
  end = time.perf_counter() + _MAX_SAMPLING_S
  while len(rows) < samples and (
      len(rows) < _MIN_SAMPLES or time.perf_counter() < end
  ):
    rows.append(_sample(compiled, args, calls))
  times, dispatches, cores = zip(*rows)
  low, median, high = statistics.quantiles(times, n=4, method='inclusive')
  return Timing(
      lower_ms=lower_ms,
      compile_ms=compile_ms,
      median_ms=median / units,
      low_ms=low / units,
      high_ms=high / units,
      samples=len(rows),
      calls=calls,
      dispatch_ms=None if on_cpu else statistics.median(dispatches) / units,
      cores=statistics.median(cores) if on_cpu else None,
  )


def time_once(function: Callable[[], object]) -> Timing:
  """Times one run of a host function that compiles what it needs.

  What JAX says that it spent on lowering and compiling is taken off; tracing is
  not, since nested traces are told twice.
  """
  durations: dict[str, float] = {}

  def listen(event: str, seconds: float, **unused) -> None:
    durations[event] = durations.get(event, 0) + seconds * 1e3

  jax.monitoring.register_event_duration_secs_listener(listen)
  begin, busy = time.perf_counter(), time.process_time()
  try:
    function()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  elapsed, busy = time.perf_counter() - begin, time.process_time() - busy
  lower_ms, compile_ms = (
      durations.get(f'/jax/core/compile/{event}_duration', 0.0)
      for event in ('jaxpr_to_mlir_module', 'backend_compile')
  )
  rest_ms = elapsed * 1e3 - lower_ms - compile_ms
  on_cpu = jax.default_backend() == 'cpu'
  return Timing(
      lower_ms=lower_ms,
      compile_ms=compile_ms,
      median_ms=rest_ms,
      low_ms=rest_ms,
      high_ms=rest_ms,
      samples=1,
      calls=1,
      dispatch_ms=None,
      cores=busy / elapsed if on_cpu else None,
  )


def _sample(
    compiled: Callable, args: tuple, calls: int
) -> tuple[float, float, float]:
  """(ms a call, the host's ms to enqueue one, cores at work)."""
  begin, busy = time.perf_counter(), time.process_time()
  for _ in range(calls):
    # Only the last result is kept: memory of the others is free to reuse.
    result = compiled(*args)
  enqueued = time.perf_counter()
  jax.block_until_ready(result)
  elapsed = time.perf_counter() - begin
  busy = time.process_time() - busy
  return (
      elapsed / calls * 1e3,
      (enqueued - begin) / calls * 1e3,
      busy / elapsed,
  )
