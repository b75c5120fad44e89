"""Losses: one value per example, [B]; the caller takes the mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import gaussians, process
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.lookup import lookup


def simple(target: Array, output: Array) -> Array:
    """L_simple, the squared error of the network's output.

        mean over the data of (target - output)^2

    The mean, as in the authors' code, not the sum of equation 14: gradient clipping at
    norm 1 and published losses refer to this scale.

    Args:
      target: [B, ...], the regression target; eps in the paper.
      output: [B, ...].

    Returns:
      [B].

    Source: Ho et al. 2020, equation 14, arXiv:2006.11239.
    """
    return gaussians.mean_over_data(jnp.square(target - output))


def prior_term(x_0: Array, schedule: Schedule) -> Array:
    """L_T = KL(q(x_T | x_0) || N(0, I)), the information about the data left at T.

    Args:
      x_0: [B, ...].
      schedule: log-SNR as a function of time.

    Returns:
      Nats, [B], summed over the data.

    Source: Ho et al. 2020, equation 5, first term.
    """
    logsnr = schedule(schedule.num_timesteps)
    mean = process.alpha(logsnr) * x_0
    # log sigma^2 = log1p(-alpha^2) is accurate for small alpha.
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

    p has the posterior mean of the predicted x_0, and its own variance.

    Args:
      x_0: [B, ...].
      x_t: [B, ...], a sample of q(x_t | x_0).
      x_0_hat: [B, ...], predicted from x_t.
      logsnr_s: [] or [B].
      logsnr_t: [] or [B].
      log_variance: log-variance of p(x_s | x_t), [], [B] or x_0's shape.

    Returns:
      Nats, [B], summed over the data.

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
    """L_0 = -log p(x_0 | x_1), with p a normal integrated over each 8-bit level.

    Args:
      x_0: [B, ...], on 256 levels in [-1, 1].
      x_0_hat: [B, ...], predicted from x_1; the mean of p(x_0 | x_1).
      log_variance: log-variance of p(x_0 | x_1), [], [B] or x_0's shape.

    Returns:
      Nats, [B], summed over the data.

    Source: Ho et al. 2020, equation 13.
    """
    log_likelihood = gaussians.discretized_log_likelihood(
        x_0, x_0_hat, process.align(log_variance, x_0)
    )
    return -gaussians.sum_over_data(log_likelihood)


def reverse_log_variance(
    variance: str, schedule: Schedule, t: Array, model_var_values: Array | None = None
) -> Array:
    """Log-variance of p(x_{t-1} | x_t), for the variational bound.

    At t = 1 the fixed choices are beta-tilde_2, as in the authors' code: the posterior
    variance is 0 there, but the decoder needs a positive one. The lower end of the
    learned range is changed in the same way.

    Args:
      variance: a name in process.VARIANCES or process.LEARNED_VARIANCES.
      schedule: log-SNR as a function of time, T at least 2.
      t: integers in 1..T, any shape; [B] for a learned variance.
      model_var_values: [B, ...], the network's variance output; None for a fixed one.

    Returns:
      t's shape, or model_var_values' shape.

    Raises:
      ValueError: the variance is unknown.

    Source: Ho et al. 2020, section 3.2; Nichol and Dhariwal 2021, equation 15.
    """
    known = process.VARIANCES | process.LEARNED_VARIANCES
    lookup(known, variance, "diffusion.variance")
    later = jnp.maximum(t, 2)

    def fixed(name: str) -> Array:
        at_later = process.VARIANCES[name](schedule(later - 1), schedule(later))
        first = process.posterior_variance(
            schedule(jnp.ones_like(t)), schedule(jnp.full_like(t, 2))
        )
        return jnp.log(jnp.where(t == 1, first, at_later))

    if model_var_values is None:
        return fixed(variance)
    small = fixed("fixedsmall")
    large = jnp.log(process.step_variance(schedule(t - 1), schedule(t)))
    ends = (process.align(end, model_var_values) for end in (small, large))
    return process.LEARNED_VARIANCES[variance](model_var_values, *ends)


def vlb_term(
    x_0: Array,
    x_t: Array,
    x_0_hat: Array,
    t: Array,
    schedule: Schedule,
    log_variance: Array,
) -> Array:
    """The term of the variational bound at time t: L_{t-1} for t > 1, L_0 for t = 1.

    Args:
      x_0: [B, ...], on 256 levels in [-1, 1].
      x_t: [B, ...], a sample of q(x_t | x_0).
      x_0_hat: [B, ...], predicted from x_t.
      t: integers [B] in 1..T.
      schedule: log-SNR as a function of time.
      log_variance: log-variance of p(x_{t-1} | x_t), [B] or x_0's shape.

    Returns:
      Nats, [B], summed over the data.

    Source: Ho et al. 2020, equation 5.
    """
    later = jnp.maximum(t, 2)  # keeps the unused branch finite at t = 1
    transition = transition_term(
        x_0, x_t, x_0_hat, schedule(later - 1), schedule(later), log_variance
    )
    decoder = decoder_term(x_0, x_0_hat, log_variance)
    return jnp.where(t == 1, decoder, transition)


def continuous_weight(t: Array, schedule: Schedule) -> Array:
    """Weight of the squared error of x_0 in the continuous-time bound (T -> infinity).

        -1/2 dlogsnr/dt SNR(t)

    The integral over t of weight times (x_0 - x_0_hat)^2 is the bound, in nats; it
    depends on the schedule only through the log-SNR at both ends.

    Args:
      t: in [1, T], any shape.
      schedule: log-SNR as a function of time.

    Returns:
      t's shape, per unit of time.

    Source: Kingma et al. 2021, equation 17, arXiv:2107.00630.
    """
    t = jnp.asarray(t, jnp.result_type(float))
    logsnr, slope = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
    return -0.5 * slope * jnp.exp(logsnr)


def min_snr_weight(logsnr: Array, gamma: float = 5.0) -> Array:
    """Weight of the squared error of x_0, bounded near the data: min(SNR, gamma).

    Source: Hang et al. 2023, section 3.4, arXiv:2303.09556.
    """
    return jnp.minimum(jnp.exp(logsnr), gamma)


def edm_weight(logsnr: Array) -> Array:
    """EDM's weight of the squared error of x_0, 1 / c_out^2: weight 1 of the output.

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    return 1 / jnp.square(process.preconditioning(logsnr)[1])


class ModelOutput(NamedTuple):
    """A noised example and the network's prediction for it: the input of a loss.

    Attributes:
      x_0: [B, ...].
      x_t: [B, ...], a sample of q(x_t | x_0).
      t: [B].
      target: [B, ...], the regression target of the output.
      output: [B, ...], the network's output, without model_var_values.
      x_0_hat: [B, ...], the x_0 that the output implies.
      gain: [B], |d x_0_hat / d output|.
      model_var_values: [B, ...], or None if the variance is fixed.
    """

    x_0: Array
    x_t: Array
    t: Array
    target: Array
    output: Array
    x_0_hat: Array
    gain: Array
    model_var_values: Array | None


def weighted(p: ModelOutput, weight: Array) -> Array:
    """Mean over the data of weight (x_0 - x_0_hat)^2, from the output's error.

    This form never divides by an alpha near 0.

    Args:
      p: the network's prediction.
      weight: [B], the weight of the squared error of x_0.

    Returns:
      [B].
    """
    return weight * jnp.square(p.gain) * simple(p.target, p.output)


def _vlb(p: ModelOutput, schedule: Schedule, variance: str) -> Array:
    log_variance = reverse_log_variance(variance, schedule, p.t, p.model_var_values)
    nats = vlb_term(p.x_0, p.x_t, p.x_0_hat, p.t, schedule, log_variance)
    return nats / (p.x_0[0].size * jnp.log(2.0))  # the authors' scale: bits/dim


def _hybrid(p: ModelOutput, schedule: Schedule, variance: str) -> Array:
    """L_simple + 0.001 L_vlb, where L_vlb trains only the variance.

    Source: Nichol and Dhariwal 2021, equation 16, arXiv:2102.09672.
    """
    frozen = p._replace(x_0_hat=jax.lax.stop_gradient(p.x_0_hat))
    vlb = _vlb(frozen, schedule, variance)
    scale = HYBRID_WEIGHT * schedule.num_timesteps
    return simple(p.target, p.output) + scale * vlb


HYBRID_WEIGHT = 0.001

# (p, schedule, name of the variance) -> [B]. "vlb" is a term of the bound, in bits/dim:
# T times its mean over t is the bound without the prior term. "continuous" is the same
# with T - 1 for continuous time. If the network predicts the score, the target of
# "simple" grows as 1/sigma: prefer min_snr or edm.
LOSSES: dict[str, Callable[[ModelOutput, Schedule, str], Array]] = {
    "simple": lambda p, schedule, variance: simple(p.target, p.output),
    "vlb": _vlb,
    "hybrid": _hybrid,
    "continuous": lambda p, schedule, variance: (
        weighted(p, continuous_weight(p.t, schedule)) / jnp.log(2.0)
    ),
    "min_snr": lambda p, schedule, variance: weighted(p, min_snr_weight(schedule(p.t))),
    "edm": lambda p, schedule, variance: weighted(p, edm_weight(schedule(p.t))),
}
NEED_SIGNAL = ("continuous", "edm")  # undefined if no signal is left at T
LEARN_VARIANCE = ("vlb", "hybrid")  # can train the variance; need discrete times
