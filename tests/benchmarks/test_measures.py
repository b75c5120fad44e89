"""Statistics with known answers: paired ratios and power laws."""

import numpy as np
import pytest

from benchmarks import measures


def test_ratios_are_paired():
    """A slowdown that hits both of a pair leaves their ratio as it is."""
    slowdown = np.array([1.0, 1.0, 30.0, 1.0, 7.0])
    ratio = measures.paired_ratios(1.5 * slowdown, slowdown)
    np.testing.assert_allclose(ratio, [1.5, 1.5, 1.5])


def test_spread():
    """The median is the middle one, and the mean of the middle two."""
    assert measures.spread([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)
    assert measures.spread([4.0, 1.0, 2.0, 9.0]).median == 3.0


def test_pairs_have_equal_lengths():
    """Ratios of measurements that are no pairs are refused."""
    with pytest.raises(ValueError):
        measures.paired_ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 2.5])
def test_exact_power_law(exponent):
    """An exact power law has its exponent and factor, and no error."""
    x = np.array([1.0, 2.0, 8.0, 64.0])
    law = measures.fit_power_law(x, 0.3 * x**exponent)
    np.testing.assert_allclose(law, [exponent, 0.0, 0.3], atol=1e-7)


def test_standard_error_of_exponent():
    """It is the standard deviation of the exponents fitted to noisy repetitions."""
    rng = np.random.default_rng(0)
    x, noise = np.geomspace(1, 100, 6), 0.1
    laws = [
        measures.fit_power_law(x, x**1.5 * np.exp(noise * rng.standard_normal(6)))
        for _ in range(2000)
    ]
    exponents, errors, _ = np.transpose(laws)
    assert abs(exponents.mean() - 1.5) < 0.003
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), exponents.std(), rtol=0.05)


def test_two_points_have_no_error():
    """Any two points lie on a line, so nothing is known of the error."""
    law = measures.fit_power_law([1.0, 2.0], [1.0, 4.0])
    assert law.exponent == pytest.approx(2.0) and np.isnan(law.standard_error)
