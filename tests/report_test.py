"""Folders of files become results.json, and that becomes one page."""

import html.parser
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from launch.evaluation import anchors
from launch.evaluation import folders
from launch.evaluation import results
from launch.lab.reports import bd_rate
from launch.lab.reports import curves
from launch.lab.reports import picture_page
from launch.lab.reports import strips
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize

ROOT = pathlib.Path(__file__).parents[1]
# Another size would make every prefix a different picture.
HEIGHT, WIDTH = 168, 176
# One is named as a Kodak picture, the other must be escaped.
NAMES = ('kodim01', 'a$b <i>_$')


def run(verb, *flags, status=0):
  result = subprocess.run(
      [sys.executable, '-W', 'error', '-m', f'launch.{verb}', *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == status, result.stderr
  return result


def refusal(verb, *flags):
  """The one line that a refused command says."""
  (line,) = run(verb, *flags, status=1).stderr.strip().splitlines()
  assert line.startswith(f'{verb}: ')
  return line


def scene(seed, num_splats):
  """Splats all over the picture, so that each makes it better."""
  rng = np.random.default_rng(seed)
  size = (num_splats, 2)
  return types.Splats(
      means=rng.uniform(0, (WIDTH, HEIGHT), size).astype(np.float32),
      cholesky=np.float32([6, 0, 6]) * np.ones((num_splats, 1), np.float32),
      colors=rng.uniform(0, 0.4, (num_splats, 3)).astype(np.float32),
  )


def layered(splats, sizes):
  first = types.Splats(*(x[: sum(sizes)] for x in splats))
  return types.LayeredSplats(
      splats=first, layer_sizes=sizes, height=HEIGHT, width=WIDTH
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two originals, and two points of files: five layers, and two."""
  path = tmp_path_factory.mktemp('report')
  for name in ('originals', 'files/many', 'files/few'):
    (path / name).mkdir(parents=True)
  for seed, name in enumerate(NAMES):
    splats = scene(seed, 300)
    image = render.render_picture(layered(splats, (300,)))
    Image.fromarray(image).save(path / 'originals' / f'{name}.png')
    for point, sizes in (('many', (60,) * 5), ('few', (100, 100))):
      data = bitstream.write(layered(splats, sizes), quantize.StepSizes())
      (path / 'files' / point / f'{name}.pgsvc').write_bytes(data)
  evaluate(path)
  return path


def evaluate(path, *flags):
  return run(
      'evaluate',
      f'--input={path / "files"}',
      f'--reference={path / "originals"}',
      f'--output={path / "results.json"}',
      *flags,
  )


@pytest.fixture(scope='module')
def document(folder):
  return results.load(str(folder / 'results.json'))


@pytest.fixture(scope='module')
def page(folder):
  output = folder / 'report.html'
  run('report', f'--input={folder / "results.json"}', f'--output={output}')
  return output.read_text(encoding='utf-8')


def psnr_db(image, reference):
  error = np.mean(
      (np.asarray(image, float) - np.asarray(reference, float)) ** 2
  )
  return 10 * np.log10(255**2 / error)


def read(path):
  with Image.open(path) as image:
    return np.asarray(image)


def test_results_hold_every_prefix_of_every_file(folder, document):
  assert {(x['point'], x['picture']) for x in document['files']} == {
      (point, name) for point in ('few', 'many') for name in NAMES
  }
  for file in document['files']:
    path = folder / file['path']
    data = path.read_bytes()
    original = read(folder / 'originals' / f'{file["picture"]}.png')
    assert file['file_bytes'] == os.path.getsize(path)
    points = bitstream.read_header(data).truncation_points
    assert tuple(row['bytes'] for row in file['layers']) == points
    for row in file['layers']:
      np.testing.assert_allclose(
          row['bpp'], 8 * row['bytes'] / (HEIGHT * WIDTH)
      )
      decoded = render.render_picture(
          bitstream.read_layers(data[: row['bytes']])
      )
      np.testing.assert_allclose(
          row['psnr_db'], psnr_db(decoded, original), atol=1e-3
      )
      assert 0 < row['ms_ssim'] <= 1
      assert row['entropy_ms'] > 0
      assert row['render_ms'] > 0
      assert row['write_ms'] > 0
  assert document['cores'] >= 1 and document['processor']


def test_the_single_form_gives_the_same_rows(folder, document):
  (file,) = (
      x
      for x in document['files']
      if (x['point'], x['picture']) == ('many', 'kodim01')
  )
  single = json.loads(
      run(
          'evaluate',
          f'--input={folder / file["path"]}',
          f'--reference={folder / "originals" / "kodim01.png"}',
          '--json',
      ).stdout
  )
  for row, same in zip(single['layers'], file['layers'], strict=True):
    assert row.items() <= same.items()


def test_anchors_are_real_files_that_decode(folder, document):
  original = read(folder / 'originals' / 'kodim01.png')
  formats = {
      'jpeg': 'JPEG',
      'jpeg2000': 'JPEG2000',
      'webp': 'WEBP',
      'avif': 'AVIF',
      'avif_default': 'AVIF',
  }
  assert set(document['codecs']) | set(document['missing']) == set(formats)
  for codec in document['codecs']:
    rows = [
        row
        for row in document['anchors']
        if (row['codec'], row['picture']) == (codec, 'kodim01')
    ]
    assert len(rows) == len(anchors.CODECS[codec].settings)
    assert all(np.diff([row['bytes'] for row in rows]) > 0)
    assert all(np.diff([row['psnr_db'] for row in rows]) > 0)
    row = rows[4]
    data = anchors.encode(codec, row['setting'], original)
    assert len(data) == row['bytes']
    np.testing.assert_allclose(row['bpp'], 8 * len(data) / (HEIGHT * WIDTH))
    with Image.open(io.BytesIO(data)) as image:
      assert image.format == formats[codec]
      if codec == 'jpeg':
        assert image.info['progressive']
      decoded = np.asarray(image.convert('RGB'))
    np.testing.assert_allclose(
        row['psnr_db'], psnr_db(decoded, original), atol=1e-3
    )
    assert 15 < row['psnr_db'] < 60


@pytest.mark.parametrize('codec', [x for x in anchors.CODECS])
def test_anchors_take_gray(codec):
  if not anchors.available(codec):
    pytest.skip('the installed Pillow lacks it')
  y, x = np.mgrid[:40, :50]
  gray = (127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)).astype(np.uint8)
  row = anchors.measure(
      codec, 50, gray[..., None] / 255, metrics.choose(is_video=False)
  )
  assert row['psnr_db'] > 28


def test_anchors_are_kept_while_nothing_changed(folder, document, tmp_path):
  for name in ('originals', 'files'):
    shutil.copytree(folder / name, tmp_path / name)
  path = tmp_path / 'results.json'
  kept = [row | {'decode_ms': -1} for row in document['anchors']]
  path.write_text(json.dumps(document | {'anchors': kept}))
  # A changed original is measured again.
  changed = tmp_path / 'originals' / 'kodim01.png'
  image = read(changed).copy()
  image[0, 0] ^= 1
  Image.fromarray(image).save(changed)
  evaluate(tmp_path, '--anchors=jpeg')
  again = results.load(str(path))
  assert {row['picture']: row['decode_ms'] < 0 for row in again['anchors']} == {
      'kodim01': False,
      NAMES[1]: True,
  }
  assert {row['codec'] for row in again['anchors']} == {'jpeg'}


def test_a_folder_is_one_point_or_several(folder):
  originals = str(folder / 'originals')
  several = folders.find([str(folder / 'files')], originals)
  assert [x.point for x in several] == ['few', 'few', 'many', 'many']
  one = folders.find([str(folder / 'files' / 'few')], originals)
  assert [x.point for x in one] == ['few', 'few']
  assert {x.reference.stem for x in one} == set(NAMES)
  with pytest.raises(ValueError, match="both point 'few'"):
    shutil.copytree(folder / 'files' / 'few', folder / 'other' / 'few')
    folders.find([str(folder / 'files'), str(folder / 'other')], originals)


RATES = np.array([1.0, 2, 4, 8])
DECIBELS = np.array([30.0, 33, 36, 39])


def points(rates=RATES, qualities=DECIBELS):
  return list(zip(rates, qualities))


@pytest.mark.parametrize('factor', [0.5, 0.9, 1, 2])
def test_bd_rate_of_a_scaled_curve_is_the_factor(factor):
  result = bd_rate.bd_rate(points(), points(factor * RATES))
  np.testing.assert_allclose(result.percent, 100 * (factor - 1), atol=1e-9)
  backward = bd_rate.bd_rate(points()[::-1], points(factor * RATES)[::-1])
  assert backward == result


def test_bd_rate_of_another_slope_by_hand():
  # log2 rate is (q - 30) / 3 and (q - 30) / 6: the mean difference over
  # 30..39 dB is -(9 / 2) / 6 = -0.75 octaves.
  slow = points(RATES**0.5)
  result = bd_rate.bd_rate(points(), slow)
  np.testing.assert_allclose(result.percent, 100 * (2**-0.75 - 1), atol=1e-6)


@pytest.mark.parametrize(
    'curve, reason',
    [
        (points()[:3], '3 points'),
        ([], '0 points'),
        (points(qualities=DECIBELS[[0, 2, 1, 3]]), 'not monotone'),
        (points(rates=[1, 2, 2, 8]), 'not monotone'),
        (points(qualities=DECIBELS + 20), 'no quality in common'),
        (points(qualities=DECIBELS + 6), 'only 33% of the qualities'),
    ],
)
def test_bd_rate_says_why_not(curve, reason):
  result = bd_rate.bd_rate(points(), curve)
  assert result.percent is None and reason in result.reason
  assert bd_rate.bd_rate(curve, points()).percent is None


def test_a_wider_anchor_is_no_reason():
  wide = points(2.0 ** np.arange(-6, 12), 12 + 3.0 * np.arange(18))
  result = bd_rate.bd_rate(wide, points(0.5 * RATES))
  np.testing.assert_allclose(result.percent, -50, atol=1e-6)


def test_means_are_at_equal_prefix_and_of_all_pictures(document):
  mean = {curve.key: curve for curve in curves.means(document)}
  files = [x for x in document['files'] if x['point'] == 'many']
  for k, row in enumerate(mean['point many'].rows):
    for name in ('bytes', 'bpp', 'psnr_db', 'ms_ssim', 'render_ms'):
      expected = np.mean([file['layers'][k][name] for file in files])
      np.testing.assert_allclose(row[name], expected)
  # A point that lacks a picture has no mean.
  fewer = document | {'files': [x for x in document['files'] if x != files[0]]}
  assert 'point many' not in {curve.key for curve in curves.means(fewer)}


def level(rates, qualities):
  rows = [{'bpp': x, 'psnr_db': y} for x, y in zip(rates, qualities)]
  return curves.Curve(name='', kind='level', key='', rows=rows)


def test_levels_are_the_same_prefix_of_all_points(document):
  own = [x for x in curves.means(document) if x.kind == 'point']
  levels = curves.levels(own)
  # One point has five layers, the other two.
  assert [x.name for x in levels] == ['base', 'base + 1']
  for k, curve in enumerate(levels):
    assert curve.rows == [x.rows[k] for x in own]
  assert curves.levels(own[:1]) == []


def test_whole_files_are_compared_picture_by_picture(document):
  points = [x for x in curves.means(document) if x.kind == 'point']
  (whole,) = curves.whole_files(points)
  assert whole.rows == [x.rows[-1] for x in points]
  assert curves.whole_files(points[:1]) == []
  result, _ = curves.compare_means(
      document, 'anchor jpeg', 'whole files', 'psnr_db'
  )
  # Two points are too few; were they not found, it would say so.
  assert result.reason == 'it has 2 points, 4 are needed'


def test_the_gap_of_levels_is_at_equal_rate():
  # Straight lines over the logarithm of the rate, 3 dB an octave.
  lower = level([0.1, 0.2, 0.4], [30, 33, 36])
  upper = level([0.4, 0.8, 1.6], [36.5, 39.5, 42.5])
  assert curves.gap(lower, upper) == []
  upper = level([0.2, 0.4, 0.8], [33.5, 36.5, 39.5])
  rates, decibels = zip(*curves.gap(lower, upper))
  assert rates[0] == pytest.approx(0.2) and rates[-1] == pytest.approx(0.4)
  np.testing.assert_allclose(decibels, 0.5, atol=1e-9)
  assert curves.gap(lower, level([0.2], [30])) == []


def test_the_front_is_what_nothing_smaller_reaches(document):
  for picture in NAMES:
    front, *rest = curves.of_picture(document, picture)
    assert front.kind == 'front'
    own = [
        pair
        for curve in rest
        if curve.kind == 'point'
        for pair in curve.points('psnr_db')
    ]
    assert front.points('psnr_db') == sorted(
        (rate, quality)
        for rate, quality in own
        if not any(
            (r <= rate and q > quality) or (r < rate and q == quality)
            for r, q in own
        )
    )


def test_prefixes_of_smaller_sizes_are_in_no_comparison(document):
  changed = json.loads(json.dumps(document))
  for file in changed['files']:
    file['layers'][0] |= {'width': file['width'] // 2, 'psnr_db': 99.0}
  for lines in (curves.of_picture(changed, NAMES[0]), curves.means(changed)):
    front, *others = lines
    assert max(y for _, y in front.points('psnr_db')) < 99
    assert any(x.points('psnr_db')[0][1] == 99 for x in others)
    # Of two layers, one is left.
    (few,) = (x for x in others if x.kind == 'point' and len(x.rows) == 2)
    result = curves.compare(others[-1], few, 'psnr_db')
    assert result.reason == 'it has 1 points, 4 are needed'


def test_published_figures_are_whole_and_of_known_sets():
  published = curves.load_published()
  for entry in published['curves'] + published['by_splats']:
    assert entry['set'] in published['sets'] and entry['source']
    lists = [x for x in entry.values() if isinstance(x, list)]
    assert len({len(x) for x in lists}) == 1
  for entry in published['curves']:
    assert entry['bpp'] == sorted(entry['bpp'])
    assert entry['averaging'] and entry['reading']


def kodak(number):
  names = [f'kodim{i + 1:02}' for i in range(number)]
  return {'pictures': [{'name': name} for name in names]}


def test_published_figures_say_what_they_are_of():
  published = curves.load_published()
  found = curves.published_set(kodak(24), published)
  assert found['title'] == 'Kodak'
  assert found['note'] == 'as published, mean of all 24 pictures'
  assert {x.name for x in found['curves']} == {
      'GaussianImage',
      'GaussianImage++',
  }
  part = curves.published_set(kodak(16), published)
  assert 'other averaging: 24 pictures, here 16' in part['curves'][0].note
  # Never beside other pictures.
  other = {'pictures': [{'name': 'kodim01'}, {'name': 'astronaut'}]}
  assert curves.published_set(other, published)['curves'] == []


SECTIONS = {
    'curves',
    'levels',
    'bd-rate',
    'published',
    'layers',
    'times',
    'pictures',
    'anchors',
}


class Page(html.parser.HTMLParser):
  """What the page refers to, and the text that it shows."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.links, self.tags, self.text = [], [], [], ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    for name, value in attrs:
      if name == 'id':
        self.ids.append(value)
      elif name in ('href', 'xlink:href', 'src', 'srcset', 'data', 'action'):
        self.links.append(value)

  def handle_data(self, data):
    self.text += data


def check_that_it_stands_alone(page: str) -> Page:
  """Checks that a page refers to nothing but itself; returns its parts."""
  parsed = Page(page)
  inner = {x[1:] for x in parsed.links if x.startswith('#')}
  inner |= set(re.findall(r'url\(#([^)]+)\)', page))
  assert inner <= set(parsed.ids)
  assert len(set(parsed.ids)) == len(parsed.ids)
  outer = [x for x in parsed.links if not x.startswith(('#', 'data:'))]
  assert outer == []
  assert not {'link', 'iframe', 'object'} & set(parsed.tags)
  assert '://' not in page and '@import' not in page
  return parsed


def test_the_page_refers_to_nothing_but_itself(page):
  parsed = check_that_it_stands_alone(page)
  # The element that draws files, and its worker; once for all of them.
  assert parsed.tags.count('script') == 2
  assert parsed.tags.count('pgsvc-image') == len(NAMES)
  assert page.count('url(') == page.count('url(#')


def test_the_page_has_all_sections_and_pictures(page, document):
  parsed = Page(page)
  assert set(parsed.ids) >= SECTIONS
  # A mean, the levels, one a point, the times, and one a picture.
  assert parsed.tags.count('svg') == 1 + 1 + 2 + 1 + 2
  # Whole and part of six pictures each: five prefixes and the original.
  assert parsed.tags.count('img') == 2 * 2 * 6
  for text in (*NAMES, 'pgsvc many', '4 are needed', 'JPEG', 'PSNR'):
    assert text in parsed.text, text
  for codec in document['codecs'].values():
    assert codec['title'] in parsed.text


@pytest.mark.parametrize('shape', [(8, 8), (8, 13), (9, 9), (20, 15)])
@pytest.mark.parametrize('size', [7, 8])
def test_the_worst_window_is_found_up_to_the_edges(shape, size):
  for corner in ((0, 0), (shape[0] - size, shape[1] - size)):
    rows, columns = (slice(first, first + size) for first in corner)
    image = np.zeros((*shape, 3), np.uint8)
    image[rows, columns] = 255
    worst = strips.worst_window([image], np.zeros((*shape, 3)), size)
    assert worst == (rows, columns)


def test_prefixes_for_smaller_sizes_say_so(folder, document, page):
  note = 'layers of several sizes'
  assert note not in page
  changed = json.loads(json.dumps(document))
  file = next(x for x in changed['files'] if len(x['layers']) > 1)
  file['layers'][0] |= {'width': file['width'] // 2}
  assert note in picture_page.make(changed, folder)
  (picture,) = (x for x in changed['pictures'] if x['name'] == file['picture'])
  base, *others = strips.make(folder, file, picture)
  size = f'{file["width"] // 2} x {file["height"]}'
  assert base['caption'].endswith(f' dB at {size}')
  assert not any(' at ' in x['caption'] for x in others)


def test_the_page_does_without_files_and_anchors(folder, document, tmp_path):
  bare = document | {
      'anchors': [],
      'codecs': {},
      'missing': ['avif'],
      'files': document['files'][:1] + document['files'][-1:],
  }
  path = tmp_path / 'results.json'
  path.write_text(json.dumps(bare).replace(NAMES[1], 'kodim02'))
  run('report', f'--input={path}', f'--output={tmp_path / "page.html"}')
  text = Page((tmp_path / 'page.html').read_text()).text
  assert 'is not there' in text
  assert 'lacks it: avif' in text
  assert 'left out of the means' in text
  assert 'other averaging: 24 pictures, here 2' in text


def test_wrong_use_is_one_line(folder, tmp_path):
  files = f'--input={folder / "files"}'
  reference = f'--reference={folder / "originals"}'
  output = f'--output={tmp_path / "x"}'
  other = tmp_path / 'other.json'
  other.write_text('{"version": 1}')
  cases = {
      ('evaluate', files, reference): 'need --output',
      ('evaluate', files, reference, output, '--anchors=gif'): (
          "unknown anchor 'gif'"
      ),
      ('evaluate', files, reference, f'--output={other}'): 'not results',
      ('report', f'--input={tmp_path / "no"}', output): 'No such file',
      ('report', f'--input={other}', output): "no 'processor'",
  }
  for flags, what in cases.items():
    assert what in refusal(*flags), flags
  assert list(tmp_path.iterdir()) == [other]


def test_missing_files_are_named(folder, tmp_path):
  files, originals = str(folder / 'files'), str(folder / 'originals')
  (tmp_path / 'kodim01.png').touch()
  (tmp_path / 'kodim01.jpg').touch()
  for inputs, references, what in (
      ([str(tmp_path)], originals, r'no \*\.pgsvc'),
      ([str(tmp_path / 'no')], originals, 'not a folder'),
      ([files], str(tmp_path / 'no'), 'not a folder'),
      ([files], files, 'has no original of that name'),
      ([files], str(tmp_path), 'of that name; need one'),
  ):
    with pytest.raises(ValueError, match=what):
      folders.find(inputs, references)


@pytest.mark.parametrize('text', ['{', '[]', '{"version": 0}', '\xff'])
def test_other_files_are_no_results(tmp_path, text):
  path = tmp_path / 'other.json'
  path.write_text(text, encoding='latin-1')
  with pytest.raises(ValueError, match='other.json: not results of'):
    results.load(str(path))


def test_rows_that_lack_a_field_are_refused(document, tmp_path):
  path = tmp_path / 'other.json'
  del (row := dict(document['files'][0]))['layers']
  path.write_text(json.dumps(document | {'files': [row]}))
  with pytest.raises(ValueError, match="'layers' is missing in 'files'"):
    results.load(str(path))
