"""Laws of the classifier as a family."""

import jax
import numpy as np
import pytest
from families import images, make, task_of

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


@pytest.mark.parametrize(
    "change, words",
    [
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
