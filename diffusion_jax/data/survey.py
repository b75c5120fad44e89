"""What the pictures of a source are like, to plan a config: see `planning`."""

from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffusion_jax.data.folders import Contents

MAX_HEADERS, MAX_DECODED = 2000, 100  # files that are looked at
MAX_TINT = 8  # difference between the channels of a grey pixel, as JPEG may make it
HELD_OUT = ("test", "validation")  # splits, the first one that exists is used
ORIENTATION = 274  # the EXIF tag
SIDEWAYS = 5, 6, 7, 8  # its values for pictures that are turned by 90 degrees


class Survey(NamedTuple):
    """What the pictures of a source are like.

    Attributes:
      num_train: number of training pictures.
      held_out: name of a split that is not trained on; "" if there is none.
      height: median, pixels.
      width: median, pixels.
      same_size: whether all have this size.
      grey: whether none has colours.
      num_classes: 1 or 0 without classes.
      resizes: whether the source resizes its pictures to data.image_size.
      held_out_b: that of the second domain, if there are two.
    """

    num_train: int
    held_out: str
    height: int
    width: int
    same_size: bool
    grey: bool
    num_classes: int
    resizes: bool = True
    held_out_b: str = ""


def survey_folder(contents: Contents, split: str) -> Survey:
    """Looks at the headers of some pictures of a folder, and at the colours of fewer.

    Args:
      contents: of the folder, see `folders.scan`.
      split: that is trained on.

    Raises:
      ValueError: there is no such split, or none of the pictures can be read.
    """
    files = contents.files(split)
    order = np.random.default_rng(0).permutation(len(files))[:MAX_HEADERS]
    paths = [files[i].real for i in order]
    with futures.ThreadPoolExecutor(16) as pool:  # Network disks have a high latency.
        sizes = [size for size in pool.map(_size, paths) if size]
        grey = list(pool.map(_is_grey, paths[:MAX_DECODED]))
    if not sizes:
        raise ValueError(
            f"{contents.name}: none of the {len(files)} pictures can be read; see "
            "whether they are damaged."
        )
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    known = set(files)
    held_out = [x for x in HELD_OUT if known.isdisjoint(contents.splits.get(x, files))]
    return Survey(
        len(files),
        held_out[0] if held_out else "",
        height,
        width,
        len(set(sizes)) == 1,
        all(grey),
        len(contents.classes),
    )


def survey_arrays(images: np.ndarray, num_classes: int, held_out: str) -> Survey:
    """Describes images in memory, u8[N, H, W, C]."""
    num, height, width, channels = images.shape
    grey = channels == 1
    return Survey(num, held_out, height, width, True, grey, num_classes, resizes=False)


def merge(surveys: Sequence[Survey]) -> Survey:
    """Describes the domains of unpaired translation, which need one size, together."""
    first = surveys[0]
    return first._replace(
        num_train=min(x.num_train for x in surveys),
        height=min(x.height for x in surveys),
        width=min(x.width for x in surveys),
        same_size=all(x.same_size for x in surveys)
        and len({(x.height, x.width) for x in surveys}) == 1,
        grey=all(x.grey for x in surveys),
        resizes=all(x.resizes for x in surveys),
        held_out_b=surveys[-1].held_out,
    )


def _size(path: str) -> tuple[int, int] | None:
    """Returns (height, width) of an upright picture; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            return image.size if turned else image.size[::-1]
    except Exception:  # PIL raises many types; training reports the file.
        return None


def _is_grey(path: str) -> bool:
    """Returns whether a picture has no colours, or cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (64, 64))  # decodes a JPEG at a lower resolution
            pixels = np.asarray(image.convert("RGBA").resize((64, 64)), np.int16)
    except Exception:  # PIL raises many types; training reports the file.
        return True
    colours = pixels[..., :3][pixels[..., 3] > 0]
    return not colours.size or np.ptp(colours, axis=1).max() <= MAX_TINT
