#!/usr/bin/env bash
# One would guess that `a[:n] = b[:n]` in a Numba function is at most as expensive
# to compile as the loop that it stands for.
#
# It is not: the first assignment to a slice in a process has Numba compile 37
# more functions, among them str(), repr() and the concatenation of strings,
# for the message of a ValueError that names both shapes. A function of one line
# then takes 1.7 s to compile where the loop takes 0.06 s.
#
# Why it matters: whoever compiles at the first use has their users wait for it.
# Kernels that are compiled on people's machines copy by loops.
#
# Seen with numba 0.68.1, numpy 2.4.6, Python 3.11:
#   loop: 1 function compiled
#   slice: 38 functions compiled, of them for strings: integer_str, ...
#
# Fails if a slice no longer brings functions of strings along.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import time

import numba
from numba.core import event
import numpy as np


class Compiled(event.Listener):
  """The functions that Numba compiles."""

  def __init__(self):
    self.names = []

  def on_start(self, event):
    self.names.append(event.data['dispatcher'].py_func.__qualname__)

  def on_end(self, event):
    pass


@numba.njit
def nothing(a, b, n):
  return a[0] + b[0] + n


@numba.njit
def by_loop(a, b, n):
  for i in range(n):
    a[i] = b[i]


@numba.njit
def by_slice(a, b, n):
  a[:n] = b[:n]


def compile_and_run(function):
  a, b = np.zeros(8), np.ones(8)
  compiled, begin = Compiled(), time.process_time()
  with event.install_listener('numba:compile', compiled):
    function(a, b, 3)
  return compiled.names, time.process_time() - begin, a


nothing(np.zeros(8), np.ones(8), 3)  # What every first function takes.
loop, loop_seconds, one = compile_and_run(by_loop)
slices, slice_seconds, other = compile_and_run(by_slice)
strings = sorted({x.split('.')[0] for x in slices if 'str' in x or 'uni' in x})
print(f'numba {numba.__version__}, numpy {np.__version__}')
print(f'loop: {len(loop)} function compiled, {loop_seconds:.2f} s')
print(f'slice: {len(slices)} functions compiled, {slice_seconds:.2f} s')
print('of them for strings:', ', '.join(strings))
assert (one == other).all() and one.sum() == 3
assert len(loop) == 1, loop
assert len(slices) > 20 and 'integer_str' in strings, slices
PYTHON
echo 'as described'
