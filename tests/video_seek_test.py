"""Any range of frames is what decoding from the start gives, and cheaper."""

from fractions import Fraction
import subprocess

import numpy as np
import pytest

from pgsvc_jax import media
from pgsvc_jax.video import av_frames
from pgsvc_jax.video import media as video_media
from tests import clips

GOP = 12
NUM_FRAMES = 50
X264 = (('g', '12'), ('bf', '3'), ('crf', '20'), ('sc_threshold', '0'))
OPEN_GOP = (*X264, ('x264-params', 'open-gop=1:scenecut=0:keyint=12'))
REFRESH = (*X264, ('x264-params', 'intra-refresh=1:keyint=12'))
X265 = 'log-level=none:keyint=12:min-keyint=12:bframes=3:scenecut=0'
KINDS = {
    # Suffix, codec, options, and whether reading can begin at key frames.
    'mp4': ('.mp4', 'libx264', X264, True),
    'open GOPs': ('.mp4', 'libx264', OPEN_GOP, True),
    'open GOPs of HEVC': (
        '.mp4',
        'libx265',
        (('x265-params', f'{X265}:open-gop=1'),),
        True,
    ),
    'mkv': ('.mkv', 'libx264', OPEN_GOP, True),
    'webm': ('.webm', 'libvpx-vp9', (('g', '12'), ('auto-alt-ref', '1')), True),
    'vp8': ('.webm', 'libvpx', (('g', '12'), ('auto-alt-ref', '1')), True),
    'av1': ('.mp4', 'libsvtav1', (('g', '12'), ('preset', '13')), True),
    'ts': ('.ts', 'libx264', X264, True),
    'mpeg2': ('.ts', 'mpeg2video', (('g', '12'), ('bf', '2')), True),
    # FFmpeg gives two packets one time there.
    'ps': ('.mpg', 'mpeg2video', (('g', '12'), ('bf', '2')), False),
    'mjpeg': ('.avi', 'mjpeg', (), True),
    'mov of pictures': ('.mov', 'png', (), True),
    'gradual refresh': ('.mp4', 'libx264', REFRESH, False),
    'avi': ('.avi', 'libx264', X264, False),
    'no container': ('.264', 'libx264', X264, False),
}
QUICK = ('open GOPs', 'webm', 'ts', 'mjpeg', 'gradual refresh', 'no container')
FORMATS = {'mjpeg': 'yuvj420p', 'png': 'rgb24'}


def decoded_frames(monkeypatch):
  """A list that grows by one with each frame decoded."""
  count = []
  real = av_frames.Decoder._decode

  def counting(self, *args):
    for frame in real(self, *args):
      count.append(frame.pts)
      yield frame

  monkeypatch.setattr(av_frames.Decoder, '_decode', counting)
  return count


def content(frames):
  return [(x.time, x.duration, x.pixels.tobytes()) for x in frames]


def read(path, **options):
  with video_media.open_video(path, **options) as video:
    return content(video)


def write(path, codec, options, **changes):
  clips.write(
      path,
      clips.with_cut(NUM_FRAMES, 20),
      codec=codec,
      options=options,
      pixel_format=FORMATS.get(codec, 'yuv420p'),
      container='h264' if path.suffix == '.264' else None,
      **changes,
  )


@pytest.mark.parametrize(
    'kind',
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK))
        for kind in KINDS
    ],
)
def test_a_range_is_what_decoding_from_the_start_gives(
    tmp_path, monkeypatch, kind
):
  suffix, codec, options, can_seek = KINDS[kind]
  path = tmp_path / f'clip{suffix}'
  write(path, codec, options)
  whole = read(path)
  assert len(whole) == NUM_FRAMES
  count = decoded_frames(monkeypatch)
  for start in (1, 12, 35, 36, 37, 49):
    count.clear()
    assert read(path, start=start, frames=4) == whole[start : start + 4], start
    if can_seek:
      # From the key frame before the one before, at worst: the leading frames
      # of an open group need it. And one to know the format, one to know how
      # long the last lasts, and what waits to be put in order.
      assert len(count) <= 2 * GOP + 4 + 6, (start, len(count))


@pytest.mark.parametrize('kind', ['open GOPs', 'mkv', 'avi'])
def test_ranges_of_one_reader_in_any_order(tmp_path, monkeypatch, kind):
  suffix, codec, options, _ = KINDS[kind]
  path = tmp_path / f'clip{suffix}'
  write(path, codec, options)
  whole = read(path, start=3)
  with video_media.open_video(path, start=3) as video:
    for start, stop in [(30, 34), (2, 9), (9, 12), (12, 14), (45, 99), (0, 3)]:
      assert content(video.frames(start, stop)) == whole[start:stop]
    part = video.frames(20, 30)
    next(part)
    # The range before was not read to its end.
    assert content(video.frames(21, 23)) == whole[21:23]
    with pytest.raises(media.MediaError, match='50 frames, none from 50 on'):
      next(video.frames(47, 48))
    assert content(video.frames(46, 48)) == whole[46:]


def test_consecutive_ranges_cost_their_frames(tmp_path, monkeypatch):
  path = tmp_path / 'clip.mp4'
  write(path, 'libx264', X264)
  count = decoded_frames(monkeypatch)
  with video_media.open_video(path) as video:
    for start in range(0, NUM_FRAMES, 7):
      list(video.frames(start, start + 7))
  assert len(count) == NUM_FRAMES + 1  # One to know the format.


def test_a_variable_rate_keeps_its_times(tmp_path):
  path = tmp_path / 'clip.mp4'
  times = [7 * x for x in clips.irregular_times(NUM_FRAMES)]
  write(path, 'libx264', OPEN_GOP, times=times, time_base=Fraction(1, 90000))
  whole = read(path)
  for start in (11, 13, 24, 40):
    assert read(path, start=start) == whole[start:]


def test_an_edit_list_leaves_out_frames(tmp_path):
  """As phones and editors cut: what is decoded first is not all shown."""
  ffmpeg = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()

  path, cut = tmp_path / 'clip.mp4', tmp_path / 'cut.mp4'
  write(path, 'libx264', OPEN_GOP)
  command = [ffmpeg, '-v', 'error', '-ss', '0.7', '-i', path, '-c', 'copy', cut]
  subprocess.run(command, check=True)
  command = [ffmpeg, '-v', 'error', '-i', cut, '-f', 'framemd5', '-']
  shown = subprocess.run(command, check=True, capture_output=True, text=True)
  num_shown = sum(x[:1] != '#' for x in shown.stdout.splitlines())
  whole = read(cut)
  assert len(whole) == num_shown
  for start in (1, 8, 17, 30):
    assert read(cut, start=start, frames=3) == whole[start : start + 3]


@pytest.mark.parametrize('start', [3, 50, 200])
def test_where_there_are_no_such_frames(tmp_path, start):
  path = tmp_path / 'clip.mp4'
  clips.write(path, clips.moving(3))
  with pytest.raises(media.MediaError, match=f'3 frames, none from {start} on'):
    read(path, start=start)


def test_damage_before_the_range_is_not_looked_at(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
  path = tmp_path / 'clip.mov'
  clips.write(path, noise, codec='png', pixel_format='rgb24', options=())
  data = bytearray(path.read_bytes())
  data[len(data) // 4] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(media.MediaError, match='frame [45] is damaged'):
    read(path)
  assert len(read(path, start=10)) == 10
