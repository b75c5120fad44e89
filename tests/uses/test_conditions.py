"""A denoiser conditioned on a caption and on an image."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import inference
from diffusion_jax.data.base import ArraySource, Field, image_field
from diffusion_jax.diffusion import schedules, time_samplers
from diffusion_jax.methods.ddpm import prompt_tasks, tasks
from diffusion_jax.methods.ddpm.conditions import Condition, add_noise, drop_all
from diffusion_jax.methods.ddpm.method import DDPM

VOCABULARY, LENGTH, RATE = 5, 4, 0.4
CAPTION = Field((LENGTH,), np.int32, "tokens", size=VOCABULARY)
MASK = Field((LENGTH,), np.bool_, "tokens")
COND_IMAGE = image_field((2, 2, 1))


class Network(nn.Module):
    """Adds the masked words' mean and the enlarged image to x_t."""

    @nn.compact
    def __call__(self, x, t, cond, dropout_index=None):
        words = (
            nn.Embed(VOCABULARY, 1)(cond["caption"]) * cond["caption_mask"][..., None]
        )
        cond_image = cond["cond_image"].repeat(2, axis=1).repeat(2, axis=2)
        return nn.Dense(1)(x) + words.mean(1)[:, None, None] + cond_image


@pytest.fixture(scope="module")
def method():
    """Captions and their masks are dropped together, conditioning images never."""
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
            Condition("cond_image", COND_IMAGE),
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
        "cond_image": generator.uniform(-1, 1, (size, 2, 2, 1)).astype(np.float32),
    }


def test_dropping(method, variables, monkeypatch):
    """Training replaces caption and mask together, at the condition's rate, by example;
    it never touches the conditioning image."""
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
    np.testing.assert_array_equal(seen["cond_image"], batch["cond_image"])
    error = np.sqrt(RATE * (1 - RATE) / 1000)
    assert abs(dropped.mean() - RATE) < 4 * error


def test_guidance_drops_the_caption_only(method, variables):
    """Scale 0 samples with no caption but with the image; scale 1 with both; another
    scale is the combination x_0(none) + scale (x_0(caption) - x_0(none))."""
    batch = make_batch(3)
    cond = method.cond_of(batch)
    null = drop_all(method.conditions, cond)
    np.testing.assert_array_equal(null["cond_image"], batch["cond_image"])
    assert not np.any(null["caption"]) and not np.any(null["caption_mask"])

    def predict(scale):
        options = tasks.SampleOptions("ddim", 4, "trailing", guidance_scale=scale)
        keys = jax.random.split(jax.random.key(0), 3)
        _, denoise, *_ = tasks.Chain(method, options).loop(variables, cond, keys)
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
    assert task.inputs == ("caption", "caption_mask", "cond_image")
    stream = inference.make_stream(task, 8, seed=0)

    def draw(batch):
        fields = {"caption": CAPTION, "caption_mask": MASK}
        arrays = {name: batch[name] for name in fields}
        images = np.rint((batch["cond_image"] + 1) * 127.5).astype(np.uint8)
        source = ArraySource(
            arrays | {"cond_image": images},
            fields | {"cond_image": COND_IMAGE},
            "requests",
        )
        return inference.collect(stream(variables, source, 3), "image")["image"]

    batch = make_batch(3)
    first = draw(batch)
    batch["caption"] = np.where(np.arange(3)[:, None] == 1, 1, batch["caption"])
    batch["caption"] = batch["caption"].astype(np.int32)
    second = draw(batch)
    changed = np.abs(first - second).max(axis=(1, 2, 3)) > 0
    assert changed.tolist() == [False, True, False]


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1, width=32), st.integers(0, 2**31 - 1))
def test_noise_keeps_the_variance(level, seed):
    """Level s adds noise of standard deviation sin(pi s / 2) to cos(pi s / 2) c:
    images of unit variance keep it; the level is passed to the network."""
    image = np.random.default_rng(seed).normal(size=(8, 16, 16, 1)).astype(np.float32)
    cond = {"cond_image": jnp.asarray(image), "cond_noise": jnp.zeros(8)}
    keys = jax.random.split(jax.random.key(seed), 8)
    noised = add_noise(cond, jnp.full(8, level), keys)
    np.testing.assert_allclose(noised["cond_noise"], level, atol=1e-7)
    rest = noised["cond_image"] - np.cos(np.pi / 2 * level) * image
    margin = 5 / np.sqrt(2 * image.size)  # five standard errors
    assert abs(np.std(rest) - np.sin(np.pi / 2 * level)) < margin
    assert abs(np.std(noised["cond_image"]) - np.std(image)) < 2 * margin


def test_no_noise_and_no_image():
    """Level 0 leaves the image as it is; without an image nothing changes."""
    keys = jax.random.split(jax.random.key(0), 2)
    image = jnp.linspace(-1, 1, 8).reshape(2, 2, 2, 1)
    cond = {"cond_image": image, "cond_noise": jnp.zeros(2)}
    np.testing.assert_array_equal(
        add_noise(cond, jnp.zeros(2), keys)["cond_image"], image
    )
    assert add_noise({"label": image}, jnp.ones(2), keys) == {"label": image}


def test_training_and_sampling_add_noise(method, variables, monkeypatch):
    """Training draws levels from [0, cond_noise], by example; sampling takes its own,
    which must be among them; its outputs have the image without noise."""
    seen = {}

    def apply(self, variables, x, t, cond, **options):
        seen.update(cond)
        return x

    monkeypatch.setattr(Network, "apply", apply)
    noisy = dataclasses.replace(method, cond_noise=0.5)
    batch = make_batch(1000)
    noisy.loss("net", variables, (), batch, jax.random.key(1), 0)
    levels = np.asarray(seen["cond_noise"])
    assert 0 <= levels.min() < 0.01 and 0.49 < levels.max() <= 0.5
    changes = np.abs(seen["cond_image"] - batch["cond_image"]).mean(axis=(1, 2, 3))
    assert np.corrcoef(levels, changes)[0, 1] > 0.8

    options = tasks.SampleOptions("ddim", 4, "trailing", cond_noise=0.25)
    with pytest.raises(ValueError, match="cond_noise = 0.25 is more than"):
        tasks.make_sample(method, options)
    batch = make_batch(3)
    task = tasks.make_sample(noisy, options)
    outputs = task.run(variables, batch, jax.random.key(0))
    np.testing.assert_array_equal(outputs["cond_image"], batch["cond_image"])
    assert task.outputs["cond_image"] == COND_IMAGE


def test_translation(method, variables):
    """A row is the conditioning image, enlarged, four samples and the image itself."""
    options = tasks.SampleOptions("ancestral", 4, "trailing")
    task = tasks.make_translate(method, options)
    batch = make_batch(2)
    rows = task.run(variables, batch, jax.random.key(0))["rows"]
    assert rows.shape == (2, 6, 4, 4, 1) == (2, *task.outputs["rows"].shape)
    np.testing.assert_array_equal(rows[:, -1], batch["image"])
    np.testing.assert_allclose(
        rows[:, 0].mean(axis=(1, 2)), batch["cond_image"].mean(axis=(1, 2)), atol=0.1
    )
    without = dataclasses.replace(method, conditions=method.conditions[:2])
    with pytest.raises(ValueError, match="translate needs .*model.cond_image=True"):
        tasks.make_translate(without, options)


def sampled(method, variables, batch, **changes):
    """What the task sample draws."""
    options = tasks.SampleOptions("ddim", 4, "trailing", **changes)
    task = tasks.make_sample(method, options)
    return task.run(variables, batch, jax.random.key(0))["image"]


def test_guidance_in_columns(method, variables):
    """A column is what sampling with its guidance scale draws, from the same noise."""
    options = tasks.SampleOptions("ddim", 4, "trailing")
    task = prompt_tasks.make_guidance(method, options)
    batch = make_batch(2)
    rows = task.run(variables, batch, jax.random.key(0))["rows"]
    assert rows.shape[1:] == task.outputs["rows"].shape
    for column, scale in enumerate(prompt_tasks.SCALES):
        expected = sampled(method, variables, batch, guidance_scale=scale)
        np.testing.assert_allclose(rows[:, column], expected, atol=1e-5)
    assert np.abs(rows[:, 0] - rows[:, -1]).max() > 1e-3
    without = dataclasses.replace(method, conditions=method.conditions[2:])
    with pytest.raises(ValueError, match="guidance needs a network trained with"):
        prompt_tasks.make_guidance(without, options)


def test_mixing_goes_from_one_condition_to_the_other(method, variables):
    """The first column is the example's sample and the last one what its noise gives
    under the partner's condition; those between differ from both."""
    options = tasks.SampleOptions("ddim", 4, "trailing", guidance_scale=2.0)
    task = prompt_tasks.make_mix(method, options)
    batch = make_batch(2)
    partner = {name: batch[name][::-1] for name in method.inputs}
    both = batch | {f"partner_{name}": x for name, x in partner.items()}
    assert set(task.inputs) <= both.keys()
    rows = task.run(variables, both, jax.random.key(0))["rows"]
    for column, conditions in ((0, batch), (-1, batch | partner)):
        expected = sampled(method, variables, conditions, guidance_scale=2.0)
        np.testing.assert_allclose(rows[:, column], expected, atol=1e-5)
    assert np.abs(rows[:, 3] - rows[:, 0]).max() > 1e-3
    assert np.abs(rows[:, 3] - rows[:, -1]).max() > 1e-3
    with pytest.raises(ValueError, match="mix needs a model with conditions"):
        prompt_tasks.make_mix(dataclasses.replace(method, conditions=()), options)
