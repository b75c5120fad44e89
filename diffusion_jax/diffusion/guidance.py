"""Thresholding and guidance: wrappers that change a denoiser's x_0."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.denoiser import Denoised, Denoiser
from diffusion_jax.diffusion.schedules import Schedule

EVERYWHERE = (-math.inf, math.inf)  # log-SNR


def _threshold(denoise: Denoiser, change: Callable[[Array], Array]) -> Denoiser:
    def thresholded(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        denoised = denoise(x_t, t, self_cond)
        return denoised._replace(x_0=change(denoised.x_0))

    return thresholded


def static_thresholding(denoise: Denoiser) -> Denoiser:
    """Clips the predicted x_0 to [-1, 1], the range of the data.

    Source: the authors' code for Ho et al. 2020 (clip_denoised).
    """
    return _threshold(denoise, lambda x_0: jnp.clip(x_0, -1.0, 1.0))


def dynamic_thresholding(denoise: Denoiser, percentile: float = 0.995) -> Denoiser:
    """Clips the predicted x_0 to a percentile s of |x_0| per example, and divides by s.

        s = max(1, percentile of |x_0|);  clip(x_0, -s, s) / s

    Source: Saharia et al. 2022, section 2.3, arXiv:2205.11487.
    """

    def change(x_0: Array) -> Array:
        flat = jnp.abs(x_0).reshape(x_0.shape[0], -1)
        s = jnp.maximum(jnp.quantile(flat, percentile, axis=1), 1.0)
        s = process.align(s, x_0)
        return jnp.clip(x_0, -s, s) / s

    return _threshold(denoise, change)


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: float,
    schedule: Schedule,
    interval: tuple[float, float] = EVERYWHERE,
) -> Denoiser:
    """Extrapolates from the unconditional prediction to the conditional one.

        x_0 = x_0(none) + scale (x_0(cond) - x_0(none)),  inside the interval

    Guiding eps, v or scores gives the same result: they are linear in x_0.

    Args:
      conditional: the conditional denoiser; its model_var_values are kept.
      unconditional: the unconditional denoiser; only its x_0 is used.
      scale: 1 is no guidance, 0 is unconditional; w + 1 in the paper.
      schedule: log-SNR as a function of time.
      interval: the log-SNRs, ends included, at which guidance is applied.

    Source: Ho and Salimans 2022, equation 6, arXiv:2207.12598; the interval:
    Kynkaanniemi et al. 2024, equation 5, arXiv:2404.07724.
    """

    def guided(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        denoised = conditional(x_t, t, self_cond)
        base = unconditional(x_t, t, self_cond).x_0
        logsnr = schedule(t)
        inside = (logsnr >= interval[0]) & (logsnr <= interval[1])
        scale_t = process.align(jnp.where(inside, scale, 1.0), x_t)
        return denoised._replace(x_0=base + scale_t * (denoised.x_0 - base))

    return guided


def mixed(first: Denoiser, second: Denoiser, weight: float | Array) -> Denoiser:
    """Averages the predictions of two denoisers, such as under two conditions.

        x_0 = (1 - w) x_0(first) + w x_0(second),  the same of model_var_values

    Args:
      first: at weight 0.
      second: at weight 1.
      weight: w.

    Source: Liu et al. 2022, section 3.2, arXiv:2206.01714, with weights of sum 1.
    """

    def denoise(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        return jax.tree.map(
            lambda a, b: (1 - weight) * a + weight * b,
            first(x_t, t, self_cond),
            second(x_t, t, self_cond),
        )

    return denoise


def classifier_guided(
    denoise: Denoiser,
    log_probability: Callable[[Array, Array], Array],
    scale: float,
    schedule: Schedule,
) -> Denoiser:
    """Moves x_0 along the gradient of log p(y | x_t), from any classifier.

        score <- score + scale grad log p(y | x_t),
        x_0 <- x_0 + scale sigma^2/alpha grad log p(y | x_t)

    Args:
      denoise: a denoiser of p(x_t).
      log_probability: (x_t [B, ...], t) -> [B], log p(y | x_t) per example.
      scale: 1 is Bayes' rule.
      schedule: log-SNR as a function of time, finite at every t that is used.

    Source: Dhariwal and Nichol 2021, equation 14, arXiv:2105.05233.
    """

    def guided(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        denoised = denoise(x_t, t, self_cond)
        gradient = jax.grad(lambda x: jnp.sum(log_probability(x, t)))(x_t)
        logsnr = process.align(schedule(t), x_t)
        factor = jax.nn.sigmoid(-logsnr) / process.alpha(logsnr)
        return denoised._replace(x_0=denoised.x_0 + scale * factor * gradient)

    return guided


THRESHOLDING: dict[str, Callable[[Denoiser], Denoiser]] = {
    "none": lambda denoise: denoise,
    "static": static_thresholding,
    "dynamic": dynamic_thresholding,
}
