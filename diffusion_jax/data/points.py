"""2D points with a known density: 25 narrow normal distributions on a square grid.

A generator that drops modes is easy to detect here, since each label is a mode.
"""

import numpy as np

from diffusion_jax.data import base
from diffusion_jax.lookup import lookup

SIGMA = 0.05  # standard deviation of a mode, in both directions

_STEPS = np.arange(-4, 5, 2, dtype=np.float32)
# [25, 2], the means: mode 5 i + j lies at (2 i - 4, 2 j - 4).
CENTRES = np.stack(np.meshgrid(_STEPS, _STEPS, indexing="ij"), -1).reshape(25, 2)

_SIZES = {"train": 100_000, "test": 10_000}


def open_grid25(rest: str, spec: base.ImageSpec) -> base.ArraySource:
    """Draws the points of this mode-dropping benchmark, the same every time.

        x = CENTRES[k] + SIGMA * z,  k uniform on 0..24,  z ~ N(0, I)

    Args:
      rest: empty; the source has no variants.
      spec: with the split 'train' (100,000 points) or 'test' (10,000).

    Returns:
      A source of points, float32 [2], and labels k.

    Raises:
      ValueError: there is no such split.

    Source: Lin et al. 2018 (PacGAN), section 4.1, arXiv:1712.04086.
    """
    size = lookup(_SIZES, spec.split, "split of grid25")
    stream = list(_SIZES).index(spec.split)
    # NumPy guarantees that the draws of RandomState, unlike Generator's, never change.
    draws = np.random.RandomState(np.random.Philox([25, stream]))
    labels = draws.randint(25, size=size).astype(np.int32)
    points = CENTRES[labels] + SIGMA * draws.standard_normal((size, 2))
    arrays = {"points": points.astype(np.float32), "label": labels}
    fields = {
        "points": base.Field((2,), np.float32, "points"),
        "label": base.label_field(25),
    }
    return base.ArraySource(arrays, fields, "grid25")
