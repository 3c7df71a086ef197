"""Colors of pictures: profiles, tags, depth, EXIF, and what is on files."""

import io
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
from PIL import ExifTags
from PIL import Image
from PIL import ImageCms
import pytest
import tifffile

from pgsvc_jax import hdr
from pgsvc_jax import media
from pgsvc_jax import profiles
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize

ROOT = pathlib.Path(__file__).parents[1]
P3 = profiles.make_profile(profiles.PRIMARIES[12], profiles.CURVES[13], 'P3')
LINEAR = profiles.make_profile(profiles.PRIMARIES[1], (1.0,), 'linear')
GRAY = profiles.make_profile(profiles.PRIMARIES[1], (1.8,), 'gray', True)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
SAMPLES = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)


def chunk(name, body):
  checksum = struct.pack('>I', zlib.crc32(name + body))
  return struct.pack('>I', len(body)) + name + body + checksum


def with_chunk(path, name, body):
  """Puts a chunk after the header of a PNG."""
  data = path.read_bytes()
  path.write_bytes(data[:33] + chunk(name, body) + data[33:])


def littlecms(image, profile, mode='RGB'):
  """What littlecms makes of it, in [0, 1]."""
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  target = ImageCms.createProfile('sRGB')
  result = ImageCms.profileToProfile(image, source, target, outputMode='RGB')
  return np.asarray(result) / 255


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif', '.avif'])
@pytest.mark.parametrize('profile', [P3, LINEAR])
def test_a_profile_is_converted_to_srgb(tmp_path, suffix, profile):
  path = tmp_path / f'x{suffix}'
  image = Image.new('RGB', (16, 16), (200, 80, 60))
  lossless = {'.webp': {'lossless': True}, '.jpg': {'quality': 100}}
  image.save(path, icc_profile=profile, **lossless.get(suffix, {}))
  picture = media.read_picture(path)
  name = profiles.name_of(profile)
  assert picture.notes == (f'colors converted from {name} to sRGB',)
  expected = {P3: (216, 69, 50), LINEAR: (229, 152, 133)}[profile]
  shown = picture.pixels[8, 8] * 255
  np.testing.assert_allclose(
      shown, expected, atol=1 if suffix != '.avif' else 4
  )


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'L', 'LA'])
def test_every_mode_is_converted(tmp_path, mode):
  path = tmp_path / 'x.png'
  gray = mode[0] == 'L'
  bands = {'L': SAMPLES[..., 0], 'LA': SAMPLES[..., :2], 'RGBA': SAMPLES}
  source = bands.get(mode, SAMPLES[..., :3])
  image = Image.fromarray(source)
  if mode == 'P':
    image = image.quantize(16)
  profile = GRAY if gray else P3
  image.save(path, icc_profile=profile)
  pixels = media.read_picture(path).pixels
  plain = image.convert('L' if gray else 'RGB')
  expected = littlecms(plain, profile)
  expected = expected[..., 1:2] if gray else expected
  np.testing.assert_allclose(
      pixels[..., : expected.shape[2]], expected, atol=0.005
  )
  if mode.endswith('A'):
    np.testing.assert_array_equal(
        pixels[..., -1], np.float32(source[..., -1] / 255)
    )


def test_gray_with_a_profile_for_rgb_stays_gray(tmp_path):
  path = tmp_path / 'x.png'
  Image.fromarray(SAMPLES[..., 0]).save(path, icc_profile=LINEAR)
  pixels = media.read_picture(path).pixels
  light = SAMPLES[..., :1] / 255
  np.testing.assert_allclose(pixels, profiles.encode_srgb(light), atol=0.005)


@pytest.mark.parametrize('suffix', ['.jpg', '.tif'])
def test_cmyk_is_converted_by_its_profile(tmp_path, suffix):
  """A table for printing, made here: inks multiply, and darken a little."""
  path = tmp_path / f'x{suffix}'
  profile = cmyk_profile()
  image = Image.new('CMYK', (16, 16), (40, 120, 200, 20))
  image.save(path, icc_profile=profile)
  picture = media.read_picture(path)
  assert picture.notes == ('colors converted from its profile to sRGB',)
  with Image.open(path) as stored:
    expected = littlecms(stored, profile)
  np.testing.assert_allclose(picture.pixels, expected, atol=0.005)
  plain = tmp_path / f'y{suffix}'
  image.save(plain)
  assert media.read_picture(plain).notes == ('CMYK converted to RGB',)
  assert np.abs(media.read_picture(plain).pixels - picture.pixels).max() > 0.02


def cmyk_profile():
  """A profile with a table of 2x2x2x2 colors in Lab."""
  grid = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing='ij'), axis=-1)
  rgb = 0.9 * (1 - grid[..., :3] * 0.85) * (1 - 0.9 * grid[..., 3:])
  light = rgb.mean(-1) * 100
  a, b = 60 * (rgb[..., 0] - rgb[..., 1]), 60 * (rgb[..., 1] - rgb[..., 2])
  lab = np.stack([light * 2.55, a + 128, b + 128], axis=-1)
  table = np.rint(lab.clip(0, 255)).astype(np.uint8).tobytes()
  ramp = bytes(range(256))
  identity = struct.pack('>9i', *(65536 * np.eye(3, dtype=int).ravel()))
  lut = b'mft1' + bytes(4) + bytes([4, 3, 2, 0]) + identity
  lut += ramp * 4 + table + ramp * 3
  white = b'XYZ ' + bytes(4) + struct.pack('>3i', 63190, 65536, 54061)
  parts = {b'A2B0': lut, b'wtpt': white}
  offset, entries, body = 128 + 4 + 12 * len(parts), b'', b''
  for tag, part in parts.items():
    entries += tag + struct.pack('>II', offset + len(body), len(part))
    body += part + bytes(-len(part) % 4)
  head = bytearray(P3[:128])
  head[8:12] = struct.pack('>I', 0x02400000)
  head[12:24] = b'prtrCMYKLab '
  struct.pack_into('>I', head, 0, offset + len(body))
  return bytes(head) + struct.pack('>I', len(parts)) + entries + body


def test_srgb_is_left_alone(tmp_path):
  path = tmp_path / 'x.png'
  Image.fromarray(SAMPLES).save(path, icc_profile=SRGB)
  picture = media.read_picture(path)
  np.testing.assert_array_equal(picture.pixels, np.float32(SAMPLES / 255))
  assert picture.notes == ()


@pytest.mark.parametrize('profile', [b'nonsense', P3[:200], GRAY])
def test_a_profile_that_cannot_be_applied_is_one_note(tmp_path, profile):
  path = tmp_path / 'x.png'
  Image.fromarray(SAMPLES[..., :3]).save(path, icc_profile=profile)
  picture = media.read_picture(path)
  np.testing.assert_array_equal(
      picture.pixels, np.float32(SAMPLES[..., :3] / 255)
  )
  (note,) = picture.notes
  assert note.startswith('color profile left out: ')


# Tags of PNG.


@pytest.mark.parametrize(
    ('primaries', 'transfer', 'expected'),
    [
        (12, 13, (216, 69, 50)),
        (1, 8, (229, 152, 133)),
        (1, 13, (200, 80, 60)),
        (9, 13, None),
        (6, 4, None),
        (1, 1, None),
    ],
)
def test_cicp_is_converted(tmp_path, primaries, transfer, expected):
  path = tmp_path / 'x.png'
  image = Image.new('RGB', (4, 4), (200, 80, 60))
  image.save(path, icc_profile=LINEAR)  # Which counts for less.
  with_chunk(path, b'cICP', bytes([primaries, transfer, 0, 1]))
  pixels = media.read_picture(path).pixels[0, 0] * 255
  if expected is None:
    points, curve = profiles.PRIMARIES[primaries], profiles.CURVES[transfer]
    profile = profiles.make_profile(points, curve, 'x')
    expected = littlecms(image, profile)[0, 0] * 255
    assert np.abs(expected - (200, 80, 60)).max() > 1.5
  np.testing.assert_allclose(pixels, expected, atol=1)


def test_gamma_and_primaries_of_png_are_converted(tmp_path):
  path = tmp_path / 'x.png'
  Image.new('RGB', (4, 4), (200, 80, 60)).save(path)
  with_chunk(path, b'gAMA', struct.pack('>I', 100000))
  pixels = media.read_picture(path).pixels[0, 0] * 255
  np.testing.assert_allclose(pixels, (229, 152, 133), atol=1)
  red, green, blue, white = profiles.PRIMARIES[12]
  points = [round(100000 * x) for x in (*white, *red, *green, *blue)]
  with_chunk(path, b'cHRM', struct.pack('>8I', *points))
  pixels = media.read_picture(path).pixels[0, 0] * 255
  profile = profiles.make_profile(profiles.PRIMARIES[12], (1.0,), 'x')
  image = Image.new('RGB', (1, 1), (200, 80, 60))
  np.testing.assert_allclose(
      pixels, littlecms(image, profile)[0, 0] * 255, atol=1
  )


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 2])
def test_gray_with_a_gamma_is_converted_or_kept(tmp_path, dtype, channels):
  path = tmp_path / 'x.png'
  white = np.iinfo(dtype).max
  image = SAMPLES[..., :channels].astype(dtype) * (white // 255)
  media.write_picture(path, image)
  with_chunk(path, b'gAMA', struct.pack('>I', 100000))
  light = SAMPLES[..., :channels] / 255
  kept = media.read_picture(path, color='keep')
  np.testing.assert_allclose(kept.pixels, light, atol=1e-6)
  assert kept.profile
  pixels = media.read_picture(path).pixels
  expected = profiles.encode_srgb(light[..., 0])
  np.testing.assert_allclose(pixels[..., 0], expected, atol=0.003)
  np.testing.assert_allclose(pixels[..., 1:], light[..., 1:], atol=1e-6)


def test_the_usual_gamma_stands_for_srgb(tmp_path):
  path = tmp_path / 'x.png'
  Image.fromarray(SAMPLES).save(path)
  with_chunk(path, b'gAMA', struct.pack('>I', 45455))
  picture = media.read_picture(path)
  np.testing.assert_array_equal(picture.pixels, np.float32(SAMPLES / 255))
  assert picture.notes == ()


@pytest.mark.parametrize(('transfer', 'kind'), [(16, 'PQ'), (18, 'HLG')])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_hdr_is_tone_mapped(tmp_path, transfer, kind, dtype):
  path = tmp_path / 'x.png'
  image = SAMPLES[..., :3].astype(dtype) * (np.iinfo(dtype).max // 255)
  media.write_picture(path, image)
  with_chunk(path, b'cICP', bytes([9, transfer, 0, 1]))
  picture = media.read_picture(path)
  assert picture.notes == (f'{kind} tone-mapped to sRGB',)
  light = hdr.to_linear_sdr(SAMPLES[..., :3] / 255, kind, 9)
  np.testing.assert_allclose(
      picture.pixels, profiles.encode_srgb(light), atol=1e-4
  )
  kept = media.read_picture(path, color='keep')
  np.testing.assert_allclose(kept.pixels, SAMPLES[..., :3] / 255, atol=1e-6)


# Wide gamut and depth are kept on request.


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.avif', '.tif'])
def test_a_kept_profile_comes_back(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  Image.new('RGB', (16, 16), (200, 80, 60)).save(path, icc_profile=P3)
  picture = media.read_picture(path, color='keep')
  assert picture.profile == P3
  np.testing.assert_allclose(picture.pixels[8, 8] * 255, (200, 80, 60), atol=4)
  fields = media.read_metadata(picture.metadata)
  assert fields == {'profile': P3}
  again = tmp_path / f'again{suffix}'
  media.write_picture(again, media.to_uint8(picture.pixels), **fields)
  with Image.open(again) as image:
    assert image.info['icc_profile'] == P3
  # Where there is no room for it, the values are those of sRGB.
  plain = tmp_path / 'x.bmp'
  media.write_picture(
      plain, np.full((2, 2, 3), (200, 80, 60), np.uint8), profile=P3
  )
  shown = media.read_picture(plain).pixels[0, 0] * 255
  np.testing.assert_allclose(shown, (216, 69, 50), atol=1)


@pytest.mark.parametrize(
    'metadata', [b'', b'{}', b'[]', b'{"exif": 3}', b'\xff']
)
def test_metadata_of_others_is_none_of_ours(metadata):
  assert media.read_metadata(metadata) == {}


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_16_bits_are_written_and_read(tmp_path, suffix, channels):
  path = tmp_path / f'x{suffix}'
  rng = np.random.default_rng(channels)
  image = rng.integers(0, 65536, (7, 5, channels), np.uint16)
  if (suffix, channels) == ('.tif', 2):
    with pytest.raises(media.MediaError, match='cannot hold 16-bit LA'):
      media.write_picture(path, image)
    return
  media.write_picture(path, image, profile=P3 if channels > 2 else b'')
  picture = media.read_picture(path, color='keep')
  np.testing.assert_allclose(picture.pixels, image / 65535, atol=1e-7)
  assert picture.profile == (P3 if channels > 2 else b'')
  with Image.open(path) as other:  # Pillow sees the high bytes.
    assert other.size == (5, 7)
    if channels > 2:
      assert np.abs(np.asarray(other) - (image / 257.0)).max() <= 1
  if suffix == '.tif':
    np.testing.assert_array_equal(tifffile.imread(path), image.squeeze())


@pytest.mark.parametrize('suffix', ['.jpg', '.webp', '.bmp'])
def test_other_formats_hold_no_16_bits(tmp_path, suffix):
  with pytest.raises(media.MediaError, match='cannot hold 16 bits'):
    media.write_picture(tmp_path / f'x{suffix}', np.zeros((2, 2, 3), np.uint16))


def test_16_bit_color_is_converted_at_its_precision(tmp_path):
  path = tmp_path / 'x.png'
  ramp = np.linspace(0, 65535, 3000).astype(np.uint16)
  image = np.stack([ramp, ramp[::-1], ramp // 2], axis=-1)[None]
  media.write_picture(path, image, profile=LINEAR)
  picture = media.read_picture(path)
  expected = profiles.encode_srgb(image / 65535)
  np.testing.assert_allclose(picture.pixels, expected, atol=4e-4)
  assert len(np.unique(picture.pixels[..., 0])) > 2000


# EXIF.


def exif_with_place():
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  exif[ExifTags.Base.Artist] = 'Somebody'
  exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = 'N'
  exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b'private'
  exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = '50 mm'
  return exif


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp'])
def test_exif_is_kept_on_request_and_the_place_only_then(tmp_path, suffix):
  path = tmp_path / f'x{suffix}'
  Image.fromarray(SAMPLES[..., :3]).save(path, exif=exif_with_place())
  assert media.read_picture(path).exif == b''
  for metadata in ('keep', 'all'):
    picture = media.read_picture(path, metadata=metadata)
    assert picture.pixels.shape[:2] == (10, 12)
    again = tmp_path / f'again{suffix}'
    fields = media.read_metadata(picture.metadata)
    media.write_picture(again, media.to_uint8(picture.pixels), **fields)
    with Image.open(again) as image:
      exif = image.getexif()
      assert exif[ExifTags.Base.Artist] == 'Somebody'
      assert ExifTags.Base.Orientation not in exif
      details = exif.get_ifd(ExifTags.IFD.Exif)
      assert details[ExifTags.Base.LensModel] == '50 mm'
      assert ExifTags.Base.MakerNote not in details
      place = exif.get_ifd(ExifTags.IFD.GPSInfo)
      assert bool(place) == (metadata == 'all')
      assert (ExifTags.IFD.GPSInfo in exif) == (metadata == 'all')


# Alpha.


@pytest.mark.parametrize('background', ['white', '#ff0000', 'black'])
@pytest.mark.parametrize('channels', [2, 4])
def test_alpha_goes_on_a_background(tmp_path, background, channels):
  path = tmp_path / 'x.bmp'
  image = SAMPLES[..., :channels]
  with pytest.raises(media.MediaError, match='take .png, or a background'):
    media.write_picture(path, image)
  media.write_picture(path, image, background=background)
  shown = Image.fromarray(image).convert('RGBA')
  ground = Image.new('RGBA', shown.size, background)
  expected = np.asarray(Image.alpha_composite(ground, shown).convert('RGB'))
  pixels = media.read_picture(path).pixels * 255
  assert np.abs(pixels - expected).max() <= 1.01


def test_a_gif_smaller_than_its_canvas_is_clear_around(tmp_path):
  path = tmp_path / 'x.gif'
  Image.new('P', (6, 4), 1).save(path)
  data = bytearray(path.read_bytes())
  # The canvas grows to 10x8, the frame goes to (2, 1).
  struct.pack_into('<HH', data, 6, 10, 8)
  place = data.index(b',')
  struct.pack_into('<HHHH', data, place + 1, 2, 1, 6, 4)
  path.write_bytes(data)
  pixels = media.read_picture(path).pixels
  assert pixels.shape == (8, 10, 4)
  expected = np.zeros((8, 10))
  expected[1:5, 2:8] = 1
  np.testing.assert_array_equal(pixels[..., 3], expected)


# The commands.


def run(verb, *flags):
  command = [sys.executable, '-m', f'launch.{verb}', *map(str, flags)]
  return subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, check=False
  )


def write_splat(path, channels, metadata=b''):
  splats = types.Splats(
      means=np.float32([[4.5, 4.5]]),
      cholesky=np.float32([[3, 0, 3]]),
      colors=np.full((1, channels), 0.7, np.float32),
  )
  layered = types.LayeredSplats(
      splats=splats, layer_sizes=(1,), height=9, width=10
  )
  steps = quantize.StepSizes()
  path.write_bytes(bitstream.write(layered, steps, metadata=metadata))


def test_decode_gives_depth_and_profile_on_request(tmp_path):
  path = tmp_path / 'x.pgsvc'
  kept = media.Picture(pixels=np.zeros((1, 1, 3)), notes=(), profile=P3)
  write_splat(path, 3, kept.metadata)
  output = tmp_path / 'x.png'
  result = run('decode', f'--input={path}', f'--output={output}', '--depth=16')
  assert result.returncode == 0, result.stderr
  picture = media.read_picture(output, color='keep')
  assert picture.profile == P3
  values = np.rint(picture.pixels * 65535).astype(int)
  assert len(np.unique(values % 257)) > 20  # More than 8 bits hold.


def test_decode_puts_alpha_on_a_background(tmp_path):
  path, output = tmp_path / 'x.pgsvc', tmp_path / 'x.jpg'
  write_splat(path, 4)
  flags = (f'--input={path}', f'--output={output}')
  result = run('decode', *flags)
  assert result.returncode == 1
  assert '--background=white' in result.stderr.splitlines()[-1]
  assert run('decode', *flags, '--background=#00ff00').returncode == 0
  pixels = media.read_picture(output).pixels
  np.testing.assert_allclose(pixels[0, 9], (0, 1, 0), atol=0.15)


@pytest.mark.slow
def test_color_and_exif_go_through_the_commands(tmp_path):
  source, output = tmp_path / 'x.png', tmp_path / 'y.png'
  image = Image.new('RGB', (40, 40), (200, 80, 60))
  image.save(source, icc_profile=P3, exif=exif_with_place())
  file = tmp_path / 'x.pgsvc'
  smoke = '--config=configs/image.py:smoke'
  for options, color in (
      ((), (216, 69, 50)),
      (('--color=keep', '--metadata=keep'), (200, 80, 60)),
  ):
    flags = (f'--input={source}', f'--output={file}', smoke)
    assert run('encode', *flags, *options).returncode == 0
    assert (
        run('decode', f'--input={file}', f'--output={output}').returncode == 0
    )
    picture = media.read_picture(output, color='keep', metadata='all')
    middle = picture.pixels[20, 20] * 255
    np.testing.assert_allclose(middle, color, atol=6)
    assert picture.profile == (P3 if options else b'')
    assert bool(picture.exif) == bool(options)


def test_what_is_named_as_a_video_is_refused_as_one(tmp_path):
  path = tmp_path / 'cut.mp4'
  path.write_bytes(b'\0\0\0\x18ftypisom')
  result = run('encode', f'--input={path}', f'--output={tmp_path / "x.pgsvc"}')
  assert result.returncode == 1
  assert 'not a video of a known format' in result.stderr.splitlines()[-1]
