"""What a trained denoiser does with given data: encoding, mixing, filling in.

Everything runs on the device, and an example's result depends on that example and its
key alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import process, sampling
from diffusion_jax.diffusion.sampling import Denoiser, Sampler
from diffusion_jax.diffusion.schedules import Schedule

NEARLY_PARALLEL = 1e-4  # sine of the angle: below it, an arc is a chord


def slerp(a: Array, b: Array, weight: Array) -> Array:
    """Goes along the arc from a to b, example by example.

        sin((1 - w) angle) / sin(angle) a + sin(w angle) / sin(angle) b

    Vectors of one length keep it, and normal noise its amplitude, which a line between
    them would not. Nearly parallel and nearly opposite ones are mixed linearly.

    Args:
      a: [B, ...].
      b: [B, ...].
      weight: [] or [B]; 0 is a and 1 is b, bit for bit.

    Returns:
      [B, ...].

    Source: Shoemake 1985; Song et al. 2021, appendix D.5, arXiv:2010.02502.
    """

    def lengths(x: Array) -> Array:
        axes = tuple(range(1, x.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))

    tiny = jnp.finfo(a.dtype).tiny
    one, other = (x / jnp.maximum(lengths(x), tiny) for x in (a, b))
    # Kahan's formula: arccos of the inner product has no digits for small angles.
    angle = 2 * jnp.arctan2(lengths(one - other), lengths(one + other))
    sine, weight = jnp.sin(angle), process.align(jnp.asarray(weight, a.dtype), a)
    parallel = sine < NEARLY_PARALLEL
    sine = jnp.where(parallel, 1.0, sine)
    of_a = jnp.where(parallel, 1 - weight, jnp.sin((1 - weight) * angle) / sine)
    of_b = jnp.where(parallel, weight, jnp.sin(weight * angle) / sine)
    return of_a * a + of_b * b


def encode(
    denoise: Denoiser, schedule: Schedule, times: np.ndarray, x_0: Array
) -> Array:
    """Finds the x_T from which ddim(0) draws x_0: DDIM's walk, upwards.

        x_t = alpha_t x_0_hat(x_s) + sigma_t eps_hat(x_s),  s < t

    Clean data has no noise to predict: the first step takes x_0 itself, and the noise
    that is seen in alpha_s x_0 at the first time. Walked back over the same times it
    comes to x_0 up to O(1 / N).

    Args:
      denoise: predicts x_0 alone.
      schedule: log-SNR of time.
      times: [N], falling, each in [1, T], those of the walk back.
      x_0: [B, ...].

    Returns:
      x_T, [B, ...], at times[0]; N calls of the denoiser.

    Source: Song et al. 2021, equation 14 and section 5.4, arXiv:2010.02502.
    """
    rising = jnp.asarray(times)[::-1]

    def step(x_s: Array, knot: tuple[Array, Array]) -> tuple[Array, None]:
        s, t = knot
        x_0_hat = denoise(x_s, s).astype(x_0.dtype)
        eps = process.eps_from_x0(x_s, x_0_hat, schedule(s))
        clean = jnp.where(s == t, x_0, x_0_hat)
        return process.q_sample(clean, schedule(t), eps), None

    x_1 = process.alpha(schedule(rising[0])) * x_0
    knots = jnp.concatenate([rising[:1], rising[:-1]]), rising
    return lax.scan(step, x_1, knots)[0]


def _noise(keys: Array, x_0: Array) -> Array:
    """The noise that a walk begins with: steps draw from fold_in(key, 1) on."""
    return prng.normal(prng.fold_in(keys, 0), x_0.shape[1:])


def img2img(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    x_0: Array,
    keys: Array,
    self_condition: bool = False,
) -> Array:
    """Image to image: noises x_0 up to times[0], and walks back from there.

    The later times[0], the less is left of x_0.

    Args:
      sampler: how to go from one time to the next.
      denoise: as for sampling.sample.
      schedule: log-SNR of time.
      times: [N], falling, each in [1, T].
      x_0: [B, ...], what to start from.
      keys: [B], one an example.
      self_condition: as for sampling.sample.

    Returns:
      [B, ...].

    Source: Meng et al. 2022 (SDEdit), algorithm 1, arXiv:2108.01073.
    """
    x_t = process.q_sample(x_0, schedule(jnp.asarray(times)[0]), _noise(keys, x_0))
    options = {"self_condition": self_condition}
    return sampling.sample(sampler, denoise, schedule, times, x_t, keys, **options)[0]


def interpolate(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    x_0: Array,
    other: Array,
    weight: Array,
    keys: Array,
    self_condition: bool = False,
) -> Array:
    """Mixes two pictures under noise, and walks back from there.

        x_t = (1 - w) q_sample(x_0, eps) + w q_sample(other, eps),  t = times[0]

    The noise is the same for both, so that this is the mixture of the clean pictures,
    noised: it keeps its amplitude, and details of the mixture are drawn anew.

    Args:
      sampler, denoise, schedule, times: as for `img2img`.
      x_0: [B, ...], at weight 0.
      other: [B, ...], at weight 1.
      weight: [] or [B].
      keys: [B], one an example.
      self_condition: as for sampling.sample.

    Returns:
      [B, ...].

    Source: Ho et al. 2020, section 4.4 and figure 8, arXiv:2006.11239.
    """
    weight = process.align(weight, x_0)
    mixed = (1 - weight) * x_0 + weight * other
    return img2img(sampler, denoise, schedule, times, mixed, keys, self_condition)


def known(denoise: Denoiser, x_0: Array, mask: Array) -> Denoiser:
    """A denoiser that says what is known of x_0 where the mask is true."""

    def changed(x_t: Array, t: Array, *shown: Array) -> Any:
        found = denoise(x_t, t, *shown)
        if isinstance(found, tuple):
            return jnp.where(mask, x_0, found[0]), found[1]
        return jnp.where(mask, x_0, found)

    return changed


def inpainting(
    sampler: Sampler,
    x_0: Array,
    mask: Array,
    num_resamplings: int,
) -> Sampler:
    """A sampler that, after each step to s, puts in q(x_s | x_0) of what is known.

    The unknown part was drawn beside another known part than it now has. Resampling
    noises x_s back to t and repeats the step, so that the two come to agree.

    Args:
      sampler: of the unknown part; each of its steps is taken num_resamplings times.
      x_0: [B, ...], of which only the known part is looked at.
      mask: bool, broadcastable to x_0; true where x_0 is known.
      num_resamplings: 1 is mere replacement; 10 in the paper, which jumps back over ten
        steps at once where this goes back over one.

    Returns:
      A sampler for walks of x_0's batch; it leaves predictions of x_0 as they are, see
      `known`.

    Source: Lugmayr et al. 2022 (RePaint), algorithm 1, arXiv:2201.09865.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)

        def once(number, carry):
            _, x_s, _ = carry
            mine = jax.vmap(
                lambda key: jax.random.split(jax.random.fold_in(key, number), 3)
            )
            step_keys, known_keys, back_keys = mine(keys).T
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
    times: np.ndarray,
    x_0: Array,
    mask: Array,
    keys: Array,
    num_resamplings: int,
    num_frames: int = 0,
    self_condition: bool = False,
) -> tuple[Array, Array]:
    """Draws the unknown part of x_0 beside the known one.

    Known entries come out bit for bit, in the frames too: all that a walk returns was
    said by its denoiser, and that is told them (`known`). In samplers with one call a
    step that changes nothing else: a step is entrywise in x_0_hat, and known entries of
    x_s are replaced after it. A second call sees the known part already.

    Args:
      sampler, denoise, schedule, times: as for sampling.sample.
      x_0: [B, ...].
      mask: bool, broadcastable to x_0; true where x_0 is known.
      keys: [B], one an example.
      num_resamplings: see `inpainting`; N knots cost 1 + (N - 1) num_resamplings steps.
      num_frames: as for sampling.sample.
      self_condition: as for sampling.sample.

    Returns:
      x_0 completed, [B, ...], and the frames, [B, num_frames, ...].

    Source: Lugmayr et al. 2022, algorithm 1, arXiv:2201.09865.
    """
    eps = _noise(keys, x_0)
    noised = process.q_sample(x_0, schedule(jnp.asarray(times)[0]), eps)
    return sampling.sample(
        inpainting(sampler, x_0, mask, num_resamplings),
        known(denoise, x_0, mask),
        schedule,
        times,
        jnp.where(mask, noised, eps),
        keys,
        num_frames,
        self_condition,
    )
