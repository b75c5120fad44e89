"""The sampling loop: the `Sampler` interface, and the `lax.scan` that runs it.

The loop visits timesteps t_N > ... > t_1 and ends with one plain denoising at t_1,
the limit of every sampler as the noise goes to zero. N timesteps therefore cost N
network calls for a sampler with one call per step, and no sampler needs a special last
step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax.diffusion.denoiser import Denoised, Denoiser
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.prng import fold_in


class Sampler(NamedTuple):
    """A rule for going from x_t to x_s, as a pair of pure functions.

    Attributes:
      init: x_T -> the sampler's state, () if it has none.
      step: (state, keys [B], denoise, schedule, x_t, t, s) -> (state, x_s, x_0_hat),
        with scalar times s < t. Here denoise is (x_t, t) -> Denoised: the loop has
        already bound self_cond.
      needs_signal: whether it cannot start from pure noise, logsnr = -inf.
      continuous_time: whether it calls the denoiser at times other than t and s.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Any, Array, Array]]
    needs_signal: bool = False
    continuous_time: bool = False


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps: np.ndarray,
    x_T: Array,
    keys: Array,
    num_frames: int = 0,
    self_condition: bool = False,
) -> tuple[Array, Array]:
    """Runs the reverse chain on the device.

    Args:
      sampler: the rule for one step.
      denoise: predicts x_0.
      schedule: log-SNR as a function of time.
      timesteps: [N], decreasing, each in [1, T].
      x_T: [B, ...], noise at timesteps[0].
      keys: [B], one per example; step i draws from fold_in(key, i + 1).
      num_frames: k, predictions of x_0 to keep, evenly spaced over the steps.
        Only these use memory; the chain itself is not stored.
      self_condition: whether denoise receives the previous step's prediction of x_0,
        zeros in the first step (Chen et al. 2023, arXiv:2208.04202), instead of None.

    Returns:
      x_0, [B, ...], and the frames, [B, k, ...], noisiest first; the last frame is x_0.

    Raises:
      ValueError: there are more frames than timesteps.

    Source: Ho et al. 2020, algorithm 2, and section 4.3 (progressive decoding).
    """
    num_steps = len(timesteps)
    if num_frames > num_steps:
        raise ValueError(
            f"sample.num_frames = {num_frames} exceeds the number of predictions of "
            f"x_0, sample.num_steps = {num_steps}: keep at most {num_steps} frames."
        )
    timesteps = jnp.asarray(timesteps)
    # Step i writes frame floor(i k / N): the last step to write a frame wins.
    slots = jnp.arange(num_steps) * num_frames // num_steps

    def keep(frames: Array, x_0: Array, slot: Array) -> Array:
        if num_frames == 0:
            return frames
        return lax.dynamic_update_index_in_dim(frames, x_0, slot, axis=1)

    def bind(x_0: Array) -> Callable[[Array, Array], Denoised]:
        self_cond = x_0 if self_condition else None

        def bound(x_t: Array, t: Array) -> Denoised:
            # The network may compute in bfloat16; the loop keeps x_T's precision.
            denoised = denoise(x_t, t, self_cond)
            return jax.tree.map(lambda x: x.astype(x_T.dtype), denoised)

        return bound

    def step(carry, xs):
        state, x_t, x_0, frames = carry
        number, t, s, slot = xs
        step_keys = fold_in(keys, number)
        state, x_s, x_0 = sampler.step(state, step_keys, bind(x_0), schedule, x_t, t, s)
        return (state, x_s, x_0, keep(frames, x_0, slot)), None

    frames = jnp.zeros((x_T.shape[0], num_frames, *x_T.shape[1:]), x_T.dtype)
    carry = (sampler.init(x_T), x_T, jnp.zeros_like(x_T), frames)
    xs = (jnp.arange(1, num_steps), timesteps[:-1], timesteps[1:], slots[:-1])
    (_, x_1, x_0, frames), _ = lax.scan(step, carry, xs)
    x_0 = bind(x_0)(x_1, timesteps[-1]).x_0
    return x_0, keep(frames, x_0, slots[-1])
