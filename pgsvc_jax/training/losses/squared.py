"""The squared error: what PSNR measures."""

import pallas_kernels
from pgsvc_jax.training import losses

LOSS = losses.Loss(
    error_fn=pallas_kernels.composite_error, unit='squared error'
)
