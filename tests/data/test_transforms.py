"""Laws of the transforms between bytes and the networks' range."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusion_jax.data import transforms


def test_bytes_round_trip():
    """to_uint8 is the inverse of to_float for every one of the 256 bytes."""
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        transforms.to_uint8(transforms.to_float(levels)), levels
    )


def test_range_is_minus_one_to_one():
    """Bytes fill [-1, 1]: both ends exactly, evenly spaced by 2/255."""
    x = transforms.to_float(np.arange(256, dtype=np.uint8))
    assert x.dtype == np.float32
    assert x[0] == -1 and x[-1] == 1
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    hnp.arrays(np.float32, hnp.array_shapes(), elements=st.floats(-1e6, 1e6, width=32))
)
def test_to_uint8_takes_the_nearest_byte(x):
    """Coding and decoding moves x by at most half a level, after clipping."""
    back = transforms.to_float(transforms.to_uint8(x))
    assert back.shape == x.shape
    assert np.all(np.abs(back - x.clip(-1, 1)) <= 1 / 255 + 1e-6)


def test_flip_mirrors_width_only():
    """A flip sends column w to column W-1-w and moves nothing else."""
    images = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    flipped = transforms.random_flip(images, np.array([True, True]))
    for w in range(4):
        np.testing.assert_array_equal(flipped[:, :, w], images[:, :, 3 - w])


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    hnp.arrays(
        np.uint8,
        st.tuples(
            st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)
        ),
    ),
    st.integers(0, 15),
)
def test_flip_is_an_involution(images, coins):
    """Flipping the same images twice changes nothing; coin 0 changes nothing."""
    flip = (coins >> np.arange(len(images)) & 1).astype(bool)
    once = transforms.random_flip(images, flip)
    assert once.dtype == images.dtype and once.shape == images.shape
    np.testing.assert_array_equal(once[~flip], images[~flip])
    np.testing.assert_array_equal(transforms.random_flip(once, flip), images)


sides = st.integers(1, 40)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(sides, sides, st.integers(1, 20), st.integers(1, 20))
def test_resize_gives_the_size_and_keeps_a_constant(width, height, h, w):
    """Any image becomes h x w, square or not, and one colour stays this colour."""
    image = Image.new("RGB", (width, height), (7, 130, 255))
    result = transforms.resize_and_crop(image, h, w)
    assert result.size == (w, h) and result.mode == "RGB"
    assert np.all(np.asarray(result) == (7, 130, 255))


@pytest.mark.parametrize("size", [(5, 5), (4, 6), (2, 5)])
@pytest.mark.parametrize("margin", [(4, 0), (0, 4), (0, 0)])
def test_crop_takes_the_centre(size, margin):
    """When one side already has the size, the centre comes back untouched."""
    shape = tuple(np.add(size, margin))
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result = np.asarray(transforms.resize_and_crop(Image.fromarray(pixels), *size))
    top, left = np.array(margin) // 2
    np.testing.assert_array_equal(
        result, pixels[top : top + size[0], left : left + size[1]]
    )


def test_resize_is_antialiased():
    """Reducing a fine chequerboard gives its mean grey, not black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(transforms.resize_and_crop(Image.fromarray(board), 8, 8))
    assert np.all(np.abs(small.astype(int) - 127) <= 2)


@pytest.mark.parametrize("size", [(6, 6), (4, 6)])
def test_resize_commutes_with_mirroring_and_transposing(size):
    """The crop is centred and treats both axes alike."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 24), np.uint8)

    def resize(x, size):
        image = Image.fromarray(np.ascontiguousarray(x))
        return np.asarray(transforms.resize_and_crop(image, *size)).astype(int)

    known = resize(pixels, size)
    np.testing.assert_allclose(resize(pixels[:, ::-1], size), known[:, ::-1], atol=1)
    np.testing.assert_allclose(resize(pixels.T, size[::-1]), known.T, atol=1)


def test_pixels_have_the_shape_and_the_values():
    """An image of the right size comes back bit for bit, with a channel axis."""
    pixels = np.random.default_rng(2).integers(0, 256, (3, 5, 3), np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(
        transforms.to_pixels(image, (3, 5, 3), "white"), pixels
    )
    grey = transforms.to_pixels(image, (3, 5, 1), "white")
    np.testing.assert_array_equal(grey[..., 0], np.asarray(image.convert("L")))
