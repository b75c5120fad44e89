"""Samplers: rules for going from x_t to x_s, each a pair of pure functions.

Notation: h = (logsnr_s - logsnr_t) / 2, level = sigma / alpha = exp(-logsnr / 2).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import langevin, process
from diffusion_jax.diffusion.sampling import Sampler
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.lookup import lookup
from diffusion_jax.prng import normal


def ancestral(variance: str = "fixedlarge") -> Sampler:
    """Draws x_s from p(x_s | x_t), the learned reverse chain.

        x_s = posterior_mean(x_0_hat, x_t) + sqrt(variance) z

    Args:
      variance: a name in process.VARIANCES or process.LEARNED_VARIANCES.

    Raises:
      ValueError: the variance is unknown.

    Source: Ho et al. 2020, algorithm 2, arXiv:2006.11239.
    """
    known = process.VARIANCES | process.LEARNED_VARIANCES
    variance_of = lookup(known, variance, "diffusion.variance")

    def std(model_var_values: Array | None, l_s: Array, l_t: Array) -> Array:
        if variance in process.VARIANCES:
            return jnp.sqrt(variance_of(l_s, l_t))
        ends = (process.posterior_variance(l_s, l_t), process.step_variance(l_s, l_t))
        return jnp.exp(0.5 * variance_of(model_var_values, *map(jnp.log, ends)))

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_0, model_var_values = denoise(x_t, t)
        mean = process.posterior_mean(x_0, x_t, l_s, l_t)
        noise = normal(keys, x_t.shape[1:])
        return state, mean + std(model_var_values, l_s, l_t) * noise, x_0

    return Sampler(init=lambda x_t: (), step=step)


def ddim(eta: float = 0.0) -> Sampler:
    """DDIM: combines predicted x_0 and noise; eta sets the share of fresh noise.

        x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - r^2) eps_hat + r z,
        r = eta sqrt(posterior_variance)

    Args:
      eta: in [0, 1]; 0 is deterministic, 1 is ancestral sampling with fixedsmall.

    Raises:
      ValueError: eta lies outside [0, 1].

    Source: Song et al. 2021, equations 12 and 16, arXiv:2010.02502.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sample.eta must lie in [0, 1], not {eta}.")

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_0 = denoise(x_t, t).x_0
        eps = process.eps_from_x0(x_t, x_0, l_t)
        fresh = eta**2 * process.posterior_variance(l_s, l_t)
        kept = jnp.sqrt(jax.nn.sigmoid(-l_s) - fresh)
        x_s = process.alpha(l_s) * x_0 + kept * eps
        if eta:
            x_s += jnp.sqrt(fresh) * normal(keys, x_t.shape[1:])
        return state, x_s, x_0

    return Sampler(init=lambda x_t: (), step=step)


def euler(
    churn: float = 0.0,
    churn_levels: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Sampler:
    """Euler's method for EDM's ODE; without churn it equals ddim(0).

    Args: see `heun`.

    Source: Karras et al. 2022, algorithm 2 without its lines 7 and 8.
    """
    return _edm(churn, churn_levels, churn_noise, corrected=False)


def heun(
    churn: float = 0.0,
    churn_levels: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Sampler:
    """Heun's method for EDM's ODE, stochastic with churn; two network calls per step.

        dx/dlevel = (x - x_0_hat) / level,  x = x_t / alpha_t

    Args:
      churn: the relative increase in level by new noise at the start of each step, at
        most sqrt(2) - 1; S_churn / N in the paper.
      churn_levels: the range of levels with churn (S_tmin, S_tmax).
      churn_noise: the standard deviation of the new noise (S_noise).

    Raises:
      ValueError: churn lies outside [0, sqrt(2) - 1].

    Source: Karras et al. 2022, algorithms 1 and 2, arXiv:2206.00364.
    """
    return _edm(churn, churn_levels, churn_noise, corrected=True)


def _edm(
    churn: float, levels: tuple[float, float], churn_noise: float, corrected: bool
) -> Sampler:
    if not 0 <= churn <= MAX_CHURN:
        raise ValueError(f"sample.churn must lie in [0, sqrt(2) - 1], not {churn}.")

    def raised(keys, schedule, x_t, t):
        level = jnp.exp(-0.5 * schedule(t))
        inside = (level >= levels[0]) & (level <= levels[1])
        later = schedule.time(schedule(t) - 2 * math.log1p(churn))
        later = jnp.where(inside, jnp.maximum(later, t), t)
        noise = churn_noise * normal(keys, x_t.shape[1:])
        return process.q_step(x_t, schedule(t), schedule(later), noise), later

    def step(state, keys, denoise, schedule, x_t, t, s):
        if churn:
            x_t, t = raised(keys, schedule, x_t, t)
        l_s, l_t = schedule(s), schedule(t)
        x_0 = denoise(x_t, t).x_0
        eps = process.eps_from_x0(x_t, x_0, l_t)  # dx/dlevel
        x_s = process.q_sample(x_0, l_s, eps)
        if corrected:
            eps_s = process.eps_from_x0(x_s, denoise(x_s, s).x_0, l_s)
            change = jnp.exp(-0.5 * l_s) - jnp.exp(-0.5 * l_t)
            x_s += process.alpha(l_s) * change * (eps_s - eps) / 2
        return state, x_s, x_0

    return Sampler(
        init=lambda x_t: (),
        step=step,
        needs_signal=corrected or churn > 0,
        continuous_time=churn > 0,
    )


def _psi(h: Array) -> tuple[Array, Array, Array]:
    """Integrals of the exponential, psi_k = sum over n >= 0 of (-h)^n h / (n + k)!.

    1 - e^-h, 1 - psi_1 / h and 1/2 - psi_2 / h, as a series for small h.
    """
    psi_1 = -jnp.expm1(-h)
    small = jnp.minimum(h, MAX_SERIES_H)
    n = range(10)
    series = [
        small * sum((-small) ** i / math.factorial(i + k) for i in n) for k in (2, 3)
    ]
    psi_2 = jnp.where(h < MAX_SERIES_H, series[0], 1 - psi_1 / h)
    psi_3 = jnp.where(h < MAX_SERIES_H, series[1], 0.5 - psi_2 / h)
    return psi_1, psi_2, psi_3


def _h(schedule: Schedule, t: Array, s: Array) -> Array:
    return 0.5 * (schedule(s) - schedule(t))


def multistep(order: int) -> Sampler:
    """Multistep DPM-Solver++, which reuses earlier predictions: one call per step.

        x_s = sigma_s/sigma_t x_t + alpha_s (psi_1 (D_0 + D_1 / 2))            (order 2)
        x_s = sigma_s/sigma_t x_t + alpha_s (psi_1 D_0 + psi_2 D_1 + psi_3 D_2)     (3)

    D_0 = x_0_hat; D_1 and D_2 are its first two derivatives in units of h, from divided
    differences. The first steps have a lower order. Order 1 is ddim(0).

    Args:
      order: 1, 2 (2M) or 3 (3M).

    Source: Lu et al. 2022, algorithm 2 (2M), arXiv:2211.01095; order 3: their code,
    except that their D_2 is half the second derivative, which reduces it to order 2.
    """

    def init(x_T):
        return {
            "x_0": jnp.zeros((order - 1, *x_T.shape), x_T.dtype),
            "t": jnp.ones(order - 1, jnp.result_type(float)),
            "count": jnp.int32(0),
        }

    def differences(past, schedule, x_0, t, h):
        """D_1 and D_2 from x_0 and the past; 0 if the past is too short."""
        gaps, rates, later, later_t = [], [], x_0, t
        for i in range(order - 1):
            gaps.append(_h(schedule, past["t"][i], later_t) / h)
            rates.append((later - past["x_0"][i]) / gaps[i])
            later, later_t = past["x_0"][i], past["t"][i]
        count = past["count"]
        first = [jnp.where(count > i, rate, 0.0) for i, rate in enumerate(rates)]
        if order < 3:
            return *first, *[jnp.zeros_like(x_0)] * (3 - len(first) - 1)
        bend = (rates[0] - rates[1]) / (gaps[0] + gaps[1])
        d_1 = jnp.where(count > 1, rates[0] + gaps[0] * bend, first[0])
        return d_1, jnp.where(count > 1, 2 * bend, 0.0)

    def step(past, keys, denoise, schedule, x_t, t, s):
        x_0, h = denoise(x_t, t).x_0, _h(schedule, t, s)
        psi_1, psi_2, psi_3 = _psi(h)
        d_1, d_2 = differences(past, schedule, x_0, t, h)
        # Two predictions: the paper's midpoint rule. Three: the full expansion.
        full = (order == 3) & (past["count"] > 1)
        change = psi_1 * x_0 + jnp.where(full, psi_2, psi_1 / 2) * d_1 + psi_3 * d_2
        x_s = _advance(schedule, x_t, t, s, change)
        if order > 1:
            past = {
                "x_0": jnp.concatenate([x_0[None], past["x_0"]])[: order - 1],
                "t": jnp.append(jnp.asarray(t, past["t"].dtype), past["t"])[:-1],
                "count": past["count"] + 1,
            }
        return past, x_s, x_0

    return Sampler(init=init, step=step)


def _advance(schedule: Schedule, x_t: Array, t: Array, s: Array, change: Array):
    """sigma_s/sigma_t x_t + alpha_s change."""
    l_s, l_t = schedule(s), schedule(t)
    return process.sigma(l_s) / process.sigma(l_t) * x_t + process.alpha(l_s) * change


def singlestep(order: int) -> Sampler:
    """Singlestep DPM-Solver++, with `order` network calls per step, from t towards s.

    Order 2 steps from t with the prediction halfway to s in log-SNR; order 3 also uses
    predictions at one and two thirds of the way.

    Args:
      order: 2 (2S) or 3 (3S).

    Source: Lu et al. 2022, algorithm 1 (2S), arXiv:2211.01095; order 3: their code.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        h, x_0 = _h(schedule, t, s), denoise(x_t, t).x_0

        def at(share, slope):
            """Predicted x_0 at a fraction `share` of the way from t to s."""
            # Not l_t + 2 share h, since l_t may be -inf.
            u = schedule.time((1 - share) * schedule(t) + share * schedule(s))
            psi_1, psi_2, _ = _psi(share * h)
            x_u = _advance(schedule, x_t, t, u, psi_1 * x_0 + psi_2 * share * slope)
            return denoise(x_u, u).x_0

        psi_1, psi_2, _ = _psi(h)
        if order == 2:
            change = psi_1 * at(0.5, jnp.zeros_like(x_0))
        else:
            first = at(1 / 3, jnp.zeros_like(x_0))
            second = at(2 / 3, 3 * (first - x_0))
            change = psi_1 * x_0 + psi_2 * 1.5 * (second - x_0)
        return state, _advance(schedule, x_t, t, s, change), x_0

    return Sampler(init=lambda x_t: (), step=step, continuous_time=True)


def make(name: str, variance: str, **options: float) -> Sampler:
    """Builds a sampler by name.

    Args:
      name: a name in SAMPLERS.
      variance: the reverse chain's variance, which only "ancestral" uses.
      **options: eta, churn; 0 for a sampler without that option.

    Raises:
      ValueError: the name is unknown, or the sampler lacks an option that is not 0.
    """
    make_sampler, accepted = lookup(SAMPLERS, name, "sample.sampler")
    for option, value in options.items():
        if value and option not in accepted:
            raise ValueError(
                f"sample.{option} = {value} has no effect on sample.sampler {name!r}: "
                "set it to 0."
            )
    given = {"variance": variance, **options}
    return make_sampler(**{o: given[o] for o in accepted if o in given})


MAX_CHURN = math.sqrt(2) - 1
MAX_SERIES_H = 0.5

# name -> (function that builds the sampler, the options that it accepts).
SAMPLERS: dict[str, tuple[Callable[..., Sampler], tuple[str, ...]]] = {
    "ancestral": (ancestral, ("variance",)),
    "ddim": (ddim, ("eta",)),
    "euler": (euler, ("churn",)),
    "heun": (heun, ("churn",)),
    "dpmpp_1": (lambda: multistep(1), ()),
    "dpmpp_2m": (lambda: multistep(2), ()),
    "dpmpp_3m": (lambda: multistep(3), ()),
    "dpmpp_2s": (lambda: singlestep(2), ()),
    "dpmpp_3s": (lambda: singlestep(3), ()),
    "predictor_corrector": (langevin.predictor_corrector, ()),
    "annealed_langevin": (langevin.annealed, ()),
}
