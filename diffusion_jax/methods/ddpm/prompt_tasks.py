"""Tasks that show what a condition does: rows of images from the same noise."""

import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import guidance, sampling
from diffusion_jax.methods.base import Batch, Task, rows_task, with_captions
from diffusion_jax.methods.ddpm.method import DDPM
from diffusion_jax.methods.ddpm.tasks import (
    WEIGHT_NAMES,
    WEIGHTS,
    Chain,
    SampleOptions,
)
from diffusion_jax.training.state import Variables

SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)


def make_guidance(method: DDPM, options: SampleOptions) -> Task:
    """Draws each example at the guidance scales SCALES, from the same noise.

    Scale 0 ignores the condition; 1 is no guidance. Outside sample.guidance_interval
    all columns are conditional.

    Raises:
      ValueError: the model was not trained without its condition, or the options are
        invalid.

    Source: Saharia et al. 2022, figure A.10, arXiv:2205.11487.
    """
    if not any(condition.dropout for condition in method.conditions):
        raise ValueError(
            "The task guidance needs a network trained with and without its condition: "
            "train with diffusion.cond_dropout above 0, or choose another sample.task."
        )
    chain = Chain(method, options)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        keys = prng.example_keys(key, batch["index"])
        x_T = prng.normal(prng.fold_in(keys, 0), method.field.shape)
        cond = method.cond_of(batch)

        def draw(scale: Array) -> Array:
            loop = chain.loop(variables, cond, keys, scale)
            return sampling.sample(*loop, x_T, keys, 0, method.self_condition)[0]

        return list(lax.map(draw, jnp.array(SCALES)))

    names = [f"scale {scale:g}" for scale in SCALES]
    task = rows_task(rows, method.inputs, method.field, names)
    return with_captions(task, method.condition("caption"))


def make_mix(method: DDPM, options: SampleOptions) -> Task:
    """Mixes the conditions of an example and of its partner, from the same noise.

        x_0 = (1 - w) x_0(cond) + w x_0(partner's cond),  w = 0, 1/6, ..., 1

    With sample.prompt, the partner has the next prompt.

    Raises:
      ValueError: the model has no conditions, or the options are invalid.
    """
    if not method.inputs:
        raise ValueError(
            "The task mix needs a model with conditions, such as captions or classes: "
            "set model.caption_width or model.num_classes, or choose another "
            "sample.task."
        )
    chain = Chain(method, options)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        keys = prng.example_keys(key, batch["index"])
        x_T = prng.normal(prng.fold_in(keys, 0), method.field.shape)
        partner = {name: batch[f"partner_{name}"] for name in method.inputs}
        sampler, first, *rest = chain.loop(variables, method.cond_of(batch), keys)
        _, second, *_ = chain.loop(variables, method.cond_of(partner), keys)

        def draw(weight: Array) -> Array:
            loop = sampler, guidance.mixed(first, second, weight), *rest
            return sampling.sample(*loop, x_T, keys, 0, method.self_condition)[0]

        return list(lax.map(draw, jnp.asarray(WEIGHTS)))

    inputs = (*method.inputs, *(f"partner_{name}" for name in method.inputs))
    task = rows_task(rows, inputs, method.field, WEIGHT_NAMES)
    return with_captions(task, method.condition("caption"))


TASKS = {"guidance": (SampleOptions, make_guidance), "mix": (SampleOptions, make_mix)}
