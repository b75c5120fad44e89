"""Generative models in JAX and Flax: train, resume, sample, measure.

A trained model in Python:

    import diffusion_jax as dj
    images = dj.load("runs/digits").sample(16)
    dj.show(images)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers cannot follow __getattr__
    from diffusion_jax.outputs.images import show as show
    from diffusion_jax.trained import TrainedModel as TrainedModel
    from diffusion_jax.trained import load as load
    from diffusion_jax.trained import train as train

__version__ = "0.1.0"  # setup.cfg and --version read it

# Imported when they are first used, so that importing the package costs nothing.
_MODULES = {
    "TrainedModel": "trained",
    "load": "trained",
    "show": "outputs.images",
    "train": "trained",
}
__all__ = ["TrainedModel", "__version__", "load", "show", "train"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"{__name__} has no {name!r}.")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
