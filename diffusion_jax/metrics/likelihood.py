"""Likelihood metrics: bits/dim, and the rate-distortion curve of diffusion models."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from diffusion_jax.metrics.statistics import mean_and_error

Arrays = dict[str, np.ndarray]

TERMS = ("prior", "transitions", "decoder")  # L_T, sum of L_{t-1}, L_0
COLUMNS = ("reverse_step", "time", "rate", "distortion")
LEVELS_PER_UNIT = 127.5  # 8-bit levels per unit of an image in [-1, 1]
NO_EXAMPLES = "There are no examples to evaluate: eval.split is empty."


def bits_per_dim(batches: Iterable[Arrays], num_values: int) -> dict[str, float]:
    """Averages the variational bound and its three terms over examples.

        bits/dim = nats / (H W C log 2)

    Args:
      batches: with prior, transitions and decoder, each f32[b] in nats.
      num_values: H W C, values per example.

    Returns:
      bits_per_dim; its three terms by name; standard_error of bits_per_dim over the
      examples, which covers the sampled noise and timesteps; and num_examples.

    Raises:
      ValueError: there are no examples.

    Source: Ho et al. 2020, equation 5 and table 1, arXiv:2006.11239.
    """
    terms = _stack(batches, TERMS) / (num_values * math.log(2))
    mean, error = mean_and_error(terms.sum(axis=1))
    return {
        "bits_per_dim": mean,
        **dict(zip(TERMS, terms.mean(axis=0).tolist(), strict=True)),
        "standard_error": error,
        "num_examples": len(terms),
    }


def density_bits_per_dim(
    batches: Iterable[Arrays], num_values: int
) -> dict[str, float]:
    """Averages the bits/dim of a continuous density over dequantised 8-bit images.

        bits/dim = -log p(x) / (D log 2) + log2(127.5)

    The last term accounts for the width of a bin, 1/127.5. In expectation over the
    dequantisation noise this is an upper bound on the bits/dim of the 8-bit image.

    Args:
      batches: with log_likelihood f32[b] in nats, of x in [-1, 1] with dequantisation
        noise.
      num_values: D, values per example.

    Returns:
      bits_per_dim, its standard_error over the examples, and num_examples.

    Raises:
      ValueError: there are no examples.

    Source: Theis et al. 2016, section 3.1, arXiv:1511.01844.
    """
    nats = -_stack(batches, ["log_likelihood"])[:, 0]
    bits = nats / (num_values * math.log(2)) + math.log2(LEVELS_PER_UNIT)
    mean, error = mean_and_error(bits)
    return {"bits_per_dim": mean, "standard_error": error, "num_examples": len(bits)}


def _stack(batches: Iterable[Arrays], names: Sequence[str]) -> np.ndarray:
    """Returns the named arrays of all batches, f64[N, number of names]."""
    rows = [np.stack([batch[name] for name in names], axis=1) for batch in batches]
    if not rows:
        raise ValueError(NO_EXAMPLES)
    return np.concatenate(rows).astype(np.float64)


def rate_distortion(
    batches: Iterable[Arrays], num_values: int, num_timesteps: int
) -> Arrays:
    """Computes the rate-distortion curve of progressive lossy compression.

    A receiver at time t has received the prior and all transitions down to x_t, and
    predicts x_0 from it:

        rate(t) = L_T + sum of L_{u-1} over u > t,  distortion(t) = RMSE of x_0_hat(x_t)

    The timesteps 2..T are divided into k equal strata. With k = T - 1 there is one row
    per timestep. With fewer, each row estimates the mean time, rate and squared error
    over its stratum from one random timestep per example. The estimate is unbiased if
    k divides T - 1; otherwise rounding the ends of the strata biases it slightly.

    Args:
      batches: with prior, transitions and error (the squared error of x_0 predicted at
        time 1), each f32[b]; and for every stratum, in ascending order, the sampled
        time, the stratum's nats estimated there, and strata_error (the squared error
        there), each [b, k].
      num_values: H W C, values per example.
      num_timesteps: T.

    Returns:
      f64[k + 1] by the names in COLUMNS, from the noisiest timestep down to time 1:
      reverse_step is T - t + 1, rate is in bits/dim, distortion on the scale 0..255.

    Raises:
      ValueError: there are no examples.

    Source: Ho et al. 2020, section 4.3, figure 5 and table 4, arXiv:2006.11239.
    """
    count, total = 0, 0.0
    for batch in batches:
        curves = _curves(batch, num_timesteps)
        count, total = count + len(curves), total + curves.sum(axis=0)
    if not count:
        raise ValueError(NO_EXAMPLES)
    time, nats, error = (total / count)[::-1].T
    return {
        "reverse_step": num_timesteps - time + 1,
        "time": time,
        "rate": nats / (num_values * math.log(2)),
        "distortion": np.sqrt(error) * LEVELS_PER_UNIT,
    }


def _curves(batch: Arrays, num_timesteps: int) -> np.ndarray:
    """Returns time, cumulative nats and squared error, f64[b, k + 1, 3], time 1 first.

    A row is an average over the timesteps t of its stratum. The nats of all later
    strata count for each t; those sampled at time u of this stratum for each t < u.
    """
    names = "prior", "error", "time", "nats", "strata_error"
    prior, error, time, nats, strata_error = (
        batch[name].astype(np.float64) for name in names
    )
    num_strata = nats.shape[1]
    width = (num_timesteps - 1) / num_strata
    num_below = time - 2 - width * np.arange(num_strata)
    share_below = np.clip(num_below / width, 0.0, 1.0)
    later = np.cumsum(nats[:, ::-1], axis=1)[:, ::-1]  # this stratum and later ones
    prior = prior[:, None]
    first = [np.ones_like(prior), prior + later[:, :1], error[:, None]]
    rest = [time, prior + later - (1 - share_below) * nats, strata_error]
    columns = [np.concatenate(pair, axis=1) for pair in zip(first, rest, strict=True)]
    return np.stack(columns, axis=2)
