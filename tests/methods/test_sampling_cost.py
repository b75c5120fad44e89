"""What sampling costs beside the network's own work: counted, and (slow) timed."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import guidance, samplers, sampling, schedules, timesteps
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
CALLS_A_STEP = {
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


def network(x_t, t):
    return NETWORK.apply(params(), x_t, t)


def flops(function, *arguments):
    """Operations of the program as it is before XLA improves it: no compilation."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_step_costs_its_calls_of_the_network(name):
    """A step's operations are those of the network's calls, and under 3 % more.

    Counted for the digits' network, the smallest there is: random numbers included.
    """
    sampler = samplers.make(name, "fixedsmall")
    denoise = guidance.static_thresholding(
        guidance.from_network(network, "v", SCHEDULE)
    )

    def step(x_t, t, s, keys):
        return sampler.step(sampler.init(x_t), keys, denoise, SCHEDULE, x_t, t, s)[1]

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 16))
    calls = CALLS_A_STEP.get(name, 1)
    bare = flops(lambda x, t: network(x, jnp.full(16, t)), X_T, T)
    assert calls * bare <= flops(step, X_T, T, T, keys) < 1.03 * calls * bare


@pytest.mark.slow
def test_the_scan_takes_the_time_of_its_calls():
    """Fifty steps of DDIM take the time of fifty bare passes, and under 3 % more.

    Medians of pairs measured in turn; fails on a machine busy with other things.
    """
    x_T = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
    keys = jax.random.split(jax.random.key(1), 100)
    knots = timesteps.make("trailing", SCHEDULE, 50)
    denoise = guidance.static_thresholding(
        guidance.from_network(network, "v", SCHEDULE)
    )
    walked = jax.jit(
        lambda x, keys: sampling.sample(
            samplers.ddim(), denoise, SCHEDULE, knots, x, keys
        )[0]
    )
    bare = jax.jit(network)

    def seconds(function):
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    def passes():
        x = x_T
        for t in knots:
            x = bare(x, jnp.full(100, int(t) - 1))
        return x

    pairs = [(seconds(lambda: walked(x_T, keys)), seconds(passes)) for _ in range(12)][
        2:
    ]
    ratios = [one / other for one, other in pairs]
    assert np.median(ratios) < 1.03, sorted(ratios)
