"""Editing with a trained denoiser: encoding, interpolation, img2img, inpainting.

Everything runs on the device, and an example's result depends only on that example and
its key.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import process, sampling
from diffusion_jax.diffusion.denoiser import Denoised, Denoiser
from diffusion_jax.diffusion.sampling import Sampler
from diffusion_jax.diffusion.schedules import Schedule

MIN_SINE = 1e-4  # of the angle; below it, the arc is replaced by its chord


def slerp(a: Array, b: Array, weight: Array) -> Array:
    """Spherical linear interpolation from a to b, per example.

        sin((1 - w) angle) / sin(angle) a + sin(w angle) / sin(angle) b

    It preserves the norm of vectors of equal norm, and so the amplitude of normal
    noise; linear interpolation does not. Nearly parallel or opposite vectors are
    interpolated linearly.

    Args:
      a: [B, ...].
      b: [B, ...].
      weight: [] or [B]; 0 gives a and 1 gives b, bit for bit.

    Returns:
      [B, ...].

    Source: Shoemake 1985; Song et al. 2021, appendix D.5, arXiv:2010.02502.
    """

    def norms(x: Array) -> Array:
        axes = tuple(range(1, x.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))

    tiny = jnp.finfo(a.dtype).tiny
    one, other = (x / jnp.maximum(norms(x), tiny) for x in (a, b))
    # Kahan's formula: arccos of the inner product is inaccurate for small angles.
    angle = 2 * jnp.arctan2(norms(one - other), norms(one + other))
    sine, weight = jnp.sin(angle), process.align(jnp.asarray(weight, a.dtype), a)
    parallel = sine < MIN_SINE
    sine = jnp.where(parallel, 1.0, sine)
    of_a = jnp.where(parallel, 1 - weight, jnp.sin((1 - weight) * angle) / sine)
    of_b = jnp.where(parallel, weight, jnp.sin(weight * angle) / sine)
    return of_a * a + of_b * b


def encode(
    denoise: Denoiser, schedule: Schedule, timesteps: np.ndarray, x_0: Array
) -> Array:
    """Finds the x_T that ddim(0) maps to x_0, by DDIM inversion.

        x_t = alpha_t x_0_hat(x_s) + sigma_t eps_hat(x_s),  s < t

    Clean data contains no noise to predict: the first step uses x_0 itself, and the eps
    predicted for alpha_s x_0 at the first time. Decoding over the same timesteps
    returns x_0 up to O(1 / N).

    Args:
      denoise: predicts x_0, without self-conditioning.
      schedule: log-SNR as a function of time.
      timesteps: [N], decreasing, each in [1, T], as for decoding.
      x_0: [B, ...].

    Returns:
      x_T, [B, ...], at timesteps[0]; costs N network calls.

    Source: Song et al. 2021, equation 14 and section 5.4, arXiv:2010.02502.
    """
    increasing = jnp.asarray(timesteps)[::-1]

    def step(x_s: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        s, t = ends
        x_0_hat = denoise(x_s, s, None).x_0.astype(x_0.dtype)
        eps = process.eps_from_x0(x_s, x_0_hat, schedule(s))
        clean = jnp.where(s == t, x_0, x_0_hat)
        return process.q_sample(clean, schedule(t), eps), None

    x_1 = process.alpha(schedule(increasing[0])) * x_0
    pairs = jnp.concatenate([increasing[:1], increasing[:-1]]), increasing
    return lax.scan(step, x_1, pairs)[0]


def _noise(keys: Array, x_0: Array) -> Array:
    """Draws the initial noise; the steps use fold_in(key, 1) onwards."""
    return prng.normal(prng.fold_in(keys, 0), x_0.shape[1:])


def img2img(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps: np.ndarray,
    x_0: Array,
    keys: Array,
    self_condition: bool = False,
) -> Array:
    """Image to image (SDEdit): adds noise to x_0 up to timesteps[0], then denoises.

    The larger timesteps[0], the less of x_0 remains.

    Args:
      sampler, denoise, schedule: as in sampling.sample.
      timesteps: [N], decreasing, each in [1, T].
      x_0: [B, ...], the input.
      keys: [B], one per example.
      self_condition: as in sampling.sample.

    Returns:
      [B, ...].

    Source: Meng et al. 2022 (SDEdit), algorithm 1, arXiv:2108.01073.
    """
    x_t = process.q_sample(x_0, schedule(jnp.asarray(timesteps)[0]), _noise(keys, x_0))
    rest = timesteps, x_t, keys, 0, self_condition
    return sampling.sample(sampler, denoise, schedule, *rest)[0]


def interpolate(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps: np.ndarray,
    x_0: Array,
    other: Array,
    weight: Array,
    keys: Array,
    self_condition: bool = False,
) -> Array:
    """Interpolates between two noised examples, then denoises.

        x_t = (1 - w) q_sample(x_0, eps) + w q_sample(other, eps),  t = timesteps[0]

    Both share the noise, so this equals adding noise to the interpolated clean data:
    the noise keeps its amplitude, and details are resampled.

    Args:
      sampler, denoise, schedule, timesteps: as in `img2img`.
      x_0: [B, ...], the result at weight 0.
      other: [B, ...], the result at weight 1.
      weight: [] or [B].
      keys: [B], one per example.
      self_condition: as in sampling.sample.

    Returns:
      [B, ...].

    Source: Ho et al. 2020, section 4.4 and figure 8, arXiv:2006.11239.
    """
    weight = process.align(weight, x_0)
    mixed = (1 - weight) * x_0 + weight * other
    return img2img(sampler, denoise, schedule, timesteps, mixed, keys, self_condition)


def known(denoise: Denoiser, x_0: Array, mask: Array) -> Denoiser:
    """A denoiser that predicts the known x_0 wherever the mask is true."""

    def replaced(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        denoised = denoise(x_t, t, self_cond)
        return denoised._replace(x_0=jnp.where(mask, x_0, denoised.x_0))

    return replaced


def inpainting(
    sampler: Sampler,
    x_0: Array,
    mask: Array,
    num_resamplings: int,
) -> Sampler:
    """A sampler that replaces the known part by q(x_s | x_0) after each step to s.

    The unknown part was sampled with a different known part. Resampling noises x_s back
    to t and repeats the step, which makes the two parts consistent.

    Args:
      sampler: for the unknown part; each of its steps runs num_resamplings times.
      x_0: [B, ...], of which only the known part is used.
      mask: bool, broadcastable to x_0; true where x_0 is known.
      num_resamplings: 1 is replacement without resampling; the paper uses 10, and jumps
        back ten steps at a time instead of one.

    Returns:
      A sampler for x_0's batch. It does not change predictions of x_0, see `known`.

    Source: Lugmayr et al. 2022 (RePaint), algorithm 1, arXiv:2201.09865.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)

        def once(number, carry):
            _, x_s, _ = carry
            split = jax.vmap(lambda key: jax.random.split(key, 3))
            step_keys, known_keys, back_keys = split(prng.fold_in(keys, number)).T
            back = process.q_step(x_s, l_s, l_t, prng.normal(back_keys, x_t.shape[1:]))
            start = jnp.where(number == 0, x_t, back)
            new, x_s, x_0_hat = sampler.step(
                state, step_keys, denoise, schedule, start, t, s
            )
            noise = prng.normal(known_keys, x_t.shape[1:])
            x_s = jnp.where(mask, process.q_sample(x_0, l_s, noise), x_s)
            return new, x_s, x_0_hat

        carry = (state, x_t, jnp.zeros_like(x_t))
        return lax.fori_loop(0, num_resamplings, once, carry)

    return sampler._replace(step=step)


def inpaint(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps: np.ndarray,
    x_0: Array,
    mask: Array,
    keys: Array,
    num_resamplings: int,
    num_frames: int = 0,
    self_condition: bool = False,
) -> tuple[Array, Array]:
    """Samples the unknown part of x_0 given the known part.

    Known entries are returned bit for bit, in the frames too, because the denoiser
    predicts them (`known`). For samplers with one call per step this has no other
    effect: a step is elementwise in x_0_hat, and known entries of x_s are replaced
    after it. A second call per step already sees the known part.

    Args:
      sampler, denoise, schedule, timesteps: as in sampling.sample.
      x_0: [B, ...].
      mask: bool, broadcastable to x_0; true where x_0 is known.
      keys: [B], one per example.
      num_resamplings: see `inpainting`; N timesteps cost 1 + (N - 1) num_resamplings
        steps.
      num_frames: as in sampling.sample.
      self_condition: as in sampling.sample.

    Returns:
      The completed x_0, [B, ...], and the frames, [B, num_frames, ...].

    Source: Lugmayr et al. 2022, algorithm 1, arXiv:2201.09865.
    """
    eps = _noise(keys, x_0)
    noised = process.q_sample(x_0, schedule(jnp.asarray(timesteps)[0]), eps)
    return sampling.sample(
        inpainting(sampler, x_0, mask, num_resamplings),
        known(denoise, x_0, mask),
        schedule,
        timesteps,
        jnp.where(mask, noised, eps),
        keys,
        num_frames,
        self_condition,
    )
