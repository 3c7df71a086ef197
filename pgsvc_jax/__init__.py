"""Pictures as layered, progressively decodable sums of 2D Gaussian splats.

The public names. They load on first use: reading a file needs no JAX.

A picture to bytes and back; any prefix of the layers is a picture:

>>> import numpy as np
>>> import pgsvc_jax
>>> picture = np.tile(np.linspace(0, 1, 48, dtype=np.float32), (32, 1))
>>> picture = picture[..., np.newaxis]
>>> fit = pgsvc_jax.FitConfig(layer_splats=(8, 8), num_steps=100)
>>> data = pgsvc_jax.encode(picture, pgsvc_jax.EncodeConfig(fit=fit))
>>> base, full = (pgsvc_jax.decode(data, num_layers=k) for k in (1, 2))
>>> full.shape, full.dtype
((32, 48, 1), dtype('uint8'))
>>> pgsvc_jax.psnr_db(base, picture) < pgsvc_jax.psnr_db(full, picture)
True

`encode` and `decode` take videos, paths and files, too.

A picture in parts: `fit_picture` makes `LayeredSplats`, `write` makes a file of
them, `read_layers` reads it, `render_picture` shows them. `composite` is the
differentiable operator below, for programs of your own.
"""

import lazy_loader

__version__ = '0.1.0'

# The names and where they come from stand in __init__.pyi, once for type
# checkers and for this.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
