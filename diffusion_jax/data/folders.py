"""Folders of images as a source."""

import os
import pathlib
from concurrent import futures

from PIL import Image

from diffusion_jax.data import base, transforms
from diffusion_jax.lookup import lookup

_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif .tif .tiff .ppm .pgm".split())
_SPLITS = ("train", "val", "validation", "test")


def open_folder(rest: str, spec: base.ImageSpec) -> base.LazySource:
    """Opens all images below a folder, sorted by path.

    The label is the position of the subfolder among the sorted subfolders, or 0 without
    subfolders. Subfolders named after splits (train, val, validation, test) each have
    this layout, and all splits number the classes in the same way; without them, all
    images are in 'train'. Names that start with a dot are ignored. Only headers are
    read here: damaged pixels raise an error with the file's name when they are decoded.

    Args:
      rest: path of the folder.
      spec: with the size and the channels that images are converted to.

    Returns:
      A source of images; the first frame of an animation.

    Raises:
      FileNotFoundError: there is no such folder, or it contains no images.
      ValueError: there is no such split, there are images outside the splits, or a
        file is not an image.
    """
    name, root = f"folder:{rest}", base.existing_folder(f"folder:{rest}", rest)
    splits = {split: root / split for split in _SPLITS if (root / split).is_dir()}
    roots = splits or {"train": root}
    folder = lookup(roots, spec.split, f"split of {name}")
    others = [other for other in _subfolders(root) if other not in splits]
    if splits and any(_images(root / other) for other in others):
        raise ValueError(
            f"{name}: has the splits {', '.join(splits)} but also images in "
            f"{', '.join(others)}; move or rename one of them."
        )
    classes = sorted({c for each in roots.values() for c in _subfolders(each)})
    number = {c: i for i, c in enumerate(classes)}
    files = _images(folder)
    if not files:
        raise FileNotFoundError(
            f"{name}: no images in {folder}; add files of the types "
            f"{' '.join(sorted(_SUFFIXES))}."
        )
    paths = [os.path.join(folder, file) for file in files]
    labels = [number.get(file.split(os.sep)[0], 0) for file in files]
    with futures.ThreadPoolExecutor(16) as pool:  # Network disks have a high latency.
        list(pool.map(transforms.check_image, paths))

    def decode(i: int) -> tuple[Image.Image, int]:
        return transforms.read_image(paths[i]), labels[i]

    return base.lazy_images(len(paths), decode, spec, max(len(classes), 1))


def _subfolders(folder: pathlib.Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


def _images(folder: pathlib.Path) -> list[str]:
    """Returns the paths of all images below a folder, relative to it, sorted."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f[0] != "."]
        found += [
            os.path.relpath(os.path.join(place, file), folder)
            for file in files
            if file[0] != "." and os.path.splitext(file)[1].lower() in _SUFFIXES
        ]
    return sorted(found)
