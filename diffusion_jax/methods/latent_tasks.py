"""Tasks of families with a latent space: samples, and rows of decoded latents.

Latents are scaled so that those of the data are about standard normal.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import prng
from diffusion_jax.data.base import Field
from diffusion_jax.diffusion import editing
from diffusion_jax.methods.base import Batch, NoOptions, Task, rows_task
from diffusion_jax.training.state import Variables

NUM_COLUMNS = 9  # from one end of an interpolation or traversal to the other
MAX_DEVIATION = 3.0  # standard deviations to either side, in a traversal
SIDE = 20  # rows and columns of the manifold


class LatentModel(Protocol):
    """The attributes and methods of a method that these tasks use.

    Attributes:
      data: name of the field that is modelled, such as "image".
      field: its shape and kind.
      num_latents: Z.
      inputs: names of the conditions that `decode` reads from the batch.
      encoder_inputs: names of the fields that `encode` reads from the batch.
    """

    data: str
    field: Field
    num_latents: int
    inputs: tuple[str, ...]
    encoder_inputs: tuple[str, ...]

    def encode(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Returns the latent of each example, [B, Z]."""

    def decode(self, variables: Variables, z: Array, batch: Batch) -> Array:
        """Returns the data [B, ...] of latents [B, Z]."""


def make_sample(method: LatentModel, options: NoOptions) -> Task:
    """Decodes a standard normal latent for each index."""

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        keys = prng.example_keys(key, batch["index"])
        z = prng.normal(keys, (method.num_latents,))
        return {method.data: method.decode(variables, z, batch)}

    return Task(run, method.inputs, {method.data: method.field})


def make_interpolate(method: LatentModel, options: NoOptions) -> Task:
    """Decodes the straight line from an example's latent to its partner's."""
    return _between(method, lambda z, other, w: (1 - w) * z + w * other)


def make_slerp(method: LatentModel, options: NoOptions) -> Task:
    """Decodes the arc between two latents, which preserves the norm of normal noise.

    Source: White 2016, arXiv:1609.04468.
    """
    return _between(method, editing.slerp)


def make_traverse(method: LatentModel, options: NoOptions) -> Task:
    """Moves latent number i (modulo Z) of example i from -3 to 3."""
    values = np.linspace(-MAX_DEVIATION, MAX_DEVIATION, NUM_COLUMNS, dtype=np.float32)

    def latents(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        z, axis = method.encode(variables, batch, key), batch["index"]
        axis = axis % method.num_latents
        selected = jax.nn.one_hot(axis, method.num_latents, dtype=bool)
        return [jnp.where(selected, value, z) for value in values]

    names = [f"{value:.3g}" for value in values]
    return _rows(method, latents, method.encoder_inputs, names)


def make_manifold(method: LatentModel, options: NoOptions) -> Task:
    """Decodes a grid of quantiles of the first two latents, with the others at 0.

    Example i is row i of the grid, which has twenty rows.

    Raises:
      ValueError: there is only one latent.

    Source: Kingma and Welling 2014, figure 4, arXiv:1312.6114.
    """
    if method.num_latents < 2:
        raise ValueError(
            "The task manifold shows two latents, and model.num_latents is "
            f"{method.num_latents}: choose traverse, or more latents."
        )

    levels = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE

    def latents(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        quantiles = jax.scipy.stats.norm.ppf(levels)
        index = batch["index"]
        z = jnp.zeros((len(index), method.num_latents))
        z = z.at[:, 0].set(quantiles[index % SIDE])
        return [z.at[:, 1].set(q) for q in quantiles]

    names = [f"{level:.3g}" for level in levels]
    return _rows(method, latents, (), names)


def _between(method: LatentModel, path: Callable[..., Array]) -> Task:
    """Decodes a path from the latent of an example to that of its partner."""
    weights = np.linspace(0, 1, NUM_COLUMNS, dtype=np.float32)
    partner_inputs = {f"partner_{name}": name for name in method.encoder_inputs}

    def latents(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        partner = batch | {own: batch[name] for name, own in partner_inputs.items()}
        z, other = (method.encode(variables, x, key) for x in (batch, partner))
        return [path(z, other, w) for w in weights]

    inputs = (*method.encoder_inputs, *partner_inputs)
    names = [f"{weight:.2g}" for weight in weights]
    return _rows(method, latents, inputs, names)


def _rows(
    method: LatentModel,
    latents: Callable,
    inputs: tuple[str, ...],
    names: Sequence[str],
) -> Task:
    """Makes a task that returns rows of k decoded latents, with names of columns."""

    def columns(variables: Variables, batch: Batch, key: Array) -> Array:
        z = jnp.stack(latents(variables, batch, key))
        return jax.lax.map(lambda z: method.decode(variables, z, batch), z)

    inputs = tuple(name for name in (*inputs, *method.inputs) if name != "index")
    return rows_task(columns, inputs, method.field, names)


TASKS = {
    "sample": (NoOptions, make_sample),
    "interpolate": (NoOptions, make_interpolate),
    "slerp": (NoOptions, make_slerp),
    "traverse": (NoOptions, make_traverse),
    "manifold": (NoOptions, make_manifold),
}
