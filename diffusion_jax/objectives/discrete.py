"""Discrete latents: Gumbel-softmax, vector quantisation, and the logit-Laplace.

The latents of an image are a grid [h, w] of codes, integers in 0..K-1.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.objectives import variational
from diffusion_jax.objectives.variational import Likelihood

EPSILON = 0.1  # how far the logit-Laplace keeps values in [0, 1] from 0 and 1
# Lowest scale of the logit-Laplace, about half an 8-bit level: without it the density
# of pixels that never change would grow without bound.
MIN_LOG_SCALE = -5.0
IN_USE = 0.1  # least frequency of a code in use, as a share of the mean 1 / K
SMOOTHING = 1e-5  # added to a codebook's counts, so that none is 0
Codebook = dict[str, Array]  # embedding f32[K, D], counts f32[K], sums f32[K, D]


def cosine(step: Array, start: float, end: float, num_steps: int) -> Array:
    """Moves from start to end along half a cosine, and stays there.

        end + (start - end) (1 + cos(pi min(t / T, 1))) / 2

    Args:
      step: t, i32[].
      start: the value at t = 0.
      end: the value from t = T on.
      num_steps: T, at least 1.
    """
    share = jnp.minimum(step / num_steps, 1.0)
    return end + (start - end) * (1 + jnp.cos(jnp.pi * share)) / 2


def gumbel_softmax(logits: Array, gumbel: Array, temperature: Array | float) -> Array:
    """Draws relaxed one-hot vectors from a categorical distribution.

        softmax((l + g) / tau)

    The largest entry is an exact draw from softmax(l); as tau goes to 0, the vector
    becomes one-hot.

    Args:
      logits: l [..., K].
      gumbel: g, standard Gumbel noise of the same shape.
      temperature: tau > 0.

    Source: Jang et al. 2017, equation 2, arXiv:1611.01144; Maddison et al. 2017.
    """
    return jax.nn.softmax((logits + gumbel) / temperature)


def straight_through(hard: Array, soft: Array) -> Array:
    """Returns the values of hard with the gradient of soft.

    Source: Bengio et al. 2013, section 3, arXiv:1308.3432.
    """
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def kl_to_uniform(logits: Array) -> Array:
    """KL(softmax(l) || uniform) in nats, summed over the grid.

        log K - H(q) = sum of q (log q + log K)

    Args:
      logits: l [B, h, w, K].

    Returns:
      [B].

    Source: Ramesh et al. 2021, section 2.1, arXiv:2102.12092.
    """
    log_q = jax.nn.log_softmax(logits)
    terms = jnp.exp(log_q) * (log_q + math.log(logits.shape[-1]))
    return jnp.sum(terms, axis=(1, 2, 3))


def moving_counts(counts: Array, codes: Array, decay: float) -> Array:
    """Averages over the steps how often each code is used in a batch.

        N_k <- decay N_k + (1 - decay) n_k,  n_k uses in the batch

    Args:
      counts: N, f32[K].
      codes: i32[...], those of the whole batch.
      decay: in [0, 1).
    """
    used = jnp.sum(_one_hot(codes, len(counts)), axis=0)
    return decay * counts + (1 - decay) * used


def moving_codebook(
    codebook: Codebook, vectors: Array, codes: Array, decay: float
) -> Codebook:
    """Moves each entry of a codebook towards the mean of the vectors that chose it.

        N_k <- decay N_k + (1 - decay) n_k
        m_k <- decay m_k + (1 - decay) sum of z that chose k
        e_k = m_k / N'_k,  N'_k = N (N_k + eps) / (N + K eps),  N = sum of N_k

    Args:
      codebook: e, N_k and m_k before the step.
      vectors: z [..., D] of the whole batch.
      codes: i32[...], the entries that they chose.
      decay: in [0, 1).

    Source: van den Oord et al. 2017, appendix A.1, arXiv:1711.00937; the Laplace
    smoothing N' is that of its authors' code, Sonnet.
    """
    counts = moving_counts(codebook["counts"], codes, decay)
    # Products of float32, since scattered additions have no fixed order on GPUs.
    chosen = jnp.matmul(
        _one_hot(codes, len(counts)).T,
        vectors.reshape(-1, vectors.shape[-1]),
        precision=jax.lax.Precision.HIGHEST,
    )
    sums = decay * codebook["sums"] + (1 - decay) * chosen
    total = jnp.sum(counts)
    share = (counts + SMOOTHING) / (total + len(counts) * SMOOTHING)
    return {
        "embedding": sums / (total * share)[:, None],
        "counts": counts,
        "sums": sums,
    }


def restart_dead_codes(codebook: Codebook, vectors: Array, priority: Array) -> Codebook:
    """Moves codes that are hardly used to vectors of the batch, drawn at random.

    A code is dead if its moving count is below IN_USE of the mean one. It then gets the
    mean count, so that it has time to be used.

    Args:
      codebook: after `moving_codebook`.
      vectors: [..., D] of the whole batch.
      priority: independent uniform numbers [...]; those with the lowest are drawn.

    Source: Dhariwal et al. 2020, section 3.1, arXiv:2005.00341 (Jukebox).
    """
    counts, mean = codebook["counts"], jnp.mean(codebook["counts"])
    dead = ~in_use(counts)
    order = jnp.argsort(priority.reshape(-1))
    drawn = order[jnp.arange(len(counts)) % len(order)]  # again where there are too few
    new = vectors.reshape(-1, vectors.shape[-1])[drawn]
    return {
        "embedding": jnp.where(dead[:, None], new, codebook["embedding"]),
        "counts": jnp.where(dead, mean, counts),
        "sums": jnp.where(dead[:, None], mean * new, codebook["sums"]),
    }


def in_use(counts: Array) -> Array:
    """Returns which codes have at least IN_USE of the mean count, bool[K]."""
    return counts >= IN_USE * jnp.mean(counts)


def perplexity(counts: Array) -> Array:
    """exp(H(p)) of the codes' frequencies p, from 1 (a single code) to K (all alike).

    Args:
      counts: f32[K], not all 0; p = counts / sum.
    """
    p = counts / jnp.sum(counts)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p)))


def logit_laplace_log_likelihood(x: Array, output: Array) -> Array:
    """Log-density of data in [-1, 1] under independent logit-Laplace distributions.

        u = (1 - 2 eps) (x + 1) / 2 + eps,  eps = 0.1
        log p(u) = -|logit u - m| / b - log(2 b u (1 - u))
        log p(x) = log p(u) + log((1 - 2 eps) / 2)

    The paper has p(u). The last term is log |du/dx|, with which p(x) integrates to one
    over |x| < 1 / (1 - 2 eps) = 1.25, and can be compared with other densities of x.

    Args:
      x: [B, ..., C].
      output: [B, ..., 2 C], the medians m and the log-scales log b, bounded below by
        MIN_LOG_SCALE.

    Returns:
      Nats, [B].

    Source: Ramesh et al. 2021, appendix A.3, arXiv:2102.12092.
    """
    median, log_scale = jnp.split(output, 2, axis=-1)
    log_scale = jnp.maximum(log_scale, MIN_LOG_SCALE)
    u = (1 - 2 * EPSILON) * (x + 1) / 2 + EPSILON
    log_u, log_rest = jnp.log(u), jnp.log1p(-u)
    distance = jnp.abs(log_u - log_rest - median) * jnp.exp(-log_scale)
    log_p = -distance - log_scale - math.log(2) - log_u - log_rest
    log_p += math.log((1 - 2 * EPSILON) / 2)
    return jnp.sum(log_p, axis=tuple(range(1, x.ndim)))


def logit_laplace_median(output: Array) -> Array:
    """Returns the median of x, as far as it lies in [-1, 1].

    Args:
      output: see `logit_laplace_log_likelihood`.
    """
    median, _ = jnp.split(output, 2, axis=-1)
    x = 2 * (jax.nn.sigmoid(median) - EPSILON) / (1 - 2 * EPSILON) - 1
    return jnp.clip(x, -1, 1)


def _one_hot(codes: Array, num_codes: int) -> Array:
    """i32[...] -> f32[N, K]."""
    return jax.nn.one_hot(codes.reshape(-1), num_codes)


LIKELIHOODS = variational.LIKELIHOODS | {
    "logit_laplace": Likelihood(
        target=lambda x: x,
        log_likelihood=lambda x, output, scale: logit_laplace_log_likelihood(x, output),
        mean=logit_laplace_median,
        num_parameters=2,
    ),
}
