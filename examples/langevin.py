"""Langevin dynamics on two modes: why it fails without annealing.

Data: 0.2 N((-5, -5), I) + 0.8 N((5, 5), I). Both chains use the exact score, call it
about 1000 times and start from uniform points in the square. Between the modes the
score points to the nearer one and carries no information about their weights: plain
Langevin splits the points by where they start, about half and half. Annealed Langevin
starts at a noise level that merges the modes, and reduces it in fifty levels (Song and
Ermon 2019, section 3.2 and figure 3, arXiv:1907.05600). Takes a few seconds on a CPU.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure

from diffusion_jax.diffusion import langevin, process, sampling, schedules
from diffusion_jax.diffusion.denoiser import Denoised

WEIGHTS = np.array([0.2, 0.8])
MEANS = np.array([[-5.0, -5.0], [5.0, 5.0]])
POINTS, CALLS, LEVELS, SIDE = 4096, 1000, 50, 8.0
# Noise levels from 20 down to 0.1; the modes have standard deviation 1.
SCHEDULE = schedules.edm(LEVELS, 1, sigma_min=0.1, sigma_max=20.0)


def data(key: jax.Array, n: int) -> jax.Array:
    """Draws [n, 2] from the two modes."""
    mode_key, noise_key = jax.random.split(key)
    mode = jax.random.choice(mode_key, 2, (n,), p=jnp.asarray(WEIGHTS))
    return jnp.asarray(MEANS)[mode] + jax.random.normal(noise_key, (n, 2))


def log_density(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """log p of alpha x_0 + sqrt(1 - alpha^2) eps, [B]; the modes keep unit variance."""
    distance = jnp.square(x[:, None] - alpha * jnp.asarray(MEANS)[None]).sum(-1)
    log_modes = -0.5 * distance + jnp.log(jnp.asarray(WEIGHTS))[None]
    return jax.nn.logsumexp(log_modes, axis=1) - jnp.log(2 * jnp.pi)


def score(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """The gradient of log_density, [B, 2]."""
    return jax.grad(lambda x: log_density(x, alpha).sum())(x)


def denoise(x_t: jax.Array, t: jax.Array, self_cond: None) -> Denoised:
    """E[x_0 | x_t], by Tweedie's formula."""
    logsnr = SCHEDULE(t)
    exact_score = score(x_t, process.alpha(logsnr))
    return Denoised(process.x0_from_score(x_t, exact_score, logsnr))


@jax.jit
def plain(x: jax.Array, key: jax.Array) -> jax.Array:
    """Langevin dynamics on the data density, with a constant step size of 0.1."""

    def step(x, key):
        noise = jax.random.normal(key, x.shape)
        return langevin.langevin_step(x, score(x, 1.0), 0.1, noise), None

    return lax.scan(step, x, jax.random.split(key, CALLS))[0]


@jax.jit
def annealed(x: jax.Array, key: jax.Array) -> jax.Array:
    """Langevin dynamics at each noise level in turn, the highest first."""
    sampler = langevin.annealed(num_corrections=CALLS // LEVELS, snr=0.2)
    keys = jax.random.split(key, len(x))
    x_T = process.alpha(SCHEDULE(LEVELS)) * x
    steps = range(LEVELS, 0, -1)
    return sampling.sample(sampler, denoise, SCHEDULE, steps, x_T, keys)[0]


def light_share(x: jax.Array) -> float:
    """The fraction of points closer to the lighter mode; 0.2 for the data."""
    return float(jnp.mean(x.sum(axis=1) < 0))


def main(output: pathlib.Path) -> None:
    """Runs both chains, prints their fractions, and plots the samples."""
    keys = jax.random.split(jax.random.key(0), 4)
    start = jax.random.uniform(keys[0], (POINTS, 2), minval=-SIDE, maxval=SIDE)
    drawn = {
        "data": data(keys[1], POINTS),
        "plain Langevin": plain(start, keys[2]),
        "annealed Langevin": annealed(start, keys[3]),
    }
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for axis, (name, x) in zip(axes, drawn.items(), strict=True):
        share = light_share(x)
        print(f"{name}: {share:.3f} of the points in the lighter mode, of weight 0.2")
        axis.scatter(*x.T, s=2, alpha=0.3, linewidths=0)
        axis.set(title=f"{name}: {share:.2f} lower left", box_aspect=1)
        axis.set(xlim=(-SIDE - 2, SIDE + 2), ylim=(-SIDE - 2, SIDE + 2))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default="runs/langevin.png")
    main(parser.parse_args().output)
