"""What can be seen of a family with a latent space: rows of decoded latents.

Each function takes the latents of examples and a decoder, and returns pictures
[B, k, H, W, C]; see base.View. Latents are in units in which the data's are about
standard normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import prng
from diffusion_jax.diffusion import editing
from diffusion_jax.methods.base import Batch, PyTree, View

NUM_BETWEEN = 9  # pictures from one end to the other, both included
REACH = 3.0  # standard deviations that a traversal goes to either side
SIDE = 20  # of the manifold
JITTER = 0.25  # of the neighbours of an arithmetic result, as in DCGAN's figure 7


class Latent(Protocol):
    """What a family must have for these views."""

    num_latents: int

    def encode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """The latent of each example, [B, Z]: of its image, or drawn for its index."""

    def decode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        z: Array,
        batch: Batch,
    ) -> Array:
        """The pictures [B, H, W, C] of latents [B, Z]."""


Decoder = Callable[[Array], Array]  # z [B, Z] -> pictures [B, H, W, C]


def _decoded(decode: Decoder, latents: Array) -> Array:
    """Latents [k, B, Z] -> rows [B, k, H, W, C]."""
    return jnp.moveaxis(jax.lax.map(decode, latents), 0, 1)


def interpolation(decode: Decoder, z: Array, other: Array, index: Array) -> Array:
    """Along the straight line from an example's latent to its partner's."""
    weights = np.linspace(0, 1, NUM_BETWEEN, dtype=np.float32)
    return _decoded(decode, jnp.stack([(1 - w) * z + w * other for w in weights]))


def slerp(decode: Decoder, z: Array, other: Array, index: Array) -> Array:
    """Along the arc between the two latents, whose points are as long as draws are.

    Source: White 2016, arXiv:1609.04468.
    """
    weights = np.linspace(0, 1, NUM_BETWEEN, dtype=np.float32)
    return _decoded(decode, jnp.stack([editing.slerp(z, other, w) for w in weights]))


def traversal(decode: Decoder, z: Array, other: Array, index: Array) -> Array:
    """Example i with its latent number i (modulo how many there are) from -3 to 3."""
    num_latents = z.shape[1]
    here = jax.nn.one_hot(index % num_latents, num_latents, dtype=bool)
    values = np.linspace(-REACH, REACH, NUM_BETWEEN, dtype=np.float32)
    return _decoded(decode, jnp.stack([jnp.where(here, v, z) for v in values]))


def manifold(decode: Decoder, z: Array, other: Array, index: Array) -> Array:
    """Row i of the first two latents at the quantiles of a normal, the others at 0.

    Twenty rows are all of it.

    Source: Kingma and Welling 2014, figure 4, arXiv:1312.6114.
    """
    quantiles = jax.scipy.stats.norm.ppf((jnp.arange(SIDE) + 0.5) / SIDE)
    down = jnp.zeros_like(z).at[:, 0].set(quantiles[index % SIDE])
    return _decoded(decode, jnp.stack([down.at[:, 1].set(q) for q in quantiles]))


def arithmetic(decode: Decoder, lists: Array, index: Array, key: Array) -> Array:
    """The mean of each of three lists of latents, a - b + c, and a neighbour of that.

    Args:
      decode: latents to pictures.
      lists: [B, 3, m, Z], the same for every example.
      index: i32[B].
      key: of the neighbour, one of a cube around the result.

    Source: Radford et al. 2016, section 6.3.2 and figure 7, arXiv:1511.06434.
    """
    a, b, c = jnp.moveaxis(jnp.mean(lists, axis=2), 1, 0)
    keys = prng.example_keys(key, index)
    step = jax.vmap(lambda k: jax.random.uniform(k, a.shape[1:], minval=-1.0))(keys)
    result = a - b + c
    return _decoded(decode, jnp.stack([a, b, c, result, result + JITTER * step]))


def views(method: Latent) -> dict[str, View]:
    """The views of a family with a latent space, by name."""

    def decoder(params, model_state, batch) -> Decoder:
        return lambda z: method.decode(params, model_state, z, batch)

    def of_pair(view: Callable[..., Array]) -> View:
        def run(params, model_state, batch, key):
            names = ("index", "image", "label")
            partner = {name: batch[f"partner_{name}"] for name in names}
            z, other = (
                method.encode(params, model_state, x, key) for x in (batch, partner)
            )
            decode = decoder(params, model_state, batch)
            return view(decode, z, other, batch["index"])

        return run

    def of_lists(params, model_state, batch, key):
        index, image = batch["concept_index"], batch["concept_image"]
        several = {
            "index": index.reshape(-1),
            "image": image.reshape(-1, *image.shape[3:]),
        }
        z = method.encode(params, model_state, several, key)
        decode = decoder(params, model_state, batch)
        lists = z.reshape(*index.shape, -1)
        return arithmetic(decode, lists, batch["index"], key)

    pairs = {name: of_pair(view) for name, view in VIEWS.items()}
    return pairs | {"arithmetic": of_lists}


def check(view: str, num_latents: int) -> None:
    """Refuses a manifold of one latent.

    Raises:
      ValueError: the view needs two.
    """
    if view == "manifold" and num_latents < 2:
        raise ValueError(
            f"sample.view 'manifold' shows two latents, and there is {num_latents}: "
            "choose traversal, or more latents."
        )


VIEWS: dict[str, Callable[..., Array]] = {
    "interpolation": interpolation,
    "slerp": slerp,
    "traversal": traversal,
    "manifold": manifold,
}
NAMES = ("samples", *VIEWS, "arithmetic")
