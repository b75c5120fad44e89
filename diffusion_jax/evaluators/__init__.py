"""What eval.metric names: figures of a trained run.

A measure is made from a config and a method, which reads the data and refuses what does
not fit, and then looks at any state. Training and the evaluate command use the same.
"""

import pathlib

import ml_collections

from diffusion_jax import methods
from diffusion_jax.evaluators import (
    accuracy,
    autoencoder,
    likelihood,
    samples,
    translation,
)
from diffusion_jax.evaluators.base import Measure, Record

__all__ = ["MEASURES", "Measure", "Record", "make"]


def make(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Makes what eval.metric names.

    Raises:
      FileNotFoundError: data or a classifier are not there.
      ValueError: the family has no such measure, or it does not fit the config.
    """
    name = config.eval.measure
    if name not in method.measures:
        raise ValueError(
            f"Unknown eval.metric {name!r} of a {config.method}. Known ones: "
            f"{', '.join(method.measures)}."
        )
    return MEASURES[name](config, method, workdir)


MEASURES = {
    "bound": likelihood.make_bound,
    "rate_distortion": likelihood.make_rate_distortion,
    "ode_likelihood": likelihood.make_ode_likelihood,
    "samples": samples.make_samples,
    "modes": samples.make_modes,
    "elbo": autoencoder.make_elbo,
    "reconstruction": autoencoder.make_reconstruction,
    "translation": translation.make_translation,
    "accuracy": accuracy.make_accuracy,
}
