"""Laws of the contrastive loss: by hand, and its lowest values."""

import jax
import numpy as np
import optax
import pytest

from diffusion_jax.objectives.contrastive import caption_targets, info_nce


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_targets_by_hand():
    """Uniform over the equal captions, wherever the shard lies in the batch."""
    captions = np.array([[2, 1, 0], [3, 1, 0], [2, 1, 0], [2, 3, 1]], np.int32)
    third, half = 1 / 2, np.array([[0.5, 0, 0.5, 0]])
    np.testing.assert_allclose(caption_targets(captions[2:3], captions), half)
    whole = [[third, 0, third, 0], [0, 1, 0, 0], [third, 0, third, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(caption_targets(captions, captions), whole)


def test_different_captions_are_classes():
    """Without equal captions it is Optax's cross-entropy with labels 0..B-1."""
    queries, keys = unit(6, 4), unit(6, 4, seed=1)
    found = info_nce(queries, keys, np.eye(6, dtype=np.float32), np.float32(7.0))
    logits = 7 * queries @ keys.T
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, np.arange(6))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_equal_captions_are_the_supervised_loss():
    """Khosla et al., equation 2: the mean over the positives is outside of the log."""
    queries, keys = unit(5, 4), unit(5, 4, seed=1)
    captions = np.array([[2], [3], [2], [2], [3]], np.int32)
    found = info_nce(queries, keys, caption_targets(captions, captions), np.float32(3))
    logits = 3 * queries @ keys.T
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for i in range(5):
        positives = np.flatnonzero(captions[:, 0] == captions[i, 0])
        assert found[i] == pytest.approx(-log_p[i, positives].mean(), rel=1e-5)


def test_no_contrast_costs_the_logarithm_of_the_batch():
    """Equal keys, and a scale of 0, are a uniform choice among B."""
    targets = np.eye(8, dtype=np.float32)
    same = np.repeat(unit(1, 4), 8, axis=0)
    for keys, scale in ((same, 50.0), (unit(8, 4), 0.0)):
        found = info_nce(unit(8, 4, seed=2), keys, targets, np.float32(scale))
        np.testing.assert_allclose(found, np.log(8), rtol=1e-5)


def test_the_lowest_value_has_no_gradient():
    """Pictures of equal captions at the same place and orthogonal to the others: at a
    high scale the loss is the entropy of the targets, and equal captions do not push
    each other apart."""
    captions = np.array([[2], [3], [2], [2]], np.int32)
    keys = np.eye(2, dtype=np.float32)[captions[:, 0] - 2]
    targets = caption_targets(captions, captions)

    def loss(keys):
        return info_nce(keys, keys, targets, np.float32(100.0)).mean()

    value, gradient = jax.value_and_grad(loss)(keys)
    assert value == pytest.approx(3 / 4 * np.log(3), rel=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
