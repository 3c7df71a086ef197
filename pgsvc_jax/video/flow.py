"""Motion between two frames, and cuts, as seen in the source (encoder only)."""

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
import lazy_loader
import numpy as np
import scipy.ndimage

from pgsvc_jax.video import motion

# Loaded on first use: `encode` takes pictures without it.
if TYPE_CHECKING:
  import cv2
else:
  cv2 = lazy_loader.load('cv2')

# Pixels across the windows in which a new frame is compared.
_WINDOW = 16


def _gray(frame: Float[np.ndarray, 'h w c']) -> np.ndarray:
  return np.rint(255 * np.clip(frame, 0, 1).mean(-1)).astype(np.uint8)


def _dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
  """Where each pixel of one gray frame goes in another, [h, w, 2] pixels.

  Dense inverse search (Kroeger et al., 2016).
  """
  # Its pyramid needs some pixels.
  if min(before.shape) < 32:
    return np.zeros((*before.shape, 2), np.float32)
  search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  # One thread gives one result.
  cv2.setNumThreads(1)
  return search.calc(before, after, None)


def motion_field(
    before: Float[np.ndarray, 'h w c'],
    after: Float[np.ndarray, 'h w c'],
    log2_block: int,
) -> Int[np.ndarray, 'rows cols 2']:
  """The field that moves one frame to another: medians over blocks.

  Args:
    before: the frame whose splats are moved, in [0, 1].
    after: where they go to.
    log2_block: of the pixels across a block.

  Returns:
    Vectors (x, y) in 2**-motion.VECTOR_BITS pixels.
  """
  flow = _dense_flow(_gray(before), _gray(after))
  rows, cols = motion.field_shape(*flow.shape[:2], log2_block)
  block = 1 << log2_block
  pad = rows * block - flow.shape[0], cols * block - flow.shape[1]
  flow = np.pad(flow, ((0, pad[0]), (0, pad[1]), (0, 0)), mode='edge')
  blocks = flow.reshape(rows, block, cols, block, 2).swapaxes(1, 2)
  medians = np.median(blocks.reshape(rows, cols, -1, 2), axis=2)
  vectors = np.rint(medians * 2**motion.VECTOR_BITS).astype(np.int64)
  return np.clip(vectors, -motion.VECTOR_LIMIT, motion.VECTOR_LIMIT)


def cut_ratio(
    before: Float[np.ndarray, 'h w c'],
    after: Float[np.ndarray, 'h w c'],
    num_splats: int,
) -> float:
  """How much worse a frame starts from the one before than from nothing.

  Args:
    before: a frame in [0, 1].
    after: the next one.
    num_splats: that show a frame.

  Returns:
    Squared error of the frame before, moved, over that of a frame of as many
    constant blocks as there are splats, which stand for splats born afresh; or
    what a quarter of the frame exceeds in windows of 16 x 16 pixels, if that is
    less: an object that comes or goes before a flat ground is no cut.
  """
  before, after = _gray(before), _gray(after)
  # Backward: every pixel of the new frame looks for where it came from.
  flow = _dense_flow(after, before)
  rows, cols = np.indices(after.shape, np.float32)
  warped = cv2.remap(
      before,
      cols + flow[..., 0],
      rows + flow[..., 1],
      cv2.INTER_LINEAR,
      borderMode=cv2.BORDER_REPLICATE,
  )
  target = after.astype(np.float64)
  size = max(2, round((after.size / max(num_splats, 1)) ** 0.5))
  mean = scipy.ndimage.uniform_filter(target, size)
  fresh = (target - mean) ** 2
  moved = (target - warped) ** 2
  # A code value of noise is no cut.
  whole = np.mean(moved) / (np.mean(fresh) + 1)
  local = scipy.ndimage.uniform_filter(moved, _WINDOW) / (
      scipy.ndimage.uniform_filter(fresh, _WINDOW) + 1
  )
  return float(min(whole, np.quantile(local, 0.75)))
