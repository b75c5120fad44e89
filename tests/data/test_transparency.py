"""Transparent pixels show data.background, wherever images come in."""

import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from prepared import prepare

from diffusion_jax.data import sources, transforms

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 6, 3), np.uint8)  # also under transparent pixels
ALPHA = np.array([[0, 255, 51, 204, 0, 255]] * 4, np.uint8)
RGBA = np.dstack([COLOURS, ALPHA])
LA = np.dstack([COLOURS[..., 0], ALPHA])


def over(colour, alpha, background):
    """The definition: colour * a + background * (1 - a), in whole bytes."""
    a = alpha[..., None] / 255
    return np.rint(colour * a + np.asarray(background) * (1 - a))


def folder(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return f"folder:{path.parent}"


def pixels(source, channels=3, **options):
    size = (4, 6)
    return sources.make(source, "all", size, channels, **options)[0]["image"]


def palette(transparency):
    """An image of two colours by a palette, the first of which is transparent."""
    image = Image.fromarray((np.arange(24).reshape(4, 6) % 2).astype(np.uint8), "P")
    image.putpalette([200, 30, 40, 5, 6, 7])
    image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize(
    "background, rgb",
    [("white", (255,) * 3), ("black", (0,) * 3), ("#0a64c8", (10, 100, 200))],
)
def test_rgba_is_composited(tmp_path, name, background, rgb):
    """Point 11: an alpha channel blends each pixel with the background."""
    options = {"lossless": True, "exact": True} if "webp" in name else {}
    source = folder(tmp_path, Image.fromarray(RGBA), name, **options)
    np.testing.assert_array_equal(
        pixels(source, background=background), over(COLOURS, ALPHA, rgb)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_alpha(tmp_path, channels):
    """Point 11: grey images too, and before they are converted to either mode."""
    expected = over(LA[..., :1], ALPHA, 255)
    found = pixels(folder(tmp_path, Image.fromarray(LA)), channels)
    np.testing.assert_array_equal(found, np.repeat(expected, channels, axis=2))
    rgba = np.dstack([LA[..., :1]] * 3 + [ALPHA])
    found = pixels(folder(tmp_path / "rgba", Image.fromarray(rgba)), channels)
    np.testing.assert_array_equal(found, np.repeat(expected, channels, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palettes(tmp_path, name, transparency):
    """Point 11: colours of a palette are transparent by number, in PNG and GIF."""
    if name == "a.gif":
        transparency = 0
    source = folder(tmp_path, palette(transparency), name, transparency=transparency)
    clear = np.arange(24).reshape(4, 6, 1) % 2 == 0
    expected = np.where(clear, 255, np.array([5, 6, 7]))
    np.testing.assert_array_equal(pixels(source), expected)


def test_first_frame_of_an_animation(tmp_path):
    """Point 11: so are those of an animation, of which the first frame is read."""
    second = Image.new("P", (6, 4), 1)
    second.putpalette([0, 0, 0, 90, 90, 90])
    source = folder(
        *(tmp_path, palette(0), "a.gif"),
        save_all=True,
        append_images=[second],
        transparency=0,
        disposal=2,
    )
    clear = np.arange(24).reshape(4, 6, 1) % 2 == 0
    np.testing.assert_array_equal(
        pixels(source), np.where(clear, 255, np.array([5, 6, 7]))
    )


def png(bits, colour_type, rows, width, transparent):
    """Writes a PNG by hand, with one transparent value (tRNS)."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", transparent),
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    "bits, kind, row, value, expected",
    [
        (1, 0, bytes([0b01000000]), (1,), [0, 255, 0, 0]),
        (2, 0, bytes([0b00011011]), (1,), [0, 255, 170, 255]),
        (4, 0, bytes([0x05, 0xAF]), (5,), [0, 255, 170, 255]),
        (8, 0, bytes([0, 5, 10, 15]), (5,), [0, 255, 10, 15]),
        (8, 2, bytes([0, 0, 0, 5, 5, 5]), (5,) * 3, [0, 255]),
        (16, 2, bytes([0] * 6 + [5] * 6), (1285,) * 3, [0, 255]),
    ],
)
def test_one_transparent_value(tmp_path, bits, kind, row, value, expected):
    """Point 11: a PNG without alpha can name one value that is transparent, at any bit
    depth."""
    transparent = struct.pack(f">{len(value)}H", *value)
    (tmp_path / "a.png").write_bytes(png(bits, kind, [row], len(expected), transparent))
    for channels in (1, 3):
        source = sources.make(f"folder:{tmp_path}", "all", (1, len(expected)), channels)
        np.testing.assert_array_equal(source[0]["image"][0, :, 0], expected)


def test_opaque_images_are_unchanged(tmp_path):
    """Point 11: the background changes nothing where alpha is 255."""
    opaque = np.dstack([COLOURS, np.full((4, 6), 255, np.uint8)])
    for number, image in enumerate((COLOURS, opaque)):
        source = folder(tmp_path / str(number), Image.fromarray(image))
        np.testing.assert_array_equal(pixels(source, background="red"), COLOURS)


def test_npz_with_alpha(tmp_path, caplog):
    """Point 11: a fourth or second channel of an array is alpha."""
    for array, colour in ((RGBA, COLOURS), (LA, LA[..., :1])):
        np.savez(tmp_path / "a.npz", images=array[None])
        channels = colour.shape[-1]
        source = sources.make(f"npz:{tmp_path}/a.npz", "train", (4, 6), channels)
        expected = over(colour, ALPHA, 255)
        np.testing.assert_array_equal(source[0]["image"], expected)
    assert caplog.text.count("1 of 1 images have transparency") == 2


def test_tfds_with_alpha(tmp_path, caplog):
    """Point 11: images of four channels of a TFDS data set are composited."""
    prepare(tmp_path, "tiny", (4, 6, 4), RGBA[None])
    source = sources.make("tfds:tiny", "train", (4, 6), 3, str(tmp_path))
    np.testing.assert_array_equal(source[0]["image"], over(COLOURS, ALPHA, 255))
    assert caplog.text.count("1 of 1 images have transparency") == 1


def test_one_warning_with_a_count(tmp_path, caplog):
    """Point 11: it is said once how many images have transparency; none: nothing."""
    for i in range(3):
        folder(tmp_path / "a", Image.fromarray(RGBA), f"{i}.png")
    for place in ("a", "b"):
        folder(tmp_path / place, Image.fromarray(COLOURS), "3.png")
    caplog.set_level(logging.WARNING)
    source = sources.make(f"folder:{tmp_path}/a", "all", 4, 3, background="black")
    source.read(np.arange(8))
    (message,) = caplog.messages
    assert "3 of 4 images" in message and "data.background=black" in message
    caplog.clear()
    sources.make(f"folder:{tmp_path}/b", "all", 4, 3)
    assert not caplog.messages


@pytest.mark.parametrize("colour", ["nosuch", "", "#ff", "#00000080", "rgb(1,2)"])
def test_background_is_a_colour(colour):
    """Point 11: an unknown or transparent background is refused for every source."""
    with pytest.raises(ValueError, match="data.background is .*opaque colour"):
        sources.make("digits", "train", 8, 1, background=colour)


def test_composite_is_exact():
    """Point 11: all pairs of a byte and an alpha are rounded as by exact arithmetic."""
    colour, alpha = (x.astype(np.uint8) for x in np.indices((256, 256)))
    for name, byte in (("white", 255), ("black", 0), ("#4d4d4d", 77)):
        found = transforms.composite(np.dstack([colour, alpha]), name)[..., 0]
        top = colour.astype(int) * alpha + byte * (255 - alpha.astype(int))
        np.testing.assert_array_equal(found, np.rint(top / 255))
