"""Layers of several sizes: grids, anti-aliasing, the fit, files, commands."""

import collections
import dataclasses
import json
import subprocess
import sys

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest
import skimage.data
import skimage.registration

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import fit
from pgsvc_jax.training import initialize
from pgsvc_jax.training import losses
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

CONFIG = config_lib.FitConfig(
    layer_splats=(60, 100, 200),
    layer_scales=(0.25, 0.5, 1),
    num_steps=120,
    num_births=12,
)


def astronaut(height=80, width=112):
  face = skimage.data.astronaut()[20 : 20 + height, 160 : 160 + width]
  return face / np.float32(255)


def random_splats(count, height, width, seed=0, smallest=0.3, largest=4.0):
  rng = np.random.default_rng(seed)
  diagonals = np.exp(rng.uniform(*np.log((smallest, largest)), (count, 2)))
  shear = rng.normal(0, 0.7, count)
  return types.Splats(
      rng.uniform(0, (width, height), (count, 2)),
      np.stack([diagonals[:, 0], shear * diagonals[:, 1], diagonals[:, 1]], 1),
      rng.normal(0, 0.5, (count, 3)),
  )


def single_precision(splats):
  return types.Splats(*(np.float32(x) for x in splats))


def composite(splats, height, width, **kwargs):
  (image,) = pallas_kernels.composite(
      *splats,
      layer_sizes=(len(splats[0]),),
      height=height,
      width=width,
      **kwargs,
  )
  return image


def covariances(splats):
  l11, l21, l22 = np.asarray(splats.cholesky, np.float64).T
  factors = np.stack([l11, 0 * l11, l21, l22], 1).reshape(-1, 2, 2)
  return factors @ factors.swapaxes(1, 2)


@pytest.fixture(scope='module')
def ladder():
  return fit.fit_picture(astronaut(), CONFIG, devices=jax.local_devices()[:1])


# ---- Grids ------------------------------------------------------------------


@pytest.mark.parametrize(
    'shape, size', [((12, 8), (3, 4)), ((7, 5), (3, 2)), ((5, 9), (1, 9))]
)
def test_downsampling_is_the_mean_over_the_area_of_a_pixel(shape, size):
  """Against pixels cut into so many parts that no edge cuts one."""
  image = np.random.default_rng(0).uniform(size=(*shape, 2)).astype(np.float32)
  parts = image.repeat(size[0], 0).repeat(size[1], 1)
  blocks = parts.reshape(size[0], shape[0], size[1], shape[1], 2)
  np.testing.assert_allclose(
      resolution.downsample(image, *size), blocks.mean((1, 3)), rtol=1e-5
  )


def test_downsampling_shifts_nothing():
  """A ramp of the coordinates stays one, at the centres of larger pixels."""
  x = np.arange(12, dtype=np.float32)[np.newaxis, :, np.newaxis] + 0.5
  for size in (6, 4, 3, 2):
    coarse = resolution.downsample(x, 1, size)[0, :, 0]
    np.testing.assert_allclose(coarse, (np.arange(size) + 0.5) * 12 / size)


def test_the_same_size_is_the_same_picture():
  image = astronaut()
  assert resolution.downsample(image, 80, 112) is image
  assert resolution.layer_shapes((1, 1.0), 80, 112) == ()
  assert resolution.layer_shapes((0.25, 1), 9, 1) == ((2, 1), (9, 1))


@pytest.mark.parametrize(
    'scales', [(0.5, 0.25, 1), (0.5, 1), (0.25, 0.5, 0.5), (0, 0.5, 1)]
)
def test_scales_that_make_no_ladder_are_refused(scales):
  with pytest.raises(ValueError, match='layer_scales'):
    config_lib.FitConfig(layer_splats=(3, 2, 1), layer_scales=scales)


def test_prefixes_of_one_size_share_a_pass():
  config = dataclasses.replace(
      CONFIG, layer_splats=(5, 6, 7, 8), layer_scales=(0.5, 0.5, 1, 1)
  )
  low, full = schedule_lib.make_schedule(config, 40, 60).grids
  assert (low.height, low.width, low.layer_sizes) == (20, 30, (5, 6))
  assert (full.height, full.width, full.layer_sizes) == (40, 60, (18, 8))
  assert (low.factors, full.factors) == ((0.5, 0.5), (1, 1))
  plain = dataclasses.replace(config, layer_scales=())
  (only,) = schedule_lib.make_schedule(plain, 40, 60).grids
  assert only.layer_sizes == (5, 6, 7, 8) and only.factors == (1, 1)


# ---- Anti-aliasing ----------------------------------------------------------


def test_splats_are_scaled_widened_and_keep_their_integral():
  splats = random_splats(50, 40, 60)
  x, y = factors = (0.3, 0.75)
  small = resolution.resize_splats(splats, factors)
  scale = np.diag(factors)
  before, after = covariances(splats), covariances(small)
  wider = np.diag([0.1 * (1 - x**2), 0.1 * (1 - y**2)])
  np.testing.assert_allclose(after, scale @ before @ scale + wider, atol=1e-12)
  np.testing.assert_allclose(small.means, splats.means * factors)
  integral = (
      lambda s: np.sqrt(np.linalg.det(covariances(s)))[:, None] * s.colors
  )
  np.testing.assert_allclose(integral(small), integral(splats) * x * y)


def test_finer_grids_are_not_widened_and_the_same_is_the_same():
  splats = random_splats(9, 40, 60)
  assert resolution.resize_splats(splats, (1.0, 1)) is splats
  large = resolution.resize_splats(splats, (2, 2.5))
  scale = np.diag([2, 2.5])
  np.testing.assert_allclose(
      covariances(large), scale @ covariances(splats) @ scale
  )
  np.testing.assert_allclose(large.colors, splats.colors)


def test_two_steps_down_are_one():
  splats = random_splats(50, 40, 60)
  twice = resolution.resize_splats(splats, (0.5, 0.75))
  twice = resolution.resize_splats(twice, (0.3, 0.5))
  once = resolution.resize_splats(splats, (0.15, 0.375))
  for a, b in zip(twice, once):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('scale', [1 / 2, 1 / 4, 1 / 8])
def test_coarse_grids_show_what_their_pixels_average(scale):
  """Splats down to 0.3 pixels: unfiltered, they would fall between centres."""
  height, width = size = 64, 96
  splats = single_precision(random_splats(500, *size))
  full = np.asarray(composite(splats, *size, implementation='reference'))
  small = int(height * scale), int(width * scale)
  expected = resolution.downsample(full, *small)
  shown = composite(resolution.resize_splats(splats, (scale, scale)), *small)
  means, cholesky, colors = splats
  factor = np.float32(scale)
  aliased = composite([means * factor, cholesky * factor, colors], *small)
  error = lambda image: np.mean((np.asarray(image) - expected) ** 2)
  # Measured: 0.5, 0.6 and 1.6 % of the variance; without, 7, 35 and 109 %.
  assert error(shown) < 0.03 * expected.var()
  assert error(shown) < 0.15 * error(aliased)


def test_gradients_agree_with_finite_differences():
  """Through the map and the operator, in float64, in random directions."""
  with jax.enable_x64(True):
    splats = random_splats(12, 16, 24, smallest=0.5)
    weights = np.random.default_rng(1).normal(size=(4, 6, 3))

    def loss(splats):
      small = resolution.resize_splats(splats, (0.25, 0.25))
      image = composite(small, 4, 6, implementation='reference')
      return jnp.vdot(weights, image)

    splats = jax.tree.map(jnp.asarray, splats)
    loss = jax.jit(loss)
    gradients = jax.jit(jax.grad(loss))(splats)
    rng = np.random.default_rng(2)
    step = 1e-6
    for name, gradient in gradients._asdict().items():
      array = getattr(splats, name)
      for _ in range(3):
        way = rng.normal(size=array.shape)
        ends = [
            loss(splats._replace(**{name: array + sign * step * way}))
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        # The cut-off jumps where a pixel crosses it: not in these pictures.
        np.testing.assert_allclose(jnp.vdot(gradient, way), slope, rtol=1e-5)


def test_numpy_numba_and_jax_decode_alike(monkeypatch):
  sizes, shapes = (40, 60, 80), ((13, 19), (25, 38), (50, 75))
  layered = types.LayeredSplats(
      splats=single_precision(random_splats(180, 50, 75)),
      layer_sizes=sizes,
      height=50,
      width=75,
      layer_shapes=shapes,
  )
  numba = render.render_levels(layered)
  assert [image.shape[:2] for image in numba] == list(shapes)
  monkeypatch.delattr(pallas_kernels, 'cpu_kernels', raising=False)
  monkeypatch.setitem(sys.modules, 'pallas_kernels.cpu_kernels', None)
  plain = render.render_levels(layered)
  for k, (height, width) in enumerate(shapes):
    prefix = render.first_layers(layered, k + 1).splats
    factors = width / 75, height / 50
    prefix = resolution.resize_splats(
        types.Splats(*map(jnp.asarray, prefix)), factors
    )
    image = composite(prefix, height, width, implementation='reference')
    expected = np.round(np.clip(image, 0, 1) * 255)
    for shown in (numba[k], plain[k]):
      assert np.abs(shown - expected).max() <= 1


def test_levels_of_one_size_are_the_prefixes(ladder):
  plain = dataclasses.replace(ladder, layer_shapes=())
  prefixes = render.render_prefixes(ladder)
  np.testing.assert_array_equal(render.render_levels(plain), prefixes)
  np.testing.assert_array_equal(render.render_levels(ladder)[2], prefixes[2])


# ---- The fit ----------------------------------------------------------------


def targets(layered):
  shapes = layered.native_shapes
  return [resolution.downsample(astronaut(), *shape) for shape in shapes]


def psnrs(layered):
  images = render.render_levels(layered)
  return [metrics.psnr_db(x, y) for x, y in zip(images, targets(layered))]


def test_every_level_fits_the_picture_of_its_size(ladder):
  assert ladder.layer_shapes == ((20, 28), (40, 56), (80, 112))
  # Measured: 29.5, 31.4 and 31.5 dB.
  assert (np.array(psnrs(ladder)) > (28.5, 30.4, 30.5)).all()
  # What is fitted is what is decoded.
  seen = []
  config = dataclasses.replace(CONFIG, num_steps=20)
  layered = fit.fit_picture(astronaut(), config, report=seen.append)
  np.testing.assert_allclose(seen[-1].psnr_db, psnrs(layered), atol=0.3)


def test_levels_are_not_shifted(ladder):
  for image, target in zip(render.render_levels(ladder), targets(ladder)):
    shift, _, _ = skimage.registration.phase_cross_correlation(
        target.mean(-1), image.mean(-1) / 255, upsample_factor=100
    )
    # Pixels; 0.05 at most was measured, at the base of 20 x 28 pixels. Half a
    # pixel is what a grid that is not centred would give.
    assert np.abs(shift).max() < 0.1, shift


@pytest.mark.parametrize('scale', [0.3, 0.5, 1.5, 2.0])
def test_any_scale_shows_the_picture_in_its_place(ladder, scale):
  """Against what is shown at scale 1, on the coarser of the two grids."""
  plain = render.render_picture(ladder)
  shown = render.render_picture(render.scaled(ladder, scale))
  assert shown.shape[:2] == (round(80 * scale), round(112 * scale))
  shape = min(plain.shape, shown.shape)[:2]
  plain, shown = (resolution.downsample(x, *shape) for x in (plain, shown))
  assert np.sqrt(np.mean((plain - shown) ** 2)) < 5
  shift, _, _ = skimage.registration.phase_cross_correlation(
      plain.mean(-1), shown.mean(-1), upsample_factor=100
  )
  assert np.abs(shift).max() < 0.02, shift


def test_devices_share_every_grid():
  """Sizes that no scale and no band divides."""
  image = astronaut(41, 57)
  config = dataclasses.replace(
      CONFIG,
      layer_splats=(20, 20, 20, 20),
      layer_scales=(0.25, 0.25, 0.6, 1),
      num_steps=20,
      num_births=4,
  )
  fits, curves = [], []
  for count in (1, 3):
    devices, curve = jax.local_devices()[:count], []
    report = lambda x, curve=curve: curve.append(x.psnr_db[0])
    fits.append(fit.fit_picture(image, config, devices=devices, report=report))
    curves.append(curve)
  # Sums in another order: float32 rounding, grown over 20 steps of Adam.
  for a, b in zip(fits[0].splats, fits[1].splats):
    np.testing.assert_allclose(a, b, atol=2e-2)
  np.testing.assert_allclose(curves[1], curves[0], atol=0.01)


def test_bands_of_coarse_grids_hold_every_row_once():
  """Also where the edges are no multiples."""
  image = astronaut(75, 40)
  rng = np.random.default_rng(0)
  coarse = [
      (resolution.downsample(image, *shape), rng.uniform(1, 2, shape))
      for shape in ((19, 10), (50, 40))
  ]
  for edges in ([0, 24, 40, 80], [0, 0, 40, 80], [0, 40, 80, 80]):
    cut = train.make_bands(image, edges, coarser=coarse)
    for i, (grid, weights) in enumerate(coarse):
      parts = [band.coarser[i] for band in cut]
      rows = [x.target[x.pixel_weights[:, 0] > 0] for x in parts]
      np.testing.assert_array_equal(np.concatenate(rows), grid)
      for band, kept in zip(parts, rows):
        assert band.bottom >= band.top + len(kept)
      total = sum(x.pixel_weights.sum() for x in parts)
      np.testing.assert_allclose(total, weights.sum(), rtol=1e-5)


def test_a_grid_is_rendered_from_its_turn_on():
  heights = []

  def error_fn(*arrays, **options):
    height = arrays[3].shape[0]
    jax.debug.callback(lambda: heights.append(height))
    return pallas_kernels.composite_error(*arrays, **options)

  config = dataclasses.replace(CONFIG, num_steps=20, chunk_steps=5)
  fit.fit_picture(
      astronaut(40, 40),
      config,
      devices=jax.local_devices()[:1],
      loss=losses.Loss(error_fn=error_fn, unit='squared error'),
  )
  jax.effects_barrier()
  counts = collections.Counter(heights).most_common()
  assert [count for _, count in counts] == [40, 30, 20]
  assert counts == sorted(counts)


def test_splats_are_born_where_their_own_size_lacks_them():
  calls = []

  def initializer(image, render, pixel_weights, means, count, rng):
    is_fine = len(image) == 40
    if render is not None:
      calls.append((is_fine, len(means), float(np.max(render))))
    splats = initialize.new_splats(
        image, render, pixel_weights, means, count, rng
    )
    return splats._replace(colors=np.full((count, 3), is_fine, np.float32))

  # All layers grow at once; black splats for 1/2, white ones for the whole.
  config = config_lib.FitConfig(
      layer_splats=(8, 60),
      layer_scales=(0.5, 1),
      incremental=False,
      num_births=12,
      num_steps=20,
      num_relocations=0,
      colors_rate=1e-6,
  )
  fit.fit_picture(
      astronaut(40, 40),
      config,
      devices=jax.local_devices()[:1],
      initializer=initializer,
  )
  coarse, fine = ([x[1:] for x in calls if x[0] == y] for y in (False, True))
  # White splats were alive when black ones were born.
  assert coarse and all(count < 8 for count, _ in coarse)
  assert all(brightest < 0.01 for _, brightest in coarse)
  assert all(brightest > 0.1 for _, brightest in fine[1:])
  births = [is_fine for is_fine, *_ in calls]
  assert births.index(True) < len(births) - 1 - births[::-1].index(False)


def test_pruned_layers_get_their_sizes():
  config = dataclasses.replace(CONFIG, strategy='prune', num_steps=10)
  layered = fit.fit_picture(astronaut(40, 40), config)
  assert layered.layer_shapes == ((10, 10), (20, 20), (40, 40))


# ---- Files and commands -----------------------------------------------------


def test_native_sizes_are_in_the_file(ladder):
  data = bitstream.write(ladder, quantize.StepSizes())
  header = bitstream.read_header(data)
  assert header.native_shapes == header.layer_shapes == ladder.layer_shapes
  assert header.file_size == len(data)
  plain = dataclasses.replace(ladder, layer_shapes=((80, 112),) * 3)
  written = bitstream.write(plain, quantize.StepSizes())
  assert bitstream.read_header(written).layer_shapes == ()
  cut = data[: header.truncation_points[1] + 3]
  for shorter in (cut, bitstream.extract(data, 2)):
    assert bitstream.read_layers(shorter).layer_shapes == ((20, 28), (40, 56))
  for shapes in (((20, 28), (40, 56)), ((20, 28), (19, 56), (80, 112))):
    wrong = dataclasses.replace(ladder, layer_shapes=shapes)
    with pytest.raises(ValueError, match='shapes for|sizes of layers'):
      bitstream.write(wrong, quantize.StepSizes())


def run(verb, **flags):
  result = subprocess.run(
      [
          sys.executable,
          '-m',
          f'launch.{verb}',
          *(f'--{name}={value}' for name, value in flags.items()),
      ],
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_commands_know_native_sizes(ladder, tmp_path):
  file, output = tmp_path / 'file.pgsvc', tmp_path / 'out.png'
  picture = tmp_path / 'picture.png'
  file.write_bytes(bitstream.write(ladder, quantize.StepSizes()))
  Image.fromarray(np.uint8(np.round(astronaut() * 255))).save(picture)

  def decoded(**flags):
    run('decode', input=file, output=output, **flags)
    with Image.open(output) as image:
      return np.asarray(image)

  levels = render.render_levels(bitstream.read_layers(file.read_bytes()))
  np.testing.assert_array_equal(decoded(layers=1), levels[0])
  np.testing.assert_array_equal(decoded(), levels[2])
  assert decoded(layers=1, scale=1.5).shape == (120, 168, 3)
  rows = json.loads(run('evaluate', input=file, reference=picture, json=True))
  for row, image, target in zip(rows['layers'], levels, targets(ladder)):
    assert (row['height'], row['width']) == image.shape[:2]
    expected = metrics.psnr_db(image, target)
    np.testing.assert_allclose(row['psnr_db'], expected, atol=0.01)
  assert 'width  height' in run('info', input=file)
