"""Every odd video there is: read with the right frames, or refused."""

from fractions import Fraction
import re

import av
import numpy as np
import pytest

from pgsvc_jax import media
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format

# What a file without a header cannot say.
RAW = {
    'raw_sparks_480x270_yuv420p10le_5f.yuv': stream_format.RawFormat(
        width=480,
        height=270,
        pixel_format='yuv420p10le',
        frame_rate=Fraction(24),
    )
}
# Cut before its index; and two sizes in one stream.
REFUSED = {
    'gen_bunny_first300k.mp4': 'not a video of a known format',
    'error_sizechange.264': 'the size changes from 352x288 to 640x480',
}


def expectations(data_dir):
  """Name, width, height and frames of each video, from the list of files."""
  row = re.compile(
      r'\| ((?:clips|stress/video)/\S+) \| (\d+)x(\d+) \| ([\d.]+) \|'
  )
  text = (data_dir / 'README.md').read_text()
  rows = [match.groups() for match in row.finditer(text)]
  return {name: tuple(int(float(x)) for x in rest) for name, *rest in rows}


def packet_times(path):
  """Times in the file, without decoding: each in seconds, and None."""
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
    packets = [p for p in container.demux(stream) if p.size]
  return sorted(p.pts * base for p in packets if p.pts is not None)


@pytest.mark.slow  # A minute.
def test_every_video_is_read_or_refused(data_dir):
  counts = {'read': 0, 'refused': 0}
  wanted = expectations(data_dir)
  files = {
      f'{path.relative_to(data_dir)}'
      for folder in ('clips', 'stress/video')
      for path in (data_dir / folder).iterdir()
  }
  assert set(wanted) == files and len(files) > 20
  for name, (width, height, num_frames) in sorted(wanted.items()):
    path = data_dir / name
    raw = RAW.get(path.name)
    try:
      with video_media.open_video(path, raw=raw) as reader:
        form = reader.format
        times = []
        for frame in reader:
          assert frame.pixels.shape == (form.height, form.width, 3)
          assert frame.pixels.min() >= 0 and frame.pixels.max() <= 1
          assert frame.duration > 0
          times.append(frame.time * form.time_base)
    except media.MediaError as error:
      message = str(error)
      assert REFUSED[path.name] in message
      assert path.name in message and len(message.splitlines()) == 1
      counts['refused'] += 1
      print(f'{name}: {message.rpartition(": ")[2]}')
      continue
    assert path.name not in REFUSED
    assert (form.width, form.height) == (width, height), name
    assert len(times) == num_frames, name
    assert np.all(np.diff(times) > 0)
    from_file = [] if raw else packet_times(path)
    if from_file:
      assert times == from_file, name
    else:
      assert times == [t / form.frame_rate for t in range(num_frames)]
    counts['read'] += 1
    print(
        f'{name}: {width}x{height}, {num_frames} frames,'
        f' {form.frame_rate} a second, tags {form.primaries} {form.transfer}'
        f' {form.matrix} {"full" if form.full_range else "limited"}',
        *reader.notes,
        sep='; ',
    )
  print(counts)
  assert counts['refused'] == len(REFUSED)


@pytest.mark.slow  # A minute.
def test_every_video_is_written_again(data_dir, tmp_path):
  """Size, count, times and tags come back from each kind of file."""
  for name in sorted(expectations(data_dir)):
    path = data_dir / name
    if path.name in REFUSED:
      continue
    options = {'frames': 6, 'raw': RAW.get(path.name)}
    with video_media.open_video(path, **options) as reader:
      form = reader.format
      if form.width > 1000:
        size = form.width // 4, form.height // 4
        reader = video_media.open_video(path, size=size, **options)
        form = reader.format
      frames = [
          (media.to_uint8(frame.pixels), frame.time, frame.duration)
          for frame in reader
      ]
    for suffix in ('.mp4', '.mkv', ''):
      copy = tmp_path / f'{path.stem}{suffix}'
      with video_media.VideoWriter(copy, form) as writer:
        for frame in frames:
          writer.write(*frame)
      with video_media.open_video(copy) as reader:
        again = reader.format
        decoded = list(reader)
      assert (again.width, again.height) == (form.width, form.height)
      assert again.frame_rate is not None
      times = [frame.time * again.time_base for frame in decoded]
      expected = [time * form.time_base for _, time, _ in frames]
      if suffix == '.mkv':
        expected = [Fraction(round(1000 * t), 1000) for t in expected]
      assert times == expected, (name, suffix)
      tags = again.primaries, again.transfer
      assert tags == (form.primaries, form.transfer), (name, suffix)
      pixels = np.stack([frame.pixels for frame in decoded])
      source = np.stack([frame for frame, *_ in frames])
      if suffix == '.mp4':
        assert (again.matrix, again.full_range) == (
            form.matrix,
            form.full_range,
        ), name
        # Half the resolution of chroma costs little luma.
        error = (pixels - source / 255) @ np.array([0.25, 0.65, 0.1])
        luma_psnr_db = -10 * np.log10(np.mean(np.square(error)))
        print(f'{name}: {luma_psnr_db:.1f} dB')
        assert luma_psnr_db > 36, name
      else:
        np.testing.assert_array_equal(pixels, source.astype(np.float32) / 255)


def test_pictures_and_animations(data_dir):
  counts = {'picture': 0, 'video': 0}
  files = sorted((data_dir / 'stress' / 'images').iterdir())
  files += sorted((data_dir / 'stress' / 'pngsuite').iterdir())
  assert len(files) > 150
  for path in files:
    if not video_media.is_video(path):
      counts['picture'] += 1
      with pytest.raises(media.MediaError) as caught:
        video_media.open_video(path)
      assert len(str(caught.value).splitlines()) == 1
      continue
    counts['video'] += 1
    try:
      with video_media.open_video(path) as reader:
        num_frames = sum(1 for _ in reader)
    except media.MediaError as error:
      assert len(str(error).splitlines()) == 1
      print(error)
    else:
      print(path.name, num_frames)
  print(counts)
  assert counts['video'] >= 3
