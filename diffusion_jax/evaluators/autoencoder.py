"""Evaluators of autoencoders: the ELBO and the reconstruction error."""

import math
import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data import loader
from diffusion_jax.data.base import Source
from diffusion_jax.evaluators.base import (
    MAX_VALUES,
    Evaluator,
    Record,
    check_held_out,
    over_held_out,
)
from diffusion_jax.methods.base import OTHER_METRIC, check_range
from diffusion_jax.metrics import latents
from diffusion_jax.metrics.statistics import mean_and_error
from diffusion_jax.training.state import Variables


def make_elbo(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the negative ELBO of eval.split in nats.

    Grey pixels that are not binarised (vae.binarize) have no Bernoulli likelihood: the
    metrics are then values of the loss, not a bound.
    """
    elbo = over_held_out(config, method, "elbo")

    def evaluate(variables: Variables) -> Iterator[Record]:
        names = "reconstruction", "kl", "importance_bound", "latent"
        rows = inference.collect(elbo(variables), *names)
        nats, error = mean_and_error(rows["reconstruction"] + rows["kl"])
        metrics = {
            "negative_elbo": nats,
            "standard_error": error,
            "reconstruction": mean_and_error(rows["reconstruction"])[0],
            "kl": mean_and_error(rows["kl"])[0],
            "negative_importance_bound": -mean_and_error(rows["importance_bound"])[0],
            "active_units": latents.active_units(rows["latent"]),
            "num_latents": method.num_latents,
        }
        settings = {
            "split": config.eval.split,
            "num_examples": len(rows["kl"]),
            "num_importance": config.eval.num_importance,
            **config.vae,
            "seed": config.eval.seed,
        }
        yield Record(metrics, settings)

    return evaluate


def make_reconstruction(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the squared reconstruction error of eval.split.

    The error is a mean over values, rescaled from [-1, 1] to [0, 1]. For small images,
    the error of PCA with the same number of components, fitted on the training data, is
    reported as well.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data do not match the config, or do not lie in [-1, 1].
    """
    check_held_out(config)
    check_range(method.field, "eval.metric reconstruction", OTHER_METRIC)
    reconstruct = over_held_out(config, method, "reconstruct")
    pca = {}
    if math.prod(method.field.shape) <= MAX_VALUES:
        train, test = (
            _vectors(source, method.data)
            for source in (run_data.open_train(config), run_data.open_held_out(config))
        )
        num = min(method.num_latents, train.shape[1])
        pca = {"squared_error_of_pca": latents.pca_mse(train, test, num)}

    def evaluate(variables: Variables) -> Iterator[Record]:
        errors = np.concatenate(
            [_squared_errors(batch["rows"]) for batch in reconstruct(variables)]
        )
        mean, error = mean_and_error(errors)
        metrics = {"squared_error": mean, "standard_error": error, **pca}
        settings = {"split": config.eval.split, "num_examples": len(errors)}
        yield Record(metrics, settings)

    return evaluate


def _squared_errors(rows: np.ndarray) -> np.ndarray:
    """[N, 2, ...] in [-1, 1] -> the mean squared difference in [0, 1], [N]."""
    difference = (rows[:, 1] - rows[:, 0]) / 2
    return np.square(difference).reshape(len(rows), -1).mean(axis=1)


def _vectors(source: Source, name: str) -> np.ndarray:
    x = loader.to_batch(source, np.arange(len(source)))[name]
    return (x.reshape(len(x), -1) + 1) / 2
