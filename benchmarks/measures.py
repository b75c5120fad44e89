"""Statistics of measurements: paired ratios and power laws."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of several measurements, with the lowest and the highest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns the median, the minimum and the maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Divides measurements that were made in turn, pair by pair.

    What slows the machine down for longer than a turn changes both of a pair, and
    leaves their ratio as it is.

    Raises:
      ValueError: the two have different lengths.
    """
    return spread([n / d for n, d in zip(numerators, denominators, strict=True)])


def ratios_by_kind(
    numerators: Sequence[tuple[float, ...]], denominators: Sequence[tuple[float, ...]]
) -> list[Spread]:
    """Computes `paired_ratios` for each kind of time of measurements made in turn.

    Args:
      numerators: for each turn a tuple of times, such as (wall, user).
      denominators: the same of the other program.
    """
    pairs = zip(zip(*numerators), zip(*denominators), strict=True)
    return [paired_ratios(n, d) for n, d in pairs]


class PowerLaw(NamedTuple):
    """y = factor x^exponent; the standard error is that of the exponent."""

    exponent: float
    standard_error: float
    factor: float


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fits log y = log factor + exponent log x by least squares.

    Args:
      x: [n], n >= 2, positive.
      y: [n], positive.

    Returns:
      The fit; its standard error is NaN for two points, which any line fits.
    """
    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    exponent = centred @ log_y / (centred @ centred)
    residuals = log_y - log_y.mean() - exponent * centred
    degrees = len(log_x) - 2
    variance = residuals @ residuals / degrees if degrees > 0 else math.nan
    return PowerLaw(
        exponent=float(exponent),
        standard_error=math.sqrt(variance / (centred @ centred)),
        factor=math.exp(log_y.mean() - exponent * log_x.mean()),
    )
