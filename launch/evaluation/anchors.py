"""Classical codecs as anchors: pictures encoded and decoded here, by Pillow."""

from collections.abc import Callable, Sequence
import dataclasses
import io
import time

from jaxtyping import UInt8
import numpy as np
import PIL
from PIL import Image
from PIL import features

from pgsvc_jax import media
from pgsvc_jax import metrics

_MODES = {1: 'L', 3: 'RGB'}
_DECODES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureCodec:
  """A codec and the points of its curve.

  Attributes:
    title: its name for people.
    format: Pillow's name.
    feature: what Pillow calls the library that it may be built without.
    varies: what a setting is.
    settings: from the lowest rate to about 2 bits a pixel of a photograph.
    options: of Pillow's `save`, for a setting and a number of channels.
    note: the options in words.
  """

  title: str
  format: str
  feature: str
  varies: str
  settings: tuple[float, ...]
  options: Callable[[float, int], dict]
  note: str


def _avif(title: str, more: dict) -> PictureCodec:
  """AVIF with further options; files depend on threads, so there is one."""
  return PictureCodec(
      title=title,
      format='AVIF',
      feature='avif',
      varies='quality',
      settings=(5, 15, 25, 35, 50, 65, 75, 85),
      options=lambda setting, channels: {
          'quality': setting,
          'subsampling': '4:4:4' if channels == 3 else '4:0:0',
          'speed': 2,
          'max_threads': 1,
          **more,
      },
      note='speed 2, 4:4:4, one thread',
  )


# Each at the options that are best in PSNR over RGB, as far as encoding stays
# quick. JPEG 2000 without `mct` keeps no luma and chroma apart: 4 dB less.
CODECS = {
    'jpeg': PictureCodec(
        title='JPEG',
        format='JPEG',
        feature='jpg',
        varies='quality',
        settings=(5, 10, 20, 35, 50, 70, 85, 92),
        options=lambda setting, channels: {
            'quality': setting,
            'progressive': True,
            'optimize': True,
            'subsampling': '4:2:0',
        },
        note='progressive, optimized tables, 4:2:0',
    ),
    'jpeg2000': PictureCodec(
        title='JPEG 2000',
        format='JPEG2000',
        feature='jpg_2000',
        varies='bits per pixel asked for',
        settings=(0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0),
        options=lambda setting, channels: {
            'irreversible': True,
            'mct': int(channels == 3),
            'quality_mode': 'rates',
            'quality_layers': [8 * channels / setting],
        },
        note='9/7 wavelet, color transform',
    ),
    'webp': PictureCodec(
        title='WebP',
        format='WEBP',
        feature='webp',
        varies='quality',
        settings=(1, 5, 20, 40, 60, 80, 90, 95),
        options=lambda setting, channels: {'quality': setting, 'method': 6},
        note='lossy, method 6 (the slowest), 4:2:0',
    ),
    # Speed 2 takes a tenth fewer bytes than speed 6. The default tuning, `iq`
    # since libavif 1.4, is for the eye, and takes 6 to 18 % more at equal PSNR.
    'avif': _avif('AVIF, tune=psnr', {'advanced': {'tune': 'psnr'}}),
    'avif_default': _avif('AVIF', {}),
}


def available(name: str) -> bool:
  """Whether the installed Pillow has the codec."""
  return bool(features.check(CODECS[name].feature))


def describe(name: str) -> dict:
  """What the figures of a codec depend on: title, options, versions."""
  codec = CODECS[name]
  return {
      'title': codec.title,
      'varies': codec.varies,
      'note': codec.note,
      'version': f'{features.version(codec.feature)}, by Pillow'
      f' {PIL.__version__}',
  }


def encode(
    name: str, setting: float, pixels: UInt8[np.ndarray, 'h w c']
) -> bytes:
  """The bytes of a file, as `save` would write it to disk."""
  codec, channels = CODECS[name], pixels.shape[2]
  image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
  file = io.BytesIO()
  image.save(file, format=codec.format, **codec.options(setting, channels))
  return file.getvalue()


def decode(data: bytes, channels: int) -> UInt8[np.ndarray, 'h w c']:
  """The picture of a file; WebP knows no gray, so that is taken back."""
  with Image.open(io.BytesIO(data)) as image:
    pixels = np.asarray(image.convert(_MODES[channels]))
  return pixels.reshape(*pixels.shape[:2], channels)


def suits(channels: int) -> bool:
  """Whether pictures of so many channels are compared: not those with alpha."""
  return channels in _MODES


def measure(
    name: str,
    setting: float,
    reference: np.ndarray,
    measured: Sequence[metrics.Metric],
) -> dict:
  """One point of a codec's curve, from the bytes of a whole file.

  Args:
    name: of CODECS.
    setting: of the codec's.
    reference: the picture, `[H, W, C]` in [0, 1], encoded at 8 bits.
    measured: what is measured.

  Returns:
    {setting, bytes, bpp, decode_ms} and the figures.
  """
  height, width, channels = reference.shape
  data = encode(name, setting, media.to_uint8(reference))
  times = []
  for _ in range(_DECODES):
    begin = time.perf_counter()
    decoded = decode(data, channels)
    times.append(1e3 * (time.perf_counter() - begin))
  return {
      'setting': setting,
      'bytes': len(data),
      'bpp': 8 * len(data) / (height * width),
      **metrics.score(measured, decoded, reference),
      'decode_ms': float(np.median(times)),
  }
