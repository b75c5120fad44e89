"""Evaluators of the likelihood of a diffusion model."""

import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import methods, paths
from diffusion_jax.evaluators.base import Evaluator, Record, over_held_out
from diffusion_jax.metrics import likelihood
from diffusion_jax.outputs import plots, writers
from diffusion_jax.training import parallel
from diffusion_jax.training.state import Variables


def make_vlb(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of bits/dim of eval.split, split into the three VLB terms."""
    vlb = over_held_out(config, method, "vlb")
    num_values = math.prod(method.field.shape)

    def evaluate(variables: Variables) -> Iterator[Record]:
        metrics = likelihood.bits_per_dim(vlb(variables), num_values)
        yield Record(metrics, {"clipped": True, **_settings(config)})

    return evaluate


def make_rate_distortion(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of progressive compression: distortion against rate.

    It writes the curve of eval.split to rate_distortion.csv and rate_distortion.png and
    reports its last point. The rate excludes the decoder term, which a receiver needs
    to reconstruct the exact image.
    """
    vlb = over_held_out(config, method, "vlb")
    rate_distortion = functools.partial(
        likelihood.rate_distortion,
        num_values=math.prod(method.field.shape),
        num_timesteps=config.diffusion.num_timesteps,
    )

    def evaluate(variables: Variables) -> Iterator[Record]:
        columns = rate_distortion(vlb(variables))
        if parallel.process_index() == 0:
            path = workdir / "rate_distortion.csv"
            writers.write_csv(path, columns)
            with paths.writing(path.with_suffix(".png")):
                plots.save_rate_distortion(path.with_suffix(".png"), columns)
        metrics = {name: float(columns[name][-1]) for name in ("rate", "distortion")}
        settings = {"num_rows": len(columns["rate"]), "clipped": True}
        yield Record(metrics, settings | _settings(config))

    return evaluate


def make_ode_likelihood(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of bits/dim of eval.split from the probability-flow ODE.

    It uses Heun's method over the timesteps of sample.num_steps and sample.spacing plus
    T and 1, with uniform dequantisation; eval.num_probes = 0 computes the exact trace.
    """
    log_likelihood = over_held_out(config, method, "log_likelihood")
    num_values = math.prod(method.field.shape)

    def evaluate(variables: Variables) -> Iterator[Record]:
        metrics = likelihood.density_bits_per_dim(log_likelihood(variables), num_values)
        settings = {
            "num_probes": config.eval.num_probes,
            "num_steps": config.sample.num_steps,
            "spacing": config.sample.spacing,
            "dequantization": "uniform",
            "clipped": False,
        }
        yield Record(metrics, settings | _settings(config))

    return evaluate


def _settings(config: ConfigDict) -> dict[str, Any]:
    return {
        "split": config.eval.split,
        "num_terms": config.eval.num_terms,
        "num_timesteps": config.diffusion.num_timesteps,
        "schedule": config.diffusion.schedule,
        "variance": config.diffusion.variance,
        "seed": config.eval.seed,
    }
