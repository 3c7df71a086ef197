"""P-GSVC: pictures as layered, progressively decodable sums of 2D splats.

The public names. They load on first use: reading a file needs no JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'bitstream': [
            'BitstreamError',
            'Header',
            'extract',
            'read_header',
            'read_layers',
            'write',
        ],
        'config': ['FitConfig'],
        'fit': ['DivergenceError', 'Progress', 'fit_picture', 'fit_pictures'],
        'media': ['MediaError', 'Picture', 'read_picture', 'write_picture'],
        'metrics': ['ms_ssim', 'psnr_db'],
        'quantize': ['StepSizes'],
        'render': ['first_layers', 'render_picture', 'render_prefixes'],
        'types': ['LayeredSplats', 'Splats'],
    },
)
