"""Every video there is, through the commands: it comes back, or is refused."""

from fractions import Fraction

import numpy as np
import pytest

from pgsvc_jax.codec import stream
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import playback
from tests import independent_video_decoder
from tests import launch_test
from tests import video_stress_test

NUM_FRAMES = 3
# Wider ones are shrunk to this: pixels are not what is tested.
WIDTH = 160
RAW_FLAGS = {
    name: f'--raw={x.width}x{x.height}:{x.pixel_format}:{x.frame_rate}'
    for name, x in video_stress_test.RAW.items()
}


def source_of(path, width, height):
  """Flags that choose a few small frames, and these frames."""
  flags = [f'--input={path}', f'--frames={NUM_FRAMES}']
  if path.name in RAW_FLAGS:
    flags.append(RAW_FLAGS[path.name])
  size = None
  if width > WIDTH:
    size = WIDTH, round(WIDTH * height / width)
    flags.append('--size={}x{}'.format(*size))
  raw = video_stress_test.RAW.get(path.name)
  return flags, {'frames': NUM_FRAMES, 'size': size, 'raw': raw}


def assert_decoded_as_the_page_says(file):
  """All splats, by a decoder written from the page alone."""
  theirs = independent_video_decoder.decode(file.read_bytes())
  with file.open('rb') as opened:
    ours = list(playback.frames(stream.StreamReader(opened)))
  assert len(ours) == len(theirs)
  for frame, layers in zip(ours, theirs):
    sizes = tuple(len(layer.symbols) for layer in layers)
    assert frame.layered.layer_sizes == sizes
    for name, array in frame.layered.splats._asdict().items():
      expected = np.concatenate([getattr(layer, name) for layer in layers])
      np.testing.assert_allclose(array, expected, rtol=3e-7, atol=1e-30)


@pytest.mark.slow  # Three minutes.
def test_every_video_comes_back_or_is_refused(data_dir, tmp_path):
  wanted = video_stress_test.expectations(data_dir)
  assert len(wanted) > 20
  counts = {'come back': 0, 'refused': 0}
  for name, (width, height, num_frames) in sorted(wanted.items()):
    path = data_dir / name
    file = tmp_path / f'{path.name}.pgsvc'
    flags, options = source_of(path, width, height)
    encode = (
        *flags,
        f'--output={file}',
        '--config=configs/video.py:smoke',
        '--config.image.fit.layer_splats=(60,30)',
    )
    if path.name in video_stress_test.REFUSED:
      line = launch_test.refusal('encode', *encode)
      assert video_stress_test.REFUSED[path.name] in line
      assert not file.exists()
      counts['refused'] += 1
      print(f'{name}: {line}')
      continue
    launch_test.run('encode', *encode)
    copy = tmp_path / 'copy.mkv'
    launch_test.run('decode', f'--input={file}', f'--output={copy}')

    with video_media.open_video(path, **options) as reader:
      form, frames = reader.format, list(reader)
    with video_media.open_video(copy) as reader:
      again, decoded = reader.format, list(reader)
    assert (again.width, again.height) == (form.width, form.height), name
    assert len(decoded) == len(frames) == min(num_frames, NUM_FRAMES), name
    times = [frame.time * form.time_base for frame in frames]
    # Matroska counts milliseconds.
    rounded = [Fraction(round(1000 * time), 1000) for time in times]
    assert [x.time * again.time_base for x in decoded] == rounded, name
    # Some splats are there: it is the picture, not a black one.
    psnr_db = -10 * np.log10(
        np.mean(
            np.square([a.pixels - b.pixels for a, b in zip(frames, decoded)])
        )
    )
    variance = np.var([frame.pixels for frame in frames], axis=(1, 2)).mean()
    assert psnr_db > -10 * np.log10(variance + 1e-4), name
    assert_decoded_as_the_page_says(file)
    counts['come back'] += 1
    print(
        f'{name}: {form.width}x{form.height}, {len(decoded)} frames,'
        f' {file.stat().st_size} bytes, {psnr_db:.1f} dB'
    )
  print(counts)
  assert counts['refused'] == len(video_stress_test.REFUSED)
