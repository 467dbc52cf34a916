"""jaxact: activation functions, residual networks, and rank by depth, in JAX and Flax.

The namespaces are the interface: ``jaxact.activations``, ``jaxact.spectral``, ``jaxact.theory``,
``jaxact.wiring``, ``jaxact.models``, ``jaxact.analysis``, ``jaxact.training``, ``jaxact.io`` and
``jaxact.experiments``. Each is imported on first use, so that ``jaxact.activations`` and
``jaxact.spectral`` never load Flax.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxact import activations as activations
    from jaxact import analysis as analysis
    from jaxact import experiments as experiments
    from jaxact import io as io
    from jaxact import models as models
    from jaxact import spectral as spectral
    from jaxact import theory as theory
    from jaxact import training as training
    from jaxact import wiring as wiring

try:
    __version__ = importlib.metadata.version("jaxact")
except importlib.metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "activations",
    "analysis",
    "experiments",
    "io",
    "models",
    "spectral",
    "theory",
    "training",
    "wiring",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"jaxact.{name}")
    raise AttributeError(f"module 'jaxact' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
