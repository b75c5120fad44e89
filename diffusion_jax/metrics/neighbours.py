"""Sample quality from nearest neighbours between sets of feature vectors."""

from collections.abc import Iterator

import numpy as np

from diffusion_jax.metrics.vectors import check_pair

MAX_DISTANCES = 2**22  # per block: 32 MB
ROUNDING = 1e-12  # of squared distances, relative to the vectors' squared lengths


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3
) -> tuple[float, float]:
    """Computes the precision and recall of generated samples.

    A set covers the union of balls around its vectors, each reaching to the vector's
    k-th nearest neighbour in the set:

        precision = fraction of generated vectors covered by the real set
        recall    = fraction of real vectors covered by the generated set

    Both decrease with the number of features, and one outlier enlarges the covered
    region: report k, N, M and the features together with them.

    Args:
      real: [N, F], N above k.
      generated: [M, F], M above k.
      k: the neighbour that sets the radius; a vector is not its own neighbour.

    Returns:
      (precision, recall), each in [0, 1].

    Raises:
      ValueError: F differs, a set has at most k vectors, or a value is not finite.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2, arXiv:1904.06991.
    """
    real, generated = _centred(real, generated, k + 1)
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)
    num_precise, recalled = 0, np.zeros(len(real), bool)
    for rows, distances in _distances(generated, real):
        num_precise += np.count_nonzero(np.any(distances <= real_radii[None], axis=1))
        recalled |= np.any(distances <= generated_radii[rows, None], axis=0)
    return float(num_precise / len(generated)), float(np.mean(recalled))


def density_coverage(
    real: np.ndarray, generated: np.ndarray, k: int = 5
) -> tuple[float, float]:
    """Computes the density and coverage of generated samples.

    With a ball around each real vector, reaching to its k-th nearest real neighbour:

        density  = number of (ball, sample in the ball) pairs / (k M)
        coverage = fraction of balls that contain a sample

    If both sets come from the same continuous distribution, the expected density is 1
    and, for M = N, the expected coverage is about 1 - 2^-k. Unlike precision and recall
    they are robust to single outliers.

    Args:
      real: [N, F], N above k.
      generated: [M, F], M at least 1.
      k: the neighbour that sets the radius; a vector is not its own neighbour.

    Returns:
      (density, coverage): density is at least 0, and above 1 where samples concentrate
      in the densest regions; coverage is in [0, 1].

    Raises:
      ValueError: F differs, N is at most k, there are no samples, or a value is not
        finite.

    Source: Naeem et al. 2020, section 3, arXiv:2002.09797.
    """
    real, generated = _centred(real, generated, 1)
    if len(real) <= k:
        raise ValueError(
            f"The {k}-th nearest neighbour needs more than {k} real vectors, not "
            f"{len(real)}: use more data or a smaller k."
        )
    radii = _radii(real, k)
    num_pairs, covered = 0, np.zeros(len(real), bool)
    for _, distances in _distances(generated, real):
        inside = distances <= radii[None]
        num_pairs += np.count_nonzero(inside)
        covered |= np.any(inside, axis=0)
    return float(num_pairs / (k * len(generated))), float(np.mean(covered))


def nearest_distance(generated: np.ndarray, train: np.ndarray) -> float:
    """Computes the median distance from a sample to its nearest training vector.

    A generator memorises if this is below the same distance for held-out real vectors,
    nearest_distance(test, train): report both.

    Args:
      generated: [M, F].
      train: [N, F].

    Returns:
      The Euclidean distance, 0 for copies.

    Raises:
      ValueError: F differs, a set is empty, or a value is not finite.
    """
    return float(np.median(nearest(generated, train)[0]))


def nearest(generated: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest training vector of each sample.

    Args:
      generated: [M, F].
      train: [N, F].

    Returns:
      Euclidean distances f64[M], 0 for copies, and positions in `train` i64[M].

    Raises:
      ValueError: F differs, a set is empty, or a value is not finite.
    """
    train, generated = _centred(train, generated, 1)
    positions = np.concatenate(
        [distances.argmin(axis=1) for _, distances in _distances(generated, train)]
    )
    return np.linalg.norm(generated - train[positions], axis=1), positions


def _centred(
    real: np.ndarray, generated: np.ndarray, min_vectors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Subtracts the real mean from both sets, in float64, to reduce rounding errors."""
    check_pair(real, generated, min_vectors)
    mean = real.mean(axis=0, dtype=np.float64)[None]
    return real - mean, generated - mean


def _distances(
    points: np.ndarray, others: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, squared distances f64[b, M] of those points to all others)."""
    lengths = np.sum(np.square(others), axis=1)[None]
    size = max(1, MAX_DISTANCES // len(others))
    for start in range(0, len(points), size):
        rows = slice(start, start + size)
        distances = (-2 * points[rows]) @ others.T
        distances += np.sum(np.square(points[rows]), axis=1)[:, None]
        distances += lengths
        yield rows, distances


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Returns each point's squared distance to its k-th neighbour, f64[N]."""
    radii = np.empty(len(points))
    for rows, distances in _distances(points, points):
        own = np.arange(len(distances))
        distances[own, rows.start + own] = np.inf
        distances.partition(k - 1, axis=1)
        radii[rows] = distances[:, k - 1]
    radii = np.maximum(radii, 0.0)
    # Slightly enlarged: rounding must not exclude the k-th neighbour from the ball.
    return radii + ROUNDING * (radii + np.sum(np.square(points), axis=1))
