"""What a source is, and the kinds of it: in memory, decoded when asked for, a pair."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from diffusion_jax.data import transforms

Example = dict[str, Any]

MODES = {1: "L", 3: "RGB"}  # PIL's name for pictures of so many channels


class ImageSpec(NamedTuple):
    """What `sources.make` was asked for, beside the source; see there."""

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
      images: [N, H, W, C], N >= 1: uint8, or for what is not a picture, such as points
        of the plane, float32, finite and in units of its own.
      labels: int32 [N].
      name: what error messages call it.

    Raises:
      ValueError: an array has another dtype or shape, a number is not finite, or there
        are no images.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str = "ArraySource"

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype not in (np.uint8, np.float32) or images.ndim != 4:
            raise ValueError(
                f"{self.name}: images are {images.dtype} {list(images.shape)}; convert "
                "them to uint8 [N, H, W, C], or to float32 if they are no pictures."
            )
        if not images.size:
            raise ValueError(f"{self.name}: holds no images; give at least one.")
        if images.dtype == np.float32 and not np.isfinite(images).all():
            raise ValueError(f"{self.name}: holds NaN or infinity; leave these out.")
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
        image = image.convert(MODES[self.num_channels])
        image = transforms.resize_and_crop(image, self.image_size)
        shape = (self.image_size, self.image_size, self.num_channels)
        return {"image": np.asarray(image).reshape(shape), "label": np.int32(label)}


@dataclasses.dataclass(frozen=True, eq=False)
class Unpaired:
    """Two sources whose examples do not belong together, for unpaired translation.

    Args:
      a: a source, not empty.
      b: another one with images of the same shape; it may have another length.

    Raises:
      ValueError: a source is empty, or the shapes of the first images differ.
    """

    a: Source
    b: Source

    def __post_init__(self):
        for name, source in (("a", self.a), ("b", self.b)):
            if not len(source):
                raise ValueError(
                    f"Domain {name} is empty; give a source with at least one image."
                )
        # Looking at one image asks no more of a source than every source can.
        of_a, of_b = (source[0]["image"].shape for source in (self.a, self.b))
        if of_a != of_b:
            raise ValueError(
                f"The images of domain a are {by(of_a)} and those of domain b "
                f"{by(of_b)}; give both one image_size and num_channels."
            )

    def __len__(self) -> int:
        """Returns the smaller length: how many pairs a pass over both has."""
        return min(len(self.a), len(self.b))

    @property
    def num_classes(self) -> int | None:
        """That of domain a."""
        return self.a.num_classes


def parts(source: Source | Unpaired) -> dict[str, Source]:
    """Returns the sources by what the keys of their examples end in: "", or "_a", "_b"
    of two domains."""
    if isinstance(source, Unpaired):
        return {"_a": source.a, "_b": source.b}
    return {"": source}


def read(source: Source, indices: np.ndarray) -> Example:
    """Reads several examples of any source.

    Args:
      source: of length N.
      indices: integers [b] in 0..N-1.

    Returns:
      {"image": [b, H, W, C], uint8 or what else the source has, "label": int32 [b]}.
    """
    if isinstance(source, ArraySource):
        return {"image": source.images[indices], "label": source.labels[indices]}
    examples = [source[int(i)] for i in indices]
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
    }


def by(shape: tuple[int, ...]) -> str:
    """Returns a shape as people write it: 8x8x1."""
    return "x".join(map(str, shape))


def check_split(name: str, split: str, known: tuple[str, ...]) -> None:
    """Refuses a split that a source does not have.

    Raises:
      ValueError: split is not among the known.
    """
    if split not in known:
        raise ValueError(f"{name}: no split {split!r}; choose {' or '.join(known)}.")


def existing_folder(name: str, path: str) -> pathlib.Path:
    """Returns the folder at a path, in which ~ is the home.

    Raises:
      FileNotFoundError: there is none; the sentence begins with name.
    """
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: no folder {folder}; correct the path.")
    return folder
