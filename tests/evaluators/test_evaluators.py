"""Laws of the measures: methods whose figures are known beforehand."""

import dataclasses
import pathlib
import runpy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_jax.measures.extractor import FeatureExtractor

from diffusion_jax import evaluators, methods
from diffusion_jax.data import points, sources, transforms
from diffusion_jax.evaluators import samples, translation
from diffusion_jax.metrics import frechet, latents

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = SimpleNamespace(ema={}, model_state={})


def load(name, **changes):
    """The smoke run of configs/NAME.py; keys of changes are GROUP__NAME."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


def digits(split):
    """Images in [-1, 1], and labels."""
    source = sources.make("digits", split, 8, 1)
    return transforms.to_float(source.images), source.labels


@dataclasses.dataclass(frozen=True)
class Stub:
    """Its samples, and what it makes of examples, are given functions."""

    drawn: object = None
    evaluate: object = None
    image_shape: tuple = (8, 8, 1)
    num_latents: int = 3
    measures: tuple = tuple(evaluators.MEASURES)

    def sample(self, params, model_state, index, key):
        return {name: jnp.asarray(x)[index] for name, x in self.drawn.items()}


def measure(config, method, workdir="nowhere"):
    """The records of eval.metric."""
    return list(evaluators.make(config, method, pathlib.Path(workdir))(STATE))


@pytest.fixture
def drawing(monkeypatch):
    """Returns f(drawn): every method that is made for a sweep draws that."""

    def use(drawn):
        stub = Stub(drawn)
        monkeypatch.setattr(methods, "make", lambda config: stub)
        return stub

    return use


def test_real_pictures_are_near_the_floor(drawing):
    """Samples that are real pictures lie nearer to all real ones than as many real ones
    do to the others (they are among them); negatives lie far beyond the floor."""
    images, _ = digits("all")
    chosen = np.random.default_rng(0).permutation(len(images))[:512]
    found = {}
    for name, drawn in (("real", images[chosen]), ("negative", -images[chosen])):
        config = load("digits_gan", sample__num_images=512, sample__batch_size=512)
        (record,) = measure(config, drawing({"image": drawn}))
        found[name] = record.found
        assert record.settings["num_samples"] == 512
        assert record.settings["num_real"] == 1797
    vectors = (images.reshape(-1, 64) + 1) / 2
    floor = found["real"]["FD of pixels, floor"]
    assert floor == found["negative"]["FD of pixels, floor"]
    expected = [frechet.floor(vectors, seed, 512) for seed in range(5)]
    assert min(expected) <= floor <= max(expected)
    assert 0 < found["real"]["FD of pixels"] < floor
    # |m - (1 - m)|^2 alone: the covariances are the same
    shift = np.sum(np.square(1 - 2 * vectors.mean(axis=0)))
    assert found["negative"]["FD of pixels"] == pytest.approx(shift, rel=0.05)


def told(images, labels):
    """An extractor that calls a picture as the nearest of these, with a feature a class."""
    known = images.reshape(len(images), -1).astype(np.float64)

    def look(x):
        x = x.reshape(len(x), -1).astype(np.float64)
        squared = np.sum(known**2, axis=1)[None] - 2 * x @ known.T
        probabilities = np.eye(10)[labels[squared.argmin(axis=1)]]
        return {"probabilities": probabilities, "features": probabilities}

    return FeatureExtractor("told", look, 10)


def test_a_judge_of_samples(drawing, monkeypatch):
    """What an extractor that is never wrong says of real pictures: as many of each class as
    were drawn, named as asked where that was right, confidently, and copies."""
    images, labels = digits("all")
    extractor = told(images, labels)
    monkeypatch.setattr(samples, "open_feature_extractor", lambda *_: extractor)
    chosen = np.concatenate([np.flatnonzero(labels == c)[: c + 10] for c in range(9)])
    asked = np.where(labels[chosen] == 8, 0, labels[chosen])  # wrong for the eights
    drawn = {"image": images[chosen], "label": asked}
    config = load("digits_gan", eval__classifier="told", sample__batch_size=126)
    config.sample.num_images = len(chosen)
    (record,) = measure(config, drawing(drawn))
    found = record.found
    assert next(iter(found)) == "FD of told"  # the score
    assert found["histogram"] == [*range(10, 19), 0]
    assert (found["classes_covered"], found["num_classes"]) == (9, 10)
    assert found["conditional_accuracy"] == pytest.approx(1 - 18 / 126)
    assert found["confident_share"] == found["precision"] == 1.0
    assert found["nearest_distance"] == 0.0
    assert record.settings["accuracy_real"] == 1.0
    assert record.settings["classifier"] == "told"
    assert record.settings["confident_share_real"] == 1.0


def test_a_sweep_of_samples(drawing):
    """A record for each value of the sweep, which its settings tell."""
    images, _ = digits("train")
    config = load("digits_gan", eval__sweep__seed=(5, 6))
    records = measure(config, drawing({"image": images}))
    assert [record.settings["seed"] for record in records] == [5, 6]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"eval.split": "train"}, "eval.split and data.train_split.*held out"),
        ({"sample.num_images": 5}, "from 6"),
        ({"eval.metric": "elbo"}, "Unknown eval.metric 'elbo'.*samples, modes"),
        ({"eval.metric": "modes"}, "grid25.*not for digits"),
    ],
    ids=str,
)
def test_refused_measures(changes, words):
    """What cannot be measured is refused in words, before anything is drawn."""
    config = load("digits_gan")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        evaluators.make(config, methods.make(config), pathlib.Path("nowhere"))


def test_too_large_for_pixels():
    """Pictures of more than 4096 values have no distance of pixels: without a
    classifier there is nothing to measure by."""
    config, stub = load("digits_gan"), Stub(image_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="12288 values.*eval.classifier names no"):
        evaluators.make(config, stub, pathlib.Path("nowhere"))


def test_modes_of_the_mixture_itself():
    """Of true draws all 25 modes are covered, and a share 1 - exp(-9/2) = 0.989 lies
    within 3 sigma (standard error 0.001); of those of 5 modes, 5."""
    number = 10_000
    config = load("grid25_gan", sample__num_images=number, sample__batch_size=number)
    source = sources.make("grid25", "train", 1, 2)
    stub = Stub({"image": source.images[:number]}, image_shape=(1, 1, 2))
    (record,) = measure(config, stub)
    found = record.found
    assert (found["modes_covered"], found["num_modes"]) == (25, 25)
    assert found["modes_missing"] == 0
    assert found["share_within_3_sigma"] == pytest.approx(1 - np.exp(-4.5), abs=0.004)
    assert next(iter(found)) == "modes_missing"  # the score: less is better
    few = points.CENTRES[np.arange(number) % 5].reshape(number, 1, 1, 2)
    (record,) = measure(config, Stub({"image": few}))
    assert (record.found["modes_covered"], record.found["modes_missing"]) == (5, 20)
    assert record.found["share_within_3_sigma"] == 1.0
    assert record.found["histogram"] == [2000] * 5 + [0] * 20


def test_reconstruction_beside_principal_components():
    """The error is the mean over held-out pictures of what the method says of each;
    that of PCA has as many components, fitted on the train split, units of [0, 1]."""

    def evaluate(params, model_state, batch, key):
        number = batch["index"].astype(jnp.float32)
        code = jnp.stack([number, 0 * number, jnp.sin(number)], axis=1)
        return {"squared_error": number, "code": code}

    (record,) = measure(load("digits_autoencoder"), Stub(evaluate=evaluate))
    found = record.found
    train, test = (((digits(s)[0] + 1) / 2).reshape(-1, 64) for s in ("train", "test"))
    assert found["squared_error"] == pytest.approx(358 / 2)  # the mean of 0..358
    expected = np.std(np.arange(359)) / np.sqrt(359)
    assert found["standard_error"] == pytest.approx(expected)
    expected = latents.pca_mse(train, test, 3)
    assert found["squared_error_of_pca"] == pytest.approx(expected, rel=1e-12)
    assert record.settings == {"split": "test", "num_examples": 359}
    same = load("digits_autoencoder", eval__split="train")
    with pytest.raises(ValueError, match="held out"):
        evaluators.make(same, Stub(), pathlib.Path("nowhere"))


def test_elbo_is_the_sum_of_its_parts():
    """-ELBO = reconstruction + KL; the importance bound has the other sign; a code that
    is the same for all has no active unit."""

    def evaluate(params, model_state, batch, key):
        ones = jnp.ones(len(batch["index"]))
        return {
            "reconstruction": 30 * ones,
            "kl": ones * (batch["index"] % 2),
            "importance_bound": -29 * ones,
            "code": jnp.ones((len(ones), 3)),
        }

    (record,) = measure(load("digits_vae"), Stub(evaluate=evaluate))
    found = record.found
    kl = 179 / 359  # the odd ones among 0..358
    assert found["kl"] == pytest.approx(kl)
    assert found["negative_elbo"] == pytest.approx(30 + kl)
    assert found["reconstruction"] == 30 and found["negative_importance_bound"] == 29
    assert (found["active_units"], found["num_latents"]) == (0, 3)


def translator(to_b, to_a):
    """A stub of two translators, there and back."""

    def evaluate(params, model_state, batch, key):
        a, b = batch["image_a"], batch["image_b"]
        back_a, back_b = to_a(to_b(a)), to_b(to_a(b))
        axes = (1, 2, 3)
        return {
            "to_b": to_b(a),
            "to_a": to_a(b),
            "cycle_a": jnp.mean(jnp.abs(back_a - a), axes),
            "cycle_b": jnp.mean(jnp.abs(back_b - b), axes),
        }

    return Stub(evaluate=evaluate)


IMAGE_TO_IMAGE = {
    "negation": (lambda x: -x, lambda x: -x),
    "identity": (lambda x: x, lambda x: x),
    "black": (lambda x: 0 * x - 1, lambda x: 0 * x - 1),
}


@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
def test_translation_of_negatives(name, monkeypatch):
    """Between digits and their negatives: negation keeps every class and meets every
    pair, the identity comes back but meets no pair, and one picture for all does
    neither. Distances are means in units of [0, 1]."""
    images, labels = digits("test")
    extractor = told(
        np.concatenate([images, -images]), np.concatenate([labels, labels])
    )
    monkeypatch.setattr(translation, "open_feature_extractor", lambda *_: extractor)
    config = load("digits_cyclegan", eval__classifier="a", eval__classifier_b="b")
    (record,) = measure(config, translator(*IMAGE_TO_IMAGE[name]))
    found = record.found
    gap = float(np.mean(np.abs(images)))  # |x - (-x)| / 2
    white = float(np.mean((images + 1) / 2))
    black = extractor.look(np.full((1, 64), -1.0))["probabilities"].argmax()
    kept = float(np.mean(labels == black))
    expected = {  # cycle a and b, class kept, distance to the pair in a and in b
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


def test_translation_without_classifiers():
    """Without classifiers, and where pictures are no pairs, only cycles are told."""
    config = load("digits_cyclegan", eval__paired=False)
    (record,) = measure(config, translator(*IMAGE_TO_IMAGE["identity"]))
    assert set(record.found) == {"cycle", "cycle_a", "cycle_b"}


def test_accuracy():
    """A method that calls every picture a 3 is right as often as there are threes."""

    def evaluate(params, model_state, batch, key):
        three = jax.nn.one_hot(3 + 0 * batch["index"], 10)
        return {"probabilities": three, "features": three}

    (record,) = measure(load("digits_classifier"), Stub(evaluate=evaluate))
    _, labels = digits("test")
    assert record.found["accuracy"] == pytest.approx(np.mean(labels == 3))
    assert record.found["error"] == pytest.approx(np.mean(labels != 3))
    assert next(iter(record.found)) == "error"  # the score: less is better
    assert record.settings == {"split": "test", "num_examples": 359}
