"""What the codes of autoencoders hold, and what they have to beat."""

from collections.abc import Iterator

import numpy as np

ACTIVE = 0.01  # variance of a latent's posterior mean, the prior's being 1
BLOCK = 4096  # vectors taken to float64 at once


def active_units(means: np.ndarray) -> int:
    """Counts the latents whose posterior mean follows the data.

        variance over x of E_q(z | x)[z_j]  >  0.01

    Args:
      means: [N, Z], the posterior's mean for each of N examples.

    Returns:
      A number in 0..Z; 0 is posterior collapse.

    Source: Burda et al. 2016, section 5.2, arXiv:1509.00519.
    """
    return int(np.sum(means.var(axis=0, dtype=np.float64) > ACTIVE))


def pca_mse(train: np.ndarray, test: np.ndarray, num_components: int) -> float:
    """The squared error that principal components leave: what a linear code reaches.

        |x - m - V V^T (x - m)|^2 / D,  V the leading eigenvectors of train's covariance

    No linear autoencoder with as many latents has a smaller one on the train set.

    Args:
      train: [N, D], N at least 1; m and V are of it. D up to a few thousand.
      test: [M, D].
      num_components: columns of V, 0..D.

    Returns:
      The mean over the values of test, in their units squared.

    Raises:
      ValueError: the number of components is not in 0..D.
    """
    num_values = train.shape[1]
    if not 0 <= num_components <= num_values:
        raise ValueError(
            f"Vectors of {num_values} values have 0 to {num_values} principal "
            f"components, not {num_components}."
        )
    mean = train.mean(axis=0, dtype=np.float64)
    scatter = sum(block.T @ block for block in _centred(train, mean))
    _, vectors = np.linalg.eigh(scatter)  # in ascending order
    leading = vectors[:, num_values - num_components :]
    error = 0.0
    for block in _centred(test, mean):
        block -= (block @ leading) @ leading.T
        error += np.sum(np.square(block))
    return float(error / test.size)


def _centred(vectors: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    """Yields new float64 blocks of the vectors, less the mean."""
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK] - mean[None]
