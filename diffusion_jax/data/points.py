"""Points of the plane whose density is known: 25 narrow normals on a square grid.

A generator that leaves out modes is seen at once here, since every mode has a name.
"""

from __future__ import annotations

import numpy as np

from diffusion_jax.data import base

SIGMA = 0.05  # standard deviation of a mode, in both directions

_STEPS = np.arange(-4, 5, 2, dtype=np.float32)
# [25, 2], the means: mode 5 i + j lies at (2 i - 4, 2 j - 4).
CENTRES = np.stack(np.meshgrid(_STEPS, _STEPS, indexing="ij"), -1).reshape(25, 2)

_SIZES = {"train": 100_000, "test": 10_000}


def open_grid25(rest: str, wanted: base.ImageSpec) -> base.ArraySource:
    """Draws the benchmark of mode dropping, the same points every time.

        x = CENTRES[k] + SIGMA * z,  k uniform on 0..24,  z ~ N(0, I)

    Args:
      rest: empty; the source has no variants.
      wanted: with the split 'train' (100,000 points) or 'test' (10,000).

    Returns:
      Images float32 [N, 1, 1, 2] in the plane's own units, labels k.

    Raises:
      ValueError: there is no such split.

    Source: Lin et al. 2018 (PacGAN), section 4.1, arXiv:1712.04086.
    """
    base.check_split("grid25", wanted.split, tuple(_SIZES))
    size, stream = _SIZES[wanted.split], list(_SIZES).index(wanted.split)
    # NumPy promises that the draws of RandomState, unlike Generator's, never change.
    draws = np.random.RandomState(np.random.Philox([25, stream]))
    labels = draws.randint(25, size=size).astype(np.int32)
    points = CENTRES[labels] + SIGMA * draws.standard_normal((size, 2))
    images = points.astype(np.float32).reshape(size, 1, 1, 2)
    return base.ArraySource(images, labels, "grid25")
