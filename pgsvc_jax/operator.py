"""The operator of `pallas_kernels`, for the public names of this package."""

from pallas_kernels.api import composite as composite
from pallas_kernels.api import composite_error as composite_error
from pgsvc_jax import types

types.register_pytrees()
