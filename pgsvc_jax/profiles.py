"""Colors of pictures as profiles and tags describe them, and sRGB.

8-bit pictures are converted by littlecms. It knows no 16-bit pictures in
Pillow, so those with profiles of three primaries and curves, which is nearly
all that are not for printing, are computed here.
"""

import dataclasses
import functools
import io
import struct

from jaxtyping import Float
import numpy as np
from PIL import Image
from PIL import ImageCms

# Of red, green, blue and white, x and y each: ITU-T H.273, table 2.
_D65 = (0.3127, 0.3290)
PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
# Curves as the ICC's 'para' has them: x^g, or with a linear part below d,
# (a x + b)^g above and c x below.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
CURVES = {
    1: _BT709_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _BT709_CURVE,
    8: (1.0,),
    13: _SRGB_CURVE,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
}
HDR_CURVES = {16: 'PQ', 18: 'HLG'}
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [
        [0.8951, 0.2664, -0.1614],
        [-0.7502, 1.7135, 0.0367],
        [0.0389, -0.0685, 1.0296],
    ]
)
# Half a step of 8 bits: less is not worth the rounding of a conversion.
_SAME = 0.5 / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colors:
  """What the samples of a picture mean.

  Attributes:
    name: for the user.
    profile: of the ICC; None for HDR, of which there is none.
    hdr: PQ or HLG, if it is one of them.
    primaries: code point, of HDR.
  """

  name: str
  profile: bytes | None = None
  hdr: str | None = None
  primaries: int = 1


def from_code_points(primaries: int, transfer: int) -> Colors | None:
  """Colors by code points of ITU-T H.273; None where they are unspecified.

  Raises:
    ValueError: they are not known.
  """
  if primaries == 2 or transfer == 2:
    return None
  name = f'primaries {primaries}, transfer {transfer}'
  if primaries not in PRIMARIES:
    raise ValueError(f'color {name} are not supported')
  if transfer in HDR_CURVES:
    hdr = HDR_CURVES[transfer]
    return Colors(name=hdr, hdr=hdr, primaries=primaries)
  if transfer not in CURVES:
    raise ValueError(f'color {name} are not supported')
  return Colors(
      name=name,
      profile=make_profile(PRIMARIES[primaries], CURVES[transfer], name),
  )


def xyz_from_rgb(
    primaries: tuple[tuple[float, float], ...], white: np.ndarray | None = None
) -> Float[np.ndarray, '3 3']:
  """XYZ from linear RGB.

  Args:
    primaries: x and y of red, green, blue and white.
    white: XYZ that white is adapted to (Bradford); None leaves it.

  Example:
    >>> xyz_from_rgb(PRIMARIES[1]).sum(1).round(3)
    array([0.95 , 1.   , 1.089])
  """
  columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
  matrix = columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
  if white is None:
    return matrix
  gains = (_BRADFORD @ white) / (_BRADFORD @ columns[:, 3])
  return np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD) @ matrix


def make_profile(
    primaries: tuple[tuple[float, float], ...],
    curve: tuple[float, ...],
    name: str,
    is_gray: bool = False,
) -> bytes:
  """An ICC profile (version 4.3) of primaries and one curve.

  Args:
    primaries: x and y of red, green, blue and white.
    curve: parameters of a 'para' element: 1 or 5.
    name: what it is called.
    is_gray: whether it is for gray pictures.
  """

  def numbers(kind: bytes, values) -> bytes:
    fixed = [round(x * 65536) for x in values]
    return kind + bytes(4) + struct.pack(f'>{len(fixed)}i', *fixed)

  def text(string: str) -> bytes:
    data = string.encode('utf-16-be')
    head = struct.pack('>II2s2sII', 1, 12, b'en', b'US', len(data), 28)
    return b'mluc' + bytes(4) + head + data

  kinds = {1: 0, 5: 3}
  para = numbers(b'para', curve)
  para = para[:8] + struct.pack('>HH', kinds[len(curve)], 0) + para[8:]
  matrix = xyz_from_rgb(primaries, _D50)
  tags = {
      b'desc': text(name),
      b'cprt': text('No copyright, use freely'),
      b'wtpt': numbers(b'XYZ ', _D50),
  }
  if is_gray:
    tags[b'kTRC'] = para
  else:
    for column, letter in zip(matrix.T, (b'r', b'g', b'b')):
      tags[letter + b'XYZ'] = numbers(b'XYZ ', column)
      tags[letter + b'TRC'] = para
  offset = 128 + 4 + 12 * len(tags)
  table, body = struct.pack('>I', len(tags)), b''
  for tag, data in tags.items():
    table += tag + struct.pack('>II', offset + len(body), len(data))
    body += data + bytes(-len(data) % 4)
  space = b'GRAY' if is_gray else b'RGB '
  head = struct.pack(
      '>I4sI4s4s4s12s4s4sI4s4s8sI3i4s16s28s',
      offset + len(body),
      bytes(4),
      0x04300000,
      b'mntr',
      space,
      b'XYZ ',
      bytes(12),
      b'acsp',
      bytes(4),
      0,
      bytes(4),
      bytes(4),
      bytes(8),
      0,
      *(round(x * 65536) for x in _D50),
      bytes(4),
      bytes(16),
      bytes(28),
  )
  return head + table + body


@dataclasses.dataclass(frozen=True)
class _Shaper:
  """A profile of curves and a matrix: linear light, then XYZ."""

  tables: tuple[np.ndarray, ...]
  matrix: np.ndarray

  def to_srgb(self, pixels: np.ndarray) -> np.ndarray:
    """Converts pixels in [0, 1] to sRGB in [0, 1]."""
    grid = np.linspace(0, 1, len(self.tables[0]))
    linear = np.stack(
        [
            np.interp(pixels[..., c], grid, table)
            for c, table in enumerate(self.tables)
        ],
        axis=-1,
    )
    srgb = xyz_from_rgb(PRIMARIES[1], _D50)
    linear = linear @ (np.linalg.inv(srgb) @ self.matrix).T
    return encode_srgb(linear).astype(np.float32)


def encode_srgb(linear: Float[np.ndarray, '...']) -> Float[np.ndarray, '...']:
  """Gives linear light the curve of sRGB, clipped to [0, 1]."""
  linear = np.clip(linear, 0, 1)
  power = 1.055 * np.power(linear, 1 / 2.4) - 0.055
  return np.where(linear <= 0.0031308, 12.92 * linear, power)


# Entries of a curve; linear interpolation is exact to 16 bits between them.
_TABLE = 65537


def _read_curve(data: bytes) -> np.ndarray:
  """A 'curv' or 'para' element as a table over [0, 1]."""
  x = np.linspace(0, 1, _TABLE)
  if data[:4] == b'curv':
    (count,) = struct.unpack_from('>I', data, 8)
    if count == 0:
      return x
    values = np.frombuffer(data, '>u2', count, 12)
    if count == 1:
      return x ** (int(values[0]) / 256)
    return np.interp(x, np.linspace(0, 1, count), values / 65535)
  if data[:4] != b'para':
    raise ValueError('no curve')
  (kind,) = struct.unpack_from('>H', data, 8)
  count = (1, 3, 4, 5, 7)[kind]
  g, a, b, c, d, e, f = (
      *(v / 65536 for v in struct.unpack_from(f'>{count}i', data, 12)),
      *[0.0] * (7 - count),
  )
  if kind == 0:
    return x**g
  power = np.maximum(a * x + b, 0) ** g
  if kind in (1, 2):
    return np.where(a * x + b >= 0, power + (c if kind == 2 else 0), c)
  return np.where(x >= d, power + e, c * x + f)


@functools.lru_cache(maxsize=4)
def _read_shaper(profile: bytes) -> _Shaper | None:
  """What a profile says, if it is curves and a matrix alone."""
  try:
    (count,) = struct.unpack_from('>I', profile, 128)
    tags = {}
    for k in range(min(count, 100)):
      tag, offset, size = struct.unpack_from('>4sII', profile, 132 + 12 * k)
      tags[tag] = profile[offset : offset + size]
    if b'A2B0' in tags or profile[20:24] != b'XYZ ':
      return None
    if profile[16:20] == b'GRAY':
      return _Shaper((_read_curve(tags[b'kTRC']),) * 3, np.diag(_D50))
    tables = tuple(_read_curve(tags[x + b'TRC']) for x in (b'r', b'g', b'b'))
    columns = [
        np.frombuffer(tags[x + b'XYZ'], '>i4', 3, 8) / 65536
        for x in (b'r', b'g', b'b')
    ]
    return _Shaper(tables, np.stack(columns, axis=1))
  except (struct.error, KeyError, ValueError, IndexError):
    return None


def space(profile: bytes) -> str:
  """What the samples are that a profile is for: RGB, GRAY, CMYK, ..."""
  return profile[16:20].decode('latin-1').strip()


def is_gray(profile: bytes | None) -> bool:
  """Whether a profile is a curve for gray pictures."""
  if profile is None or space(profile) != 'GRAY':
    return False
  return _read_shaper(profile) is not None


def is_srgb(profile: bytes) -> bool:
  """Whether a profile says no more than sRGB does, to half a step of 8 bits."""
  shaper = _read_shaper(profile)
  if shaper is None:
    return False
  ramp = np.linspace(0, 1, 33)
  if space(profile) == 'GRAY':
    grid = np.stack([ramp] * 3, axis=-1)
    # Red, green and blue of a gray differ by its white only.
    return bool(np.abs(shaper.to_srgb(grid)[:, 1] - ramp).max() < _SAME)
  grid = np.stack(np.meshgrid(ramp[::4], ramp[::4], ramp[::4]), axis=-1)
  return bool(np.abs(shaper.to_srgb(grid) - grid).max() < 2 * _SAME)


def name_of(profile: bytes) -> str:
  """What a profile calls itself."""
  try:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.getProfileDescription(opened).strip() or 'its profile'
  except (ImageCms.PyCMSError, OSError):
    return 'its profile'


def image_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
  """Converts an 8-bit picture; gray stays gray, alpha stays.

  Args:
    image: of mode L, LA, RGB, RGBA or CMYK.
    profile: of its colors.

  Returns:
    A picture of the same mode; of CMYK, RGB.

  Raises:
    ValueError: the profile is damaged, or not for such pictures.
  """
  alpha = image.getchannel('A') if image.mode in ('LA', 'RGBA') else None
  plain = image.convert(image.mode.rstrip('A')) if alpha else image
  is_gray = plain.mode == 'L'
  kind = space(profile)
  if is_gray and kind == 'RGB':
    plain = plain.convert('RGB')
  wanted = {'L': 'GRAY', 'RGB': 'RGB', 'CMYK': 'CMYK'}[plain.mode]
  if kind != wanted:
    raise ValueError(f'a profile for {kind} does not fit {plain.mode}')
  try:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile('sRGB')
    converted = ImageCms.profileToProfile(
        plain, source, target, outputMode='RGB'
    )
  except (ImageCms.PyCMSError, OSError) as error:
    raise ValueError('the profile is damaged') from error
  assert converted is not None  # As it is not done in place.
  if is_gray:
    converted = converted.getchannel('G')
  if alpha is not None:
    converted.putalpha(alpha)
  return converted


def pixels_to_srgb(
    pixels: Float[np.ndarray, 'h w c'], profile: bytes
) -> Float[np.ndarray, 'h w c'] | None:
  """The same of a picture of higher precision.

  Args:
    pixels: gray, gray + alpha, RGB or RGB + alpha in [0, 1].
    profile: of its colors.

  Returns:
    The picture; None if the profile is not one of curves and a matrix.
  """
  shaper = _read_shaper(profile)
  if shaper is None:
    return None
  is_gray = pixels.shape[2] < 3
  if not is_gray and space(profile) == 'GRAY':
    return None
  color = np.repeat(pixels[..., :1], 3, axis=2) if is_gray else pixels[..., :3]
  color = shaper.to_srgb(color)
  color = color[..., 1:2] if is_gray else color
  alpha = pixels[..., -1:] if pixels.shape[2] in (2, 4) else pixels[..., :0]
  return np.concatenate([color, alpha], axis=2)
