"""Data of other shapes: 1-D signals, points and images that are not square."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from diffusion_jax import inference
from diffusion_jax.data import transforms
from diffusion_jax.data.base import ArraySource, Field, Range, image_field
from diffusion_jax.data.loader import Loader
from diffusion_jax.diffusion import schedules, time_samplers
from diffusion_jax.methods.base import data_field
from diffusion_jax.methods.ddpm import tasks
from diffusion_jax.methods.ddpm.method import DDPM
from diffusion_jax.models.unet import UNet

FIELDS = {
    "signal": Field((12, 2), np.float32, "signal"),
    "points": Field((2,), np.float32, "points"),
    "image": image_field((4, 8, 1)),
}


class Network(nn.Module):
    """Convolution along the signal, or a dense layer."""

    @nn.compact
    def __call__(self, x, t, cond, dropout_index=None):
        layer = nn.Conv(x.shape[-1], (3,)) if x.ndim == 3 else nn.Dense(x.shape[-1])
        return layer(x)


UNET = UNet(
    base_channels=4,
    channel_multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(2,),
    dropout=0.0,
    out_channels=1,
)


@pytest.fixture(scope="module", params=FIELDS)
def method(request):
    """A diffusion model of each kind of data."""
    name, field = data_field({request.param: FIELDS[request.param]})
    return DDPM(
        phases=(),
        network=UNET if name == "image" else Network(),
        data=name,
        field=field,
        schedule=schedules.make("cosine", 8),
        prediction="v",
        loss_name="simple",
        variance="fixedlarge",
        timestep_sampler=time_samplers.TIMESTEP_SAMPLERS["uniform"],
    )


def source_of(name, field):
    generator = np.random.default_rng(0)
    if field.kind == "image":
        values = generator.integers(0, 256, (20, *field.shape), np.uint8)
    else:
        values = generator.normal(size=(20, *field.shape)).astype(np.float32)
    return ArraySource({name: values}, {name: field}, name)


def thresholding_of(method):
    """Thresholding, where the data have the range that it assumes."""
    return "static" if method.field.range else "none"


def test_loader_loss_and_sampler(method):
    """A batch is [B, ...] of the field's shape, the loss is finite, and samples have
    that shape and depend on seed and index alone."""
    source = source_of(method.data, method.field)
    batch = Loader(source, 6, seed=0).batch_at(3)
    assert batch[method.data].shape == (6, *method.field.shape)
    variables, aux = jax.jit(method.init)(jax.random.key(0))
    rest = variables, aux, batch, jax.random.key(1), 0
    loss = jax.jit(method.loss, static_argnums=0)("net", *rest)
    assert np.isfinite(loss.value)
    task = tasks.make_sample(
        method,
        tasks.SampleOptions(
            "ddim", 4, "trailing", thresholding=thresholding_of(method)
        ),
    )
    stream = inference.make_stream(task, 8, seed=0)
    samples = inference.collect(stream(variables, Range(11), 11), method.data)
    assert samples[method.data].shape == (11, *method.field.shape)
    again = inference.collect(stream(variables, Range(3), 3), method.data)
    np.testing.assert_allclose(again[method.data], samples[method.data][:3], atol=1e-6)


@pytest.mark.parametrize("method", ["signal", "image"], indirect=True)
def test_inpainting(method):
    """The known half of a signal or an image comes out bit for bit."""
    source = source_of(method.data, method.field)
    variables, _ = jax.jit(method.init)(jax.random.key(0))
    options = tasks.InpaintOptions(
        "ddim", 4, "trailing", thresholding=thresholding_of(method), num_resamplings=1
    )
    task = tasks.make_inpaint(method, options)
    stream = inference.make_stream(task, 8, seed=0)
    rows = inference.collect(stream(variables, source, 8), "rows", method.data)
    assert rows["rows"].shape == (8, 6, *method.field.shape)
    width = method.field.shape[-2]
    left = rows["rows"][:, 2:, ..., : width // 2, :]
    x = rows[method.data]
    x = transforms.to_float(x) if x.dtype == np.uint8 else x
    known = x[:, None][..., : width // 2, :]
    np.testing.assert_array_equal(left, np.broadcast_to(known, left.shape))
