"""Laws of the classifier as a family."""

import jax
import numpy as np
import pytest
from families import make

KEY = jax.random.key(3)


def batch_of(n=4):
    rng = np.random.default_rng(0)
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": rng.uniform(-1, 1, (n, 8, 8, 1)).astype(np.float32),
        "label": rng.integers(0, 10, n).astype(np.int32),
    }


@pytest.fixture(scope="module")
def method():
    return make("digits_classifier")


@pytest.fixture(scope="module")
def params(method):
    """Larger than at initialisation, so that probabilities are not even."""
    return jax.tree.map(lambda x: 3 * x, jax.jit(method.init)(KEY)[0])


@pytest.fixture(scope="module")
def measured(method, params):
    evaluate = jax.jit(lambda p, batch: method.evaluate(p, {}, batch, KEY))
    return jax.device_get(evaluate(params, batch_of()))


def test_loss_is_that_of_its_probabilities(method, params, measured):
    """The loss is the mean of -log p(label), by the probabilities of `evaluate`; the
    accuracy is how often the likeliest class is the label."""
    batch, none = batch_of(), jax.numpy.int32(0)
    loss = jax.jit(lambda p: method.loss("net", p, {}, (), batch, KEY, none))
    value, aux = loss(params)
    right = measured["probabilities"][np.arange(4), batch["label"]]
    assert value == pytest.approx(-np.log(right).mean(), rel=1e-5)
    likeliest = measured["probabilities"].argmax(1)
    assert aux.metrics["accuracy"] == np.mean(likeliest == batch["label"])


def test_probabilities_are_the_softmax_of_the_features(params, measured):
    """Features are not negative, and the last layer makes the probabilities of them."""
    assert np.all(measured["features"] >= 0)
    out = params["net"]["out"]
    logits = measured["features"] @ np.asarray(out["kernel"]) + out["bias"][None]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(measured["probabilities"], expected, rtol=1e-4)
    np.testing.assert_allclose(measured["probabilities"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model__num_classes": 1}, "num_classes = 1.*two classes"),
        ({"model__name": "nosuch"}, "model.name 'nosuch'.*conv"),
        ({"optim__decay_start": None}, "both optim.decay_start and optim.decay_end"),
    ],
)
def test_refusals(change, words):
    """What cannot work is refused in words."""
    with pytest.raises(ValueError, match=words):
        make("digits_classifier", **change)
