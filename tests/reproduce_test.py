"""Experiments: the table, what is made of its figures, and the smoke forms."""

import dataclasses
import json
import pathlib
import re

import numpy as np
from PIL import Image
import pytest
import scipy.ndimage

from launch.lab import drawings
from launch.lab.experiments import figures as figures_lib
from launch.lab.experiments import page
from launch.lab.experiments import units
import pgsvc_jax
from pgsvc_jax import media
from pgsvc_jax import resolution
from pgsvc_jax import types
from tests import launch_test

TABLE = units.load_module('experiments')
EXPERIMENTS = TABLE.EXPERIMENTS
FORMS = [(name, form) for name, x in EXPERIMENTS.items() for form in x.forms]


def make_figures(published_set='', **levels):
  """One picture; by variant, PSNR of the prefixes at 5000, 7000, ... splats."""
  return figures_lib.Figures(
      [
          figures_lib.Row(
              variant=variant,
              source='kodim01',
              splats=tuple(5000 + 2000 * k for k in range(len(psnr_db))),
              bytes=tuple(range(1, len(psnr_db) + 1)),
              bpp=tuple(0.1 * 2**k for k in range(len(psnr_db))),
              psnr_db=tuple(psnr_db),
              seconds=1.0,
              frames=((1, psnr_db[-1]),) * 4,
          )
          for variant, psnr_db in levels.items()
      ],
      published_set,
  )


@pytest.mark.parametrize(('name', 'form'), FORMS)
def test_every_variant_has_valid_settings_of_its_own(name, form):
  experiment = EXPERIMENTS[name]
  form = experiment.forms[form]
  seen = set()
  for variant in experiment.variants:
    unit = units.Unit(
        source=pathlib.Path('none'),
        config=variant.config or form.config,
        overrides=dict(form.overrides) | dict(variant.overrides),
    )
    assert unit.is_video == (experiment.inputs == 'clips')
    fields = (variant.shares, variant.coder, variant.alone_at)
    seen.add((json.dumps(unit.settings), *fields))
  assert len(seen) == len(experiment.variants)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_claims_are_about_variants_that_there_are(name):
  """A picture of which all variants are equal: gains are 0, so not above 0."""
  experiment = EXPERIMENTS[name]
  levels = {x.name: (30.0, 31.0, 32.0) for x in experiment.variants}
  figures = make_figures(**levels)
  if name == 'rate_distortion':
    rows = make_rates(0).rows
    names = [variant.name for variant in experiment.variants]
    figures = figures_lib.Figures(
        [dataclasses.replace(x, variant=y) for x, y in zip(rows, names)]
    )
  for claim in experiment.claims:
    verdict = figures_lib.judge(claim, figures)
    assert len(verdict.values) <= 8 or claim.unit == '%'
    if verdict.values and claim.above == 0 and 'adds' not in claim.text:
      assert verdict.holds is False, claim.text


def test_a_claim_holds_at_every_prefix_or_not():
  claim = TABLE.Claim(text='', difference=TABLE.gain('a', 'b'), above=0.5)
  better = make_figures(a=(31, 32), b=(30, 31))
  assert figures_lib.judge(claim, better).holds
  np.testing.assert_allclose(figures_lib.judge(claim, better).values, [1, 1])
  mixed = make_figures(a=(31, 31.4), b=(30, 31))
  assert figures_lib.judge(claim, mixed).holds is False


def test_the_top_of_a_file_of_one_layer_stands_against_the_top():
  claim = TABLE.Claim(text='', difference=TABLE.gain('a', 'b'))
  verdict = figures_lib.judge(claim, make_figures(a=(1, 2, 33), b=(30,)))
  assert verdict.values == (3,)


@pytest.mark.parametrize(('count', 'matches'), [(4960, True), (4700, False)])
def test_a_few_splats_may_be_missing(count, matches):
  (row,) = make_figures(joint=(29, 30, 31)).rows
  row = dataclasses.replace(row, splats=(count, 6990, 8990))
  assert any(figures_lib.Figures([row], 'Kodak').published_db('LIG')) == matches


def test_published_figures_count_where_set_and_splats_agree():
  claim = TABLE.Claim(
      text='', difference=TABLE.above_published('joint', 'P-GSVC')
  )
  levels = (29.0, 30.0, 30.0)
  of_set = figures_lib.judge(claim, make_figures('Kodak', joint=levels))
  np.testing.assert_allclose(of_set.values, [0.5, 0.6, -0.2])
  assert of_set.holds is False
  for figures in (
      make_figures('', joint=levels),
      make_figures('Kodak', joint=levels[:2]),
  ):
    assert figures_lib.judge(claim, figures).holds is None


def test_means_are_over_the_pictures():
  row = figures_lib.Row('a', 'x', (1,), (10,), (0.5,), (30.0,), 2.0)
  other = figures_lib.Row('a', 'y', (2,), (30,), (1.5,), (34.0,), 6.0)
  figures = figures_lib.Figures([row, other])
  assert figures.psnr_db('a') == [32] and figures.bpp('a') == [1]
  assert figures.seconds('a') == 4 and figures.splats('a') == [2]


def test_a_claim_may_be_about_shifts():
  row = figures_lib.Row('a', 'x', (1,), (1,), (1.0,), (30.0,), 1.0, (0.01,))
  other = dataclasses.replace(row, source='y', shift=(0.03,))
  figures = figures_lib.Figures([row, other])
  np.testing.assert_allclose(figures.shifts('a'), [0.02])
  claim = TABLE.Claim(
      text='', difference=lambda x: x.shifts('a'), below=0.01, unit='pixels'
  )
  verdict = figures_lib.judge(claim, figures)
  assert verdict.holds is False and '0.02 pixels' in page.markdown(
      EXPERIMENTS['resolution'], figures, [verdict], {}, '', ''
  )
  assert make_figures(a=(1, 2)).shifts('a') == []


def test_a_shift_is_found_in_pixels():
  """Means over 8 x 8 pixels, of pictures that lie 2 pixels apart.

  The measure falls short of a quarter: the pictures differ at their edges.
  """
  noise = np.random.default_rng(0).uniform(size=(520, 520, 1))
  large = scipy.ndimage.gaussian_filter(noise, (4, 4, 0))
  large = ((large - large.min()) / np.ptp(large)).astype(np.float32)
  target = resolution.downsample(large[:512, 2:514], 64, 64)
  moved = resolution.downsample(large[:512, :512], 64, 64)
  assert units.find_shift(media.to_uint8(target), target) == 0
  assert 0.15 < units.find_shift(media.to_uint8(moved), target) < 0.25


def test_scales_are_drawn_side_by_side(tmp_path):
  layered = types.LayeredSplats(
      splats=types.Splats(
          np.float32([[30, 20]]), np.float32([[9, 0, 9]]), np.ones((1, 3))
      ),
      layer_sizes=(1,),
      height=40,
      width=60,
  )
  drawings.draw_scales(layered, (0.25, 1, 2), tmp_path / 'scales.png')
  with Image.open(tmp_path / 'scales.png') as image:
    assert image.size == (15 + 60 + 120 + 2 * 8, 80)
    columns = np.asarray(image).astype(int)
  # Bottoms are level; the splat is in the middle of each.
  assert (columns[:70, :15] == 255).all() and columns[79, :15].max() < 100
  assert columns[75, 7, 0] > 200 and columns[60, 53, 0] > 200


def make_rates(shift, rates=(0.1, 0.2, 0.4, 0.8)):
  """Files of several rates; each prefix is `shift` dB above the one below."""
  rows = []
  for rate in rates:
    bpp = (rate / 2, rate / 1.5, rate)
    psnr_db = tuple(30 + np.log2(x) + shift * k for k, x in enumerate(bpp))
    rows.append(
        figures_lib.Row(str(rate), 'x', (1,) * 3, (1,) * 3, bpp, psnr_db, 1.0)
    )
  return figures_lib.Figures(rows)


@pytest.mark.parametrize('shift', [0.2, -0.3])
def test_the_gap_between_levels_is_that_at_equal_rate(shift):
  figures = make_rates(shift)
  gaps = figures.gaps_db(figures.variants)
  np.testing.assert_allclose(gaps, [shift, shift], atol=1e-9)
  with pytest.raises(ValueError, match='in common'):
    make_rates(0, rates=(0.1, 0.11)).gaps_db(['0.1', '0.11'])


def make_files(source, **points):
  """Whole files of one clip: (bytes, dB) by variant."""
  return [
      figures_lib.Row(name, source, (None,), (size,), (1.0,), (psnr_db,), 1.0)
      for name, (size, psnr_db) in points.items()
  ]


def test_bytes_are_compared_at_equal_quality_clip_by_clip():
  rows = make_files('x', low=(100, 30), high=(400, 32), other=(1000, 31))
  rows += make_files('y', low=(100, 30), high=(400, 32), other=(1000, 25))
  rows += make_files('z', low=(100, 30), high=(400, 32), other=(1000, 33))
  shares = figures_lib.Figures(rows).bytes_percent(['high', 'low'], 'other')
  np.testing.assert_allclose(shares, [20, 10, np.inf])


def test_bd_rates_are_of_each_clip_and_guarded():
  curve = {f'a{k}': (2**k, 30.0 + k) for k in range(4)}
  half = {f'b{k}': (2 ** (k - 1), 30.0 + k) for k in range(4)}
  rows = make_files('x', **curve, **half)
  rows += make_files('y', **(curve | half | {'b3': (9, 20.0)}))
  rates = figures_lib.Figures(rows).bd_rates(list(half), list(curve))
  np.testing.assert_allclose(rates, [-50, np.nan])


def test_equal_psnr_is_between_the_best_i_frames():
  # 2 dB an octave; one of them is dearer and no better.
  points = [(100, 30.0), (400, 34.0), (420, 33.0)]
  for psnr_db, size in [(30.0, 100), (31.0, 100 * 2**0.5), (34.0, 400)]:
    for order in (points, points[::-1]):
      assert figures_lib.intra_bytes(order, psnr_db) == pytest.approx(size)
  points += [(200, 31.0)]
  assert figures_lib.intra_bytes(points, 31.0) == pytest.approx(200)
  assert figures_lib.intra_bytes(points, 32.5) == pytest.approx(200 * 2**0.5)


def test_nothing_is_said_beyond_the_i_frames():
  points = [(100, 30.0), (400, 34.0)]
  assert figures_lib.intra_bytes(points, 29.9) is None
  assert figures_lib.intra_bytes(points, 34.1) is None
  assert figures_lib.intra_bytes([], 30.0) is None


def test_predicted_frames_are_compared_frame_by_frame():
  rows = []
  for source, frames in (
      ('x', [(900, 31.0), (50, 30.0), (100, 31.0), (100, 32.0)]),
      ('y', [(900, 31.0), (50, 30.0), (100, 35.0), (75, 30.0)]),
  ):
    group, cheap, dear = make_files(
        source, group=(9, 9), cheap=(9, 9), dear=(9, 9)
    )
    rows.append(dataclasses.replace(group, frames=tuple(frames)))
    rows.append(dataclasses.replace(cheap, frames=((100, 30.0),)))
    rows.append(dataclasses.replace(dear, frames=((400, 32.0),)))
  shares = figures_lib.Figures(rows).frames_percent(
      'group', {0.5: ['cheap', 'dear'], 0.75: ['dear', 'cheap']}
  )
  # Frame 2 of y is better than any I-frame.
  np.testing.assert_allclose(shares, [50, 25, 75])


def test_recorded_figures_are_compared_within_the_tolerance():
  recorded = {'a': {'other': {'psnr_db': [1, 2]}}}
  figures_lib.record(make_figures(a=(30, 31), b=(30, 31)), recorded)
  assert set(recorded['a']) == {'other', 'kodim01'}
  recorded = json.loads(json.dumps(recorded))
  now = make_figures(a=(30.1, 31.3), b=(30, 31), c=(1, 2))
  differences, misses = figures_lib.compare(now, recorded, 0.15)
  np.testing.assert_allclose(differences['a'], [0.1, 0.3])
  assert set(differences) == {'a', 'b'}
  (miss,) = misses
  assert miss.startswith('a, level 1: +0.30 dB')
  (miss,) = figures_lib.compare(make_figures(b=(30,)), recorded, 9)[1]
  assert 'levels' in miss


def test_a_section_is_replaced_and_the_rest_left_alone():
  text = page.replace_section('# Results\n', 'video', 'Video', 'old\n')
  text = page.replace_section(text, 'cycle', 'Cycle', r'\1 old' + '\n')
  text = page.replace_section(text, 'video', 'Video', 'new\n')
  assert text == (
      '# Results\n\n<!-- experiment: video -->\n### Video\n\nnew\n'
      '<!-- end of video -->\n\n<!-- experiment: cycle -->\n### Cycle\n\n'
      '\\1 old\n<!-- end of cycle -->\n'
  )


def test_wrong_flags_are_one_line(tmp_path):
  refusal = lambda *flags: launch_test.refusal(
      'reproduce', f'--output={tmp_path}', *flags
  )
  assert 'no experiment' in refusal('--experiment=other')
  assert '--pictures' in refusal('--experiment=cycle')
  assert '--update' in refusal('--experiment=cycle', '--form=smoke', '--update')
  refused = refusal('--experiment=image_table_2k', '--form=fast')
  assert 'no form fast' in refused


def reproduce(name, output, *flags, status=0):
  return launch_test.run(
      'reproduce',
      f'--experiment={name}',
      '--form=smoke',
      f'--output={output}',
      *flags,
      status=status,
  )


def levels_of(text, variant):
  """PSNR in the row of a variant of a Markdown table."""
  (row,) = re.findall(rf'^\| {re.escape(variant)} \|.*$', text, re.MULTILINE)
  return [float(x) for x in row.split('|')[4].split('/')]


def test_an_experiment_is_run_once_and_compared(tmp_path):
  first = reproduce('incremental', tmp_path)
  folders = sorted((tmp_path / 'units').iterdir())
  assert len(folders) == 2
  # The figures are of the files, as anyone decodes them.
  with Image.open(tmp_path / 'samples' / 'sample.png') as image:
    original = np.asarray(image, float)
  found = []
  for folder in folders:
    decoded = pgsvc_jax.decode((folder / 'file.pgsvc').read_bytes())
    error = np.mean((decoded - original) ** 2)
    found.append(-10 * np.log10(error / 255**2))
  tops = [levels_of(first.stdout, x)[-1] for x in ('incremental', 'at once')]
  np.testing.assert_allclose(sorted(tops), sorted(found), atol=0.006)
  assert first.stdout.strip().endswith(
      '![PSNR of the prefixes](incremental.png)'
  )
  assert (tmp_path / 'incremental.md').read_text() in first.stdout
  assert (tmp_path / 'incremental.png').read_bytes().startswith(b'\x89PNG')

  # A second time nothing is encoded; and a recorded figure is missed.
  document = json.loads((tmp_path / 'incremental.json').read_text())
  row = document['rows'][0]
  recorded = {
      'incremental': {
          'smoke': {
              row['variant']: {
                  'sample': {'psnr_db': [x + 1 for x in row['psnr_db']]}
              }
          }
      }
  }
  (tmp_path / 'recorded.json').write_text(json.dumps(recorded))
  times = [x.stat().st_mtime_ns for x in (tmp_path / 'units').rglob('*')]
  second = reproduce(
      'incremental',
      tmp_path,
      f'--recorded={tmp_path / "recorded.json"}',
      status=1,
  )
  assert '2 of 2 are there already' in second.stderr
  assert times == [
      x.stat().st_mtime_ns for x in (tmp_path / 'units').rglob('*')
  ]
  last = second.stderr.splitlines()[-1]
  assert last.startswith('reproduce: incremental: incremental, level 0: -1.00')


def test_the_list_says_what_was_recorded(tmp_path):
  rows = {'kodim05': {'psnr_db': [30.0], 'seconds': 200.0}}
  recorded = {'cycle': {'laptop': {'step': rows, 'none': rows}}}
  (tmp_path / 'recorded.json').write_text(json.dumps(recorded))
  flag = f'--recorded={tmp_path / "recorded.json"}'
  result = launch_test.run('reproduce', '--list', flag)
  about = {x.partition(' ')[0]: x for x in result.stdout.split('\n\n')}
  assert set(EXPERIMENTS) <= set(about)
  assert '\n  laptop: 7 min' in about['cycle'] and '0.15 dB' in about['cycle']
  assert ' min when' not in about['overhead']


def test_the_old_commands_say_what_to_use(tmp_path):
  for verb in ('predicted', 'gsvc'):
    result = launch_test.run(verb, '--form=fast', status=1)
    first, second = result.stderr.splitlines()
    assert f'{verb}: deprecated: use reproduce --experiment=video' in first
    assert 'no form fast' in second


@pytest.mark.slow  # About four seconds a file, 30 files.
def test_the_smoke_form_of_every_experiment(tmp_path):
  done = reproduce('all', tmp_path, '--workers=2')
  for name, experiment in EXPERIMENTS.items():
    text = (tmp_path / f'{name}.md').read_text()
    assert text in done.stdout
    for variant in experiment.variants:
      assert all(5 < x < 60 for x in levels_of(text, variant.name))
    for kind, there in (
        ('bases', experiment.bases),
        ('scales', experiment.shown),
    ):
      assert (tmp_path / f'{name}_{kind}.png').exists() == bool(there)
  # Five and the original; three.
  for name, width in (('image_table', 1500), ('video', 1000)):
    with Image.open(tmp_path / f'{name}_bases.png') as image:
      assert width < image.width < 1.4 * width
