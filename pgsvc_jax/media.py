"""Pictures in and out of files, upright, and in sRGB unless asked otherwise."""

import base64
from collections.abc import Iterator
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import secrets
import struct
from typing import Any, BinaryIO, Literal
import warnings

from jaxtyping import Float, UInt, UInt8, UInt16
import numpy as np
import PIL
from PIL import ExifTags
from PIL import Image
from PIL import ImageColor
from PIL import ImageFile
from PIL import ImageOps

from pgsvc_jax import deep_pictures
from pgsvc_jax import hdr
from pgsvc_jax import pipes
from pgsvc_jax import profiles

_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}

# What each format gives back as it was put in, size and alpha included. Pillow
# writes more, but by shrinking (ICO), by reducing colors (GIF) or by dropping
# alpha without a word (BMP, PPM).
_HOLDS = {
    'AVIF': ('L', 'LA', 'RGB', 'RGBA'),
    'BMP': ('L', 'RGB'),
    'DDS': ('L', 'LA', 'RGB', 'RGBA'),
    'GIF': ('L',),
    'JPEG': ('L', 'RGB'),
    'JPEG2000': ('L', 'LA', 'RGB', 'RGBA'),
    'PCX': ('L', 'RGB'),
    'PNG': ('L', 'LA', 'RGB', 'RGBA'),
    'PPM': ('L', 'RGB'),
    'QOI': ('RGB', 'RGBA'),
    'SGI': ('L', 'RGB', 'RGBA'),
    'TGA': ('L', 'LA', 'RGB', 'RGBA'),
    'TIFF': ('L', 'LA', 'RGB', 'RGBA'),
    'WEBP': ('L', 'LA', 'RGB', 'RGBA'),
}
_ALPHA = (2, 4)
_GRAY_MODES = ('1', 'L', 'LA', 'La', 'I', 'I;16')
_HOLDS_PROFILE = ('AVIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_HOLDS_EXIF = ('AVIF', 'JPEG', 'PNG', 'WEBP')
_EXIF_PARTS = tuple(ExifTags.IFD)
_OPTIONS = {
    'AVIF': {'quality': 95, 'subsampling': '4:4:4'},
    'JPEG': {'quality': 95, 'subsampling': '4:4:4'},
    'WEBP': {'quality': 95},
}

# Pillow leaves the transparent color of a PNG at the file's bit depth while it
# brings the samples to 8 bits. The factors that make up for it, times 256.
_KEY_SCALES = {'L;2': 85 * 256, 'L;4': 17 * 256, 'RGB;16B': 1}


class MediaError(ValueError):
  """A file cannot be read or written; the message is one line for the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A picture read from a file.

  Attributes:
    pixels: gray, gray + alpha, RGB or RGB + alpha (not premultiplied), in
      [0, 1].
    notes: what reading changed or left out, for the user.
    profile: ICC profile of the pixels; empty for sRGB.
    exif: EXIF data that were asked for, without the orientation.
  """

  pixels: Float[np.ndarray, 'h w c']
  notes: tuple[str, ...]
  profile: bytes = b''
  exif: bytes = b''

  @property
  def metadata(self) -> bytes:
    """Profile and EXIF, as a .pgsvc file holds them."""
    fields = {'icc_profile': self.profile, 'exif': self.exif}
    texts = {k: base64.b64encode(x).decode() for k, x in fields.items() if x}
    return json.dumps(texts).encode() if texts else b''


def read_metadata(metadata: bytes) -> dict[str, bytes]:
  """What `Picture.metadata` put into a file, by its name in `write_picture`.

  Args:
    metadata: of the header of a file; of other programs, too.

  Returns:
    The profile and the EXIF data, those there are.

  Example:
    >>> picture = Picture(pixels=np.zeros((1, 1, 1)), notes=(), exif=b'x')
    >>> read_metadata(picture.metadata)
    {'exif': b'x'}
  """
  try:
    fields = json.loads(metadata)
    return {
        name: base64.b64decode(fields[key], validate=True)
        for key, name in (('icc_profile', 'profile'), ('exif', 'exif'))
        if key in fields
    }
  except (ValueError, TypeError):
    return {}


def read_picture(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = 2**27,
    color: Literal['srgb', 'keep'] = 'srgb',
    metadata: Literal['none', 'keep', 'all'] = 'none',
) -> Picture:
  """Reads a picture, upright; of an animation the first frame.

  Profiles (ICC) and tags (cICP, gAMA, cHRM) of color are converted to sRGB; PQ
  and HLG are tone-mapped. Gray keeps up to 16 bits, color of PNG, TIFF and PPM
  too where PyAV is installed, other color is read at 8. Safe to call from
  several threads, except that Python before 3.14 keeps one list of warning
  filters for all of them: a warning of another thread may be lost meanwhile.

  Args:
    path: a file in any format that Pillow reads; a pipe; or -, standard input.
    max_pixels: larger pictures are refused before they are decoded. Pillow
      refuses those above 178,956,970 pixels (`PIL.Image.MAX_IMAGE_PIXELS`, x2)
      whatever is asked for here.
    color: keep leaves the values of RGB and gray as they are stored, and their
      profile in the result.
    metadata: of EXIF, keep gives all but the place where it was taken (GPS)
      and notes of the maker; all gives that, too.

  Returns:
    The picture.

  Raises:
    MediaError: the file is missing, not a picture, damaged or too large.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, 'gray.png')
    ...   write_picture(path, np.array([[[0], [51]]], np.uint8))
    ...   read_picture(path).pixels
    array([[[0. ],
            [0.2]]], dtype=float32)
  """
  # Pillow's readers let nearly any exception out of a damaged file (OSError,
  # SyntaxError, struct.error, zlib.error, AssertionError, ...).
  with (
      errors('read', path),
      warnings.catch_warnings(record=True) as caught,
      open(pipes.seekable(path), 'rb') as file,
  ):
    warnings.simplefilter('ignore')
    warnings.simplefilter('always', UserWarning)
    picture = _decode(file, max_pixels, color, metadata)
  notes = [
      *pipes.note(path),
      *picture.notes,
      *(_one_line(str(x.message)) for x in caught),
  ]
  return dataclasses.replace(picture, notes=tuple(dict.fromkeys(notes)))


def to_uint(
    image: Float[np.ndarray, '...'], dtype: type[np.unsignedinteger]
) -> UInt[np.ndarray, '...']:
  """As `to_uint8`, to pixels of another type."""
  white = np.float32(np.iinfo(dtype).max)
  return np.rint(np.clip(image, 0, 1) * white).astype(dtype)


def to_uint8(image: Float[np.ndarray, '...']) -> UInt8[np.ndarray, '...']:
  """Turns values in [0, 1] into pixels: clips, scales, rounds to nearest.

  Args:
    image: finite values; those outside [0, 1] are clipped.

  Returns:
    The pixels.

  Example:
    >>> to_uint8(np.array([-0.1, 0.0, 0.5, 1.0, 1.7]))
    array([  0,   0, 128, 255, 255], dtype=uint8)
  """
  return to_uint(image, np.uint8)


def write_picture(
    path: str | os.PathLike[str],
    image: UInt8[np.ndarray, 'h w c'] | UInt16[np.ndarray, 'h w c'],
    *,
    profile: bytes = b'',
    exif: bytes = b'',
    background: str | None = None,
) -> None:
  """Writes a picture; an existing file is replaced only by a whole new one.

  Args:
    path: its suffix chooses the format; - is standard output, a PNG.
    image: gray, gray + alpha, RGB or RGB + alpha; of 16 bits for PNG and TIFF.
    profile: ICC profile of the pixels. For a format that holds none they are
      converted to sRGB.
    exif: EXIF data, for formats that hold them.
    background: color to put a picture with alpha on, such as white or #ffffff.

  Raises:
    MediaError: the format is unknown or cannot hold the picture, or the file
      cannot be written.

  Example:
    >>> image = np.zeros((2, 2, 4), np.uint8)
    >>> write_picture('alpha.jpg', image)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    pgsvc_jax.media.MediaError: cannot write alpha.jpg: JPEG cannot hold RGBA...
  """
  with errors('write', path):
    path = pathlib.Path(path)
    image = np.asarray(image)
    kind = _check_writable(path, image)
    if background is not None and image.shape[2] in _ALPHA:
      image = on_background(image, background)
    _encode(path, kind, image, profile, exif)


def on_background(image: np.ndarray, color: str) -> np.ndarray:
  """Puts a picture with alpha on a color.

  Args:
    image: gray + alpha or RGB + alpha, of unsigned integers.
    color: a name or a number, such as white or #ffffff.

  Returns:
    RGB; gray on a gray color stays gray.

  Raises:
    ValueError: no such color.

  Example:
    >>> on_background(np.array([[[0, 51]]], np.uint8), 'white')
    array([[[204]]], dtype=uint8)
  """
  white = np.iinfo(image.dtype).max
  ground = np.array(ImageColor.getrgb(color)[:3]) * (white // 255)
  if image.shape[2] == 2 and ground.min() == ground.max():
    ground = ground[:1]
  alpha = image[..., -1:] / white
  mixed = image[..., :-1] * alpha + ground * (1 - alpha)
  return np.rint(mixed).astype(image.dtype)


def _decode(
    file: BinaryIO, max_pixels: int, color: str, metadata: str
) -> Picture:
  """Decodes the first frame and says what it took."""
  points = _code_points(file)
  file.seek(0)
  with Image.open(file) as image:
    if image.format == 'EPS':
      raise ValueError('EPS is a program, not a picture')
    width, height = image.size
    if not 0 < width * height <= max_pixels:
      raise ValueError(
          f'{width} x {height} pixels, allowed are 1 to {max_pixels}'
      )
    notes = []
    if (frames := getattr(image, 'n_frames', 1)) > 1:
      notes.append(f'first of {frames} frames')
    raw, deep = _raw_mode(image)
    gray = image.mode in _GRAY_MODES or raw.startswith('LA;')
    colors = _colors(image, points, gray)
    extents = image.tile[0].extents if image.format == 'GIF' else None
    # Pillow turns a TIFF upright while it loads it, and forgets the EXIF entry.
    orientation = getattr(image, 'tag_v2', {}).get(ExifTags.Base.Orientation)
    image.load()
    exif = Image.Exif()
    try:
      exif = image.getexif()
      orientation = orientation or exif.get(ExifTags.Base.Orientation)
      ImageOps.exif_transpose(image, in_place=True)
    except SyntaxError:
      notes.append('damaged EXIF data left out')
    if orientation in range(2, 9):
      notes.append(f'EXIF orientation {orientation} applied')
    kept = _kept_exif(exif, metadata)

    if image.mode.startswith(('I', 'F')):
      pixels = _deep_gray(image, raw, notes)
      image = None
    else:
      image = _plain(image, raw, extents, notes, colors is not None)
      pixels = None
      if deep and image.mode != 'CMYK':
        pixels = deep_pictures.read(file, np.asarray(image), orientation)
        if pixels is None:
          notes.append(f'16-bit {image.mode} read at 8 bits')
    profile = b''
    if colors is not None and color == 'keep' and colors.profile is not None:
      space = profiles.space(colors.profile)
      if image is None or image.mode != 'CMYK':
        fits = {'RGB': space == 'RGB', 'L': space == 'GRAY'}
        mode = 'L' if image is None else image.mode.rstrip('A')
        if fits.get(mode):
          profile, colors = colors.profile, None
    if colors is not None and (color == 'srgb' or colors.profile is not None):
      image, pixels = _to_srgb(image, pixels, colors, notes)
    if pixels is None:
      if image.mode == 'CMYK':
        image = image.convert('RGB')
        notes.append('CMYK converted to RGB')
      samples = np.asarray(image)
      pixels = np.divide(samples, np.float32(255), dtype=np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return Picture(
        pixels=pixels, notes=tuple(notes), profile=profile, exif=kept
    )


def _plain(
    image: Image.Image,
    raw: str,
    extents: tuple[int, ...] | None,
    notes: list[str],
    has_profile: bool,
) -> Image.Image:
  """Gray or RGB of 8 bits, with alpha or not; CMYK only with a profile."""
  gray = image.mode in ('1', 'L', 'LA', 'La') or raw.startswith('LA;')
  target = 'L' if gray else 'RGB'
  if image.has_transparency_data:
    target += 'A'
  if image.mode == 'CMYK' and has_profile:
    return image
  if image.mode not in ('1', 'L', 'LA', 'RGB', 'RGBA', 'CMYK'):
    name = {'P': 'palette', 'PA': 'palette', 'LAB': 'Lab'}
    notes.append(f'{name.get(image.mode, image.mode)} converted to {target}')
  if image.mode == 'CMYK':
    return image
  if raw in _KEY_SCALES and 'transparency' in image.info:
    key = np.multiply(image.info['transparency'], _KEY_SCALES[raw]) >> 8
    image.info['transparency'] = tuple(key) if key.ndim else int(key)
  if extents is not None and extents != (0, 0, *image.size):
    # What the first frame does not cover shows what is behind.
    plain = image.convert('RGBA')
    shown = Image.new('RGBA', image.size)
    shown.paste(plain.crop(extents), extents[:2])
    return shown
  return image.convert(target)


def _code_points(file: BinaryIO) -> tuple[int, int] | None:
  """Color primaries and transfer by the cICP of a PNG or the nclx of an AVIF.

  Pillow knows neither.
  """
  head = file.read(4096)
  if head[:8] == b'\x89PNG\r\n\x1a\n':
    place = 8
    while True:
      file.seek(place)
      chunk = file.read(12)
      if len(chunk) < 12 or chunk[4:8] == b'IDAT':
        return None
      if chunk[4:8] == b'cICP':
        return chunk[8], chunk[9]
      place += 12 + int.from_bytes(chunk[:4], 'big')
  place = head.find(b'colrnclx')
  if head[4:8] == b'ftyp' and place > 0:
    return struct.unpack_from('>HH', head, place + 8)
  return None


def _colors(
    image: Image.Image, points: tuple[int, int] | None, gray: bool
) -> profiles.Colors | None:
  """What the file says of its colors; None for sRGB, or if it says nothing."""
  info = image.info
  colors = profiles.from_code_points(*points) if points else None
  if colors is None and (profile := info.get('icc_profile')):
    colors = profiles.Colors(name=profiles.name_of(profile), profile=profile)
  elif colors is None and image.format == 'PNG' and 'srgb' not in info:
    colors = _from_gamma(info, gray)
  if colors is None or colors.profile and profiles.is_srgb(colors.profile):
    return None
  return colors


def _from_gamma(info: dict[str, Any], gray: bool) -> profiles.Colors | None:
  """The gAMA and cHRM of a PNG; None where they mean sRGB."""
  gamma, points = info.get('gamma'), info.get('chromaticity')
  primaries = profiles.PRIMARIES[1]
  if points and points[1] > 0 and min(points[1::2]) > 0:
    pairs = list(zip(points[::2], points[1::2]))
    primaries = (*pairs[1:], pairs[0])
  standard = np.abs(np.subtract(primaries, profiles.PRIMARIES[1])).max() < 1e-3
  # 1/2.2 stands for the curve of sRGB in nearly all files.
  usual = not gamma or abs(gamma - 1 / 2.2) < 1e-3
  if usual and standard or gamma and not 0.01 < gamma < 100:
    return None
  curve = profiles.CURVES[13] if usual else (1 / gamma,)
  name = 'the color of PNG tags' if usual else f'gamma {gamma:g}'
  profile = profiles.make_profile(primaries, curve, name, gray)
  return profiles.Colors(name=name, profile=profile)


def _to_srgb(
    image: Image.Image | None,
    pixels: np.ndarray | None,
    colors: profiles.Colors,
    notes: list[str],
) -> tuple[Image.Image | None, np.ndarray | None]:
  """Converts what was read, at 8 bits or more, from its colors to sRGB."""
  # Of dark gray in linear light, littlecms is ten steps off at 8 bits.
  is_gray = image is not None and image.mode in ('L', 'LA')
  exact = colors.hdr or is_gray and profiles.is_gray(colors.profile)
  if pixels is None and image.mode != 'CMYK' and exact:
    pixels = np.asarray(image, np.float32) / 255
  if colors.hdr:
    if pixels is None or pixels.shape[2:] not in ((3,), (4,)):
      notes.append(f'{colors.hdr} values taken as they are')
      return image, pixels
    light = hdr.to_linear_sdr(pixels[..., :3], colors.hdr, colors.primaries)
    converted = profiles.encode_srgb(light).astype(np.float32)
    notes.append(f'{colors.hdr} tone-mapped to sRGB')
    return None, np.concatenate([converted, pixels[..., 3:]], axis=2)
  if pixels is not None:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    converted = profiles.pixels_to_srgb(pixels, colors.profile)
    if converted is not None:
      notes.append(f'colors converted from {colors.name} to sRGB')
      return None, converted.astype(np.float32)
    if image is None:
      notes.append(f'{colors.name} cannot be applied to 16 bits, left out')
      return None, pixels
    notes.append(f'16-bit {image.mode} read at 8 bits')
  try:
    image = profiles.image_to_srgb(image, colors.profile)
    notes.append(f'colors converted from {colors.name} to sRGB')
  except ValueError as error:
    notes.append(f'color profile left out: {error}')
  return image, None


def _kept_exif(exif: Image.Exif, metadata: str) -> bytes:
  """The EXIF data to keep."""
  if metadata == 'none' or not exif:
    return b''
  parts = [ExifTags.IFD.Exif]
  if metadata == 'all':
    parts.append(ExifTags.IFD.GPSInfo)
  kept = Image.Exif()
  for tag, value in exif.items():
    if tag != ExifTags.Base.Orientation and tag not in _EXIF_PARTS:
      kept[tag] = value
  for part in parts:
    details = dict(exif.get_ifd(part))
    # Its offsets are of the file it was in.
    details.pop(ExifTags.Base.MakerNote, None)
    if details:
      kept.get_ifd(part).update(details)
  return kept.tobytes()


def _raw_mode(image: ImageFile.ImageFile) -> tuple[str, bool]:
  """Returns Pillow's name of the stored samples; whether they exceed 8 bits."""
  args = image.tile[0].args if image.tile else ''
  raw, *rest = (args,) if isinstance(args, str) else args or ('',)
  deep_ppm = image.format == 'PPM' and len(rest) == 1 and rest[0] > 255
  return str(raw), ';16' in str(raw) or deep_ppm


def _deep_gray(
    image: Image.Image, raw: str, notes: list[str]
) -> Float[np.ndarray, 'h w c']:
  """Brings gray of more than 8 bits to [0, 1], if its full scale is known."""
  values = np.asarray(image)
  white = 1 if image.mode == 'F' else 4095 if raw == 'I;12' else 65535
  low, high = values.min(), values.max()
  if not (0 <= low and high <= white):  # so that NaN is refused, too
    raise ValueError(f'gray values {low} to {high} are not within 0 to {white}')
  if image.mode == 'I' and image.format != 'PPM':
    notes.append('integer gray read on the 16-bit scale')
  pixels = np.divide(values, np.float32(white), dtype=np.float32)
  tags = getattr(image, 'tag_v2', {})
  if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
    # TIFF's "white is zero", which Pillow undoes for 8 bits only.
    pixels = 1 - pixels
  if 'transparency' in image.info:
    opaque = values != image.info['transparency']
    return np.stack([pixels, opaque.astype(np.float32)], axis=2)
  return pixels[..., None]


def _check_writable(path: pathlib.Path, image: np.ndarray) -> str:
  """Pillow's name of the format to write."""
  if (
      image.dtype not in (np.uint8, np.uint16)
      or image.ndim != 3
      or image.shape[2] not in _MODES
  ):
    raise ValueError(
        'need uint8 or uint16 [H, W, 1 to 4], not'
        f' {image.dtype} {list(image.shape)}'
    )
  suffix = '.png' if str(path) == pipes.STANDARD else path.suffix.lower()
  kind = Image.registered_extensions().get(suffix)
  if kind not in _HOLDS:
    raise ValueError(f'{path.suffix!r} is not a format to write; try .png')
  if image.dtype == np.uint16 and kind not in deep_pictures.WRITERS:
    raise ValueError(f'{kind} cannot hold 16 bits; take .png or .tif')
  return kind


def _encode(
    path: pathlib.Path,
    kind: str,
    image: np.ndarray,
    profile: bytes,
    exif: bytes,
) -> None:
  """Writes a picture under a temporary name, then moves it into place."""
  mode = _MODES[image.shape[2]]
  if mode not in _HOLDS[kind]:
    hint = ''
    if image.shape[2] in _ALPHA and mode[:-1] in _HOLDS[kind]:
      hint = '; take .png, or a background to put it on'
    raise ValueError(f'{kind} cannot hold {mode}{hint}')
  options = dict(_OPTIONS.get(kind, {}))
  if exif and kind in _HOLDS_EXIF:
    options['exif'] = exif
  if profile and kind in _HOLDS_PROFILE:
    options['icc_profile'] = profile
  if image.dtype == np.uint16:
    save = lambda file: file.write(
        deep_pictures.WRITERS[kind](image, profile, exif)
    )
  else:
    picture = Image.fromarray(image[..., 0] if mode == 'L' else image)
    if profile and kind not in _HOLDS_PROFILE:
      picture = profiles.image_to_srgb(picture, profile)
    save = lambda file: picture.save(file, format=kind, **options)
  if pipes.is_pipe(path):
    # Nothing can be taken back there; so it gets all of it or nothing.
    data = io.BytesIO()
    save(data)
    with pipes.open_for_writing(path) as file:
      file.write(data.getvalue())
    return
  temporary = path.with_name(f'.{secrets.token_hex(8)}.tmp')
  with open(temporary, 'xb') as file:
    try:
      save(file)
      file.close()
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
  """Errors in the block become a `MediaError`, one line that names the file.

  Args:
    action: read or write.
    path: of the file.

  Yields:
    Nothing.

  Raises:
    MediaError: in place of any other error.
    ModuleNotFoundError: as it is.
  """
  try:
    yield
  except (MediaError, ModuleNotFoundError):
    raise
  except Exception as error:  # Of files, libraries raise nearly anything.
    message = f'cannot {action} {os.fspath(path)}: {reason(error)}'
    raise MediaError(_one_line(message)) from error


def reason(error: Exception) -> str:
  """What an error says, without the path that it may name."""
  if isinstance(error, PIL.UnidentifiedImageError):
    return 'not a picture of a known format'
  return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def _one_line(text: str) -> str:
  return ' '.join(text.splitlines())
