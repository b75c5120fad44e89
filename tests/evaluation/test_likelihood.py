"""Laws of bits per dimension."""

import math

import numpy as np
import pytest

from diffusion_jax.evaluation import likelihood

SHAPE = (2, 3, 1)  # six dimensions
PARTS = np.random.default_rng(0).uniform(0, 9, (7, 3))  # nats of seven images


def measure(parts, weights, batch_size):
    """Measures images whose nats are known."""
    batches = []
    for i in range(0, len(parts), batch_size):
        rows = parts[i : i + batch_size]
        batches.append(
            {
                "image": np.zeros((len(rows), *SHAPE), np.float32),
                "weight": np.asarray(weights[i : i + batch_size], np.float32),
                "nats": rows.astype(np.float32),
            }
        )

    def evaluate(batch):
        return dict(zip(likelihood.TERMS, batch["nats"].T, strict=True))

    return likelihood.bits_per_dim(evaluate, batches)


def test_by_hand():
    """bits/dim is the mean over images of the nats' sum / (H W C log 2), and the
    standard error is that of the images' mean."""
    found = measure(PARTS, np.ones(7), 3)
    bits = PARTS / (6 * math.log(2))
    assert found["bits_per_dim"] == pytest.approx(bits.sum(axis=1).mean(), rel=1e-6)
    for i, name in enumerate(("prior", "transitions", "decoder")):
        assert found[name] == pytest.approx(bits[:, i].mean(), rel=1e-6)
    error = bits.sum(axis=1).std() / math.sqrt(7)
    assert found["standard_error"] == pytest.approx(error, rel=1e-6)
    assert found["num_examples"] == 7


def test_the_parts_add_up():
    """The bound is the sum of its three parts."""
    found = measure(PARTS, np.ones(7), 7)
    parts = sum(found[name] for name in likelihood.TERMS)
    assert found["bits_per_dim"] == pytest.approx(parts, rel=1e-9)


@pytest.mark.parametrize("filling", [1e9, math.nan])
def test_padding_does_not_count(filling):
    """Examples of weight 0 change nothing, whatever was computed for them."""
    padded = np.concatenate([PARTS, np.full((2, 3), filling)])
    found = measure(padded, [1] * 7 + [0] * 2, 3)
    assert found == measure(PARTS, np.ones(7), 3)


def test_batches_do_not_matter():
    """Any division into batches gives one result."""
    whole = measure(PARTS, np.ones(7), 7)
    for size in (1, 2, 5):
        assert measure(PARTS, np.ones(7), size) == pytest.approx(whole)


def test_nothing_to_measure():
    """No examples is an error, not a NaN."""
    with pytest.raises(ValueError, match="no examples"):
        likelihood.bits_per_dim(lambda batch: {}, [])


def test_a_uniform_model_costs_eight_bits():
    """256 equally likely levels cost log 256 nats a dimension, 8 bits."""
    nats = np.tile([0.0, 0.0, 6 * math.log(256)], (5, 1))
    assert measure(nats, np.ones(5), 5)["bits_per_dim"] == pytest.approx(8, rel=1e-6)
