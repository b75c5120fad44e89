"""Laws of the classifier as a family."""

import dataclasses

import jax
import numpy as np
import pytest
from families import config_of, fields_of, images, make, task_of

from diffusion_jax import methods
from diffusion_jax.methods.base import NoOptions
from diffusion_jax.methods.classifier import make_classify
from diffusion_jax.models.classifier import ConvClassifier
from diffusion_jax.training.state import Variables

KEY = jax.random.key(3)


def batch_of(n=4):
    label = np.random.default_rng(0).integers(0, 10, n).astype(np.int32)
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": images(n, seed=0),
        "label": label,
    }


@pytest.fixture(scope="module")
def method():
    return make("digits_classifier")


@pytest.fixture(scope="module")
def variables(method):
    """Larger than at initialisation, so that probabilities are not uniform."""
    return jax.tree.map(lambda x: 3 * x, jax.jit(method.init)(KEY)[0])


@pytest.fixture(scope="module")
def found(method, variables):
    task = task_of("digits_classifier", method, "classify")
    assert task.inputs == ("image",)
    outputs = jax.device_get(task.run(variables, batch_of(), KEY))
    for name, x in outputs.items():
        assert task.outputs[name].shape == x.shape[1:]
    return outputs


def test_loss_is_that_of_its_probabilities(method, variables, found):
    """The loss is the mean of -log p(label), by the probabilities of `classify`; the
    accuracy is how often the most likely class is the label."""
    batch = batch_of()
    loss = method.loss("net", variables, (), batch, KEY, jax.numpy.int32(0))
    right = found["probabilities"][np.arange(4), batch["label"]]
    assert loss.value == pytest.approx(-np.log(right).mean(), rel=1e-5)
    most_likely = found["probabilities"].argmax(1)
    assert loss.metrics["accuracy"] == np.mean(most_likely == batch["label"])


def test_probabilities_are_the_softmax_of_the_features(variables, found):
    """Features are not negative, and the last layer turns them into probabilities."""
    assert np.all(found["features"] >= 0)
    out = variables.params["net"]["out"]
    logits = found["features"] @ np.asarray(out["kernel"]) + out["bias"][None]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def several():
    """A method with three labels, its variables, and a batch."""
    method = make("digits_classifier", model__labels=("label", "size", "label_2"))
    random, variables = np.random.default_rng(0), jax.jit(method.init)(KEY)[0]
    batch = batch_of()
    for name, size in method.classes.items():
        batch[name] = random.integers(0, size, 4).astype(np.int32)
    return method, jax.tree.map(lambda x: 3 * x, variables), batch


def test_labels_are_classifiers_of_their_own(several):
    """The loss of several labels is the sum of the losses of classifiers of one label,
    each with that label's columns of the last layer; so are accuracies and
    probabilities theirs, and the features are shared."""
    method, variables, batch = several
    config = dict(channels=(8,), num_features=8)
    task = task_of("digits_classifier", method, "classify")
    found, total, end = task.run(variables, batch, KEY), 0, 0
    assert method.classes == {"label": 10, "size": 3, "label_2": 3}
    loss = method.loss("net", variables, (), batch, KEY, jax.numpy.int32(0))
    for name, size in method.classes.items():
        start, end = end, end + size
        net = variables.params["net"]
        out = {key: x[..., start:end] for key, x in net["out"].items()}
        own = Variables({"net": net | {"out": out}}, {})
        single = dataclasses.replace(
            method,
            network=ConvClassifier(num_classes=size, **config),
            classes={"label": size},
        )
        of_own = single.loss(
            "net", own, (), batch | {"label": batch[name]}, KEY, jax.numpy.int32(0)
        )
        total += of_own.value
        suffix = "" if name == "label" else f"_{name}"
        assert loss.metrics[f"accuracy{suffix}"] == of_own.metrics["accuracy"]
        expected = make_classify(single, NoOptions()).run(own, batch, KEY)
        for key, other in (
            (f"probabilities{suffix}", "probabilities"),
            ("features",) * 2,
        ):
            assert task.outputs[key].shape == found[key].shape[1:]
            np.testing.assert_allclose(found[key], expected[other], rtol=1e-5)
    assert end == variables.params["net"]["out"]["bias"].size
    assert loss.value == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"model__labels": ("size", "label")},
            "must begin with 'label'",
        ),
        ({"model__labels": ()}, "must begin with 'label'"),
        ({"model__num_classes": 1}, "num_classes must be at least 2, not 1"),
        ({"model__name": "nosuch"}, "model.name 'nosuch'.*conv"),
        (
            {"optim__decay_start": 3, "optim__decay_end": None},
            "decay_start = 3 requires optim.decay_end",
        ),
    ],
)
def test_refusals(change, words):
    """Invalid values are refused."""
    with pytest.raises(ValueError, match=words):
        make("digits_classifier", **change)


def test_labels_that_the_data_lack():
    """They are refused, and so is a label whose number of classes is unknown."""
    config = config_of("digits_classifier", model__labels=("label", "size"))
    fields = fields_of(config_of("digits_classifier"))
    for more in ({}, {"size": fields["label"]._replace(size=None)}):
        with pytest.raises(ValueError, match="field in model.labels 'size'.*label"):
            methods.make(config, fields | more)
