"""Laws of images with a condition that is an image."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusion_jax.data import base, captions, loader, paired, sources

PREFIXES = ("low_res:2:", "grey:", "masked:")


def images_of(num, side=8, channels=3, seed=0):
    shape = (num, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def npz(path, images):
    np.savez(path, images=images, labels=np.arange(len(images)) % 3)
    return f"npz:{path}"


def write(folder, names, seed=0):
    for name, pixels in zip(names, images_of(len(names), seed=seed)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return f"folder:{folder}"


def make(source, split="train", size=8, channels=3, **options):
    return sources.make(source, split, size, channels, **options)


def column(source, name):
    """Reads a field of all examples, one by one and as a batch."""
    values = np.stack([source[i][name] for i in range(len(source))])
    np.testing.assert_array_equal(source.read(np.arange(len(source)))[name], values)
    return values


def conditions(source):
    """Reads the conditions, which must have the shape of their field."""
    found = column(source, "cond_image")
    assert found.dtype == np.uint8
    field = source.fields["cond_image"]
    assert field == base.image_field(found.shape[1:])
    return found


def refused(source, *words, **options):
    with pytest.raises(ValueError) as error:
        make(source, **options)
    for word in words:
        assert word in str(error.value)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 2, st.sampled_from([1, 3]))),
    st.integers(2, 4),
)
def test_averages_of_blocks(small, size):
    """Averaging keeps the mean up to rounding, and undoes repeating each pixel."""
    large = small.repeat(size, 0).repeat(size, 1)
    np.testing.assert_array_equal(paired.block_mean(large, size), small)
    noise = np.random.default_rng(0).integers(0, 256, large.shape, np.uint8)
    low = paired.block_mean(noise, size)
    assert low.shape == small.shape
    np.testing.assert_allclose(low.mean(axis=(0, 1)), noise.mean(axis=(0, 1)), atol=0.5)


def test_low_res(tmp_path):
    """The condition is PIL's box filter of the image, up to rounding."""
    images = images_of(3)
    source = make("low_res:4:" + npz(tmp_path / "a.npz", images))
    expected = [Image.fromarray(x).resize((2, 2), Image.Resampling.BOX) for x in images]
    found = conditions(source)
    assert found.shape == (3, 2, 2, 3)
    np.testing.assert_allclose(found.astype(int), np.stack(expected), atol=1)


def test_grey(tmp_path):
    """The condition is PIL's conversion to grey, up to rounding; grey stays itself."""
    images = images_of(3)
    images[0] = images[0, ..., :1]
    source = make("grey:" + npz(tmp_path / "a.npz", images))
    expected = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in images])
    found = conditions(source)
    np.testing.assert_allclose(found[..., 0].astype(int), expected, atol=1)
    np.testing.assert_array_equal(found[0], images[0, ..., :1])


def test_masked(tmp_path):
    """Only a box of half the sides changes, to mid-grey; its place depends on the
    example, and every place occurs."""
    images = images_of(200, side=4) // 2  # below mid-grey
    source = make("masked:" + npz(tmp_path / "a.npz", images), size=4)
    found = conditions(source)
    hidden = (found == paired.MASK_VALUE).all(axis=3)
    np.testing.assert_array_equal(found[~hidden], images[~hidden])
    places = set()
    for mask in hidden:
        top, left = np.argwhere(mask)[0]
        assert mask.sum() == 4 and mask[top : top + 2, left : left + 2].all()
        places.add((int(top), int(left)))
    assert len(places) == 9
    np.testing.assert_array_equal(conditions(source), found)


@pytest.mark.parametrize("split", ["train", "test", "train_even"])
def test_a_pair_is_a_row_of_both(split):
    """Row i of a paired source is row i of both; label and caption are the second's."""
    joined = make("paired:inverted:digits|captions:digits", split, channels=1)
    first, second = (
        make(x, split, channels=1) for x in ("inverted:digits", "captions:digits")
    )
    np.testing.assert_array_equal(conditions(joined), column(first, "image"))
    for name in second.fields:
        np.testing.assert_array_equal(column(joined, name), column(second, name))
    assert joined.fields.keys() == {"image", "label", "caption", "cond_image"}
    assert joined.identities() == second.identities()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("lazy", [False, True])
def test_the_rest_of_an_example_stays(prefix, lazy, tmp_path):
    """Images, labels, splits and identities are those of the source: of an array and
    of a folder alike."""
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(6)]
    inner = write(tmp_path, names) if lazy else npz(tmp_path / "a.npz", images_of(6))
    split = "all" if lazy else "train"
    source, plain = make(prefix + inner, split), make(inner, split)
    for name in plain.fields:
        np.testing.assert_array_equal(column(source, name), column(plain, name))
        assert source.fields[name] == plain.fields[name]
    assert source.identities() == plain.identities()


def test_captions_inside_and_outside():
    """Captions may be added before or after the condition."""
    inside, outside = (
        make(x, channels=1) for x in ("low_res:2:captions:digits", "captions:digits")
    )
    field = inside.fields["caption"]
    assert field.vocabulary.tokens == outside.fields["caption"].vocabulary.tokens
    for i in range(20):
        np.testing.assert_array_equal(inside[i]["caption"], outside[i]["caption"])
    captions.encode(field, "a three")


@pytest.mark.parametrize("source", [*PREFIXES, "paired:inverted:{0}|"])
def test_an_image_is_mirrored_with_its_condition(source, tmp_path):
    """data.flip mirrors both images of an example or none."""
    inner = npz(tmp_path / "a.npz", images_of(16))
    data = make(source.format(inner) + inner)
    plain = loader.Loader(data, 16, seed=0, shuffle=False).batch_at(0)
    flipped = loader.Loader(data, 16, seed=0, shuffle=False, flip=True).batch_at(0)
    coins = [
        (flipped[name] == plain[name][:, :, ::-1]).all(axis=(1, 2, 3))
        for name in ("image", "cond_image")
    ]
    np.testing.assert_array_equal(*coins)
    assert 0 < coins[0].sum() < 16
    for name in ("image", "cond_image"):
        kept = flipped[name][~coins[0]]
        np.testing.assert_array_equal(kept, plain[name][~coins[0]])


@pytest.mark.parametrize("prefix", ["", "inverted:"])
def test_a_damaged_image_is_skipped_with_its_partner(prefix, tmp_path):
    """A pair of which one side is damaged is replaced by the next whole pair."""
    names = [f"{i}.png" for i in range(6)]
    first = write(tmp_path / "a", names)
    second = write(tmp_path / "b", names, seed=1)
    pair = f"paired:{prefix}{first}|{second}"
    good = make(pair, "all")
    rows = {name: column(good, name) for name in ("image", "cond_image")}
    for path in (tmp_path / "a" / "1.png", tmp_path / "b" / "3.png"):
        path.write_bytes(path.read_bytes()[:100])
    source = make(pair, "all", on_error="skip")
    for name, expected in rows.items():
        found = np.stack([source[i][name] for i in range(6)])
        np.testing.assert_array_equal(found, expected[[0, 2, 2, 4, 4, 5]])


def test_a_damaged_image_beside_an_array(tmp_path):
    """One source that can skip is enough."""
    names = [f"{i}.png" for i in range(4)]
    first = write(tmp_path / "a", names)
    damaged = tmp_path / "a" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    images = images_of(4, seed=1)
    second = npz(tmp_path / "a.npz", images)
    source = make(f"paired:{first}|{second}", held_out=0.0, on_error="skip")
    np.testing.assert_array_equal(source[2]["image"], images[3])


def test_folders_need_the_same_files(tmp_path):
    """Files are paired by name, whatever their types; others are named."""
    write(tmp_path / "a", ["train/x/0.png", "train/x/1.png", "test/x/2.png"])
    write(tmp_path / "b", ["training/x/0.bmp", "training/x/1.bmp", "test/x/3.bmp"])
    pair = f"paired:folder:{tmp_path}/a|inverted:folder:{tmp_path}/b"
    assert len(make(pair)) == 2
    refused(pair, "different files, such as x/2 in only one", split="test")


def test_what_is_refused(tmp_path):
    """Each error says what is wrong, and shows the right form."""
    grey = {"channels": 1}
    refused("low_res:2", "written low_res:FACTOR:SOURCE", **grey)
    refused("low_res:digits:", "written low_res:FACTOR:SOURCE", **grey)
    for factor in ("0", "1", "3", "-2", "x", "2.0"):
        refused(f"low_res:{factor}:digits", "8x8", f"and {factor} is no", **grey)
    refused("grey:digits", "1 channel", "data.num_channels=3", **grey)
    refused("masked:grid25", "no image", **grey)
    refused("masked:masked:digits", "two images", **grey)
    refused("paired:digits", "written paired:SOURCE|SOURCE", **grey)
    refused("paired:digits|", "written paired:SOURCE|SOURCE", **grey)
    refused("paired:low_res:2:digits|digits", "two images", **grey)
    a, b = (npz(tmp_path / f"{n}.npz", images_of(n)) for n in (3, 4))
    refused(f"paired:{a}|{b}", "first source has 3", "second 4")
