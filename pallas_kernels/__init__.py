"""Differentiable compositing of layered 2D Gaussian splats.

Arrays in, arrays out; see `pallas_kernels.api.composite`.
"""

from pallas_kernels.api import IMPLEMENTATIONS as IMPLEMENTATIONS
from pallas_kernels.api import Implementation as Implementation
from pallas_kernels.api import composite as composite
from pallas_kernels.api import composite_error as composite_error
