"""Videos out: tags, shapes of pixels, animations, and pipes, as others see."""

import contextlib
from fractions import Fraction
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
from PIL import Image
import pytest

from pgsvc_jax import media
from pgsvc_jax import pipes
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format
from tests import clips

ROOT = pathlib.Path(__file__).parents[1]
ffmpeg_exe = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()


def make_format(width=64, height=48, **options):
  defaults = {'time_base': Fraction(1, 25), 'frame_rate': Fraction(25)}
  return stream_format.VideoFormat(
      width=width, height=height, **(defaults | options)
  )


def write(path, frames, form, times=None, last=1):
  times = times or range(len(frames))
  with video_media.VideoWriter(path, form) as writer:
    for k, (frame, time) in enumerate(zip(frames, times)):
      writer.write(frame, time, last if k == len(frames) - 1 else 1)
  return writer


def described(path):
  command = [ffmpeg_exe, '-hide_banner', '-i', path]
  run = subprocess.run(command, capture_output=True, text=True, check=False)
  return next(x for x in run.stderr.splitlines() if 'Video:' in x)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.y4m'])
@pytest.mark.parametrize(
    'aspect', [Fraction(16, 11), Fraction(10, 11), Fraction(4321, 4320)]
)
def test_the_shape_of_pixels_is_written(tmp_path, suffix, aspect):
  path = tmp_path / f'x{suffix}'
  clip = clips.moving(30)
  writer = write(path, clip, make_format(pixel_aspect=aspect))
  assert writer.notes == ()
  text = f'SAR {aspect.numerator}:{aspect.denominator} '
  assert text in described(path)
  with video_media.open_video(path) as video:
    assert video.format.pixel_aspect == aspect
    assert len(list(video)) == 30
    # The index still leads where it should.
    (frame,) = video.frames(25, 26)
  assert np.mean(np.square(frame.pixels - clip[25] / 255)) < 1e-3
  command = [ffmpeg_exe, '-v', 'warning', '-i', path, '-f', 'null', '-']
  run = subprocess.run(command, capture_output=True, text=True, check=True)
  assert run.stderr == ''


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_tags_of_color_are_written(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  form = make_format(primaries=9, transfer=14, matrix=9)
  assert write(path, clips.moving(2), form).notes == ()
  assert 'bt2020' in described(path)


@pytest.mark.parametrize('suffix', ['.y4m', '.gif', '.webp'])
def test_what_a_file_cannot_say_is_a_note(tmp_path, suffix):
  form = make_format(primaries=9, transfer=14, pixel_aspect=Fraction(4, 3))
  notes = write(tmp_path / f'x{suffix}', clips.moving(2), form).notes
  assert len(notes) == (1 if suffix == '.y4m' else 2)
  assert 'primaries are 9' in notes[-1]
  usual = make_format(primaries=1, transfer=1)
  assert write(tmp_path / f'y{suffix}', clips.moving(2), usual).notes == ()


def test_chroma_of_mp4_lies_where_players_have_it(tmp_path):
  frame = np.zeros((48, 64, 3), np.uint8)
  frame[:, :32] = (255, 0, 0)
  frame[:, 32:] = (0, 0, 255)
  path = tmp_path / 'x.mp4'
  write(path, [frame], make_format())
  flags = ['-sws_flags', 'bicubic+accurate_rnd+full_chroma_int']
  raw = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-']
  command = [ffmpeg_exe, '-v', 'error', '-i', path, *flags, *raw]
  data = subprocess.run(command, capture_output=True, check=True).stdout
  shown = np.frombuffer(data, np.uint8).reshape(frame.shape)
  # Red against blue: the edge stays where it was, half a pixel would be seen.
  red = shown[24, :, 0].astype(float).sum() / 255
  assert abs(red - 32) < 0.3


# Animations.


@pytest.mark.parametrize('suffix', ['.gif', '.webp'])
def test_animations_have_their_frames_and_times(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  clip = clips.with_cut()
  times = [0, 10, 15, 40, 45, 90, 100, 103]
  form = make_format(time_base=Fraction(1, 100), frame_rate=None)
  write(path, clip, form, times, last=150)
  assert os.listdir(tmp_path) == [path.name]
  with Image.open(path) as image:
    assert image.n_frames == 8 and image.size == (64, 48)
    for k in range(8):
      image.seek(k)
      image.load()
      duration = image.info['duration']
      assert duration == 10 * ([*times, 253][k + 1] - times[k])
      error = np.asarray(image.convert('RGB')) / 255 - clip[k] / 255
      assert -10 * np.log10(np.mean(np.square(error))) > 27


def test_a_gif_comes_back_as_a_video(tmp_path):
  path = tmp_path / 'x.gif'
  write(path, clips.moving(5), make_format(time_base=Fraction(1, 10)), last=7)
  with video_media.open_video(path) as video:
    base = video.format.time_base
    spans = [(x.time * base, x.duration * base) for x in video]
  assert spans == [
      (Fraction(k, 10), Fraction(1 if k < 4 else 7, 10)) for k in range(5)
  ]


def test_times_too_close_for_a_gif_are_refused(tmp_path):
  form = make_format(time_base=Fraction(1, 1000))
  with pytest.raises(media.MediaError, match='less than a hundredth'):
    write(tmp_path / 'x.gif', clips.moving(3), form)
  assert not os.listdir(tmp_path)


# Pipes.


def fed(path, data):
  """A thread that puts bytes into a FIFO."""
  os.mkfifo(path)

  def feed():
    with contextlib.suppress(BrokenPipeError):
      path.write_bytes(data)

  thread = threading.Thread(target=feed, daemon=True)
  thread.start()
  return thread


@pytest.mark.parametrize('suffix', ['.mp4', '.y4m'])
def test_a_video_comes_out_of_a_fifo(tmp_path, suffix):
  whole, fifo = tmp_path / f'x{suffix}', tmp_path / f'fifo{suffix}'
  write(whole, clips.moving(9), make_format())
  thread = fed(fifo, whole.read_bytes())
  assert video_media.is_video(fifo)
  with video_media.open_video(fifo, start=2) as video:
    (note,) = video.notes
    assert f'{whole.stat().st_size} bytes in a temporary file' in note
    assert len(list(video)) == 7
  thread.join(5)


def test_a_picture_comes_out_of_a_fifo(tmp_path):
  whole, fifo = tmp_path / 'x.png', tmp_path / 'fifo.png'
  media.write_picture(whole, clips.moving(1)[0])
  fed(fifo, whole.read_bytes())
  picture = media.read_picture(fifo)
  np.testing.assert_array_equal(
      picture.pixels, media.read_picture(whole).pixels
  )
  assert 'temporary file' in picture.notes[0]


def test_a_pipe_without_an_end_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(pipes, '_MAX_BYTES', 2**21)
  fifo = tmp_path / 'fifo'
  fed(fifo, bytes(2**22))
  with pytest.raises(media.MediaError, match='come out of the pipe'):
    media.read_picture(fifo)


def piped(code, data):
  program = f'import sys; from pgsvc_jax import media\n{code}'
  return subprocess.run(
      [sys.executable, '-c', program],
      input=data,
      capture_output=True,
      check=True,
      cwd=ROOT,
  ).stdout


def test_a_picture_goes_through_standard_input_and_output(tmp_path):
  path = tmp_path / 'x.png'
  media.write_picture(path, clips.moving(1)[0])
  code = (
      "picture = media.read_picture('-')\n"
      "media.write_picture('-', 255 - media.to_uint8(picture.pixels))"
  )
  path.write_bytes(piped(code, path.read_bytes()))
  pixels = media.to_uint8(media.read_picture(path).pixels)
  np.testing.assert_array_equal(pixels, 255 - clips.moving(1)[0])


def test_a_video_goes_through_standard_input_and_output(tmp_path):
  path = tmp_path / 'x.y4m'
  write(path, clips.moving(5), make_format())
  code = """
from pgsvc_jax.video import media as video_media
with video_media.open_video('-') as video:
  with video_media.VideoWriter('-', video.format) as writer:
    for frame in video:
      writer.write(media.to_uint8(frame.pixels), frame.time, frame.duration)
"""
  data = piped(code, path.read_bytes())
  assert re.match(rb'YUV4MPEG2 W64 H48 F25:1 .* C444', data)
  path.write_bytes(data)
  with video_media.open_video(path) as video:
    pixels = np.stack([x.pixels for x in video])
  assert np.mean(np.square(pixels - clips.moving(5) / 255)) < 1e-4


def test_a_fifo_is_written_and_stays_one(tmp_path):
  fifo = tmp_path / 'fifo.png'
  os.mkfifo(fifo)
  got = []
  thread = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
  thread.start()
  media.write_picture(fifo, clips.moving(1)[0])
  thread.join(5)
  assert got[0][:4] == b'\x89PNG' and fifo.is_fifo()
