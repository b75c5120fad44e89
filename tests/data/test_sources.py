"""Laws of the sources: what is on disk is what is read, or one clear sentence."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from prepared import prepare

from diffusion_jax.data import base, loader, sources, transforms

RNG = np.random.default_rng(0)


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def whole(source):
    """Reads a source one by one; checks every example against the fields."""
    shape, size = source.fields["image"].shape, source.fields["label"].size
    examples = [source[i] for i in range(len(source))]
    for example in examples:
        assert example["image"].dtype == np.uint8 and example["image"].shape == shape
        assert size is None or example["label"] < size
        assert np.asarray(example["label"]).dtype == np.int32
    images, labels = (np.stack([e[k] for e in examples]) for k in ("image", "label"))
    batch = source.read(np.arange(len(source)))
    np.testing.assert_array_equal(batch["image"], images)
    np.testing.assert_array_equal(batch["label"], labels)
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    return images, labels


def refused(kind, *words, **arguments):
    """Asserts that `make` raises such an error, in one line that has these words."""
    with pytest.raises(kind) as caught:
        sources.make(
            **{"split": "train", "image_size": 8, "num_channels": 1, **arguments}
        )
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert str(word) in sentence


# Names


def test_unknown_names_are_refused(tmp_path):
    """An unknown source or split lists the known ones, a bad form shows the right one,
    and only grey and RGB images are made."""
    refused(ValueError, "Unknown data.source 'x'", *sources.SOURCES, source="x")
    refused(ValueError, "Known: train, test, all", source="digits", split="valid")
    refused(ValueError, "written folder:PATH", source="folder")
    refused(ValueError, "written tfds:NAME", source="tfds:")
    refused(ValueError, "written digits", source="digits:8")
    refused(ValueError, "8x8x2", source="digits", num_channels=2)
    save(tmp_path / "a.png", bytes_of(8, 8, 3))
    folder = f"folder:{tmp_path}"
    refused(ValueError, "must be 1 or 3", source=folder, num_channels=2)


# Arrays in memory


def test_array_source_checks_its_arrays():
    """Arrays have one length >= 1 and the dtype, shape and range of their fields."""
    images, labels = bytes_of(5, 4, 6, 1), np.arange(5, dtype=np.int32)
    fields = {"image": base.image_field((4, 6, 1)), "label": base.label_field(5)}
    source = base.ArraySource({"image": images, "label": labels}, fields)
    assert len(source) == 5 and source[3].keys() == source.fields.keys()
    for name, bad, sentence in (
        ("image", images / 255, r"float64 \[5, 4, 6, 1\]; .* uint8 \[N, 4, 6, 1\]"),
        ("image", images.astype(np.float32), "image is float32 .* it to uint8"),
        ("image", images[:, :, :, 0], r"image is uint8 \[5, 4, 6\]"),
        ("label", labels.astype(np.int64), r"label is int64 \[5\]; .* int32 \[N\]"),
        ("label", labels + 1, r"label lies in 1..5; it must lie in 0..4"),
        ("label", labels - 1, r"label lies in -1..3; it must lie in 0..4"),
        ("label", labels[:4], "at least one; found 5 of image, 4 of label"),
        ("label", np.int32(3) * np.ones((), np.int32), "0 of label"),
    ):
        arrays = {"image": images, "label": labels} | {name: bad}
        with pytest.raises(ValueError, match=f"this: .*{sentence}"):
            base.ArraySource(arrays, fields, "this")
    empty = {"image": images[:0], "label": labels[:0]}
    with pytest.raises(ValueError, match="this: .*at least one; found 0 of image"):
        base.ArraySource(empty, fields, "this")


def test_only_images_are_bytes():
    """Bytes of another kind, which the device would take for an image, are refused."""
    fields = {"mask": base.Field((2,), np.uint8, "vector")}
    with pytest.raises(ValueError, match="this: mask is uint8, .* vector values"):
        base.ArraySource({"mask": np.ones((3, 2), np.uint8)}, fields, "this")
    with pytest.raises(ValueError, match="this: mask is uint8, .* vector values"):
        base.LazySource(3, lambda i: {"mask": np.ones(2, np.uint8)}, fields, "this")


def test_array_source_refuses_what_is_not_finite():
    """Floats, such as points or signals, contain neither NaN nor infinity."""
    for number in (np.nan, np.inf):
        array = np.array([[0, 1], [number, 0]], np.float32)
        field = base.Field((2,), np.float32, "points")
        with pytest.raises(ValueError, match="this: points contains NaN or infinity"):
            base.ArraySource({"points": array}, {"points": field}, "this")


def test_array_images_takes_its_fields_from_the_arrays():
    """The shape is that of the images, and the classes reach to the largest label."""
    images, labels = bytes_of(5, 4, 6, 3), np.array([0, 2, 1, 2, 0], np.int32)
    fields = base.array_images(images, labels).fields
    assert fields == {
        "image": base.image_field((4, 6, 3)),
        "label": base.label_field(3),
    }
    with pytest.raises(ValueError, match=r"this: image is uint8 .* uint8 \[N, H, W, C"):
        base.array_images(images[0], labels, "this")


def test_non_square_images(tmp_path):
    """image_size may be (height, width): arrays must have it, folders get it, and the
    loader passes it on."""
    images = bytes_of(4, 5, 9, 1)
    np.savez(tmp_path / "a.npz", images=images)
    npz = sources.make(f"npz:{tmp_path / 'a.npz'}", "train", (5, 9), 1)
    np.testing.assert_array_equal(whole(npz)[0], images)
    source = f"npz:{tmp_path / 'a.npz'}"
    refused(ValueError, "5x9x1", "9x5x1", source=source, image_size=(9, 5))
    save(tmp_path / "a" / "a.png", bytes_of(20, 30, 3))
    folder = sources.make(f"folder:{tmp_path / 'a'}", "train", (5, 9), 3)
    assert folder.fields["image"].shape == (5, 9, 3)
    for source, channels in ((npz, 1), (folder, 3)):
        batch = loader.Loader(source, 6, seed=0, flip=True).batch_at(0)
        assert batch["image"].shape == (6, 5, 9, channels)
        assert batch["image"].dtype == np.uint8


# digits


def test_digits_are_scikit_learns():
    """Undoing the scale gives scikit-learn's 17 levels; black is 0 and white 255."""
    from sklearn import datasets

    levels, labels = datasets.load_digits(return_X_y=True)
    images, ours = whole(sources.make("digits", "all", 8, 1))
    np.testing.assert_array_equal(
        np.rint(images.reshape(-1, 64) * (16 / 255)).astype(int), levels
    )
    np.testing.assert_array_equal(ours, labels)
    assert images.min() == 0 and images.max() == 255


def test_digits_splits_are_a_partition():
    """train and test together are all, every fifth in test, and hold all classes."""
    images, labels = whole(sources.make("digits", "all", 8, 1))
    train, test = (whole(sources.make("digits", s, 8, 1)) for s in ("train", "test"))
    np.testing.assert_array_equal(test[0], images[4::5])
    np.testing.assert_array_equal(test[1], labels[4::5])
    assert len(train[0]) + len(test[0]) == len(images) == 1797
    merged = np.concatenate([train[0], test[0]]).reshape(1797, -1)
    np.testing.assert_array_equal(
        np.sort(merged.view("S64").ravel()),
        np.sort(images.reshape(1797, -1).view("S64").ravel()),
    )
    assert set(train[1]) == set(test[1]) == set(range(10))


def test_digits_train_is_dealt_out_to_two_domains():
    """train_even and train_odd are train[::2] and train[1::2], share no image, and
    hold all classes."""
    images, labels = whole(sources.make("digits", "train", 8, 1))
    splits = "train_even", "train_odd"
    even, odd = (whole(sources.make("digits", s, 8, 1)) for s in splits)
    for part, first in ((even, 0), (odd, 1)):
        np.testing.assert_array_equal(part[0], images[first::2])
        np.testing.assert_array_equal(part[1], labels[first::2])
        assert set(part[1]) == set(range(10))
    assert len(even[0]) == len(odd[0]) == 719
    images = [{image.tobytes() for image in part[0]} for part in (even, odd)]
    assert not images[0] & images[1]


def test_other_size_is_refused():
    """Arrays are never resized: both shapes are named."""
    refused(ValueError, "8x8x1", "32x32x1", source="digits", image_size=32)
    refused(ValueError, "8x8x1", "8x8x3", source="digits", num_channels=3)


# idx


def idx(magic, *sizes, body=b""):
    return struct.pack(f">i{len(sizes)}i", magic, *sizes) + body


def write_idx(folder, stem, images, labels, zipped):
    opened, suffix = (gzip.open, ".gz") if zipped else (open, "")
    with opened(folder / f"{stem}-images-idx3-ubyte{suffix}", "wb") as file:
        file.write(idx(2051, *images.shape, body=images.tobytes()))
    with opened(folder / f"{stem}-labels-idx1-ubyte{suffix}", "wb") as file:
        file.write(idx(2049, *labels.shape, body=labels.tobytes()))


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_gives_what_was_written(tmp_path, zipped):
    """Reading inverts the format's definition, gzipped or not, for both splits."""
    for stem, split, n in (("train", "train", 5), ("t10k", "test", 3)):
        images, labels = bytes_of(n, 28, 28), RNG.integers(0, 10, n).astype(np.uint8)
        write_idx(tmp_path, stem, images, labels, zipped)
        read = whole(sources.make(f"idx:{tmp_path}", split, 28, 1))
        np.testing.assert_array_equal(read[0][..., 0], images)
        np.testing.assert_array_equal(read[1], labels)


def test_idx_refuses_broken_files(tmp_path):
    """A missing, foreign, truncated or mismatched file is named, with the remedy."""
    source = dict(source=f"idx:{tmp_path}", image_size=28)
    images, labels = bytes_of(3, 28, 28), np.arange(3, dtype=np.uint8)
    refused(FileNotFoundError, "nowhere", source="idx:nowhere")
    refused(FileNotFoundError, tmp_path, "train-images-idx3-ubyte.gz", **source)
    refused(ValueError, "Known: train, test", **{**source, "split": "valid"})
    write_idx(tmp_path, "train", images, labels[:2], False)
    refused(ValueError, "3 of image, 2 of label", **source)
    write_idx(tmp_path, "train", images, labels, False)
    refused(ValueError, "28x28x1", "8x8x1", **{**source, "image_size": 8})
    path = tmp_path / "train-images-idx3-ubyte"
    good = path.read_bytes()
    for bad, words in (
        (good[:-1], ["3x28x28", "2351"]),
        (good + b"x", ["3x28x28", "2353"]),
        (good[:6], ["announces"]),
        (b"\x89PNG" + good[4:], ["89 50 4e 47", "00 00 08 03"]),
        (b"", ["starts with"]),
        (idx(2051, 0, 28, 28), ["found 0 of image"]),
    ):
        path.write_bytes(bad)
        refused(ValueError, *words, **source)
    path.unlink()
    for bad in (gzip.compress(good)[:-20], b"not gzip", gzip.compress(good)[:40] * 2):
        path.with_name(path.name + ".gz").write_bytes(bad)
        refused(ValueError, path.name + ".gz is damaged", "download it again", **source)


# npz


def test_npz_gives_what_was_saved(tmp_path):
    """Both splits come back; [N, H, W] gains a channel; no labels means 0."""
    path, images, tests = tmp_path / "a.npz", bytes_of(5, 8, 8, 3), bytes_of(2, 8, 8, 3)
    np.savez(path, images=images, labels=np.arange(5), test_images=tests)
    read = whole(sources.make(f"npz:{path}", "train", 8, 3))
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], np.arange(5))
    read = whole(sources.make(f"npz:{path}", "test", 8, 3))
    np.testing.assert_array_equal(read[0], tests)
    np.testing.assert_array_equal(read[1], [0, 0])
    np.savez_compressed(path, images=images[..., 0])
    read = whole(sources.make(f"npz:{path}", "train", 8, 1))
    np.testing.assert_array_equal(read[0], images[..., :1])


def test_npz_refuses_other_files(tmp_path):
    """A missing key or a wrong type is named in the error; pickles are not opened."""
    path, images = tmp_path / "a.npz", bytes_of(5, 8, 8, 1)
    source = dict(source=f"npz:{path}")
    refused(FileNotFoundError, path, **source)
    for arrays, words in (
        (dict(photos=images), ["'images'", "photos"]),
        (dict(images=images / 255.0), ["float64", "uint8"]),
        (dict(images=images / np.float32(255)), ["float32", "uint8 [N, 8, 8, 1]."]),
        (dict(images=images[0]), ["8x1x1", "8x8x1"]),
        (dict(images=np.uint8(3)), ["[N, H, W, C]"]),
        (dict(images=images[:0]), ["found 0 of image"]),
        (dict(images=images, labels=np.arange(4)), ["5 of image, 4 of label"]),
        (dict(images=images, labels=np.zeros(5)), ["label is float64", "integers"]),
        (dict(images=np.array([images, None], object)), ["plain arrays"]),
        (dict(images=bytes_of(5, 9, 8)), ["9x8x1", "8x8x1"]),
    ):
        np.savez(path, **arrays)
        refused(ValueError, path, *words, **source)
    np.savez(path, images=images)
    refused(ValueError, "'test_images'", **source, split="test")
    refused(ValueError, "Known: train, test", **source, split="val")
    good = path.read_bytes()
    npy = io.BytesIO()
    np.save(npy, images)
    for bad in (
        b"",
        b"not a zip",
        good[: len(good) // 2],
        npy.getvalue(),
        pickle.dumps(3),
    ):
        path.write_bytes(bad)
        refused(ValueError, path, "np.savez", **source)


# folder


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_folder_gives_the_pixels_of_its_images(tmp_path):
    """Images of the right size come back bit for bit, sorted by path, all label 0."""
    images = bytes_of(4, 8, 8, 3)
    names = ["d.png", "b.bmp", "a.tiff", "c.webp"]
    for name, pixels in zip(names, images):
        save(tmp_path / name, pixels, **({"lossless": True} if "webp" in name else {}))
    (tmp_path / "notes.txt").write_text("not a image")
    (tmp_path / ".hidden.png").write_text("not a image")
    read = whole(sources.make(f"folder:{tmp_path}", "all", 8, 3))
    np.testing.assert_array_equal(read[0], images[np.argsort(names)])
    np.testing.assert_array_equal(read[1], 0)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 16),
    st.sampled_from([1, 3]),
    st.sampled_from(["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"]),
)
def test_folder_resizes_and_converts(tmp_path_factory, w, h, size, channels, mode):
    """Any size and mode becomes [size, size, channels], as resize_and_crop says."""
    folder = tmp_path_factory.mktemp("images")
    image = Image.fromarray(bytes_of(h, w, 3)).convert(mode)
    image.save(folder / ("a.jpg" if mode == "CMYK" else "a.png"))
    (pixels,), _ = whole(sources.make(f"folder:{folder}", "train", size, channels))
    assert pixels.shape == (size, size, channels)
    if mode in ("L", "RGB"):
        expected = transforms.resize_and_crop(image.convert("RGB"), size, size)
        if channels == 3:
            np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "gif"])
def test_folder_reads_lossy_kinds(tmp_path, suffix):
    """JPEG and GIF keep a grey image to within their own error."""
    save(tmp_path / f"a.{suffix}", np.full((8, 8), 100, np.uint8))
    (pixels,), _ = whole(sources.make(f"folder:{tmp_path}", "train", 8, 1))
    assert np.all(np.abs(pixels.astype(int) - 100) <= 2)


def test_folder_turns_images_upright(tmp_path):
    """A camera's note that a image is turned is obeyed, as every viewer does."""
    pixels = bytes_of(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 3  # Turned by 180 degrees.
    save(tmp_path / "a.png", pixels, exif=exif)
    (read,), _ = whole(sources.make(f"folder:{tmp_path}", "train", 8, 3))
    np.testing.assert_array_equal(read, pixels[::-1, ::-1])


def test_folder_labels_are_the_sorted_subfolders(tmp_path):
    """A image at any depth has the number of its top-level subfolder."""
    for name in ("dog/2.png", "cat/x/1.png", "cat/3.png", "emu/4.png"):
        save(tmp_path / name, bytes_of(8, 8, 3))
    data = sources.make(f"folder:{tmp_path}", "all", 8, 3)
    np.testing.assert_array_equal(whole(data)[1], [0, 0, 1, 2])


def test_folder_splits_share_their_classes(tmp_path):
    """A class has one number in all splits, even where a split lacks other classes."""
    for name in ("train/cat/1.png", "train/dog/2.png", "test/dog/3.png"):
        save(tmp_path / name, bytes_of(8, 8, 3))
    (tmp_path / "notes").mkdir()
    make = lambda s: sources.make(f"folder:{tmp_path}", s, 8, 3)  # noqa: E731
    np.testing.assert_array_equal(whole(make("train"))[1], [0, 1])
    np.testing.assert_array_equal(whole(make("test"))[1], [1])
    arguments = dict(source=f"folder:{tmp_path}", num_channels=3)
    refused(ValueError, "Known: train, test", **arguments, split="val")
    save(tmp_path / "notes" / "scan.png", bytes_of(8, 8, 3))
    refused(ValueError, "folders test, train", "notes/scan.png", **arguments)


def test_folder_refuses_what_it_cannot_read(tmp_path):
    """A missing or empty folder, a split that is not there, a file that is no image
    or has 16 bits: each is named before anything is decoded."""
    source = dict(source=f"folder:{tmp_path}")
    refused(FileNotFoundError, "nowhere", source="folder:nowhere")
    refused(FileNotFoundError, tmp_path, "no images", ".png", **source)
    save(tmp_path / "a.png", bytes_of(8, 8, 3))
    refused(ValueError, "Unknown split", "'test'", "train", **source, split="test")
    for name, content in (("b.png", b""), ("c.jpg", b"text, really")):
        (tmp_path / name).write_bytes(content)
        refused(ValueError, tmp_path / name, "repair or remove", **source, split="all")
        (tmp_path / name).unlink()
    save(tmp_path / "d.png", bytes_of(8, 8).astype(np.uint16) * 256)
    refused(ValueError, tmp_path / "d.png", "8 bits", **source, split="all")


def test_truncated_image_is_named_when_it_is_decoded(tmp_path):
    """A sound header with half of the pixels stops the loop with the same error."""
    path = save(tmp_path / "a.png", bytes_of(64, 64, 3))
    path.write_bytes(path.read_bytes()[:4000])
    data = sources.make(f"folder:{tmp_path}", "train", 8, 3)
    with pytest.raises(ValueError, match="a.png cannot be read .* repair or remove it"):
        list(loader.Loader(data, 2, seed=0).iterate(0, 1))


# inverted


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), *[st.just(3)] * 3)),
    st.booleans(),
)
def test_inverted_mirrors_every_byte(tmp_path_factory, images, lazy):
    """A image and its negative add up to 255, labels and classes stay, and the
    negative of a negative is the image: of an array and of a folder alike."""
    place = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(images):
        save(place / f"class_{i % 2}" / f"{i}.png", pixels)
    labels = np.arange(len(images)) % 2
    np.savez(place / "a.npz", images=images, labels=labels)
    inner = f"folder:{place}" if lazy else f"npz:{place / 'a.npz'}"
    there, negative, back = (
        sources.make(prefix + inner, "all" if lazy else "train", 3, 3)
        for prefix in ("", "inverted:", "inverted:inverted:")
    )
    np.testing.assert_array_equal(whole(there)[0].astype(int) + whole(negative)[0], 255)
    np.testing.assert_array_equal(whole(back)[0], whole(there)[0])
    np.testing.assert_array_equal(whole(negative)[1], whole(there)[1])
    assert there.fields == negative.fields
    assert there.fields["label"].size == min(2, len(images))
    assert len(negative) == len(images)
    assert isinstance(negative, base.ArraySource) != lazy


def test_inverted_has_the_splits_of_its_source():
    """A network sees x and -x; every split of the digits has its negative."""
    for split in ("train", "test", "all", "train_even", "train_odd"):
        there, negative = (
            loader.to_batch(sources.make(name, split, 8, 1), np.arange(64))
            for name in ("digits", "inverted:digits")
        )
        np.testing.assert_allclose(negative["image"], -there["image"], atol=1e-6)
        np.testing.assert_array_equal(negative["label"], there["label"])


def test_inverted_needs_a_source_of_images():
    """Without a source, or with a wrong one, the error names it."""
    refused(ValueError, "written inverted:SOURCE", source="inverted")
    refused(ValueError, "written inverted:SOURCE", source="inverted:")
    refused(ValueError, "'mnist'", *sources.SOURCES, source="inverted:mnist")
    refused(ValueError, "written npz:PATH", source="inverted:npz")
    refused(ValueError, "8x8x2", source="inverted:digits", num_channels=2)
    refused(ValueError, "8x8x1", "9x9x1", source="inverted:digits", image_size=9)
    refused(ValueError, "train_odd", source="inverted:digits", split="valid")
    refused(ValueError, "grid25 has no images", source="inverted:grid25")


# tfds


@pytest.mark.parametrize("name", ["mnist", "tiny"])
def test_tfds_gives_what_was_prepared(tmp_path, name):
    """Images and labels come back bit for bit, whether TFDS knows the set or not."""
    images, labels = bytes_of(6, 28, 28, 1), list(range(6))
    prepare(tmp_path, name, (28, 28, 1), images, labels)
    make = lambda split: sources.make(  # noqa: E731
        f"tfds:{name}", split, 28, 1, str(tmp_path)
    )
    read = whole(make("train"))
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], labels)
    np.testing.assert_array_equal(whole(make("train[4:]"))[1], [4, 5])


def test_tfds_resizes_and_converts_as_a_folder_does(tmp_path):
    """The same image gives the same pixels through TFDS and through a folder."""
    pixels = bytes_of(20, 33, 3)
    prepare(tmp_path / "tfds", "tiny/small", (None, None, 3), [pixels])
    save(tmp_path / "images" / "a.png", pixels)
    data_dir = str(tmp_path / "tfds")
    for channels in (1, 3):
        a = sources.make("tfds:tiny/small", "train", 9, channels, data_dir)
        b = sources.make(f"folder:{tmp_path / 'images'}", "train", 9, channels)
        np.testing.assert_array_equal(whole(a)[0], whole(b)[0])
        np.testing.assert_array_equal(whole(a)[1], [0])


@pytest.mark.parametrize("name", ["cycle_gan/horse2zebra", "mine/horse2zebra"])
def test_tfds_has_the_splits_of_two_domains(tmp_path, name):
    """A name with a slash and the splits of CycleGAN's data reach TFDS unchanged."""
    images, labels = bytes_of(8, 8, 8, 3), [0, 0, 1, 1] * 2
    splits = ("trainA", "trainB", "testA", "testB")
    prepare(tmp_path, name, (8, 8, 3), images, labels, splits=splits, version="3.0.0")
    make = lambda split: sources.make(  # noqa: E731
        f"tfds:{name}", split, 8, 3, str(tmp_path)
    )
    for i, split in enumerate(splits):
        read = whole(make(split))
        np.testing.assert_array_equal(read[0], images[2 * i : 2 * i + 2])
        np.testing.assert_array_equal(read[1], labels[2 * i : 2 * i + 2])
    batch = loader.Loader(
        base.Unpaired(make("trainA"), make("trainB")), 4, seed=0
    ).batch_at(0)
    assert set(batch["label_a"]) == {0} and set(batch["label_b"]) == {1}


def test_tfds_says_how_to_prepare(tmp_path):
    """A set that is not there names itself, where was looked, and the command."""
    command = [
        "pip install -e '.[prepare]' && tfds build",
        f"--file_format=array_record --data_dir={tmp_path}",
    ]
    arguments = dict(data_dir=str(tmp_path))
    refused(
        FileNotFoundError, "mnist", tmp_path, *command, source="tfds:mnist", **arguments
    )
    refused(
        FileNotFoundError,
        tmp_path / "celeb_a_hq" / "256",
        "build celeb_a_hq/256 ",
        *command,
        source="tfds:celeb_a_hq/256",
        **arguments,
    )
    refused(FileNotFoundError, tmp_path, *command, source="tfds:no_such", **arguments)
    refused(ValueError, "9.9.9", *command, source="tfds:mnist:9.9.9", **arguments)
    prepare(tmp_path, "tiny", (8, 8, 1), bytes_of(2, 8, 8, 1))
    refused(
        ValueError, "'test'", "train", source="tfds:tiny", split="test", **arguments
    )
    prepare(tmp_path, "other", (8, 8, 1), bytes_of(2, 8, 8, 1), suffix="tfrecord")
    refused(ValueError, "tfrecord", *command, source="tfds:other", **arguments)


def test_no_source_needs_tensorflow(tmp_path):
    """After reading every kind of source neither TensorFlow nor PyTorch is loaded."""
    images = bytes_of(3, 8, 8)
    prepare(tmp_path, "tiny", (8, 8, 1), images[..., None], [0, 1, 2])
    write_idx(tmp_path, "train", images, np.arange(3, dtype=np.uint8), True)
    np.savez(tmp_path / "a.npz", images=images)
    save(tmp_path / "images" / "a.png", images[0])
    program = f"""
import sys
from diffusion_jax.data import loader, sources
folder = "inverted:folder:images"
for name in ("digits", "tfds:tiny", "idx:.", "npz:a.npz", folder, "masked:digits"):
    data = sources.make(name, "train", 8, 1, data_dir={str(tmp_path)!r})
    for _, batch in loader.Loader(data, 4, seed=0, flip=True).iterate(0, 2):
        assert batch["image"].shape == (4, 8, 8, 1)
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
