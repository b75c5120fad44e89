"""Methods of the tiny configs, and batches for them, without opening any data."""

import functools
import pathlib
import runpy

import jax
import numpy as np

from diffusion_jax import methods
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.data.texts import tokens_field
from diffusion_jax.data.vocabulary import build

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def _get_config(name):
    return runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]


def config_of(name, **values):
    """The config NAME:tiny with values by GROUP__KEY."""
    config = _get_config(name)("tiny")
    values = {key.replace("__", "."): value for key, value in values.items()}
    config.update_from_flattened_dict(values)
    return config


def fields_of(config):
    """The fields of the data that a config describes."""
    data = config.data
    if data.source == "grid25":
        return {"points": Field((2,), np.float32, "points"), "label": label_field(25)}
    if "context" in data:
        vocabulary = build("characters", ["abcdef"])
        return {"tokens": tokens_field(data.context + 1, vocabulary)}
    image = image_field((data.image_size, data.image_size, data.num_channels))
    labels = {"label": 10} | {x: 3 for x in config.model.get("labels", ())[1:]}
    fields = {"image": image, **{x: label_field(n) for x, n in labels.items()}}
    if config.method == "pix2pix":
        return fields | {"cond_image": image}
    if "source_b" not in data:
        return fields
    return {f"{name}_{x}": field for name, field in fields.items() for x in "ab"}


@functools.cache
def make(name, **values):
    """The method of such a config."""
    config = config_of(name, **values)
    return methods.make(config, fields_of(config))


def task_of(name, method, task, **options):
    """A task of a method, with the options of the config NAME:tiny and these."""
    return methods.make_task(config_of(name), method, task, **options)


@functools.cache
def compiled(name, method, task, **options):
    """Such a task as a compiled function."""
    return jax.jit(task_of(name, method, task, **options).run)


def images(n, size=8, seed=1):
    """Uniform noise in [-1, 1], [n, size, size, 1]."""
    shape = (n, size, size, 1)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
