"""Differentiable compositing of layered 2D Gaussian splats.

Arrays in, arrays out; see `composite`. Names load on first use, so the Numba
kernels can be had without importing JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
