"""What people see of long work, in a terminal and in a log."""

import fractions
import io
import re
import sys
import time

import numpy as np
import pytest

from launch import progress
from launch.videos import source
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format

TEXT = '30.84 / 32.48 / 33.70 dB, 9000 splats, loss 1.2e-04'


class Terminal(io.StringIO):

  def isatty(self):
    return True


@pytest.fixture(autouse=True)
def in_short(monkeypatch):
  monkeypatch.setattr(progress, '_SECONDS', 0.05)


def test_a_log_has_lines_with_total_and_time_left(capsys):
  with progress.Display('a.png', unit='steps') as display:
    for step in (500, 1000, 1500):
      display.update(step, 2000, TEXT)
      time.sleep(0.12)
  *lines, last = capsys.readouterr().err.splitlines()
  assert len(lines) >= 3
  assert re.fullmatch(
      rf'a.png: 1500 of 2000 steps, {TEXT}, \d+ s left', lines[-1]
  )
  assert re.fullmatch(rf'a.png: 1500 of 2000 steps, {TEXT}, took .* s', last)


def test_a_log_is_not_silent_before_the_first_step(capsys):
  with progress.Display('a.png', unit='steps'):
    time.sleep(0.12)
  assert capsys.readouterr().err.startswith('a.png: 0 steps, 0 s so far\n')


def test_the_time_left_counts_from_where_the_work_went_on(capsys, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  display = progress.Display('a.png', 2000)
  display.__enter__()
  for step in (1900, 1950):
    now[0] += 10
    display.update(step)
  assert display._time_left() == ', 10 s left'
  display.__exit__(ValueError)
  # An error has the last word.
  assert 'took' not in capsys.readouterr().err


@pytest.mark.parametrize('name', ['a.mkv', 'a.mp4', 'folder'])
def test_the_frames_of_a_video_are_known_before_they_are_read(tmp_path, name):
  pytest.importorskip('av')
  path = str(tmp_path / name)
  rate = fractions.Fraction(25)
  form = stream_format.VideoFormat(
      width=32, height=32, time_base=1 / rate, frame_rate=rate
  )
  with video_media.VideoWriter(path, form) as writer:
    for time_ in range(7):
      writer.write(np.zeros((32, 32, 3), np.uint8), time_, 1)
  count = lambda **options: source.Source(
      path=path, options=options
  ).expected_frames()
  assert count() == count(frames=9) == 7
  assert count(frames=3) == 3 and count(start=5, frames=3) == 2


def test_what_does_not_say_its_frames_has_none(tmp_path):
  pytest.importorskip('av')
  (tmp_path / 'a.mp4').write_bytes(b'no video')
  for path in (tmp_path / 'a.mp4', tmp_path / 'not there'):
    assert source.Source(path=str(path)).expected_frames() is None
  assert source.Source(path='-', options={'frames': 3}).expected_frames() == 3


@pytest.mark.parametrize('columns', [60, 80, 120])
def test_a_terminal_shows_a_bar_that_fits(monkeypatch, columns):
  pytest.importorskip('rich')
  monkeypatch.setenv('COLUMNS', str(columns))
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setattr(sys, 'stderr', Terminal())
  title = 'a_name_that_is_longer_than_most_names_of_pictures.png'
  with progress.Display(title, unit='steps') as display:
    display.update(500, 2000, f'{TEXT}, and more that may not fit')
    display.update(1000)
    display.say('[red] a line that stays')
  shown = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', sys.stderr.getvalue())
  lines = [line for line in re.split('[\r\n]+', shown) if line.strip()]
  assert max(map(len, lines)) <= columns
  assert any('1000/2000' in line and '━' in line for line in lines)
  assert any(line.startswith(f'  {TEXT}') for line in lines) == (columns >= 60)
  assert '[red] a line that stays' in lines
