"""Laws of gradient accumulation: the number of slices changes nothing."""

import functools

import jax
import numpy as np
import optax
import pytest
from smoke import load, restore

from diffusion_jax import methods
from diffusion_jax.data.base import Field, image_field
from diffusion_jax.data.texts import tokens_field
from diffusion_jax.data.vocabulary import build
from diffusion_jax.special_tokens import PAD
from diffusion_jax.training import optimizers
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Loss, Phase, Variables
from diffusion_jax.training.step import check_batch, make_train_step
from diffusion_jax.training_loop import train

NUM_STEPS, BATCH_SIZE = 2, 8
IMAGE = image_field((8, 8, 1))
ONE, TWO = {"image": IMAGE}, {"image_a": IMAGE, "image_b": IMAGE}
PAIR = ONE | {"cond_image": IMAGE}
POINTS = {"points": Field((2,), np.float32, "points")}
VOCABULARY = build("characters", ["abcdef"])
TEXT = {"tokens": tokens_field(12, VOCABULARY)}
CAPTIONED = ONE | {"caption": tokens_field(5, VOCABULARY)}
UNET = {"model__base_channels": 8, "model__channel_multipliers": (1,)}
UNET |= {"model__num_blocks": 0, "model__dropout": 0.3, "optim__clip_norm": 0.05}
# A config, what is changed in its smoke run, and the fields of its data.
FAMILIES = {
    "ddpm": ("digits", UNET | {"diffusion__timestep_sampler": "second_moment"}, ONE),
    "vae": ("fashion_mnist_vae", {}, ONE),
    "autoencoder": ("digits_autoencoder", {}, ONE),  # tracks its latents' moments
    "dvae": ("digits_dvae", {}, ONE),
    "vqvae": ("digits_dvae", {"model__name": "vq"}, ONE),  # observes its whole batch
    "dalle": ("digits_dalle", {"dalle__cond_dropout": 0.5}, CAPTIONED),
    "cascade": ("digits_cascade", {}, CAPTIONED),
    "wgan_gp": ("grid25_gan", {"gan__critic_steps": 2}, POINTS),  # slices of a slice
    "cyclegan": ("digits_cyclegan", {"cyclegan__cycle_weight": 1.0}, TWO),
    "pix2pix": ("digits_pix2pix", {"pix2pix__l1_weight": 1.0}, PAIR),
    "language_model": ("python_docs_gru", {"model__dropout": 0.3}, TEXT),
}


@functools.cache
def family_of(name):
    """A method, its initial state and batches of random data for two steps. Adam's eps
    is large, since Adam divides by a root that can be all rounding."""
    config_name, changes, fields = FAMILIES[name]
    config = load(config_name, data__batch_size=BATCH_SIZE, **changes)
    config.optim.update(eps=1e-2, warmup_steps=0, learning_rate=0.01)
    config.optim.update(decay_start=None, decay_end=None)
    method = methods.make(config, fields)
    initial = functools.partial(states.initial, method)
    draws = np.random.default_rng(0)

    def batch(step):
        index = step * BATCH_SIZE + np.arange(BATCH_SIZE, dtype=np.int32)
        return {"index": index} | {key: values(x) for key, x in fields.items()}

    def values(field):
        shape = BATCH_SIZE, *field.shape
        if field.kind == "tokens":  # of different lengths, one of them only an end
            lengths = np.append(draws.integers(2, shape[1] + 1, BATCH_SIZE - 1), 1)
            tokens = draws.integers(PAD + 1, field.size, shape)
            padding = np.arange(shape[1])[None] >= lengths[:, None]
            return np.where(padding, PAD, tokens).astype(np.int32)
        return draws.uniform(-1, 1, shape).astype(np.float32)

    state = jax.jit(initial)(jax.random.key(1))
    return method, state, [batch(step) for step in range(NUM_STEPS)]


def run(method, state, batches, accumulate, devices=None):
    """The state after a step for each batch, and the metrics of each step."""
    axis = "i" if devices else None
    step = make_train_step(method, axis, accumulate)
    if devices:
        step = jax.vmap(step, (None, 0), None, axis_name="i")
    step, history = jax.jit(step), []
    for batch in batches:
        if devices:
            batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        state, metrics = step(state, batch)
        history.append(jax.device_get(metrics))
    return state.replace(key=()), history


def assert_close(found, expected, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    leaves = jax.tree.leaves(expected)
    for (path, x), y in zip(jax.tree.leaves_with_path(found), leaves, strict=True):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=where)


@pytest.mark.parametrize("name", FAMILIES)
def test_slices_are_the_whole_batch(name):
    """Metrics, gradient norms, parameters, averages, optimisers, statistics, pools and
    timestep histories after two steps agree for 1, 2 and 4 slices."""
    method, state, batches = family_of(name)
    expected = run(method, state, batches, 1)
    assert any(x != y for x, y in zip(*map(jax.tree.leaves, expected[1]), strict=True))
    for accumulate in (2, 4):
        assert_close(run(method, state, batches, accumulate), expected)


@pytest.mark.parametrize("clip", ["none", "per_replica"])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_masked_slices_on_devices(devices, clip):
    """Slices with very different weights, none on one slice and none on one device:
    loss, metrics and update are those of each device's whole shard, which is what
    per_replica clips."""
    made = optimizers.make(
        0.1, 0, "linear", None, None, 0.0, 0.9, 0.99, 1e-8, 0.0, 0.5, clip, 0.0, False
    )
    optimizer = made._replace(tx=optax.sgd(1.0))
    method = Masked((Phase("net", ("net",), optimizer),))
    state = states.initial(method, jax.random.key(0))
    draws = np.random.default_rng(devices)
    x = draws.normal(size=(32, 2)).astype(np.float32)
    mask = (draws.uniform(size=32) < 0.5).astype(np.float32)
    mask[:8], mask[8:10], mask[10:12] = 0, 0, 1
    batches = [{"x": x, "mask": mask, "index": np.arange(32, dtype=np.int32)}]
    expected = run(method, state, batches, 1, devices)
    assert np.isfinite(expected[0].params["net"]).all()
    for accumulate in (2, 4, 8):
        found = run(method, state, batches, accumulate, devices)
        assert_close(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found[0].aux, x[:, 0])  # observed in order


class Masked:
    """The loss is the mean of |w - x|^2 over the tokens that are not masked."""

    def __init__(self, phases):
        self.phases = phases

    def init(self, key):
        return Variables({"net": np.array([1.0, -2.0], np.float32)}, {}), np.zeros(32)

    def loss(self, phase, variables, aux, batch, key, step):
        square = ((variables.params["net"][None] - batch["x"]) ** 2).sum(axis=1)
        weight = batch["mask"].sum()
        value = (batch["mask"] * square).sum() / (weight + (weight == 0))
        metrics = {"half": value / 2}
        return Loss(value, metrics, observed=batch["x"][:, 0], weight=weight)

    def after_step(self, variables, aux, observed):
        return variables.state, observed


def test_one_slice_at_a_time_is_in_memory():
    """The memory of a step falls with the number of slices: compiled, not run."""
    method, state, batches = family_of("ddpm")
    batch = jax.tree.map(lambda x: np.concatenate([x] * 32), batches[0])

    def memory(accumulate):
        step = jax.jit(make_train_step(method, None, accumulate))
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert memory(8) < 0.3 * memory(1)


def test_it_resumes_bit_for_bit(tmp_path):
    """2 steps + restore + 2 steps is 4 steps, with slices, on eight devices."""
    config = load("digits", data__batch_size=16, train__accumulate=2, **UNET)
    config.train.update(num_steps=4, log_every=1, save_every=2, sample_every=0)
    train(config, tmp_path / "whole")
    for num_steps in (2, 4):
        config.train.num_steps = num_steps
        train(config, tmp_path / "halves")
    whole, halves = (
        restore(config, tmp_path / x).replace(key=()) for x in ("whole", "halves")
    )
    assert int(whole.step) == 4
    jax.tree.map(np.testing.assert_array_equal, halves, whole)


def test_what_cannot_be_sliced_is_refused():
    """Before anything is compiled, in one sentence: batch norm, and an uneven split."""
    vae, *_ = family_of("vae")
    check_batch(vae, 16, 2)
    message = r"8 devices in 2 parts \(train.accumulate = 2\): .* multiple of 16"
    with pytest.raises(ValueError, match=message):
        check_batch(vae, 24, 2)
    critic, *_ = family_of("wgan_gp")
    check_batch(critic, 32, 2)
    with pytest.raises(ValueError, match="multiple of 32"):
        check_batch(critic, 16, 2)
    dcgan = methods.make(load("digits_dcgan"), ONE)
    check_batch(dcgan, 8, 1)
    with pytest.raises(ValueError, match="train.accumulate = 2 .* batch norm"):
        check_batch(dcgan, 16, 2)
    for family in (vae, critic):
        assert not family.couples_examples
