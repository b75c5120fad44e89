"""Generative models in JAX and Flax: train, resume, sample, measure.

A trained model in Python:

    import diffusion_jax as dj
    images = dj.load("runs/digits").sample(16)
"""

import importlib
from typing import Any

# Imported when they are first used, so that importing the package costs nothing.
_MODULES = {"load": "trained", "TrainedModel": "trained"}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"{__name__} has no {name!r}.")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
