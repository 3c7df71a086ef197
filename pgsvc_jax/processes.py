"""Several processes that fit one picture: what they compare, and share.

Other machines may round differently, so that what is decided on the host is
decided by process 0, and taken by all.
"""

from collections.abc import Sequence
import pickle
from typing import TypeVar
import zlib

import jax
from jax.experimental import multihost_utils
import numpy as np

_T = TypeVar('_T')


def are_several(devices: Sequence[jax.Device]) -> bool:
  """Whether the devices belong to several processes."""
  return len({device.process_index for device in devices}) > 1


def require_agreement(
    images: list, pixel_weights: list, settings: tuple, num_devices: int
) -> None:
  """Compares the fit with that of the other processes.

  Different programs would wait for each other forever, and bands of different
  pictures would make one.

  Raises:
    ValueError: the other processes fit something else; in all of them.
  """
  if len(images) > 1:
    raise ValueError('several processes fit one picture at a time')
  text = f'{images[0].shape} {settings} {num_devices}'.encode()
  digest = zlib.crc32(images[0].tobytes(), zlib.crc32(text))
  digest = np.uint32(zlib.crc32(pixel_weights[0].tobytes(), digest))
  with jax.transfer_guard('allow'):  # It places its arrays implicitly.
    digests = multihost_utils.process_allgather(digest)
  if len(np.unique(digests)) > 1:
    raise ValueError('the processes do not have the same picture and settings')


def object_of_first(value: _T) -> _T:
  """What process 0 has, in all: any Python object."""
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  with jax.transfer_guard('allow'):
    size = multihost_utils.broadcast_one_to_all(np.int32(len(data)))
    data = np.resize(data, int(size))
    return pickle.loads(multihost_utils.broadcast_one_to_all(data).tobytes())


def arrays_of_first(tree: _T) -> _T:
  """The arrays that process 0 has, in all; of the same shapes everywhere."""
  with jax.transfer_guard('allow'):  # It places its arrays implicitly.
    return multihost_utils.broadcast_one_to_all(tree)
