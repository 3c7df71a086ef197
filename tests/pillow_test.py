"""Pillow and notebooks show what `decode` gives."""

import io
import pathlib

import numpy as np
from PIL import Image
import pytest

import pgsvc_jax
from pgsvc_jax import display
from pgsvc_jax import render
import pgsvc_jax.pillow as plugin
from tests import independent_decoder_test

GOLDEN = pathlib.Path(__file__).parent / 'golden'
PATHS = [GOLDEN / f'v{v}_three_layers.pgsvc' for v in (1, 2, 4)]


def pixels(image):
  array = np.asarray(image)
  return array.reshape(*array.shape[:2], -1)


@pytest.mark.parametrize('path', PATHS)
def test_pillow_opens_every_layer_of_every_version(path):
  data = path.read_bytes()
  with Image.open(path) as image:
    assert image.format == plugin.PgsvcImageFile.format
    assert image.layers == image.info['layers'] == 3
    for layers in (3, 1, 2, 3):
      image.layers = layers
      expected = pgsvc_jax.decode(data, layers)
      assert image.size == expected.shape[1::-1]
      np.testing.assert_array_equal(pixels(image), expected)
    with pytest.raises(ValueError, match='4 layers asked for, of 3'):
      image.layers = 4


@pytest.mark.parametrize(
    'channels, mode', [(1, 'L'), (2, 'LA'), (3, 'RGB'), (4, 'RGBA')]
)
def test_pillow_has_the_mode_of_the_channels(channels, mode):
  layered = independent_decoder_test.make_picture((9, 4), channels)
  data = pgsvc_jax.write(layered, pgsvc_jax.StepSizes())
  image = Image.open(io.BytesIO(data))
  assert image.mode == mode
  np.testing.assert_array_equal(pixels(image), pgsvc_jax.decode(data))
  assert image.convert('RGB').resize((8, 8)).size == (8, 8)


def test_pillow_opens_any_cut():
  data = PATHS[1].read_bytes()
  ends = pgsvc_jax.read_header(data).truncation_points
  for size in range(0, len(data), 7):
    cut = io.BytesIO(data[:size])
    whole = sum(end <= size for end in ends)
    if whole:
      assert Image.open(cut).layers == whole
    else:
      with pytest.raises(OSError, match='identify|damaged|base layer'):
        Image.open(cut)


def test_pillow_says_what_is_damaged():
  data = bytearray(PATHS[1].read_bytes())
  data[-3] ^= 1
  image = Image.open(io.BytesIO(data))
  with pytest.raises(OSError, match='damaged.*layer 2'):
    image.load()
  image.layers = 2
  image.load()
  data[30] ^= 1
  with pytest.raises(OSError, match='damaged'):
    Image.open(io.BytesIO(data))


def test_pillow_leaves_videos_to_others():
  with pytest.raises(Image.UnidentifiedImageError):
    Image.open(GOLDEN / 'v3_video.pgsvc')


def test_notebooks_show_pictures():
  data = PATHS[2].read_bytes()
  layered = pgsvc_jax.read_layers(data)
  with Image.open(io.BytesIO(layered._repr_png_())) as image:
    np.testing.assert_array_equal(pixels(image), pgsvc_jax.decode(data))
  text = layered._repr_html_()
  assert text == display.html(layered)
  assert text.count('<img ') == 3
  assert '24 splats, 15 × 10' in text
  assert '38 splats, 60 × 40' in text


def test_a_part_is_that_part_of_the_whole():
  data = PATHS[1].read_bytes()
  layered = pgsvc_jax.read_layers(data)
  for scale in (1, 2.5, 0.5):
    shown = render.scaled(layered, scale)
    whole = render.render_picture(shown).astype(int)
    height, width = whole.shape[:2]
    for region in (
        (0, 0, width, height),
        (width - 1, height - 1, 1, 1),
        (width // 3, height // 4, width // 2, height // 3),
    ):
      part = render.cropped(shown, region)
      x, y, w, h = region
      expected = whole[y : y + h, x : x + w]
      difference = render.render_picture(part) - expected
      assert np.abs(difference).max() <= 1
      assert (difference == 0).mean() > 0.99
  small = render.cropped(render.scaled(layered, 8), (0, 0, 4, 4))
  assert sum(small.layer_sizes) < sum(layered.layer_sizes)


@pytest.mark.parametrize(
    'region', [(-1, 0, 2, 2), (0, 0, 0, 2), (0, 0, 61, 2), (0, 39, 2, 2)]
)
def test_a_part_must_be_inside(region):
  layered = pgsvc_jax.read_layers(PATHS[2].read_bytes())
  with pytest.raises(ValueError, match='is not inside of 60 x 40 pixels'):
    render.cropped(layered, region)
