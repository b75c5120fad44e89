"""What is done to images between the disk and the network; NumPy and PIL only."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def to_float(images: np.ndarray) -> np.ndarray:
    """Maps bytes to the range in which the networks see images.

        x = byte / 127.5 - 1

    Args:
      images: uint8, any shape.

    Returns:
      float32 of the same shape in [-1, 1]; 0 becomes -1 and 255 becomes 1, exactly.
    """
    return np.divide(images, np.float32(127.5), dtype=np.float32) - np.float32(1)


def to_input(images: np.ndarray) -> np.ndarray:
    """Turns what a source holds into what a network sees.

    Args:
      images: uint8, or float32 for what is not a picture; any shape.

    Returns:
      float32 of the same shape: bytes by `to_float`, the others as they are.
    """
    return images if images.dtype == np.float32 else to_float(images)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] back to bytes; the inverse of `to_float` for all 256 bytes.

        byte = round((x + 1) * 127.5), clipped to 0..255

    Args:
      images: floating point, any shape; what lies outside [-1, 1] is clipped.

    Returns:
      uint8 of the same shape.
    """
    scaled = (np.asarray(images, dtype=np.float32) + 1) * np.float32(127.5)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def random_flip(images: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """Mirrors some of the images, left to right; the coins come from the caller.

    Args:
      images: [B, H, W, C], any dtype.
      flip: bool [B], true where an image is to be mirrored.

    Returns:
      [B, H, W, C] of the same dtype.
    """
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Cuts the largest centred square out of an image and resizes it, antialiased.

    It is the same as resizing the short side to `size` and cropping the centre, but
    does not resample what the crop throws away. An image that has this size already
    comes back with its pixels unchanged.

    Args:
      image: any size and any 8-bit mode.
      size: side of the result in pixels.

    Returns:
      A square image of the same mode, bicubic.
    """
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def check_picture(path: str) -> None:
    """Reads the header of a picture file, which is cheap, and nothing more.

    Raises:
      ValueError: it is no picture, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
    except Exception as error:  # PIL raises many kinds for a damaged file.
        raise _unreadable(path, error) from error
    if mode[0] in "IF":
        raise ValueError(f"{path} has more than 8 bits a channel; convert it to 8.")


def read_picture(path: str) -> Image.Image:
    """Decodes a picture file: the first frame, turned upright, as RGB.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # PIL raises many kinds for a damaged file.
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as a picture ({error}); repair or remove it."
    )
