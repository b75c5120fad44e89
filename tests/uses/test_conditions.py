"""A denoiser conditioned on a caption and a low-resolution image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import inference
from diffusion_jax.data.base import ArraySource, Field, image_field
from diffusion_jax.diffusion import schedules, time_samplers
from diffusion_jax.methods.ddpm import tasks
from diffusion_jax.methods.ddpm.conditions import Condition, drop_all
from diffusion_jax.methods.ddpm.method import DDPM

VOCABULARY, LENGTH, RATE = 5, 4, 0.4
CAPTION = Field((LENGTH,), np.int32, "tokens", size=VOCABULARY)
MASK = Field((LENGTH,), np.bool_, "tokens")
LOW_RES = image_field((2, 2, 1))


class Network(nn.Module):
    """Adds the masked words' mean and the enlarged image to x_t."""

    @nn.compact
    def __call__(self, x, t, cond, dropout_index=None):
        words = (
            nn.Embed(VOCABULARY, 1)(cond["caption"]) * cond["caption_mask"][..., None]
        )
        low_res = cond["low_res"].repeat(2, axis=1).repeat(2, axis=2)
        return nn.Dense(1)(x) + words.mean(1)[:, None, None] + low_res


@pytest.fixture(scope="module")
def method():
    """Captions and their masks are dropped together, low-resolution images never."""
    return DDPM(
        phases=(),
        network=Network(),
        data="image",
        field=image_field((4, 4, 1)),
        schedule=schedules.make("cosine", 8),
        prediction="x0",
        loss_name="simple",
        variance="fixedlarge",
        timestep_sampler=time_samplers.TIMESTEP_SAMPLERS["uniform"],
        conditions=(
            Condition("caption", CAPTION, dropout=RATE, null=0),
            Condition("caption_mask", MASK, dropout=RATE, null=False),
            Condition("low_res", LOW_RES),
        ),
    )


@pytest.fixture(scope="module")
def variables(method):
    """Random ones."""
    return method.init(jax.random.key(0))[0]


def make_batch(size):
    generator = np.random.default_rng(0)
    return {
        "index": np.arange(size, dtype=np.int32),
        "image": generator.uniform(-1, 1, (size, 4, 4, 1)).astype(np.float32),
        "caption": generator.integers(1, VOCABULARY, (size, LENGTH)).astype(np.int32),
        "caption_mask": np.ones((size, LENGTH), bool),
        "low_res": generator.uniform(-1, 1, (size, 2, 2, 1)).astype(np.float32),
    }


def test_dropping(method, variables, monkeypatch):
    """Training replaces caption and mask together, at the condition's rate, by example;
    it never touches the low-resolution image."""
    seen = {}

    def apply(self, variables, x, t, cond, **options):
        seen.update(cond)
        return x

    monkeypatch.setattr(Network, "apply", apply)
    batch = make_batch(1000)
    rest = (), batch, jax.random.key(1), 0
    assert np.isfinite(method.loss("net", variables, *rest).value)
    dropped = np.all(np.asarray(seen["caption"]) == 0, axis=1)
    np.testing.assert_array_equal(dropped, ~np.any(seen["caption_mask"], axis=1))
    kept = ~dropped
    np.testing.assert_array_equal(seen["caption"][kept], batch["caption"][kept])
    np.testing.assert_array_equal(seen["low_res"], batch["low_res"])
    error = np.sqrt(RATE * (1 - RATE) / 1000)
    assert abs(dropped.mean() - RATE) < 4 * error


def test_guidance_drops_the_caption_only(method, variables):
    """Scale 0 samples with no caption but with the image; scale 1 with both; another
    scale is the combination x_0(none) + scale (x_0(caption) - x_0(none))."""
    batch = make_batch(3)
    cond = method.cond_of(batch)
    null = drop_all(method.conditions, cond)
    np.testing.assert_array_equal(null["low_res"], batch["low_res"])
    assert not np.any(null["caption"]) and not np.any(null["caption_mask"])

    def predict(scale):
        options = tasks.SampleOptions("ddim", 4, "trailing", guidance_scale=scale)
        _, denoise, *_ = tasks.Chain(method, options).loop(variables, cond)
        return denoise(jnp.asarray(batch["image"]) / 9, jnp.array(3), None).x_0

    without, given, guided = predict(0.0), predict(1.0), predict(1.5)
    np.testing.assert_allclose(
        method.denoiser(variables, null)(batch["image"] / 9, jnp.array(3), None).x_0,
        without,
        atol=1e-6,
    )
    assert np.abs(given - without).max() > 1e-3
    expected = np.clip(without + 1.5 * (given - without), -1, 1)
    np.testing.assert_allclose(guided, expected, atol=1e-6)


def test_sampling_takes_its_conditions_from_the_batch(method, variables):
    """The task names what it reads; a row depends on its own conditions alone."""
    options = tasks.SampleOptions("ddim", 4, "trailing", guidance_scale=2.0)
    task = tasks.make_sample(method, options)
    assert task.inputs == ("caption", "caption_mask", "low_res")
    stream = inference.make_stream(task, 8, seed=0)

    def draw(batch):
        fields = {"caption": CAPTION, "caption_mask": MASK}
        arrays = {name: batch[name] for name in fields}
        images = np.rint((batch["low_res"] + 1) * 127.5).astype(np.uint8)
        source = ArraySource(
            arrays | {"low_res": images}, fields | {"low_res": LOW_RES}, "requests"
        )
        return inference.collect(stream(variables, source, 3), "image")["image"]

    batch = make_batch(3)
    first = draw(batch)
    batch["caption"] = np.where(np.arange(3)[:, None] == 1, 1, batch["caption"])
    batch["caption"] = batch["caption"].astype(np.int32)
    second = draw(batch)
    changed = np.abs(first - second).max(axis=(1, 2, 3)) > 0
    assert changed.tolist() == [False, True, False]
