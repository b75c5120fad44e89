"""Metrics of latents and of a codebook's use, and the linear baseline of an error."""

from collections.abc import Iterator

import numpy as np

MIN_VARIANCE = 0.01  # of an active latent's posterior mean; the prior's variance is 1
BLOCK_SIZE = 4096  # vectors converted to float64 at a time


def active_units(means: np.ndarray) -> int:
    """Counts the latents whose posterior mean varies with the input.

        variance over x of E_q(z | x)[z_j]  >  0.01

    Args:
      means: [N, Z], the posterior means of N examples.

    Returns:
      A number in 0..Z; 0 is posterior collapse.

    Source: Burda et al. 2016, section 5.2, arXiv:1509.00519.
    """
    return int(np.sum(means.var(axis=0, dtype=np.float64) > MIN_VARIANCE))


def codebook_use(codes: np.ndarray, num_codes: int) -> tuple[float, float]:
    """Computes how many codes of a codebook are used, and how evenly.

        exp(-sum of p log p),  p the frequencies of the codes

    Args:
      codes: integers in 0..num_codes-1, any shape, at least one.
      num_codes: K.

    Returns:
      The perplexity, from 1 (a single code) to K (all alike), and the share of codes
      that occur.
    """
    p = np.bincount(codes.reshape(-1), minlength=num_codes) / codes.size
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p)))), len(p) / num_codes


def pca_mse(train: np.ndarray, test: np.ndarray, num_components: int) -> float:
    """Computes the reconstruction error of PCA, fitted on train and applied to test.

        |x - m - V V^T (x - m)|^2 / D,  V the leading eigenvectors of train's covariance

    On the training set no linear autoencoder with as many latents has a smaller error.

    Args:
      train: [N, D], N at least 1, D up to a few thousand; determines m and V.
      test: [M, D].
      num_components: columns of V, 0..D.

    Returns:
      The mean squared error per value of test.

    Raises:
      ValueError: num_components is not in 0..D.
    """
    num_values = train.shape[1]
    if not 0 <= num_components <= num_values:
        raise ValueError(
            f"num_components = {num_components} is not possible: vectors of "
            f"{num_values} values have 0 to {num_values} principal components."
        )
    mean = train.mean(axis=0, dtype=np.float64)
    scatter = sum(block.T @ block for block in _centred(train, mean))
    _, vectors = np.linalg.eigh(scatter)  # in ascending order of the eigenvalues
    leading = vectors[:, num_values - num_components :]
    error = 0.0
    for block in _centred(test, mean):
        block -= (block @ leading) @ leading.T
        error += np.sum(np.square(block))
    return float(error / test.size)


def _centred(vectors: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    """Yields new float64 blocks of the vectors minus the mean."""
    for start in range(0, len(vectors), BLOCK_SIZE):
        yield vectors[start : start + BLOCK_SIZE] - mean[None]
