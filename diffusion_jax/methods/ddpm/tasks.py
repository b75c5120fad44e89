"""What can be seen of a trained diffusion model beside samples, a row an example.

A view is a function (method, params, batch, key) -> pictures [B, k, H, W, C]; see
base.View. An example is given its own label. Views that go along
the ODE (reconstruction, slerp) use the network as it is; the others walk as sampling
does, with its sampler, clipping and guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import editing, samplers, sampling
from diffusion_jax.diffusion.sampling import Denoiser
from diffusion_jax.methods.base import Batch, PyTree, check_view

if TYPE_CHECKING:
    from diffusion_jax.methods.ddpm import DDPM

Params = dict[str, PyTree]  # by group

WEIGHTS = np.linspace(0, 1, 7, dtype=np.float32)  # of the partner
NUM_DRAWS = 4  # of what a picture leaves open


def _keys(key: Array, batch: Batch) -> Array:
    return prng.example_keys(key, batch["index"])


def _label(method: DDPM, batch: Batch, weight: Array | None = None) -> Array | None:
    """The labels of the examples, or of their partners where these weigh more."""
    if not method.num_classes:
        return None
    if weight is None:
        return batch["label"]
    return jnp.where(weight > 0.5, batch["partner_label"], batch["label"])


def _row(*columns: Array) -> Array:
    """Joins pictures [B, ...], and several for each example [k, B, ...], to rows."""
    several = [x if x.ndim > columns[0].ndim else x[None] for x in columns]
    return jnp.moveaxis(jnp.concatenate(several), 0, 1)


def _decode(method: DDPM, denoise: Denoiser, x_T: Array, keys: Array) -> Array:
    rest = method.schedule, method.sampling.knots, x_T, keys
    return sampling.sample(samplers.ddim(), denoise, *rest)[0]


def reconstruction(method: DDPM, params: Params, batch: Batch, key: Array) -> Array:
    """The example, its code x_T by DDIM, and what ddim(0) makes of the code: k = 3.

    Source: Song et al. 2021, section 5.4, arXiv:2010.02502.
    """
    x_0, denoise = batch["image"], method.flow_denoiser(params, _label(method, batch))
    x_T = editing.encode(denoise, method.schedule, method.sampling.knots, x_0)
    return _row(x_0, x_T, _decode(method, denoise, x_T, _keys(key, batch)))


def slerp(method: DDPM, params: Params, batch: Batch, key: Array) -> Array:
    """The example, what lies on the arc between its code and its partner's, and that.

    Source: Song et al. 2021, section 5.3 and appendix D.5, arXiv:2010.02502.
    """
    x_0, other, keys = batch["image"], batch["partner_image"], _keys(key, batch)

    def denoiser(weight: Array) -> Denoiser:
        return method.flow_denoiser(params, _label(method, batch, weight))

    def code(end: tuple[Array, Array]) -> Array:
        weight, image = end
        schedule, knots = method.schedule, method.sampling.knots
        return editing.encode(denoiser(weight), schedule, knots, image)

    codes = lax.map(code, (jnp.array([0.0, 1.0]), jnp.stack([x_0, other])))

    def draw(weight: Array) -> Array:
        x_T = editing.slerp(*codes, weight)
        return _decode(method, denoiser(weight), x_T, keys)

    return _row(x_0, lax.map(draw, jnp.asarray(WEIGHTS)), other)


def interpolation(method: DDPM, params: Params, batch: Batch, key: Array) -> Array:
    """The example, mixtures with its partner under one noise at sample.start, and that.

    Source: Ho et al. 2020, section 4.4 and figure 8, arXiv:2006.11239.
    """
    x_0, other, keys = batch["image"], batch["partner_image"], _keys(key, batch)

    def draw(weight: Array) -> Array:
        return editing.interpolate(
            method.sampling.sampler,
            method.denoiser(params, _label(method, batch, weight)),
            method.schedule,
            _later_knots(method),
            x_0,
            other,
            weight,
            keys,
            method.self_condition,
        )

    return _row(x_0, lax.map(draw, jnp.asarray(WEIGHTS)), other)


def image_to_image(method: DDPM, params: Params, batch: Batch, key: Array) -> Array:
    """The example, and four pictures drawn from it, noised to sample.start.

    Source: Meng et al. 2022 (SDEdit), arXiv:2108.01073.
    """
    x_0 = batch["image"]

    def draw(draw_key: Array) -> Array:
        return editing.img2img(
            method.sampling.sampler,
            method.denoiser(params, _label(method, batch)),
            method.schedule,
            _later_knots(method),
            x_0,
            _keys(draw_key, batch),
            method.self_condition,
        )

    return _row(x_0, lax.map(draw, jax.random.split(key, NUM_DRAWS)))


def inpainting(method: DDPM, params: Params, batch: Batch, key: Array) -> Array:
    """The example, its left half, and four pictures drawn from that half alone.

    Source: Lugmayr et al. 2022 (RePaint), arXiv:2201.09865.
    """
    x_0 = batch["image"]
    width = x_0.shape[-2]
    mask = (jnp.arange(width) < width // 2).reshape(1, 1, width, 1)
    left = jnp.where(mask, x_0, 0.0)

    def draw(draw_key: Array) -> Array:
        return editing.inpaint(
            method.sampling.sampler,
            method.denoiser(params, _label(method, batch)),
            method.schedule,
            method.sampling.knots,
            left,
            mask,
            _keys(draw_key, batch),
            method.sampling.num_resamplings,
            self_condition=method.self_condition,
        )[0]

    return _row(x_0, left, lax.map(draw, jax.random.split(key, NUM_DRAWS)))


def _later_knots(method: DDPM) -> np.ndarray:
    """The knots that a walk from sample.start still visits."""
    options = method.sampling
    return options.knots[options.knots <= options.start * method.num_timesteps]


def check(view: str, method: DDPM) -> None:
    """Refuses a view that is unknown, or cannot be had.

    Args:
      view: "samples", or a name of VIEWS.
      method: put together.

    Raises:
      ValueError: it says which value, and what to choose.
    """
    options = method.sampling
    check_view(view, (SAMPLES, *VIEWS))
    if not 0 < options.start <= 1:
        raise ValueError(f"sample.start must lie in (0, 1], not {options.start}.")
    if options.num_resamplings < 1:
        raise ValueError(
            f"sample.num_resamplings must be at least 1, not {options.num_resamplings}."
        )
    if view in FROM_START and not len(_later_knots(method)):
        raise ValueError(
            f"sample.start = {options.start} lies before all of the sampler's times, "
            f"the first is {options.knots[-1]} of {method.num_timesteps}: start later, "
            "or set more sample.num_steps."
        )


SAMPLES = "samples"  # what every method has
VIEWS: dict[str, Callable[..., Array]] = {
    "reconstruction": reconstruction,
    "interpolation": interpolation,
    "slerp": slerp,
    "inpainting": inpainting,
    "image_to_image": image_to_image,
}
FROM_START = ("interpolation", "image_to_image")
