"""Samplers: ways from x_t to x_s, each a pair of pure functions (see walk.py).

With h = (logsnr_s - logsnr_t) / 2 and "level" = sigma / alpha = exp(-logsnr / 2).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import langevin, process
from diffusion_jax.diffusion.sampling import Sampler
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.prng import normal


def ancestral(variance: str = "fixedlarge") -> Sampler:
    """Draws x_s from p(x_s | x_t), the learned reverse chain.

        x_s = posterior_mean(x_0_hat, x_t) + sqrt(variance) z

    Args:
      variance: a name of process.VARIANCES or process.LEARNED_VARIANCES.

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, algorithm 2, arXiv:2006.11239.
    """
    known = process.VARIANCES | process.LEARNED_VARIANCES
    if variance not in known:
        raise ValueError(f"Unknown variance {variance!r}. Known: {', '.join(known)}.")
    learned = variance in process.LEARNED_VARIANCES

    def width(values: Array, l_s: Array, l_t: Array) -> Array:
        ends = (process.posterior_variance(l_s, l_t), process.step_variance(l_s, l_t))
        log_variance = process.LEARNED_VARIANCES[variance](values, *map(jnp.log, ends))
        return jnp.exp(0.5 * log_variance)

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        if learned:
            x_0, values = denoise(x_t, t)
            std = width(values, l_s, l_t)
        else:
            x_0 = denoise(x_t, t)
            std = jnp.sqrt(process.VARIANCES[variance](l_s, l_t))
        mean = process.posterior_mean(x_0, x_t, l_s, l_t)
        return state, mean + std * normal(keys, x_t.shape[1:]), x_0

    return Sampler(init=lambda x_t: (), step=step, needs_variance=learned)


def ddim(eta: float = 0.0) -> Sampler:
    """Moves along predicted x_0 and predicted noise, eta of it drawn anew.

        x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - r^2) eps_hat + r z,
        r = eta sqrt(posterior_variance)

    Args:
      eta: in [0, 1]; 0 is deterministic, 1 is ancestral sampling with fixedsmall.

    Raises:
      ValueError: eta lies outside [0, 1].

    Source: Song et al. 2021, equations 12 and 16, arXiv:2010.02502.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], not {eta}.")

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_0 = denoise(x_t, t)
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
    """Euler's step of EDM's equation; without churn it is ddim(0).

    Source: Karras et al. 2022, algorithm 2 without its lines 7 and 8.
    """
    return _edm(churn, churn_levels, churn_noise, corrected=False)


def heun(
    churn: float = 0.0,
    churn_levels: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Sampler:
    """Heun's step of EDM's equation, stochastic with churn: two calls a step.

        dx/dlevel = (x - x_0_hat) / level,  x = x_t / alpha_t

    Args:
      churn: share by which a step first raises the level with new noise; at most
        sqrt(2) - 1. S_churn / N of the paper.
      churn_levels: where it does so (S_tmin, S_tmax).
      churn_noise: standard deviation of the new noise (S_noise).

    Raises:
      ValueError: churn lies outside [0, sqrt(2) - 1].

    Source: Karras et al. 2022, algorithms 1 and 2, arXiv:2206.00364.
    """
    return _edm(churn, churn_levels, churn_noise, corrected=True)


def _edm(churn: float, levels, churn_noise: float, corrected: bool) -> Sampler:
    if not 0 <= churn <= MAX_CHURN:
        raise ValueError(f"churn must lie in [0, sqrt(2) - 1], not {churn}.")

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
        x_0 = denoise(x_t, t)
        eps = process.eps_from_x0(x_t, x_0, l_t)  # dx/dlevel
        x_s = process.q_sample(x_0, l_s, eps)
        if corrected:
            eps_s = process.eps_from_x0(x_s, denoise(x_s, s), l_s)
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
    """Integrals of the exponential: psi_k = sum of (-h)^n h / (n + k)! over n >= 0.

    1 - e^-h, 1 - psi_1 / h and 1/2 - psi_2 / h, with a series where h is small.
    """
    psi_1 = -jnp.expm1(-h)
    small = jnp.minimum(h, SERIES)
    n = range(10)
    series = [
        small * sum((-small) ** i / math.factorial(i + k) for i in n) for k in (2, 3)
    ]
    psi_2 = jnp.where(h < SERIES, series[0], 1 - psi_1 / h)
    psi_3 = jnp.where(h < SERIES, series[1], 0.5 - psi_2 / h)
    return psi_1, psi_2, psi_3


def _half_gap(schedule: Schedule, t: Array, s: Array) -> Array:
    return 0.5 * (schedule(s) - schedule(t))


def multistep(order: int) -> Sampler:
    """DPM-Solver++ from the predictions of earlier steps: one call a step.

        x_s = sigma_s/sigma_t x_t + alpha_s (psi_1 (D_0 + D_1 / 2))            (order 2)
        x_s = sigma_s/sigma_t x_t + alpha_s (psi_1 D_0 + psi_2 D_1 + psi_3 D_2)     (3)

    D_0 = x_0_hat; D_1 and D_2 are its first two derivatives in units of h, out of
    divided differences. The first steps are of lower order. Order 1 is ddim(0).

    Args:
      order: 1, 2 (2M) or 3 (3M).

    Source: Lu et al. 2022, algorithm 2 (2M), arXiv:2211.01095; order 3: their code,
    whose D_2 is half of the second derivative, which leaves it at order 2.
    """

    def init(x_T):
        return {
            "x_0": jnp.zeros((order - 1, *x_T.shape), x_T.dtype),
            "t": jnp.ones(order - 1, jnp.result_type(float)),
            "count": jnp.int32(0),
        }

    def differences(past, schedule, x_0, t, h):
        """D_1 and D_2 out of x_0 and the past; 0 where that is too short."""
        gaps, rates, later, later_t = [], [], x_0, t
        for i in range(order - 1):
            gaps.append(_half_gap(schedule, past["t"][i], later_t) / h)
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
        x_0, h = denoise(x_t, t), _half_gap(schedule, t, s)
        psi_1, psi_2, psi_3 = _psi(h)
        d_1, d_2 = differences(past, schedule, x_0, t, h)
        # With two predictions the paper's midpoint rule, with three its own.
        full = (order == 3) & (past["count"] > 1)
        change = psi_1 * x_0 + jnp.where(full, psi_2, psi_1 / 2) * d_1 + psi_3 * d_2
        x_s = _carried(schedule, x_t, t, s, change)
        if order > 1:
            past = {
                "x_0": jnp.concatenate([x_0[None], past["x_0"]])[: order - 1],
                "t": jnp.append(jnp.asarray(t, past["t"].dtype), past["t"])[:-1],
                "count": past["count"] + 1,
            }
        return past, x_s, x_0

    return Sampler(init=init, step=step)


def _carried(schedule: Schedule, x_t: Array, t: Array, s: Array, change: Array):
    """sigma_s/sigma_t x_t + alpha_s change."""
    l_s, l_t = schedule(s), schedule(t)
    return process.sigma(l_s) / process.sigma(l_t) * x_t + process.alpha(l_s) * change


def singlestep(order: int) -> Sampler:
    """DPM-Solver++ with calls between t and s: `order` calls a step.

    Order 2 calls again halfway in log-SNR, and goes on from t with what it hears there;
    order 3 calls at one and two thirds.

    Args:
      order: 2 (2S) or 3 (3S).

    Source: Lu et al. 2022, algorithm 1 (2S), arXiv:2211.01095; order 3: their code.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        h, x_0 = _half_gap(schedule, t, s), denoise(x_t, t)

        def at(share, slope):
            """x_0 predicted a share of the way to s, after a step from t."""
            # Not l_t + 2 share h: pure noise has l_t = -inf.
            u = schedule.time((1 - share) * schedule(t) + share * schedule(s))
            psi_1, psi_2, _ = _psi(share * h)
            x_u = _carried(schedule, x_t, t, u, psi_1 * x_0 + psi_2 * share * slope)
            return denoise(x_u, u)

        psi_1, psi_2, _ = _psi(h)
        if order == 2:
            change = psi_1 * at(0.5, jnp.zeros_like(x_0))
        else:
            first = at(1 / 3, jnp.zeros_like(x_0))
            second = at(2 / 3, 3 * (first - x_0))
            change = psi_1 * x_0 + psi_2 * 1.5 * (second - x_0)
        return state, _carried(schedule, x_t, t, s, change), x_0

    return Sampler(init=lambda x_t: (), step=step, continuous_time=True)


def make(name: str, variance: str, **options: float) -> Sampler:
    """Builds the sampler of that name.

    Args:
      name: of SAMPLERS.
      variance: of the reverse chain, for those that draw from it.
      **options: eta, churn; what a sampler has no use for must be 0.

    Raises:
      ValueError: the name is unknown, or an option does not belong to it.
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"Unknown sampler {name!r}. Known ones: {', '.join(SAMPLERS)}."
        )
    make_sampler, takes = SAMPLERS[name]
    for option, value in options.items():
        if value and option not in takes:
            raise ValueError(
                f"{option} = {value} has no meaning for the sampler {name!r}: "
                "set it to 0."
            )
    given = {"variance": variance, **options}
    return make_sampler(**{o: given[o] for o in takes if o in given})


MAX_CHURN = math.sqrt(2) - 1
SERIES = 0.5

# A function that makes the sampler, and those of its options that a run may set.
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
