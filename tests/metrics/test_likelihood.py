"""Laws of bits/dim and of the rate-distortion curve."""

import math

import numpy as np
import pytest

from diffusion_jax.metrics import likelihood

NUM_VALUES = 6
TERMS = np.random.default_rng(0).uniform(0, 9, (7, 3))  # nats of seven images


def bits_per_dim(terms, batch_size):
    """bits/dim of images with known terms, read in batches."""
    batches = (
        dict(zip(likelihood.TERMS, rows.T.astype(np.float32), strict=True))
        for rows in np.split(terms, range(batch_size, len(terms), batch_size))
    )
    return likelihood.bits_per_dim(batches, NUM_VALUES)


def test_by_hand():
    """bits/dim is the mean over images of the summed nats / (H W C log 2), the sum of
    its three terms; the standard error is that of this mean."""
    metrics = bits_per_dim(TERMS, 3)
    bits = TERMS / (6 * math.log(2))
    assert metrics["bits_per_dim"] == pytest.approx(bits.sum(axis=1).mean(), rel=1e-6)
    for i, name in enumerate(("prior", "transitions", "decoder")):
        assert metrics[name] == pytest.approx(bits[:, i].mean(), rel=1e-6)
    total = sum(metrics[name] for name in likelihood.TERMS)
    assert metrics["bits_per_dim"] == pytest.approx(total, rel=1e-9)
    error = bits.sum(axis=1).std() / math.sqrt(7 - 1)
    assert metrics["standard_error"] == pytest.approx(error, rel=1e-6)
    assert metrics["num_examples"] == 7


def test_batches_do_not_matter():
    """The result does not depend on the batch size."""
    whole = bits_per_dim(TERMS, 7)
    for size in (1, 2, 5):
        assert bits_per_dim(TERMS, size) == pytest.approx(whole)


def test_a_uniform_model_costs_eight_bits():
    """256 equally likely levels cost log 256 nats per dimension, 8 bits."""
    terms = np.tile([0.0, 0.0, 6 * math.log(256)], (5, 1))
    assert bits_per_dim(terms, 5)["bits_per_dim"] == pytest.approx(8, rel=1e-6)


def test_density_of_uniform_greys():
    """A density of 1/2 on [-1, 1] gives each of the 255 bins between the ends 1/255:
    log2(255) bits/dim, of which log2(127.5) is due to the width of the bins."""
    nats = np.full(3, 6 * math.log(0.5))
    metrics = likelihood.density_bits_per_dim([{"log_likelihood": nats}], NUM_VALUES)
    assert metrics["bits_per_dim"] == pytest.approx(math.log2(255), rel=1e-9)
    assert metrics["num_examples"] == 3 and metrics["standard_error"] < 1e-9


def test_no_examples():
    """An empty data set is an error, not NaN."""
    for metric in (likelihood.bits_per_dim, likelihood.density_bits_per_dim):
        with pytest.raises(ValueError, match="no examples"):
            metric([], NUM_VALUES)
    with pytest.raises(ValueError, match="no examples"):
        likelihood.rate_distortion([], NUM_VALUES, 5)


# Rate and distortion.

NATS = np.array([2.0, 3.0, 5.0, 7.0])  # of the transitions at times 2, 3, 4, 5
ERRORS = np.array([0.01, 0.04, 0.16, 0.25, 0.36])  # squared, of x_0 at times 1, ..., 5
PRIOR = 1.0


def curve(times, batch_size=100):
    """The curve of images for which the timesteps [N, k] were sampled; T = 5."""
    times = np.asarray(times)
    width = 4 / times.shape[1]

    def batch(times):
        return {
            "prior": np.full(len(times), PRIOR, np.float32),
            "error": np.full(len(times), ERRORS[0], np.float32),
            "nats": (width * NATS[times - 2]).astype(np.float32),
            "time": times.astype(np.int32),
            "strata_error": ERRORS[times - 1].astype(np.float32),
        }

    batches = map(batch, np.split(times, range(batch_size, len(times), batch_size)))
    return likelihood.rate_distortion(batches, NUM_VALUES, 5)


def test_curve_by_hand():
    """A small version of table 4 of Ho et al. 2020: x_t costs the prior and all later
    transitions; the first reverse step costs only the prior."""
    columns = curve([[2, 3, 4, 5]] * 3, batch_size=2)
    np.testing.assert_allclose(columns["reverse_step"], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(columns["time"], [5, 4, 3, 2, 1])
    bits = np.array([1, 8, 13, 16, 18]) / (6 * math.log(2))
    np.testing.assert_allclose(columns["rate"], bits, rtol=1e-6)
    rmse = np.array([0.6, 0.5, 0.4, 0.2, 0.1]) * 127.5
    np.testing.assert_allclose(columns["distortion"], rmse, rtol=1e-6)
    assert tuple(columns) == likelihood.COLUMNS


def test_strata_are_unbiased():
    """Over all equally likely timesteps in each of two strata, a row is the mean of the
    full curve over its stratum."""
    columns = curve([[s, t] for s in (2, 3) for t in (4, 5)])
    np.testing.assert_allclose(columns["time"], [4.5, 2.5, 1])
    bits = np.array([(1 + 8) / 2, (13 + 16) / 2, 18]) / (6 * math.log(2))
    np.testing.assert_allclose(columns["rate"], bits, rtol=1e-6)
    squares = np.array([(0.36 + 0.25) / 2, (0.16 + 0.04) / 2, 0.01])
    rmse = np.sqrt(squares) * 127.5
    np.testing.assert_allclose(columns["distortion"], rmse, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_curve_ends_at_the_bound(k):
    """For any strata the last row is at time 1 and costs everything except the decoder,
    and the rate never decreases."""
    width = 4 / k
    times = [[2 + int(width * (j + u)) for j in range(k)] for u in (0.1, 0.7, 0.999)]
    columns = curve(times)
    total = PRIOR + np.mean(width * NATS[np.array(times) - 2].sum(axis=1))
    assert columns["rate"][-1] == pytest.approx(total / (6 * math.log(2)), rel=1e-6)
    assert columns["time"][-1] == 1 and columns["reverse_step"][-1] == 5
    assert np.all(np.diff(columns["rate"]) >= 0)
