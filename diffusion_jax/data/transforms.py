"""Image transforms between the disk and the network, in NumPy and PIL."""

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB"}  # PIL's mode for each number of channels


def to_float(images: np.ndarray) -> np.ndarray:
    """Maps bytes to [-1, 1].

        x = byte / 127.5 - 1

    Args:
      images: uint8, any shape.

    Returns:
      float32 of the same shape in [-1, 1]; 0 becomes -1 and 255 becomes 1, exactly.
    """
    return np.divide(images, np.float32(127.5), dtype=np.float32) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] back to bytes; the inverse of `to_float` for all 256 bytes.

        byte = round((x + 1) * 127.5), clipped to 0..255

    Args:
      images: floating point, any shape; values outside [-1, 1] are clipped.

    Returns:
      uint8 of the same shape.
    """
    scaled = (np.asarray(images, dtype=np.float32) + 1) * np.float32(127.5)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def random_flip(images: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """Mirrors some of the images horizontally.

    Args:
      images: [B, H, W, C], any dtype.
      flip: bool [B], true for the images to mirror.

    Returns:
      [B, H, W, C] of the same dtype.
    """
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def to_pixels(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Converts an image to an array of the given shape.

    Args:
      image: any size and any 8-bit mode.
      shape: (height, width, channels); 1 or 3 channels.

    Returns:
      uint8 [H, W, C], resized and cropped by `resize_and_crop`.
    """
    *size, num_channels = shape
    image = resize_and_crop(image.convert(MODES[num_channels]), *size)
    return np.asarray(image).reshape(shape)


def resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crops the largest centred box of the right aspect ratio and resizes it.

    This equals resizing the image until it covers the result and cropping the centre,
    but does not resample pixels that are cropped. The pixels of an image that already
    has this size are unchanged.

    Args:
      image: any size and any 8-bit mode.
      height: height of the result in pixels.
      width: width of the result in pixels.

    Returns:
      An image of that size and of the same mode, bicubic and antialiased.
    """
    box_width = min(image.width, max(image.height * width // height, 1))
    box_height = min(image.height, max(image.width * height // width, 1))
    left, top = (image.width - box_width) // 2, (image.height - box_height) // 2
    box = image.crop((left, top, left + box_width, top + box_height))
    return box.resize((width, height), Image.Resampling.BICUBIC)


def check_image(path: str) -> None:
    """Checks the header of an image file, without decoding the pixels.

    Raises:
      ValueError: the file is not an image or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
    except Exception as error:  # PIL raises many types for a damaged file.
        raise _unreadable(path, error) from error
    if mode[0] in "IF":
        raise ValueError(f"{path} has more than 8 bits per channel; convert it to 8.")


def read_image(path: str) -> Image.Image:
    """Decodes the first frame of an image file, turned upright, as RGB.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # PIL raises many types for a damaged file.
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as an image ({error}); repair or remove it."
    )
