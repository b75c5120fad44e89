"""DDPM on one page: learn to turn noise into a spiral. Read it from top to bottom.

Equations: Ho et al. 2020, arXiv:2006.11239. Takes a minute on a CPU.
"""

import argparse
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

from diffusion_jax.diffusion import losses, process, samplers, sampling, schedules
from diffusion_jax.diffusion.denoiser import Denoised
from diffusion_jax.diffusion.time_samplers import uniform
from diffusion_jax.models import unet

T, BATCH, POINTS, FRAMES = 200, 512, 1200, 5  # time runs from 0, data, to T, noise
SCHEDULE = schedules.make("cosine", T)  # time -> log-SNR; the paper's is "linear"


def data(key: jax.Array, n: int) -> jax.Array:
    """Draws x_0 [n, 2] from a spiral with about the standard deviation of the noise."""
    radius_key, noise_key = jax.random.split(key)
    # The square root gives even density along the curve: outer turns are longer.
    radius = 2.0 * jnp.sqrt(jax.random.uniform(radius_key, (n, 1), minval=0.04))
    angle = 1.75 * jnp.pi * radius + jnp.array([[0.0, -jnp.pi / 2]])
    return radius * jnp.cos(angle) + 0.05 * jax.random.normal(noise_key, (n, 2))


class Network(nn.Module):
    """Predicts the noise eps in points x_t [B, 2] at times t [B]."""

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        # Sines and cosines of t, so that one network handles every noise level.
        h = jnp.concatenate([x_t, unet.time_embedding(t, 32)], axis=-1)
        for _ in range(3):
            h = nn.swish(nn.Dense(128)(h))
        return nn.Dense(2)(h)


def loss_fn(params: dict, key: jax.Array) -> jax.Array:
    """Algorithm 1: add noise to the data at random times, and predict that noise."""
    data_key, time_key, noise_key = jax.random.split(key, 3)
    x_0 = data(data_key, BATCH)
    t = uniform(jax.random.split(time_key, BATCH), T)
    eps = jax.random.normal(noise_key, x_0.shape)
    x_t = process.q_sample(x_0, SCHEDULE(t), eps)  # equation 4: any t in one jump
    output = Network().apply(params, x_t, t - 1)  # the network's t is 0-based
    return jnp.mean(losses.simple(eps, output))  # equation 14


def train(steps: int) -> dict:
    """Runs Adam with fixed seeds; returns the parameters."""
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))  # decay to 0
    params = Network().init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    opt_state = tx.init(params)

    @jax.jit
    def train_step(params, opt_state, key):
        loss, gradient = jax.value_and_grad(loss_fn)(params, key)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for i, key in enumerate(jax.random.split(jax.random.key(1), steps)):
        params, opt_state, loss = train_step(params, opt_state, key)
        if i % 1000 == 0:
            print(f"step {i}: loss {loss:.3f}")  # 1 for a prediction of 0
    return params


@jax.jit
def sample(params: dict) -> jax.Array:
    """Algorithm 2 in one scan: x_t at FRAMES + 1 times T..0, [times, POINTS, 2]."""
    chain = samplers.ancestral("fixedsmall")  # x_{t-1} by equation 7 from predicted x_0

    def denoise(x_t, t, self_cond):
        eps = Network().apply(params, x_t, jnp.full(POINTS, t - 1))
        x_0 = process.x0_from_eps(x_t, eps, SCHEDULE(t))  # equation 15
        return Denoised(jnp.clip(x_0, -2.1, 2.1))  # alpha is almost 0 near T: limit x_0

    def step(*args):  # frames are predictions of x_0: replace them by the chain's x_s
        state, x_s, _ = chain.step(*args)
        return state, x_s, x_s

    x_T = jax.random.normal(jax.random.key(2), (POINTS, 2))
    keys = jax.random.split(jax.random.key(3), POINTS)  # noise per point
    sampler, steps = sampling.Sampler(chain.init, step), range(T, 0, -1)
    _, frames = sampling.sample(sampler, denoise, SCHEDULE, steps, x_T, keys, FRAMES)
    return jnp.concatenate([x_T[None], jnp.moveaxis(frames, 1, 0)])


def draw(path: pathlib.Path, x_0: jax.Array, reverse: jax.Array) -> None:
    """Plots both chains, with equal x_T; colour is a point's radius at time 0."""
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    square = dict(box_aspect=1, xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
    axes = figure.subplot_mosaic("abcdefxx;ghijklxx", subplot_kw=square)
    labels = {"a": "forward: add noise", "g": "reverse: remove it"}
    ts = [T * i // FRAMES for i in range(FRAMES + 1)]
    forward = [process.q_sample(x_0, SCHEDULE(t), reverse[0]) for t in ts]
    for name, t, x_t in zip("abcdefghijkl", ts + ts[::-1], [*forward, *reverse]):
        radius = jnp.linalg.norm(x_0 if name < "g" else reverse[-1], axis=-1)
        axes[name].scatter(*x_t.T, s=3, c=radius, cmap="plasma", linewidths=0)
        axes[name].set(title=f"$t = {t}$", ylabel=labels.get(name, ""))
    axes["x"].scatter(*x_0.T, s=16, color="0.8", linewidths=0)
    axes["x"].scatter(*reverse[-1].T, s=3, color="C3", linewidths=0)
    axes["x"].set_title("samples (red) over data (grey)")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--output", type=pathlib.Path, default="runs/toy_2d.png")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(args.output, data(jax.random.key(4), POINTS), sample(train(args.steps)))
