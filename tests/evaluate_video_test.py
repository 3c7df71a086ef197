"""Videos measured: figures agree with what other programs and sums give."""

import dataclasses
from fractions import Fraction
import functools
import json
import os
import pathlib
import shutil
import weakref

import av
import numpy as np
import pytest

from launch.evaluation import folders
from launch.evaluation import results
from launch.lab.reports import curves
from launch.videos import anchors as video_anchors
from launch.videos import evaluation as evaluate_video
from launch.videos import quality as video_quality
from launch.videos import source as video_source
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.metrics import planes
from pgsvc_jax.video import ffmpeg
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format
from tests import clips
from tests import launch_test
from tests import report_test

# MS-SSIM needs 161; odd, so that nothing leans on halves.
HEIGHT, WIDTH = 163, 161
TIMES = ((5, 7, 9), (13, 18))
LAST = 3
BASE = Fraction(1, 20)
VIDEO_METRICS = metrics.choose(is_video=True)
SIZES = (90, 60, 50)


def frame_of(k, num_splats):
  """Splats that move, of which the first layers are those of any number."""
  rng = np.random.default_rng(2)
  total = sum(SIZES)
  splats = types.Splats(
      means=rng.uniform(0, (WIDTH, HEIGHT), (total, 2)) + (k, 0.5 * k),
      cholesky=np.exp(rng.normal(2.2, 0.2, (total, 3))) * (1, 0.2, 1),
      colors=rng.uniform(0, 0.35, (total, 3)),
  )
  ends = np.minimum(np.cumsum(SIZES), num_splats)
  sizes = np.diff(ends, prepend=0)
  return types.LayeredSplats(
      splats=types.Splats(*(x[:num_splats] for x in splats)),
      layer_sizes=tuple(int(x) for x in sizes[sizes > 0]),
      height=HEIGHT,
      width=WIDTH,
  )


def write_file(path, num_splats):
  with open(path, 'wb') as file:
    header = syntax.VideoHeader(
        width=WIDTH,
        height=HEIGHT,
        channels=3,
        num_layers=len(frame_of(0, num_splats).layer_sizes),
        time_base=BASE,
        frame_rate=Fraction(10),
    )
    with stream.StreamWriter(file, header) as writer:
      first = 0
      for times in TIMES:
        gop = [frame_of(first + i, num_splats) for i in range(len(times))]
        packets = frame_coding.encode_gop(gop, quantize.StepSizes())
        writer.add_gop(times, packets, last_duration=LAST)
        first += len(times)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """An original with frames before and after, and two files of its middle."""
  path = tmp_path_factory.mktemp('videos')
  for name in ('originals', 'files/many', 'files/few'):
    (path / name).mkdir(parents=True)
  form = stream_format.VideoFormat(
      width=WIDTH, height=HEIGHT, time_base=BASE, frame_rate=Fraction(10)
  )
  times = [1, 3, *TIMES[0], *TIMES[1], 22]
  rng = np.random.default_rng(0)
  with video_media.VideoWriter(path / 'originals' / 'clip.mkv', form) as writer:
    for k, time in enumerate(times):
      image = render.render_picture(frame_of(k - 2, sum(SIZES)))
      noisy = image + rng.normal(0, 4, image.shape)
      writer.write(np.rint(noisy).clip(0, 255).astype(np.uint8), time, 2)
  write_file(path / 'files' / 'many' / 'clip.pgsvc', sum(SIZES))
  write_file(path / 'files' / 'few' / 'clip.pgsvc', 110)
  return path


def evaluate(folder, *flags):
  return launch_test.run(
      'evaluate',
      f'--input={folder / "files" / "many" / "clip.pgsvc"}',
      f'--reference={folder / "originals" / "clip.mkv"}',
      *flags,
  )


@pytest.fixture(scope='module')
def single(folder):
  """The document of one file, and the video side by side beside it."""
  shown = folder / 'side.mkv'
  return json.loads(
      evaluate(folder, '--json', f'--side_by_side={shown}').stdout
  )


def read_frames(path):
  """[T, H, W, 3] by PyAV alone."""
  with av.open(str(path)) as container:
    frames = container.decode(video=0)
    return np.stack([frame.to_ndarray(format='rgb24') for frame in frames])


def psnr_db(image, reference, peak=255):
  error = np.mean((np.float64(image) - np.float64(reference)) ** 2)
  return 10 * np.log10(peak**2 / error)


def luma_codes(image):
  """BT.709, limited range; the last line and column once more."""
  codes = np.rint(16 + 219 / 255 * (image @ [0.2126, 0.7152, 0.0722]))
  return np.pad(codes, ((0, 1), (0, 1)), 'edge')


def test_the_figures_are_those_of_decoded_files(folder, single):
  originals = read_frames(folder / 'originals' / 'clip.mkv')[2:7]
  for k, row in list(enumerate(single['layers']))[::2]:
    output = folder / f'{k}.mkv'
    source = f'--input={folder / "files" / "many" / "clip.pgsvc"}'
    launch_test.run('decode', source, f'--output={output}', f'--layers={k + 1}')
    decoded = read_frames(output)
    assert len(decoded) == len(originals) == 5
    per_frame = row['per_frame']
    wanted = {
        'psnr_db': [psnr_db(*x) for x in zip(decoded, originals)],
        'y_psnr_db': [
            psnr_db(luma_codes(x), luma_codes(y))
            for x, y in zip(decoded, originals)
        ],
        'ms_ssim': [metrics.ms_ssim(*x) for x in zip(decoded, originals)],
    }
    for name, values in wanted.items():
      np.testing.assert_allclose(per_frame[name], values, atol=2e-3)
      np.testing.assert_allclose(row[name], np.mean(values), atol=2e-3)
  quality = [row['psnr_db'] for row in single['layers']]
  assert quality == sorted(quality) and quality[-1] - quality[0] > 3


def test_bytes_of_frames_add_up_to_the_file(folder, single):
  rows = single['layers']
  size = os.path.getsize(folder / 'files' / 'many' / 'clip.pgsvc')
  assert rows[-1]['bytes'] == size
  for row in rows:
    sizes = row['per_frame']['bytes']
    assert len(sizes) == 5 and min(sizes) > 0
    assert single['header_bytes'] + sum(sizes) == row['bytes']
  assert 0 < single['header_bytes'] < 300
  assert single['time_s'] == [0.25, 0.35, 0.45, 0.65, 0.9]
  assert single['is_key'] == [True, False, False, True, False]
  # 16 units of 1/20 s, from 5 to 21.
  assert rows[-1]['bits_per_second'] == pytest.approx(8 * size / (16 / 20))
  assert [row['splats'] for row in rows] == [90, 150, 200]


def test_side_by_side_shows_the_prefixes_and_the_original(folder, single):
  shown = read_frames(folder / 'side.mkv')
  originals = read_frames(folder / 'originals' / 'clip.mkv')[2:7]
  # Even sides: a line and a column are added.
  assert shown.shape == (5, HEIGHT + 16 + 1, 4 * WIDTH, 3)
  for k in range(5):
    images = [
        render.render_picture(layered)
        for layered in decoded_prefixes(folder)[k]
    ]
    row = np.concatenate([*images, originals[k]], axis=1)
    np.testing.assert_array_equal(shown[k, 16 : 16 + HEIGHT], row)
  assert shown[:, :16].max() == 255


@pytest.mark.parametrize('flags', [(), ('--vmaf',)])
def test_a_prefix_is_compared_at_the_size_it_was_fitted_at(
    folder, single, tmp_path, flags
):
  if flags:
    pytest.importorskip('imageio_ffmpeg')
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  shape = HEIGHT // 2, WIDTH // 2
  with open(path, 'rb') as source, open(tmp_path / 'a.pgsvc', 'wb') as file:
    reader = stream.StreamReader(source)
    header = dataclasses.replace(
        reader.header, layer_shapes=(shape, *[(HEIGHT, WIDTH)] * 2)
    )
    with stream.StreamWriter(file, header) as writer:
      for gop in reader:
        packets = reader.packets(gop.index, 3)
        writer.add_gop(gop.times, packets, last_duration=gop.durations[-1])
  shown = tmp_path / 'side.mkv'
  result = launch_test.run(
      'evaluate',
      f'--input={tmp_path / "a.pgsvc"}',
      f'--reference={folder / "originals" / "clip.mkv"}',
      *('--json', f'--side_by_side={shown}', *flags),
  )
  rows = json.loads(result.stdout)['layers']
  originals = read_frames(folder / 'originals' / 'clip.mkv')[2:7]
  wanted = []
  for (base, *_), original in zip(decoded_prefixes(folder), originals):
    target = resolution.downsample(original / np.float32(255), *shape)
    image = render.render_picture(render.resized(base, *shape))
    wanted.append(psnr_db(image / 255, target, 1))
  np.testing.assert_allclose(rows[0]['per_frame']['psnr_db'], wanted, atol=2e-3)
  for row, plain in list(zip(rows, single['layers']))[1:]:
    assert row['per_frame']['psnr_db'] == plain['per_frame']['psnr_db']
  assert [(row['width'], row['height']) for row in rows] == [
      shape[::-1],
      *[(WIDTH, HEIGHT)] * 2,
  ]
  first = read_frames(shown)[0, 16:]
  assert first[: shape[0], : shape[1]].any()
  assert not first[shape[0] : HEIGHT, :WIDTH].any()
  if flags:
    assert all(0 <= row['vmaf'] <= 100 for row in rows)


@functools.cache
def decoded_prefixes(folder):
  """Frame by frame, the splats of every prefix."""
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  with open(path, 'rb') as file:
    reader = stream.StreamReader(file)
    prefixes = [
        [
            layered
            for gop in reader.gops
            for layered in frame_coding.decode_gop(
                reader.packets(gop.index, k + 1),
                num_frames=gop.num_frames,
                height=HEIGHT,
                width=WIDTH,
                channels=3,
            )
        ]
        for k in range(3)
    ]
  return list(zip(*prefixes))


@pytest.mark.parametrize(
    'color, codes',
    [
        ((255, 0, 0), (63, 102, 240)),
        ((0, 255, 0), (173, 42, 26)),
        ((0, 0, 255), (32, 240, 118)),
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
    ],
)
def test_planes_are_those_of_bt_709(color, codes):
  image = np.full((3, 5, 3), color, np.uint8)
  raw = np.frombuffer(planes.yuv420_bytes(image), np.uint8)
  luma, blue, red = codes
  assert raw.tolist() == [luma] * 24 + [blue] * 6 + [red] * 6


def test_chroma_of_half_the_size_costs_nothing():
  rng = np.random.default_rng(0)
  original = rng.integers(60, 200, (32, 32, 3)).astype(np.float32) / 255
  image = np.rint(255 * original).astype(np.uint8)
  # Chroma that changes sign from pixel to pixel, along the rows and at a luma
  # that stays, is not there at half the size.
  flip = np.where(np.arange(32) % 2, 1, -1)[None, :, None]
  changed = image + flip * np.array([35, -11, 6])
  row = metrics.score(VIDEO_METRICS, changed.astype(np.uint8), original)
  assert row['psnr_db'] < 23
  assert row['y_psnr_db'] > 48 and row['yuv_psnr_db'] > 48


def source_of(folder, **options):
  return video_source.Source(
      path=str(folder / 'originals' / 'clip.mkv'), options=options
  )


def test_frames_are_compared_as_a_stream(folder):
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  with open(path, 'rb') as file:
    reader = stream.StreamReader(file)
    seen = []
    for frame in video_quality.compare(reader, source_of(folder)):
      assert all(reference() is None for reference in seen[:-1])
      seen += [weakref.ref(x) for x in (frame.original, *frame.images)][:1]
      times = [5, 7, 9, 13, 18]
      assert frame.time == times[frame.index]
  assert len(seen) == 5


@pytest.mark.parametrize(
    'options, what',
    [
        ({'start': 3}, 'has no frame at 0.250 s'),
        ({'frames': 4}, 'ends before frame 2'),
        ({'size': (80, 80)}, 'is 80x80, the file 161x163; shrink it'),
    ],
)
def test_other_frames_are_refused(folder, options, what):
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  with open(path, 'rb') as file, pytest.raises(ValueError, match=what):
    evaluate_video.measure(
        stream.StreamReader(file),
        str(path),
        source_of(folder, **options),
        VIDEO_METRICS,
    )


def test_wrong_use_is_one_line(folder, tmp_path):
  file = f'--input={folder / "files" / "many" / "clip.pgsvc"}'
  clip = f'--reference={folder / "originals" / "clip.mkv"}'
  picture = '--input=tests/golden/v2_three_layers.pgsvc'
  output = f'--output={tmp_path / "x"}'
  for flags, what in (
      (
          (file, clip, output, '--anchors=jpeg'),
          "unknown anchor 'jpeg', there are ['x264'",
      ),
      ((picture, clip, '--vmaf'), '--vmaf is for videos'),
  ):
    assert what in launch_test.refusal('evaluate', *flags)
  assert not list(tmp_path.iterdir())


def test_a_cut_file_is_measured_as_far_as_it_goes(folder, single, tmp_path):
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  with open(path, 'rb') as file:
    gop = stream.StreamReader(file).gop(1)
  cut = tmp_path / 'cut.pgsvc'
  cut.write_bytes(path.read_bytes()[: gop.packet_offsets[1] + 1])
  with open(cut, 'rb') as file:
    document = evaluate_video.measure(
        stream.StreamReader(file),
        str(cut),
        source_of(folder),
        VIDEO_METRICS,
    )
  base, *others = document['layers']
  assert base['psnr_db'] == single['layers'][0]['psnr_db']
  assert [row['psnr_db'] for row in others] == [None, None]
  assert [row['available'] for row in others] == [False, False]


def test_a_file_cut_inside_a_base_layer_is_refused(folder, tmp_path):
  path = folder / 'files' / 'many' / 'clip.pgsvc'
  with open(path, 'rb') as file:
    gop = stream.StreamReader(file).gop(1)
  cut = tmp_path / 'cut.pgsvc'
  cut.write_bytes(path.read_bytes()[: gop.packet_offsets[0] + 1])
  with open(cut, 'rb') as file, pytest.raises(ValueError, match='--frames=3'):
    evaluate_video.measure(
        stream.StreamReader(file),
        str(cut),
        source_of(folder),
        VIDEO_METRICS,
    )


def test_files_of_one_clip_are_points_named_after_them(folder, tmp_path):
  clip = str(folder / 'originals' / 'clip.mkv')
  for point in ('a', 'b'):
    shutil.copy(folder / 'files' / 'few' / 'clip.pgsvc', tmp_path / point)
  paths = [str(tmp_path / point) for point in ('a', 'b')]
  found = folders.find([*paths, str(folder / 'files')], clip)
  assert [x.point for x in found] == ['a', 'b', 'few', 'many']
  assert {str(x.reference) for x in found} == {clip}
  (tmp_path / 'few').mkdir()
  shutil.copy(paths[0], tmp_path / 'few' / 'other.pgsvc')
  with pytest.raises(ValueError, match="are both point 'few'"):
    folders.find([str(folder / 'files'), str(tmp_path)], clip)


@pytest.fixture(scope='module')
def document(folder):
  launch_test.run(
      'evaluate',
      f'--input={folder / "files"}',
      f'--reference={folder / "originals"}',
      f'--output={folder / "results.json"}',
      '--anchors=',
  )
  return results.load(str(folder / 'results.json'))


# Deterministic: all but how long it took.
FIGURES = (
    *(x.name for x in VIDEO_METRICS),
    'bytes',
    'bpp',
    'bits_per_second',
    'splats',
)


def test_a_folder_gives_the_same_rows(document, single):
  assert results.are_of_videos(document)
  (picture,) = document['pictures']
  assert (picture['name'], picture['frames']) == ('clip', 5)
  assert picture['frames_per_second'] == pytest.approx(5 / 0.8)
  files = {file['point']: file for file in document['files']}
  assert set(files) == {'many', 'few'}
  for row, same in zip(files['many']['layers'], single['layers'], strict=True):
    for name in FIGURES:
      assert row[name] == same[name]
    assert row['entropy_ms'] > 0 and row['render_ms'] > 0
  assert [row['splats'] for row in files['few']['layers']] == [90, 110]


def with_anchor(document):
  """As if a codec had been measured: four times the bytes of our best."""
  rows = [
      {
          'picture': 'clip',
          'codec': 'x264',
          'setting': i,
          'bytes': 4 * row['bytes'],
          'bpp': 4 * row['bpp'],
          'bits_per_second': 4 * row['bits_per_second'],
          **{x.name: row[x.name] for x in VIDEO_METRICS},
      }
      for file in document['files']
      for i, row in enumerate(file['layers'])
  ]
  front, *_ = curves.of_picture(document, 'clip')
  best = dict(front.points('psnr_db'))
  codec = {'title': 'x264', 'note': '', 'varies': 'CRF', 'version': ''}
  return document | {
      'anchors': [row for row in rows if row['bpp'] / 4 in best],
      'codecs': {'x264': codec},
  }


def test_the_page_of_videos_stands_alone(folder, document):
  path = folder / 'anchored.json'
  path.write_text(json.dumps(with_anchor(document)))
  launch_test.run(
      'report', f'--input={path}', f'--output={folder / "page.html"}'
  )
  text = (folder / 'page.html').read_text(encoding='utf-8')
  page = report_test.check_that_it_stands_alone(text)
  assert set(page.ids) >= report_test.SECTIONS
  # Means, levels, bits of two points, times, and of the clip curves and time.
  assert page.tags.count('svg') == 1 + 1 + 2 + 1 + 2
  # Frame 2, the last before the second I-frame: three prefixes, the original.
  assert page.tags.count('img') == 2 * 4
  for words in ('kbit/s', 'I-frame', 'YUV PSNR', '-75.0 %', 'frame 2'):
    assert words.lower() in page.text.lower(), words


def test_the_page_does_without_the_clip(document, tmp_path):
  path = tmp_path / 'results.json'
  path.write_text(json.dumps(document))
  from launch.lab.reports import video_page

  page = report_test.Page(video_page.make(document, tmp_path))
  assert 'is not there' in page.text and 'img' not in page.tags


def test_published_videos_stand_beside_their_clips_only():
  published = curves.load_published()

  def found(*names):
    rows = [{'name': f'{name}_1920x1080', 'frames': 50} for name in names]
    return curves.published_set({'pictures': rows}, published)

  three = found('Beauty', 'HoneyBee', 'Jockey')
  (curve,) = three['curves']
  assert three['note'] == 'as published, mean of all 3 clips'
  assert curve.points('vmaf')[0] == (0.2076, 87.96)
  assert found('Jockey')['curves'][0].points('psnr_db')[-1] == (1.07, 39.06)
  assert 'here 2' in found('Beauty', 'Jockey')['note']
  assert found('Beauty', 'bunny')['curves'] == []


def test_vmaf_of_too_small_frames_is_none():
  pytest.importorskip('imageio_ffmpeg')
  for side, wanted in ((16, type(None)), (18, float)):
    frame = np.zeros((side - 1, side, 3), np.uint8)
    assert list(map(type, vmaf([frame] * 2, [frame] * 2))) == [wanted] * 2


def vmaf(images, references):
  with metrics.ALL['vmaf'].meter() as meter:
    for image, reference in zip(images, references):
      meter.add(image, reference)
    return meter.figures()


def test_without_ffmpeg_there_is_no_vmaf(folder):
  result = launch_test.run_without(
      ['imageio_ffmpeg'],
      'evaluate',
      f'--input={folder / "files" / "few" / "clip.pgsvc"}',
      f'--reference={folder / "originals" / "clip.mkv"}',
      '--vmaf',
      status=1,
  )
  assert result.stderr.endswith(
      "this command needs imageio_ffmpeg: pip install 'pgsvc_jax[anchors]'\n"
  )


# Anchors: slow, half a minute.


@pytest.fixture(scope='module')
def long_clip(tmp_path_factory):
  """24 frames of 185 x 177, lossless, and what encoders get."""
  pytest.importorskip('imageio_ffmpeg')
  path = tmp_path_factory.mktemp('anchors')
  frames = clips.moving(24, 185, 177)
  form = stream_format.VideoFormat(
      width=185, height=177, time_base=Fraction(1, 25), frame_rate=Fraction(25)
  )
  with video_media.VideoWriter(path / 'long.mkv', form) as writer:
    for k, frame in enumerate(frames):
      writer.write(frame, k, 1)
  clip = video_anchors.Clip(
      path=path / 'long.yuv',
      width=185,
      height=177,
      rate=Fraction(25),
      seconds=24 / 25,
      originals=lambda: (frame / np.float32(255) for frame in frames),
  )
  raw = b''.join(map(planes.yuv420_bytes, frames))
  clip.path.write_bytes(raw)
  return clip


@pytest.mark.slow
@pytest.mark.parametrize(
    'codec, form',
    [('x264', 'h264'), ('x265', 'hevc'), ('svt_av1', 'obu'), ('vvenc', 'vvc')],
)
def test_anchors_are_what_ffmpeg_says(long_clip, codec, form, tmp_path):
  setting = video_anchors.CODECS[codec].settings[1]
  measured = metrics.choose(is_video=True, requested=['vmaf'])
  row = video_anchors.measure(codec, setting, None, long_clip, measured)
  # The size of an elementary stream, written by another run.
  stream = tmp_path / f'stream.{form}'
  raw = ffmpeg.raw_input(long_clip.path, *long_clip.raw_size, long_clip.rate)
  options = video_anchors.CODECS[codec].options(setting, 9999)
  ffmpeg.run(*raw, *options, '-f', form, str(stream))
  # Parameter sets have another frame in MP4; AV1 has delimiters of frames.
  assert abs(row['bytes'] - stream.stat().st_size) < 24 * 2 + 100
  assert row['bits_per_second'] == pytest.approx(row['bytes'] * 8 * 25 / 24)
  # PSNR of luma by FFmpeg's own filter, of what it decodes itself.
  log = tmp_path / 'psnr.log'
  coded = str(long_clip.path.with_name('anchor.mp4'))
  graph = f'[0]format=yuv420p[a];[a][1]psnr=stats_file={log.name}'
  ffmpeg.run(
      *('-i', coded, *raw, '-lavfi', graph, '-f', 'null', '-'), folder=tmp_path
  )
  lines = log.read_text().splitlines()
  psnr_y = [float(x.split('psnr_y:')[1].split()[0]) for x in lines]
  assert len(psnr_y) == 24
  # Ours is of what was turned into RGB at 8 bits and back.
  np.testing.assert_allclose(row['y_psnr_db'], np.mean(psnr_y), atol=0.3)
  assert 20 < row['psnr_db'] < 50 and 0.5 < row['ms_ssim'] < 1
  assert len(row['per_frame']['vmaf']) == 24 and 5 < row['vmaf'] <= 100


@pytest.mark.slow
@pytest.mark.parametrize('codec', list(video_anchors.CODECS))
def test_anchors_keep_to_the_gop(long_clip, codec, tmp_path):
  keys = {}
  for gop in (None, 8):
    output = tmp_path / f'{gop}.mp4'
    setting = video_anchors.CODECS[codec].settings[2]
    video_anchors.encode(codec, setting, gop, long_clip, output)
    with av.open(str(output)) as container:
      packets = [x for x in container.demux(video=0) if x.size]
      keys[gop] = sum(packet.is_keyframe for packet in packets)
      assert len(packets) == 24
  assert keys == {None: 1, 8: 3}


@pytest.mark.slow
def test_vmaf_of_the_same_is_high_and_of_less_is_lower(long_clip):
  frames = list(long_clip.originals())
  rng = np.random.default_rng(0)
  noisy = [(x + rng.normal(0, 0.05, x.shape)).clip(0, 1) for x in frames]
  same, less = (np.mean(vmaf(images, frames)) for images in (frames, noisy))
  assert same > 95 and less < same - 10


@pytest.mark.slow
def test_anchors_and_vmaf_in_results(folder, tmp_path):
  pytest.importorskip('imageio_ffmpeg')
  shutil.copytree(folder, tmp_path / 'copy')
  copy = pathlib.Path(tmp_path / 'copy')
  flags = (
      f'--input={copy / "files"}',
      f'--reference={copy / "originals" / "clip.mkv"}',
      f'--output={copy / "anchored.json"}',
      '--vmaf',
  )
  (copy / 'anchored.json').unlink(missing_ok=True)
  launch_test.run('evaluate', *flags, '--anchors=x264')
  document = results.load(str(copy / 'anchored.json'))
  # The clip has more frames than a group, so that there are both forms.
  assert set(document['codecs']) == {'x264', 'x264_gop'}
  assert document['codecs']['x264_gop']['title'] == 'x264, GOP 3'
  rows = [x for x in document['anchors'] if x['codec'] == 'x264']
  assert all(np.diff([row['bytes'] for row in rows]) > 0)
  assert all(np.diff([row['vmaf'] for row in rows]) >= 0)
  assert all(x['vmaf'] for f in document['files'] for x in f['layers'])
  # Known ones are kept: a mark stays.
  marked = [row | {'bytes': row['bytes'] + 7} for row in document['anchors']]
  text = json.dumps(document | {'anchors': marked})
  (copy / 'anchored.json').write_text(text)
  launch_test.run('evaluate', *flags, '--anchors=x264')
  again = results.load(str(copy / 'anchored.json'))
  assert again['anchors'] == marked
