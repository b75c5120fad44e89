"""Diagonal normal distributions. Results are in nats, elementwise."""

import math

import jax
import jax.numpy as jnp
from jax import Array

# 8-bit data has 256 levels in [-1, 1]: half the width of a bin, the absolute value from
# which a bin extends to infinity, and the smallest probability assigned to a bin.
HALF_BIN = 1.0 / 255.0
OPEN_END = 0.999
MIN_PROBABILITY = 1e-12

# The log-odds of the standard normal CDF, approximately: SLOPE (x + CUBIC x^3).
LOGIT_SLOPE = 2 * math.sqrt(2 / math.pi)
LOGIT_CUBIC = 0.044715


def normal_kl(
    mean_1: Array, log_variance_1: Array, mean_2: Array, log_variance_2: Array
) -> Array:
    """KL(N(mean_1, variance_1) || N(mean_2, variance_2)), elementwise.

        1/2 (lv_2 - lv_1 + exp(lv_1 - lv_2) + (m_1 - m_2)^2 exp(-lv_2) - 1)

    Args:
      mean_1, log_variance_1, mean_2, log_variance_2: broadcastable.

    Returns:
      Nats, the broadcast shape, at least 0.

    Source: Kingma and Welling 2014, appendix B, arXiv:1312.6114.
    """
    log_ratio = log_variance_1 - log_variance_2
    squared = jnp.square(mean_1 - mean_2) * jnp.exp(-log_variance_2)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + squared)


def normal_logit(x: Array) -> Array:
    """Log-odds of the standard normal CDF F, accurate to 3e-4 in F (authors' choice).

        F(x) = sigmoid(u) = 1/2 (1 + tanh(u/2)),  u = 2 sqrt(2/pi) (x + 0.044715 x^3)

    Source: Page 1977, as used by the code of Ho et al. 2020.
    """
    return LOGIT_SLOPE * (x + LOGIT_CUBIC * x**3)


def discretized_log_likelihood(x: Array, mean: Array, log_variance: Array) -> Array:
    """Log-probability of 8-bit data under a normal integrated over each bin.

        log(F(x + 1/255) - F(x - 1/255)), with open ends at -1 and 1

    Args:
      x: data on 256 levels in [-1, 1].
      mean: broadcastable to x.
      log_variance: broadcastable to x.

    Returns:
      Nats, x's shape, in [log(1e-12), 0].

    Source: Ho et al. 2020, equation 13, arXiv:2006.11239.
    """
    # F(b) - F(a) cancels if both are close to each other or to 1. In log-odds u it is
    # F(b) (1 - F(a)) (1 - exp(u(a) - u(b))), which does not.
    scale = jnp.exp(-0.5 * log_variance)
    centre, half = (x - mean) * scale, HALF_BIN * scale
    cubic = LOGIT_CUBIC * (3 * jnp.square(centre) + jnp.square(half))
    width = 2 * LOGIT_SLOPE * half * (1 + cubic)  # u(b) - u(a)
    log_under = jax.nn.log_sigmoid(normal_logit(centre + half))  # log F(b)
    log_over = jax.nn.log_sigmoid(-normal_logit(centre - half))  # log(1 - F(a))
    log_both = log_under + log_over + jnp.log(-jnp.expm1(-width))
    log_probability = jnp.where(
        x < -OPEN_END, log_under, jnp.where(x > OPEN_END, log_over, log_both)
    )
    return jnp.maximum(log_probability, math.log(MIN_PROBABILITY))


def sum_over_data(values: Array) -> Array:
    """Sums [B, ...] over all axes but the first: [B]."""
    return jax.vmap(jnp.sum)(values)


def mean_over_data(values: Array) -> Array:
    """Averages [B, ...] over all axes but the first: [B]."""
    return jax.vmap(jnp.mean)(values)
