"""References for the tests: textbook tables, and data with exact solutions.

Written from the papers with their indices (0..T-1, with `_prev` tables), in float64
NumPy, independently of the package.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Table(NamedTuple):
    """Ho et al. 2020, equations 2, 4 and 7; index t - 1 holds time t of the package."""

    betas: np.ndarray
    alpha_bar: np.ndarray
    alpha_bar_prev: np.ndarray
    posterior_variance: np.ndarray
    of_x_0: np.ndarray
    of_x_t: np.ndarray


def table(betas: np.ndarray) -> Table:
    """The coefficients of the chain by the paper's formulas."""
    alphas = 1.0 - betas
    alpha_bar = np.cumprod(alphas)
    alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
    return Table(
        betas=betas,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_prev,
        posterior_variance=betas * (1 - alpha_bar_prev) / (1 - alpha_bar),
        of_x_0=betas * np.sqrt(alpha_bar_prev) / (1 - alpha_bar),
        of_x_t=(1 - alpha_bar_prev) * np.sqrt(alphas) / (1 - alpha_bar),
    )


def linear_table(num_timesteps: int = 1000) -> Table:
    """The paper's linear schedule, betas 1e-4 to 0.02."""
    return table(np.linspace(1e-4, 0.02, num_timesteps))


class Gaussian(NamedTuple):
    """Data N(mean, std^2 I), for which the optimal network is known.

    Attributes:
      mean: [], or one example's shape.
      std: the standard deviation of each entry.
      betas: the chain's table, [T].
    """

    mean: np.ndarray
    std: float
    betas: np.ndarray

    def x_0(self, x_t, alpha_bar):
        """E[x_0 | x_t]; alpha_bar broadcasts against x_t."""
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        gain = jnp.sqrt(alpha_bar) * self.std**2 / variance
        return self.mean + gain * (x_t - jnp.sqrt(alpha_bar) * self.mean)

    def network(self, prediction):
        """The optimal network of a prediction: (x_t, t in 0..T-1) -> [B, ...]."""
        tables = table(self.betas)

        def output(x_t, t):
            def at(values):
                values = jnp.asarray(values, x_t.dtype)[t]
                return values.reshape(values.shape + (1,) * (x_t.ndim - values.ndim))

            alpha_bar = at(tables.alpha_bar)
            sigma = jnp.sqrt(at(1 - tables.alpha_bar))
            c_skip, c_out, c_in = preconditioning(sigma / jnp.sqrt(alpha_bar))
            if prediction == "edm":  # receives c_in times the noisy data
                x_t = jnp.sqrt(alpha_bar) * x_t / c_in
            x_0 = self.x_0(x_t, alpha_bar)
            eps = (x_t - jnp.sqrt(alpha_bar) * x_0) / sigma
            return {
                "eps": eps,
                "x0": x_0,
                "v": jnp.sqrt(alpha_bar) * eps - sigma * x_0,
                "mu": at(tables.of_x_0) * x_0 + at(tables.of_x_t) * x_t,
                "score": -eps / sigma,
                "edm": (x_0 - c_skip * x_t / jnp.sqrt(alpha_bar)) / c_out,
            }[prediction]

        return output

    def denoise(self, x_t, t):
        """The optimal denoiser: (x_t, t in 1..T) -> x_0."""
        return self.network("x0")(x_t, jnp.broadcast_to(t - 1, x_t.shape[:1]))

    def ode_map(self, x_T):
        """The probability-flow ODE's map of x_T at time T to clean data."""
        alpha_bar = table(self.betas).alpha_bar[-1]
        spread = np.sqrt(alpha_bar * self.std**2 + 1 - alpha_bar)
        return self.mean + self.std * (x_T - np.sqrt(alpha_bar) * self.mean) / spread


class Mixture(NamedTuple):
    """A mixture of K normals with full covariances, exact at every noise level.

    Attributes:
      weights: [K], sum 1.
      means: [K, D].
      axes: [K, D, D], the covariances' unit eigenvectors, as columns.
      variances: [K, D], the eigenvalues.
    """

    weights: np.ndarray
    means: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @classmethod
    def make(cls, weights, means, covariances):
        """From weights [K], means [K, D] and covariances [K, D, D]."""
        variances, axes = np.linalg.eigh(covariances)
        return cls(np.asarray(weights), np.asarray(means), axes, variances)

    def x_0(self, x_t, alpha_bar):
        """E[x_0 | x_t [B, D]], alpha_bar []: posterior means by responsibility."""
        alpha = jnp.sqrt(alpha_bar)
        away = x_t[:, None] - alpha * self.means[None]
        along = jnp.einsum("bkd,kde->bke", away, self.axes)
        variances = alpha_bar * self.variances[None] + (1 - alpha_bar)
        log_density = -0.5 * jnp.sum(along**2 / variances + jnp.log(variances), -1)
        share = jax.nn.softmax(jnp.log(self.weights)[None] + log_density)
        along *= alpha * self.variances[None] / variances
        each = self.means[None] + jnp.einsum("bke,kde->bkd", along, self.axes)
        return jnp.einsum("bk,bkd->bd", share, each)

    def ode_map(self, x, l_t, l_s):
        """The probability-flow ODE's map of x [B, 1] from one log-SNR to another.

        In one dimension it preserves order and mass, so every point keeps its quantile:
        F_s(x_s) = F_t(x_t), solved by bisection.
        """
        erf = np.vectorize(math.erf)

        def quantile(x, logsnr):
            alpha_bar = 1 / (1 + np.exp(-logsnr))
            spread = np.sqrt(alpha_bar * self.variances[:, 0] + 1 - alpha_bar)
            z = (x - np.sqrt(alpha_bar) * self.means[:, 0]) / spread
            return np.sum(self.weights * (1 + erf(z / np.sqrt(2))) / 2, -1, keepdims=1)

        low, high = np.full_like(x, -10), np.full_like(x, 10)
        for _ in range(60):
            middle = (low + high) / 2
            above = quantile(middle, l_s) > quantile(x, l_t)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return low


def prediction_of(name, x_t, x_0, bar_s, bar_t):
    """The output of a network of that prediction that predicts x_0; s is t - 1.

    alpha_bar at s and t, bar_s and bar_t, broadcast against x_t.
    """
    alpha, sigma = jnp.sqrt(bar_t), jnp.sqrt(1 - bar_t)
    eps, beta = (x_t - alpha * x_0) / sigma, 1 - bar_t / bar_s
    if name == "mu":
        of_x_t = jnp.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t)
        return jnp.sqrt(bar_s) * beta / (1 - bar_t) * x_0 + of_x_t * x_t
    if name == "edm":
        c_skip, c_out, _ = preconditioning(sigma / alpha)
        return (x_0 - c_skip * x_t / alpha) / c_out
    return {
        "eps": eps,
        "x0": x_0,
        "v": alpha * eps - sigma * x_0,
        "score": -eps / sigma,
    }[name]


def preconditioning(level, data=0.5):
    """Karras et al. 2022, table 1: (c_skip, c_out, c_in) at sigma = level."""
    total = level**2 + data**2
    return data**2 / total, level * data / total**0.5, 1 / total**0.5


def keys(n: int, seed: int = 0) -> jax.Array:
    """One key per example."""
    return jax.random.split(jax.random.key(seed), n)
