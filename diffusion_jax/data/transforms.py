"""Image transforms between the disk and the network, in NumPy and PIL."""

import numpy as np
from PIL import Image, ImageColor, ImageOps

MODES = {1: "L", 3: "RGB"}  # PIL's mode for each number of channels
# PIL leaves the transparent value of a PNG with these modes at the file's bit depth.
_TRANSPARENCY_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 257}


class UnreadableError(ValueError):
    """An example that cannot be decoded, such as a truncated file.

    Args:
      example: names it, such as the path of the file.
      reason: what is wrong with it.
      num_others: how many others cannot be decoded either, as far as is known.
    """

    def __init__(self, example: str, reason: object, num_others: int = 0):
        self.example, self.reason = example, " ".join(str(reason).split())
        others = ""
        if num_others:
            others = f", nor can {num_others} other{'s' if num_others > 1 else ''}"
        super().__init__(
            f"{example} cannot be read ({self.reason}){others}; repair or remove "
            f"{'them' if num_others else 'it'}, or set data.on_error=skip."
        )


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


def check_background(background: str) -> None:
    """Checks the name of a colour.

    Raises:
      ValueError: it is not an opaque colour that PIL knows.
    """
    try:
        is_opaque = len(ImageColor.getrgb(background)) == 3
    except ValueError:
        is_opaque = False
    if not is_opaque:
        raise ValueError(
            f"data.background is {background!r}; it must be an opaque colour, such as "
            "white, black or #808080."
        )


def composite(pixels: np.ndarray, background: str) -> np.ndarray:
    """Composites images with an alpha channel over a colour.

        x = (colour * alpha + background * (255 - alpha)) / 255, rounded

    Args:
      pixels: uint8 [..., 2] or [..., 4]; the last channel is alpha.
      background: name of a colour, see `check_background`.

    Returns:
      uint8 [..., 1] or [..., 3].
    """
    colour, alpha = pixels[..., :-1].astype(np.uint16), pixels[..., -1:]
    behind = ImageColor.getcolor(background, MODES[colour.shape[-1]])
    rest = (255 - alpha) * np.atleast_1d(behind).astype(np.uint16)
    return ((colour * alpha + rest + 127) // 255).astype(np.uint8)


def to_pixels(
    image: Image.Image, shape: tuple[int, int, int], background: str
) -> np.ndarray:
    """Converts an image to an array of the given shape.

    Args:
      image: any size and any 8-bit mode.
      shape: (height, width, channels); 1 or 3 channels.
      background: colour behind transparent pixels, see `check_background`.

    Returns:
      uint8 [H, W, C], composited, then resized and cropped by `resize_and_crop`.
    """
    *size, num_channels = shape
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        image = Image.fromarray(composite(pixels, background))
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


def check_image(path: str) -> bool:
    """Checks the header of an image file, without decoding the pixels.

    Returns:
      Whether pixels may be transparent.

    Raises:
      UnreadableError: the file is not an image or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            _check_header(image)
            return image.has_transparency_data
    except Exception as error:  # PIL raises many types for a damaged file.
        raise UnreadableError(path, error) from error


def read_image(path: str) -> Image.Image:
    """Decodes the first frame of an image file, turned upright.

    Raises:
      Exception: the file is damaged or has more than 8 bits per channel.
    """
    with Image.open(path) as image:
        _check_header(image)
        return ImageOps.exif_transpose(image)


def _check_header(image: Image.Image) -> None:
    """Refuses more than 8 bits per channel, and corrects a transparent value."""
    if image.mode[0] in "IF":
        raise ValueError("it has more than 8 bits per channel")
    if image.format == "PNG" and "transparency" in image.info:
        scale = _TRANSPARENCY_SCALES.get(image.tile[0].args, 1)
        if scale != 1:
            value = np.multiply(image.info["transparency"], scale)
            image.info["transparency"] = np.rint(value).astype(int).tolist()
