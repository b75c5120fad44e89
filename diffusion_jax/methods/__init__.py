"""Model families: how each one trains, and the tasks of its trained model."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.lookup import lookup
from diffusion_jax.methods import (
    autoencoder,
    cascade,
    classifier,
    contrastive,
    cyclegan,
    dalle,
    dvae,
    gan,
    language_model,
    pix2pix,
    seq2seq,
)
from diffusion_jax.methods.base import Fields, Method, Task
from diffusion_jax.methods.ddpm import config as ddpm
from diffusion_jax.methods.ranges import check, check_training

__all__ = [
    "FAMILIES",
    "Method",
    "Task",
    "check",
    "check_training",
    "make",
    "make_task",
    "task_options",
]

LOGGER = logging.getLogger(__name__)


def make(config: ConfigDict, fields: Fields) -> Method:
    """Builds the method that a config describes.

    Args:
      config: the run's config.
      fields: the fields of the training data.

    Raises:
      ValueError: a number is outside its range, a name is unknown, or values contradict
        each other or the data.
      TypeError: a group of the config has unknown or missing keys.
    """
    check(config)
    method = lookup(FAMILIES, config.method, "method").make(config, fields)
    num_classes = config.model.get("num_classes", 0)
    found = fields["label"].size if "label" in fields else None
    if found and found < num_classes:
        LOGGER.warning(
            "model.num_classes = %d is more than the %d classes of the data: nothing "
            "is learned about the others.",
            num_classes,
            found,
        )
    return method


def make_task(config: ConfigDict, method: Method, name: str, **options: Any) -> Task:
    """Makes a task with the options in the config's groups sample and eval.

    Args:
      config: the run's config.
      method: the method built from the config.
      name: the task's name.
      **options: values that override the config's.

    Raises:
      ValueError: the family has no such task, or an option is invalid.
    """
    options_class, make_named = _row_of_task(config, name)
    return make_named(method, options_class(**task_options(config, name) | options))


def task_options(config: ConfigDict, name: str) -> dict[str, Any]:
    """Returns a task's options by name, as in the config's groups sample and eval.

    Args:
      config: the run's config.
      name: the task's name.

    Raises:
      ValueError: the family has no such task.
    """
    options_class, _ = _row_of_task(config, name)
    values = {**config.eval, **config.sample}
    return {x.name: values[x.name] for x in dataclasses.fields(options_class)}


def _row_of_task(config: ConfigDict, name: str) -> tuple[type, Callable]:
    tasks = FAMILIES[config.method].tasks
    return lookup(tasks, name, f"task of a {config.method} model")


FAMILIES = {
    "ddpm": ddpm.FAMILY,
    "cascade": cascade.FAMILY,
    "autoencoder": autoencoder.AUTOENCODER_FAMILY,
    "vae": autoencoder.VAE_FAMILY,
    "dvae": dvae.FAMILY,
    "gan": gan.FAMILY,
    "cyclegan": cyclegan.FAMILY,
    "pix2pix": pix2pix.FAMILY,
    "classifier": classifier.FAMILY,
    "contrastive": contrastive.FAMILY,
    "language_model": language_model.FAMILY,
    "seq2seq": seq2seq.FAMILY,
    "dalle": dalle.FAMILY,
}
