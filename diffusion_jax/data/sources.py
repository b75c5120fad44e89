"""Sources of images: a length, and items {"image": uint8 [H, W, C], "label": int32}.

Images that fit in memory are an `ArraySource`; the others are decoded when they are
asked for. Nothing after this file tells them apart. No source needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from diffusion_jax.data import idx, transforms

Example = dict[str, Any]

_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif .tif .tiff .ppm .pgm".split())
_SPLITS = ("train", "val", "validation", "test")
_MODES = {1: "L", 3: "RGB"}
_NOT_NPZ = (OSError, EOFError, TypeError, ValueError, zlib.error, zipfile.BadZipFile)


class Wanted(NamedTuple):
    """What `make` was asked for, beside the source; see there."""

    split: str
    image_size: int
    num_channels: int
    data_dir: str | None


class Source(Protocol):
    """Random access to examples; any object with these is a source."""

    num_classes: int | None  # labels lie below it; None where nobody knows

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory.

    Args:
      images: uint8 [N, H, W, C], N >= 1.
      labels: int32 [N].
      name: what error messages call it.

    Raises:
      ValueError: an array has another dtype or shape, or there are no images.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str = "ArraySource"

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"{self.name}: images are {images.dtype} {list(images.shape)}; convert "
                "them to uint8 [N, H, W, C]."
            )
        if not images.size:
            raise ValueError(f"{self.name}: holds no images; give at least one.")
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{self.name}: labels are {labels.dtype} {list(labels.shape)}; give "
                f"one int32 for each of the {len(images)} images."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Example:
        return {"image": self.images[i], "label": self.labels[i]}

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1


@dataclasses.dataclass(frozen=True, eq=False)
class LazySource:
    """Images that are decoded, resized and cropped when they are asked for.

    Args:
      size: how many there are.
      decode: gives the image, of any size and mode, and the label of example i.
      image_size: side to which an image is resized and cropped.
      num_channels: 1 or 3.
      num_classes: labels lie below it; None where nobody knows.
    """

    size: int
    decode: Callable[[int], tuple[Image.Image, int]]
    image_size: int
    num_channels: int
    num_classes: int | None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Example:
        image, label = self.decode(i)
        image = image.convert(_MODES[self.num_channels])
        image = transforms.resize_and_crop(image, self.image_size)
        shape = (self.image_size, self.image_size, self.num_channels)
        return {"image": np.asarray(image).reshape(shape), "label": np.int32(label)}


def read(source: Source, indices: np.ndarray) -> Example:
    """Reads several examples of any source.

    Args:
      source: of length N.
      indices: integers [b] in 0..N-1.

    Returns:
      {"image": uint8 [b, H, W, C], "label": int32 [b]}.
    """
    if isinstance(source, ArraySource):
        return {"image": source.images[indices], "label": source.labels[indices]}
    examples = [source[int(i)] for i in indices]
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
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

    Args:
      source: 'NAME' or 'NAME:REST', one of the above.
      split: 'train', 'test' or what else the source has.
      image_size: height and width; `folder` and `tfds` are resized to it, the others
        must have it.
      num_channels: 1 or 3; `folder` and `tfds` are converted to it, the others must
        have it.
      data_dir: where TFDS data sets lie; None for the default of TFDS.

    Returns:
      A source of uint8 images [image_size, image_size, num_channels].

    Raises:
      FileNotFoundError: there is no such file, folder or prepared data set.
      ValueError: the name or split is unknown, or the data are not what they should be.
    """
    name, _, rest = source.partition(":")
    if name not in SOURCES:
        raise ValueError(f"Unknown source {name!r}; known are {', '.join(SOURCES)}.")
    if num_channels not in _MODES:
        raise ValueError(f"num_channels is {num_channels}; it must be 1 or 3.")
    if bool(rest) == (name == "digits"):
        form = {"digits": "digits", "tfds": "tfds:NAME"}.get(name, f"{name}:PATH")
        raise ValueError(f"Source {source!r} should be written {form}.")
    opened = SOURCES[name](rest, Wanted(split, image_size, num_channels, data_dir))
    shape = found = (image_size, image_size, num_channels)
    if isinstance(opened, ArraySource):
        found = opened.images.shape[1:]
    if found != shape:
        raise ValueError(
            f"{opened.name}: images are {_x(found)} but {_x(shape)} was asked for; set "
            "image_size and num_channels to what is there."
        )
    return opened


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _digits(rest: str, wanted: Wanted) -> ArraySource:
    """1797 handwritten digits of 8x8 pixels with 17 levels of grey.

    Every fifth example, from the fifth on, is in 'test' (359); the others are in
    'train' (1438); 'all' is both.
    """
    from sklearn import datasets

    levels, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(levels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    is_test = np.arange(len(images)) % 5 == 4
    chosen = {"train": ~is_test, "test": is_test, "all": np.full_like(is_test, True)}
    _check_split("digits", wanted.split, tuple(chosen))
    here = chosen[wanted.split]
    return ArraySource(images[here], labels[here].astype(np.int32), "digits")


def _check_split(name: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"{name}: no split {split!r}; choose {' or '.join(known)}.")


def _idx(rest: str, wanted: Wanted) -> ArraySource:
    """The four files of MNIST and its kin, gzipped or not."""
    name, stems = f"idx:{rest}", {"train": "train", "test": "t10k"}
    _check_split(name, wanted.split, tuple(stems))
    folder, stem = _existing_folder(name, rest), stems[wanted.split]
    images = idx.read(folder / f"{stem}-images-idx3-ubyte", 3)
    labels = idx.read(folder / f"{stem}-labels-idx1-ubyte", 1)
    return ArraySource(images[..., None], labels.astype(np.int32), name)


def _existing_folder(name: str, path: str) -> pathlib.Path:
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: no folder {folder}; correct the path.")
    return folder


def _npz(rest: str, wanted: Wanted) -> ArraySource:
    """Arrays saved by `np.savez`; without labels every label is 0."""
    name, prefixes = f"npz:{rest}", {"train": "", "test": "test_"}
    _check_split(name, wanted.split, tuple(prefixes))
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
    if labels is None:
        labels = np.zeros(images.shape[:1], np.int32)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: {labels_key} are {labels.dtype}; use integers.")
    images = images[..., None] if images.ndim == 3 else images
    return ArraySource(images, labels.astype(np.int32), name)


def _folder(rest: str, wanted: Wanted) -> LazySource:
    """Every picture below a folder, sorted by path; the first frame of an animation.

    The label is the number of the subfolder among the sorted subfolders, 0 without
    subfolders. If there are subfolders named after splits, each of them is such a
    folder, and all splits number the classes alike; otherwise all is 'train'. Names
    that start with a dot are passed over. Only the headers are read here: a file with
    a sound header and damaged pixels is found, and named, when it is decoded.
    """
    name, root = f"folder:{rest}", _existing_folder(f"folder:{rest}", rest)
    splits = [split for split in _SPLITS if (root / split).is_dir()]
    _check_split(name, wanted.split, tuple(splits) or ("train",))
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
    return LazySource(len(paths), decode, *shape, max(len(classes), 1))


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


def _tfds(rest: str, wanted: Wanted) -> LazySource:
    """A TFDS data set prepared as ArrayRecord, read without TensorFlow."""
    import tensorflow_datasets as tfds

    data_dir = wanted.data_dir
    remedy = (
        f"prepare it with: pip install -e '.[prepare]' && tfds build {rest} "
        "--file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
    )
    try:
        builder = tfds.builder(rest, data_dir=data_dir, file_format="array_record")
        features, prepared = builder.info.features, builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        raise FileNotFoundError(
            f"tfds:{rest} is neither in {data_dir or 'the default data_dir'} nor known "
            f"to TFDS; correct the name, or {remedy}"
        ) from None
    except (AssertionError, ValueError) as error:  # Version, config, file format.
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise ValueError(
            f"tfds:{rest} cannot be opened: {reason}; correct the name or choose "
            f"another data_dir, then {remedy}"
        ) from error
    if not prepared:
        raise FileNotFoundError(
            f"tfds:{rest} is not prepared: looked in {builder.data_dir}; {remedy}"
        )
    image, label = (features[k] if k in features else None for k in ("image", "label"))
    if image is None or image.np_dtype != np.uint8 or len(image.shape) != 3:
        raise ValueError(
            f"tfds:{rest} has the features {', '.join(features)} and no 8-bit 'image'; "
            "choose a data set of images."
        )
    try:
        examples = builder.as_data_source(wanted.split)
    except ValueError as error:
        raise ValueError(f"tfds:{rest}: {error}") from error
    if not len(examples):
        raise ValueError(f"tfds:{rest}: split {wanted.split!r} is empty; give another.")
    has_label = label is not None and np.issubdtype(label.np_dtype, np.integer)
    has_label = has_label and label.shape == ()

    def decode(i: int) -> tuple[Image.Image, int]:
        example = examples[i]
        pixels = example["image"]
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        return Image.fromarray(pixels), example["label"] if has_label else 0

    known = wanted.image_size, wanted.num_channels, getattr(label, "num_classes", None)
    return LazySource(len(examples), decode, *known)


SOURCES = {
    "digits": _digits,
    "tfds": _tfds,
    "folder": _folder,
    "idx": _idx,
    "npz": _npz,
}
