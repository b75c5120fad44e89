"""Every sampler's error by number of network calls, for a known distribution.

Data: a mixture of two normals in 1-D, whose exact denoiser replaces the network. Error:
the 1-Wasserstein distance of 8192 samples to the exact quantiles. All samplers start
from the same stratified x_T, so deterministic ones have no sampling error. Writes a
Markdown table and a plot. Takes about two minutes on a CPU.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from matplotlib.figure import Figure

from diffusion_jax.diffusion import process, samplers, sampling, schedules, timesteps
from diffusion_jax.diffusion.denoiser import Denoised

WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), 0.15
POINTS = 8192
CALLS = (5, 10, 20, 50, 100)
SCHEDULE = schedules.make("linear", 1000)
# label: sampler, its options, network calls per step, spacing
SAMPLERS = {
    "ancestral, fixedsmall": ("ancestral", {"variance": "fixedsmall"}, 1, "trailing"),
    "ancestral, fixedlarge": ("ancestral", {"variance": "fixedlarge"}, 1, "trailing"),
    "ddim": ("ddim", {}, 1, "trailing"),
    "ddim, eta 1": ("ddim", {"eta": 1.0}, 1, "trailing"),
    "dpmpp_2m": ("dpmpp_2m", {}, 1, "logsnr"),
    "dpmpp_3m": ("dpmpp_3m", {}, 1, "logsnr"),
    "dpmpp_2s": ("dpmpp_2s", {}, 2, "logsnr"),
    "dpmpp_3s": ("dpmpp_3s", {}, 3, "logsnr"),
    "heun": ("heun", {}, 2, "karras"),
    "heun, churn 0.1": ("heun", {"churn": 0.1}, 2, "karras"),
    "predictor_corrector": ("predictor_corrector", {}, 2, "trailing"),
    "annealed_langevin": ("annealed_langevin", {}, 3, "logsnr"),
}


def denoise(x_t: jax.Array, t: jax.Array, self_cond: None) -> Denoised:
    """E[x_0 | x_t] of the mixture, x_t [B, 1]."""
    logsnr = SCHEDULE(t)
    alpha, variance = process.alpha(logsnr), jax.nn.sigmoid(-logsnr)
    spread = jnp.sqrt(alpha**2 * STD**2 + variance)
    log_modes = norm.logpdf(x_t, alpha * MEANS[None], spread) + np.log(WEIGHTS)[None]
    gain = alpha * STD**2 / spread**2
    means = MEANS[None] + gain * (x_t - alpha * MEANS[None])
    x_0 = jnp.sum(jax.nn.softmax(log_modes) * means, axis=1, keepdims=True)
    return Denoised(x_0)


def quantiles() -> np.ndarray:
    """The exact quantiles of the data at (i + 1/2) / POINTS, by inverting the CDF."""
    grid = np.linspace(-2, 2, 200_001)
    cdfs = WEIGHTS[:, None] * np.asarray(norm.cdf((grid - MEANS[:, None]) / STD))
    return np.interp((np.arange(POINTS) + 0.5) / POINTS, cdfs.sum(0), grid)


def error(name: str, options: dict, num_steps: int, spacing: str) -> float:
    """The 1-Wasserstein distance between samples and data."""
    sampler = samplers.make(name, **{"variance": "fixedsmall", **options})
    x_T = norm.ppf((jnp.arange(POINTS) + 0.5) / POINTS)[:, None]
    x_T = jax.random.permutation(jax.random.key(1), x_T)
    keys = jax.random.split(jax.random.key(0), POINTS)
    steps = timesteps.make(spacing, SCHEDULE, num_steps)
    run = jax.jit(
        lambda x: sampling.sample(sampler, denoise, SCHEDULE, steps, x, keys)[0]
    )
    return np.mean(np.abs(np.sort(np.asarray(run(x_T))[:, 0]) - quantiles()))


def main(output: pathlib.Path, calls: tuple[int, ...]) -> None:
    """Evaluates all samplers, and writes OUTPUT.md and OUTPUT.png."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="network calls", ylabel="error (W1)"
    )
    head = " | ".join(map(str, calls))
    lines = [f"| sampler | spacing | calls per step | {head} |"]
    lines.append("|---" * (len(calls) + 3) + "|")
    for i, (label, (name, options, cost, spacing)) in enumerate(SAMPLERS.items()):
        # The last denoising is one call: n timesteps are n - 1 steps and this call.
        steps = [(n - 1) // cost + 1 for n in calls]
        errors = [error(name, options, n, spacing) for n in steps]
        row = " | ".join(f"{e:.4f}" for e in errors)
        lines.append(f"| {label} | {spacing} | {cost} | {row} |")
        axes.plot(calls, errors, "o-" if i < 10 else "o--", markersize=3, label=label)
        print(lines[-1], flush=True)
    axes.legend(fontsize=7)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    figure.savefig(output.with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default="runs/sampler_errors")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    args = parser.parse_args()
    main(args.output, tuple(args.calls))
