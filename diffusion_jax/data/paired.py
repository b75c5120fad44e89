"""Images with a condition, a second image of the same example: the field cond_image."""

import re
from collections.abc import Callable

import numpy as np

from diffusion_jax.data import base, folders

MASK_VALUE = 128  # of the pixels inside the box
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def low_res(source: base.Source, name: str) -> base.Source:
    """Adds each image at a lower resolution, for super-resolution.

    Args:
      source: images.
      name: low_res:FACTOR:SOURCE.

    Raises:
      ValueError: FACTOR is no integer from 2 on that divides the sides.
    """
    factor, (height, width, channels) = name.split(":")[1], _shape(source, name)
    divides = re.fullmatch("[0-9]+", factor) and int(factor) > 1
    if not divides or height % int(factor) or width % int(factor):
        raise ValueError(
            f"{name}: the images are {height}x{width}, and {factor} is no integer from "
            "2 on that divides both sides; choose another factor or data.image_size."
        )
    size = int(factor)
    shape = (height // size, width // size, channels)
    return _add(source, name, shape, lambda i, image: block_mean(image, size))


def grey(source: base.Source, name: str) -> base.Source:
    """Adds each image in grey, for colourisation.

    Args:
      source: images in colour.
      name: grey:SOURCE.

    Raises:
      ValueError: the images have one channel.
    """
    height, width, channels = _shape(source, name)
    if channels != 3:
        raise ValueError(
            f"{name}: the images have {channels} channel and no colour; set "
            "data.num_channels=3, or choose another source."
        )
    return _add(source, name, (height, width, 1), lambda i, image: luma(image))


def masked(source: base.Source, name: str) -> base.Source:
    """Adds each image with a grey box of half its sides, for inpainting.

    The place of the box is a function of the example's index.

    Args:
      source: images.
      name: masked:SOURCE.

    Raises:
      ValueError: the source has no images.
    """
    shape = _shape(source, name)

    def mask(i: int, image: np.ndarray) -> np.ndarray:
        # The draws of RandomState, unlike Generator's, never change.
        random = np.random.RandomState(np.random.Philox(i))
        height, width = (length // 2 for length in shape[:2])
        top = random.randint(shape[0] - height + 1)
        left = random.randint(shape[1] - width + 1)
        image = image.copy()
        image[top : top + height, left : left + width] = MASK_VALUE
        return image

    return _add(source, name, shape, mask)


def join(conditions: base.Source, targets: base.Source, name: str) -> base.Source:
    """Joins two sources of the same examples, in the same order.

    Args:
      conditions: their image becomes cond_image; their other fields are dropped.
      targets: they keep all of their fields.
      name: paired:SOURCE|SOURCE.

    Returns:
      A source with the identities of the targets. An example that cannot be read in one
      of the sources is skipped in both, if they skip.

    Raises:
      ValueError: the sources have different numbers of examples, or no images.
    """
    shape = _shape(conditions, name)
    _shape(targets, name)
    if len(conditions) != len(targets):
        raise ValueError(
            f"{name}: the first source has {len(conditions)} examples and the second "
            f"{len(targets)}; they must have the same ones in the same order."
        )
    skips = isinstance(conditions, base.Skipping)
    if skips:  # unless the target is skipped with its condition, the pair is wrong
        conditions = conditions.source
    joined = _add(targets, name, shape, lambda i, image: conditions[i]["image"])
    skips = skips and not isinstance(joined, base.Skipping)
    return base.Skipping(joined, name) if skips else joined


def check_files(first: str, second: str, spec: base.ImageSpec, name: str) -> None:
    """Checks that two folders have images of the same names, whatever their types.

    Args:
      first: data.source of the conditions; sources without files are not checked.
      second: data.source of the targets.
      spec: with the split.
      name: paired:SOURCE|SOURCE.

    Raises:
      ValueError: a file has no partner.
    """
    stems = [_stems(source, spec) for source in (first, second)]
    if None in stems or stems[0] == stems[1]:
        return
    lonely = sorted(set(stems[0]) ^ set(stems[1]))
    which = f", such as {lonely[0]} in only one of them" if lonely else ""
    raise ValueError(
        f"{name}: split {spec.split!r} of the two folders has different files{which}; "
        "give both the same folders train and test with files of the same names."
    )


def block_mean(image: np.ndarray, size: int) -> np.ndarray:
    """Averages blocks of pixels.

    Args:
      image: uint8 [H, W, C].
      size: of the blocks in pixels; divides H and W.

    Returns:
      uint8 [H / size, W / size, C], rounded.
    """
    height, width, channels = image.shape
    blocks = image.reshape(height // size, size, width // size, size, channels)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """Converts colours to grey: uint8 [H, W, 3] to [H, W, 1], rounded.

    Source: ITU-R BT.601-7, section 2.5.1.
    """
    return np.rint(image @ np.array(LUMA)[:, None]).astype(np.uint8)


def _add(
    source: base.Source,
    name: str,
    shape: tuple[int, int, int],
    condition: Callable[[int, np.ndarray], np.ndarray],
) -> base.Source:
    """Adds cond_image, uint8 of that shape, a function of the index and the image."""
    if isinstance(source, base.Skipping):  # the next image comes with its own condition
        return base.Skipping(_add(source.source, name, shape, condition), name)

    def example(i: int) -> base.Example:
        inner = source[i]
        return inner | {base.COND_IMAGE: condition(i, inner["image"])}

    fields = {**source.fields, base.COND_IMAGE: base.image_field(shape)}
    return base.LazySource(len(source), example, fields, name, source.identities)


def _shape(source: base.Source, name: str) -> tuple[int, int, int]:
    """Returns the shape of the images, of which each example must have just one."""
    if "image" not in source.fields or base.COND_IMAGE in source.fields:
        what = "two images" if "image" in source.fields else "no image"
        raise ValueError(
            f"{name}: each source inside must have one image per example, and one of "
            f"them has {what}; choose another source."
        )
    return source.fields["image"].shape


def _stems(source: str, spec: base.ImageSpec) -> list[str] | None:
    """Returns the paths of the images of a folder, below its split, without types."""
    match = re.fullmatch(r"(?:\w+:)*?folder:(.+)", source)
    if not match:
        return None
    contents = folders.scan(match[1], spec.held_out)
    paths = ["/".join(x.place[contents.depth :]) for x in contents.files(spec.split)]
    return [path.rpartition(".")[0] for path in paths]
