"""Image grids and animations of them."""

import io
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Smaller images, such as 8x8 digits, are enlarged to sides of MIN_SIDE pixels, and to
# grids whose long side has MIN_LONG_SIDE.
MIN_SIDE, MIN_LONG_SIDE = 32, 512
FONT_SIZE, TITLE_HEIGHT = 12, 18  # of titles, pixels
GAP, GAP_GREY = 2, 96  # width in pixels and grey level of the gaps between images
MAX_ASPECT = 3  # height / width of a grid of rows; higher ones are cut into strips
STRIP_GAP = 16  # black pixels between strips
FRAME_MS, LAST_FRAME_MS = 120, 2000  # display time of a frame, in milliseconds


def tile(
    images: np.ndarray, columns: int | None = None, titles: Sequence[str] = ()
) -> np.ndarray:
    """Arranges images in a grid, row by row.

    Args:
      images: u8[N, H, W, C], C = 1 or 3; small ones are enlarged by a whole factor,
        also so that titles fit.
      columns: images per row; None makes the grid about square. Many short rows are
        arranged in strips, side by side, to be read from the left strip to the right.
      titles: of the columns, if they have some.

    Returns:
      u8[rows (H' + 2), columns (W' + 2), C], where H' x W' is the enlarged size, and 18
      more rows above if there are titles. Each image has a gap to its right and below
      it; unused cells are as grey as the gaps.
    """
    count, height, width, channels = images.shape
    columns = columns or _columns_of(count)
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), GAP_GREY, np.uint8)
    cells[:count] = images
    num_strips, aspect = 1, rows * height / (columns * width)
    if aspect > MAX_ASPECT:
        num_strips = min(rows, math.ceil(math.sqrt(aspect)))
    long_side = max(math.ceil(rows / num_strips) * height, num_strips * columns * width)
    font = _font()
    factor = max(
        1,
        MIN_SIDE // min(height, width),
        math.ceil(MIN_LONG_SIDE / long_side),
        *(math.ceil(font.getlength(title) / width) for title in titles),
    )
    cells = cells.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    cells = np.pad(cells, gap, constant_values=GAP_GREY)
    _, height, width, _ = cells.shape
    cells = cells.reshape(rows, columns, height, width, channels)
    grid = cells.swapaxes(1, 2).reshape(rows, height, columns * width, channels)
    strips = [x.reshape(-1, *x.shape[2:]) for x in np.array_split(grid, num_strips)]
    if titles:
        header = _header(titles, columns * width, channels)
        strips = [np.concatenate([header, strip]) for strip in strips]
    return _side_by_side(strips)


def _columns_of(count: int) -> int:
    """Returns the columns of a grid that is about square and, if possible, full."""
    side = math.sqrt(count)
    numbers = range(math.ceil(side), math.floor(1.5 * side) + 1)
    return next((x for x in numbers if count % x == 0), math.ceil(side))


def _header(titles: Sequence[str], width: int, channels: int) -> np.ndarray:
    """Draws the titles of columns, u8[TITLE_HEIGHT, width, channels]."""
    header, font = Image.new("L", (width, TITLE_HEIGHT)), _font()
    draw = ImageDraw.Draw(header)
    for i, title in enumerate(titles):
        centre = (i + 0.5) * width / len(titles) - GAP / 2, TITLE_HEIGHT / 2
        draw.text(centre, title, fill=255, font=font, anchor="mm")
    return np.asarray(header)[..., None].repeat(channels, 2)


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT_SIZE)


def _side_by_side(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Joins u8[H, W, C], where H may differ, with gaps between them."""
    height, last = len(strips[0]), len(strips) - 1  # the first one has most rows
    padded = [
        np.pad(x, ((0, height - len(x)), (0, STRIP_GAP * (i < last)), (0, 0)))
        for i, x in enumerate(strips)
    ]
    return np.concatenate(padded, axis=1)


def save_grid(
    path: pathlib.Path,
    images: np.ndarray,
    columns: int | None = None,
    titles: Sequence[str] = (),
) -> None:
    """Writes images u8[N, H, W, C] as one PNG; see `tile`."""
    _to_pil(tile(images, columns, titles)).save(path)


def show(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Draws images as one grid, which a notebook displays and `.save(path)` writes.

    Args:
      images: u8[N, H, W, C] with C = 1 or 3, one of them u8[H, W, C], u8[N, H, W], or
        rows of images u8[N, k, H, W, C]; N >= 1.
      columns: images per row; None: k, or else the grid is about square.

    Raises:
      ValueError: the images have another dtype or shape.
    """
    found = np.asarray(images)
    if found.ndim == 3:  # one picture, or several grey ones
        found = found[None] if found.shape[-1] in (1, 3) else found[..., None]
    if found.ndim == 5:
        columns = columns or found.shape[1]
        found = found.reshape(-1, *found.shape[2:])
    if (
        found.dtype != np.uint8
        or found.ndim != 4
        or 0 in found.shape
        or found.shape[-1] not in (1, 3)
    ):
        raise ValueError(
            f"show draws uint8 [N, H, W, C] with C = 1 or 3, [N, H, W] or "
            f"[N, k, H, W, C], and these images are {np.asarray(images).dtype} "
            f"{list(np.shape(images))}: convert them."
        )
    return _to_pil(tile(found, columns))


def save_animation(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes u8[N, k, H, W, C] as a GIF: k grids of N images, the last shown longer."""
    first, *others = (_to_pil(tile(frame)) for frame in frames.swapaxes(0, 1))
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)


def frames(
    path: pathlib.Path, max_frames: int, side: int | None = None
) -> dict[int, bytes]:
    """Returns frames of an animation, evenly spaced with the first and last.

    Args:
      path: path of the animation.
      max_frames: how many to return.
      side: pixels of the longer side, to which they are reduced; None: as they are.

    Returns:
      PNGs by the number of the frame, 1..N.
    """
    found = {}
    with Image.open(path) as animation:
        for i in evenly(getattr(animation, "n_frames", 1), max_frames):
            animation.seek(i)
            frame = animation.convert("RGB")
            if side:
                frame.thumbnail((side, side))
            buffer = io.BytesIO()
            frame.save(buffer, "PNG")
            found[i + 1] = buffer.getvalue()
    return found


def evenly(number: int, max_frames: int) -> list[int]:
    """Returns up to max_frames of 0..number-1, evenly, with the first and last."""
    if number <= max_frames:
        return list(range(number))
    return [round(i * (number - 1) / (max_frames - 1)) for i in range(max_frames)]


def _to_pil(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
