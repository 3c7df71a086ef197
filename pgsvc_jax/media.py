"""Pictures in and out of files.

Values are as the file stores them: no color profile and no gamma is applied.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import secrets
from typing import BinaryIO
import warnings

from jaxtyping import Float, UInt8
import numpy as np
import PIL
from PIL import ExifTags
from PIL import Image
from PIL import ImageFile
from PIL import ImageOps

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
  """

  pixels: Float[np.ndarray, 'h w c']
  notes: tuple[str, ...]


def read_picture(
    path: str | os.PathLike[str], *, max_pixels: int = 2**27
) -> Picture:
  """Reads a picture, upright; of an animation the first frame.

  Gray keeps up to 16 bits, color is read at 8. Safe to call from several
  threads, except that Python before 3.14 keeps one list of warning filters for
  all of them: a warning of another thread may be lost meanwhile.

  Args:
    path: a file in any format that Pillow reads.
    max_pixels: larger pictures are refused before they are decoded. Pillow
      refuses those above 178,956,970 pixels (`PIL.Image.MAX_IMAGE_PIXELS`, x2)
      whatever is asked for here.

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
      open(path, 'rb') as file,
  ):
    warnings.simplefilter('ignore')
    warnings.simplefilter('always', UserWarning)
    pixels, notes = _decode(file, max_pixels)
  notes += [_one_line(str(warning.message)) for warning in caught]
  return Picture(pixels=pixels, notes=tuple(dict.fromkeys(notes)))


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
  return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def write_picture(
    path: str | os.PathLike[str], image: UInt8[np.ndarray, 'h w c']
) -> None:
  """Writes a picture; an existing file is replaced only by a whole new one.

  Args:
    path: its suffix chooses the format.
    image: gray, gray + alpha, RGB or RGB + alpha.

  Raises:
    MediaError: the format is unknown or cannot hold the picture, or the file
      cannot be written.

  Example:
    >>> write_picture('alpha.jpg', np.zeros((2, 2, 4), np.uint8))
    Traceback (most recent call last):
    ...
    pgsvc_jax.media.MediaError: cannot write alpha.jpg: JPEG cannot hold RGBA
  """
  with errors('write', path):
    _encode(pathlib.Path(path), np.asarray(image))


def _decode(
    file: BinaryIO, max_pixels: int
) -> tuple[Float[np.ndarray, 'h w c'], list[str]]:
  """Decodes the first frame and says what it took."""
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
    # Pillow turns a TIFF upright while it loads it, and forgets the EXIF entry.
    orientation = getattr(image, 'tag_v2', {}).get(ExifTags.Base.Orientation)
    image.load()
    try:
      orientation = orientation or image.getexif().get(
          ExifTags.Base.Orientation
      )
      ImageOps.exif_transpose(image, in_place=True)
    except SyntaxError:
      notes.append('damaged EXIF data left out')
    if orientation in range(2, 9):
      notes.append(f'EXIF orientation {orientation} applied')

    if image.mode.startswith(('I', 'F')):
      return _deep_gray(image, raw, notes), notes
    gray = image.mode in ('1', 'L', 'LA', 'La') or raw.startswith('LA;')
    target = 'L' if gray else 'RGB'
    if image.has_transparency_data:
      target += 'A'
    if deep:
      notes.append(f'16-bit {target} read at 8 bits')
    if image.mode not in ('1', 'L', 'LA', 'RGB', 'RGBA'):
      name = {'P': 'palette', 'PA': 'palette', 'LAB': 'Lab'}
      notes.append(f'{name.get(image.mode, image.mode)} converted to {target}')
    if raw in _KEY_SCALES and 'transparency' in image.info:
      key = np.multiply(image.info['transparency'], _KEY_SCALES[raw]) >> 8
      image.info['transparency'] = tuple(key) if key.ndim else int(key)
    samples = np.asarray(image.convert(target))
    pixels = np.divide(samples, np.float32(255), dtype=np.float32)
    return pixels.reshape(*samples.shape[:2], -1), notes


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


def _encode(path: pathlib.Path, image: UInt8[np.ndarray, 'h w c']) -> None:
  """Writes a picture under a temporary name, then moves it into place."""
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _MODES:
    raise ValueError(
        f'need uint8 [H, W, 1 to 4], not {image.dtype} {list(image.shape)}'
    )
  kind = Image.registered_extensions().get(path.suffix.lower())
  if kind not in _HOLDS:
    raise ValueError(f'{path.suffix!r} is not a format to write; try .png')
  mode = _MODES[image.shape[2]]
  if mode not in _HOLDS[kind]:
    raise ValueError(f'{kind} cannot hold {mode}')
  picture = Image.fromarray(image[..., 0] if mode == 'L' else image)
  temporary = path.with_name(f'.{secrets.token_hex(8)}.tmp')
  with open(temporary, 'xb') as file:
    try:
      picture.save(file, format=kind, **_OPTIONS.get(kind, {}))
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
