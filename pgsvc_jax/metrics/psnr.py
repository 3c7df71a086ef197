"""Peak signal-to-noise ratio."""

import numpy as np

from pgsvc_jax.metrics import metric


def psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
  """Peak signal-to-noise ratio for values in [0, 1].

  Args:
    image: any shape; uint8 is divided by 255.
    reference: the same shape; uint8 is divided by 255.

  Returns:
    Decibels; infinity for equal pictures.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> psnr_db(np.full((4, 4, 1), 0.6), np.full((4, 4, 1), 0.5))
    20.0
  """
  if np.shape(image) != np.shape(reference):
    metric.comparable(image, reference)  # Says so.
  # Row by row: in float64, the pictures of a fit would take all its memory.
  rows = zip(np.atleast_1d(image), np.atleast_1d(reference))
  error = sum(
      np.sum(np.square(np.subtract(*metric.comparable(*row)))) for row in rows
  )
  error /= np.size(image)
  return float(-10 * np.log10(error)) if error else float('inf')


METRICS = (
    metric.Metric(
        name='psnr_db', title='PSNR', unit='dB', function=psnr_db, order=0
    ),
)
