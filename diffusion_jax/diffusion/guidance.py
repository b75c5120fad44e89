"""Denoisers: from a network's output to x_0, and wrappers from denoiser to denoiser.

Every wrapper takes denoisers of x_0 alone, and those that return (x_0, values), where
values speak of the variance (see sampling.Denoiser); they change x_0 alone.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.sampling import Denoiser
from diffusion_jax.diffusion.schedules import Schedule


def from_network(
    network: Callable[[Array, Array], Array],
    prediction: str,
    schedule: Schedule,
    learned_variance: bool = False,
) -> Denoiser:
    """Turns a network that predicts eps, x0, v, mu, ... into one that predicts x_0.

    The network is given the authors' time t - 1 in 0..T-1, so that weights trained
    elsewhere mean the same thing.

    Args:
      network: (x_t [B, ...], [B] in 0..T-1) -> [B, ...].
      prediction: a name of process.PREDICTIONS.
      schedule: log-SNR of time.
      learned_variance: whether the second half of the output's channels are values of
        the variance, which are returned beside x_0.

    Returns:
      (x_t [B, ...], t in [1, T], [] or [B]) -> x_0 [B, ...], or (x_0, values).

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, equation 15, arXiv:2006.11239.
    """
    if prediction not in process.PREDICTIONS:
        raise ValueError(
            f"Unknown prediction {prediction!r}. "
            f"Known ones: {', '.join(process.PREDICTIONS)}."
        )
    row = process.PREDICTIONS[prediction]

    def denoise(x_t: Array, t: Array) -> Array | tuple[Array, Array]:
        l_s, l_t = schedule(t - 1), schedule(t)
        scaled = process.align(row.input_scale(l_t), x_t) * x_t
        output = network(scaled, jnp.broadcast_to(t - 1, x_t.shape[:1]))
        if not learned_variance:
            return row.to_x0(x_t, output, l_s, l_t)
        output, values = jnp.split(output, 2, axis=-1)
        return row.to_x0(x_t, output, l_s, l_t), values

    return denoise


def _change(denoise: Denoiser, change: Callable[[Array, Array, Array], Array]):
    """Applies (x_0, x_t, t) -> x_0 after a denoiser."""

    def changed(x_t: Array, t: Array) -> Array | tuple[Array, Array]:
        found = denoise(x_t, t)
        if isinstance(found, tuple):
            return change(found[0], x_t, t), found[1]
        return change(found, x_t, t)

    return changed


def without_variance(denoise: Denoiser) -> Denoiser:
    """Keeps x_0 of a denoiser that returns (x_0, values)."""
    return lambda x_t, t: denoise(x_t, t)[0]


def static_thresholding(denoise: Denoiser) -> Denoiser:
    """Clips the predicted x_0 to [-1, 1], the range of the data.

    Source: the authors' code for Ho et al. 2020 (clip_denoised).
    """
    return _change(denoise, lambda x_0, x_t, t: jnp.clip(x_0, -1.0, 1.0))


def dynamic_thresholding(denoise: Denoiser, percentile: float = 0.995) -> Denoiser:
    """Clips the predicted x_0 to what most of it keeps, and scales that to [-1, 1].

        s = max(1, percentile of |x_0|, by example);  clip(x_0, -s, s) / s

    Source: Saharia et al. 2022, section 2.3, arXiv:2205.11487.
    """

    def change(x_0: Array, x_t: Array, t: Array) -> Array:
        flat = jnp.abs(x_0).reshape(x_0.shape[0], -1)
        s = jnp.maximum(jnp.quantile(flat, percentile, axis=1), 1.0)
        s = process.align(s, x_0)
        return jnp.clip(x_0, -s, s) / s

    return _change(denoise, change)


def classifier_free(
    denoise: Denoiser,
    unconditional: Denoiser,
    scale: float,
    schedule: Schedule,
    interval: tuple[float, float] = (-math.inf, math.inf),
) -> Denoiser:
    """Moves a conditional prediction away from the unconditional one.

        x_0 = x_0(none) + scale (x_0(class) - x_0(none)),  inside the interval

    The same mixture as that of eps, v or scores, which are linear in x_0.

    Args:
      denoise: given the class.
      unconditional: not given it; returns x_0 alone.
      scale: 1 is no guidance, 0 no class; w + 1 of the paper.
      schedule: log-SNR of time.
      interval: of log-SNR, ends included, within which there is guidance.

    Source: Ho and Salimans 2022, equation 6, arXiv:2207.12598; the interval:
    Kynkaanniemi et al. 2024, equation 5, arXiv:2404.07724.
    """

    def change(x_0: Array, x_t: Array, t: Array) -> Array:
        logsnr = schedule(t)
        inside = (logsnr >= interval[0]) & (logsnr <= interval[1])
        here = process.align(jnp.where(inside, scale, 1.0), x_0)
        without = unconditional(x_t, t)
        return without + here * (x_0 - without)

    return _change(denoise, change)


def classifier_guided(
    denoise: Denoiser,
    log_probability: Callable[[Array, Array], Array],
    scale: float,
    schedule: Schedule,
) -> Denoiser:
    """Moves x_0 up the gradient of any log p(y | x_t).

        score <- score + scale grad log p(y | x_t),
        x_0 <- x_0 + scale sigma^2/alpha grad log p(y | x_t)

    Args:
      denoise: of p(x_t).
      log_probability: (x_t [B, ...], t) -> [B], of the wanted y, example by example.
      scale: 1 is Bayes' rule.
      schedule: log-SNR of time; there must be signal at every time.

    Source: Dhariwal and Nichol 2021, equation 14, arXiv:2105.05233.
    """

    def change(x_0: Array, x_t: Array, t: Array) -> Array:
        gradient = jax.grad(lambda x: jnp.sum(log_probability(x, t)))(x_t)
        logsnr = process.align(schedule(t), x_t)
        factor = jax.nn.sigmoid(-logsnr) / process.alpha(logsnr)
        return x_0 + scale * factor * gradient

    return _change(denoise, change)


THRESHOLDING: dict[str, Callable[[Denoiser], Denoiser]] = {
    "none": lambda denoise: denoise,
    "static": static_thresholding,
    "dynamic": dynamic_thresholding,
}
