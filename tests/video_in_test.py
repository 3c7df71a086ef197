"""Videos as phones, recorders, remuxers and joiners leave them.

What is read is compared with what FFmpeg's own program shows: the number of
frames, their times and their pictures.
"""

from fractions import Fraction
import re
import struct
import subprocess

import av
import numpy as np
from PIL import Image
import pytest

from pgsvc_jax import media
from pgsvc_jax.video import media as video_media
from tests import clips

ffmpeg_exe = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


X264 = (('g', '12'), ('bf', '2'), ('crf', '12'))
OPEN_GOP = (*X264, ('x264-params', 'open-gop=1:scenecut=0:keyint=12'))


def ffmpeg(*arguments):
  command = [ffmpeg_exe, '-v', 'error', '-y', *map(str, arguments)]
  return subprocess.run(command, check=True, capture_output=True).stdout


def shown(path, *options):
  """Times in seconds from the first on, and frames, as FFmpeg shows them."""
  source = [*options, '-i', path, '-fps_mode', 'passthrough']
  text = ffmpeg(*source, '-f', 'framemd5', '-').decode()
  base = Fraction(re.search(r'#tb 0: (\S+)', text)[1])
  width, height = map(
      int, re.search(r'#dimensions 0: (\d+)x(\d+)', text).groups()
  )
  rows = [x.split(',') for x in text.splitlines() if x[:1] != '#']
  times = [int(row[2]) * base for row in rows]
  flags = 'bicubic+accurate_rnd+full_chroma_int+bitexact'
  raw = ('-pix_fmt', 'rgb24', '-sws_flags', flags, '-f', 'rawvideo', '-')
  frames = np.frombuffer(ffmpeg(*source, *raw), np.uint8)
  frames = frames.reshape(-1, height, width, 3)
  return [time - times[0] for time in times], frames / 255


def read(path):
  with video_media.open_video(path) as video:
    frames = list(video)
    base = video.format.time_base
    seconds = [(x.time - frames[0].time) * base for x in frames]
    pixels = np.stack([x.pixels for x in frames])
    end = seconds[-1] + frames[-1].duration * base
    return video.format, video.notes, seconds, pixels, end


def check(path, *options, tolerance=0, db=38):
  """Reads as FFmpeg shows; returns the notes and when the last frame ends."""
  times, frames = shown(path, *options)
  form, notes, seconds, pixels, end = read(path)
  assert pixels.shape == frames.shape
  assert (form.height, form.width) == frames.shape[1:3]
  assert len(seconds) == len(times)
  assert max(abs(a - b) for a, b in zip(seconds, times)) <= tolerance
  error = np.mean(np.square(pixels - frames))
  assert -10 * np.log10(error + 1e-9) > db
  return notes, end


def write(path, num_frames=40, **options):
  options = {'options': X264, 'pixel_format': 'yuv420p'} | options
  clips.write(path, clips.with_cut(num_frames, num_frames // 2), **options)
  return path


# The end of a clip is its last time and how long its last frame lasts.


@pytest.mark.parametrize('suffix', ['.gif', '.png'])
@pytest.mark.parametrize(
    'milliseconds', [[100, 100, 50, 300, 1000], [5000, 5000, 60000], [20, 9000]]
)
def test_an_animation_may_end_in_a_pause(tmp_path, suffix, milliseconds):
  path = tmp_path / f'x{suffix}'
  pictures = [Image.fromarray(x) for x in clips.moving(len(milliseconds))]
  pictures[0].save(
      path, save_all=True, append_images=pictures[1:], duration=milliseconds
  )
  _, _, seconds, _, end = read(path)
  assert seconds == [
      Fraction(sum(milliseconds[:k]), 1000) for k in range(len(milliseconds))
  ]
  assert end == Fraction(sum(milliseconds), 1000)


@pytest.mark.parametrize('suffix', ['.mp4', '.mov', '.mkv'])
def test_a_recording_may_end_in_a_pause(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  steps = [500, 500, 6000]
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('libx264', rate=2, options={'bf': '0'})
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    packets = []
    for k, pixels in enumerate(clips.moving(3)):
      frame = av.VideoFrame.from_ndarray(pixels)
      frame.pts, frame.time_base = sum(steps[:k]), Fraction(1, 1000)
      packets += stream.encode(frame)
    packets += stream.encode(None)
    for packet, step in zip(packets, steps, strict=True):
      packet.duration = step
      output.mux(packet)
  notes, end = check(path)
  assert end == (7 if suffix != '.mkv' else end) and not notes


# Free text is not believed.


@pytest.mark.parametrize(
    'suffix', ['.ogv', '.mkv', slow('.mp4'), slow('.webm')]
)
def test_a_stale_duration_in_text_is_not_believed(tmp_path, suffix):
  source, path = tmp_path / 'source.mkv', tmp_path / f'x{suffix}'
  codec = {'.ogv': 'libtheora', '.webm': 'libvpx'}.get(suffix, 'libx264')
  write(source, 10)
  tag = 'DURATION=00:00:09.000000000'
  ffmpeg('-i', source, '-c:v', codec, '-metadata:s:v', tag, path)
  if suffix in ('.mkv', '.webm'):  # The muxer has put in the right one.
    data = path.read_bytes()
    assert b'00:00:00.4' in data
    path.write_bytes(data.replace(b'00:00:00.4', b'00:00:09.4'))
  notes, _ = check(path)
  assert not notes


# Empty packets repeat the frame before.


def empty_avi_chunks(data, numbers):
  """Empties video chunks of an AVI; what was in them is skipped."""
  data = bytearray(data)
  places = [m.start() for m in re.finditer(b'00dc', bytes(data))]
  end = data.index(b'movi')
  places = [place for place in places if place > end]
  for number in numbers:
    place = places[number]
    (size,) = struct.unpack_from('<I', data, place + 4)
    size += size % 2
    struct.pack_into('<I4sI', data, place + 4, 0, b'JUNK', size - 8)
  index = data.rindex(b'idx1')
  data[index : index + 4] = b'JUNK'
  return bytes(data)


def ogg_checksum(page):
  value = 0
  for byte in page:
    value ^= byte << 24
    for _ in range(8):
      value = value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)
      value &= 0xFFFFFFFF
  return value


def empty_ogg_packets(data, numbers):
  """Empties packets of an Ogg file whose pages hold one each."""
  pages, place = [], 0
  while place < len(data):
    count = data[place + 26]
    size = 27 + count + sum(data[place + 27 : place + 27 + count])
    pages.append(bytearray(data[place : place + size]))
    place += size
  frames = [k for k, page in enumerate(pages) if page[6:14] != bytes(8)]
  for number in numbers:
    page = pages[frames[number]][:27]
    page[22:26] = bytes(4)
    page += b'\0'
    page[26] = 1
    page[22:26] = struct.pack('<I', ogg_checksum(page))
    pages[frames[number]] = page
  return b''.join(pages)


@pytest.mark.parametrize('numbers', [(3, 4, 9), slow((2,)), slow((1, 8))])
@pytest.mark.parametrize('suffix', ['.ogv', '.avi'])
def test_an_empty_packet_repeats_the_frame_before(tmp_path, suffix, numbers):
  path, source = tmp_path / f'x{suffix}', tmp_path / 'source.mkv'
  # Frames that do not need the ones before them.
  if suffix == '.ogv':
    write(source, 10, codec='ffv1', options=())
    theora = ['-c:v', 'libtheora', '-g', '1', '-page_duration', '1']
    ffmpeg('-i', source, *theora, path)
    data = empty_ogg_packets(path.read_bytes(), numbers)
  else:
    write(path, 10, codec='mjpeg', options=(), pixel_format='yuvj420p')
    data = empty_avi_chunks(path.read_bytes(), numbers)
  whole = read(path)[3]
  path.write_bytes(data)
  _, _, seconds, pixels, _ = read(path)
  # FFmpeg leaves them out and shows what is before for longer; of an AVI it
  # does not even tell them.
  times, _ = shown(path)
  full = [k for k in range(10) if k not in numbers]
  assert times == [Fraction(k, 25) for k in full]
  if suffix == '.avi':
    assert seconds == times
    np.testing.assert_array_equal(pixels, whole[full])
    return
  assert seconds == [Fraction(k, 25) for k in range(10)]
  for k in range(10):
    source = max(x for x in range(k + 1) if x not in numbers)
    np.testing.assert_array_equal(pixels[k], whole[source])


# Streams that were put together.


@pytest.mark.parametrize('suffix', ['.ts', '.mpg'])
def test_joined_streams_are_whole(tmp_path, suffix):
  codec = 'libx264' if suffix == '.ts' else 'mpeg2video'
  options = X264 if suffix == '.ts' else (('bf', '2'), ('g', '12'))
  parts = []
  for k in range(3):
    path = tmp_path / f'{k}{suffix}'
    clip = clips.moving(20 + k, seed=k)
    clips.write(
        path, clip, codec=codec, options=options, pixel_format='yuv420p'
    )
    parts.append(path.read_bytes())
  path = tmp_path / f'x{suffix}'
  path.write_bytes(b''.join(parts))
  # A program stream does not have a time for each frame.
  tolerance = Fraction(1, 500) if suffix == '.ts' else Fraction(1, 8)
  notes, _ = check(path, tolerance=tolerance)
  assert notes == (
      'times begin anew at frame 20: they go on from there',
      'times begin anew at frame 41: they go on from there',
  )


def test_a_joined_stream_may_begin_within_a_group(tmp_path):
  path = write(tmp_path / 'a.ts', 50, options=OPEN_GOP)
  data = path.read_bytes()
  # From a packet in the middle on, without its tables: those are known.
  middle = len(data) // 188 // 2 * 188
  joined = tmp_path / 'joined.ts'
  joined.write_bytes(data + data[middle:])
  _, notes, seconds, _, _ = read(joined)
  assert 62 <= len(seconds) < 75
  steps = np.diff(seconds)
  assert set(steps) == {Fraction(1, 25)}
  (note,) = notes
  assert re.search('anew at frame 50: .*, without [0-9]+ frames? whose', note)


def test_a_gap_in_a_stream_is_damage(tmp_path):
  path = write(tmp_path / 'a.ts', 50)
  data = path.read_bytes()
  place = len(data) // 188 // 2 * 188
  # The keyframe of the second scene is large: what is lost is in the midst.
  path.write_bytes(data[: place - 10 * 188] + data[place + 3 * 188 :])
  with pytest.raises(media.MediaError, match='frame [0-9]+ is damaged'):
    read(path)


# Streams that begin within a group.


@pytest.mark.parametrize('kind', ['mp4', 'mkv', 'hevc', 'ts', 'mpeg2', 'none'])
def test_frames_without_their_references_are_left_out(tmp_path, kind):
  source = tmp_path / 'source.mkv'
  if kind == 'hevc':
    params = 'log-level=none:keyint=12:min-keyint=12:open-gop=1:scenecut=0'
    write(source, codec='libx265', options=(('x265-params', params),))
  elif kind == 'mpeg2':
    write(source, codec='mpeg2video', options=(('g', '12'), ('bf', '2')))
  else:
    # Only a closed group brings its parameters along in a stream.
    write(source, options=OPEN_GOP if kind in ('mp4', 'mkv') else X264)
  suffix = {'ts': '.ts', 'mpeg2': '.ts', 'mkv': '.mkv', 'none': '.264'}
  path = tmp_path / f'x{suffix.get(kind, ".mp4")}'
  if kind in ('ts', 'mpeg2', 'none'):
    ffmpeg('-i', source, '-c', 'copy', path)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])
  else:
    ffmpeg('-ss', '0.9', '-i', source, '-c', 'copy', path)
  times, frames = shown(path)
  form, notes, seconds, pixels, _ = read(path)
  # FFmpeg's program may show some broken frames before the first whole one.
  extra = len(frames) - len(pixels)
  assert 0 <= extra <= 12 and len(pixels) > 12
  assert np.mean(np.square(pixels - frames[extra:])) < 1e-4
  if kind != 'none':
    assert seconds == [time - times[extra] for time in times[extra:]]
  if extra:
    assert any('at the start left out' in note for note in notes)


# Side data.


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.avi', slow('.mov')])
def test_an_orientation_in_exif_is_applied(tmp_path, suffix, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f'x{suffix}'
  pictures = clips.moving(2, width=48, height=32)
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('mjpeg', rate=25)
    stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuvj444p'
    for k, pixels in enumerate(pictures):
      still = tmp_path / 'still.jpg'
      Image.fromarray(pixels).save(
          still, exif=exif, quality=95, subsampling='4:4:4'
      )
      packet = av.Packet(still.read_bytes())
      packet.stream, packet.pts, packet.dts = stream, k, k
      packet.time_base, packet.is_keyframe = Fraction(1, 25), True
      output.mux(packet)
  notes, _ = check(path)
  assert ('rotation applied' in notes) == (orientation > 1)


# Crop.


def with_clean_aperture(data, width, height, x, y):
  """Puts a `clap` box into an MP4 file whose tables are at its end."""
  numbers = (width, 1, height, 1, *x, *y)
  clap = struct.pack('>I4s8i', 40, b'clap', *numbers)
  data = bytearray(data)
  names = [b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'avc1']
  place = 0
  for name in names:
    place = data.index(name, place)
    (size,) = struct.unpack_from('>I', data, place - 4)
    struct.pack_into('>I', data, place - 4, size + len(clap))
  end = place - 4 + size
  return bytes(data[:end] + clap + data[end:])


@pytest.mark.parametrize(
    ('aperture', 'size'),
    [
        ((48, 40, (0, 1), (0, 1)), (48, 40)),
        ((60, 42, (1, 1), (-2, 1)), (60, 42)),
        ((63, 48, (-1, 2), (0, 1)), (63, 48)),
        ((40, 46, (12, 1), (1, 1)), (40, 46)),
    ],
)
@pytest.mark.parametrize('suffix', ['.mkv', slow('.mp4')])
def test_crop_of_the_container_is_applied(tmp_path, suffix, aperture, size):
  path = write(tmp_path / 'x.mp4', 6, pixel_format='yuv444p')
  path.write_bytes(with_clean_aperture(path.read_bytes(), *aperture))
  if suffix == '.mkv':
    ffmpeg('-i', path, '-c', 'copy', tmp_path / 'x.mkv')
    path = tmp_path / 'x.mkv'
  notes, _ = check(path, tolerance=Fraction(1, 1000))
  assert f'cropped to {size[0]}x{size[1]}' in notes


def test_crop_comes_before_the_turn(tmp_path):
  path = write(
      tmp_path / 'x.mp4',
      6,
      rotation=(90, False, False),
      pixel_format='yuv444p',
  )
  aperture = (60, 42, (1, 1), (-1, 1))
  path.write_bytes(with_clean_aperture(path.read_bytes(), *aperture))
  notes, _ = check(path)
  assert 'cropped to 42x60' in notes and 'rotation applied' in notes


# Colors.


@pytest.mark.parametrize(
    ('suffix', 'codec', 'name', 'options'),
    [
        ('.mp4', 'libx264', 'yuv420p', (('crf', '1'),)),
        (
            '.mp4',
            'libx264',
            'yuv420p',
            (('crf', '1'), ('x264-params', 'chromaloc=1')),
        ),
        (
            '.mp4',
            'libx264',
            'yuv420p',
            (('crf', '1'), ('x264-params', 'chromaloc=2')),
        ),
        ('.mkv', 'libx264', 'yuv422p', (('crf', '1'),)),
        (
            '.mp4',
            'libx265',
            'yuv420p10le',
            (('x265-params', 'crf=1:log-level=none'),),
        ),
        ('.mpg', 'mpeg1video', 'yuv420p', (('qmax', '2'),)),
        ('.mpg', 'mpeg2video', 'yuv420p', (('qmax', '2'),)),
        ('.avi', 'mpeg4', 'yuv420p', (('qmax', '2'),)),
        ('.avi', 'mjpeg', 'yuvj420p', (('qmax', '2'),)),
        ('.webm', 'libvpx-vp9', 'yuv420p', (('crf', '1'), ('b', '0'))),
    ],
)
def test_chroma_lies_where_ffmpeg_has_it(
    tmp_path, suffix, codec, name, options
):
  """Half a pixel off, edges of these colors are at 20 to 28 dB."""
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 2, (12, 16, 3), np.uint8) * 255
  frame = np.roll(frame.repeat(4, 0).repeat(4, 1), (1, 1), (0, 1))
  path = tmp_path / f'x{suffix}'
  clips.write(
      path, [frame] * 2, codec=codec, pixel_format=name, options=options
  )
  check(path, tolerance=1, db=45)


@pytest.mark.parametrize('suffix', ['.mp4', slow('.mkv')])
@pytest.mark.parametrize('name', ['yuv444p', 'yuv420p', 'yuv420p10le'])
def test_ycgco_is_read(tmp_path, suffix, name):
  color = np.array([0.8, 0.4, 0.1])
  luma = color @ [0.25, 0.5, 0.25]
  green, orange = color @ [-0.25, 0.5, -0.25], color @ [0.5, 0, -0.5]
  frame = av.VideoFrame(64, 48, name)
  unit, dtype = (4, '<u2') if '10' in name else (1, 'u1')
  codes = 16 + 219 * luma, 128 + 224 * green, 128 + 224 * orange
  for plane, code in zip(frame.planes, codes):
    rows = np.full(plane.buffer_size // unit // (1 + (unit > 1)) * unit, 0)
    values = np.full(plane.buffer_size // np.dtype(dtype).itemsize, code * unit)
    plane.update(np.rint(values).astype(dtype).tobytes())
    del rows
  path = tmp_path / f'x{suffix}'
  clips.write(path, [frame] * 3, pixel_format=name, tags=(2, 2, 8, 1))
  form, _, seconds, pixels, _ = read(path)
  assert form.matrix == 8 and len(seconds) == 3
  np.testing.assert_allclose(pixels.mean((0, 1, 2)), color, atol=0.01)


@pytest.mark.parametrize('matrix', [10, 11, 13, 14])
def test_other_matrices_are_refused_by_number(tmp_path, matrix):
  path = write(tmp_path / 'x.mp4', 2, tags=(2, 2, matrix, 1))
  with pytest.raises(media.MediaError, match=f'matrix {matrix} is not'):
    read(path)


@pytest.mark.parametrize(
    ('transfer', 'kind', 'db'), [(16, 'PQ', 45), (18, 'HLG', 35)]
)
def test_hdr_is_tone_mapped_as_by_ffmpeg(tmp_path, transfer, kind, db):
  rng = np.random.default_rng(0)
  ramp = np.add.outer(np.linspace(0.02, 0.75, 48), np.linspace(0, 0.1, 64))
  spots = rng.uniform(0, 0.05, (12, 16, 3)).repeat(4, 0).repeat(4, 1)
  pixels = ramp[..., None] * [1, 0.9, 0.8] + spots
  frame = av.VideoFrame.from_ndarray(
      (pixels.clip(0, 1) * 65535).astype('<u2'), format='rgb48le'
  ).reformat(format='gbrp10le')
  path = tmp_path / 'x.mkv'
  clips.write(
      path,
      [frame] * 2,
      codec='ffv1',
      pixel_format='gbrp10le',
      options=(),
      tags=(9, transfer, 0, 2),
  )
  chain = (
      'zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,'
      'tonemap=tonemap=hable:desat=0,zscale=t=bt709,format=gbrp'
  )
  form, notes, _, shown_here, _ = read(path)
  assert notes == (f'{kind} tone-mapped to BT.709',)
  assert (form.primaries, form.transfer) == (1, 1)
  data = ffmpeg(
      '-i', path, '-vf', chain, '-pix_fmt', 'rgb24', '-f', 'rawvideo', '-'
  )
  expected = np.frombuffer(data, np.uint8).reshape(2, 48, 64, 3) / 255
  error = np.mean(np.square(shown_here - expected))
  assert -10 * np.log10(error) > db


# Choice of the track.


@pytest.mark.parametrize('suffix', ['.mkv', slow('.mp4')])
@pytest.mark.parametrize('default', [1, None, slow(0), slow(2)])
def test_the_default_track_is_taken(tmp_path, suffix, default):
  path = tmp_path / f'x{suffix}'
  with av.open(str(path), 'w') as output:
    streams = []
    for k in range(3):
      stream = output.add_stream('libx264', rate=25)
      stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
      stream.disposition = av.stream.Disposition(int(k == default))
      streams.append(stream)
    for time in range(3):
      for k, stream in enumerate(streams):
        frame = np.full((48, 64, 3), 60 * (k + 1), np.uint8)
        frame = av.VideoFrame.from_ndarray(frame)
        frame.pts, frame.time_base = time, Fraction(1, 25)
        output.mux(stream.encode(frame))
    for stream in streams:
      output.mux(stream.encode(None))
  _, notes, _, pixels, _ = read(path)
  taken = default or 0
  assert round(pixels.mean() * 255 / 60) == taken + 1
  assert notes == (f'video track {taken + 1} of 3 taken',)


# What is cut is not whole.


@pytest.mark.parametrize('kind', ['mp4', 'mkv', 'webm', 'avi', 'fragments'])
@pytest.mark.parametrize('share', [0.7, slow(0.4), slow(0.95)])
def test_a_cut_file_is_no_short_video(tmp_path, kind, share):
  codec = {'webm': 'libvpx', 'avi': 'mpeg4'}.get(kind, 'libx264')
  flags = {'mp4': '+faststart', 'fragments': 'frag_keyframe+empty_moov'}
  options = (('movflags', flags[kind]),) if kind in flags else ()
  suffix = '.mp4' if kind in flags else f'.{kind}'
  path = tmp_path / f'x{suffix}'
  write(path, codec=codec, options=(('g', '6'),), container_options=options)
  data = path.read_bytes()
  # Before the index, where that comes last.
  end = {'avi': data.rfind(b'idx1'), 'mkv': data.rfind(b'\x1cS\xbbk')}
  end = end.get(kind, len(data))
  path.write_bytes(data[: int(share * (end if end > 0 else len(data)))])
  with pytest.raises(media.MediaError, match='end of the file is miss|damaged'):
    read(path)
