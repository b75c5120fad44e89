"""What families that are conditioned on images have in common: the input cond_image."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.data.base import Field
from diffusion_jax.methods.base import Batch, Task, rows_task
from diffusion_jax.training.state import Variables


def resize(x: Array, size: tuple[int, int], method: str = "bilinear") -> Array:
    """Resizes images, antialiased; those of this size stay as they are.

    Args:
      x: [B, h, w, C].
      size: (H, W) in pixels.
      method: of `jax.image.resize`, such as "cubic" (Catmull-Rom).

    Returns:
      [B, H, W, C].
    """
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), method)


def as_target(x: Array, field: Field, method: str = "bilinear") -> Array:
    """Returns conditions in the shape of the targets, to put both side by side.

    Args:
      x: [B, h, w, c], c = 1 or C; one channel is repeated.
      field: of the targets, [H, W, C].
      method: see `resize`.

    Returns:
      [B, H, W, C].
    """
    return jnp.broadcast_to(resize(x, field.shape[:2], method), (len(x), *field.shape))


def make_translate(sample: Task, field: Field) -> Task:
    """Makes rows of the condition, a sample and the target: "rows" [B, 3, ...].

    Args:
      sample: the task that generates an image for cond_image.
      field: of the images.
    """

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        inputs = {name: batch[name] for name in ("index", *sample.inputs)}
        image = sample.run(variables, inputs, key)["image"]
        return [as_target(batch["cond_image"], field), image, batch["image"]]

    return rows_task(rows, (*sample.inputs, "image"), field, 3)
