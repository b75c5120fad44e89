"""Examples that cannot be decoded: raised in one sentence, or skipped within bounds."""

import logging

import numpy as np
import pytest
from PIL import Image
from prepared import prepare

from diffusion_jax.data import base, loader, sources, transforms


def folder(root, num, damaged=(), header=()):
    """Writes num images; pixels of the damaged ones are cut off, headers are broken."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        path = root / f"{i:04}.png"
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if i in damaged:
            path.write_bytes(path.read_bytes()[:100])
        if i in header:
            path.write_bytes(b"no image")
    return f"folder:{root}"


def make(source, **options):
    return sources.make(source, "all", 8, 3, **options)


def images(source):
    return np.stack([source[i]["image"] for i in range(len(source))])


def test_raise_names_the_file_and_the_remedy(tmp_path):
    """Point 7: the error arrives in the main thread as it was raised, in one sentence
    that names the file, what to do and data.on_error."""
    source = make(folder(tmp_path, 4, damaged=[2]))
    batches = loader.Loader(source, 4, seed=0).iterate(0, 1)
    with pytest.raises(transforms.UnreadableError) as caught:
        list(batches)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path}/0002.png cannot be read (")
    assert sentence.endswith("repair or remove it, or set data.on_error=skip.")
    assert "\n" not in sentence and isinstance(caught.value.__cause__, OSError)


def test_a_file_that_vanishes(tmp_path):
    """Point 7: a file that is deleted after the start is named too."""
    source = make(folder(tmp_path, 3))
    (tmp_path / "0001.png").unlink()
    with pytest.raises(ValueError, match="0001.png cannot be read .*No such file"):
        source[1]


def test_files_without_a_header_are_counted(tmp_path):
    """The first one is named, with the number of the others, before reading any."""
    name = folder(tmp_path, 6, header=[1, 2, 5])
    words = "0001.png cannot be read .*, nor can 2 others; repair or remove them, or"
    with pytest.raises(transforms.UnreadableError, match=words):
        make(name)


def test_skipped_files_are_counted(tmp_path, caplog):
    """With data.on_error=skip a warning names the first and counts all at once."""
    make(folder(tmp_path, 6, header=[1, 4]), on_error="skip")
    (said,) = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert "2 of the pictures cannot be read" in said and "0001.png" in said


def test_skip_takes_the_next_readable_example(tmp_path):
    """Point 7: a damaged example is replaced by the next readable one, around the end,
    with its label, whatever is read before; damaged headers are skipped as well."""
    good = images(make(folder(tmp_path / "good", 6)))
    name = folder(tmp_path / "bad", 6, damaged=[1, 5], header=[2])
    expected = good[[0, 3, 3, 3, 4, 0]]
    np.testing.assert_array_equal(images(make(name, on_error="skip")), expected)
    backwards = make(name, on_error="skip")
    for i in reversed(range(6)):
        np.testing.assert_array_equal(backwards[i]["image"], expected[i])
    one, other = (
        [batch for _, batch in loader.Loader(source, 4, seed=1).iterate(0, 9)]
        for source in (make(name, on_error="skip"), backwards)
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_each_is_logged_once(tmp_path, caplog):
    """Point 7: a skipped example is named and counted once, however often it is read,
    and its negative is skipped with it."""
    for prefix in ("", "inverted:"):
        caplog.clear()
        name = prefix + folder(tmp_path, 4, damaged=[1, 3])
        source = make(name, on_error="skip")
        caplog.set_level(logging.WARNING)
        for _ in range(3):
            images(source)
        first, second = caplog.messages
        assert "0001.png" in first and "1 so far" in first
        assert "0003.png" in second and "2 so far, at most 10" in second


@pytest.mark.parametrize("num, limit", [(30, 10), (1300, 13)])
def test_skipping_is_bounded(num, limit):
    """Point 7: more than 1 % of the examples, and more than 10, raise a sentence."""

    def decode(i):
        if i % 2 and i < 2 * bad:
            raise transforms.UnreadableError(f"{i}.png", "truncated")
        return {"label": i}

    lazy = base.LazySource(num, decode, {"label": base.label_field(num)})
    bad = limit
    assert len(base.Skipping(lazy, "here").read(np.arange(num))["label"]) == num
    bad = limit + 1
    source = base.Skipping(lazy, "here")
    with pytest.raises(
        ValueError, match=rf"here: more than {limit} of {num} "
    ) as found:
        source.read(np.arange(num))
    assert "\n" not in str(found.value)


def test_nothing_readable():
    """Point 7: a source of which nothing can be read ends with a sentence."""

    def decode(i):
        raise transforms.UnreadableError(f"{i}.png", "truncated")

    lazy = base.LazySource(3, decode, {"label": base.label_field(3)})
    with pytest.raises(ValueError, match="here: none of the examples can be read"):
        base.Skipping(lazy, "here")[1]


def test_other_errors_are_not_skipped():
    """Point 7: only what cannot be decoded is skipped, not a wrong label."""
    lazy = base.LazySource(3, lambda i: {"label": 7}, {"label": base.label_field(3)})
    with pytest.raises(ValueError, match=r"label of example 0 lies in 7\.\.7"):
        base.Skipping(lazy, "here")[0]


def test_tfds(tmp_path):
    """Point 7: a damaged record of TFDS is named by its data set, split and number, and
    can be skipped."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    prepare(tmp_path, "tiny", (8, 8, 3), pixels)
    (file,) = tmp_path.glob("tiny/*/*array_record*")
    content = file.read_bytes()
    where = content.index(b"IDAT", content.index(b"IDAT") + 4)  # of the second image
    file.write_bytes(content[:where] + b"XXXX" + content[where + 4 :])
    options = dict(split="train", image_size=8, num_channels=3, data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="tfds:tiny: example .* of split 'train' cann"):
        images(sources.make("tfds:tiny", **options))
    found = images(sources.make("tfds:tiny", **options, on_error="skip"))
    np.testing.assert_array_equal(found[0], pixels[0])


def test_check_all(tmp_path, caplog):
    """Point 7: every file is decoded up front; all damaged ones are in one sentence."""
    name = folder(tmp_path, 5, damaged=[1, 3])
    with pytest.raises(ValueError) as caught:
        sources.check_all(make(name))
    sentence = str(caught.value)
    assert sentence.startswith("2 of 5 examples cannot be read: ")
    assert "0001.png (" in sentence and "0003.png (" in sentence
    assert "\n" not in sentence and "data.on_error=skip" in sentence
    sources.check_all(make(name, on_error="skip"))
    assert caplog.text.count("skipped") >= 2


def test_on_error_is_raise_or_skip():
    """Point 7: other values are refused with the known ones."""
    with pytest.raises(ValueError, match="data.on_error 'ignore'. Known: raise, skip"):
        sources.make("digits", "train", 8, 1, on_error="ignore")
