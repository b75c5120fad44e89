"""Folders of images as a source."""

import collections
import decimal
import hashlib
import heapq
import logging
import os
import re
from collections.abc import Iterable
from concurrent import futures
from typing import NamedTuple

from PIL import Image

from diffusion_jax.data import base, transforms
from diffusion_jax.data.splits import hash_of
from diffusion_jax.lookup import lookup

LOGGER = logging.getLogger(__name__)

_MAX_DIGESTED = 65536  # bytes of a file that tell it apart from files of its size
_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif .tif .tiff .ppm .pgm".split())
# Names of folders, in any case, and the splits that they mean.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_JUNK = frozenset({"__MACOSX"})  # left by archives
_MAX_NAMED = 10  # names in a list of the log


class File(NamedTuple):
    """An image file.

    Attributes:
      place: the names of its folders below the root, and its own.
      real: its path without links.
    """

    place: tuple[str, ...]
    real: str

    @property
    def text(self) -> str:
        """Its path below the root, with slashes."""
        return "/".join(self.place)


class Contents(NamedTuple):
    """The images of a folder.

    Attributes:
      name: of the source, in messages.
      root: path of the folder.
      splits: the files of each split, sorted by path.
      depth: of the folders of classes below the root, 0 or 1.
      classes: names of the classes, in order; empty without them.
      skipped: what else lies in the folder.
    """

    name: str
    root: str
    splits: dict[str, list[File]]
    depth: int
    classes: tuple[str, ...]
    skipped: str

    def files(self, split: str) -> list[File]:
        """Returns the files of a split, which may be called as its folder is.

        Raises:
          ValueError: there is no such split.
        """
        named = _SPLITS.get(split.lower(), split)
        return lookup(self.splits, named, f"split of {self.name}")


def open_folder(rest: str, spec: base.ImageSpec) -> base.Source:
    """Opens the images of a folder, sorted by path.

        PATH/CLASS/.../x.png         a subfolder per class
        PATH/x.png                   or no classes
        PATH/train/CLASS/.../x.png   the same in a folder per split
        PATH/train/x.png

    Split folders are train or training, val, valid or validation, and test or testing,
    in any case; all splits number the classes in the same way. Without them, 'test' is
    the share spec.held_out of the images, chosen by a hash of each path below the
    folder, 'train' has the others, and 'all' has both; 'validation' is 'test'. Both
    parts have at least one image if there are two or more.

    The label is the position of the class among the sorted classes, 0 without classes.
    Names that are numbers are sorted as numbers. Hidden folders and files, __MACOSX and
    folders without images are ignored. Links are followed, but each file is read once:
    where it really lies, or else at the first link. The numbers of images, classes and
    skipped files are logged. Only headers are read here: damaged pixels raise an error
    with the file's name when they are decoded.

    Args:
      rest: path of the folder.
      spec: with the size and the channels that images are converted to.

    Returns:
      A source of images; the first frame of an animation.

    Raises:
      FileNotFoundError: there is no such folder, or it contains no images.
      ValueError: there is no such split, the folder has another layout, or a file is
        not an image.
    """
    return open_contents(scan(rest, spec.held_out), spec)


def scan(rest: str, held_out: float) -> Contents:
    """Finds the images of a folder; see `open_folder`.

    Args:
      rest: path of the folder.
      held_out: share of a folder without splits that is its split 'test'.

    Raises:
      FileNotFoundError: there is no such folder, or it contains no images.
      ValueError: the folder has another layout.
    """
    name, root = f"folder:{rest}", str(base.existing_folder(f"folder:{rest}", rest))
    files, skipped = _scan(name, root)
    if not files:
        raise FileNotFoundError(
            f"{name}: no images in {root} ({skipped}); add files of the types "
            f"{' '.join(sorted(_SUFFIXES))}."
        )
    depth, splits = _divide(name, files, held_out)
    for split, members in splits.items():
        _check_classes(f"{name}: split {split!r}", depth, members)
    names = {file.place[depth] for file in files if len(file.place) > depth + 1}
    classes = tuple(sorted(names, key=_natural))
    return Contents(name, root, splits, depth, classes, skipped)


def open_contents(contents: Contents, spec: base.ImageSpec) -> base.Source:
    """Opens the images that `scan` has found; see `open_folder`."""
    name, classes, depth = contents.name, contents.classes, contents.depth
    chosen = contents.files(spec.split)
    if classes and len(chosen[0].place) == depth + 1:
        raise ValueError(
            f"{name}: split {spec.split!r} has no folders of classes, but others have "
            f"{_abbreviated(classes)}; sort its images into such folders."
        )
    number = {c: i for i, c in enumerate(classes)}
    labels = [number.get(file.place[depth], 0) for file in chosen]
    paths = [os.path.join(contents.root, *file.place) for file in chosen]
    LOGGER.info(
        "%s: split %r: %d pictures, %d classes%s, %s.",
        name,
        spec.split,
        len(chosen),
        len(classes),
        ": " * bool(classes) + _abbreviated(f"{i}={c}" for c, i in number.items()),
        contents.skipped,
    )

    def check(path: str) -> bool | transforms.UnreadableError:
        try:
            return transforms.check_image(path)
        except transforms.UnreadableError as error:
            return error

    with futures.ThreadPoolExecutor(16) as pool:  # Network disks have a high latency.
        checked = list(pool.map(check, paths))
    errors = [x for x in checked if isinstance(x, transforms.UnreadableError)]
    if errors and spec.on_error == "raise":
        first = errors[0]
        raise transforms.UnreadableError(first.example, first.reason, len(errors) - 1)
    if errors:
        LOGGER.warning(
            "%s: split %r: %d of the pictures cannot be read, and others take their "
            "places; the first is %s.",
            name,
            spec.split,
            len(errors),
            errors[0].example,
        )
    num_transparent = sum(x is True for x in checked)
    base.warn_of_transparency(name, num_transparent, len(paths), spec.background)

    def decode(i: int) -> tuple[Image.Image, int]:
        return transforms.read_image(paths[i]), labels[i]

    def digest(path: str) -> tuple[int, bytes]:
        """Tells files apart, also copies in two splits, without reading all of them."""
        with open(path, "rb") as file:
            content = file.read(_MAX_DIGESTED)
        return os.path.getsize(path), hashlib.blake2b(content).digest()

    def identify() -> base.Identities:
        with futures.ThreadPoolExecutor(16) as pool:
            return base.Identities(list(pool.map(digest, paths)), by_content=True)

    label = base.label_field(max(len(classes), 1), classes)
    return base.lazy_images(
        len(paths), decode, spec, label, name, paths.__getitem__, identify
    )


def _scan(name: str, root: str) -> tuple[list[File], str]:
    """Finds the images below a folder, each once, and says what is skipped.

    What lies in the folder itself comes before what links lead to, so that a link
    never takes a file away from its class. Of several links to a file, the one with the
    fewest links on the way counts, and of these the first one by name.
    """
    files, skipped = [], collections.defaultdict(list)
    seen, folders = set(), collections.deque()
    links: list[tuple[int, tuple[str, ...], str]] = []  # a heap

    def add(path: str, real: str, place: tuple[str, ...], num_links: int) -> None:
        if real in seen:
            skipped["repeated"].append(path)
        elif os.path.isdir(real):
            seen.add(real)
            folders.append((path, real, place, num_links))
        elif not os.path.exists(real):
            skipped["broken links"].append(path)
        elif os.path.isfile(real) and _suffix(path) in _SUFFIXES:
            seen.add(real)
            files.append(File(place, real))
        else:
            skipped["other types"].append(_suffix(path) or os.path.basename(path))

    add(root, os.path.realpath(root), (), 0)
    while folders or links:
        if not folders:
            num_links, place, path = heapq.heappop(links)
            add(path, os.path.realpath(path), place, num_links)
            continue
        folder, real_folder, place, num_links = folders.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(
                f"{name}: {folder} cannot be read ({error.strerror}); correct its "
                "permissions or remove it."
            ) from error
        for entry in entries:
            inside = (*place, entry.name)
            if entry.name[0] == "." or entry.name in _JUNK:
                continue
            if entry.is_symlink():
                heapq.heappush(links, (num_links + 1, inside, entry.path))
            else:
                real = os.path.join(real_folder, entry.name)
                add(entry.path, real, inside, num_links)
    reasons = (
        f"{len(which)} {reason}: {_abbreviated(dict.fromkeys(which))}"
        for reason, which in skipped.items()
    )
    total = f"{sum(map(len, skipped.values()))} skipped"
    listed = sorted(files, key=lambda file: file.text)
    return listed, total + (f" ({'; '.join(reasons)})" if skipped else "")


def _divide(
    name: str, files: list[File], held_out: float
) -> tuple[int, dict[str, list[File]]]:
    """Divides files into splits; returns the depth of the classes, and the splits."""
    tops = {file.place[0] for file in files if len(file.place) > 1}
    found = {top: _SPLITS[top.lower()] for top in tops if top.lower() in _SPLITS}
    if not found:
        return 0, {**_hold_out(files, held_out), "all": files}
    outside = [file.text for file in files if file.place[0] not in found]
    if outside:
        raise ValueError(
            f"{name}: has images in the split folders {', '.join(sorted(found))} but "
            f"also outside of them, such as {outside[0]}; move all images into split "
            "folders, or rename a class that is called like a split."
        )
    splits: dict[str, list[File]] = {}
    for split in dict.fromkeys(_SPLITS.values()):
        same = sorted(top for top, meant in found.items() if meant == split)
        if len(same) > 1:
            raise ValueError(
                f"{name}: the folders {' and '.join(same)} both mean the split "
                f"{split!r}; merge or rename them."
            )
        if same:
            splits[split] = [file for file in files if file.place[0] == same[0]]
    return 1, splits


def _hold_out(files: list[File], share: float) -> dict[str, list[File]]:
    """Divides files into 'train' and 'test' by hashes of their paths."""
    draws = {file: hash_of(file.text) for file in files}
    num = sum(draw < share for draw in draws.values())
    num = min(max(num, 1), len(files) - 1) if share else 0
    if not num:
        return {"train": files}
    chosen = set(sorted(files, key=draws.__getitem__)[:num])
    test = [file for file in files if file in chosen]
    train = [file for file in files if file not in chosen]
    return {"train": train, "test": test, "validation": test}


def _check_classes(where: str, depth: int, files: list[File]) -> None:
    """Refuses files of which only some lie in folders of classes."""
    loose = [file for file in files if len(file.place) == depth + 1]
    nested = [file for file in files if len(file.place) > depth + 1]
    if loose and nested:
        raise ValueError(
            f"{where} has {loose[0].text} next to the class folder "
            f"{nested[0].place[depth]!r}; move such images into class folders."
        )


def _natural(name: str) -> tuple:
    """Sorts numbers first, by value, then other names: class2 before class10."""
    if re.fullmatch(r"-?\d+(\.\d+)?", name):
        return 0, decimal.Decimal(name), name
    parts = re.split(r"(\d+)", name)
    return 1, [int(x) if i % 2 else x for i, x in enumerate(parts)], name


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _abbreviated(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) > _MAX_NAMED:
        names = [*names[: _MAX_NAMED - 1], "...", names[-1]]
    return " ".join(names)
