"""What likelihoods, thresholdings, generators and metrics assume about the data."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from smoke import Compiled, load

from diffusion_jax import evaluators, methods, run_config
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.models import MODELS
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

POINTS = Field((2,), np.float32, "points")
SIGNAL = Field((8, 1), np.float32, "signal")
BOUNDED = SIGNAL._replace(range=(-1.0, 1.0))
OTHER = image_field((8, 8, 1))._replace(range=(0.0, 1.0))
UNBOUNDED = pytest.mark.parametrize("field", [POINTS, SIGNAL, OTHER])


class Network(nn.Module):
    """A dense layer, for data of any shape."""

    out_channels: int
    num_classes: int

    @nn.compact
    def __call__(self, x, t, cond, dropout_index=None):
        return nn.Dense(self.out_channels)(x)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A denoiser of any data, by the name "any"."""
    monkeypatch.setitem(MODELS, "any", Network)


def diffusion_config(**changes):
    """The config digits:tiny with that denoiser."""
    config = load("digits", train__num_steps=2, eval__classifier="", **changes)
    with config.unlocked():
        config.model = ConfigDict({"name": "any", "num_classes": 0})
    return config


def make(config, field):
    fields = {field.kind: field, "label": label_field(10)}
    return methods.make(config, fields)


def refused(config, field, words):
    """A sentence with these words refuses a method of the field's data."""
    with Compiled() as names, pytest.raises(ValueError, match=words) as error:
        make(config, field)
    assert not names and "\n" not in str(error.value)


@UNBOUNDED
@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_thresholding(name, field):
    """Point 15: thresholding to [-1, 1] is refused for data of another range, where a
    method is built, where it draws while it trains, and where a task is made."""
    words = f"sample.thresholding '{name}'.*{field.kind}.*set sample.thresholding=none"
    config = diffusion_config(sample__thresholding=name)
    refused(config, field, words)
    config.diffusion.self_condition = True
    refused(config, field, words)
    free = diffusion_config(sample__thresholding="none")
    method = make(free, field)
    methods.make_task(free, method, "sample")
    for task in ("sample", "img2img", "inpaint", "interpolate"):
        with pytest.raises(ValueError, match=words):
            methods.make_task(config, method, task)
    methods.make_task(config, method, "reconstruct")  # without thresholding


@pytest.mark.parametrize("name", ["none", "static", "dynamic"])
def test_bounded_signals(name):
    """Point 15: data that declare [-1, 1] may be thresholded, images or not."""
    config = diffusion_config(sample__thresholding=name)
    methods.make_task(config, make(config, BOUNDED), "sample")


@pytest.mark.parametrize("loss", ["vlb", "hybrid"])
def test_losses_with_levels(loss):
    """Point 15: a loss whose decoder cuts [-1, 1] into levels needs that range."""
    changes = {"diffusion__loss": loss, "sample__thresholding": "none"}
    config = diffusion_config(**changes, diffusion__variance="learned_range")
    refused(config, POINTS, f"diffusion.loss '{loss}'.*set diffusion.loss=simple")
    make(config, BOUNDED)


@pytest.mark.parametrize("field", [POINTS, SIGNAL, BOUNDED, OTHER])
@pytest.mark.parametrize("task", ["vlb", "log_likelihood"])
def test_likelihoods_of_8_bit_images(task, field):
    """Point 15: bits/dim are defined for 8-bit images in [-1, 1], and nothing else."""
    config = diffusion_config(sample__thresholding="none")
    with pytest.raises(ValueError, match="eval.metric .*choose another eval.metric"):
        methods.make_task(config, make(config, field), task)
    methods.make_task(config, make(config, image_field((8, 8, 1))), task)


@UNBOUNDED
def test_bernoulli(field):
    """Point 15: a Bernoulli likelihood of an autoencoder or a VAE needs [-1, 1]."""
    for name, family in (("digits_vae", "vae"), ("digits_autoencoder", "autoencoder")):
        config = load(name)
        config[family].likelihood = "bernoulli"
        words = rf"{family}.likelihood 'bernoulli'.*set {family}.likelihood=gaussian"
        refused(config, field, words)
        make(config, BOUNDED)
        config[family].likelihood = "gaussian"
        make(config, field)


@UNBOUNDED
def test_tanh(field):
    """Point 15: a generator that ends in tanh cannot reach data beyond [-1, 1]."""
    config = load("digits_gan")
    refused(config, field, "tanh.*model.name=mlp with model.bounded=False")
    make(config, BOUNDED)
    config.model.bounded = False
    make(config, field)


def test_tanh_of_images():
    """Point 15: DCGAN and CycleGAN always end in tanh."""
    refused(load("digits_dcgan"), OTHER, "tanh.*model.bounded=False")
    images = {"image_a": image_field((8, 8, 1)), "image_b": OTHER}
    for fields in (images, images | {"image_a": OTHER}):
        with pytest.raises(ValueError, match="tanh.*data.source"):
            methods.make(load("digits_cyclegan"), fields)


@pytest.mark.parametrize(
    "name, metric, words",
    [
        ("digits_autoencoder", "reconstruction", "reconstruction.*another eval.metric"),
        ("digits_dvae", "codes", "codes.*another eval.metric"),
        ("digits_cyclegan", "translation", "translation.*data with images"),
        ("digits_gan", "samples", "samples.*data with images"),
    ],
)
def test_metrics_in_units_of_0_to_1(name, metric, words):
    """Point 15: metrics that rescale [-1, 1] to [0, 1] need that range."""
    config = load(name, eval__metric=metric, eval__classifier="")
    fields = run_config.stored_fields(config, pathlib.Path("nosuch"))
    method = dataclasses.replace(methods.make(config, fields), field=OTHER)
    with pytest.raises(ValueError, match=words):
        evaluators.make(config, method, pathlib.Path("nowhere"))


def test_vae_of_points(tmp_path):
    """Point 15: points are refused with the likelihood to choose, which then trains;
    before, the bound of points was "reached" at impossible values."""
    config = load("digits_vae", data__source="grid25", train__num_steps=2)
    config.train.sample_every = 0
    with Compiled() as names, pytest.raises(ValueError, match="likelihood=gaussian"):
        train(config, tmp_path)
    assert not names and not any(tmp_path.iterdir())
    config.vae.likelihood = "gaussian"
    train(config, tmp_path)


def test_diffusion_of_points(tmp_path):
    """Point 15: a DDPM of points without thresholding trains and samples; samples leave
    [-1, 1], as the points do."""
    config = diffusion_config(data__source="grid25")
    config.sample.update(num_examples=16, batch_size=16, thresholding="static")
    with Compiled() as names, pytest.raises(ValueError, match="thresholding=none"):
        train(config, tmp_path)
    assert not names and not any(tmp_path.iterdir())
    config.sample.thresholding = "none"
    config.train.sample_every = 2
    train(config, tmp_path)
    sample(config.copy_and_resolve_references(), tmp_path)
    with np.load(tmp_path / "sample.npz") as arrays:
        assert np.abs(arrays["points"]).max() > 1.5  # of N(0, 1) at the start


def test_unet_of_points():
    """Point 15: the U-Net says that it needs images, not another size of them."""
    config = load("digits", data__source="grid25", sample__thresholding="none")
    method = methods.make(config, {"points": POINTS})
    with pytest.raises(ValueError, match=r"needs images .*\(2,\).*data.source"):
        jax.eval_shape(method.init, jax.random.key(0))
