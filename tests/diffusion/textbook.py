"""What the tests compare with: textbook tables and data whose answers are known.

Written from the papers in their own indices (0..T-1, with `_prev` tables), in float64
NumPy, and independently of the package.
"""

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
    """The coefficients of the chain by the formulas of the paper."""
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
    """The linear schedule of the paper, betas 1e-4 to 0.02."""
    return table(np.linspace(1e-4, 0.02, num_timesteps))


class Gaussian(NamedTuple):
    """Data N(mean, std^2 I): all that a network could learn is known.

    Attributes:
      mean: [], or of one example's shape.
      std: the standard deviation of every entry.
      betas: the table of the chain, [T].
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
        """The perfect network of that prediction: (x_t, t in 0..T-1) -> [B, ...]."""
        tables = table(self.betas)

        def output(x_t, t):
            def at(values):
                values = jnp.asarray(values, x_t.dtype)[t]
                return values.reshape(values.shape + (1,) * (x_t.ndim - values.ndim))

            alpha_bar = at(tables.alpha_bar)
            sigma = jnp.sqrt(at(1 - tables.alpha_bar))
            x_0 = self.x_0(x_t, alpha_bar)
            eps = (x_t - jnp.sqrt(alpha_bar) * x_0) / sigma
            return {
                "eps": eps,
                "x0": x_0,
                "v": jnp.sqrt(alpha_bar) * eps - sigma * x_0,
                "mu": at(tables.of_x_0) * x_0 + at(tables.of_x_t) * x_t,
            }[prediction]

        return output

    def denoise(self, x_t, t):
        """The perfect denoiser: (x_t, t in 1..T) -> x_0."""
        return self.network("x0")(x_t, jnp.broadcast_to(t - 1, x_t.shape[:1]))

    def ode_map(self, x_T):
        """Where the probability-flow ODE takes x_T from time T to clean data."""
        alpha_bar = table(self.betas).alpha_bar[-1]
        spread = np.sqrt(alpha_bar * self.std**2 + 1 - alpha_bar)
        return self.mean + self.std * (x_T - np.sqrt(alpha_bar) * self.mean) / spread


def keys(n: int, seed: int = 0) -> jax.Array:
    """One key an example."""
    return jax.random.split(jax.random.key(seed), n)
