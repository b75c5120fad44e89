"""Measures of likelihood of a diffusion model."""

import functools
import logging
import pathlib
from collections.abc import Iterator

import ml_collections

from diffusion_jax import methods
from diffusion_jax.evaluators.base import Measure, Record, epoch
from diffusion_jax.metrics import likelihood
from diffusion_jax.outputs import plots
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)


def make_bound(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Bits/dim of eval.split, with its three parts."""
    run = methods.make_evaluate(method, config.eval.seed)
    epoch(config)  # refused before anything is compiled

    def measure(state: TrainState) -> Iterator[Record]:
        evaluate = functools.partial(run, state)
        found = likelihood.bits_per_dim(evaluate, epoch(config))
        yield Record(found, {"clipped": True, **_settings(config)})

    return measure


def make_rate_distortion(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Writes the curve of progressive compression of eval.split, and says its end.

    Files rate_distortion.csv and rate_distortion.png; the rate leaves out the decoder,
    which a receiver of the exact picture would need as well.
    """
    run = methods.make_evaluate(method, config.eval.seed)
    num_timesteps = config.diffusion.num_timesteps

    def measure(state: TrainState) -> Iterator[Record]:
        evaluate = functools.partial(run, state)
        columns = likelihood.rate_distortion(evaluate, epoch(config), num_timesteps)
        if parallel.process_index() == 0:
            path = workdir / "rate_distortion.csv"
            likelihood.write_csv(path, columns)
            LOGGER.info("Table: %s", path)
            if plots.save_rate_distortion(path.with_suffix(".png"), columns):
                LOGGER.info("Plot: %s", path.with_suffix(".png"))
        found = {name: float(columns[name][-1]) for name in ("rate", "distortion")}
        settings = {"num_rows": len(columns["rate"]), "clipped": True}
        yield Record(found, settings | _settings(config))

    return measure


def make_ode_likelihood(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Bits/dim of eval.split by the probability-flow ODE.

    With Heun's rule over the knots of sample.num_steps and sample.spacing, T and 1, and
    uniform dequantisation; eval.num_probes = 0 is the exact trace.
    """
    run = methods.make_measure(method.log_likelihood, config.eval.seed)

    def measure(state: TrainState) -> Iterator[Record]:
        log_density = functools.partial(run, state)
        found = likelihood.density_bits_per_dim(log_density, epoch(config))
        settings = {
            "num_probes": config.eval.num_probes,
            "num_steps": config.sample.num_steps,
            "spacing": config.sample.spacing,
            "dequantization": "uniform",
            "clipped": False,
        }
        yield Record(found, settings | _settings(config))

    return measure


def _settings(config: ml_collections.ConfigDict) -> dict:
    return {
        "split": config.eval.split,
        "num_terms": config.eval.num_terms,
        "num_timesteps": config.diffusion.num_timesteps,
        "schedule": config.diffusion.schedule,
        "variance": config.diffusion.variance,
        "seed": config.eval.seed,
    }
