"""Opens a source of examples by its name. No source needs TensorFlow."""

import dataclasses
import importlib.util
from concurrent import futures

import numpy as np

from diffusion_jax.data import (
    base,
    captions,
    composed,
    emoji,
    folders,
    idx,
    npz,
    paired,
    points,
    survey,
    tfds,
    transforms,
)
from diffusion_jax.lookup import lookup

MAX_NAMED = 20  # damaged examples in a message


def make(
    source: str,
    split: str,
    image_size: int | tuple[int, int],
    num_channels: int,
    data_dir: str | None = None,
    background: str = "white",
    held_out: float = 0.1,
    on_error: str = "raise",
) -> base.Source:
    """Opens a source by its name and checks it before anything is compiled.

        digits          8x8x1 images, from scikit-learn
        tfds:NAME       a prepared TFDS data set, NAME[/CONFIG][:VERSION]
        folder:PATH     a folder of images, optionally with one subfolder per class and
                        one folder per split; see `folders.open_folder`
        idx:PATH        a folder with the four files of MNIST, optionally gzipped
        npz:PATH        arrays `images`, `labels`, `test_images`, `test_labels`
        inverted:SOURCE the negatives of another source, byte -> 255 - byte
        captions:SOURCE captioned images, of names of classes or, for folder:PATH and
                        tfds:NAME, also of texts; see `captions.by_class`,
                        `captions.open_folder` and `captions.open_tfds`
        composed:SOURCE captioned pictures of one or two objects of digits or idx:PATH;
                        see `composed.compose`
        emoji           captioned emoji, of Debian's font, or emoji:PATH of another one;
                        see `emoji.open_emoji`
        low_res:FACTOR:SOURCE, grey:SOURCE, masked:SOURCE, paired:SOURCE|SOURCE
                        images with a condition that is an image; see `paired`
        grid25          2D points around a 5x5 grid; see `points`

    Args:
      source: 'NAME' or 'NAME:REST', one of the above.
      split: 'train', 'test' or another split of the source.
      image_size: side, or (height, width), in pixels; images of `folder` and `tfds`
        are resized to it, other images must have it.
      num_channels: 1 or 3; images of `folder` and `tfds` are converted to it, other
        images must have it.
      data_dir: where TFDS data sets are stored; None for the default of TFDS.
      background: colour that images with transparency are composited over.
      held_out: share of the examples of a folder without splits that is its split
        'test', in [0, 1).
      on_error: "raise", or "skip" an example that cannot be decoded: the next readable
        one replaces it.

    Returns:
      A source of images [height, width, num_channels] and labels, or for `grid25` of
      points [2] and labels.

    Raises:
      FileNotFoundError: there is no such file, folder or prepared data set.
      ValueError: the name or split is unknown, or the data do not match the arguments.
    """
    transforms.check_background(background)
    lookup({"raise": None, "skip": None}, on_error, "data.on_error")
    if not 0 <= held_out < 1:
        raise ValueError(f"data.held_out is {held_out}; it must be in [0, 1).")
    size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    spec = split, size, num_channels, data_dir, background, held_out, on_error
    opened = _open(source, base.ImageSpec(*spec))
    shape = (*size, num_channels)
    found = opened.fields["image"].shape if "image" in opened.fields else shape
    if found != shape:
        raise ValueError(
            f"{source}: images are {base.shape_text(found)}, but data.image_size and "
            f"data.num_channels ask for {base.shape_text(shape)}; change these."
        )
    return opened


def look_at(source: str, split: str, held_out: float) -> survey.Survey:
    """Surveys the pictures of a source without knowing their size or channels.

    Args:
      source: folder:PATH, or a source of images in memory, such as npz:PATH.
      split: that is trained on.
      held_out: see `make`.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: the source is another one, or it has no such split.
    """
    name, _, rest = source.partition(":")
    if name == "folder":
        return survey.survey_folder(folders.scan(rest, held_out), split)
    if name not in ("npz", "idx", "digits"):
        raise ValueError(
            f"{source}: the size and number of pictures are found out only for folder:"
            "PATH, npz:PATH, idx:PATH and digits; use one of these, or a config that "
            "sets all values."
        )
    spec = base.ImageSpec(split, (1, 1), 1, held_out=held_out)
    opened = _open(source, spec)

    def exists(other: str) -> bool:
        try:
            return bool(len(_open(source, spec._replace(split=other))))
        except (ValueError, FileNotFoundError):
            return False

    trains_on_all = not split.startswith("train")
    held_out_splits = (x for x in survey.HELD_OUT if not trains_on_all and exists(x))
    return survey.survey_arrays(
        opened.arrays["image"],
        opened.fields["label"].size,
        next(held_out_splits, ""),
    )


def _open(source: str, spec: base.ImageSpec) -> base.Source:
    """Opens a source, whose images may have another size."""
    name, _, rest = source.partition(":")
    opener, form = lookup(SOURCES, name, "data.source")
    if (bool(rest) != (":" in form) and "[" not in form) or source.endswith(":"):
        raise ValueError(f"data.source {source!r} should be written {form}.")
    return opener(rest, spec)


def _open_digits(rest: str, spec: base.ImageSpec) -> base.ArraySource:
    """1797 handwritten digits of 8x8 pixels with 17 levels of grey.

    Every fifth example, from the fifth on, is in 'test' (359); the others are in
    'train' (1438); 'all' is both. 'train_even' and 'train_odd' (719 each) are every
    second example of 'train': two domains without a common image.
    """
    # scikit-learn carries the file; importing it would take longer than reading.
    sklearn = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    table = np.loadtxt(f"{sklearn}/datasets/data/digits.csv.gz", delimiter=",")
    levels, labels = table[:, :-1], table[:, -1].astype(np.int64)
    images = np.rint(levels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    every = np.arange(len(images))
    train = every[every % 5 != 4]
    splits = {"train": train, "test": every[4::5], "all": every}
    splits |= {"train_even": train[::2], "train_odd": train[1::2]}
    here = lookup(splits, spec.split, "split of digits")
    return base.array_images(images[here], labels[here], "digits", here)


def _open_inverted(rest: str, spec: base.ImageSpec) -> base.Source:
    """The negatives of another source, with the same splits and labels."""
    inner = make(rest, *spec)
    if "image" not in inner.fields:
        raise ValueError(f"inverted:{rest}: {rest} has no images; choose another one.")

    def invert(example: base.Example) -> base.Example:
        return example | {"image": 255 - example["image"]}

    if isinstance(inner, base.ArraySource):
        return dataclasses.replace(inner, arrays=invert(inner.arrays))
    skips = isinstance(inner, base.Skipping)
    source = inner.source if skips else inner
    name = f"inverted:{rest}"
    negatives = base.LazySource(
        len(inner),
        lambda i: invert(source[i]),
        dict(inner.fields),
        name,
        inner.identities,
    )
    return base.Skipping(negatives, name) if skips else negatives


def _open_captions(rest: str, spec: base.ImageSpec) -> base.Source:
    """Another source, with captions."""
    name, _, inner = rest.partition(":")
    if name == "inverted":  # negatives have the captions of their images
        return make(f"inverted:captions:{inner}", *spec)
    if name == "folder":
        return captions.open_folder(inner, spec)
    if name == "tfds":
        return captions.open_tfds(inner, spec)
    return captions.by_class(make(rest, *spec), rest)


def _open_composed(rest: str, spec: base.ImageSpec) -> base.Source:
    """Pictures composed of the images of another source."""
    if rest.partition(":")[0] not in ("digits", "idx"):
        raise ValueError(
            f"data.source=composed:{rest} should be written composed:digits or "
            "composed:idx:PATH."
        )
    split = lookup(composed.SPLITS, spec.split, f"split of composed:{rest}")
    pictures = _open(rest, spec._replace(split=split.objects))
    return composed.compose(pictures, rest, spec)


def _open_low_res(rest: str, spec: base.ImageSpec) -> base.Source:
    """Images with the same at a lower resolution."""
    _, colon, inner = rest.partition(":")
    if not (colon and inner):
        raise ValueError(
            f"data.source 'low_res:{rest}' should be written low_res:FACTOR:SOURCE."
        )
    return paired.low_res(make(inner, *spec), f"low_res:{rest}")


def _open_grey(rest: str, spec: base.ImageSpec) -> base.Source:
    """Images with the same in grey."""
    return paired.grey(make(rest, *spec), f"grey:{rest}")


def _open_masked(rest: str, spec: base.ImageSpec) -> base.Source:
    """Images with the same behind a grey box."""
    return paired.masked(make(rest, *spec), f"masked:{rest}")


def _open_paired(rest: str, spec: base.ImageSpec) -> base.Source:
    """The images of one source, with those of another one as conditions."""
    name = f"paired:{rest}"
    first, _, second = rest.partition("|")
    if not (first and second):
        raise ValueError(
            f"data.source {name!r} should be written paired:SOURCE|SOURCE."
        )
    conditions, targets = make(first, *spec), make(second, *spec)
    paired.check_files(first, second, spec, name)
    return paired.join(conditions, targets, name)


def check_all(source: base.Source) -> None:
    """Decodes every example of a source once, unless they are in memory.

    Raises:
      ValueError: some of them cannot be decoded; the message lists them.
    """

    if isinstance(source, base.ArraySource):
        return

    def problem(i: int) -> str | None:
        try:
            source[i]
        except transforms.UnreadableError as error:
            return f"{error.example} ({error.reason})"

    with futures.ThreadPoolExecutor() as pool:
        problems = [x for x in pool.map(problem, range(len(source))) if x]
    if problems:
        more = f" and {len(problems) - MAX_NAMED} more" * (len(problems) > MAX_NAMED)
        raise ValueError(
            f"{len(problems)} of {len(source)} examples cannot be read: "
            f"{', '.join(problems[:MAX_NAMED])}{more}; repair or remove them, or set "
            "data.on_error=skip."
        )


# name -> (function that opens it, how data.source is written).
SOURCES = {
    "digits": (_open_digits, "digits"),
    "tfds": (tfds.open_tfds, "tfds:NAME"),
    "folder": (folders.open_folder, "folder:PATH"),
    "idx": (idx.open_idx, "idx:PATH"),
    "npz": (npz.open_npz, "npz:PATH"),
    "inverted": (_open_inverted, "inverted:SOURCE"),
    "captions": (_open_captions, "captions:SOURCE"),
    "composed": (_open_composed, "composed:SOURCE"),
    "emoji": (emoji.open_emoji, "emoji[:PATH]"),
    "grid25": (points.open_grid25, "grid25"),
    "low_res": (_open_low_res, "low_res:FACTOR:SOURCE"),
    "grey": (_open_grey, "grey:SOURCE"),
    "masked": (_open_masked, "masked:SOURCE"),
    "paired": (_open_paired, "paired:SOURCE|SOURCE"),
}
