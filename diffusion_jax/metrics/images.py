"""Distances between images of which each has a partner."""

import numpy as np

# A quarter of a squared 8-bit level: smaller errors vanish when images are written.
MIN_SQUARED_ERROR = (0.5 / 255) ** 2


def absolute_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes the mean absolute difference of each pair.

    Args:
      x: [N, ...] in [0, 1].
      y: of the same shape.

    Returns:
      [N].
    """
    return np.abs(x - y).reshape(len(x), -1).mean(axis=1)


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes the peak signal-to-noise ratio of each pair, in dB.

        PSNR = -10 log10(mean squared error)

    An error below half an 8-bit level counts as that, so equal images have 54.2 dB.

    Args:
      x: [N, ...] in [0, 1].
      y: of the same shape.

    Returns:
      [N].
    """
    error = np.square(x - y).reshape(len(x), -1).mean(axis=1)
    return -10 * np.log10(np.maximum(error, MIN_SQUARED_ERROR))
