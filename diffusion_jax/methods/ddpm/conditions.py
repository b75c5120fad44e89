"""What a diffusion model is conditioned on: a class, a caption, an image, ...

A condition is an entry of the batch, in training and in sampling alike. Dropping it in
training gives classifier-free guidance its unconditional model.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax import prng
from diffusion_jax.data.base import COND_IMAGE, Field
from diffusion_jax.diffusion.process import align

Cond = dict[str, Array]  # a batch's conditions by name
NOISE = "cond_noise"  # f32[B], the level of the noise in it


class Condition(NamedTuple):
    """A field of the batch that the network is conditioned on.

    Attributes:
      name: the field's name: "label", "caption" or "cond_image".
      field: its shape and dtype.
      dropout: probability that training replaces it by `null`, in [0, 1). Conditions of
        equal rate are dropped together, so that guidance has an unconditional model.
      null: the value that means "no condition": num_classes, the padding token, 0.
    """

    name: str
    field: Field
    dropout: float = 0.0
    null: float = 0


def drop(conditions: Sequence[Condition], cond: Cond, keys: Array) -> Cond:
    """Replaces conditions by their null values, at their rates of dropout.

    Args:
      conditions: of the model.
      cond: [B, ...] by name.
      keys: [B], one per example, which draws once for all of its conditions.

    Source: Ho and Salimans 2022, algorithm 1, arXiv:2207.12598.
    """
    u = prng.uniform(keys)
    return cond | {
        c.name: jnp.where(
            align(u < c.dropout, cond[c.name]),
            jnp.asarray(c.null, c.field.dtype),
            cond[c.name],
        )
        for c in conditions
        if c.dropout
    }


def drop_all(conditions: Sequence[Condition], cond: Cond) -> Cond:
    """Replaces every condition that training drops by its null value."""
    return cond | {
        c.name: jnp.full_like(cond[c.name], c.null) for c in conditions if c.dropout
    }


def add_noise(cond: Cond, level: Array, keys: Array) -> Cond:
    """Adds noise to the conditioning image, and its level to the conditions.

        c <- cos(pi/2 level) c + sin(pi/2 level) eps

    Noise hides the differences between real images and those of another model.

    Args:
      cond: [B, ...] by name; without a conditioning image nothing is done.
      level: f32[B], in [0, 1]; 0 is no noise.
      keys: [B], one per example.

    Source: Ho et al. 2022, section 3, arXiv:2106.15282, with an angle instead of a
    timestep.
    """
    if COND_IMAGE not in cond:
        return cond
    image = cond[COND_IMAGE]
    eps = prng.normal(keys, image.shape[1:])
    angle = align(math.pi / 2 * level, image)
    return cond | {
        COND_IMAGE: jnp.cos(angle) * image + jnp.sin(angle) * eps,
        NOISE: level,
    }
