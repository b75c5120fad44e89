"""The Fréchet distance between two sets of feature vectors."""

import numpy as np

from diffusion_jax.metrics.neighbours import check_pair


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def frechet_distance(features_1: np.ndarray, features_2: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the normals fitted to two sets.

        |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    It falls with the number of vectors: name that, and the features, beside it.

    Args:
      features_1: [N, F], N at least 2.
      features_2: [M, F], M at least 2.

    Returns:
      The distance, at least 0 up to rounding.

    Raises:
      ValueError: a set is smaller or not finite, or their features differ.

    Source: Dowson and Landau 1982; Heusel et al. 2017, equation 6, arXiv:1706.08500.
    """
    check_pair(features_1, features_2, 2)
    (mean_1, cov_1), (mean_2, cov_2) = _moments(features_1), _moments(features_2)
    root = _root(cov_1)
    overlap = np.linalg.eigvalsh(root @ cov_2 @ root)
    shift = np.sum(np.square(mean_1 - mean_2))
    spread = np.trace(cov_1) + np.trace(cov_2)
    return float(shift + spread - 2 * np.sum(np.sqrt(np.maximum(overlap, 0.0))))


def floor(features: np.ndarray, seed: int, num: int) -> float:
    """The distance of some real vectors to the others: what perfection scores.

    Args:
      features: [N, F].
      seed: of the choice.
      num: how many samples the floor is for; at most half of the vectors are taken.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    num = min(num, len(features) // 2)
    return frechet_distance(features[order[:num]], features[order[num:]])
