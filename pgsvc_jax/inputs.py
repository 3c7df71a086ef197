"""What people hand over to be encoded, as pictures and videos. Needs no JAX."""

from collections.abc import Iterable, Iterator
import contextlib
import fractions
import os
import shutil
import tempfile
from typing import Any, BinaryIO

from jaxtyping import Float
import numpy as np
from PIL import Image

from pgsvc_jax import config as config_lib
from pgsvc_jax import media
from pgsvc_jax.video import frame_source
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format

# A picture, a video, or where one stands.
Source = (
    np.ndarray
    | Image.Image
    | media.Picture
    | video_media.VideoReader
    | frame_source.FrameSource
    | str
    | os.PathLike[str]
    | BinaryIO
    | Iterable[Any]
)

# Of these, a picture is the first frame.
ANIMATIONS = ('.gif', '.png', '.apng', '.webp')

_SCALES = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def read(
    source: Source,
    config: config_lib.EncodeConfig | config_lib.VideoConfig | None,
    frame_rate: fractions.Fraction | float,
    stack: contextlib.ExitStack,
) -> Float[np.ndarray, 'h w c'] | frame_source.FrameSource:
  """A picture as pixels, or a video as a source of frames.

  Args:
    source: either.
    config: the settings, which say what it is to be taken for; None: for what
      it is, of an animation the first frame.
    frame_rate: of frames without times.
    stack: closes and removes what was opened for it.

  Returns:
    Either.

  Raises:
    TypeError: it is neither, or not what the settings are for.
    ValueError: pixels or shapes are out of range; as `media.read_picture` and
      `media.open_video`.
  """
  _check_config(config)
  rate = fractions.Fraction(frame_rate).limit_denominator(1001)
  if rate <= 0:
    raise ValueError(f'{frame_rate=} is not positive')
  if hasattr(source, 'read') and not isinstance(source, Image.Image):
    file = stack.enter_context(tempfile.NamedTemporaryFile())
    shutil.copyfileobj(source, file)
    file.flush()
    source = file.name
  if isinstance(source, str | os.PathLike):
    opened = _read_path(source, config, rate)
  else:
    opened = _read_object(source, rate)
  is_video = isinstance(opened, frame_source.FrameSource)
  if is_video and isinstance(config, config_lib.EncodeConfig):
    raise TypeError(
        'the source is a video: give a VideoConfig, such as'
        ' VideoConfig(image=config), or one of its frames'
    )
  if not is_video and isinstance(config, config_lib.VideoConfig):
    raise TypeError(
        'the source is a picture: give an EncodeConfig, such as config.image;'
        ' [picture] is a video of one frame'
    )
  return opened


def _read_object(
    source: Any, rate: fractions.Fraction
) -> Float[np.ndarray, 'h w c'] | frame_source.FrameSource:
  """What is in memory, or gives frames."""
  if isinstance(source, frame_source.FrameSource):
    return source
  if isinstance(source, video_media.VideoReader):
    return frame_source.OpenVideo(source)
  if isinstance(source, Image.Image | media.Picture):
    return to_pixels(source)
  if hasattr(source, '__array__'):
    source = np.asarray(source)
    if source.ndim < 4:
      return to_pixels(source)
  elif isinstance(source, bytes | dict) or not isinstance(source, Iterable):
    raise TypeError(
        'a picture or video is an array, a path, an open file, a Pillow image'
        f' or frames, not {type(source).__name__}'
    )
  return frame_source.HeldFrames(_frames(source), rate)


def _read_path(
    path: str | os.PathLike[str],
    config: config_lib.EncodeConfig | config_lib.VideoConfig | None,
    rate: fractions.Fraction,
) -> Float[np.ndarray, 'h w c'] | frame_source.FrameSource:
  """A file, or a folder of frames."""
  is_folder = os.path.isdir(path)
  is_video = isinstance(config, config_lib.VideoConfig) or is_folder
  # Of an animation, a picture is the first frame.
  if not is_video and not os.fspath(path).lower().endswith(ANIMATIONS):
    with contextlib.suppress(ModuleNotFoundError):  # Without PyAV, none is.
      is_video = video_media.is_video(path)
  if not is_video:
    return media.read_picture(path).pixels
  options = {'frame_rate': rate} if is_folder else {}
  return frame_source.VideoFile(path=os.fspath(path), options=options)


def _frames(
    images: Iterable[Any],
) -> Iterator[stream_format.Frame]:
  """Frames of one size, each as long as the next."""
  shape = None
  for index, image in enumerate(images):
    if isinstance(image, stream_format.Frame):
      yield image
      continue
    if isinstance(image, str | os.PathLike):
      image = media.read_picture(image)
    pixels = to_pixels(image)
    shape = shape or pixels.shape
    if pixels.shape != shape:
      raise ValueError(
          f'frames are all of one size: {shape}, frame {index}: {pixels.shape}'
      )
    yield stream_format.Frame(pixels=pixels, time=index, duration=1)


def to_pixels(image: Any) -> Float[np.ndarray, 'h w c']:
  """A picture as floats in [0, 1].

  Args:
    image: [h, w, c] or [h, w]: floats in [0, 1], uint8 or uint16, which are
      divided by their largest value; a Pillow image; or what `read_picture`
      gives.

  Returns:
    The pixels, float32: gray, gray + alpha, RGB or RGB + alpha.

  Raises:
    ValueError: it is of another type, shape or range; the message says what to
      do.

  Example:
    >>> to_pixels(np.uint8([[[0, 255]]]))
    array([[[0., 1.]]], dtype=float32)
    >>> to_pixels(np.zeros((3, 20, 30)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the shape (3, 20, 30) is [c, h, w], ...(image, 0, -1)
  """
  if isinstance(image, media.Picture):
    return image.pixels
  if isinstance(image, Image.Image):
    image = _of_pillow(image)
  image = np.asarray(image)
  _check_shape(image.shape)
  if image.ndim == 2:
    image = image[..., np.newaxis]
  if scale := _SCALES.get(image.dtype):
    return image / np.float32(scale)
  if not np.issubdtype(image.dtype, np.floating):
    raise ValueError(
        f'pixels are floats in [0, 1], uint8 or uint16, not {image.dtype}:'
        ' image.astype(np.uint8), where they go from 0 to 255'
    )
  low, high = image.min(), image.max()
  if not (low >= 0 and high <= 1):
    hint = ': divide by 255' if 1 < high <= 255 and low >= 0 else ''
    raise ValueError(f'pixels lie in [{low:g}, {high:g}], not in [0, 1]{hint}')
  return np.asarray(image, np.float32)


def _check_shape(shape: tuple[int, ...]) -> None:
  """Raises ValueError where an array is no picture."""
  what = f'the shape {shape} is'
  if len(shape) not in (2, 3):
    raise ValueError(f'{what} no picture, which is [h, w, c] or [h, w]')
  if not np.prod(shape):
    raise ValueError(f'{what} a picture without pixels')
  if len(shape) == 3 and shape[2] > 4:
    if shape[0] <= 4 < min(shape[1:]):
      raise ValueError(
          f'{what} [c, h, w], a picture is [h, w, c]: np.moveaxis(image, 0, -1)'
      )
    raise ValueError(
        f'{what} [h, w, c] of {shape[2]} channels, a picture has 1 to 4; gray'
        ' frames are [t, h, w, 1]'
    )


def _of_pillow(image: Image.Image) -> np.ndarray:
  """The samples, palettes and other color spaces as RGB."""
  if image.mode.startswith('I;16'):
    return np.asarray(image, np.uint16)
  if image.mode == '1':
    image = image.convert('L')
  if image.mode not in ('L', 'LA', 'RGB', 'RGBA', 'I', 'F'):
    image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
  return np.asarray(image)


def _check_config(config: Any) -> None:
  """Raises TypeError where what is given is no settings of an encoder."""
  if isinstance(config, config_lib.FitConfig):
    raise TypeError(
        'config is a FitConfig: give EncodeConfig(fit=config), of a video'
        ' VideoConfig(image=EncodeConfig(fit=config))'
    )
  known = config_lib.EncodeConfig | config_lib.VideoConfig | None
  if not isinstance(config, known):
    raise TypeError(
        'config is an EncodeConfig for a picture, a VideoConfig for a video,'
        f' not {type(config).__name__}'
    )
