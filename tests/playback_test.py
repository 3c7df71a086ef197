"""Frames of a video: which are decoded, and which is on show when."""

import fractions
import io

import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import playback

# A gap before the third GOP.
TIMES = ((-2, -1, 0), (1, 4), (10, 11, 12, 13))
LAST = dict(zip(TIMES, (1, 2, 2)))
ALL_TIMES = [time for times in TIMES for time in times]


def make_video():
  header = syntax.VideoHeader(
      width=8,
      height=8,
      channels=1,
      num_layers=2,
      time_base=fractions.Fraction(1, 10),
  )
  file = io.BytesIO()
  with stream.StreamWriter(file, header) as writer:
    number = 0
    for times in TIMES:
      frames = []
      for _ in times:
        number += 1
        # The number of the frame is the number of splats in both its layers.
        n = 2 * number
        splats = types.Splats(
            np.full((n, 2), 4.0),
            np.broadcast_to([1.0, 0.0, 1.0], (n, 3)),
            np.ones((n, 1)),
        )
        frames.append(
            types.LayeredSplats(
                splats=splats, layer_sizes=(number, number), height=8, width=8
            )
        )
      packets = frame_coding.encode_gop(frames, quantize.StepSizes())
      writer.add_gop(times, packets, last_duration=LAST[times])
  return file.getvalue()


@pytest.fixture(scope='module')
def data():
  return make_video()


@pytest.fixture
def reader(data):
  return stream.StreamReader(io.BytesIO(data))


def numbers(frames):
  result = []
  for frame in frames:
    assert frame.time == ALL_TIMES[frame.index]
    assert frame.layered.layer_sizes[0] == frame.index + 1
    result.append(frame.index)
  return result


def test_all_frames_in_order(reader):
  frames = list(playback.frames(reader))
  assert numbers(frames) == list(range(9))
  assert all(len(frame.layered.layer_sizes) == 2 for frame in frames)
  durations = [frame.duration for frame in frames]
  assert durations == [1, 1, 1, 3, 2, 1, 1, 1, 2]


@pytest.mark.parametrize('first', range(9))
@pytest.mark.parametrize('count', [1, 3, 100, None])
def test_any_part_of_them(reader, first, count):
  frames = playback.frames(
      reader, num_layers=1, first_frame=first, num_frames=count
  )
  assert numbers(frames) == list(range(9))[first:][:count]


def test_the_frame_on_show_at_a_time(reader):
  # By definition: the last that has started; times count from the first.
  for tenths in range(14):
    expected = max(k for k, t in enumerate(ALL_TIMES) if t + 2 <= tenths)
    if tenths in (8, 9, 10, 11):  # Nothing is on show: what comes next.
      expected = 5
    got = playback.frame_at(reader, f'{tenths / 10}s')
    assert got == expected, tenths
    assert playback.frame_at(reader, f'{tenths / 10 + 0.09:.2f}s') == expected
  assert [playback.frame_at(reader, str(k)) for k in range(9)] == [*range(9)]


@pytest.mark.parametrize(
    'position,message',
    [
        ('x', 'is no position'),
        ('', 'is no position'),
        ('s', 'is no position'),
        ('1.5', 'is no position'),
        ('infs', 'is no position'),
        ('1/0s', 'is no position'),
        ('-1', 'frame -1 is not in the file'),
        ('-1s', 'before the video starts'),
        ('9', 'frame 9 is not in the file'),
        ('1.7s', 'the file ends before time 15'),
    ],
)
def test_no_such_position(reader, position, message):
  with pytest.raises(ValueError, match=message):
    playback.frame_at(reader, position)


def test_what_is_not_there_is_refused(reader):
  refused = {
      'num_frames=0 is not positive': dict(num_frames=0),
      'num_layers=0 is not positive': dict(num_layers=0),
      '3 layers asked for, the file has 2': dict(num_layers=3),
      'frame 9 is not in the file': dict(first_frame=9),
  }
  for message, arguments in refused.items():
    with pytest.raises(ValueError, match=message):
      next(playback.frames(reader, **arguments))


def test_damage_behind_the_frames_asked_for_does_not_matter(data, reader):
  damaged = bytearray(data)
  damaged[reader.gop(1).packet_offsets[0]] ^= 1
  other = stream.StreamReader(io.BytesIO(damaged))
  assert numbers(playback.frames(other, num_frames=3)) == [0, 1, 2]
  assert numbers(playback.frames(other, first_frame=5)) == [5, 6, 7, 8]
  with pytest.raises(bitstream.BitstreamError, match='^GOP 1, layer 0: packet'):
    list(playback.frames(other))


def test_symbols_that_make_no_sense_name_gop_and_layer(reader):
  gop = reader.gop(0)
  file = io.BytesIO()
  with stream.StreamWriter(file, reader.header) as writer:
    good = reader.packets(0, 2)
    writer.add_gop(gop.times, good, last_duration=1)
    # Garbage at the end of the last frame, where lengths still add up.
    bad = [good[0], good[1][:-3] + b'abc']
    writer.add_gop((5, 6, 7), bad, last_duration=2)
  other = stream.StreamReader(file)
  with pytest.raises(
      bitstream.BitstreamError, match='^GOP 1, layer 1: .* frame 2'
  ):
    list(playback.frames(other))
  assert len(list(playback.frames(other, num_layers=1))) == 6
