"""Laws of the judge: it knows real digits, and is not sure of noise."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffusion_jax.evaluation import classifier

TRAINED = 1438  # all but every fifth, as in the split of configs/digits.py


@pytest.fixture(scope="module")
def digits():
    """Scikit-learn's digits in [0, 1], [1797, 8, 8, 1], and labels; tests come last."""
    data = load_digits()
    order = np.argsort(np.arange(1797) % 5 == 4, kind="stable")
    return data.images[order, ..., None] / 16, data.target[order].astype(np.int32)


@pytest.fixture(scope="module")
def judge(digits):
    """A classifier of the train split."""
    images, labels = digits
    return classifier.train_classifier(images[:TRAINED], labels[:TRAINED])


def test_held_out_digits_are_known(judge, digits):
    """Real digits that it has not seen: at least .9 confident, and mostly right."""
    images, labels = (x[TRAINED:] for x in digits)
    share, histogram = classifier.confident_share(judge, images)
    assert 0.9 <= share <= 1.0
    assert judge.score(images.reshape(len(images), -1), labels) > 0.9
    counts = np.bincount(labels, minlength=10)
    assert np.abs(np.array(list(histogram.values())) - counts).max() < 15


def test_histogram_counts_every_image(judge, digits):
    """Every image is called exactly one of the classes, 0..9, also by one of a kind."""
    images, labels = digits
    threes = images[:TRAINED][labels[:TRAINED] == 3]
    share, histogram = classifier.confident_share(judge, threes)
    assert list(histogram) == list(range(10))
    assert histogram[3] > 0.98 * len(threes)
    assert sum(histogram.values()) == len(threes)


def test_what_is_no_digit_is_less_certain(judge, digits):
    """Averages of two digits, and shuffled pixels, are called with less confidence."""
    real = digits[0][TRAINED:].reshape(-1, 64)
    random = np.random.default_rng(0)
    averages = (real + random.permutation(real)) / 2
    shuffled = random.permuted(real, axis=1)
    share, _ = classifier.confident_share(judge, real)
    assert classifier.confident_share(judge, averages)[0] < share - 0.3
    assert classifier.confident_share(judge, shuffled)[0] < share - 0.2


def test_one_class_is_refused(digits):
    """Without labels there is nothing to tell apart: said in words."""
    images, _ = digits
    with pytest.raises(ValueError, match="at least two classes"):
        classifier.train_classifier(images[:20], np.zeros(20, np.int32))
