"""Mode coverage: how many modes of a mixture, or classes, the samples reach."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_SHARE = 0.25  # of a uniform share of the samples; a covered mode or class has more
RADIUS = 3.0  # standard deviations; a high-quality sample is this close to a mode


class Modes(NamedTuple):
    """How samples are distributed over a mixture of K equally likely modes.

    A high-quality sample is one within 3 sigma of a mode.

    Attributes:
      covered: modes with at least N / (4 K) high-quality samples, a quarter of their
        expected number.
      touched: modes with at least one high-quality sample; PacGAN's weaker criterion.
      share_within: the fraction of high-quality samples among all N.
      histogram: K counts, the high-quality samples of each mode.
    """

    covered: int
    touched: int
    share_within: float
    histogram: list[int]


def mode_count(points: np.ndarray, centres: np.ndarray, sigma: float) -> Modes:
    """Counts the modes of a Gaussian mixture that the samples reach.

    Each sample is assigned to its nearest centre. It is of high quality if the
    Euclidean distance is at most 3 sigma; in two dimensions this holds for a fraction
    1 - exp(-9/2) = 0.989 of draws from a mixture of well-separated modes.

    Args:
      points: [N, D], N at least 1; points that are not finite count as low quality.
      centres: [K, D].
      sigma: standard deviation of every mode, in each coordinate.

    Returns:
      See `Modes`.

    Raises:
      ValueError: there are no points, or D differs.

    Source: Lin et al. 2018, section 4.1 (PacGAN), arXiv:1712.04086.
    """
    if not len(points) or points.shape[1:] != centres.shape[1:]:
        raise ValueError(
            "mode_count needs points [N, D] and centres [K, D] of the same D, and N at "
            f"least 1, not the shapes {list(points.shape)} and {list(centres.shape)}."
        )
    difference = points[:, None].astype(np.float64) - centres[None]
    distances = np.linalg.norm(difference, axis=2)
    within = distances.min(axis=1) <= RADIUS * sigma
    counts = np.bincount(distances.argmin(axis=1)[within], minlength=len(centres))
    return Modes(
        covered=int(np.sum(counts >= MIN_SHARE * len(points) / len(centres))),
        touched=int(np.sum(counts > 0)),
        share_within=float(np.mean(within)),
        histogram=counts.tolist(),
    )


def histogram(predicted: np.ndarray, num_classes: int) -> list[int]:
    """Counts the samples that a classifier assigns to each class.

    Args:
      predicted: i[N], each in 0..num_classes-1.
      num_classes: K.

    Returns:
      K counts that sum to N.

    Raises:
      ValueError: a predicted class is outside 0..K-1.
    """
    if np.any((predicted < 0) | (predicted >= num_classes)):
        raise ValueError(
            f"num_classes = {num_classes} allows classes 0 to {num_classes - 1}, but "
            f"{predicted.min()} to {predicted.max()} were predicted: use a classifier "
            f"of {num_classes} classes."
        )
    return np.bincount(predicted, minlength=num_classes).tolist()


def classes_covered(counts: Sequence[int]) -> int:
    """Counts the classes with at least N / (4 K) of N samples, K the number of classes.

    The threshold is a quarter of a uniform share; it assumes that the classes are about
    equally frequent in the data.

    Args:
      counts: K numbers, the samples of each class.

    Returns:
      A number in 0..K.
    """
    threshold = MIN_SHARE * max(1, sum(counts)) / len(counts)  # N = 0 covers no class
    return sum(count >= threshold for count in counts)
