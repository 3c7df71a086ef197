"""Ctrl-C at moments when Python makes a traceback of it, or forgets it."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parents[1]

MODULE = ['-m', 'launch.encode']
INSTALLED = ['-c', 'from launch import main; main.main()', 'encode']


@pytest.mark.parametrize(
    'command, package',
    [
        (MODULE, 'ml_collections'),
        (INSTALLED, 'ml_collections'),
        (MODULE, 'jax'),
    ],
)
def test_a_command_that_is_still_imported_just_ends(tmp_path, command, package):
  stub = 'import time; print("here", flush=True); time.sleep(60)'
  (tmp_path / f'{package}.py').write_text(stub)
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'a.png')
  process = subprocess.Popen(
      [
          sys.executable,
          *command,
          f'--input={tmp_path / "a.png"}',
          f'--output={tmp_path / "a.pgsvc"}',
      ],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(tmp_path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )
  assert process.stdout.readline() == 'here\n'
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=30)
  # A shell says 130.
  assert process.returncode == -signal.SIGINT
  assert 'Traceback' not in error and 'Interrupt' not in error


def says(program):
  return subprocess.run(
      [sys.executable, '-c', f'import signal\n{program}'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
      timeout=60,
  )


def test_libraries_leave_ctrl_c_alone():
  program = """
numbers = signal.SIGINT, signal.SIGTERM
before = [signal.getsignal(number) for number in numbers]
from launch import command, runtime
print(before == [signal.getsignal(number) for number in numbers])
"""
  assert says(program).stdout == 'True\n'


def test_what_runs_in_the_background_stays_deaf():
  program = """
from launch import interrupts
signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupts.end_at_once()
interrupts.catch()
with interrupts.ending_at_once():
  signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGINT)
print('deaf')
"""
  assert says(program).stdout == 'deaf\n'


def test_an_interrupt_in_a_callback_is_raised_behind_it():
  program = """
import gc, time
from launch import interrupts

def callback(phase, _):
  gc.callbacks.clear()
  signal.raise_signal(signal.SIGINT)

interrupts.catch()
gc.callbacks.append(callback)
gc.collect()
try:
  time.sleep(60)
except KeyboardInterrupt:
  print('raised')
"""
  result = says(program)
  assert (result.stdout, result.stderr) == ('raised\n', '')


def test_other_errors_in_callbacks_are_told_as_ever():
  program = """
import gc
from launch import interrupts

def callback(phase, _):
  gc.callbacks.clear()
  raise ValueError('no good')

interrupts.catch()
gc.callbacks.append(callback)
gc.collect()
"""
  assert 'no good' in says(program).stderr
