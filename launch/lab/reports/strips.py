"""Prefixes of a file beside the original, as small pictures in data URIs."""

import base64
import io
import pathlib

import numpy as np
from PIL import Image
from scipy import ndimage

from pgsvc_jax import media
from pgsvc_jax import render
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback

from ...evaluation import folders
from ...evaluation import results
from ...videos import quality as video_quality
from ...videos import source as video_source

_WIDTH = 300
_CROP = 100


def worst_window(
    images: list[np.ndarray], reference: np.ndarray, size: int
) -> tuple[slice, slice]:
  """The square where 8-bit pictures differ most from the original."""
  error = sum(
      ((image / np.float32(255) - reference) ** 2).mean(-1) for image in images
  )
  blurred = ndimage.uniform_filter(error, size, mode='constant')
  # The filter names a square by its middle.
  half = size // 2
  height, width = (side - size + 1 for side in error.shape)
  inside = blurred[half : half + height, half : half + width]
  top, left = np.unravel_index(inside.argmax(), inside.shape)
  return slice(top, top + size), slice(left, left + size)


def _uri(image: Image.Image, quality: int) -> str:
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=quality, optimize=True, subsampling='4:4:4')
  return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def _cells(image: np.ndarray, window: tuple[slice, slice]) -> dict:
  """The whole picture, made smaller, and a part of it, enlarged by the page."""
  channels = image.shape[2]
  # Alpha is left out.
  shown = Image.fromarray(image[..., 0] if channels < 3 else image[..., :3])
  height = max(1, round(_WIDTH * shown.height / shown.width))
  small = shown.width > _WIDTH
  whole = shown.resize((_WIDTH, height), Image.Resampling.LANCZOS)
  rows, columns = window
  crop = shown.crop((columns.start, rows.start, columns.stop, rows.stop))
  return {'whole': _uri(whole if small else shown, 85), 'crop': _uri(crop, 92)}


def _quality(psnr_db: float | None, row: dict, picture: dict) -> str:
  """PSNR of a prefix, and the size it is at if not that of the original."""
  quality = 'exact' if psnr_db is None else f'{psnr_db:.2f} dB'
  if not results.is_smaller(row, picture):
    return quality
  return f'{quality} at {row["width"]} x {row["height"]}'


def _caption(row: dict, picture: dict) -> str:
  return (
      f'{row["layer"] + 1} layer{"s" if row["layer"] else ""}:'
      f' {row["splats"]:,} splats, {row["bytes"]:,} bytes,'
      f' {row["bpp"]:.3f} bpp, {_quality(row["psnr_db"], row, picture)}'
  )


def _checked(
    folder: pathlib.Path, file: dict, picture: dict
) -> list[pathlib.Path]:
  """The paths of a file and its original, if they are what was measured.

  Raises:
    ValueError: one is not there, or has changed.
  """
  paths = [folder / row['path'] for row in (file, picture)]
  for path, row in zip(paths, (file, picture)):
    if not path.is_file():
      raise ValueError(f'{row["path"]} is not there')
    if folders.sha256(path) != row['sha256']:
      raise ValueError(f'{row["path"]} has changed since it was measured')
  return paths


def _strip(
    images: list[np.ndarray],
    reference: np.ndarray,
    captions: list[str],
    name: str,
) -> list[dict]:
  """Cells of the prefixes and of the original."""
  size = min(_CROP, *reference.shape[:2])
  window = worst_window(images, reference, size)
  images = [*images, media.to_uint8(reference)]
  return [
      _cells(image, window) | {'caption': caption}
      for image, caption in zip(images, [*captions, f'original {name}'])
  ]


def make(folder: pathlib.Path, file: dict, picture: dict) -> list[dict]:
  """Decodes every prefix of a file.

  Args:
    folder: of results.json, to which its paths are relative.
    file: its row of the file.
    picture: its row of the original.

  Returns:
    {whole, crop, caption} of each prefix and of the original.

  Raises:
    ValueError: a file is not there, or not the one that was measured.
  """
  paths = _checked(folder, file, picture)
  layered = bitstream.read_layers(paths[0].read_bytes())
  reference = media.read_picture(paths[1]).pixels
  images = list(render.render_prefixes(layered))
  captions = [_caption(row, picture) for row, _ in zip(file['layers'], images)]
  return _strip(images, reference, captions, picture['name'])


def make_video(
    folder: pathlib.Path, file: dict, picture: dict, index: int
) -> list[dict]:
  """Decodes every prefix of one frame of a video; as `make`.

  Args:
    folder: of results.json, to which its paths are relative.
    file: its row of the file.
    picture: its row of the original.
    index: of the frame in the file.
  """
  paths = _checked(folder, file, picture)
  source = video_source.Source(
      path=str(paths[1]), options=video_source.parse_options(picture['select'])
  )
  rows = [row for row in file['layers'] if row['available']]
  images = []
  with open(paths[0], 'rb') as opened:
    reader = stream.StreamReader(opened)
    for row in rows:
      (frame,) = playback.frames(
          reader, num_layers=row['layer'] + 1, first_frame=index, num_frames=1
      )
      images.append(render.render_picture(frame.layered))
    time = frame.time * reader.header.time_base
  (reference,) = video_quality.originals(source, [time])
  captions = [
      f'{row["layer"] + 1} layer{"s" if row["layer"] else ""}: '
      + _quality(row['per_frame']['psnr_db'][index], row, picture)
      for row in rows
  ]
  return _strip(images, reference, captions, picture['name'])
