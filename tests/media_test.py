import os
import pathlib
import struct
import sys
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image
from PIL import ImageOps
import pytest
import skimage.color
import tifffile

from pgsvc_jax import media

OLD_PILLOW = int(PIL.__version__.split('.')[0]) < 13
MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
LOSSLESS = {
    '.bmp': (1, 3),
    '.dds': (1, 2, 3, 4),
    '.gif': (1,),
    '.jp2': (1, 2, 3, 4),
    '.pcx': (1, 3),
    '.png': (1, 2, 3, 4),
    '.ppm': (1, 3),
    '.qoi': (3, 4),
    '.sgi': (1, 3, 4),
    '.tga': (1, 2, 3, 4),
    '.tiff': (1, 2, 3, 4),
}
GAMMA_1 = 'colors converted from gamma 1 to sRGB'
LOSSY = {'.avif': (1, 2, 3, 4), '.jpg': (1, 3), '.webp': (1, 2, 3, 4)}


def samples(channels, height=5, width=7):
  rng = np.random.default_rng(channels)
  return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def unit(image):
  return image.astype(np.float32) / 255


def refusal(path, **options):
  with pytest.raises(media.MediaError) as caught:
    media.read_picture(path, **options)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert os.fspath(path) in message
  return message


def png(depth, color, rows, *chunks, size=(2, 1)):
  """A PNG written by hand, for what Pillow does not write."""

  def chunk(name, body):
    crc = struct.pack('>I', zlib.crc32(name + body))
    return struct.pack('>I', len(body)) + name + body + crc

  header = struct.pack('>IIBBBBB', *size, depth, color, 0, 0, 0)
  return b''.join(
      [
          b'\x89PNG\r\n\x1a\n',
          chunk(b'IHDR', header),
          *(chunk(*c) for c in chunks),
          chunk(b'IDAT', zlib.compress(rows)),
          chunk(b'IEND', b''),
      ]
  )


def tiff(data, bits, photometric=1, size=(2, 1)):
  """A little-endian TIFF of one uncompressed gray strip."""
  tags = [
      (256, size[0]),
      (257, size[1]),
      (258, bits),
      (259, 1),
      (262, photometric),
      (273, 8),
      (277, 1),
      (278, size[1]),
      (279, len(data)),
  ]
  data += b'\0' * (len(data) % 2)
  entries = b''.join(struct.pack('<HHII', tag, 4, 1, v) for tag, v in tags)
  return (
      struct.pack('<2sHI', b'II', 42, 8 + len(data))
      + data
      + struct.pack('<H', len(tags))
      + entries
      + struct.pack('<I', 0)
  )


def stress_files():
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'stress'
  files = sorted(p for p in folder.glob('*/*') if p.is_file())
  return [p.relative_to(folder).as_posix() for p in files]


# --- Reading: what the values are.


@pytest.mark.parametrize('channels', MODES)
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_8_bit_pictures_are_read_as_fractions_of_255(tmp_path, channels, size):
  expected = samples(channels, *size)
  squeezed = expected[..., 0] if channels == 1 else expected
  Image.fromarray(squeezed, MODES[channels]).save(tmp_path / 'x.png')
  picture = media.read_picture(tmp_path / 'x.png')
  np.testing.assert_array_equal(picture.pixels, unit(expected))
  assert picture.pixels.dtype == np.float32
  assert picture.notes == ()


def test_one_bit_is_gray(tmp_path):
  Image.fromarray(np.eye(4) > 0).save(tmp_path / 'x.png')
  pixels = media.read_picture(str(tmp_path / 'x.png')).pixels
  np.testing.assert_array_equal(pixels, np.eye(4)[..., None])


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.pgm', '.jp2'])
def test_16_bit_gray_is_exact(tmp_path, suffix):
  expected = np.arange(0, 65536, 17, dtype=np.uint16).reshape(16, -1)
  Image.fromarray(expected).save(tmp_path / f'x{suffix}')
  pixels = media.read_picture(tmp_path / f'x{suffix}').pixels
  np.testing.assert_allclose(pixels[..., 0], expected / 65535, rtol=1e-7)


def test_big_endian_tiff_is_exact(tmp_path):
  expected = np.array([[0, 1, 258, 65535]], np.uint16)
  Image.frombytes('I;16B', (4, 1), expected.astype('>u2').tobytes()).save(
      tmp_path / 'x.tif'
  )
  pixels = media.read_picture(tmp_path / 'x.tif').pixels
  np.testing.assert_allclose(pixels[..., 0], expected / 65535, rtol=1e-7)


def test_12_bit_tiff_has_full_scale_4095(tmp_path):
  (tmp_path / 'x.tif').write_bytes(tiff(b'\xff\xf1\x23', bits=12))
  pixels = media.read_picture(tmp_path / 'x.tif').pixels
  np.testing.assert_allclose(pixels[0, :, 0], [1, 0x123 / 4095], rtol=1e-7)


@pytest.mark.parametrize('bits', [8, 16])
def test_white_is_zero_tiff_is_inverted(tmp_path, bits):
  data = np.array([0, 51]).astype(f'u{bits // 8}') * (257 if bits == 16 else 1)
  path = tmp_path / 'x.tif'
  path.write_bytes(tiff(data.tobytes(), bits, photometric=0))
  pixels = media.read_picture(path).pixels
  np.testing.assert_allclose(pixels[0, :, 0], [1, 0.8], rtol=1e-6)


def test_integer_gray_is_read_on_the_16_bit_scale_or_refused(tmp_path):
  path = tmp_path / 'x.tif'
  Image.fromarray(np.array([[0, 65535]], np.int32)).save(path)
  picture = media.read_picture(path)
  np.testing.assert_array_equal(picture.pixels[0, :, 0], [0, 1])
  assert picture.notes == ('integer gray read on the 16-bit scale',)
  for value in (-1, 65536):
    Image.fromarray(np.array([[0, value]], np.int32)).save(path)
    assert str(value) in refusal(path)


def test_float_gray_is_read_within_0_to_1_or_refused(tmp_path):
  path = tmp_path / 'x.tif'
  expected = np.array([[0, 0.123, 1]], np.float32)
  Image.fromarray(expected).save(path)
  pixels = media.read_picture(path).pixels
  np.testing.assert_array_equal(pixels[..., 0], expected)
  for value in (-0.1, 1.5, np.nan, np.inf):
    Image.fromarray(np.array([[0, value]], np.float32)).save(path)
    refusal(path)


def test_16_bit_color_is_exact(tmp_path):
  path = tmp_path / 'x.png'
  path.write_bytes(png(16, 2, b'\0' + bytes(range(12))))
  picture = media.read_picture(path)
  expected = np.array([0x0001, 0x0203, 0x0405, 0x0607, 0x0809, 0x0A0B]) / 65535
  np.testing.assert_allclose(picture.pixels.ravel(), expected, rtol=1e-6)
  assert picture.notes == ()
  path = tmp_path / 'x.ppm'
  path.write_bytes(b'P6 1 1 65535\n\xff\xff\x80\x80\0\0')
  picture = media.read_picture(path)
  np.testing.assert_allclose(picture.pixels.ravel(), [1, 0x8080 / 65535, 0])
  assert picture.notes == ()


def test_16_bit_color_says_it_is_read_at_8_bits_without_pyav(
    tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'av', None)
  path = tmp_path / 'x.png'
  path.write_bytes(png(16, 2, b'\0' + bytes(range(12))))
  picture = media.read_picture(path)
  expected = np.array([0, 2, 4, 6, 8, 10]) / 255
  np.testing.assert_allclose(picture.pixels.ravel(), expected, rtol=1e-6)
  assert picture.notes == ('16-bit RGB read at 8 bits',)


def test_16_bit_gray_with_alpha_stays_two_channels(tmp_path):
  path = tmp_path / 'x.png'
  path.write_bytes(png(16, 4, b'\0\x10\xff\x20\xff\x30\xff\x40\xff'))
  picture = media.read_picture(path)
  expected = np.array([[[0x10FF, 0x20FF], [0x30FF, 0x40FF]]]) / 65535
  np.testing.assert_allclose(picture.pixels, expected, rtol=1e-6)
  assert picture.notes == ()


@pytest.mark.parametrize(
    ('depth', 'color', 'rows', 'key', 'expected'),
    [
        (1, 0, b'\0\x40', b'\0\1', [[0, 1], [1, 0]]),
        (2, 0, b'\0\x60', b'\0\1', [[1 / 3, 0], [2 / 3, 1]]),
        (4, 0, b'\0\x3f', b'\0\3', [[0.2, 0], [1, 1]]),
        (8, 0, b'\0\x33\xff', b'\0\x33', [[0.2, 0], [1, 1]]),
        (
            16,
            0,
            b'\0\x33\x33\x33\x34',
            b'\x33\x33',
            [[0.2, 0], [13108 / 65535, 1]],
        ),
        (
            8,
            2,
            b'\0\x33\0\0\0\0\0',
            b'\0\x33\0\0\0\0',
            [[0.2, 0, 0, 0], [0] * 3 + [1]],
        ),
        (
            16,
            2,
            b'\0' + b'\x33\x99' * 3 + b'\xff' * 6,
            b'\x33\x99' * 3,
            [[0x3399 / 65535] * 3 + [0], [1, 1, 1, 1]],
        ),
    ],
)
def test_png_transparent_color_becomes_alpha(
    tmp_path, depth, color, rows, key, expected
):
  path = tmp_path / 'x.png'
  path.write_bytes(png(depth, color, rows, (b'tRNS', key)))
  pixels = media.read_picture(path).pixels
  np.testing.assert_allclose(pixels[0], expected, rtol=1e-6)


def test_palette_is_resolved_with_its_transparency(tmp_path):
  image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), 'P')
  colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 51]], np.uint8)
  image.putpalette(colors.tobytes())
  image.save(tmp_path / 'x.png')
  picture = media.read_picture(tmp_path / 'x.png')
  expected = unit(colors[[[0, 1], [2, 1]]])
  np.testing.assert_array_equal(picture.pixels, expected)
  assert picture.notes == ('palette converted to RGB',)
  image.save(tmp_path / 'x.png', transparency=b'\x00\x33\xff')
  picture = media.read_picture(tmp_path / 'x.png')
  np.testing.assert_array_equal(picture.pixels[..., :3], expected)
  alpha = np.array([[0, 51], [255, 51]], np.uint8)
  np.testing.assert_array_equal(picture.pixels[..., 3], unit(alpha))
  assert picture.notes == ('palette converted to RGBA',)


# Tiny files that Pillow 12 writes and cannot read.
needs_13 = pytest.mark.skipif(OLD_PILLOW, reason='Pillow 12 cannot read it')


@pytest.mark.parametrize(
    'mode', ['CMYK', pytest.param('YCbCr', marks=needs_13), 'LAB']
)
def test_other_color_spaces_become_rgb(tmp_path, mode):
  color = {'CMYK': (0, 255, 255, 0), 'YCbCr': (76, 85, 255)}
  lab = (136, 81 + 128, 70 + 128)  # skimage.color.rgb2lab of pure red
  image = Image.new(mode, (3, 2), color.get(mode, lab))
  image.save(tmp_path / 'x.tif')
  picture = media.read_picture(tmp_path / 'x.tif')
  np.testing.assert_allclose(picture.pixels[0, 0], [1, 0, 0], atol=0.03)
  name = {'LAB': 'Lab'}.get(mode, mode)
  assert picture.notes == (f'{name} converted to RGB',)


# What a viewer shows, as NumPy turns it (the definition in the EXIF standard).
UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_orientation_is_applied(tmp_path, orientation, suffix, dtype):
  stored = np.arange(6).reshape(2, 3).astype(dtype)
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f'x{suffix}'
  Image.fromarray(stored).save(path, exif=exif)
  picture = media.read_picture(path)
  expected = UPRIGHT[orientation](stored) / np.iinfo(dtype).max
  np.testing.assert_allclose(picture.pixels[..., 0], expected, rtol=1e-6)
  assert picture.notes == (f'EXIF orientation {orientation} applied',)


@pytest.mark.parametrize('exif', [b'garbage', b'Exif\0\0II*\0\xff\xff\xff\x7f'])
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_damaged_exif_does_not_refuse_a_picture(tmp_path, exif, suffix):
  path = tmp_path / f'x{suffix}'
  Image.new('RGB', (4, 3)).save(path, exif=exif)
  assert media.read_picture(path).pixels.shape == (3, 4, 3)


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp', '.tif'])
def test_first_frame_of_an_animation(tmp_path, suffix):
  frames = [Image.new('RGB', (4, 3), (c, c, c)) for c in (0, 120, 240)]
  path = tmp_path / f'x{suffix}'
  frames[0].save(path, save_all=True, append_images=frames[1:])
  picture = media.read_picture(path)
  assert picture.pixels.shape[:2] == (3, 4)
  assert np.all(picture.pixels == 0)
  assert 'first of 3 frames' in picture.notes


# --- Reading: what is refused.


def test_what_is_no_picture_is_refused(tmp_path):
  (tmp_path / 'empty.png').write_bytes(b'')
  (tmp_path / 'text.png').write_text('hello\nworld')
  assert 'No such file' in refusal(tmp_path / 'missing.png')
  assert 'directory' in refusal(tmp_path)
  assert 'not a picture' in refusal(tmp_path / 'empty.png')
  assert 'not a picture' in refusal(tmp_path / 'text.png')
  refusal('null\0byte.png')
  refusal('')


@pytest.mark.parametrize(
    'suffix',
    [
        '.png',
        '.jpg',
        '.gif',
        '.bmp',
        '.tif',
        '.webp',
        '.jp2',
        '.ppm',
        '.tga',
        '.avif',
    ],
)
def test_truncated_file_is_refused(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  Image.fromarray(samples(3, 60, 50)).save(path)
  whole = path.read_bytes()
  for share in (0.1, 0.5, 0.9):
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(path)


def test_random_damage_is_refused_or_read_whole(tmp_path):
  rng = np.random.default_rng(0)
  for suffix in ('.png', '.jpg', '.gif', '.bmp', '.tif', '.webp', '.tga'):
    path = tmp_path / f'x{suffix}'
    Image.fromarray(samples(3, 20, 30)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
      damaged = whole.copy()
      damaged[rng.integers(0, min(200, whole.size), 4)] = rng.integers(
          0, 256, 4
      )
      path.write_bytes(damaged.tobytes())
      try:
        pixels = media.read_picture(path, max_pixels=10**6).pixels
      except media.MediaError as error:
        assert len(str(error).splitlines()) == 1
      else:
        assert pixels.dtype == np.float32 and pixels.ndim == 3
        assert np.all((0 <= pixels) & (pixels <= 1))


def test_size_is_checked_before_decoding(tmp_path):
  path = tmp_path / 'x.png'
  path.write_bytes(png(8, 2, b'', size=(100, 101)))
  assert '100 x 101' in refusal(path, max_pixels=10_000)
  path.write_bytes(png(8, 2, b'', size=(15_000, 15_000)))
  refusal(path)
  path.write_bytes(png(8, 2, b'', size=(10**6, 10**6)))
  assert '1000000000000 pixels' in refusal(path)
  Image.new('L', (100, 100)).save(path)
  assert media.read_picture(path, max_pixels=10_000).pixels.size == 10_000


def test_postscript_is_never_run(tmp_path):
  Image.new('L', (4, 4)).save(tmp_path / 'x.eps')
  assert 'EPS' in refusal(tmp_path / 'x.eps')


# --- Floats to pixels, and writing.


def test_to_uint8_inverts_reading_and_rounds_to_nearest():
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(media.to_uint8(unit(levels)), levels)
  shifted = unit(levels) + np.array([[-0.49], [0.49]], np.float32) / 255
  np.testing.assert_array_equal(media.to_uint8(shifted), [levels, levels])
  assert media.to_uint8(np.array([-9.0, 9.0])).tolist() == [0, 255]


@pytest.mark.parametrize('suffix', LOSSLESS)
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (300, 310)])
def test_lossless_formats_give_back_what_was_written(tmp_path, suffix, size):
  if OLD_PILLOW and (suffix, size) == ('.pcx', (1, 1)):
    pytest.skip('Pillow 12 cannot read it')
  path = tmp_path / f'x{suffix}'
  for channels in LOSSLESS[suffix]:
    expected = samples(channels, *size)
    media.write_picture(path, expected)
    pixels = media.to_uint8(media.read_picture(path).pixels)
    # A GIF of few grays comes back as a palette, so as RGB.
    expected = np.broadcast_to(expected, pixels.shape)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('suffix', LOSSY)
def test_lossy_formats_are_written_well(tmp_path, suffix):
  path = tmp_path / f'x{suffix.upper()}'
  ramp = np.linspace(0, 255, 40).astype(np.uint8)
  for channels in LOSSY[suffix]:
    image = np.zeros((40, 40, channels), np.uint8)
    image[...] = ramp[:, None]
    if channels in (2, 4):
      image[..., -1] = ramp
    media.write_picture(path, image)
    pixels = media.read_picture(path).pixels
    # Gray may come back as RGB; alpha is there if and only if it was.
    assert (pixels.shape[2] in (2, 4)) == (channels in (2, 4))
    for c in (0, -1):
      assert np.abs(pixels[..., c] - unit(image[..., c])).mean() < 0.01


@pytest.mark.parametrize('suffix', [*LOSSLESS, *LOSSY])
def test_what_a_format_cannot_hold_is_refused(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  held = (LOSSLESS | LOSSY)[suffix]
  for channels in set(MODES) - set(held):
    with pytest.raises(media.MediaError, match=f'hold {MODES[channels]}(;|$)'):
      media.write_picture(path, samples(channels))
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    'name',
    [
        'x',
        'x.xyz',
        'x.ico',
        'x.pdf',
        'missing/x.png',
        'file/x.png',
        'folder.png',
    ],
)
def test_unwritable_path_is_refused_and_leaves_nothing(tmp_path, name):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'folder.png').mkdir()
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(media.MediaError) as caught:
    media.write_picture(tmp_path / name, samples(3))
  assert len(str(caught.value).splitlines()) == 1
  assert str(tmp_path / name) in str(caught.value)
  assert sorted(tmp_path.rglob('*')) == before


def test_failed_write_keeps_the_old_file(tmp_path):
  path = tmp_path / 'x.webp'
  media.write_picture(path, samples(3))
  before = path.read_bytes()
  with pytest.raises(media.MediaError, match='16383'):
    media.write_picture(path, samples(3, 1, 16384))
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_written_file_has_the_usual_permissions(tmp_path):
  (tmp_path / 'usual').write_text('')
  media.write_picture(tmp_path / 'x.png', samples(1))
  modes = {path.stat().st_mode for path in tmp_path.iterdir()}
  assert len(modes) == 1


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((2, 2, 3)),
    ],
)
def test_only_pictures_of_integers_are_written(tmp_path, image):
  with pytest.raises(media.MediaError, match='uint8'):
    media.write_picture(tmp_path / 'x.png', image)


# --- Real files.

# Damaged beyond what may be called the picture. (That the rest can be read is
# Pillow's word: it checks no checksum of the samples, as in xcsn0g01.png.)
REFUSED = {
    'images/bmp_badwidth.bmp',
    'images/broken.png',
    'images/broken_data_stream.png',
    'images/crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif',
    'images/gen_empty.png',
    'images/gen_header_claims_1000000x1000000.png',
    'images/gen_kodim01_cut_half.png',
    'images/imagepng_cicp_pq.png',
    'images/imagepng_issue430.png',
    'images/imagepng_x_consecutive_idat.png',
    'images/imagepng_x_ihdr_missing.png',
    'images/imagepng_x_issue214.png',
    'images/imagepng_x_issue230.1.png',
    'images/imagepng_x_unexpected_eof.png',
    'images/seek_too_large.tif',
    'images/truncated_image.png',
    'pngsuite/PngSuite.LICENSE',
    'pngsuite/xc1n0g08.png',
    'pngsuite/xcrn0g04.png',
    'pngsuite/xd3n2c08.png',
    'pngsuite/xd9n2c08.png',
    'pngsuite/xhdn0g08.png',
    'pngsuite/xlfn0g04.png',
    'pngsuite/xs2n0g01.png',
    'pngsuite/xs4n0g01.png',
}


@pytest.mark.parametrize('name', stress_files())
def test_stress_file_is_read_whole_or_refused_in_one_line(data_dir, name):
  path = data_dir / 'stress' / name
  if name.startswith('video/') or name in REFUSED:
    refusal(path)
    return
  picture = media.read_picture(path)
  with warnings.catch_warnings(), Image.open(path) as image:
    warnings.simplefilter('ignore')
    size = ImageOps.exif_transpose(image).size
  assert picture.pixels.shape[:2] == size[::-1]
  assert picture.pixels.shape[2] in MODES
  assert picture.pixels.dtype == np.float32
  assert np.all((0 <= picture.pixels) & (picture.pixels <= 1))


@pytest.mark.parametrize(
    ('name', 'shape', 'notes'),
    [
        ('pngsuite/basn0g01.png', (32, 32, 1), (GAMMA_1,)),
        ('pngsuite/basn0g08.png', (32, 32, 1), (GAMMA_1,)),
        ('pngsuite/basn4a16.png', (32, 32, 2), (GAMMA_1,)),
        ('pngsuite/basn6a16.png', (32, 32, 4), (GAMMA_1,)),
        (
            'pngsuite/basn3p04.png',
            (32, 32, 3),
            ('palette converted to RGB', GAMMA_1),
        ),
        (
            'pngsuite/tbbn3p08.png',
            (32, 32, 4),
            ('palette converted to RGBA', GAMMA_1),
        ),
        ('pngsuite/tbrn2c08.png', (32, 32, 4), (GAMMA_1,)),
        ('pngsuite/cdhn2c08.png', (8, 32, 3), (GAMMA_1,)),
        ('images/12in16bit.tif', (100, 100, 1), ()),
        (
            'images/pil_sample_cmyk.jpg',
            (100, 100, 3),
            ('CMYK converted to RGB',),
        ),
        ('images/hopper.Lab.tif', (128, 128, 3), ('Lab converted to RGB',)),
        ('images/apng_delay.png', (64, 128, 4), ('first of 5 frames',)),
        ('images/gen_wide_16384x1.png', (1, 16384, 3), ()),
        ('images/gen_2x3_rgba.png', (3, 2, 4), ()),
    ],
)
def test_named_stress_file(data_dir, name, shape, notes):
  picture = media.read_picture(data_dir / 'stress' / name)
  assert picture.pixels.shape == shape
  assert picture.notes == notes


def test_16_bit_gray_of_pngsuite_is_not_cut_to_8_bits(data_dir):
  folder = data_dir / 'stress'
  pixels = media.read_picture(folder / 'pngsuite' / 'oi1n0g16.png').pixels
  assert len(np.unique(pixels)) > 256
  path = folder / 'images' / '16bit.cropped.tif'
  expected = tifffile.imread(path)[..., None] / 65535
  pixels = media.read_picture(path).pixels
  np.testing.assert_allclose(pixels, expected, rtol=1e-6)


def test_real_orientations_show_the_same_upright_picture(data_dir):
  folder = data_dir / 'stress' / 'images'
  upright = media.read_picture(folder / 'hopper.bmp').pixels
  for name in ('hopper_orientation_5.webp', 'hopper_orientation_6.jpg'):
    turned = media.read_picture(folder / name)
    assert np.abs(turned.pixels - upright).mean() < 0.05
    assert turned.notes == (f'EXIF orientation {name[19]} applied',)


def test_real_lab_equals_skimage(data_dir):
  path = data_dir / 'stress' / 'images' / 'hopper.Lab.tif'
  lab = tifffile.imread(path)
  lab = np.concatenate(
      [lab[..., :1] / 2.55, lab[..., 1:].view(np.int8)], axis=-1
  )
  # Lab is relative to its white: that of skimage (D65) stands for D50 here.
  expected = skimage.color.lab2rgb(lab)
  pixels = media.read_picture(path).pixels
  assert np.abs(pixels - expected).mean() < 0.02


def test_transparent_palette_of_pngsuite(data_dir):
  pixels = media.read_picture(
      data_dir / 'stress' / 'pngsuite' / 'tp1n3p08.png'
  ).pixels
  assert set(np.unique(pixels[..., 3])) == {0, 1}
  assert pixels[0, 0, 3] == 0 and pixels[16, 16, 3] == 1
