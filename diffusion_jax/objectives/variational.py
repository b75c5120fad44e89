"""The evidence lower bound (ELBO) of an autoencoder, in nats per example, [B]."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def _sum(values: Array) -> Array:
    """Sums over all axes but the first: [B, ...] -> [B]."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def bernoulli_log_likelihood(x: Array, logits: Array) -> Array:
    """Log-probability of x under independent Bernoulli distributions.

        sum of x l - log(1 + e^l) = sum of x log p + (1 - x) log(1 - p),  p = sigmoid(l)

    Finite for every logit. For x between 0 and 1 it is the negative cross-entropy.

    Args:
      x: [B, ...] in [0, 1].
      logits: of the same shape.

    Source: Kingma and Welling 2014, appendix C.1, arXiv:1312.6114.
    """
    return _sum(x * logits - jnp.logaddexp(0.0, logits))


def normal_log_likelihood(x: Array, mean: Array, scale: float) -> Array:
    """Log-density of x under independent normal distributions of equal scale.

        sum of -((x - m) / s)^2 / 2 - log s - log(2 pi) / 2

    Args:
      x: [B, ...].
      mean: of the same shape.
      scale: s > 0, the standard deviation in the units of x.

    Source: Kingma and Welling 2014, appendix C.2, arXiv:1312.6114.
    """
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    return _sum(-0.5 * jnp.square((x - mean) / scale) - constant)


def kl_to_standard_normal(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, e^logvar) || N(0, 1)) of each latent, elementwise.

        1/2 (m^2 + e^v - 1 - v)

    Source: Kingma and Welling 2014, appendix B, arXiv:1312.6114.
    """
    return 0.5 * (jnp.square(mean) + jnp.expm1(logvar) - logvar)


def reparameterize(mean: Array, logvar: Array, eps: Array) -> Array:
    """z = mean + exp(logvar / 2) eps, for standard normal eps.

    Source: Kingma and Welling 2014, section 2.4, arXiv:1312.6114.
    """
    return mean + jnp.exp(0.5 * logvar) * eps


def log_importance_weight(
    log_likelihood: Array, z: Array, mean: Array, logvar: Array
) -> Array:
    """log p(x|z) + log p(z) - log q(z|x), [B], for z drawn from q.

    Its mean over z is the ELBO. The log of the mean of its exponential over k samples
    is the importance-weighted bound, which becomes tighter as k grows.

    Args:
      log_likelihood: log p(x|z), [B].
      z: [B, Z].
      mean: [B, Z], the mean of q(z|x).
      logvar: [B, Z], its log-variance.

    Source: Burda et al. 2016, equation 8, arXiv:1509.00519.
    """
    prior = -0.5 * jnp.square(z)
    posterior = -0.5 * (jnp.square(z - mean) * jnp.exp(-logvar) + logvar)
    return log_likelihood + _sum(prior - posterior)  # log(2 pi) / 2 cancels


def importance_bound(log_weights: Array) -> Array:
    """log (1/k) sum of e^w over k samples: [k, B] -> [B].

    Source: Burda et al. 2016, equation 8, arXiv:1509.00519.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


class Likelihood(NamedTuple):
    """The distribution p(x|z) that a decoder's output parametrizes.

    Attributes:
      target: data in [-1, 1] -> data in the distribution's range.
      log_likelihood: (target, output, scale) -> nats [B].
      mean: output -> the distribution's mean (or median), in the units of the data.
        That of a Gaussian may lie outside [-1, 1].
      num_parameters: numbers that the decoder outputs for each value of the data.
    """

    target: Callable[[Array], Array]
    log_likelihood: Callable[[Array, Array, float], Array]
    mean: Callable[[Array], Array]
    num_parameters: int = 1


LIKELIHOODS = {
    "bernoulli": Likelihood(
        target=lambda x: (x + 1) / 2,
        log_likelihood=lambda x, logits, scale: bernoulli_log_likelihood(x, logits),
        mean=lambda logits: 2 * jax.nn.sigmoid(logits) - 1,
    ),
    "gaussian": Likelihood(
        target=lambda x: x,
        log_likelihood=normal_log_likelihood,
        mean=lambda mean: mean,
    ),
}
