"""The three commands for every family: what they write, and what they refuse."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import methods, runs
from diffusion_jax.evaluate import evaluate
from diffusion_jax.methods import latent_tasks
from diffusion_jax.sample import sample
from diffusion_jax.train import train

ROOT = pathlib.Path(__file__).resolve().parents[1]
# One of each family and network; DCGAN is told the class.
RUNS = {
    "autoencoder": ("digits_autoencoder", {}),
    "conv": ("fashion_mnist_autoencoder", {}),
    "vae": ("digits_vae", {}),
    "gan": ("digits_gan", {}),
    "dcgan": ("digits_dcgan", {"model.num_classes": 10}),
    "points": ("grid25_gan", {}),
    "cyclegan": ("digits_cyclegan", {}),
    "classifier": ("digits_classifier", {}),
}
BETWEEN = latent_tasks.NUM_BETWEEN
COLUMNS = {  # pictures in a row
    "reconstruction": 2,
    "interpolation": BETWEEN,
    "slerp": BETWEEN,
    "traversal": BETWEEN,
    "manifold": 20,
    "arithmetic": 5,
    "translations": 6,
}
# The figures that a record holds: the score first. "NAME" is the classifier's.
OF_SAMPLES = [
    *("FD of NAME", "FD of NAME, floor", "FD of pixels", "FD of pixels, floor"),
    *("confident_share", "histogram", "classes_covered", "num_classes", "precision"),
    *("recall", "density", "coverage", "nearest_distance"),
]
FIGURES = {
    "reconstruction": "squared_error standard_error squared_error_of_pca".split(),
    "elbo": "negative_elbo standard_error reconstruction kl negative_importance_bound "
    "active_units num_latents".split(),
    "modes": "modes_missing modes_covered num_modes modes_touched share_within_3_sigma "
    "histogram".split(),
    "translation": "class_lost distance_to_pair cycle class_kept_to_a class_kept_to_b "
    "distance_to_pair_a distance_to_pair_b cycle_a cycle_b".split(),
    "accuracy": ["error", "accuracy"],
    "samples": OF_SAMPLES,
}
MEASURED = [
    *[("autoencoder", "reconstruction"), ("autoencoder", "samples")],
    *[("vae", "elbo"), ("vae", "reconstruction"), ("vae", "samples")],
    *[("conv", "reconstruction"), ("gan", "samples"), ("dcgan", "samples")],
    *[("points", "modes"), ("cyclegan", "translation")],
    ("classifier", "accuracy"),
]
VIEWED = [
    *[("autoencoder", view) for view in ("reconstruction", *latent_tasks.NAMES)],
    *[("vae", view) for view in ("reconstruction", "samples", "traversal")],
    *[("dcgan", view) for view in ("samples", "interpolation", "arithmetic")],
    *[("conv", "reconstruction"), ("gan", "samples"), ("points", "samples")],
    ("cyclegan", "translations"),
]


def load(name, **changes):
    """The smoke run of configs/NAME.py, with GROUP__KEY=value set."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


@pytest.fixture(scope="module")
def workdir_of(tmp_path_factory):
    """Returns f(name): the folder of a run of two steps, trained when first asked for,
    and its config."""
    made = {}

    def run(name):
        if name not in made:
            config_name, changes = RUNS[name]
            config = load(config_name)
            config.update_from_flattened_dict(changes)
            config.train.update(num_steps=2, sample_every=0)
            workdir = tmp_path_factory.mktemp(name) / config_name
            train(config, workdir)
            made[name] = workdir, config
        workdir, config = made[name]
        return workdir, config.copy_and_resolve_references()

    return run


def last_line(workdir):
    return json.loads((workdir / "evaluations.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("name, view", VIEWED)
def test_view(name, view, workdir_of):
    """A view is a PNG and an npz beside it, with a row an example, and on request an
    animation of its columns; samples are pictures, with labels where there are any."""
    workdir, config = workdir_of(name)
    animation = view in ("traversal", "translations")
    config.sample.update(view=view, num_images=4, batch_size=4, animation=animation)
    if view == "arithmetic" and name == "dcgan":
        config.sample.label = 3  # one class for all
    sample(config, workdir)
    with np.load(workdir / f"{view}.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    shape = (4, COLUMNS[view], 8, 8, 1) if view in COLUMNS else (4, 8, 8, 1)
    if name == "points":
        assert arrays["images"].shape == (4, 1, 1, 2)
        assert arrays["images"].dtype == np.float32
    else:
        assert arrays["images"].shape == shape and arrays["images"].dtype == np.uint8
        columns = shape[1] if view in COLUMNS else 2
        rows = 4 if view in COLUMNS else 2
        size = Image.open(workdir / f"{view}.png").size
        assert size == (34 * columns, 34 * rows)
    Image.open(workdir / f"{view}.png").verify()
    if name == "dcgan" and view == "samples":
        assert arrays["labels"].tolist() == [0, 1, 2, 3]  # dealt out in turn
    else:
        assert set(arrays) == {"images"}
    assert (workdir / f"{view}.gif").exists() == animation
    if animation:  # GIF drops a frame that is like the one before
        frames = Image.open(workdir / f"{view}.gif").n_frames
        assert 1 < frames <= COLUMNS[view]


def test_every_view_and_measure_is_here():
    """The tables above leave out no measure of any family, and no view."""
    measured, viewed = {}, {view for _, view in VIEWED}
    for name, (config_name, _) in RUNS.items():
        method = methods.make(load(config_name))
        here = {measure for x, measure in MEASURED if x == name}
        measured.setdefault(type(method), set()).update(here)
        assert set(method.views) <= viewed
    for family, here in measured.items():
        assert here == set(family.measures)


@pytest.mark.parametrize("name, measure", MEASURED)
def test_measure(name, measure, workdir_of):
    """A record holds the figures that it promises, the score first and all finite, and
    what they depend on; a classifier's name stands in those that it made."""
    workdir, config = workdir_of(name)
    config.eval.measure = measure
    extractor = "classifier" in config.eval and name != "points" and measure != "elbo"
    if extractor:
        classifier, _ = workdir_of("classifier")
        config.eval.classifier = str(classifier)
        if "classifier_b" in config.eval:
            config.eval.classifier_b = str(classifier)
    evaluate(config, workdir)
    record = last_line(workdir)
    expected = FIGURES[measure]
    if measure == "samples" and name == "points":
        expected = ["FD of pixels", "FD of pixels, floor"]
    if name == "dcgan":
        expected = [*expected, "conditional_accuracy"]
    expected = [key.replace("NAME", "digits_classifier_tiny") for key in expected]
    common = ["measure", "config", "step", "data", "parameters"]
    assert list(record)[: 5 + len(expected)] == common + expected
    described = [record[key] for key in ("measure", "config", "step")]
    assert described == [measure, config.name, 2]
    for key in expected:
        assert np.all(np.isfinite(record[key])), key
    if "histogram" in record:
        number = config.sample.num_images
        assert sum(record["histogram"]) <= number
        assert measure == "modes" or sum(record["histogram"]) == number
    if measure == "samples" and extractor:
        assert record["classifier"] == "digits_classifier_tiny"
        assert 0 <= record["accuracy_real"] <= 1


def test_measures_during_training(tmp_path):
    """With train.evaluate_every the figures of eval.metric are logged under the name
    of the split, and the checkpoint with the least score can be asked for."""
    config = load("digits_autoencoder")
    config.train.update(num_steps=2, evaluate_every=1, sample_every=0)
    train(config, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    scores = {
        line["step"]: line["test_squared_error"]
        for line in lines
        if "test_squared_error" in line
    }
    assert set(scores) == {1, 2}
    _, state = runs.load(config, tmp_path, "best")
    assert state.step == min(scores, key=scores.get)


def test_no_classifier(workdir_of):
    """A classifier that nobody has trained is missed with the command that trains it;
    the run of another family is no classifier."""
    workdir, config = workdir_of("gan")
    config.eval.classifier = "runs/nosuch_classifier"
    command = (
        r"--config=configs/nosuch_classifier.py .*--workdir=runs/nosuch_classifier"
    )
    with pytest.raises(FileNotFoundError, match=f"Train it first: .*{command}"):
        evaluate(config, workdir)
    config.eval.classifier = str(workdir)
    with pytest.raises(ValueError, match="is a gan, and no classifier"):
        evaluate(config, workdir)


def test_classifier_of_another_shape(workdir_of, tmp_path):
    """A classifier of pictures of another shape cannot extractor these."""
    workdir, _ = workdir_of("classifier")
    images = np.zeros((4, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, test_images=images)
    config = load("digits_gan", data__source=f"npz:{tmp_path}/x.npz")
    config.data.image_size = 16
    config.train.update(num_steps=2, evaluate_every=1, sample_every=0)
    config.eval.classifier = str(workdir)
    with pytest.raises(ValueError, match=r"\(8, 8, 1\), and these have \(16, 16, 1\)"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["autoencoder", "gan", "cyclegan", "classifier"])
def test_unknown_measure_of_a_family(name, workdir_of):
    """The measure of another family is refused with those that this one has."""
    workdir, config = workdir_of(name)
    config.eval.measure = "bound"
    known = ", ".join(methods.make(config).measures)
    words = f"Unknown eval.metric 'bound' of a {config.method}. Known ones: {known}"
    with pytest.raises(ValueError, match=words):
        evaluate(config, workdir)


def test_a_classifier_draws_nothing(workdir_of):
    """What has no samples says so."""
    workdir, config = workdir_of("classifier")
    with pytest.raises(ValueError, match="classifier draws no pictures.*evaluate"):
        sample(config, workdir)


@pytest.fixture
def uncompiled():
    """Nothing is compiled during the test, but for what makes a key."""
    jax.random.key(0)
    names = []

    def listen(event, duration, fun_name="", **kwargs):
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not names


@pytest.fixture
def data(tmp_path):
    """Sources that the tests below name: pictures of other sizes and with one class."""
    for size in (8, 9, 16):
        images = np.zeros((8, size, size, 1), np.uint8)
        np.savez(tmp_path / f"{size}.npz", images=images, test_images=images)
    (tmp_path / "empty").mkdir()
    return tmp_path


SIZE_9 = {"data.source": "npz:9.npz", "data.image_size": 9}
PAIR_9 = SIZE_9 | {"data.train_split": "train", "data.train_split_b": "train"}
PAIR_9 |= {"data.source_b": "npz:9.npz"}
SPLITS = {"data.train_split": "train", "data.train_split_b": "train"}
REFUSED = [
    # the data
    ("digits_cyclegan", {"data.source_b": "npz:16.npz"} | SPLITS, "16x16x1"),
    ("digits_cyclegan", {"data.source_b": "folder:empty"} | SPLITS, "no pictures in"),
    ("digits_cyclegan", {"data.source_b": "folder:nosuch"} | SPLITS, "no folder"),
    ("digits_cyclegan", {"data.train_split_b": "nosuch"}, "nosuch.*train_odd"),
    ("digits_vae", {"data.source": "folder:empty"}, "no pictures in"),
    (
        "digits_dcgan",
        {"data.source": "npz:8.npz", "model.num_classes": 10},
        "Every label of .*npz is 0.*nothing to tell apart",
    ),
    ("digits_gan", {"gan.critic_steps": 2}, "batch_size = 8.*8 devices in 2 parts"),
    ("digits_classifier", {"data.source": "npz:8.npz"}, "Every label of .* is 0"),
    ("digits_classifier", {"model.num_classes": 5}, "has 10 classes.*num_classes is 5"),
    ("digits_dcgan", {"model.num_classes": 5}, "has 10 classes.*num_classes is 5"),
    # sizes that a network cannot have
    ("digits_dcgan", SIZE_9, r"data.image_size = 9 cannot be halved.*use 8, 16, 28"),
    ("fashion_mnist_autoencoder", SIZE_9, "data.image_size = 9: use 8 or 10"),
    ("horse2zebra_cyclegan", PAIR_9, "ResNet.*multiple of 2.*it is 9"),
    ("digits_cyclegan", {"model.num_downsamplings": 3}, "at least 16.*it is 8"),
    ("digits_cyclegan", {"model.disc_layers": 2}, "needs images of 12 pixels"),
    # batches
    *[
        (name, {"data.batch_size": 12}, "data.batch_size = 12.*8 devices")
        for name in ("digits_vae", "digits_gan", "digits_cyclegan", "digits_classifier")
    ],
    ("digits_gan", {"gan.critic_steps": 2}, "batch_size = 8.*in 2 parts"),
    # values
    ("digits_vae", {"vae.beta": -1.0}, "vae.beta.*-1"),
    ("digits_vae", {"vae.likelihood": "nosuch"}, "nosuch.*bernoulli"),
    (
        "fashion_mnist_vae",
        {"vae.likelihood": "gaussian"},
        "binarize draws coins.*'gaussian'.*bernoulli",
    ),
    ("digits_vae", {"eval.num_importance": 0}, "eval.num_importance.*at least 1"),
    ("digits_autoencoder", {"autoencoder.noise_scale": 0.0}, "noise_scale.*above 0"),
    ("digits_autoencoder", {"model.num_latents": 0}, "model.num_latents.*at least 1"),
    (
        "digits_autoencoder",
        {"model.num_latents": 1, "sample.view": "manifold"},
        "manifold.*two latents.*traversal",
    ),
    ("digits_gan", {"gan.loss": "nosuch"}, "nosuch.*minimax.*wasserstein"),
    ("digits_gan", {"gan.r1": -1.0}, "gan.r1.*-1"),
    ("digits_gan", {"sample.label": 3}, "sample.label = 3.*0 classes"),
    ("digits_gan", {"sample.view": "reconstruction"}, "reconstruction.*samples"),
    ("digits_gan", {"optim.decay_start": 2}, "both optim.decay_start and"),
    ("digits_dcgan", {"model.disc_norm": "nosuch"}, "nosuch.*batch, none"),
    ("digits_cyclegan", {"cyclegan.pool_size": -1}, "cyclegan.pool_size"),
    ("digits_cyclegan", {"cyclegan.loss": "nosuch"}, "nosuch.*least_squares"),
    ("digits_cyclegan", {"sample.view": "samples"}, "samples.*translations"),
    ("digits_classifier", {"model.num_classes": 1}, "num_classes"),
    ("digits_classifier", {"optim.ema_decay": 1.0}, "ema_decay"),
]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "name, changes, words",
    REFUSED,
    ids=[f"{name}-{next(iter(changes))}" for name, changes, _ in REFUSED],
)
def test_refused_before_compilation(name, changes, words, data, monkeypatch):
    """What cannot work is said in a sentence, and nothing is compiled or written."""
    monkeypatch.chdir(data)
    config = load(name)
    config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        train(config, data / "run")
    assert "\n" not in str(error.value)
    assert not (data / "run").exists()


@pytest.mark.usefixtures("uncompiled")
def test_penalty_with_batch_statistics(data):
    """A penalty on each picture's gradient and batch statistics exclude each other."""
    images = np.zeros((8, 16, 16, 1), np.uint8)
    np.savez(data / "many.npz", images=images)
    config = load("digits_dcgan", data__source=f"npz:{data}/many.npz")
    config.data.image_size = 16  # at 8 pixels no layer has statistics
    config.gan.gradient_penalty = 10.0
    with pytest.raises(ValueError, match="model.disc_norm to none, or both weights"):
        train(config, data / "run")
    assert not (data / "run").exists()


@pytest.mark.usefixtures("uncompiled")
def test_unet_that_cannot_halve(data):
    """The other translator, pix2pix's U-Net, says which sizes it takes."""
    config = load("digits_cyclegan")
    with config.unlocked():
        config.model = {
            "name": "unet",
            "base_channels": 4,
            "num_levels": 4,
            "disc_channels": 4,
            "disc_layers": 1,
        }
    with pytest.raises(ValueError, match="U-Net.*multiple of 16.*it is 8"):
        train(config, data / "run")
    assert not (data / "run").exists()
