"""Models in Python do what the commands do, with data of the user's own."""

import numpy as np
import pytest
from smoke import last_line, load

import diffusion_jax as dj
from diffusion_jax import run_data
from diffusion_jax.evaluate import evaluate

NUM = 3
CHANGES = {
    "digits": {"model__channel_multipliers": (1,), "model__num_classes": 10},
    "digits_upsampler": {"model__channel_multipliers": (1,)},
}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Returns model_of(config): a model that `dj.train` returns after two steps."""
    models, folder = {}, tmp_path_factory.mktemp("runs")

    def train(name):
        if name not in models:
            changes = {"train__num_steps": 2, "train__sample_every": 0}
            config = load(name, **changes, **CHANGES.get(name, {}))
            models[name] = dj.train(config, folder / name)
        return models[name]

    return train


def held_out(model, start=0):
    """NUM held-out examples as arrays by name."""
    source = run_data.open_held_out(model.config)
    return source.read(np.arange(start, start + NUM))


def test_train(tmp_path):
    """The same call resumes the run: 1 and 1 steps are 2, and nothing is left to do."""
    config = load("digits_vae", train__num_steps=1)
    assert dj.train(config, str(tmp_path)).step == 1
    config.train.num_steps = 2
    assert dj.train(config, tmp_path).step == dj.train(config, tmp_path).step == 2
    config.model.num_latents += 1
    with pytest.raises(ValueError, match="cannot go on with another config"):
        dj.train(config, tmp_path)
    with pytest.raises(ValueError, match="config.json is a file, not the folder"):
        dj.train(config, tmp_path / "config.json")


@pytest.mark.parametrize("name", ["digits_vae", "digits_dvae", "digits"])
def test_reconstruct(name, model_of):
    """Held-out images that the user gives are reconstructed as those that the task
    reads itself; images of one channel need no axis for it."""
    model = model_of(name)
    expected = model.run("reconstruct", NUM)["rows"][:, -1]
    data = held_out(model)
    labels = data["label"] if name == "digits" else None
    found = model.reconstruct(data["image"], labels)
    assert found.dtype == np.uint8 and found.shape == data["image"].shape
    np.testing.assert_array_equal(found, expected)
    found = model.reconstruct(data["image"][..., 0], labels)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["digits_vae", "digits"])
def test_interpolate(name, model_of):
    """With the next examples as ends, the rows are those of the task, which pairs each
    of N examples with the one N places later; a single pair is possible."""
    model = model_of(name)
    a, b = held_out(model), held_out(model, NUM)
    labels = (a["label"], b["label"]) if name == "digits" else None
    rows = model.interpolate(a["image"], b["image"], labels)
    np.testing.assert_array_equal(rows, model.run("interpolate", NUM)["rows"])
    labels = labels and (labels[0][:1], labels[1][:1])
    row = model.interpolate(a["image"][:1], b["image"][:1], labels)
    np.testing.assert_array_equal(row, rows[:1])


def test_translate_between_domains(model_of):
    """Each direction of a CycleGAN gives the column of its task."""
    model = model_of("digits_cyclegan")
    rows = model.run("translate", NUM)["rows"]
    np.testing.assert_array_equal(model.translate(rows[:, 0]), rows[:, 1])
    back = model.translate(rows[:, 3], reverse=True)
    np.testing.assert_array_equal(back, rows[:, 4])


@pytest.mark.parametrize("name", ["digits_pix2pix", "digits_upsampler"])
def test_translate_conditions(name, model_of):
    """Conditions that the user gives become the samples of these held-out examples."""
    model = model_of(name)
    found = model.translate(held_out(model)["cond_image"])
    np.testing.assert_array_equal(found, model.sample(NUM))


def test_sample_a_class(model_of):
    """Options of sampling are those of the command; a class is one of them."""
    model = model_of("digits")
    options = {"seed": 0, "sampler": "dpmpp_2m", "num_steps": 3, "label": 3}
    outputs = model.run("sample", NUM, **options)
    np.testing.assert_array_equal(outputs["label"], [3] * NUM)
    images = model.sample(NUM, **options)
    assert images.dtype == np.uint8 and images.shape == (NUM, 8, 8, 1)
    np.testing.assert_array_equal(images, outputs["image"])


def test_evaluate(model_of):
    """It returns the line that the command writes for the same options, and writes
    nothing; the number of samples is an option of sampling."""
    model = model_of("digits_vae")
    found = model.evaluate("elbo", split="test", num_importance=3)
    assert not (model.workdir / "evaluations.jsonl").exists()
    config = model.config.copy_and_resolve_references()
    config.eval.update(metric="elbo", split="test", num_importance=3)
    evaluate(config, model.workdir)
    assert found == last_line(model.workdir)
    assert model.evaluate("samples", sample={"num_examples": 6})["num_samples"] == 6


IMAGES = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    "name, call, words",
    [
        (
            "digits_vae",
            lambda m: m.reconstruct(IMAGES / 255),
            r"image is float64 \[2, 8, 8, 1\]; convert it to uint8 \[N, 8, 8, 1\]",
        ),
        (
            "digits_vae",
            lambda m: m.reconstruct(IMAGES[:, :7]),
            r"image is uint8 \[2, 7, 8, 1\]; convert",
        ),
        ("digits_vae", lambda m: m.reconstruct(IMAGES[:0]), "at least one"),
        (
            "digits_vae",
            lambda m: m.reconstruct(IMAGES, [1, 2]),
            "reads image, and was given image, label",
        ),
        (
            "digits_vae",
            lambda m: m.interpolate(IMAGES, IMAGES[:1]),
            "2 images in a and 1 in b",
        ),
        (
            "digits_vae",
            lambda m: m.translate(IMAGES),
            "Unknown task of a vae model 'translate'",
        ),
        (
            "digits_vae",
            lambda m: m.evaluate("fid"),
            "Unknown eval.metric of a vae 'fid'",
        ),
        ("digits_vae", lambda m: m.evaluate(slpit="x"), "no 'slpit' in config.eval"),
        (
            "digits_vae",
            lambda m: m.evaluate(sample={"stps": 1}),
            "no 'stps' in config.sample",
        ),
        ("digits_vae", lambda m: m.evaluate(sweep={}), "sweep: not an option here"),
        (
            "digits",
            lambda m: m.reconstruct(IMAGES),
            r"reads image, label, and was given image: .* labels=\[...\]",
        ),
        (
            "digits",
            lambda m: m.reconstruct(IMAGES, [1, 10]),
            "labels lies in 1..10; it must lie in 0..9",
        ),
        ("digits", lambda m: m.reconstruct(IMAGES, [0.5, 1]), "labels is float64"),
        (
            "digits",
            lambda m: m.translate(IMAGES),
            "ddpm was trained without pairs of images",
        ),
        (
            "digits_vae",
            lambda m: m.run("manifold", data=run_data.open_held_out(m.config)),
            "reads no examples, and was given image, label",
        ),
        (
            "digits_pix2pix",
            lambda m: m.translate(IMAGES, reverse=True),
            "reverse=True is only for a CycleGAN",
        ),
        (
            "digits_cyclegan",
            lambda m: m.reconstruct(IMAGES),
            "Unknown task of a cyclegan model 'reconstruct'",
        ),
    ],
)
def test_refusals(name, call, words, model_of):
    """What cannot be done with a model or with these images is one sentence."""
    with pytest.raises(ValueError, match=words):
        call(model_of(name))
