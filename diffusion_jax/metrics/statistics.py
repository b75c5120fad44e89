"""Averages over examples."""

import math

import numpy as np


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """Computes the mean of independent values and its standard error.

        error^2 = sum of (x - mean)^2 / (N - 1) / N

    Args:
      values: [N], N at least 1.

    Returns:
      The mean and its standard error, which is None for one value.
    """
    values = values.astype(np.float64)
    if len(values) == 1:
        return float(values[0]), None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
