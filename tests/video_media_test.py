from fractions import Fraction
import gc
import json
import os
import sys
import weakref

import av
import numpy as np
from PIL import Image
import pytest

from pgsvc_jax import media
from pgsvc_jax.video import av_writer
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format
from tests import clips

LOSSLESS = {'codec': 'ffv1', 'options': ()}
RGB = {**LOSSLESS, 'pixel_format': 'bgr0'}
# Weights of red and blue, typed from the recommendations themselves.
WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
COLORS = np.array(
    [[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.2, 0.1, 0.7], [0.6, 0.6, 0.6]]
)


def make_format(width, height, **options):
  defaults = {'time_base': Fraction(1, 25), 'frame_rate': Fraction(25)}
  return stream_format.VideoFormat(
      width=width, height=height, **(defaults | options)
  )


def read(path, **options):
  """Reads a whole video: its reader and its frames."""
  with video_media.open_video(path, **options) as reader:
    return reader, list(reader)


def refusal(path, **options):
  with pytest.raises(media.MediaError) as caught:
    read(path, **options)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert str(path) in message
  return message


def stack(frames):
  return np.stack([frame.pixels for frame in frames])


def psnr_db(a, b):
  return -10 * np.log10(np.mean(np.square(a - b)))


def codes(rgb, matrix, depth, full):
  """Float codes of a color, by the formulas of BT.601/709/2020."""
  red, blue = WEIGHTS[matrix]
  r, g, b = rgb
  y = red * r + (1 - red - blue) * g + blue * b
  cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
  if full:
    white, middle = 2**depth - 1, 2 ** (depth - 1)
    return y * white, cb * white + middle, cr * white + middle
  unit = 2 ** (depth - 8)
  return (219 * y + 16) * unit, (224 * cb + 128) * unit, (224 * cr + 128) * unit


def fill(frame, values):
  """Fills each plane of a frame with one code, or with an array of codes."""
  depth = frame.format.components[0].bits
  for plane, value in zip(frame.planes, values):
    dtype = np.dtype('u1' if depth == 8 else '<u2')
    rows = np.zeros((plane.height, plane.line_size // dtype.itemsize), dtype)
    rows[:, : plane.width] = np.rint(value)
    plane.update(rows.tobytes())
  return frame


# Colors.


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize(
    'name',
    ['yuv420p', 'yuv422p', 'yuv444p', 'yuv420p10le', 'yuv444p10le'],
)
@pytest.mark.parametrize('matrix', WEIGHTS)
def test_yuv_becomes_rgb_by_its_tags(tmp_path, matrix, name, full):
  depth = 10 if '10' in name else 8
  frames = [
      fill(av.VideoFrame(32, 16, name), codes(color, matrix, depth, full))
      for color in COLORS
  ]
  path = tmp_path / 'clip.mkv'
  tags = (1, 13, matrix, 2 if full else 1)
  clips.write(path, frames, pixel_format=name, tags=tags, **LOSSLESS)
  reader, decoded = read(path)
  form = reader.format
  assert (form.primaries, form.transfer, form.matrix) == (1, 13, matrix)
  assert form.full_range == full
  # Half a code of luma and of chroma, times the largest coefficient (2).
  tolerance = 1.6 / 219 / 2 ** (depth - 8)
  for frame, color in zip(decoded, COLORS):
    assert frame.pixels.dtype == np.float32
    np.testing.assert_allclose(
        frame.pixels, np.broadcast_to(color, (16, 32, 3)), atol=tolerance
    )


@pytest.mark.parametrize(
    ('width', 'height', 'matrix'),
    [(64, 48, 6), (720, 576, 6), (600, 578, 1), (1280, 32, 1), (32, 1280, 1)],
)
def test_untagged_matrix_is_guessed_by_size(tmp_path, width, height, matrix):
  color = COLORS[0]
  frame = fill(
      av.VideoFrame(width, height, 'yuv420p'), codes(color, matrix, 8, False)
  )
  path = tmp_path / 'clip.mkv'
  clips.write(path, [frame], pixel_format='yuv420p', **LOSSLESS)
  reader, decoded = read(path)
  assert reader.format.matrix == stream_format.UNSPECIFIED
  np.testing.assert_allclose(decoded[0].pixels[3, 3], color, atol=0.008)


@pytest.mark.parametrize('name', ['gray', 'gray10le'])
@pytest.mark.parametrize('full', [False, True])
def test_gray_keeps_its_range(tmp_path, name, full):
  depth = 10 if '10' in name else 8
  levels = np.array([0, 0.25, 0.5, 1])
  frames = [
      fill(av.VideoFrame(16, 16, name), codes([x] * 3, 1, depth, full)[:1])
      for x in levels
  ]
  path = tmp_path / 'clip.mkv'
  tags = (2, 2, 2, 2 if full else 1)
  clips.write(path, frames, pixel_format=name, tags=tags, **LOSSLESS)
  decoded = stack(read(path)[1])
  assert decoded.shape == (4, 16, 16, 3)
  expected = np.broadcast_to(levels[:, None, None, None], decoded.shape)
  np.testing.assert_allclose(decoded, expected, atol=0.6 / 219)


def test_a_full_range_name_equals_a_full_range_tag(tmp_path):
  frame = av.VideoFrame(32, 16, 'yuvj420p')
  ramp = np.add.outer(np.arange(16), np.arange(32)) * 5
  fill(frame, (ramp, 128, 128))
  path = tmp_path / 'clip.avi'
  # MJPEG at its best quality stores a ramp nearly as it is.
  clips.write(
      path,
      [frame],
      codec='mjpeg',
      pixel_format='yuvj420p',
      options=(('qmin', '1'), ('q:v', '1')),
  )
  reader, decoded = read(path)
  assert reader.format.full_range
  expected = np.repeat(ramp[..., None] / 255, 3, axis=2)
  np.testing.assert_allclose(decoded[0].pixels, expected, atol=2.5 / 255)


def test_rgb_is_exact(tmp_path):
  frames = clips.moving(3, width=33, height=21)
  path = tmp_path / 'clip.mkv'
  clips.write(path, frames, **RGB)
  reader, decoded = read(path)
  assert reader.format.matrix == 0 and reader.format.full_range
  np.testing.assert_array_equal(stack(decoded), frames.astype(np.float32) / 255)


def test_constant_luminance_is_refused(tmp_path):
  frame = fill(av.VideoFrame(16, 16, 'yuv420p'), (100, 128, 128))
  path = tmp_path / 'clip.mkv'
  tags = (9, 14, 10, 1)
  clips.write(path, [frame], pixel_format='yuv420p', tags=tags, **LOSSLESS)
  assert 'color matrix 10 is not supported' in refusal(path)


def test_high_dynamic_range_is_kept_and_said(tmp_path):
  frame = fill(av.VideoFrame(16, 16, 'yuv420p10le'), (400, 512, 512))
  path = tmp_path / 'clip.mkv'
  tags = (9, 16, 9, 1)
  clips.write(path, [frame], pixel_format='yuv420p10le', tags=tags, **LOSSLESS)
  reader, decoded = read(path, color='keep')
  assert reader.format.transfer == 16
  assert reader.notes == ('PQ values taken as they are',)
  np.testing.assert_allclose(decoded[0].pixels, (400 - 64) / 876, atol=1e-4)


def test_alpha_is_left_out_and_said(tmp_path):
  frames = []
  for frame in clips.moving(2):
    rgba = np.dstack([frame, np.full(frame.shape[:2], 100, np.uint8)])
    rgba = av.VideoFrame.from_ndarray(rgba, format='rgba')
    frames.append(rgba.reformat(format='bgra'))
  path = tmp_path / 'clip.mkv'
  clips.write(path, frames, pixel_format='bgra', **LOSSLESS)
  reader, decoded = read(path)
  assert reader.notes == ('alpha left out',)
  expected = clips.moving(2).astype(np.float32) / 255
  np.testing.assert_array_equal(stack(decoded), expected)


# Times.


@pytest.mark.parametrize('first', [0, 700])
def test_variable_frame_rate_is_exact(tmp_path, first):
  times = [first + t * 997 for t in clips.irregular_times(9)]
  path = tmp_path / 'clip.mp4'
  base = Fraction(1, 30000)
  clips.write(
      path,
      clips.moving(9),
      time_base=base,
      times=times,
      container_options=(('movie_timescale', '30000'),),
  )
  reader, decoded = read(path)
  assert reader.format.time_base == base
  assert [frame.time for frame in decoded] == times
  assert [frame.duration for frame in decoded[:-1]] == np.diff(times).tolist()
  assert decoded[-1].duration > 0


def test_durations_reach_to_the_next_frame_whatever_the_file_says(tmp_path):
  """Matroska says 41 ms for each frame of 24 a second, at 0, 42, 83, ..."""
  path = tmp_path / 'clip.mkv'
  rate = Fraction(24)
  frames = clips.moving(6)
  clips.write(path, frames, time_base=1 / rate, rate=rate, **RGB)
  reader, decoded = read(path)
  assert reader.format.frame_rate == rate
  assert [frame.time for frame in decoded] == [0, 42, 83, 125, 167, 208]
  assert [frame.duration for frame in decoded[:-1]] == [42, 41, 42, 42, 41]


def test_an_elementary_stream_counts_frames_at_its_rate(tmp_path):
  path = tmp_path / 'clip.264'
  options = (('crf', '1'), ('bf', '2'))
  clips.write(path, clips.moving(7), container='h264', options=options)
  reader, decoded = read(path)
  assert reader.format.frame_rate == 25
  assert reader.format.time_base == Fraction(1, 25)
  assert [(f.time, f.duration) for f in decoded] == [(t, 1) for t in range(7)]


def test_avi_has_no_times_but_an_order(tmp_path):
  path = tmp_path / 'clip.avi'
  options = (('crf', '1'), ('bf', '3'))
  clip = clips.moving(12)
  clips.write(path, clip, options=options, tags=(2, 2, 6, 1))
  reader, decoded = read(path)
  base = reader.format.time_base
  steps = np.diff([frame.time * base for frame in decoded])
  assert set(steps) == {Fraction(1, 25)}
  assert psnr_db(stack(decoded), clip / 255) > 35


def test_times_that_do_not_increase_are_mended(tmp_path):
  path = tmp_path / 'clip.mkv'
  base = Fraction(1, 9000)
  # Matroska rounds the third to the time of the second.
  clips.write(
      path, clips.moving(4), time_base=base, times=[0, 360, 361, 1080], **RGB
  )
  times = [frame.time for frame in read(path)[1]]
  assert times == [0, 40, 80, 120]


# Sizes.


@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
@pytest.mark.parametrize('flips', [(False, False), (True, False)])
def test_rotation_is_applied(tmp_path, degrees, flips):
  frames = clips.moving(2, width=40, height=24)
  path = tmp_path / 'clip.mp4'
  clips.write(path, frames, rotation=(degrees, *flips), tags=(2, 2, 6, 1))
  reader, decoded = read(path)
  # FFmpeg counts degrees counterclockwise, and flips afterwards.
  upright = np.rot90(frames, degrees // 90, axes=(1, 2)) / 255
  upright = upright[:, :, ::-1] if flips[0] else upright
  assert (reader.format.height, reader.format.width) == upright.shape[1:3]
  assert bool(reader.notes) == (degrees > 0 or flips[0])
  assert psnr_db(stack(decoded), upright) > 35


def test_rotation_by_other_angles_is_refused(tmp_path):
  path = tmp_path / 'clip.mp4'
  clips.write(path, clips.moving(1), rotation=(30, False, False))
  assert 'quarter turns' in refusal(path)


def test_odd_sizes(tmp_path):
  frames = clips.moving(2, width=17, height=13)
  path = tmp_path / 'clip.y4m'
  clips.write(
      path, frames, codec='rawvideo', pixel_format='yuv420p', options=()
  )
  reader, decoded = read(path)
  assert (reader.format.width, reader.format.height) == (17, 13)
  assert stack(decoded).shape == frames.shape


@pytest.mark.parametrize('turn', [0, 90])
def test_pixel_aspect_is_kept_and_said(tmp_path, turn):
  path = tmp_path / 'clip.mp4'
  aspect = Fraction(4, 3)
  rotation = (turn, False, False)
  clips.write(path, clips.moving(1), pixel_aspect=aspect, rotation=rotation)
  expected = 1 / aspect if turn else aspect
  reader, _ = read(path)
  assert reader.format.pixel_aspect == expected
  assert f'pixels are not square ({expected})' in reader.notes
  # Shrunk in one direction, the shape on screen stays.
  form = reader.format
  size = form.width // 2, form.height
  assert read(path, size=size)[0].format.pixel_aspect == expected * 2


def test_size_shrinks(tmp_path):
  frames = clips.moving(2, width=64, height=48)
  path = tmp_path / 'clip.mkv'
  clips.write(path, frames, **RGB)
  reader, decoded = read(path, size=(32, 24))
  assert (reader.format.width, reader.format.height) == (32, 24)
  assert reader.format.pixel_aspect == 1
  # The pattern is far below the new Nyquist frequency: means of 2x2 come near.
  means = frames.reshape(2, 24, 2, 32, 2, 3).mean((2, 4)) / 255
  assert psnr_db(stack(decoded), means) > 40


@pytest.mark.parametrize('size', [(65, 48), (64, 49), (0, 48)])
def test_size_only_shrinks(tmp_path, size):
  path = tmp_path / 'clip.mkv'
  clips.write(path, clips.moving(1), **RGB)
  with pytest.raises(ValueError, match='is not within 1x1 and the 64x48'):
    video_media.open_video(path, size=size)


def test_pixels_stay_within_the_unit_interval_when_shrunk(tmp_path):
  """Lanczos overshoots at edges."""
  frame = np.zeros((48, 64, 3), np.uint8)
  frame[:, 32:] = 255
  path = tmp_path / 'clip.mkv'
  clips.write(path, [frame], **RGB)
  pixels = read(path, size=(21, 16))[1][0].pixels
  assert pixels.min() == 0 and pixels.max() == 1


def test_a_change_of_size_is_refused_where_it_happens(tmp_path):
  parts = []
  for width in (64, 32):
    path = tmp_path / f'{width}.264'
    clips.write(path, clips.moving(3, width=width), container='h264')
    parts.append(path.read_bytes())
  path = tmp_path / 'clip.264'
  path.write_bytes(b''.join(parts))
  assert 'size changes from 64x48 to 32x48 at frame 3' in refusal(path)
  assert len(read(path, frames=3)[1]) == 3


# Streaming and selection.


@pytest.mark.parametrize(
    ('start', 'frames', 'expected'),
    [(0, None, range(9)), (4, None, range(4, 9)), (2, 3, [2, 3, 4])]
    + [(0, 99, range(9)), (8, 1, [8])],
)
def test_start_and_frames_select(tmp_path, start, frames, expected):
  clip = clips.moving(9)
  path = tmp_path / 'clip.mkv'
  clips.write(path, clip, **RGB)
  _, decoded = read(path, start=start, frames=frames)
  assert [frame.time for frame in decoded] == [40 * t for t in expected]
  np.testing.assert_array_equal(
      stack(decoded), clip[list(expected)].astype(np.float32) / 255
  )


def test_start_behind_the_end_is_an_error(tmp_path):
  path = tmp_path / 'clip.mkv'
  clips.write(path, clips.moving(3), **RGB)
  assert 'it has 3 frames, none from 3 on' in refusal(path, start=3)


@pytest.mark.parametrize(
    'options', [{'start': -1}, {'frames': 0}, {'frame_rate': 0}]
)
def test_arguments_that_make_no_sense(tmp_path, options):
  with pytest.raises(ValueError, match=next(iter(options)).split('_')[0]):
    video_media.open_video(tmp_path, **options)


def test_a_video_can_be_read_twice_and_at_once(tmp_path):
  path = tmp_path / 'clip.mp4'
  clips.write(path, clips.with_cut())
  with video_media.open_video(path) as reader:
    first = stack(reader)
    np.testing.assert_array_equal(first, stack(reader))
    for frame_idx, (a, b) in enumerate(zip(reader, reader)):
      np.testing.assert_array_equal(a.pixels, first[frame_idx])
      np.testing.assert_array_equal(b.pixels, first[frame_idx])
    running = iter(reader)
    next(running)
  with pytest.raises(StopIteration):
    next(running)


def test_few_frames_live_at_a_time(tmp_path):
  """A long clip is read frame by frame; decoded pictures are let go, too."""
  path = tmp_path / 'clip.mp4'
  clips.write(path, np.repeat(clips.moving(4), 50, axis=0))

  def decoded_pictures():
    return sum(isinstance(x, av.VideoFrame) for x in gc.get_objects())

  gc.collect()
  others = decoded_pictures()
  alive = weakref.WeakSet()
  most = count = 0
  for frame in video_media.open_video(path):
    alive.add(frame)
    most = max(most, len(alive))
    del frame
    count += 1
    if count == 150:
      assert 1 <= decoded_pictures() - others <= 4
  assert count == 200
  assert most == 1


def test_only_what_is_asked_for_is_decoded(tmp_path):
  clip = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)
  path = tmp_path / 'clip.mov'
  clips.write(path, clip, codec='png', pixel_format='rgb24', options=())
  data = bytearray(path.read_bytes())
  data[len(data) * 3 // 4] ^= 0xFF
  path.write_bytes(data)
  assert len(read(path, frames=5)[1]) == 5


# Damage.


def test_damage_names_the_frame_and_gives_those_before(tmp_path):
  clip = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)
  path = tmp_path / 'clip.mov'
  # FFmpeg's decoder of PNG finds damage; that of FFV1 patches it up unasked.
  clips.write(path, clip, codec='png', pixel_format='rgb24', options=())
  data = bytearray(path.read_bytes())
  # Noise has the same size in every frame.
  data[len(data) * 11 // 18] ^= 0xFF
  path.write_bytes(data)
  assert 'frame 5 is damaged' in refusal(path)
  count = 0
  with video_media.open_video(path) as reader, pytest.raises(media.MediaError):
    for count, frame in enumerate(reader, 1):
      np.testing.assert_array_equal(
          frame.pixels, clip[count - 1].astype(np.float32) / 255
      )
  assert count == 5


def test_a_damaged_first_frame_is_named(tmp_path):
  path = tmp_path / 'clip.mov'
  clip = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
  clips.write(path, clip, codec='png', pixel_format='rgb24', options=())
  data = bytearray(path.read_bytes())
  data[len(data) // 4] ^= 0xFF
  path.write_bytes(data)
  assert 'frame 0 is damaged' in refusal(path)


@pytest.mark.parametrize('suffix', ['.mkv', '.mp4'])
def test_a_cut_file_is_not_a_short_video(tmp_path, suffix):
  path = tmp_path / f'clip{suffix}'
  options = (('movflags', 'faststart'),) if suffix == '.mp4' else ()
  clip = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
  clips.write(path, clip, container_options=options)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  message = refusal(path)
  assert 'it ends after frame 1' in message or 'damaged' in message


@pytest.mark.parametrize('name', ['text.txt', 'empty.mp4', 'noise.mp4'])
def test_what_is_no_video_is_refused(tmp_path, name):
  path = tmp_path / name
  noise = np.random.default_rng(0).bytes(3000)
  data = {
      'text.txt': b'a few words\n' * 50,
      'empty.mp4': b'',
      'noise.mp4': noise,
  }
  path.write_bytes(data[name])
  assert not video_media.is_video(path)
  refusal(path)


def test_a_missing_file_is_refused(tmp_path):
  path = tmp_path / 'clip.mp4'
  assert not video_media.is_video(path)
  assert 'No such file' in refusal(path)


def test_sound_alone_is_refused(tmp_path):
  path = tmp_path / 'sound.wav'
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('pcm_s16le', rate=8000)
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, 800), np.int16), format='s16', layout='mono'
    )
    frame.sample_rate = 8000
    output.mux(stream.encode(frame))
  assert not video_media.is_video(path)
  assert 'no video stream' in refusal(path)


def test_a_playlist_reads_no_other_file(tmp_path):
  clips.write(tmp_path / 'clip.mp4', clips.moving(3))
  for name, text in {
      'list.ffconcat': 'ffconcat version 1.0\nfile clip.mp4\n',
      'list.m3u8': (
          '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n'
          '#EXT-X-ENDLIST\n'
      ),
  }.items():
    path = tmp_path / name
    path.write_text(text)
    assert not video_media.is_video(path)
    refusal(path)


def test_metadata_that_is_no_text_does_no_harm(tmp_path):
  path = tmp_path / 'clip.mkv'
  with av.open(str(path), 'w') as output:
    output.metadata['title'] = 'abcdefgh'
    stream = output.add_stream('ffv1', rate=25)
    stream.width, stream.height, stream.pix_fmt = 16, 16, 'bgr0'
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
    output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
  path.write_bytes(
      path.read_bytes().replace(b'abcdefgh', b'\xe9\xff\xfeabcd\xe9')
  )
  assert len(read(path)[1]) == 1


# Kinds of files.


@pytest.mark.parametrize('suffix', ['.gif', '.png'])
def test_pictures_are_videos_only_if_they_move(tmp_path, suffix):
  pictures = [Image.fromarray(frame) for frame in clips.moving(3)]
  still, moving = tmp_path / f'still{suffix}', tmp_path / f'moving{suffix}'
  pictures[0].save(still)
  pictures[0].save(
      moving, save_all=True, append_images=pictures[1:], duration=[40, 80, 40]
  )
  assert not video_media.is_video(still)
  assert 'it is a picture, not a video' in refusal(still)
  assert video_media.is_video(moving)
  reader, decoded = read(moving)
  base = reader.format.time_base
  assert [f.time * base for f in decoded] == [
      0,
      Fraction(1, 25),
      Fraction(3, 25),
  ]
  assert psnr_db(stack(decoded), clips.moving(3) / 255) > 25


@pytest.mark.parametrize('suffix', ['.jpg', '.webp', '.avif', '.bmp', '.tif'])
def test_still_pictures_are_no_videos(tmp_path, suffix):
  path = tmp_path / f'still{suffix}'
  Image.fromarray(clips.moving(1)[0]).save(path)
  assert not video_media.is_video(path)
  assert 'it is a picture, not a video' in refusal(path)


@pytest.mark.parametrize(
    ('suffix', 'codec', 'name'),
    [
        ('.mp4', 'libx264', 'yuv420p'),
        ('.mov', 'libx265', 'yuv420p10le'),
        ('.mkv', 'libx264', 'yuv444p'),
        ('.webm', 'libvpx-vp9', 'yuv420p'),
        ('.avi', 'mpeg4', 'yuv420p'),
        ('.mpg', 'mpeg2video', 'yuv420p'),
        ('.ts', 'libx264', 'yuv420p'),
        ('.y4m', 'rawvideo', 'yuv422p'),
        ('.nut', 'ffv1', 'yuv420p'),
    ],
)
def test_containers_and_codecs(tmp_path, suffix, codec, name):
  path = tmp_path / f'clip{suffix}'
  clip = clips.moving(8)
  options = {'libx265': (('log-level', 'none'),)}.get(codec, ())
  clips.write(
      path,
      clip,
      codec=codec,
      pixel_format=name,
      options=options,
      tags=(6, 6, 6, 1),
  )
  assert video_media.is_video(path)
  reader, decoded = read(path)
  assert stack(decoded).shape == clip.shape
  assert psnr_db(stack(decoded), clip / 255) > 25
  seconds = [frame.time * reader.format.time_base for frame in decoded]
  steps = np.diff(seconds).astype(float)
  np.testing.assert_allclose(steps, 1 / 25, atol=1e-3)


def test_interlaced_frames_are_said(tmp_path):
  path = tmp_path / 'clip.mp4'
  flags = (
      av.codec.context.Flags.interlaced_dct
      | av.codec.context.Flags.interlaced_me
  )
  options = (('crf', '1'), ('x264-params', 'tff=1'))
  clips.write(
      path,
      clips.moving(3),
      flags=flags,
      options=options,
      pixel_format='yuv420p',
  )
  assert 'interlaced frames taken as they are' in read(path)[0].notes


def test_raw_video(tmp_path):
  clip = np.random.default_rng(0).integers(0, 1024, (3, 48, 64), np.uint16)
  path = tmp_path / 'clip.yuv'
  path.write_bytes(clip.astype('<u2').tobytes())
  assert not video_media.is_video(path)
  raw = stream_format.RawFormat(
      width=64,
      height=48,
      pixel_format='gray10le',
      frame_rate=Fraction(30000, 1001),
  )
  reader, decoded = read(path, raw=raw)
  assert reader.format.frame_rate == raw.frame_rate
  assert [frame.time for frame in decoded] == [0, 1, 2]
  assert reader.format.time_base == 1 / raw.frame_rate
  expected = np.repeat(clip[..., None] / 1023, 3, axis=3)
  np.testing.assert_allclose(stack(decoded), expected, atol=1e-4)

  path.write_bytes(path.read_bytes()[:-100])
  assert 'frame 2 is damaged' in refusal(path, raw=raw)


def test_raw_video_with_a_wrong_description(tmp_path):
  path = tmp_path / 'clip.yuv'
  path.write_bytes(bytes(6000))
  for width, name in ((64, 'nonsense'), (0, 'yuv420p'), (-8, 'yuv420p')):
    raw = stream_format.RawFormat(
        width=width, height=48, pixel_format=name, frame_rate=Fraction(25)
    )
    assert 'not raw video so described' in refusal(path, raw=raw)


def test_a_huge_frame_is_refused_before_it_is_decoded(tmp_path):
  path = tmp_path / 'clip.y4m'
  path.write_bytes(b'YUV4MPEG2 W12000 H12000 F25:1 C420\nFRAME\n' + bytes(99))
  assert '12000 x 12000 pixels' in refusal(path)


def test_without_pyav_pictures_are_known_and_the_error_names_it(
    tmp_path, monkeypatch
):
  picture, video = tmp_path / 'still.png', tmp_path / 'clip.mp4'
  Image.fromarray(clips.moving(1)[0]).save(picture)
  clips.write(video, clips.moving(1))
  monkeypatch.setitem(sys.modules, 'av', None)
  assert not video_media.is_video(picture)
  for function in (video_media.is_video, video_media.open_video):
    with pytest.raises(ModuleNotFoundError) as caught:
      function(video)
    assert caught.value.name == 'av'
  writer = video_media.VideoWriter(video, make_format(64, 48))
  with pytest.raises(ModuleNotFoundError), writer:
    pass


# Folders.


def test_a_folder_in_natural_order(tmp_path):
  clip = clips.moving(12)
  for frame_idx, frame in enumerate(clip):
    Image.fromarray(frame).save(tmp_path / f'shot{frame_idx}.png')
  (tmp_path / 'notes.txt').write_text('not a picture')
  (tmp_path / '.hidden.png').write_text('not a picture')
  assert not video_media.is_video(tmp_path)
  reader, decoded = read(tmp_path, frame_rate=Fraction(30000, 1001))
  assert reader.format.frame_rate == Fraction(30000, 1001)
  assert [(f.time, f.duration) for f in decoded] == [(t, 1) for t in range(12)]
  np.testing.assert_array_equal(stack(decoded), clip.astype(np.float32) / 255)


def test_a_folder_of_gray_and_alpha(tmp_path):
  gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
  Image.fromarray(np.dstack([gray, gray]), 'LA' if False else None).save(
      tmp_path / '0.png'
  )
  Image.fromarray(gray).save(tmp_path / '1.png')
  reader, decoded = read(tmp_path)
  assert reader.notes == ('alpha left out',)
  expected = np.repeat(gray[..., None].astype(np.float32) / 255, 3, axis=2)
  for frame in decoded:
    np.testing.assert_array_equal(frame.pixels, expected)


def test_a_folder_of_several_sizes_is_refused(tmp_path):
  for frame_idx, width in enumerate((8, 8, 9)):
    Image.new('RGB', (width, 6)).save(tmp_path / f'{frame_idx}.png')
  assert 'size changes from 8x6 to 9x6 at 2.png' in refusal(tmp_path)


def test_one_picture_in_two_formats_is_not_two_frames(tmp_path):
  for name in ('IMG_1.jpg', 'IMG_1.png', 'IMG_2.png'):
    Image.new('RGB', (8, 6)).save(tmp_path / name)
  assert 'IMG_1.jpg and IMG_1.png would be two frames' in refusal(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path):
  (tmp_path / 'notes.txt').write_text('not a picture')
  assert 'no pictures' in refusal(tmp_path)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('times', [0, 2]),
        ('times', [0, 2, 2]),
        ('times', None),
        ('time_base', '0'),
        ('time_base', 'x'),
        ('width', 65),
        ('extra', 1),
    ],
)
def test_a_damaged_list_of_times_is_refused(tmp_path, key, value):
  folder = tmp_path / 'out'
  with video_media.VideoWriter(folder, make_format(64, 48)) as writer:
    for time, frame in enumerate(clips.moving(3)):
      writer.write(frame, time, 1)
  record = json.loads((folder / 'times.json').read_text())
  record[key] = value
  (folder / 'times.json').write_text(json.dumps(record))
  assert 'times.json' in refusal(folder)


# Writing.


@pytest.mark.parametrize('size', [(64, 48), (33, 21)])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.y4m', ''])
def test_what_is_written_comes_back(tmp_path, suffix, size):
  path = tmp_path / f'clip{suffix}'
  clip = clips.with_cut(width=size[0], height=size[1])
  form = make_format(*size, primaries=9, transfer=14, matrix=9, full_range=True)
  with video_media.VideoWriter(path, form) as writer:
    for time, frame in enumerate(clip):
      writer.write(frame, time, 1)
  assert [x.name for x in tmp_path.iterdir()] == [path.name]
  reader, decoded = read(path)
  again = reader.format
  assert (again.width, again.height) == size
  assert again.frame_rate == 25
  seconds = [
      (f.time * again.time_base, f.duration * again.time_base) for f in decoded
  ]
  assert seconds == [
      (Fraction(t, 25), Fraction(1, 25)) for t in range(len(clip))
  ]
  assert again.full_range
  if suffix != '.y4m':
    assert (again.primaries, again.transfer) == (9, 14)
    assert again.matrix == (0 if suffix == '.mkv' else 9)
  if suffix in ('.mkv', ''):
    np.testing.assert_array_equal(stack(decoded), clip.astype(np.float32) / 255)
  elif suffix != '.y4m':
    assert psnr_db(stack(decoded), clip / 255) > 30


@pytest.mark.parametrize('matrix', [1, 2, 6])
@pytest.mark.parametrize('full', [False, True])
def test_y4m_and_its_own_matrix(tmp_path, matrix, full):
  """Colors survive wherever the reader computes with the same matrix."""
  path = tmp_path / 'clip.y4m'
  clip = clips.moving(2)
  form = make_format(64, 48, matrix=matrix, full_range=full)
  with video_media.VideoWriter(path, form) as writer:
    for time, frame in enumerate(clip):
      writer.write(frame, time, 1)
  reader, decoded = read(path)
  assert reader.format.full_range == full
  assert psnr_db(stack(decoded), clip / 255) > 48


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('matrix', [1, 5, 6, 7, 9, 2, 0])
def test_colors_survive_mp4(tmp_path, matrix, full):
  path = tmp_path / 'clip.mp4'
  clip = np.broadcast_to(
      np.rint(COLORS * 255).astype(np.uint8)[:, None, None], (4, 16, 32, 3)
  )
  form = make_format(32, 16, matrix=matrix, full_range=full)
  with video_media.VideoWriter(path, form) as writer:
    for time, frame in enumerate(clip):
      writer.write(frame, time, 1)
  reader, decoded = read(path)
  assert reader.format.matrix == (matrix or 2)
  assert reader.format.full_range == (full and matrix != 0)
  np.testing.assert_allclose(stack(decoded), clip / 255, atol=3 / 255)


@pytest.mark.parametrize('suffix', ['.mp4', ''])
@pytest.mark.parametrize(
    'base', [Fraction(1, 30000), Fraction(1001, 30000), Fraction(1, 1200000)]
)
@pytest.mark.parametrize('first', [0, 7])
def test_written_times_are_exact(tmp_path, suffix, base, first):
  path = tmp_path / f'clip{suffix}'
  times = [first + t for t in clips.irregular_times(6)]
  durations = [*np.diff(times).tolist(), 5]
  form = make_format(64, 48, time_base=base)
  with video_media.VideoWriter(path, form) as writer:
    for frame, time, duration in zip(clips.moving(6), times, durations):
      writer.write(frame, time, duration)
  reader, decoded = read(path)
  again = reader.format.time_base
  assert [f.time * again for f in decoded] == [t * base for t in times]
  assert [f.duration * again for f in decoded] == [d * base for d in durations]


def test_matroska_rounds_times_to_milliseconds(tmp_path):
  path = tmp_path / 'clip.mkv'
  times = clips.irregular_times(6)
  base = Fraction(1001, 30000)
  with video_media.VideoWriter(
      path, make_format(64, 48, time_base=base)
  ) as writer:
    for frame, time in zip(clips.moving(6), times):
      writer.write(frame, time, 1)
  decoded = read(path)[1]
  assert [f.time for f in decoded] == [round(1000 * t * base) for t in times]


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_times_below_zero_are_moved(tmp_path, suffix):
  path = tmp_path / f'clip{suffix}'
  form = make_format(64, 48, time_base=Fraction(1, 1000))
  with video_media.VideoWriter(path, form) as writer:
    for frame, time in zip(clips.moving(3), (-50, -10, 40)):
      writer.write(frame, time, 40)
  reader, decoded = read(path)
  base = reader.format.time_base
  assert [1000 * frame.time * base for frame in decoded] == [0, 40, 90]


def test_matroska_cannot_tell_all_times_apart(tmp_path):
  form = make_format(64, 48, time_base=Fraction(1, 90000))
  with pytest.raises(media.MediaError, match='less than a millisecond'):
    with video_media.VideoWriter(tmp_path / 'clip.mkv', form) as writer:
      for frame, time in zip(clips.moving(3), (0, 90, 100)):
        writer.write(frame, time, 90)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('size', [(1, 1), (2, 2), (3, 2), (640, 1)])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.y4m', ''])
def test_small_sizes_are_written(tmp_path, suffix, size):
  path = tmp_path / f'clip{suffix}'
  with video_media.VideoWriter(path, make_format(*size)) as writer:
    for time in range(2):
      writer.write(np.full((*size[::-1], 3), 100 * time, np.uint8), time, 1)
  pixels = stack(read(path)[1])
  assert pixels.shape == (2, *size[::-1], 3)
  expected = np.broadcast_to([[[[0]]], [[[100 / 255]]]], pixels.shape)
  np.testing.assert_allclose(pixels, expected, atol=2 / 255)


def test_pixel_aspect_is_written(tmp_path):
  path = tmp_path / 'clip.mp4'
  form = make_format(64, 48, pixel_aspect=Fraction(64, 45))
  with video_media.VideoWriter(path, form) as writer:
    writer.write(clips.moving(1)[0], 0, 1)
  assert read(path)[0].format.pixel_aspect == Fraction(64, 45)


def test_y4m_takes_only_a_constant_rate(tmp_path):
  path = tmp_path / 'clip.y4m'
  clip = clips.moving(3)
  with pytest.raises(media.MediaError, match='y4m needs a constant frame rate'):
    with video_media.VideoWriter(path, make_format(64, 48)) as writer:
      for time, frame in zip((0, 1, 5), clip):
        writer.write(frame, time, 1)
  with pytest.raises(media.MediaError, match='y4m needs a frame rate'):
    with video_media.VideoWriter(path, make_format(64, 48, frame_rate=None)):
      pass
  # Times that Matroska rounded are constant all the same.
  form = make_format(
      64, 48, time_base=Fraction(1, 1000), frame_rate=Fraction(24)
  )
  with video_media.VideoWriter(path, form) as writer:
    for time, frame in zip((5, 47, 88), clip):
      writer.write(frame, time, 41)
  reader, decoded = read(path)
  assert reader.format.frame_rate == 24 and len(decoded) == 3


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.y4m', ''])
def test_a_failure_leaves_nothing(tmp_path, suffix):
  path = tmp_path / f'clip{suffix}'
  frame = clips.moving(1)[0]

  def attempt(*arguments):
    with video_media.VideoWriter(path, make_format(64, 48)) as writer:
      for x in arguments:
        writer.write(*x)

  bad = {
      'need uint8': [(frame, 0, 1), (frame[:-1], 1, 1)],
      'not float64': [(frame / 255, 0, 1)],
      'time 0 is not after 0': [(frame, 0, 1), (frame, 0, 1)],
      'duration -1': [(frame, 0, -1)],
      'no frames': [],
  }
  for reason, arguments in bad.items():
    with pytest.raises(media.MediaError, match=reason) as caught:
      attempt(*arguments)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.iterdir())
  with pytest.raises(KeyboardInterrupt):
    with video_media.VideoWriter(path, make_format(64, 48)) as writer:
      writer.write(frame, 0, 1)
      raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path):
  path = tmp_path / 'clip.mkv'
  path.write_bytes(b'before')
  frame = clips.moving(1)[0]
  with pytest.raises(media.MediaError):
    with video_media.VideoWriter(path, make_format(64, 48)) as writer:
      writer.write(frame, 0, 1)
      writer.write(frame, 0, 1)
  assert path.read_bytes() == b'before'
  with video_media.VideoWriter(path, make_format(64, 48)) as writer:
    writer.write(frame, 0, 1)
  assert len(read(path)[1]) == 1


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
  path = tmp_path / 'clip.mkv'
  real = open

  class Full:

    def __init__(self, file):
      self._file = file

    def write(self, data):
      if self._file.tell() > 4000:
        raise OSError(28, 'No space left on device')
      return self._file.write(data)

    def __getattr__(self, name):
      return getattr(self._file, name)

  monkeypatch.setattr(
      av_writer, 'open', lambda *a: Full(real(*a)), raising=False
  )
  noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
  with pytest.raises(media.MediaError, match='No space left'):
    with video_media.VideoWriter(path, make_format(64, 48)) as writer:
      for time, frame in enumerate(noise):
        writer.write(frame, time, 1)
  assert not list(tmp_path.iterdir())


def test_where_a_video_cannot_be_written(tmp_path):
  form = make_format(64, 48)
  with pytest.raises(media.MediaError, match="'.xyz' is not a video format"):
    video_media.VideoWriter(tmp_path / 'clip.xyz', form)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'x').touch()
  with pytest.raises(media.MediaError, match='not an empty folder'):
    video_media.VideoWriter(tmp_path / 'full', form)
  with pytest.raises(media.MediaError, match='No such file'):
    with video_media.VideoWriter(tmp_path / 'none' / 'clip.mp4', form):
      pass
  assert os.listdir(tmp_path) == ['full']
