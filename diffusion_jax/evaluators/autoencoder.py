"""What autoencoders keep of a picture."""

import pathlib
from collections.abc import Iterator

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import sources
from diffusion_jax.evaluators.base import (
    MAX_VALUES,
    Measure,
    Record,
    check_held_out,
    mean_and_error,
    over_epoch,
    read,
)
from diffusion_jax.metrics import latents
from diffusion_jax.training.state import TrainState


def make_elbo(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Minus the bound of eval.split in nats, its parts, and what the latents do.

    Grey pixels that are not drawn as coins (vae.binarize) have no Bernoulli likelihood:
    there these are the loss's own nats, and bound nothing.
    """
    run = methods.make_evaluate(method, config.eval.seed)
    runs.open_held_out(config)  # refused before anything is compiled

    def measure(state: TrainState) -> Iterator[Record]:
        measured = over_epoch(run, state, config)
        nats, error = mean_and_error(measured["reconstruction"] + measured["kl"])
        found = {
            "negative_elbo": nats,
            "standard_error": error,
            "reconstruction": mean_and_error(measured["reconstruction"])[0],
            "kl": mean_and_error(measured["kl"])[0],
            "negative_importance_bound": -mean_and_error(measured["importance_bound"])[
                0
            ],
            "active_units": latents.active_units(measured["code"]),
            "num_latents": method.num_latents,
        }
        settings = {
            "split": config.eval.split,
            "num_examples": len(measured["kl"]),
            "num_importance": config.eval.num_importance,
            **config.vae,
            "seed": config.eval.seed,
        }
        yield Record(found, settings)

    return measure


def make_reconstruction(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """The squared error of eval.split, a mean over values in [0, 1], and where pictures
    are small that of as many principal components of the train split."""
    check_held_out(config)
    run = methods.make_evaluate(method, config.eval.seed)
    held_out, of_pca = runs.open_held_out(config), {}
    if np.prod(method.image_shape) <= MAX_VALUES:
        train, test = _vectors(runs.open_train(config)), _vectors(held_out)
        num = min(method.num_latents, train.shape[1])
        of_pca = {"squared_error_of_pca": latents.pca_mse(train, test, num)}

    def measure(state: TrainState) -> Iterator[Record]:
        measured = over_epoch(run, state, config)
        mean, error = mean_and_error(measured["squared_error"])
        found = {
            "squared_error": mean,
            "standard_error": error,
            **of_pca,
        }
        num = len(measured["squared_error"])
        yield Record(found, {"split": config.eval.split, "num_examples": num})

    return measure


def _vectors(source: sources.Source) -> np.ndarray:
    images, _ = read(source, np.arange(len(source)))
    return (images.reshape(len(images), -1) + 1) / 2
