"""Losses: one value an example, [B]; the caller takes the mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
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


def reverse_log_variance(
    variance: str, schedule: Schedule, t: Array, values: Array | None = None
) -> Array:
    """Log-variance of p(x_{t-1} | x_t), for the bound.

    At t = 1 the fixed choices are beta-tilde_2, as in the authors' code: the
    posterior's variance there is 0, and the decoder needs a width. The lower end of
    the learned range is moved alike.

    Args:
      variance: a name of process.VARIANCES or process.LEARNED_VARIANCES.
      schedule: log-SNR of time, of at least two times.
      t: integers in 1..T; any shape, [B] where the variance is learned.
      values: [B, ...], what the network said of it; None where it is fixed.

    Returns:
      Of t's shape, or of values' shape.

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, section 3.2; Nichol and Dhariwal 2021, equation 15.
    """
    known = process.VARIANCES | process.LEARNED_VARIANCES
    if variance not in known:
        raise ValueError(f"Unknown variance {variance!r}. Known: {', '.join(known)}.")
    later = jnp.maximum(t, 2)

    def fixed(name: str) -> Array:
        at_later = process.VARIANCES[name](schedule(later - 1), schedule(later))
        first = process.posterior_variance(
            schedule(jnp.ones_like(t)), schedule(jnp.full_like(t, 2))
        )
        return jnp.log(jnp.where(t == 1, first, at_later))

    if values is None:
        return fixed(variance)
    small = fixed("fixedsmall")
    large = jnp.log(process.step_variance(schedule(t - 1), schedule(t)))
    ends = (process.align(end, values) for end in (small, large))
    return process.LEARNED_VARIANCES[variance](values, *ends)


def vlb_term(
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


def continuous_weight(t: Array, schedule: Schedule) -> Array:
    """Weight of an error of x_0 in the bound over real time, as T grows without end.

        -1/2 dlogsnr/dt SNR(t)

    The integral over t of weight times (x_0 - x_0_hat)^2 is the bound, in nats; it
    depends on the schedule through the log-SNR at the ends alone.

    Args:
      t: in [1, T], any shape.
      schedule: log-SNR of time.

    Returns:
      Of t's shape, a unit of time.

    Source: Kingma et al. 2021, equation 17, arXiv:2107.00630.
    """
    t = jnp.asarray(t, jnp.result_type(float))
    logsnr, slope = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
    return -0.5 * slope * jnp.exp(logsnr)


def min_snr_weight(logsnr: Array, gamma: float = 5.0) -> Array:
    """Weight of an error of x_0 that stops growing near the data: min(SNR, gamma).

    Source: Hang et al. 2023, section 3.4, arXiv:2303.09556.
    """
    return jnp.minimum(jnp.exp(logsnr), gamma)


def edm_weight(logsnr: Array) -> Array:
    """Weight of an error of x_0 that is 1 in units of EDM's network: 1 / c_out^2.

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    return 1 / jnp.square(process.preconditioning(logsnr)[1])


class ModelOutput(NamedTuple):
    """A noised example and what the network said of it: what a loss looks at.

    Attributes:
      x_0: [B, ...].
      x_t: [B, ...], drawn from q(x_t | x_0).
      t: [B].
      target: [B, ...], what the network should have said.
      output: [B, ...], what it said.
      x_0_hat: [B, ...], the x_0 that follows from the output.
      gain: [B], |d x_0_hat / d output|.
      values: [B, ...], what it said of the variance; None where that is fixed.
    """

    x_0: Array
    x_t: Array
    t: Array
    target: Array
    output: Array
    x_0_hat: Array
    gain: Array
    values: Array | None


class Chain(NamedTuple):
    """What a loss needs to know of the two chains.

    Attributes:
      schedule: log-SNR of time.
      variance: of p(x_s | x_t), a name.
    """

    schedule: Schedule
    variance: str


def weighted(guess: ModelOutput, weight: Array) -> Array:
    """Mean over the image of weight (x_0 - x_0_hat)^2, by way of the output's error.

    So computed, nothing is divided by an alpha near 0.

    Args:
      guess: what the network said.
      weight: [B], of an error of x_0.

    Returns:
      [B].
    """
    return weight * jnp.square(guess.gain) * simple(guess.target, guess.output)


def _bits(nats: Array, x_0: Array) -> Array:
    return nats / (x_0[0].size * jnp.log(2.0))  # the authors' scale: bits/dim


def _bound(guess: ModelOutput, chain: Chain) -> Array:
    log_variance = reverse_log_variance(
        chain.variance, chain.schedule, guess.t, guess.values
    )
    nats = vlb_term(
        guess.x_0, guess.x_t, guess.x_0_hat, guess.t, chain.schedule, log_variance
    )
    return _bits(nats, guess.x_0)


def _hybrid(guess: ModelOutput, chain: Chain) -> Array:
    """L_simple + 0.001 L_bound, where the bound teaches the variance alone.

    Source: Nichol and Dhariwal 2021, equation 16, arXiv:2102.09672.
    """
    frozen = guess._replace(x_0_hat=jax.lax.stop_gradient(guess.x_0_hat))
    scale = HYBRID_WEIGHT * chain.schedule.num_timesteps
    return simple(guess.target, guess.output) + scale * _bound(frozen, chain)


def _continuous(guess: ModelOutput, chain: Chain) -> Array:
    weight = continuous_weight(guess.t, chain.schedule)
    return weighted(guess, weight) / jnp.log(2.0)


HYBRID_WEIGHT = 0.001

# "bound" is in bits/dim of one time: the whole bound without its prior is T times its
# mean. "continuous" alike, over the T - 1 units of real time. "simple" of the score has
# a target that grows as 1/sigma: min_snr or edm suit it better.
LOSSES: dict[str, Callable[[ModelOutput, Chain], Array]] = {
    "simple": lambda guess, _: simple(guess.target, guess.output),
    "bound": _bound,
    "hybrid": _hybrid,
    "continuous": _continuous,
    "min_snr": lambda guess, chain: weighted(
        guess, min_snr_weight(chain.schedule(guess.t))
    ),
    "edm": lambda guess, chain: weighted(guess, edm_weight(chain.schedule(guess.t))),
}
NEED_SIGNAL = ("continuous", "edm")  # at T
LEARN_VARIANCE = (
    "bound",
    "hybrid",
)  # those that can teach a variance; whole times alone
