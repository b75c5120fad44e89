"""Pictures: a grid of images, an animation of the reverse chain, and points in the plane."""

import math
import pathlib

import numpy as np
from PIL import Image

SHORTEST_SIDE = 32  # pixels an image gets at least, so that 8x8 digits can be seen
GAP, GAP_GREY = 2, 96  # pixels between images


def tile(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: u8[N, H, W, C], C = 1 or 3.
      columns: images in a row; None is about as many as rows.

    Returns:
      u8[rows (H' + 2), columns (W' + 2), C], each image with a gap to its right and
      below; small images are enlarged by a whole factor, and cells left over are black.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = images
    factor = max(1, SHORTEST_SIDE // min(height, width))
    cells = cells.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    cells = np.pad(cells, gap, constant_values=GAP_GREY)
    _, height, width, _ = cells.shape
    cells = cells.reshape(rows, columns, height, width, channels)
    return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def _picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_grid(
    path: pathlib.Path, images: np.ndarray, columns: int | None = None
) -> None:
    """Writes u8[N, H, W, C] as one PNG; see `tile`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(tile(images, columns)).save(path)


def save_animation(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes u8[N, k, H, W, C] as an animation of k grids; the last one stays."""
    pictures = [_picture(tile(frame)) for frame in frames.swapaxes(0, 1)]
    durations = [120] * (len(pictures) - 1) + [2000]  # milliseconds
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )


def save_points(
    path: pathlib.Path,
    points: np.ndarray,
    side: int = 256,
    limits: tuple[float, float] | None = None,
) -> None:
    """Writes a cloud of points as one square PNG: white where there are none.

        darkness of a pixel = log(1 + points in it) / log(1 + points in the fullest one)

    Args:
      path: of the picture.
      points: [N, 2], x to the right and y upwards.
      side: pixels of each side.
      limits: the lowest and the highest value of both axes; points outside are left
        out. None is a square around all points, which needs them finite.
    """
    if limits is None:
        lowest, highest = points.min(axis=0), points.max(axis=0)
        reach = np.max(highest - lowest) / 2 or 1.0  # also around a single point
        middle = (lowest + highest) / 2
        box = np.stack([middle - reach, middle + reach], axis=1)
    else:
        box = [limits, limits]
    counts, _, _ = np.histogram2d(*points.T, bins=side, range=box)
    dark = np.log1p(counts) / np.log1p(max(1, counts.max()))
    rows = np.round(255 * (1 - dark)).astype(np.uint8).T[::-1]  # y grows upwards
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(rows[..., None]).save(path)
