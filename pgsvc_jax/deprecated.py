"""Names of before: they work for one release, with a warning."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO
import warnings

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax import decoder

if TYPE_CHECKING:
  from pgsvc_jax import config as config_lib


def encode_video(
    frames: Iterable[np.ndarray],
    config: 'config_lib.VideoConfig | None' = None,
    *,
    device: Any = None,
    **options: Any,
) -> bytes:
  """Deprecated: `encode` takes videos.

  Args:
    frames: as in `encode`.
    config: as in `encode`.
    device: the only one in `devices`.
    options: of `encode`.

  Returns:
    The bytes of the file.

  Example:
    >>> with warnings.catch_warnings():
    ...   warnings.simplefilter('ignore')
    ...   encode_video([])
    Traceback (most recent call last):
    ValueError: a video has at least a frame
  """
  from pgsvc_jax import encoder  # JAX: decoding needs none.

  _warn('encode_video', 'encode')
  if device is not None:
    options['devices'] = [device]
  # An array of gray frames was no picture there, and none is here.
  return encoder.encode(iter(frames), config, **options)


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
