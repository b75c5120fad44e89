"""Laws of the metric paired: samples of which the errors are known beforehand."""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from smoke import load

from diffusion_jax import evaluators, methods, run_data
from diffusion_jax.data import loader
from diffusion_jax.data.base import image_field
from diffusion_jax.evaluators import paired
from diffusion_jax.evaluators.feature_extractors import FeatureExtractor
from diffusion_jax.training.state import Variables

VARIABLES = Variables({"gen": 0.0}, {})
NUM = 359


class Stub:
    """What the evaluator needs to know of a method."""

    data = "image"

    def __init__(self, shape):
        self.field = image_field(shape)


def config_of(source="low_res:2:digits", **changes):
    config = load("digits_pix2pix", data__source=source, **changes)
    config.sample.update(num_examples=1000, batch_size=128)
    return config


@functools.cache
def held_out(source="low_res:2:digits"):
    """The examples of the split test, images in [-1, 1]."""
    data = run_data.open_held_out(config_of(source))
    return loader.to_batch(data, np.arange(len(data)))


@pytest.fixture
def metrics_of(monkeypatch):
    """Returns f(config, samples [N, H, W, C]): the record of the metric."""

    def evaluate(config, samples, inputs=("cond_image",)):
        size, channels = config.data.image_size, config.data.num_channels
        method = Stub((size, size, channels))
        drawn = jnp.asarray(samples)
        task = methods.Task(
            lambda variables, batch, key: {"image": drawn[batch["index"]]},
            inputs,
            {"image": method.field},
        )
        monkeypatch.setattr(methods, "make_task", lambda *args, **options: task)
        evaluator = evaluators.make(config, method, pathlib.Path("nowhere"))
        (record,) = evaluator(VARIABLES)
        return record

    return evaluate


@pytest.fixture
def extractor(monkeypatch):
    """A classifier that knows the held-out digits; the others are zeros."""
    known, labels = held_out()["image"].reshape(NUM, -1), held_out()["label"]

    def extract(images):
        x = images.reshape(len(images), -1)
        distance = np.abs(x[:, None] - known[None]).max(axis=2)
        label = np.where(distance.min(axis=1) < 1e-3, labels[distance.argmin(1)], 0)
        return {"features": x[:, 20:40], "probabilities": np.eye(10)[label]}

    found = FeatureExtractor("known", extract, 10, "0")
    monkeypatch.setattr(paired, "open_feature_extractor", lambda *_: found)


@pytest.mark.usefixtures("extractor")
def test_the_targets_themselves(metrics_of):
    """Samples that are the targets have distance and error 0 and the accuracy of the
    targets; the distance of the classifier's features is the score."""
    record = metrics_of(config_of(eval__classifier="known"), held_out()["image"])
    found = record.metrics
    assert next(iter(found)) == "FD of known"
    for name in ("FD of known", "FD of pixels", "absolute_error"):
        assert found[name] == pytest.approx(0, abs=1e-4)
        assert found[f"{name}, condition"] > 0.01
    assert found["psnr"] == pytest.approx(-20 * np.log10(0.5 / 255))
    assert found["accuracy"] == found["accuracy, real"] == 1
    assert found["FD of pixels, real"] > 0
    assert record.settings["num_examples"] == NUM
    assert record.settings["split"] == "test"
    assert record.settings["classifier"] == "known"


@pytest.mark.usefixtures("extractor")
def test_the_wrong_targets(metrics_of):
    """Samples in another order keep all Fréchet distances at 0, but not the errors:
    these count pairs. The accuracy is that of the shuffled labels."""
    order = np.random.default_rng(0).permutation(NUM)
    config = config_of(eval__classifier="known")
    found = metrics_of(config, held_out()["image"][order]).metrics
    assert found["FD of pixels"] == pytest.approx(0, abs=1e-4)
    assert found["absolute_error"] > found["absolute_error, condition"]
    labels = held_out()["label"]
    assert found["accuracy"] == pytest.approx(np.mean(labels[order] == labels))


def test_a_constant_error(metrics_of):
    """Every pixel is wrong by a tenth of the range: 0.1, and 20 dB."""
    target = held_out()["image"]
    samples = target + np.where(target > 0, -0.2, 0.2).astype(np.float32)
    found = metrics_of(config_of(), samples).metrics
    assert found["absolute_error"] == pytest.approx(0.1, rel=1e-4)
    assert found["psnr"] == pytest.approx(20, rel=1e-4)
    assert next(iter(found)) == "FD of pixels" and "accuracy" not in found


def test_samples_are_clipped(metrics_of):
    """What lies beyond [-1, 1] counts as its end."""
    ends = np.sign(held_out()["image"] + 0.1)
    found, expected = (metrics_of(config_of(), x).metrics for x in (3 * ends, ends))
    assert found == pytest.approx(expected)


def test_the_condition_is_the_baseline(metrics_of):
    """Samples that are conditions, resized by PIL's bicubic filter, have the figures of
    the condition, but for the borders, which PIL treats in another way."""
    conditions = held_out()["cond_image"][..., 0]
    large = [
        np.asarray(Image.fromarray(x).resize((8, 8), Image.Resampling.BICUBIC))
        for x in conditions
    ]
    found = metrics_of(config_of(), np.stack(large)[..., None]).metrics
    for name in ("FD of pixels", "absolute_error", "psnr"):
        assert found[name] == pytest.approx(found[f"{name}, condition"], rel=0.05)


def test_a_grey_condition(metrics_of, tmp_path):
    """Grey is repeated in all channels."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images[:6], test_images=images[6:])
    config = config_of(f"grey:npz:{tmp_path}/a.npz", data__num_channels=3)
    batch = loader.to_batch(run_data.open_held_out(config), np.arange(6))
    grey = np.repeat(batch["cond_image"], 3, axis=3)
    found = metrics_of(config, grey).metrics
    for name in ("FD of pixels", "absolute_error", "psnr"):
        assert found[name] == pytest.approx(found[f"{name}, condition"], rel=1e-5)


def test_the_number_of_examples(metrics_of):
    """At most sample.num_examples of the split are compared, the first ones."""
    config = config_of()
    config.sample.num_examples = 20
    samples = held_out()["image"].copy()
    samples[20:] = 1  # never drawn
    record = metrics_of(config, samples)
    assert record.settings["num_examples"] == 20
    assert record.metrics["absolute_error"] == pytest.approx(0, abs=1e-6)
    config.sample.num_examples = 1
    with pytest.raises(ValueError, match="two examples or more"):
        metrics_of(config, samples)


def test_large_images(metrics_of, tmp_path):
    """Without features of either kind the error is the score."""
    images = np.random.default_rng(0).integers(0, 256, (6, 72, 72, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images=images[:3], test_images=images[3:])
    config = config_of(f"masked:npz:{tmp_path}/a.npz", data__image_size=72)
    samples = np.zeros((3, 72, 72, 1), np.float32)
    found = metrics_of(config, samples).metrics
    assert next(iter(found)) == "absolute_error"
    assert not any(name.startswith("FD") for name in found)


def test_what_is_refused(metrics_of):
    """Models without such a condition, and splits that overlap."""
    samples = held_out()["image"]
    with pytest.raises(ValueError, match="needs a model that is conditioned on images"):
        metrics_of(config_of(), samples, inputs=("label",))
    with pytest.raises(ValueError, match="needs held-out data"):
        metrics_of(config_of(eval__split="train"), samples)
