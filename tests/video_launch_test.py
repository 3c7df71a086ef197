"""The commands on videos, as a person runs them."""

import dataclasses
import fractions
import functools
import io
import itertools
import json
import threading

import numpy as np
from PIL import Image
import pytest

from pgsvc_jax import decoder
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import playback
from tests import launch_test

HEIGHT, WIDTH = 36, 50
# Two GOPs; the frames of the second last twice as long as those of the first.
TIMES = ((5, 7, 9, 11), (13, 17, 21))
LAST = (2, 4)


def make_frame(k):
  """Splats that move; the layers differ."""
  rng = np.random.default_rng(1)
  n = 40
  means = rng.uniform(0, (WIDTH, HEIGHT), (n, 2)) + (k, 0.5 * k)
  return types.LayeredSplats(
      splats=types.Splats(
          means,
          np.exp(rng.normal(1, 0.3, (n, 3))) * (1, 0.2, 1),
          rng.uniform(0, 0.5, (n, 3)),
      ),
      layer_sizes=(25, 15),
      height=HEIGHT,
      width=WIDTH,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('video')
  header = syntax.VideoHeader(
      width=WIDTH,
      height=HEIGHT,
      channels=3,
      num_layers=2,
      time_base=fractions.Fraction(1, 20),
      frame_rate=fractions.Fraction(10),
      primaries=1,
      transfer=1,
      matrix=1,
  )
  frames = map(make_frame, itertools.count())
  with (
      open(path / 'clip.pgsvc', 'wb') as file,
      stream.StreamWriter(file, header) as writer,
  ):
    for times, last in zip(TIMES, LAST):
      gop = list(itertools.islice(frames, len(times)))
      packets = frame_coding.encode_gop(gop, quantize.StepSizes())
      writer.add_gop(times, packets, last_duration=last)
  return path


def expected(folder, name='clip.pgsvc', **kwargs):
  """[(time, duration, picture)], decoded in this process."""
  with open(folder / name, 'rb') as file:
    frames = playback.frames(stream.StreamReader(file), **kwargs)
    return [
        (f.time, f.duration, render.render_picture(f.layered)) for f in frames
    ]


def run(verb, folder, name, output, *flags):
  return launch_test.run(
      verb, f'--input={folder / name}', f'--output={folder / output}', *flags
  )


def assert_frames(folder, frames):
  """A folder of pictures has these frames, exactly."""
  record = json.loads((folder / 'times.json').read_text())
  assert record['times'] == [time for time, _, _ in frames]
  assert record['durations'] == [duration for _, duration, _ in frames]
  pictures = sorted(folder.glob('*.png'))
  for path, (_, _, image) in zip(pictures, frames, strict=True):
    with Image.open(path) as picture:
      np.testing.assert_array_equal(np.asarray(picture), image)


def test_decode_gives_every_frame_at_its_time(folder):
  result = run('decode', folder, 'clip.pgsvc', 'frames')
  frames = expected(folder)
  assert [time for time, _, _ in frames] == [*TIMES[0], *TIMES[1]]
  assert [duration for _, duration, _ in frames] == [2, 2, 2, 2, 4, 4, 4]
  assert_frames(folder / 'frames', frames)
  line = result.stderr.strip()
  assert ': 7 frames, 2 of 2 layers, ' in line and '\n' not in line
  assert line.endswith('side by side')


def test_a_video_file_has_frames_times_and_tags(folder):
  pytest.importorskip('av')
  run('decode', folder, 'clip.pgsvc', 'clip.mkv', '--times', '--layers=1')
  frames = expected(folder, num_layers=1)
  with video_media.open_video(folder / 'clip.mkv') as video:
    form = video.format
    got = [(f.time * form.time_base, f.pixels) for f in video]
  assert (form.width, form.height) == (WIDTH, HEIGHT)
  assert (form.primaries, form.transfer) == (1, 1)
  for (time, pixels), (units, _, image) in zip(got, frames, strict=True):
    assert time == fractions.Fraction(units, 20)
    np.testing.assert_array_equal(np.rint(pixels * 255), image)


def test_decode_of_one_frame_gives_a_picture(folder):
  run('decode', folder, 'clip.pgsvc', 'one.png', '--frame=0.35s')
  with Image.open(folder / 'one.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), expected(folder)[3][2])


def test_a_prefix_has_the_size_it_was_fitted_at(folder):
  """Unless another is asked for; also of a cut file, whose frames are one."""
  data = (folder / 'clip.pgsvc').read_bytes()
  reader = stream.StreamReader(io.BytesIO(data))
  shapes = (HEIGHT // 2, WIDTH // 2), (HEIGHT, WIDTH)
  header = dataclasses.replace(reader.header, layer_shapes=shapes)
  with open(folder / 'sizes.pgsvc', 'wb') as file:
    with stream.StreamWriter(file, header) as writer:
      for gop in reader:
        packets = reader.packets(gop.index, 2)
        writer.add_gop(gop.times, packets, last_duration=gop.durations[-1])
  small = [
      (f.time, f.duration, render.render_picture(render.scaled(f.layered, 0.5)))
      for f in playback.frames(reader, num_layers=1)
  ]
  run('decode', folder, 'sizes.pgsvc', 'small', '--layers=1')
  assert_frames(folder / 'small', small)
  run('decode', folder, 'sizes.pgsvc', 'whole')
  assert_frames(folder / 'whole', expected(folder))
  base = expected(folder, num_layers=1)
  run('decode', folder, 'sizes.pgsvc', 'base', '--layers=1', '--scale=1')
  assert_frames(folder / 'base', base)
  run('decode', folder, 'sizes.pgsvc', 'small.png', '--layers=1', '--frame=2')
  with Image.open(folder / 'small.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), small[2][2])
  named = (folder / 'sizes.pgsvc').read_bytes()
  decoded = decoder.decode(named, 1)
  for image, (_, _, wanted) in zip(decoded, small, strict=True):
    np.testing.assert_array_equal(image, wanted)

  gop = stream.StreamReader(io.BytesIO(named)).gop(1)
  cut = named[: gop.packet_offsets[1] + 1]
  assert {x.shape[:2] for x in decoder.decode(cut)} == {(HEIGHT, WIDTH)}
  (last,) = decoder.decode(cut, first_frame=6)
  assert last.shape[:2] == shapes[0]
  # Moving the splats of a small base takes the memory of whole frames.
  few = HEIGHT * WIDTH - 1
  with pytest.raises(ValueError, match=f'{WIDTH} x {HEIGHT} is more'):
    decoder.decode(named, 1, max_pixels=few)
  line = launch_test.refusal(
      'decode',
      f'--input={folder / "sizes.pgsvc"}',
      f'--output={folder / "no"}',
      *('--layers=1', f'--max_pixels={few}'),
  )
  assert f'{WIDTH} x {HEIGHT} is more than max_pixels={few}' in line

  info = launch_test.run('info', f'--input={folder / "sizes.pgsvc"}').stdout
  assert 'width' in info and f'{WIDTH // 2}      {HEIGHT // 2}' in info
  plain = launch_test.run('info', f'--input={folder / "clip.pgsvc"}').stdout
  assert 'width' not in plain
  run('extract', folder, 'sizes.pgsvc', 'part.pgsvc', '--layers=1')
  with open(folder / 'part.pgsvc', 'rb') as file:
    part = stream.StreamReader(file).header
  assert part.layer_shapes == shapes[:1] and part.width == WIDTH


def test_a_cut_video_decodes_to_what_is_whole(folder):
  data = (folder / 'clip.pgsvc').read_bytes()
  with open(folder / 'clip.pgsvc', 'rb') as file:
    gop = stream.StreamReader(file).gop(1)
  (folder / 'cut.pgsvc').write_bytes(data[: gop.packet_offsets[1] + 1])
  result = run('decode', folder, 'cut.pgsvc', 'cut')
  assert ': 7 frames, 1 or 2 of 2 layers' in result.stderr
  assert result.stderr.endswith('; the file is cut or still being written\n')
  frames = expected(folder)[:4] + expected(folder, num_layers=1)[4:]
  assert_frames(folder / 'cut', frames)


def test_info_extract_and_reorder(folder):
  run('reorder', folder, 'clip.pgsvc', 'q.pgsvc', '--order=quality')
  run('reorder', folder, 'q.pgsvc', 't.pgsvc', '--order=time')
  whole = (folder / 'clip.pgsvc').read_bytes()
  assert (folder / 't.pgsvc').read_bytes() == whole
  result = run(
      'extract', folder, 'q.pgsvc', 'x.pgsvc', '--layers=1', '--start=0.45s'
  )
  assert result.stderr.endswith('; GOPs 1 to 1, frames 4 to 6\n')
  frames = expected(folder, num_layers=1)[4:]
  for (*times, image), (*others, other) in zip(
      expected(folder, 'x.pgsvc'), frames, strict=True
  ):
    assert times == others
    np.testing.assert_array_equal(image, other)

  def info(name):
    result = launch_test.run('info', f'--input={folder / name}', '--json')
    return json.loads(result.stdout)

  clip, part = info('q.pgsvc'), info('x.pgsvc')
  assert clip['layers'][-1]['bytes'] == (folder / 'q.pgsvc').stat().st_size
  assert part['layers'][0]['bytes'] == (folder / 'x.pgsvc').stat().st_size
  assert clip['order'] == 'quality' and clip['complete']
  assert (clip['frames'], clip['duration_s']) == (7, 1.0)
  for row in clip['layers']:
    assert row['bits_per_second'] == 8 * row['bytes']
    assert row['bpp'] == pytest.approx(8 * row['bytes'] / (7 * WIDTH * HEIGHT))
  assert [gop['start_s'] for gop in clip['gops']] == [0.25, 0.65]
  assert [gop['frames'] for gop in clip['gops']] == [4, 3]
  table = launch_test.run('info', f'--input={folder / "x.pgsvc"}').stdout
  assert '50 x 36, 3 channels, 3 frames, 0.600 s, 10 frames a second' in table


def test_wrong_use_of_videos_is_one_line(folder):
  clip = f'--input={folder / "clip.pgsvc"}'
  output = f'--output={folder / "no"}'
  picture = '--input=tests/golden/v2_three_layers.pgsvc'
  refused = {
      ('decode', clip, output, '--layers=3'): '3 layers asked for, the file',
      ('decode', clip, output, '--frame=1', '--frames=1'): 'for one picture',
      ('decode', picture, output, '--frame=1'): '--frame is for videos',
      ('extract', picture, output): '--layers=K must be given',
      ('reorder', picture, output, '--order=time'): 'a picture, not a video',
  }
  before = set(folder.iterdir())
  for (verb, *flags), message in refused.items():
    assert message in launch_test.refusal(verb, *flags)
  assert set(folder.iterdir()) == before


def test_without_pyav_there_are_still_pictures(folder):
  flags = f'--input={folder / "clip.pgsvc"}', '--frames=1'
  without = functools.partial(launch_test.run_without, ['av'], 'decode')
  result = without(*flags, f'--output={folder / "a.mp4"}', status=1)
  assert result.stderr == (
      "decode: this command needs av: pip install 'pgsvc_jax[video]'\n"
  )
  without(*flags, f'--output={folder / "a"}')
  assert_frames(folder / 'a', expected(folder)[:1])


def test_a_damaged_packet_names_gop_and_layer_and_leaves_no_output(folder):
  data = bytearray((folder / 'clip.pgsvc').read_bytes())
  data[-10] ^= 1
  (folder / 'bad.pgsvc').write_bytes(data)
  flags = f'--input={folder / "bad.pgsvc"}', f'--output={folder / "bad"}'
  before = set(folder.iterdir())
  line = launch_test.refusal('decode', *flags)
  assert line.endswith(
      'bad.pgsvc: GOP 1, layer 1: packet is damaged (checksum)'
  )
  assert set(folder.iterdir()) == before

  # The layers below are not. At 0.75 s after the first frame the time is 20, in
  # the middle of the GOP and of the frame that starts at 17.
  launch_test.run(
      'decode', *flags, '--layers=1', '--start=0.75s', '--frames=1', '--scale=2'
  )
  times = json.loads((folder / 'bad' / 'times.json').read_text())['times']
  assert times == [17]
  with Image.open(*(folder / 'bad').glob('*.png')) as picture:
    assert picture.size == (2 * WIDTH, 2 * HEIGHT)


def test_ahead_keeps_order_makes_few_and_passes_errors_on():
  made = []
  gate = threading.Event()

  def items():
    for k in range(20):
      if k == 10:
        gate.wait()
        raise KeyError
      made.append(k)
      yield k

  got = []
  with pytest.raises(KeyError):
    for item in decoder.ahead(items(), depth=2):
      got.append(item)
      assert len(made) <= len(got) + 2
      if len(got) == 10:
        gate.set()
  assert got == list(range(10))


@dataclasses.dataclass
class Live:
  """Counts the frames that are held somewhere."""

  now: int = 0
  most: int = 0


def test_decoding_holds_a_few_frames_whatever_the_length(monkeypatch, tmp_path):
  """However slow the one who takes them is."""
  live = Live()
  lock = threading.Lock()
  header = syntax.VideoHeader(
      width=4,
      height=4,
      channels=3,
      num_layers=1,
      time_base=fractions.Fraction(1, 24),
  )
  with (
      open(tmp_path / 'long.pgsvc', 'wb') as file,
      stream.StreamWriter(file, header) as writer,
  ):
    frame = dataclasses.replace(make_frame(0), layer_sizes=(40,))
    packets = frame_coding.encode_gop([frame] * 30, quantize.StepSizes())
    for k in range(4):
      writer.add_gop(range(30 * k, 30 * k + 30), packets, last_duration=1)
  resized = render.resized

  def counted(*args):
    with lock:
      live.now += 1
      live.most = max(live.most, live.now)
    return resized(*args)

  monkeypatch.setattr(render, 'resized', counted)
  for _ in decoder.decode(tmp_path / 'long.pgsvc'):
    with lock:
      live.now -= 1
  assert live.now == 0 and 1 < live.most <= 6
