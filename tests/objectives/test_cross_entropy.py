"""Laws of the cross-entropy with smoothed labels."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objectives.cross_entropy import cross_entropy

LOGITS = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 7, (3, 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_definition(smoothing):
    """It is -sum_v q(v) log p(v) with q = (1 - smoothing) onehot + smoothing / V."""
    q = (1 - smoothing) * np.eye(7)[LABELS] + smoothing / 7
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
    expected = -(q * np.log(p)).sum(axis=-1)
    found = cross_entropy(LOGITS, LABELS, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_torch(smoothing):
    """It equals PyTorch's CrossEntropyLoss, and so does its gradient."""
    torch = pytest.importorskip("torch")
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    logits = torch.tensor(LOGITS.reshape(12, 7), requires_grad=True)
    expected = loss(logits, torch.tensor(LABELS.reshape(12)))
    expected.sum().backward()
    found, gradient = jax.value_and_grad(
        lambda x: jnp.sum(cross_entropy(x, LABELS, smoothing))
    )(LOGITS)
    np.testing.assert_allclose(found, expected.sum().item(), rtol=1e-5)
    theirs = logits.grad.numpy().reshape(LOGITS.shape)
    np.testing.assert_allclose(gradient, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_uniform_is_log_v(smoothing):
    """A uniform model's loss is log V, smoothed or not."""
    found = cross_entropy(jnp.full((2, 7), 3.0), jnp.array([0, 6]), smoothing)
    np.testing.assert_allclose(found, math.log(7), rtol=1e-6)


def test_large_logits_are_finite():
    """Logits of 1e4 overflow nowhere."""
    found = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]), 0.1)
    chex.assert_tree_all_finite(found)
