"""The Fréchet distance between two sets of feature vectors."""

import numpy as np

from diffusion_jax.metrics.vectors import check_pair


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [F] and the covariance [F, F] of features [N, F]."""
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _sqrt(matrix: np.ndarray) -> np.ndarray:
    """Returns the square root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def frechet_distance(features_1: np.ndarray, features_2: np.ndarray) -> float:
    """Computes the squared 2-Wasserstein distance between Gaussian fits of two sets.

        |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    The estimate decreases with the number of vectors, so report that number and the
    feature extractor together with the distance.

    Args:
      features_1: [N, F], N at least 2.
      features_2: [M, F], M at least 2.

    Returns:
      The distance, at least 0 up to rounding.

    Raises:
      ValueError: a set has fewer than 2 vectors or is not finite, or F differs.

    Source: Dowson and Landau 1982; Heusel et al. 2017, equation 6, arXiv:1706.08500.
    """
    check_pair(features_1, features_2, 2)
    (mean_1, cov_1), (mean_2, cov_2) = _moments(features_1), _moments(features_2)
    sqrt_1 = _sqrt(cov_1)
    # The trace of a matrix's square root is the sum of the roots of its eigenvalues.
    eigenvalues = np.maximum(np.linalg.eigvalsh(sqrt_1 @ cov_2 @ sqrt_1), 0.0)
    shift = np.sum(np.square(mean_1 - mean_2))
    spread = np.trace(cov_1) + np.trace(cov_2)
    return float(shift + spread - 2 * np.sum(np.sqrt(eigenvalues)))


def real_baseline(features: np.ndarray, seed: int, num: int) -> float:
    """Computes the distance between two disjoint random subsets of real vectors.

    This is the score of a perfect generator with `num` samples.

    Args:
      features: [N, F], N at least 4.
      seed: seed of the random split.
      num: vectors in the first subset, at most N // 2; the rest form the second.

    Returns:
      The Fréchet distance between the two subsets.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    num = min(num, len(features) // 2)
    return frechet_distance(features[order[:num]], features[order[num:]])
