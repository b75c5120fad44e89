"""Which modes of a known mixture the samples reach: what the losses do not show."""

from typing import NamedTuple

import numpy as np

MIN_SHARE = 0.25  # of a mode's fair share: fewer are strays, not a mode
RADIUS = 3.0  # standard deviations within which a point is good


class Modes(NamedTuple):
    """What samples make of a mixture of K equally heavy modes.

    Attributes:
      covered: modes with at least a quarter of their fair share, N / (4 K) good points.
      touched: modes with at least one good point; weaker, but the rule of PacGAN.
      share_within: good points among all N.
      histogram: good points of each mode, K counts.
    """

    covered: int
    touched: int
    share_within: float
    histogram: list[int]


def mode_count(points: np.ndarray, centres: np.ndarray, sigma: float) -> Modes:
    """Counts the modes of a mixture of normals that points reach.

    A point belongs to its nearest centre, and is good within 3 sigma of it (Euclidean
    distance). Of draws of the mixture itself 1 - exp(-9/2) = 0.989 are good in two
    dimensions, where the modes lie apart.

    Args:
      points: [N, D], N at least 1; what is not finite is never good.
      centres: [K, D].
      sigma: standard deviation of each mode, in each coordinate.

    Returns:
      See `Modes`.

    Raises:
      ValueError: there are no points, or they lie in another space than the centres.

    Source: Lin et al. 2018, section 4.1 (PacGAN), arXiv:1712.04086.
    """
    if not len(points) or points.shape[1:] != centres.shape[1:]:
        raise ValueError(
            f"Points [N, D] and centres [K, D] need one D and a point at least, but "
            f"have the shapes {list(points.shape)} and {list(centres.shape)}."
        )
    difference = points[:, None].astype(np.float64) - centres[None]
    distances = np.linalg.norm(difference, axis=2)
    good = distances.min(axis=1) <= RADIUS * sigma
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(centres))
    return Modes(
        covered=int(np.sum(counts >= MIN_SHARE * len(points) / len(centres))),
        touched=int(np.sum(counts > 0)),
        share_within=float(np.mean(good)),
        histogram=counts.tolist(),
    )
