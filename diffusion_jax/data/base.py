"""Sources of examples: fields, a length and random access, in memory or on demand."""

import abc
import dataclasses
import hashlib
import itertools
import logging
import math
import pathlib
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffusion_jax import paths
from diffusion_jax.data import transforms
from diffusion_jax.data.vocabulary import Vocabulary

LOGGER = logging.getLogger(__name__)

Example = dict[str, Any]
MAX_INT32 = 2**31 - 1
MAX_CACHED = 2**30  # bytes of the decoded images of a source that are cached
COND_IMAGE = "cond_image"  # the field of the image that an example is conditioned on
# Labels of the second object have the suffix SECOND; their class is NONE if an image
# has only one object.
SECOND = "_2"
NONE = "none"


class Field(NamedTuple):
    """The type of one array of an example, of a network's input or a task's output.

    Attributes:
      shape: shape of one example, without the batch axis.
      dtype: dtype of the values.
      kind: "image" [H, W, C], "label" [], "tokens" [L], "segment" [L] (the number of a
        token's document in its example; 0 is padding), "points" [D], "signal" [L, C],
        "vector" [F], "scalar" [] or "alignment" [heads, T, S] (of the outputs text and
        source). How a field is normalised, flipped and written depends only on its
        kind.
      size: number of classes of a label, or of entries in the vocabulary of tokens.
      range: lowest and highest value, where the values are bounded.
      axes: names of leading axes of an output, such as ("column",) for rows of images
        or ("frame",) for the frames of an animation; part of `shape`.
      names: of the classes of a label, or of the columns of an output, in order, where
        there are some.
      vocabulary: of tokens, if they are text.
    """

    shape: tuple[int, ...]
    dtype: Any
    kind: str
    size: int | None = None
    range: tuple[float, float] | None = None
    axes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None


def image_field(shape: tuple[int, int, int]) -> Field:
    """Returns the field of images [H, W, C] in [-1, 1]."""
    return Field(tuple(shape), np.float32, "image", range=(-1.0, 1.0))


def label_field(num_classes: int | None, names: tuple[str, ...] = ()) -> Field:
    """Returns the field of a class label in 0..num_classes-1.

    Args:
      num_classes: None if unknown.
      names: of the classes, in order, if they have some.
    """
    return Field((), np.int32, "label", size=num_classes, names=names)


def check_integers(name: str, values: np.ndarray, size: int | None) -> None:
    """Checks integers that count from 0, such as labels, before they become int32.

    Args:
      name: of the values, for the message.
      values: any shape.
      size: they must be below it; None: they must be in the range of int32.

    Raises:
      ValueError: a value is no integer, negative or too large.
    """
    highest = MAX_INT32 if size is None else size - 1
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} is {values.dtype}; convert it to integers.")
    if values.size and not 0 <= values.min() <= values.max() <= highest:
        raise ValueError(
            f"{name} lies in {values.min()}..{values.max()}; it must lie in "
            f"0..{highest}."
        )


def _is_index(field: Field) -> bool:
    """Returns whether values index a table, such as the embeddings of classes."""
    has_table = field.kind in ("label", "tokens") or field.size is not None
    return has_table and np.issubdtype(field.dtype, np.integer)


def _check_bytes(name: str, fields: Mapping[str, Field]) -> None:
    """Refuses bytes that are no image, since bytes are mapped to [-1, 1]."""
    for key, field in fields.items():
        if field.kind != "image" and field.dtype == np.uint8:
            raise ValueError(
                f"{name}: {key} is uint8, which only images may be; convert its "
                f"{field.kind} values to another type, such as int32."
            )


class Identities(NamedTuple):
    """What tells the examples of a source apart, to compare its splits.

    Attributes:
      values: for each example, equal for the same example in another split.
      by_content: they are hashes of the content, so different examples may be equal,
        such as two white images; otherwise files or positions in a data set.
    """

    values: Sequence[Hashable]
    by_content: bool


class Source(abc.ABC):
    """Random access to examples.

    Attributes:
      fields: the fields of an example, by name.
      lengths: integers [N]; the tokens of an example after its length are padding.
        None: unknown.
    """

    fields: Mapping[str, Field]
    lengths: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, i: int) -> Example:
        """Returns example i, 0 <= i < len: an array for each field.

        Images are uint8, which the device maps to [-1, 1], or in [-1, 1] already; other
        kinds have the dtype of their field, which is not uint8.
        """

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Stacks several examples.

        Args:
          index: integers [b], >= 0; indices beyond the end wrap around.

        Returns:
          [b, ...] for each field.
        """
        examples = [self[int(i) % len(self)] for i in index]
        return {name: np.stack([x[name] for x in examples]) for name in self.fields}

    def identities(self) -> Identities | None:
        """Returns the identities of all examples, or None if they are unknown."""
        return None


@dataclasses.dataclass(frozen=True)
class Range(Source):
    """Examples without fields, only indices: the source for unconditional sampling."""

    num: int

    @property
    def fields(self) -> dict[str, Field]:
        """There are none."""
        return {}

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> Example:
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """Examples in memory.

    Args:
      arrays: [N, ...] for each field, N >= 1; see `Source.__getitem__` for the dtypes.
      fields: the field of each array, by name.
      name: used in error messages.
      positions: [N], of the examples in a larger data set, if its splits share them.

    Raises:
      ValueError: the arrays have different lengths or are empty, an array has another
        dtype or shape than its field, or is uint8 and no image, or a value is not
        finite, or is negative or not below `Field.size` where it is an index, such as a
        label.
    """

    arrays: dict[str, np.ndarray]
    fields: dict[str, Field]
    name: str = "ArraySource"
    positions: np.ndarray | None = None

    def __post_init__(self):
        _check_bytes(self.name, self.fields)
        lengths = {k: x.shape[0] if x.ndim else 0 for k, x in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(
                f"{self.name}: every array needs the same number of examples, at least "
                f"one; found {', '.join(f'{n} of {k}' for k, n in lengths.items())}."
            )
        for key, field in self.fields.items():
            array = self.arrays[key]
            dtype = np.dtype(np.uint8 if field.kind == "image" else field.dtype)
            if array.dtype != dtype or array.shape[1:] != field.shape:
                raise ValueError(
                    f"{self.name}: {key} is {array.dtype} {list(array.shape)}; convert "
                    f"it to {dtype} [N{''.join(f', {n}' for n in field.shape)}]."
                )
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{self.name}: {key} contains NaN or infinity; remove them."
                )
            if _is_index(field):
                check_integers(f"{self.name}: {key}", array, field.size)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, i: int) -> Example:
        return {name: array[i] for name, array in self.arrays.items()}

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.read`."""
        return self[index % len(self)]

    def identities(self) -> Identities:
        """Returns the positions, or hashes of everything but the labels."""
        if self.positions is not None:
            return Identities(self.positions.tolist(), by_content=False)
        arrays = [x for k, x in self.arrays.items() if self.fields[k].kind != "label"]

        def digest(i: int) -> bytes:
            content = b"".join(array[i].tobytes() for array in arrays)
            return hashlib.blake2b(content, digest_size=16).digest()

        return Identities([digest(i) for i in range(len(self))], by_content=True)


@dataclasses.dataclass(frozen=True, eq=False)
class LazySource(Source):
    """Examples that are decoded on access.

    Labels and other indices are checked on access, before they are converted to the
    dtype of their field.

    Args:
      size: the number of examples.
      decode: i -> example i.
      fields: the fields of an example, by name.
      name: used in error messages.
      identify: returns the identities of all examples.

    Raises:
      ValueError: a field is uint8 and no image.
    """

    size: int
    decode: Callable[[int], Example]
    fields: dict[str, Field]
    name: str = "LazySource"
    identify: Callable[[], Identities | None] = lambda: None

    def __post_init__(self):
        _check_bytes(self.name, self.fields)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Example:
        example = self.decode(i)
        for key, field in self.fields.items():
            if _is_index(field):
                value = np.asarray(example[key])
                where = f"{self.name}: {key} of example {i}"
                check_integers(where, value, field.size)
                example[key] = value.astype(field.dtype)
        return example

    def identities(self) -> Identities | None:
        """See `Source.identities`."""
        return self.identify()


class _Wrapper(Source):
    """Another source, of which an example may be read in another way."""

    source: Source

    @property
    def fields(self) -> Mapping[str, Field]:
        """The fields of the source."""
        return self.source.fields

    def __len__(self) -> int:
        return len(self.source)

    def identities(self) -> Identities | None:
        """See `Source.identities`."""
        return self.source.identities()


class Cached(_Wrapper):
    """Keeps every example that has been read in memory, so that it is decoded once.

    Args:
      source: the examples; images as bytes. They must fit into memory.
    """

    def __init__(self, source: Source):
        self.source = source
        self._is_read = np.zeros(len(source), bool)
        self._arrays = {  # memory is used as it is written to
            name: np.empty(
                (len(source), *field.shape),
                np.uint8 if field.kind == "image" else field.dtype,
            )
            for name, field in source.fields.items()
        }

    def __getitem__(self, i: int) -> Example:
        if not self._is_read[i]:  # two threads may both read it, and write the same
            example = self.source[i]
            for name, array in self._arrays.items():
                array[i] = example[name]
            self._is_read[i] = True
        # Copies: what a reader does to its example stays its own.
        return {name: array[i].copy() for name, array in self._arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Skipping(_Wrapper):
    """Replaces each example that cannot be read by the next one that can.

    Which example replaces another one depends only on which of them are readable, not
    on the order of reading. Each unreadable example is logged once.

    Args:
      source: the examples; reading one may raise UnreadableError.
      name: used in messages.

    Raises:
      ValueError: on reading, more than 1 % of the examples, and more than 10, cannot be
        read, or all of them.
    """

    source: Source
    name: str
    _damaged: set[int] = dataclasses.field(default_factory=set, init=False)
    _lock: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, init=False
    )

    def __getitem__(self, i: int) -> Example:
        for j in itertools.chain(range(i, len(self)), range(i)):
            if j not in self._damaged:
                try:
                    return self.source[j]
                except transforms.UnreadableError as error:
                    self._skip(j, error)
        raise ValueError(f"{self.name}: none of the examples can be read.")

    def _skip(self, i: int, error: transforms.UnreadableError) -> None:
        limit = max(10, len(self) // 100)
        with self._lock:
            if i not in self._damaged:
                self._damaged.add(i)
                LOGGER.warning(
                    "%s: skipped %s, which cannot be read (%s); %d so far, at most %d.",
                    self.name,
                    error.example,
                    error.reason,
                    len(self._damaged),
                    limit,
                )
            if len(self._damaged) > limit:
                raise ValueError(
                    f"{self.name}: more than {limit} of {len(self)} examples cannot be "
                    f"read, such as {error.example}; repair or remove them."
                ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Unpaired(Source):
    """Two sources of unrelated examples, for unpaired translation.

    Its fields are those of both, with the suffixes _a and _b. The loader shuffles and
    flips each source independently.

    Args:
      a: the source of domain a.
      b: the source of domain b, with fields of the same shapes; its length may differ.

    Raises:
      ValueError: a field has different shapes in the two domains.
    """

    a: Source
    b: Source

    def __post_init__(self):
        for name in self.a.fields.keys() & self.b.fields.keys():
            shapes = [shape_text(s.fields[name].shape) for s in self.parts.values()]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name} is {shapes[0]} in domain a and {shapes[1]} in domain b; "
                    "both domains need the same shape."
                )

    @property
    def parts(self) -> dict[str, Source]:
        """The two sources, by the suffix of their fields."""
        return {"_a": self.a, "_b": self.b}

    @property
    def fields(self) -> dict[str, Field]:
        """The fields of both domains."""
        return self._merge(lambda source: source.fields)

    def __len__(self) -> int:
        """Returns the number of pairs, the length of the smaller source."""
        return min(len(self.a), len(self.b))

    def __getitem__(self, i: int) -> Example:
        return self._merge(lambda source: source[i])

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.read`; each domain starts over after its own last example."""
        return self._merge(lambda source: source.read(index))

    def _merge(self, of: Callable[[Source], Mapping[str, Any]]) -> dict[str, Any]:
        return {
            name + suffix: value
            for suffix, source in self.parts.items()
            for name, value in of(source).items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs(Source):
    """Each example together with a later one of the same source, its partner.

    Args:
      source: the examples.
      offset: example i is paired with example i + offset, which wraps around.

    Raises:
      ValueError: the offset is negative.
    """

    source: Source
    offset: int

    def __post_init__(self):
        check_integers("The offset of pairs", np.asarray(self.offset), None)

    @property
    def fields(self) -> dict[str, Field]:
        """The fields of the source, the same as partner_NAME, and partner_index."""
        fields = self.source.fields
        partner = {f"partner_{name}": field for name, field in fields.items()}
        return {**fields, **partner, "partner_index": Field((), np.int32, "scalar")}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        return {name: x[0] for name, x in self.read(np.array([i])).items()}

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.read`; partner_index is index + offset and does not wrap."""
        other = index + self.offset
        check_integers("partner_index", other, None)
        partner = self.source.read(other) | {"index": other.astype(np.int32)}
        return self.source.read(index) | {f"partner_{k}": x for k, x in partner.items()}


class ImageSpec(NamedTuple):
    """The arguments of `sources.make`, except the source; see there.

    Attributes:
      split: name of the split.
      image_size: (height, width) in pixels.
      num_channels: channels of an image.
      data_dir: where TFDS data sets are stored; None for the default of TFDS.
      background: colour behind transparent pixels.
      held_out: share of a folder without splits that is its split 'test'.
      on_error: "raise" or "skip" examples that cannot be decoded.
    """

    split: str
    image_size: tuple[int, int]
    num_channels: int
    data_dir: str | None = None
    background: str = "white"
    held_out: float = 0.1
    on_error: str = "raise"


def array_images(
    images: np.ndarray,
    labels: np.ndarray,
    name: str = "array_images",
    positions: np.ndarray | None = None,
) -> ArraySource:
    """Makes an in-memory source of labelled images.

    Args:
      images: uint8 [N, H, W, C].
      labels: integers [N], >= 0; the number of classes is one more than the largest.
      name: used in error messages.
      positions: see `ArraySource`.

    Raises:
      ValueError: the arrays are not as described.
    """
    if images.ndim != 4:
        raise ValueError(
            f"{name}: image is {images.dtype} {list(images.shape)}; convert it to "
            "uint8 [N, H, W, C]."
        )
    check_integers(f"{name}: label", labels, None)
    label = label_field(int(labels.max(initial=0)) + 1)
    fields = {"image": image_field(images.shape[1:]), "label": label}
    arrays = {"image": images, "label": labels.astype(np.int32)}
    return ArraySource(arrays, fields, name, positions)


def lazy_images(
    size: int,
    decode: Callable[[int], tuple[Image.Image, int]],
    spec: ImageSpec,
    label: Field,
    name: str,
    describe: Callable[[int], str],
    identify: Callable[[], Identities],
) -> Source:
    """Makes a source of labelled images that are decoded and resized on access.

    Pixels that need at most MAX_CACHED bytes in all are cached in memory.

    Args:
      size: the number of images.
      decode: i -> image i, of any size and mode, and its label; any exception means
        that the image is damaged.
      spec: the size and channels that images are converted to.
      label: the field of the labels.
      name: used in messages.
      describe: i -> the name of image i in messages.
      identify: returns the identities of all images.

    Raises:
      ValueError: num_channels is neither 1 nor 3.
    """
    if spec.num_channels not in transforms.MODES:
        raise ValueError(
            f"data.num_channels is {spec.num_channels}; it must be 1 or 3."
        )
    shape = (*spec.image_size, spec.num_channels)

    def example(i: int) -> Example:
        try:
            image, number = decode(i)
            pixels = transforms.to_pixels(image, shape, spec.background)
        except MemoryError:
            raise  # nothing is wrong with the image
        except Exception as error:  # PIL and TFDS raise many types.
            raise transforms.UnreadableError(describe(i), error) from error
        return {"image": pixels, "label": number}

    fields = {"image": image_field(shape), "label": label}
    source: Source = LazySource(size, example, fields, name, identify)
    if size * math.prod(shape) <= MAX_CACHED:
        source = Cached(source)
    return Skipping(source, name) if spec.on_error == "skip" else source


def shape_text(shape: tuple[int, ...]) -> str:
    """Formats a shape for messages, such as 8x8x1."""
    return "x".join(map(str, shape))


def warn_of_transparency(name: str, num: int, size: int, background: str) -> None:
    """Logs how many images may have transparent pixels, if any."""
    if num:
        LOGGER.warning(
            "%s: %d of %d images have transparency; they are composited over "
            "data.background=%s.",
            name,
            num,
            size,
            background,
        )


def existing_folder(name: str, path: str) -> pathlib.Path:
    """Returns the folder at a path, with ~ expanded.

    Raises:
      FileNotFoundError: there is no such folder; the message begins with `name`.
      ValueError: the path is a URL.
    """
    folder = paths.local(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: no folder {folder}; correct the path.")
    return folder
