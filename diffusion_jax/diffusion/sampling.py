"""The reverse walk: what a sampler is, and the one `lax.scan` that drives them all.

A walk visits times t_N > ... > t_1 and ends with one plain denoising, which every
sampler taken to zero noise agrees with. So N knots cost N calls of the network for a
sampler that calls it once a step, and no sampler has a special last step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.prng import fold_in

# (x_t [B, ...], time t []) -> prediction of x_0 [B, ...]; with learned variances, for
# a sampler that needs_variance, (x_0, values), where values are the network's. Under
# self-conditioning it takes the last prediction of x_0 as a third argument.
Denoiser = Callable[[Array, Array], Any]


class Sampler(NamedTuple):
    """A way from x_t to x_s, as a pair of pure functions.

    Attributes:
      init: x_T -> the sampler's own state, () where it has none.
      step: (state, keys [B], denoise, schedule, x_t, t, s) -> (state, x_s, x_0_hat),
        with scalar times s < t.
      needs_signal: whether it cannot start from pure noise, logsnr = -inf.
      needs_variance: whether its denoiser returns (x_0, values).
      continuous_time: whether it calls its denoiser between t and s, or beyond.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Any, Array, Array]]
    needs_signal: bool = False
    needs_variance: bool = False
    continuous_time: bool = False


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    x_T: Array,
    keys: Array,
    num_frames: int = 0,
    self_condition: bool = False,
) -> tuple[Array, Array]:
    """Runs the reverse chain on the device.

    Args:
      sampler: how to go from one time to the next.
      denoise: predicts x_0 from (x_t, t).
      schedule: log-SNR of time.
      times: [N], falling, each in [1, T]: where a step begins.
      x_T: [B, ...], noise at times[0].
      keys: [B], one an example; step i of the walk draws from fold_in(key, i + 1).
      num_frames: k, how many predictions of x_0 to keep, spread evenly over the walk;
        the memory is theirs alone, the chain itself is not stored.
      self_condition: whether denoise takes a third argument, the prediction of x_0 of
        the step before, 0 in the first one (Chen et al. 2023, arXiv:2208.04202).

    Returns:
      x_0, [B, ...], and the frames kept, [B, k, ...], noisiest first; the last frame
      is x_0.

    Raises:
      ValueError: more frames than times.

    Source: Ho et al. 2020, algorithm 2, and section 4.3 (progressive decoding).
    """
    num_knots = len(times)
    if num_frames > num_knots:
        raise ValueError(
            f"A walk of {num_knots} steps has only so many predictions of x_0 to "
            f"keep: ask for at most {num_knots} frames, not {num_frames}."
        )
    times = jnp.asarray(times)
    # Step i writes frame floor(i k / N): each frame keeps the last step that did.
    slots = jnp.arange(num_knots) * num_frames // num_knots

    def keep(frames: Array, x_0: Array, slot: Array) -> Array:
        if num_frames == 0:
            return frames
        return lax.dynamic_update_index_in_dim(frames, x_0, slot, axis=1)

    def knowing(x_0: Array) -> Denoiser:
        def known(x_t, t):
            found = denoise(x_t, t, *([x_0] if self_condition else []))
            # A network may compute in bfloat16; the walk does not.
            return jax.tree.map(lambda x: x.astype(x_T.dtype), found)

        return known

    def step(carry, knot):
        state, x_t, x_0, frames = carry
        number, t, s, slot = knot
        noise_keys = fold_in(keys, number)
        state, x_s, x_0 = sampler.step(
            state, noise_keys, knowing(x_0), schedule, x_t, t, s
        )
        return (state, x_s, x_0, keep(frames, x_0, slot)), None

    frames = jnp.zeros((x_T.shape[0], num_frames, *x_T.shape[1:]), x_T.dtype)
    carry = (sampler.init(x_T), x_T, jnp.zeros_like(x_T), frames)
    steps = (jnp.arange(1, num_knots), times[:-1], times[1:], slots[:-1])
    (_, x_1, x_0, frames), _ = lax.scan(step, carry, steps)
    x_0 = knowing(x_0)(x_1, times[-1])
    x_0 = x_0[0] if sampler.needs_variance else x_0
    return x_0, keep(frames, x_0, slots[-1])
