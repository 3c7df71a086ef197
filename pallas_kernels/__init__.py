"""Differentiable compositing of layered 2D Gaussian splats.

Arrays in, arrays out; see `pallas_kernels.api.composite`. Names load on first
use, so the Numba kernels can be had without importing JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'api': ['composite', 'composite_error'],
        'dispatch': [
            'IMPLEMENTATIONS',
            'Implementation',
            'default_implementations',
        ],
    },
)
