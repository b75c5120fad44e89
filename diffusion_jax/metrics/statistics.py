"""Averages over examples."""

import math

import numpy as np


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of values [N] and its standard error, std / sqrt(N)."""
    values = values.astype(np.float64)
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
