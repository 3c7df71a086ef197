"""Names of before: they work for one release, with a warning."""

from collections.abc import Iterator
from typing import Any, BinaryIO
import warnings

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax import decoder


def decode_video(
    data: bytes | BinaryIO, num_layers: int | None = None, **options: Any
) -> Iterator[UInt8[np.ndarray, 'h w c']]:
  """Deprecated: `decode` takes videos.

  Args:
    data: as in `decode`.
    num_layers: as in `decode`.
    options: of `decode`.

  Returns:
    The frames.

  Example:
    >>> with warnings.catch_warnings():
    ...   warnings.simplefilter('ignore')
    ...   decode_video('clip.pgsvc')
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'clip.pgsvc'
  """
  _warn('decode_video', 'decode')
  frames = decoder.decode_frames(data, num_layers, **options)
  return (frame.pixels for frame in frames)


def _warn(old: str, new: str) -> None:
  warnings.warn(
      f'{old} will be removed: {new} does it', DeprecationWarning, stacklevel=3
  )
