"""The smoke runs of the configs, with what a test wants otherwise."""

import pathlib
import runpy

from diffusion_jax import methods

ROOT = pathlib.Path(__file__).resolve().parents[2]


def config_of(name, **values):
    """A config at :tiny; keys of values are GROUP__NAME."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    for key, value in values.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def make(name, **values):
    """The method of such a config."""
    return methods.make(config_of(name, **values))
