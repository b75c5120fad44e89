"""The forward process, its posterior, and the parametrisations of a network's output.

Every function takes log-SNRs, scalar or one per example ([B]), and data [B, ...] of any
rank. With alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr), the same formulas
hold from a time t to any earlier s.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def align(values: Array, x: Array) -> Array:
    """Appends axes to values ([] or [B]) until they broadcast against x [B, ...]."""
    values = jnp.asarray(values)
    if values.ndim == 0:
        return values
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def alpha(logsnr: Array) -> Array:
    """Amplitude of the signal, sqrt(alpha_bar) = sqrt(sigmoid(logsnr))."""
    return jnp.sqrt(jax.nn.sigmoid(logsnr))


def sigma(logsnr: Array) -> Array:
    """Amplitude of the noise, sqrt(1 - alpha_bar) = sqrt(sigmoid(-logsnr))."""
    return jnp.sqrt(jax.nn.sigmoid(-logsnr))


def q_sample(x_0: Array, logsnr: Array, eps: Array) -> Array:
    """Draws from q(x_t | x_0).

        x_t = alpha_t x_0 + sigma_t eps

    Args:
      x_0: [B, ...], clean data.
      logsnr: [] or [B], at time t.
      eps: [B, ...], standard normal.

    Returns:
      x_t, [B, ...].

    Source: Ho et al. 2020, equation 4, arXiv:2006.11239.
    """
    logsnr = align(logsnr, x_0)
    return alpha(logsnr) * x_0 + sigma(logsnr) * eps


def q_step(x_s: Array, logsnr_s: Array, logsnr_t: Array, eps: Array) -> Array:
    """Draws from q(x_t | x_s), one step of the forward chain if s = t - 1.

        x_t = alpha_t/alpha_s x_s + sqrt(beta) eps,  beta from `step_variance`

    Args:
      x_s: [B, ...], data at the earlier time s.
      logsnr_s: [] or [B].
      logsnr_t: [] or [B], smaller.
      eps: [B, ...], standard normal.

    Returns:
      x_t, [B, ...].

    Source: Ho et al. 2020, equation 2.
    """
    l_s, l_t = align(logsnr_s, x_s), align(logsnr_t, x_s)
    return alpha(l_t) / alpha(l_s) * x_s + jnp.sqrt(step_variance(l_s, l_t)) * eps


def signal_gain(logsnr_s: Array, logsnr_t: Array) -> Array:
    """The relative gain in SNR from t to s, c = 1 - SNR_t / SNR_s.

    Source: Kingma et al. 2021, equation 33 (their -expm1), arXiv:2107.00630.
    """
    return -jnp.expm1(logsnr_t - logsnr_s)


def step_variance(logsnr_s: Array, logsnr_t: Array) -> Array:
    """Variance of q(x_t | x_s): beta_t if s = t - 1 (fixedlarge).

        1 - alpha_bar_t / alpha_bar_s = c sigma_t^2

    Source: Ho et al. 2020, equation 2 and section 3.2.
    """
    return signal_gain(logsnr_s, logsnr_t) * jax.nn.sigmoid(-logsnr_t)


def posterior_variance(logsnr_s: Array, logsnr_t: Array) -> Array:
    """Variance of q(x_s | x_t, x_0): beta-tilde_t if s = t - 1 (fixedsmall).

        c sigma_s^2

    Source: Ho et al. 2020, equation 7.
    """
    return signal_gain(logsnr_s, logsnr_t) * jax.nn.sigmoid(-logsnr_s)


def posterior_coefficients(logsnr_s: Array, logsnr_t: Array) -> tuple[Array, Array]:
    """Weights of x_0 and x_t in the mean of q(x_s | x_t, x_0).

        c alpha_s  and  exp((logsnr_t - logsnr_s) / 2) sigma_s / sigma_t

    Finite for clean data (logsnr_s = inf) and pure noise (logsnr_t = -inf).

    Args:
      logsnr_s: any shape, at the earlier time s.
      logsnr_t: the same shape, smaller.

    Returns:
      The two weights, the same shape.

    Source: Ho et al. 2020, equation 7.
    """
    ratio = jnp.exp(0.5 * (logsnr_t - logsnr_s)) * sigma(logsnr_s) / sigma(logsnr_t)
    return signal_gain(logsnr_s, logsnr_t) * alpha(logsnr_s), ratio


def posterior_mean(x_0: Array, x_t: Array, logsnr_s: Array, logsnr_t: Array) -> Array:
    """Mean of q(x_s | x_t, x_0) for any s < t.

    Args:
      x_0: [B, ...], clean or predicted.
      x_t: [B, ...].
      logsnr_s: [] or [B].
      logsnr_t: [] or [B], smaller.

    Returns:
      [B, ...].

    Source: Ho et al. 2020, equation 7; for any stride, Kingma et al. 2021, A.2.
    """
    of_x_0, of_x_t = posterior_coefficients(align(logsnr_s, x_0), align(logsnr_t, x_0))
    return of_x_0 * x_0 + of_x_t * x_t


def x0_from_eps(x_t: Array, eps: Array, logsnr: Array) -> Array:
    """x_0 = (x_t - sigma eps) / alpha.  Source: Ho et al. 2020, equation 15."""
    logsnr = align(logsnr, x_t)
    return (x_t - sigma(logsnr) * eps) / alpha(logsnr)


def eps_from_x0(x_t: Array, x_0: Array, logsnr: Array) -> Array:
    """eps = (x_t - alpha x_0) / sigma.  Source: Ho et al. 2020, equation 4."""
    logsnr = align(logsnr, x_t)
    return (x_t - alpha(logsnr) * x_0) / sigma(logsnr)


def v_from_pair(x_0: Array, eps: Array, logsnr: Array) -> Array:
    """v = alpha eps - sigma x_0.

    Source: Salimans and Ho 2022, section 4, arXiv:2202.00512.
    """
    logsnr = align(logsnr, x_0)
    return alpha(logsnr) * eps - sigma(logsnr) * x_0


def x0_from_v(x_t: Array, v: Array, logsnr: Array) -> Array:
    """x_0 = alpha x_t - sigma v.  Source: Salimans and Ho 2022, appendix D."""
    logsnr = align(logsnr, x_t)
    return alpha(logsnr) * x_t - sigma(logsnr) * v


def x0_from_mu(x_t: Array, mu: Array, logsnr_s: Array, logsnr_t: Array) -> Array:
    """The x_0 whose posterior mean is mu (inverts `posterior_mean`).

    Source: Ho et al. 2020, equation 7 solved for x_0.
    """
    of_x_0, of_x_t = posterior_coefficients(align(logsnr_s, x_t), align(logsnr_t, x_t))
    return (mu - of_x_t * x_t) / of_x_0


def score_from_eps(eps: Array, logsnr: Array) -> Array:
    """The score, grad log q(x_t | x_0), from the noise: -eps / sigma.

    Source: Song et al. 2021, section 3.3, arXiv:2011.13456; Vincent 2011.
    """
    return -eps / sigma(align(logsnr, eps))


def x0_from_score(x_t: Array, score: Array, logsnr: Array) -> Array:
    """x_0 = (x_t + sigma^2 score) / alpha (Tweedie's formula).

    Source: Efron 2011, equation 1.4.
    """
    logsnr = align(logsnr, x_t)
    return (x_t + jax.nn.sigmoid(-logsnr) * score) / alpha(logsnr)


def preconditioning(
    logsnr: Array, sigma_data: float = 0.5
) -> tuple[Array, Array, Array]:
    """EDM's (c_skip, c_out, c_in) as functions of level = sigma / alpha.

        c_skip = d^2 / (level^2 + d^2),  c_out = level d / sqrt(level^2 + d^2),
        c_in = 1 / sqrt(level^2 + d^2),  d = sigma_data

    They apply to x_t / alpha, data with noise of that level. With sigma_data = 1 the
    network's output is -v.

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    level = jnp.exp(-0.5 * logsnr)
    total = jnp.sqrt(level**2 + sigma_data**2)
    return (sigma_data / total) ** 2, level * sigma_data / total, 1 / total


def edm_from_x0(x_0: Array, x_t: Array, logsnr: Array) -> Array:
    """(x_0 - c_skip x_t/alpha) / c_out.  Source: Karras et al. 2022, equation 8."""
    logsnr = align(logsnr, x_t)
    c_skip, c_out, _ = preconditioning(logsnr)
    return (x_0 - c_skip * x_t / alpha(logsnr)) / c_out


def x0_from_edm(x_t: Array, output: Array, logsnr: Array) -> Array:
    """c_skip x_t/alpha + c_out output.  Source: Karras et al. 2022, equation 7."""
    logsnr = align(logsnr, x_t)
    c_skip, c_out, _ = preconditioning(logsnr)
    return c_skip * x_t / alpha(logsnr) + c_out * output


class Prediction(NamedTuple):
    """A parametrisation of the network: its target, and the inverse that gives x_0.

    Attributes:
      target: (x_0, eps, x_t, logsnr_s, logsnr_t) -> [B, ...], with s = t - 1.
      to_x0: (x_t, output, logsnr_s, logsnr_t) -> x_0, [B, ...].
      gain: (logsnr_s, logsnr_t) -> |d x_0 / d output|.
      input_scale: logsnr_t -> factor on x_t at the network's input.
      needs_signal: whether to_x0 is undefined for pure noise, logsnr = -inf.
      discrete_time: whether it refers to s = t - 1, so that t must be an integer.
    """

    target: Callable[[Array, Array, Array, Array, Array], Array]
    to_x0: Callable[[Array, Array, Array, Array], Array]
    gain: Callable[[Array, Array], Array]
    input_scale: Callable[[Array], Array] = jnp.ones_like
    needs_signal: bool = False
    discrete_time: bool = False


# Ho et al. 2020 on CIFAR-10 (section 3.2 and table 2): eps with L_simple gives the best
# samples; mu works only with the true bound and is unstable with a plain squared error;
# x0 gave worse samples early in their experiments.
PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: eps,
        to_x0=lambda x_t, eps, l_s, l_t: x0_from_eps(x_t, eps, l_t),
        gain=lambda l_s, l_t: jnp.exp(-0.5 * l_t),
        needs_signal=True,
    ),
    "x0": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: x_0,
        to_x0=lambda x_t, x_0, l_s, l_t: x_0,
        gain=lambda l_s, l_t: jnp.ones_like(l_t),
    ),
    "v": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: v_from_pair(x_0, eps, l_t),
        to_x0=lambda x_t, v, l_s, l_t: x0_from_v(x_t, v, l_t),
        gain=lambda l_s, l_t: sigma(l_t),
    ),
    "mu": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: posterior_mean(x_0, x_t, l_s, l_t),
        to_x0=lambda x_t, mu, l_s, l_t: x0_from_mu(x_t, mu, l_s, l_t),
        gain=lambda l_s, l_t: 1 / posterior_coefficients(l_s, l_t)[0],
        discrete_time=True,
    ),
    "score": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: score_from_eps(eps, l_t),
        to_x0=lambda x_t, score, l_s, l_t: x0_from_score(x_t, score, l_t),
        gain=lambda l_s, l_t: jnp.exp(-0.5 * l_t) * sigma(l_t),
        needs_signal=True,
    ),
    "edm": Prediction(
        target=lambda x_0, eps, x_t, l_s, l_t: edm_from_x0(x_0, x_t, l_t),
        to_x0=lambda x_t, output, l_s, l_t: x0_from_edm(x_t, output, l_t),
        gain=lambda l_s, l_t: preconditioning(l_t)[1],
        input_scale=lambda l_t: preconditioning(l_t)[2] / alpha(l_t),
        needs_signal=True,
    ),
}

# (logsnr_s, logsnr_t) -> variance of p(x_s | x_t).
VARIANCES: dict[str, Callable[[Array, Array], Array]] = {
    "fixedsmall": posterior_variance,
    "fixedlarge": step_variance,
}


def learned_range(model_var_values: Array, log_small: Array, log_large: Array) -> Array:
    """Log-variance interpolated between the two fixed ones.

        f log beta + (1 - f) log beta-tilde,  f = (model_var_values + 1) / 2

    Args:
      model_var_values: [B, ...], roughly in [-1, 1], not bounded.
      log_small: log of the posterior variance, broadcastable.
      log_large: log of the forward step's variance, broadcastable.

    Source: Nichol and Dhariwal 2021, equation 15, arXiv:2102.09672.
    """
    fraction = (model_var_values + 1) / 2
    return fraction * log_large + (1 - fraction) * log_small


# (model_var_values, log posterior variance, log forward step variance) -> log-variance,
# for a network that outputs model_var_values in the second half of its channels.
LEARNED_VARIANCES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "learned": lambda model_var_values, log_small, log_large: model_var_values,
    "learned_range": learned_range,
}
