"""Images and labels saved by `np.savez`."""

import zipfile
import zlib

import numpy as np

from diffusion_jax import paths
from diffusion_jax.data import base, transforms
from diffusion_jax.lookup import lookup

_ERRORS = (OSError, EOFError, TypeError, ValueError, zlib.error, zipfile.BadZipFile)


def open_npz(rest: str, spec: base.ImageSpec) -> base.ArraySource:
    """Reads `images` and `labels`, or `test_images` and `test_labels`, from one file.

    Args:
      rest: path of the file.
      spec: with the split 'train' or 'test'.

    Returns:
      A source of the images, uint8 [N, H, W, C] or [N, H, W] in the file, and their
      labels, integers [N]; all labels are 0 if the file has none. A second or fourth
      channel is alpha: the images are composited over data.background.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is no such split, the file is damaged, an array is missing or
        has another dtype, or a label is negative or beyond int32.
    """
    name = f"npz:{rest}"
    prefix = lookup({"train": "", "test": "test_"}, spec.split, f"split of {name}")
    path = paths.local(rest)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {path}; correct the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file)
            images, labels = (
                file[prefix + key] if prefix + key in keys else None
                for key in ("images", "labels")
            )
    except _ERRORS as error:
        raise ValueError(
            f"{name}: not a complete npz file of plain arrays ({error}); write it with "
            "np.savez(path, images=..., labels=...)."
        ) from error
    if images is None:
        has = ", ".join(keys) or "none"
        raise ValueError(f"{name}: needs the key '{prefix}images' but has {has}.")
    if labels is None:
        labels = np.zeros(images.shape[:1], np.int32)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype == np.uint8 and images.shape[3:] in ((2,), (4,)):
        base.warn_of_transparency(name, len(images), len(images), spec.background)
        images = transforms.composite(images, spec.background)
    return base.array_images(images, labels, name)
