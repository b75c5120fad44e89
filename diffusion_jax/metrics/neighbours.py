"""Samples beside real data, by feature vectors and by the classes they are called."""

from collections.abc import Iterator, Sequence

import numpy as np

from diffusion_jax.metrics.modes import MIN_SHARE

MAX_DISTANCES = 2**22  # held at once: 32 MB
ROUNDING = 1e-12  # of squared distances, beside the squared lengths they come from


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3
) -> tuple[float, float]:
    """How many samples look real, and how much of the real data samples look like.

    A set covers the balls around its vectors that reach to their k-th neighbours in it:

        precision = share of generated vectors within the real set's balls
        recall    = share of real vectors within the generated set's balls

    Both fall with the number of features, and one outlier widens what a set covers:
    name k, N, M and the features beside them.

    Args:
      real: [N, F], N above k.
      generated: [M, F], M above k.
      k: which neighbour gives the radius; a vector is not its own neighbour.

    Returns:
      (precision, recall), each in [0, 1].

    Raises:
      ValueError: the sets do not fit each other or k, or are not finite.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2, arXiv:1904.06991.
    """
    real, generated = _centred(real, generated, k + 1)
    of_real, of_generated = _radii(real, k), _radii(generated, k)
    num_precise, recalled = 0, np.zeros(len(real), bool)
    for rows, distances in _distances(generated, real):
        num_precise += np.count_nonzero(np.any(distances <= of_real[None], axis=1))
        recalled |= np.any(distances <= of_generated[rows, None], axis=0)
    return float(num_precise / len(generated)), float(np.mean(recalled))


def density_coverage(
    real: np.ndarray, generated: np.ndarray, k: int = 5
) -> tuple[float, float]:
    """How densely samples lie where real data do, and how many real ones they meet.

    With balls around the real vectors alone, each up to its k-th real neighbour:

        density  = number of pairs of a ball and a sample in it / (k M)
        coverage = share of the balls that hold a sample

    Where both sets follow one continuous law the density is 1 on average, and the
    coverage nearly 1 - 2^-k for as many samples as real vectors. Unlike precision and
    recall they are moved little by single outliers.

    Args:
      real: [N, F], N above k.
      generated: [M, F], M at least 1.
      k: which neighbour gives the radius; a vector is not its own neighbour.

    Returns:
      (density, coverage): at least 0, above 1 where samples crowd into the densest
      places; and in [0, 1].

    Raises:
      ValueError: the sets do not fit each other or k, or are not finite.

    Source: Naeem et al. 2020, section 3, arXiv:2002.09797.
    """
    real, generated = _centred(real, generated, 1)
    if len(real) <= k:
        raise ValueError(
            f"Neighbour number {k} needs more than {k} real vectors, not {len(real)}: "
            "measure on more of them, or with a smaller k."
        )
    radii = _radii(real, k)
    num_pairs, met = 0, np.zeros(len(real), bool)
    for _, distances in _distances(generated, real):
        inside = distances <= radii[None]
        num_pairs += np.count_nonzero(inside)
        met |= np.any(inside, axis=0)
    return float(num_pairs / (k * len(generated))), float(np.mean(met))


def nearest_distance(generated: np.ndarray, train: np.ndarray) -> float:
    """The median distance of a sample to the training vector nearest to it.

    Memorisation shows where it is below that of held-out real vectors, which is
    nearest_distance(test, train): print both.

    Args:
      generated: [M, F].
      train: [N, F].

    Returns:
      The Euclidean distance, 0 for copies.

    Raises:
      ValueError: a set is empty or not finite, or their features differ.
    """
    train, generated = _centred(train, generated, 1)
    nearest = np.concatenate(
        [distances.argmin(axis=1) for _, distances in _distances(generated, train)]
    )
    return float(np.median(np.linalg.norm(generated - train[nearest], axis=1)))


def histogram(predicted: np.ndarray, num_classes: int) -> list[int]:
    """Counts how many samples a classifier calls each class.

    Args:
      predicted: i[N], each in 0..num_classes - 1.
      num_classes: K.

    Returns:
      K counts, N together.

    Raises:
      ValueError: a class is outside of 0..K - 1.
    """
    if np.any((predicted < 0) | (predicted >= num_classes)):
        raise ValueError(
            f"Classes {predicted.min()} to {predicted.max()} were predicted, but "
            f"num_classes = {num_classes} allows 0 to {num_classes - 1} alone."
        )
    return np.bincount(predicted, minlength=num_classes).tolist()


def classes_covered(counts: Sequence[int]) -> int:
    """Counts the classes that get at least a quarter of their fair share of samples.

    A class counts from N / (4 K) samples on, with N the samples and K the classes; the
    rule supposes that the data hold about as many of each.

    Args:
      counts: samples called each class, K numbers.
    """
    least = MIN_SHARE * max(1, sum(counts)) / len(counts)  # of no samples, none
    return sum(count >= least for count in counts)


def check_pair(first: np.ndarray, second: np.ndarray, least: int) -> None:
    """Refuses two sets of vectors that cannot be compared.

    Args:
      first: [N, F].
      second: [M, F].
      least: how many vectors a set needs.

    Raises:
      ValueError: another shape, too few vectors, or a value that is not finite.
    """
    shapes = f"{list(first.shape)} and {list(second.shape)}"
    if not first.ndim == second.ndim == 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Two sets of feature vectors are [N, F] and [M, F] with one F, not "
            f"{shapes}: compute both with the same features."
        )
    if min(len(first), len(second)) < least:
        raise ValueError(
            f"Each set needs at least {least} vectors for this measure, but their "
            f"shapes are {shapes}: draw or read more."
        )
    if not (np.all(np.isfinite(first)) and np.all(np.isfinite(second))):
        raise ValueError(
            "A feature vector is not finite: look at the samples and at the network "
            "that the features come from."
        )


def _centred(
    real: np.ndarray, generated: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64 around the real mean, where products round least."""
    check_pair(real, generated, least)
    mean = real.mean(axis=0, dtype=np.float64)[None]
    return real - mean, generated - mean


def _distances(
    points: np.ndarray, others: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields blocks of rows of the points, and f64[b, M], squared, to all others."""
    lengths = np.sum(np.square(others), axis=1)[None]
    size = max(1, MAX_DISTANCES // len(others))
    for start in range(0, len(points), size):
        rows = slice(start, start + size)
        distances = (-2 * points[rows]) @ others.T
        distances += np.sum(np.square(points[rows]), axis=1)[:, None]
        distances += lengths
        yield rows, distances


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th neighbour among the others, f64[N]."""
    radii = np.empty(len(points))
    for rows, distances in _distances(points, points):
        own = np.arange(len(distances))
        distances[own, rows.start + own] = np.inf
        distances.partition(k - 1, axis=1)
        radii[rows] = distances[:, k - 1]
    radii = np.maximum(radii, 0.0)
    # A hair wider: rounding must leave no neighbour out of the ball that ends at it.
    return radii + ROUNDING * (radii + np.sum(np.square(points), axis=1))
