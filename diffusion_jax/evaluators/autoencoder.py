"""Evaluators of autoencoders: the ELBO, the reconstruction error, discrete codes."""

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
from diffusion_jax.evaluators.feature_extractors import open_feature_extractor
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


def make_codes(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of a discrete autoencoder on eval.split.

    Reports the squared error of the reconstructions in units of [0, 1], their peak
    signal-to-noise ratio, -10 log10 of that error, in decibels, the perplexity of all
    codes of the split, and the share of codes that occur in it. With a classifier, it
    also reports its accuracy on the reconstructions and on the images themselves.

    Raises:
      FileNotFoundError: the data or the classifier are missing.
      ValueError: the data do not match the config, or do not lie in [-1, 1].
    """
    check_held_out(config)
    check_range(method.field, "eval.metric codes", OTHER_METRIC)
    reconstruct = over_held_out(config, method, "reconstruct")
    encode = over_held_out(config, method, "codes")
    extractor = None
    if config.eval.classifier:
        extractor = open_feature_extractor(
            config.eval.classifier, config.data.source, method.field.shape
        )

    def of_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The metrics of each example by name, [b] each."""
        by_example = {"squared_error": _squared_errors(batch["rows"])}
        if extractor:
            images = np.clip(batch["rows"], -1, 1)
            for column, name in ((1, "accuracy"), (0, "accuracy_real")):
                seen = extractor.extract(images[:, column])["probabilities"]
                by_example[name] = seen.argmax(axis=1) == batch["label"]
        return by_example

    def evaluate(variables: Variables) -> Iterator[Record]:
        batches = [of_batch(batch) for batch in reconstruct(variables)]
        columns = {
            name: np.concatenate([batch[name] for batch in batches])
            for name in batches[0]
        }
        codes = inference.collect(encode(variables), "codes")["codes"]
        num_codes = method.network.num_codes
        mean, error = mean_and_error(columns.pop("squared_error"))
        perplexity, usage = latents.codebook_use(codes, num_codes)
        metrics = {
            "squared_error": mean,
            "standard_error": error,
            "psnr": -10 * math.log10(mean) if mean else math.inf,
            "perplexity": perplexity,
            "usage": usage,
            "num_codes": num_codes,
            **{name: float(x.mean()) for name, x in columns.items()},
        }
        settings = {"split": config.eval.split, "num_examples": len(codes)}
        if extractor:
            settings["classifier"] = extractor.name
            settings["classifier_id"] = extractor.id
        yield Record(metrics, settings)

    return evaluate


def _squared_errors(rows: np.ndarray) -> np.ndarray:
    """[N, 2, ...] in [-1, 1] -> the mean squared difference in [0, 1], [N]."""
    difference = (rows[:, 1] - rows[:, 0]) / 2
    return np.square(difference).reshape(len(rows), -1).mean(axis=1)


def _vectors(source: Source, name: str) -> np.ndarray:
    x = loader.to_batch(source, np.arange(len(source)))[name]
    return (x.reshape(len(x), -1) + 1) / 2
