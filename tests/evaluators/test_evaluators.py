"""Laws of the evaluators: methods whose metrics are known beforehand."""

import dataclasses
import functools
import pathlib
import runpy
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax import evaluators, methods
from diffusion_jax.data import loader, points, sources
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.evaluators import accuracy, autoencoder, samples, translation
from diffusion_jax.evaluators.feature_extractors import FeatureExtractor
from diffusion_jax.metrics import frechet, latents
from diffusion_jax.training.state import Variables

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIABLES = Variables({"net": 0.0}, {})
IMAGE = image_field((8, 8, 1))


def load(name, **changes):
    """The config NAME:tiny; keys of changes are GROUP__NAME."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


@functools.cache
def digits(split):
    """Images in [-1, 1], and labels."""
    source = sources.make("digits", split, 8, 1)
    batch = loader.to_batch(source, np.arange(len(source)))
    return batch["image"], batch["label"]


@dataclasses.dataclass(frozen=True)
class Stub:
    """What an evaluator needs to know of a method."""

    field: Field = IMAGE
    data: str = "image"
    num_latents: int = 3
    classes: tuple = ("label",)


def drawing(drawn):
    """A function that draws those arrays, [N, ...] each."""
    arrays = {name: jnp.asarray(x) for name, x in drawn.items()}
    return lambda batch: {name: x[batch["index"]] for name, x in arrays.items()}


@pytest.fixture
def records(monkeypatch):
    """Returns f(config, function of a batch, method): the records of eval.metric where
    every task of the method is that function."""

    def evaluate(config, outputs, method=None, inputs=("image",)):
        method = method or Stub()
        field = {method.data: method.field}
        task = methods.Task(lambda v, batch, key: outputs(batch), inputs, field)
        monkeypatch.setattr(methods, "make_task", lambda *args, **options: task)
        return list(make(config, method)(VARIABLES))

    return evaluate


def make(config, method):
    return evaluators.make(config, method, pathlib.Path("nowhere"))


def test_real_images_are_near_the_baseline(records):
    """Samples that are real images lie nearer to all real ones than the same number of
    real ones do to the others (they are among them); negatives lie far beyond."""
    images, _ = digits("all")
    chosen = np.random.default_rng(0).permutation(len(images))[:512]
    found = {}
    for name, drawn in (("real", images[chosen]), ("negative", -images[chosen])):
        config = load("digits_gan", sample__num_examples=512, sample__batch_size=512)
        (record,) = records(config, drawing({"image": drawn}), inputs=())
        found[name] = record.metrics
        assert record.settings["num_samples"] == 512
        assert record.settings["num_real"] == 1797
        assert record.settings["num_baseline"] == 512
    vectors = (images.reshape(-1, 64) + 1) / 2
    baseline = found["real"]["FD of pixels, real"]
    assert baseline == found["negative"]["FD of pixels, real"]
    expected = [frechet.real_baseline(vectors, seed, 512) for seed in range(5)]
    assert min(expected) <= baseline <= max(expected)
    assert 0 < found["real"]["FD of pixels"] < baseline
    # |m - (1 - m)|^2 alone: the covariances are the same
    shift = np.sum(np.square(1 - 2 * vectors.mean(axis=0)))
    assert found["negative"]["FD of pixels"] == pytest.approx(shift, rel=0.05)


def nearest(images, labels):
    """An extractor that predicts the class of the nearest of these images, with one
    feature per class."""
    known = images.reshape(len(images), -1).astype(np.float64)

    def extract(x):
        x = x.reshape(len(x), -1).astype(np.float64)
        squared = np.sum(known**2, axis=1)[None] - 2 * x @ known.T
        probabilities = np.eye(10)[labels[squared.argmin(axis=1)]]
        return {"probabilities": probabilities, "features": probabilities}

    return FeatureExtractor("nearest", extract, 10, "0")


def test_metrics_of_a_classifier(records, monkeypatch):
    """Metrics of real images, by a classifier that is never wrong: the histogram is
    that of the classes drawn, the conditional accuracy the share of correct labels, and
    every image is a copy that is classified with confidence."""
    images, labels = digits("all")
    extractor = nearest(images, labels)
    monkeypatch.setattr(samples, "open_feature_extractor", lambda *_: extractor)
    chosen = np.concatenate([np.flatnonzero(labels == c)[: c + 10] for c in range(9)])
    asked = np.where(labels[chosen] == 8, 0, labels[chosen])  # wrong for the eights
    drawn = drawing({"image": images[chosen], "label": asked})
    config = load(
        "digits_gan",
        eval__classifier="nearest",
        model__num_classes=10,
        sample__batch_size=126,
        sample__num_examples=len(chosen),
    )
    (record,) = records(config, drawn, inputs=("label",))
    found = record.metrics
    assert next(iter(found)) == "FD of nearest"  # the score
    assert found["histogram"] == [*range(10, 19), 0]
    assert (found["classes_covered"], found["num_classes"]) == (9, 10)
    assert found["conditional_accuracy"] == pytest.approx(1 - 18 / 126)
    assert found["confident_share"] == found["precision"] == 1.0
    assert found["nearest_distance"] == 0.0
    assert record.details["accuracy_real"] == 1.0
    assert record.settings["classifier"] == "nearest"
    assert record.settings["classifier_id"] == "0"
    assert record.details["confident_share_real"] == 1.0


def test_metrics_of_several_labels(records, monkeypatch):
    """By a classifier that knows every held-out picture: pictures that show their
    captions are right in every label, and by chance against captions in random order;
    with one more object, only "all labels" is wrong, since the labels of an object that
    is not in the caption have no share."""
    names = "label size polarity position".split()
    names = *names, *(f"{name}_2" for name in names)
    source = sources.make("composed:digits", "test", 24, 1)
    batch = loader.to_batch(source, np.arange(len(source)))
    index = {x.tobytes(): i for i, x in enumerate(batch["image"])}

    def extract(images):
        rows = [index.get(x.tobytes(), 0) for x in images]
        outputs = {"features": images[:, ::8, ::8, 0].reshape(len(images), -1)}
        for name in names:
            classes = np.eye(source.fields[name].size)[batch[name][rows]]
            suffix = "" if name == "label" else f"_{name}"
            outputs[f"probabilities{suffix}"] = classes
        return outputs

    extractor = FeatureExtractor("known", extract, 10, "0", names)
    monkeypatch.setattr(samples, "open_feature_extractor", lambda *_: extractor)
    monkeypatch.setattr(samples, "MAX_REAL", 3000)
    config = load(
        "digits_captions",
        data__source="composed:digits",
        data__image_size=24,
        eval__classifier="known",
        sample__num_examples=2048,
        sample__batch_size=2048,
    )
    stub = Stub(source.fields["image"])
    drawn = drawing({"image": batch["image"]})
    (record,) = records(config, drawn, stub, ("caption",))
    found, prefix = record.metrics, "conditional_accuracy"
    endings = ["", *(f" of {name}" for name in names[1:]), " of all labels"]
    endings += [f" of {name}, both objects" for name in names[:4]]
    for ending in endings:
        assert found[prefix + ending] == record.details["accuracy_real" + ending] == 1
    # Independent draws agree with the sum of p^2; a second object is in half of them.
    for name in names:
        ending = "" if name == "label" else f" of {name}"
        share = np.bincount(batch[name]) / 2048
        chance = np.sum(share[: 10 if name == "label" else None] ** 2)
        if name.endswith("_2"):
            chance = np.sum(share[:-1] ** 2) / (1 - share[-1])
        assert found[f"{prefix}{ending}, shuffled"] == pytest.approx(chance, abs=0.04)
    assert found[f"{prefix} of all labels, shuffled"] < 0.02

    # Each caption of one object gets a picture of two that begins like it.
    first = [tuple(x) for x in np.stack([batch[x] for x in names[:4]], axis=1)]
    is_pair = batch["label_2"] < 10
    pairs = {x: i for i, x in enumerate(first) if is_pair[i]}
    rows = [pairs.get(x, i) if not is_pair[i] else i for i, x in enumerate(first)]
    drawn = drawing({"image": batch["image"][rows]})
    (record,) = records(config, drawn, stub, ("caption",))
    changed = np.mean(rows != np.arange(2048))
    assert changed > 0.1
    for ending in endings:
        right = 1 - changed if ending == " of all labels" else 1
        assert record.metrics[prefix + ending] == pytest.approx(right)


def test_sweep_of_samples(records):
    """There is one record per value of the sweep, with that value in its settings."""
    config = load("digits_gan", eval__sweep__seed=(5, 6))
    found = records(config, drawing({"image": digits("train")[0]}), inputs=())
    assert [record.settings["seed"] for record in found] == [5, 6]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"eval__split": "train"}, "1438 of the 1438.*data.train_split.*held-out"),
        ({"sample__num_examples": 5}, "at least 6, not 5"),
        (
            {"eval__metric": "elbo"},
            "Unknown eval.metric of a gan 'elbo'.*samples, copying, mod",
        ),
        ({"eval__metric": "modes"}, "grid25.*not digits"),
    ],
    ids=str,
)
def test_invalid_metrics_are_refused(changes, words):
    """They are refused before anything is drawn."""
    with pytest.raises(ValueError, match=words):
        make(load("digits_gan", **changes), Stub())


@pytest.mark.parametrize("key", ["classifier", "classifier_b"])
def test_folders_of_classifiers(key, tmp_path, monkeypatch):
    """Point 18: ~ in the folder of a classifier is the user's, and a URL is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    config = load("digits_gan").copy_and_resolve_references()
    (tmp_path / "run/config.json").write_text(config.to_json())
    stub = Stub()
    with pytest.raises(ValueError, match="~/run is a gan, not a classifier"):
        make(load("digits_cyclegan", **{f"eval__{key}": "~/run"}), stub)
    with pytest.raises(ValueError, match="gs://.*not supported"):
        make(load("digits_cyclegan", **{f"eval__{key}": "gs://bucket/run"}), stub)


def test_images_too_large_for_pixels():
    """Images of more than 4096 values have no distance of pixels: without a classifier
    there is nothing to compare samples by."""
    stub = Stub(image_field((64, 64, 3)))
    with pytest.raises(ValueError, match="12288 values.*eval.classifier is empty"):
        make(load("digits_gan"), stub)


def test_points_have_no_distance_of_images():
    """The metric "samples" refuses points."""
    stub = Stub(Field((2,), np.float32, "points"), "points")
    with pytest.raises(ValueError, match="grid25 has points: choose .*modes"):
        make(load("grid25_gan", eval__metric="samples"), stub)


def test_modes_of_the_mixture_itself(records):
    """True draws cover all 25 modes, and a share 1 - exp(-9/2) = 0.989 of them lies
    within 3 sigma (standard error 0.001); draws of 5 modes cover 5."""
    number = 10_000
    config = load("grid25_gan", sample__num_examples=number, sample__batch_size=number)
    source = sources.make("grid25", "train", 1, 1)
    stub = Stub(source.fields["points"], "points")
    drawn = drawing({"points": source.arrays["points"][:number]})
    (record,) = records(config, drawn, stub, ())
    found = record.metrics
    assert (found["modes_covered"], found["num_modes"]) == (25, 25)
    assert found["modes_missing"] == 0
    assert found["share_within_3_sigma"] == pytest.approx(1 - np.exp(-4.5), abs=0.004)
    assert next(iter(found)) == "modes_missing"  # the score: lower is better
    few = drawing({"points": points.CENTRES[np.arange(number) % 5]})
    (record,) = records(config, few, stub, ())
    found = record.metrics
    assert (found["modes_covered"], found["modes_missing"]) == (5, 20)
    assert found["share_within_3_sigma"] == 1.0
    assert found["histogram"] == [2000] * 5 + [0] * 20


def test_reconstruction_next_to_principal_components(records):
    """The error is the mean over held-out images; that of PCA has the same number of
    components, fitted on the train split; both in units of [0, 1]."""

    def outputs(batch):
        x = batch["image"]
        # Example i is off by sqrt(i) / 10 in units of [0, 1].
        error = jnp.sqrt(batch["index"].astype(jnp.float32)) / 10
        return {"rows": jnp.stack([x, x + 2 * error[:, None, None, None]], axis=1)}

    (record,) = records(load("digits_autoencoder"), outputs)
    found = record.metrics
    train, test = (((digits(s)[0] + 1) / 2).reshape(-1, 64) for s in ("train", "test"))
    squared = np.arange(359) / 100
    assert found["squared_error"] == pytest.approx(squared.mean(), rel=1e-5)
    expected = np.std(squared) / np.sqrt(358)
    assert found["standard_error"] == pytest.approx(expected, rel=1e-5)
    expected = latents.pca_mse(train, test, 3)
    assert found["squared_error_of_pca"] == pytest.approx(expected, rel=1e-12)
    assert record.settings == {"split": "test", "num_examples": 359}
    with pytest.raises(ValueError, match="held-out"):
        make(load("digits_autoencoder", eval__split="train"), Stub())


def test_codes_of_known_reconstructions(records, monkeypatch):
    """Squared error and PSNR of images that are all off by 0.1; perplexity and usage of
    four codes of eight; a classifier's accuracy on reconstructions and on images."""
    images, labels = digits("test")
    shift = np.float32(0.2)  # 0.1 in units of [0, 1]; no image is clipped
    shrunk = np.clip(images, -0.8, 0.8)

    def outputs(batch):
        x = jnp.asarray(shrunk)[batch["index"]]
        codes = jnp.tile(jnp.arange(4), (len(x), 2))
        return {"rows": jnp.stack([x, x + shift], axis=1), "codes": codes}

    def extract(x):  # right on images, and on every other reconstruction
        is_moved = np.min(x) > -0.79
        predicted = labels if not is_moved else labels + np.arange(len(labels)) % 2
        return {"probabilities": np.eye(11)[predicted]}

    extractor = FeatureExtractor("known", extract, 11, "0")
    monkeypatch.setattr(autoencoder, "open_feature_extractor", lambda *_: extractor)
    network = types.SimpleNamespace(num_codes=8)
    method = types.SimpleNamespace(field=IMAGE, data="image", network=network)
    config = load("digits_dvae", eval__classifier="known", eval__batch_size=500)
    (record,) = records(config, outputs, method)
    found = record.metrics
    assert next(iter(found)) == "squared_error"  # the score: lower is better
    assert found["squared_error"] == pytest.approx(0.01, rel=1e-5)
    assert found["psnr"] == pytest.approx(20, rel=1e-5)
    assert found["perplexity"] == pytest.approx(4)
    assert (found["usage"], found["num_codes"]) == (0.5, 8)
    assert found["accuracy_real"] == 1
    assert found["accuracy"] == pytest.approx(180 / 359)
    assert record.settings["classifier"] == "known"
    config.eval.classifier = ""
    (record,) = records(config, outputs, method)
    assert "accuracy" not in record.metrics


def test_elbo_is_the_sum_of_its_parts(records):
    """-ELBO = reconstruction + KL; the importance bound has the other sign; a latent
    that is the same for all examples is not active."""

    def outputs(batch):
        ones = jnp.ones(len(batch["index"]))
        return {
            "reconstruction": 30 * ones,
            "kl": ones * (batch["index"] % 2),
            "importance_bound": -29 * ones,
            "latent": jnp.ones((len(ones), 3)),
        }

    (record,) = records(load("digits_vae"), outputs)
    found = record.metrics
    kl = 179 / 359  # the odd ones among 0..358
    assert found["kl"] == pytest.approx(kl)
    assert found["negative_elbo"] == pytest.approx(30 + kl)
    assert found["reconstruction"] == 30 and found["negative_importance_bound"] == 29
    assert (found["active_units"], found["num_latents"]) == (0, 3)


def translated(batch, to_b, to_a):
    """The rows of two generators."""
    a, b = batch["image_a"], batch["image_b"]
    columns = [a, to_b(a), to_a(to_b(a)), b, to_a(b), to_b(to_a(b))]
    return {"rows": jnp.stack(columns, axis=1)}


BOTH = ("image_a", "image_b")
GENERATORS = {
    "negation": (lambda x: -x, lambda x: -x),
    "identity": (lambda x: x, lambda x: x),
    "black": (lambda x: 0 * x - 1, lambda x: 0 * x - 1),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_translation_of_negatives(name, records, monkeypatch):
    """Between digits and their negatives: negation keeps every class and matches every
    partner, the identity comes back but matches no partner, and one image for all does
    neither. Distances are means in units of [0, 1]."""
    images, labels = digits("test")
    extractor = nearest(
        np.concatenate([images, -images]), np.concatenate([labels, labels])
    )
    monkeypatch.setattr(translation, "open_feature_extractor", lambda *_: extractor)
    config = load("digits_cyclegan", eval__classifier="a", eval__classifier_b="b")
    (record,) = records(config, lambda x: translated(x, *GENERATORS[name]), None, BOTH)
    found = record.metrics
    gap = float(np.mean(np.abs(images)))  # |x - (-x)| / 2
    white = float(np.mean((images + 1) / 2))
    black = extractor.extract(np.full((1, 64), -1.0))["probabilities"].argmax()
    kept = float(np.mean(labels == black))
    expected = {  # cycle a and b, class kept, distance to the partner in a and b
        "negation": (0, 0, 1, 0, 0),
        "identity": (0, 0, 1, gap, gap),
        "black": (white, 1 - white, kept, white, 1 - white),
    }[name]
    names = "cycle_a cycle_b class_kept_to_b distance_to_pair_a distance_to_pair_b"
    values = [found[name] for name in names.split()]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    assert found["class_kept_to_a"] == found["class_kept_to_b"]
    assert next(iter(found)) == "class_lost"  # the score
    assert found["class_lost"] == pytest.approx(1 - found["class_kept_to_a"])
    assert found["cycle"] == pytest.approx((found["cycle_a"] + found["cycle_b"]) / 2)
    assert record.settings["num_pairs"] == 359


def test_translation_without_classifiers(records):
    """Without classifiers, and where images are not paired, only cycles are known."""
    config = load("digits_cyclegan", eval__paired=False)
    generators = GENERATORS["identity"]
    (record,) = records(config, lambda x: translated(x, *generators), None, BOTH)
    assert set(record.metrics) == {"cycle", "cycle_a", "cycle_b"}


def test_accuracy(records):
    """A method that always predicts a 3 is right with the frequency of threes."""

    def outputs(batch):
        return {"probabilities": jax.nn.one_hot(3 + 0 * batch["index"], 10)}

    (record,) = records(load("digits_classifier"), outputs)
    _, labels = digits("test")
    found = record.metrics
    assert found["accuracy"] == pytest.approx(np.mean(labels == 3))
    assert found["error"] == pytest.approx(np.mean(labels != 3))
    assert next(iter(found)) == "error"  # the score: lower is better
    assert record.settings == {"split": "test", "num_examples": 359}


NAMES = ("label", "size", "label_2", "size_2")
LABELS = {
    "label": label_field(3),
    "size": label_field(2, ("none", "large")),  # the name of a class like any other
    "label_2": label_field(4, ("a", "b", "c", "none")),
    "size_2": label_field(3, ("small", "large", "none")),
}


@hypothesis.given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_accuracies_count_objects_that_are_there(num, seed):
    """The accuracies of several labels, counted example by example."""
    random = np.random.default_rng(seed)
    predicted, labels = (
        {name: random.integers(0, LABELS[name].size, num) for name in NAMES}
        for _ in range(2)
    )
    none = {"label_2": 3, "size_2": 2}
    right = {
        name: [
            x == y
            for x, y in zip(predicted[name], labels[name], strict=True)
            if y != none.get(name, -1)
        ]
        for name in NAMES
    }
    right = {
        "": right["label"],
        " of size": right["size"],
        " of label_2": right["label_2"],
        " of size_2": right["size_2"],
        " of label, both objects": right["label"] + right["label_2"],
        " of size, both objects": right["size"] + right["size_2"],
        " of all labels": [
            all(predicted[name][i] == labels[name][i] for name in NAMES)
            for i in range(num)
        ],
    }
    expected = {name: sum(x) / len(x) for name, x in right.items() if x}
    assert accuracy.accuracies(predicted, labels, LABELS) == pytest.approx(expected)
    only = {"label": predicted["label"]}
    of_label = accuracy.accuracies(only, labels, LABELS)
    assert of_label == pytest.approx({"": expected[""]})
