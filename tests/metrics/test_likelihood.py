"""Laws of bits per dimension."""

import math

import numpy as np
import pytest

from diffusion_jax.metrics import likelihood

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


# Rate and distortion.

NATS = np.array([2.0, 3.0, 5.0, 7.0])  # of the transitions at times 2, 3, 4, 5
ERRORS = np.array([0.01, 0.04, 0.16, 0.25, 0.36])  # of x_0 at times 1, ..., 5
PRIOR = 1.0


def curve(times, weights=None, num_timesteps=5):
    """The curve of images for which these times, [N, k], were drawn in the strata."""
    times = np.asarray(times)
    n, k = times.shape
    width = (num_timesteps - 1) / k
    measured = {
        "prior": np.full(n, PRIOR, np.float32),
        "error": np.full(n, ERRORS[0], np.float32),
        "strata": {
            "nats": (width * NATS[times - 2]).astype(np.float32),
            "time": times.astype(np.int32),
            "error": ERRORS[times - 1].astype(np.float32),
        },
    }
    batch = {
        "image": np.zeros((n, *SHAPE), np.float32),
        "weight": np.ones(n) if weights is None else np.asarray(weights),
    }
    return likelihood.rate_distortion(lambda _: measured, [batch], num_timesteps)


def test_curve_by_hand():
    """Table 4 of Ho et al. 2020 in small: having x_t costs the prior and what was sent
    at all later times; the first reverse step costs the prior alone."""
    found = curve([[2, 3, 4, 5]] * 3)
    np.testing.assert_allclose(found["reverse_step"], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(found["time"], [5, 4, 3, 2, 1])
    bits = np.array([1, 8, 13, 16, 18]) / (6 * math.log(2))
    np.testing.assert_allclose(found["rate"], bits, rtol=1e-6)
    rmse = np.array([0.6, 0.5, 0.4, 0.2, 0.1]) * 127.5
    np.testing.assert_allclose(found["distortion"], rmse, rtol=1e-6)
    assert tuple(found) == likelihood.COLUMNS


def test_strata_are_unbiased():
    """Over all equally likely draws of a time in each of two strata, a row is the mean
    over its stratum of what the whole curve holds there."""
    found = curve([[s, t] for s in (2, 3) for t in (4, 5)])
    np.testing.assert_allclose(found["time"], [4.5, 2.5, 1])
    bits = np.array([(1 + 8) / 2, (13 + 16) / 2, 18]) / (6 * math.log(2))
    np.testing.assert_allclose(found["rate"], bits, rtol=1e-6)
    squares = np.array([(0.36 + 0.25) / 2, (0.16 + 0.04) / 2, 0.01])
    np.testing.assert_allclose(found["distortion"], np.sqrt(squares) * 127.5, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_curve_ends_at_the_bound(k):
    """The last row is of time 1 and costs all but the decoder, for any strata; padding
    does not count, and the rate never falls."""
    width = 4 / k
    times = [[2 + int(width * (j + u)) for j in range(k)] for u in (0.1, 0.7, 0.999)]
    found = curve([*times, [2] * k], weights=[1, 1, 1, 0])
    total = PRIOR + np.mean(width * NATS[np.array(times) - 2].sum(axis=1))
    assert found["rate"][-1] == pytest.approx(total / (6 * math.log(2)), rel=1e-6)
    assert found["time"][-1] == 1 and found["reverse_step"][-1] == 5
    assert np.all(np.diff(found["rate"]) >= 0)


def test_csv(tmp_path):
    """The table holds a line of names and a line for each row."""
    columns = curve([[2, 3, 4, 5]])
    likelihood.write_csv(tmp_path / "x.csv", columns)
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "reverse_step,time,rate,distortion" and len(lines) == 6
    table = np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table, np.stack(list(columns.values()), axis=1))


# Densities.


def test_density_of_uniform_greys():
    """A density of 1/2 on [-1, 1] gives each of the 255 bins between the ends 1/255:
    log2(255) bits/dim, and log2(127.5) come from the bins' width."""
    batch = {"image": np.zeros((4, *SHAPE)), "weight": np.array([1, 1, 1, 0])}
    nats = np.array([6 * math.log(0.5)] * 3 + [math.nan])
    found = likelihood.density_bits_per_dim(lambda _: nats, [batch])
    assert found["bits_per_dim"] == pytest.approx(math.log2(255), rel=1e-9)
    assert found["num_examples"] == 3 and found["standard_error"] < 1e-9


def test_no_examples_for_curves_and_densities():
    """No examples is an error, not a NaN."""
    with pytest.raises(ValueError, match="no examples"):
        likelihood.rate_distortion(lambda batch: {}, [], 5)
    with pytest.raises(ValueError, match="no examples"):
        likelihood.density_bits_per_dim(lambda batch: {}, [])
