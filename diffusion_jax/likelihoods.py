"""Measures of likelihood beyond the bound's one number, for the evaluate command."""

import functools
import logging
import pathlib
from collections.abc import Iterator

import ml_collections

from diffusion_jax import methods, runs
from diffusion_jax.data.loader import Loader
from diffusion_jax.evaluation import curves, likelihood
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)


def measure_rate_distortion(
    config: ml_collections.ConfigDict,
    method: methods.Method,
    state: TrainState,
    workdir: pathlib.Path,
) -> Iterator[dict]:
    """Writes the curve of progressive compression of eval.split, and says its end.

    Files rate_distortion.csv and rate_distortion.png; the rate leaves out the decoder,
    which a receiver of the exact picture would need as well.
    """
    options, diffusion = config.eval, config.diffusion
    run = methods.make_evaluate(method, options.seed)
    columns = likelihood.rate_distortion(
        functools.partial(run, state), epoch(config), diffusion.num_timesteps
    )
    if parallel.process_index() == 0:
        path = workdir / "rate_distortion.csv"
        likelihood.write_csv(path, columns)
        LOGGER.info("Table: %s", path)
        if curves.save_rate_distortion(path.with_suffix(".png"), columns):
            LOGGER.info("Plot: %s", path.with_suffix(".png"))
    yield {
        "split": options.split,
        **{name: float(columns[name][-1]) for name in ("rate", "distortion")},
        "num_rows": len(columns["rate"]),
        "num_terms": options.num_terms,
        "num_timesteps": diffusion.num_timesteps,
        "schedule": diffusion.schedule,
        "variance": diffusion.variance,
        "clipped": True,
        "seed": options.seed,
    }


def measure_ode_likelihood(
    config: ml_collections.ConfigDict,
    method: methods.Method,
    state: TrainState,
    workdir: pathlib.Path,
) -> Iterator[dict]:
    """Bits/dim of eval.split by the probability-flow ODE.

    With Heun's rule over the knots of sample.num_steps and sample.spacing, T and 1, and
    uniform dequantisation; eval.num_probes = 0 is the exact trace.
    """
    options, diffusion = config.eval, config.diffusion
    run = methods.make_measure(method.log_likelihood, options.seed)
    measured = likelihood.density_bits_per_dim(
        functools.partial(run, state), epoch(config)
    )
    yield {
        "split": options.split,
        **measured,
        "num_probes": options.num_probes,
        "num_steps": config.sample.num_steps,
        "spacing": config.sample.spacing,
        "dequantization": "uniform",
        "num_timesteps": diffusion.num_timesteps,
        "schedule": diffusion.schedule,
        "clipped": False,
        "seed": options.seed,
    }


def epoch(config: ml_collections.ConfigDict) -> Iterator[dict]:
    """Yields eval.split once."""
    source = runs.open_source(config, config.eval.split)
    return Loader(source, config.eval.batch_size, 0).epoch()
