"""Samplers: pairs of pure functions, walked by one `lax.scan` on the device.

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

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.schedules import Schedule

# (x_t [B, ...], integer time t []) -> prediction of x_0 [B, ...]
Denoiser = Callable[[Array, Array], Array]


class Sampler(NamedTuple):
    """A way from x_t to x_s, as a pair of pure functions.

    Attributes:
      init: x_T -> the sampler's own state, () where it has none.
      step: (state, keys [B], denoise, schedule, x_t, t, s) -> (state, x_s, x_0_hat),
        with integer scalars s < t.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Any, Array, Array]]


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of that shape for each of the keys [B]: [B, *shape].

    One key an example: what is drawn for it depends neither on its neighbours nor on
    the number of devices.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def ancestral(variance: str = "fixedlarge") -> Sampler:
    """Draws x_s from p(x_s | x_t), the learned reverse chain.

        x_s = posterior_mean(x_0_hat, x_t) + sqrt(variance) z

    Args:
      variance: a name of process.VARIANCES.

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, algorithm 2, arXiv:2006.11239.
    """
    if variance not in process.VARIANCES:
        raise ValueError(
            f"Unknown variance {variance!r}. "
            f"Known ones: {', '.join(process.VARIANCES)}."
        )

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_0 = denoise(x_t, t)
        mean = process.posterior_mean(x_0, x_t, l_s, l_t)
        noise = normal(keys, x_t.shape[1:])
        x_s = mean + jnp.sqrt(process.VARIANCES[variance](l_s, l_t)) * noise
        return state, x_s, x_0

    return Sampler(init=lambda x_t: (), step=step)


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


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    x_T: Array,
    keys: Array,
    num_frames: int = 0,
) -> tuple[Array, Array]:
    """Runs the reverse chain on the device.

    Args:
      sampler: how to go from one time to the next.
      denoise: predicts x_0 from (x_t, t).
      schedule: log-SNR of time.
      times: i32[N], falling, each in 1..T: where the network is called.
      x_T: [B, ...], noise at times[0].
      keys: [B], one an example.
      num_frames: k, how many predictions of x_0 to keep, spread evenly over the walk;
        the memory is theirs alone, the chain itself is not stored.

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

    def step(carry, knot):
        state, x_t, frames = carry
        t, s, slot = knot
        noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        state, x_s, x_0 = sampler.step(state, noise_keys, denoise, schedule, x_t, t, s)
        return (state, x_s, keep(frames, x_0, slot)), None

    frames = jnp.zeros((x_T.shape[0], num_frames, *x_T.shape[1:]), x_T.dtype)
    carry = (sampler.init(x_T), x_T, frames)
    (_, x_1, frames), _ = lax.scan(step, carry, (times[:-1], times[1:], slots[:-1]))
    x_0 = denoise(x_1, times[-1])
    return x_0, keep(frames, x_0, slots[-1])


# Each row makes a sampler from the variance of the reverse chain and from eta.
SAMPLERS: dict[str, Callable[[str, float], Sampler]] = {
    "ancestral": lambda variance, eta: ancestral(variance),
    "ddim": lambda variance, eta: ddim(eta),
}
