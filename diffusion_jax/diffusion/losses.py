"""Losses: one value an example, [B]; the caller takes the mean."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import gaussians, process
from diffusion_jax.diffusion.schedules import Schedule


def simple(target: Array, output: Array) -> Array:
    """L_simple, the squared error of the network's output.

        mean over the image of (target - output)^2

    The mean, as in the authors' code, not the sum of equation 14: clipping at norm 1
    and the losses that people quote belong to this scale.

    Args:
      target: [B, ...], what the network should have said; eps in the paper.
      output: [B, ...].

    Returns:
      [B].

    Source: Ho et al. 2020, equation 14, arXiv:2006.11239.
    """
    return gaussians.mean_over_data(jnp.square(target - output))


def prior_term(x_0: Array, schedule: Schedule, num_timesteps: int) -> Array:
    """L_T = KL(q(x_T | x_0) || N(0, I)), what is left of the data at T.

    Args:
      x_0: [B, ...].
      schedule: log-SNR of time.
      num_timesteps: T.

    Returns:
      Nats, [B], summed over the image.

    Source: Ho et al. 2020, equation 5, first term.
    """
    logsnr = schedule(jnp.asarray(num_timesteps))
    mean = process.alpha(logsnr) * x_0
    # log sigma^2 = log1p(-alpha^2) keeps its digits where alpha is small.
    log_variance = jnp.log1p(-jnp.square(process.alpha(logsnr)))
    return gaussians.sum_over_data(gaussians.normal_kl(mean, log_variance, 0.0, 0.0))


def transition_term(
    x_0: Array,
    x_t: Array,
    x_0_hat: Array,
    logsnr_s: Array,
    logsnr_t: Array,
    log_variance: Array,
) -> Array:
    """L_{t-1} = KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s = t - 1 >= 1.

    p is the posterior of the predicted x_0, with its own variance.

    Args:
      x_0: [B, ...].
      x_t: [B, ...], drawn from q(x_t | x_0).
      x_0_hat: [B, ...], predicted from x_t.
      logsnr_s: [] or [B].
      logsnr_t: [] or [B].
      log_variance: [], [B] or of x_0's shape: of p(x_s | x_t).

    Returns:
      Nats, [B], summed over the image.

    Source: Ho et al. 2020, equation 5, middle terms, and equation 8.
    """
    q_mean = process.posterior_mean(x_0, x_t, logsnr_s, logsnr_t)
    q_log_variance = jnp.log(process.posterior_variance(logsnr_s, logsnr_t))
    p_mean = process.posterior_mean(x_0_hat, x_t, logsnr_s, logsnr_t)
    kl = gaussians.normal_kl(
        q_mean,
        process.align(q_log_variance, x_0),
        p_mean,
        process.align(log_variance, x_0),
    )
    return gaussians.sum_over_data(kl)


def decoder_term(x_0: Array, x_0_hat: Array, log_variance: Array) -> Array:
    """L_0 = -log p(x_0 | x_1), with p a normal integrated over each grey level.

    Args:
      x_0: [B, ...], on 256 levels in [-1, 1].
      x_0_hat: [B, ...], predicted from x_1; it is the mean of p(x_0 | x_1).
      log_variance: [], [B] or of x_0's shape: of p(x_0 | x_1).

    Returns:
      Nats, [B], summed over the image.

    Source: Ho et al. 2020, equation 13.
    """
    log_likelihood = gaussians.discretized_log_likelihood(
        x_0, x_0_hat, process.align(log_variance, x_0)
    )
    return -gaussians.sum_over_data(log_likelihood)


def reverse_log_variance(variance: str, schedule: Schedule, t: Array) -> Array:
    """Log-variance of p(x_{t-1} | x_t) with a fixed variance, for the bound.

    At t = 1 both choices are beta-tilde_2, as in the authors' code: the posterior's
    variance there is 0, and the decoder needs a width.

    Args:
      variance: a name of process.VARIANCES.
      schedule: log-SNR of time, of at least two times.
      t: integers in 1..T, any shape.

    Returns:
      Of t's shape.

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, section 3.2.
    """
    if variance not in process.VARIANCES:
        raise ValueError(
            f"Unknown variance {variance!r}. "
            f"Known ones: {', '.join(process.VARIANCES)}."
        )
    later = jnp.maximum(t, 2)
    at_later = process.VARIANCES[variance](schedule(later - 1), schedule(later))
    first = process.posterior_variance(
        schedule(jnp.ones_like(t)), schedule(jnp.full_like(t, 2))
    )
    return jnp.log(jnp.where(t == 1, first, at_later))


def bound_term(
    x_0: Array,
    x_t: Array,
    x_0_hat: Array,
    t: Array,
    schedule: Schedule,
    log_variance: Array,
) -> Array:
    """The bound's term of time t: L_{t-1} where t > 1, L_0 where t = 1.

    Args:
      x_0: [B, ...], on 256 levels in [-1, 1].
      x_t: [B, ...], drawn from q(x_t | x_0).
      x_0_hat: [B, ...], predicted from x_t.
      t: integers [B] in 1..T.
      schedule: log-SNR of time.
      log_variance: [B] or of x_0's shape: of p(x_{t-1} | x_t).

    Returns:
      Nats, [B], summed over the image.

    Source: Ho et al. 2020, equation 5.
    """
    later = jnp.maximum(t, 2)  # keeps the unused branch finite at t = 1
    transition = transition_term(
        x_0, x_t, x_0_hat, schedule(later - 1), schedule(later), log_variance
    )
    decoder = decoder_term(x_0, x_0_hat, log_variance)
    return jnp.where(t == 1, decoder, transition)


LOSSES: dict[str, Callable] = {"simple": simple, "bound": bound_term}
