"""The cost of sampling compared with the network's own: counted, and (slow) timed."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import (
    denoiser,
    guidance,
    samplers,
    sampling,
    schedules,
    timesteps,
)
from diffusion_jax.models.unet import UNet

SCHEDULE = schedules.make("linear", 1000)
NETWORK = UNet(
    base_channels=32,
    channel_multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(4,),
    dropout=0.0,
    out_channels=1,
)
CALLS_PER_STEP = {
    "heun": 2,
    "dpmpp_2s": 2,
    "dpmpp_3s": 3,
    "predictor_corrector": 2,
    "annealed_langevin": 1,  # three, in a loop whose body is counted once
}
X_T = jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.float32)
T = jax.ShapeDtypeStruct((), jnp.float32)


@functools.cache
def params():
    shapes = jax.eval_shape(
        NETWORK.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
    )
    return jax.tree.map(lambda x: np.full(x.shape, 0.01, np.float32), shapes)


@jax.jit  # traced once
def network(x_t, t, self_cond=None):
    return NETWORK.apply(params(), x_t, t)


def clipped_denoiser():
    denoise = denoiser.from_network(network, "v", SCHEDULE)
    return guidance.static_thresholding(denoise)


def flops(function, *arguments):
    """Operations of the program before XLA optimises it: no compilation."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@functools.cache
def network_flops():
    """Operations of one call of the network."""
    return flops(lambda x, t: network(x, jnp.full(16, t)), X_T, T)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_step_costs_its_network_calls(name):
    """A step's operations are those of its network calls, and under 3 % more.

    Counted for the network of the digits, the smallest: random numbers included.
    """
    sampler = samplers.make(name, "fixedsmall")
    denoise = functools.partial(clipped_denoiser(), self_cond=None)

    def step(x_t, t, s, keys):
        return sampler.step(sampler.init(x_t), keys, denoise, SCHEDULE, x_t, t, s)[1]

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 16))
    calls = CALLS_PER_STEP.get(name, 1)
    bare = network_flops()
    assert calls * bare <= flops(step, X_T, T, T, keys) < 1.03 * calls * bare


@pytest.mark.slow
def test_the_scan_takes_the_time_of_its_network_calls():
    """Fifty steps of DDIM take the time of fifty network calls, and under 3 % more.

    Medians of pairs measured in turn; fails on a machine that is busy.
    """
    x_T = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
    keys = jax.random.split(jax.random.key(1), 100)
    times = timesteps.make("trailing", SCHEDULE, 50)
    denoise = clipped_denoiser()
    sample = jax.jit(
        lambda x, keys: sampling.sample(
            samplers.ddim(), denoise, SCHEDULE, times, x, keys
        )[0]
    )
    bare = jax.jit(network)

    def seconds(function):
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    def passes():
        x = x_T
        for t in times:
            x = bare(x, jnp.full(100, int(t) - 1))
        return x

    ratios = [seconds(lambda: sample(x_T, keys)) / seconds(passes) for _ in range(12)][
        2:
    ]
    assert np.median(ratios) < 1.03, sorted(ratios)
