"""Folders of pictures as a source."""

from __future__ import annotations

import os
import pathlib
from concurrent import futures

from PIL import Image

from diffusion_jax.data import base, transforms

_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif .tif .tiff .ppm .pgm".split())
_SPLITS = ("train", "val", "validation", "test")


def open_folder(rest: str, wanted: base.ImageSpec) -> base.LazySource:
    """Finds every picture below a folder, sorted by path.

    The label is the number of the subfolder among the sorted subfolders, 0 without
    subfolders. If there are subfolders named after splits, each of them is such a
    folder, and all splits number the classes alike; otherwise all is 'train'. Names
    that start with a dot are passed over. Only the headers are read here: a file with
    a sound header and damaged pixels is found, and named, when it is decoded.

    Args:
      rest: path of the folder.
      wanted: with the size and the channels to which pictures are converted.

    Returns:
      A source of pictures; of an animation the first frame.

    Raises:
      FileNotFoundError: there is no such folder, or there are no pictures in it.
      ValueError: there is no such split, pictures lie beside the splits, or a file is
        no picture.
    """
    name, root = f"folder:{rest}", base.existing_folder(f"folder:{rest}", rest)
    splits = [split for split in _SPLITS if (root / split).is_dir()]
    base.check_split(name, wanted.split, tuple(splits) or ("train",))
    others = [other for other in _subfolders(root) if other not in splits]
    if splits and any(_pictures(root / other) for other in others):
        raise ValueError(
            f"{name}: has the splits {', '.join(splits)} and beside them pictures in "
            f"{', '.join(others)}; rename or move one of the two kinds."
        )
    folder = root / wanted.split if splits else root
    roots = [root / split for split in splits] or [root]
    classes = sorted({c for each in roots for c in _subfolders(each)})
    number = {c: i for i, c in enumerate(classes)}
    files = _pictures(folder)
    if not files:
        raise FileNotFoundError(
            f"{name}: no pictures in {folder}; put some of the kinds "
            f"{' '.join(sorted(_SUFFIXES))} there."
        )
    paths = [os.path.join(folder, file) for file in files]
    labels = [number.get(file.split(os.sep)[0], 0) for file in files]
    with futures.ThreadPoolExecutor(16) as pool:  # Disks far away answer slowly.
        list(pool.map(transforms.check_picture, paths))

    def decode(i: int) -> tuple[Image.Image, int]:
        return transforms.read_picture(paths[i]), labels[i]

    shape = wanted.image_size, wanted.num_channels
    return base.LazySource(len(paths), decode, *shape, max(len(classes), 1))


def _subfolders(folder: pathlib.Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


def _pictures(folder: pathlib.Path) -> list[str]:
    """Returns the paths of all pictures below a folder, relative to it, sorted."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f[0] != "."]
        found += [
            os.path.relpath(os.path.join(place, file), folder)
            for file in files
            if file[0] != "." and os.path.splitext(file)[1].lower() in _SUFFIXES
        ]
    return sorted(found)
