from .api import composite as composite
from .api import composite_error as composite_error
from .dispatch import IMPLEMENTATIONS as IMPLEMENTATIONS
from .dispatch import Implementation as Implementation
from .dispatch import default_implementations as default_implementations
