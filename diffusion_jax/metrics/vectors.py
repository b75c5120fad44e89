"""Validation of sets of feature vectors."""

import numpy as np


def check_pair(first: np.ndarray, second: np.ndarray, min_vectors: int) -> None:
    """Checks that two sets of feature vectors can be compared.

    Args:
      first: [N, F].
      second: [M, F].
      min_vectors: smallest N and M allowed.

    Raises:
      ValueError: the shapes do not match, a set is too small, or a value is not finite.
    """
    shapes = f"{list(first.shape)} and {list(second.shape)}"
    if not first.ndim == second.ndim == 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Feature vectors must have the shapes [N, F] and [M, F], not {shapes}: "
            "compute both sets with the same features."
        )
    if min(len(first), len(second)) < min_vectors:
        raise ValueError(
            f"This metric needs at least {min_vectors} vectors in each set, but their "
            f"shapes are {shapes}: use more samples or more data."
        )
    if not (np.all(np.isfinite(first)) and np.all(np.isfinite(second))):
        raise ValueError(
            "A feature vector is not finite: check the samples and the feature "
            "extractor."
        )
