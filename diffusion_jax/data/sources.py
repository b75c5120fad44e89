"""Sources of images: a length, and items {"image": uint8 [H, W, C], "label": int32}.

What is no picture, such as a point of the plane, is float32 [H, W, C] instead.
Images that fit in memory are an `ArraySource`; the others are decoded when they are
asked for. Nothing after this file tells them apart. No source needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
import zlib

import numpy as np

from diffusion_jax.data import folders, idx, points, tfds
from diffusion_jax.data.base import (
    MODES,
    ArraySource,
    Example,
    ImageSpec,
    Source,
    Unpaired,
    by,
    check_split,
    existing_folder,
    parts,
    read,
)

__all__ = [
    "SOURCES",
    "ArraySource",
    "Unpaired",
    "Example",
    "Source",
    "make",
    "parts",
    "read",
]

_NOT_NPZ = (OSError, EOFError, TypeError, ValueError, zlib.error, zipfile.BadZipFile)
_ANY_CHANNELS = ("grid25", "inverted")  # 2; what the inner source says
_FORMS = {  # the others are written NAME:PATH
    "digits": "digits",
    "grid25": "grid25",
    "inverted": "inverted:SOURCE",
    "tfds": "tfds:NAME",
}


def make(
    source: str,
    split: str,
    image_size: int,
    num_channels: int,
    data_dir: str | None = None,
) -> Source:
    """Opens a source by its name and checks it before anything is compiled.

        digits          8x8x1, comes with scikit-learn
        tfds:NAME       a prepared TFDS data set, NAME[/CONFIG][:VERSION]
        folder:PATH     a folder of pictures, in subfolders by class if there are any
        idx:PATH        a folder with the four files of MNIST, as they are or gzipped
        npz:PATH        arrays `images`, `labels`, `test_images`, `test_labels`
        inverted:SOURCE the negatives of another source, byte -> 255 - byte
        grid25          points of the plane around a 5x5 grid, 1x1x2; see `points`

    Args:
      source: 'NAME' or 'NAME:REST', one of the above.
      split: 'train', 'test' or what else the source has.
      image_size: height and width; `folder` and `tfds` are resized to it, the others
        must have it.
      num_channels: 1 or 3; `folder` and `tfds` are converted to it, the others must
        have it, and `grid25` has 2.
      data_dir: where TFDS data sets lie; None for the default of TFDS.

    Returns:
      A source of images [image_size, image_size, num_channels]: uint8, and float32 in
      its own units for `grid25`.

    Raises:
      FileNotFoundError: there is no such file, folder or prepared data set.
      ValueError: the name or split is unknown, or the data are not what they should be.
    """
    name, _, rest = source.partition(":")
    if name not in SOURCES:
        raise ValueError(f"Unknown source {name!r}; known are {', '.join(SOURCES)}.")
    if num_channels not in MODES and name not in _ANY_CHANNELS:
        raise ValueError(f"num_channels is {num_channels}; it must be 1 or 3.")
    form = _FORMS.get(name, f"{name}:PATH")
    if bool(rest) != (":" in form):
        raise ValueError(f"Source {source!r} should be written {form}.")
    opened = SOURCES[name](rest, ImageSpec(split, image_size, num_channels, data_dir))
    shape = found = (image_size, image_size, num_channels)
    if isinstance(opened, ArraySource):
        found = opened.images.shape[1:]
    if found != shape:
        raise ValueError(
            f"{opened.name}: images are {by(found)} but {by(shape)} was asked for; set "
            "image_size and num_channels to what is there."
        )
    return opened


def _digits(rest: str, wanted: ImageSpec) -> ArraySource:
    """1797 handwritten digits of 8x8 pixels with 17 levels of grey.

    Every fifth example, from the fifth on, is in 'test' (359); the others are in
    'train' (1438); 'all' is both. 'train_even' and 'train_odd' (719 each) deal the
    examples of 'train' out in turn: two domains that share no picture.
    """
    from sklearn import datasets

    levels, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(levels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    every = np.arange(len(images))
    train = every[every % 5 != 4]
    chosen = {"train": train, "test": every[4::5], "all": every}
    chosen |= {"train_even": train[::2], "train_odd": train[1::2]}
    check_split("digits", wanted.split, tuple(chosen))
    here = chosen[wanted.split]
    return ArraySource(images[here], labels[here].astype(np.int32), "digits")


def _idx(rest: str, wanted: ImageSpec) -> ArraySource:
    """The four files of MNIST and its kin, gzipped or not."""
    name, stems = f"idx:{rest}", {"train": "train", "test": "t10k"}
    check_split(name, wanted.split, tuple(stems))
    folder, stem = existing_folder(name, rest), stems[wanted.split]
    images = idx.read(folder / f"{stem}-images-idx3-ubyte", 3)
    labels = idx.read(folder / f"{stem}-labels-idx1-ubyte", 1)
    return ArraySource(images[..., None], labels.astype(np.int32), name)


def _npz(rest: str, wanted: ImageSpec) -> ArraySource:
    """Arrays saved by `np.savez`; without labels every label is 0."""
    name, prefixes = f"npz:{rest}", {"train": "", "test": "test_"}
    check_split(name, wanted.split, tuple(prefixes))
    images_key, labels_key = (prefixes[wanted.split] + k for k in ("images", "labels"))
    path = pathlib.Path(rest).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {path}; correct the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file)
            images = file[images_key] if images_key in keys else None
            labels = file[labels_key] if labels_key in keys else None
    except _NOT_NPZ as error:
        raise ValueError(
            f"{name}: not a whole npz file of plain arrays ({error}); write it with "
            "np.savez(path, images=..., labels=...)."
        ) from error
    if images is None:
        has = ", ".join(keys) or "none"
        raise ValueError(f"{name}: needs the key {images_key!r} but has {has}; add it.")
    if images.dtype != np.uint8:  # Floats would be taken for what is not a picture.
        raise ValueError(
            f"{name}: {images_key} are {images.dtype} {list(images.shape)}; convert "
            "them to uint8 [N, H, W, C]."
        )
    if labels is None:
        labels = np.zeros(images.shape[:1], np.int32)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: {labels_key} are {labels.dtype}; use integers.")
    images = images[..., None] if images.ndim == 3 else images
    return ArraySource(images, labels.astype(np.int32), name)


def _inverted(rest: str, wanted: ImageSpec) -> Source:
    """The negatives of another source; its splits, labels and classes stay."""
    inner = make(rest, *wanted)
    if not isinstance(inner, ArraySource):
        return _Negatives(inner)
    name = f"inverted:{inner.name}"
    if inner.images.dtype != np.uint8:
        raise ValueError(
            f"{name}: {inner.name} has no pictures; invert another source."
        )
    return ArraySource(255 - inner.images, inner.labels, name)


@dataclasses.dataclass(frozen=True, eq=False)
class _Negatives:
    """The pictures of a source, byte -> 255 - byte, when they are asked for."""

    positives: Source

    def __len__(self) -> int:
        return len(self.positives)

    def __getitem__(self, i: int) -> Example:
        example = self.positives[i]
        return {**example, "image": 255 - example["image"]}

    @property
    def num_classes(self) -> int | None:
        return self.positives.num_classes


SOURCES = {
    "digits": _digits,
    "tfds": tfds.open_tfds,
    "folder": folders.open_folder,
    "idx": _idx,
    "npz": _npz,
    "inverted": _inverted,
    "grid25": points.open_grid25,
}
