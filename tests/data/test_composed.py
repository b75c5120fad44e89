"""Laws of composed pictures: the caption says what the picture shows."""

import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from test_sources import write_idx

from diffusion_jax.data import captions, composed, sources
from diffusion_jax.data.composed import Object

NUMBERS = "zero one two three four five six seven eight nine".split()
SPLITS = ("train", "test", "unseen", "all")
FACTORS = (composed.SIZES, composed.POLARITIES, composed.POSITIONS)

NAMES = st.sampled_from([*NUMBERS, "ankle boot", "pair of trousers", "t-shirt"])
OBJECTS = st.builds(Object, NAMES, *(st.sampled_from([*x]) for x in FACTORS))


@st.composite
def scenes(draw):
    """One object, or two in a relation."""
    if draw(st.booleans()):
        return (draw(OBJECTS),)
    positions = draw(st.sampled_from([*composed.RELATIONS.values()]))
    return tuple(draw(OBJECTS)._replace(position=x) for x in positions)


def open_digits(split="train", size=24):
    return sources.make("composed:digits", split, size, 1)


def scenes_of(source, num=2000):
    """The objects of the first captions of a source."""
    rows = source.read(np.arange(num))["caption"]
    vocabulary = source.fields["caption"].vocabulary
    return [composed.parse(vocabulary.decode(row)) for row in rows]


@hypothesis.given(scenes())
def test_parse_inverts_describe(objects):
    """Every scene comes back from its sentence."""
    assert composed.parse(composed.describe(objects)) == objects


def test_sentences():
    """The sentences of the documentation mean what they say."""
    small = Object("three", "small", "normal", "left")
    large = Object("seven", "large", "inverted", "centre")
    for text, objects in (
        ("a small three on the left", (small,)),
        ("a large inverted seven", (large,)),
        (
            "a small three left of a large inverted seven",
            (small, large._replace(position="right")),
        ),
        (
            "a large inverted seven below a small three",
            (large._replace(position="bottom"), small._replace(position="top")),
        ),
    ):
        assert composed.parse(text) == objects and composed.describe(objects) == text
    for text in ("", "a three", "a small three on the", "a small dog", "two threes"):
        with pytest.raises(ValueError, match="no caption of composed pictures"):
            composed.parse(text)


def test_unseen_combinations():
    """Training and test have none of the held-out combinations, `unseen` has one in
    every picture; every single factor and every pair of them occurs in training."""
    for names in (NUMBERS, captions.FASHION_MNIST):
        every = set(composed.combinations(names))
        seen = {x for x in every if not x.is_unseen}
        assert len(every) == 10 * 2 * 2 * 5 and 0.85 < len(seen) / len(every) < 0.95
        for i, j in itertools.combinations(range(4), 2):
            assert len({(x[i], x[j]) for x in seen}) == len(
                {(x[i], x[j]) for x in every}
            )
    every = set(composed.combinations(NUMBERS))
    unseen = {x for x in every if x.is_unseen}
    found = scenes_of(open_digits(), 4000)
    assert {x for scene in found for x in scene} == every - unseen
    for scene in scenes_of(open_digits("test")):
        assert not unseen & {*scene}
    assert {x for scene in scenes_of(open_digits("all"), 4000) for x in scene} == every
    found = scenes_of(open_digits("unseen"))
    assert all(unseen & {*scene} for scene in found)
    assert {x for scene in found for x in scene} >= unseen


@pytest.mark.parametrize("split", SPLITS)
def test_labels_and_lengths(split):
    """The labels of every picture are the factors in its caption: first those of the
    left or upper object, then those of the other one, or "none"; one and two objects
    are as likely."""
    source = open_digits(split)
    found = scenes_of(source)
    batch = source.read(np.arange(len(found)))
    factors = ("label", "size", "polarity", "position")
    names = [*factors, *(f"{name}_2" for name in factors)]
    values = [[source.fields[x].names[i] for i in batch[x]] for x in names]
    for scene, row in zip(found, zip(*values, strict=True), strict=True):
        if scene[0].position in ("right", "bottom") and len(scene) == 2:
            scene = scene[::-1]
        expected = [value for thing in scene for value in thing]
        assert [*row] == expected + ["none"] * (8 - len(expected))
    assert set(batch["label"].tolist()) == set(range(10))
    counts = collections.Counter(map(len, found))
    # In `unseen` a pair has two chances of being kept.
    low, high = (0.25, 0.45) if split == "unseen" else (0.45, 0.62)
    assert low < counts[1] / len(found) < high


def test_pictures_are_functions_of_the_index():
    """Every opening and order of reading gives the same; splits are different."""
    one, two = open_digits(), open_digits()
    index = np.array([5, 3, 2**16 - 1, 3])
    batch = one.read(index)
    for i, k in enumerate(index):
        for name, value in two[int(k)].items():
            np.testing.assert_array_equal(batch[name][i], value)
    test = open_digits("test").read(index)
    assert (batch["image"] != test["image"]).any(axis=(1, 2, 3)).all()
    assert all(open_digits(split).fields == one.fields for split in SPLITS)
    names = [set(open_digits(split).identities().values) for split in SPLITS]
    assert all(not x & y for x, y in itertools.combinations(names, 2))


@pytest.mark.parametrize("size", [(16, 16), (25, 25), (24, 33)])
@pytest.mark.parametrize("split", SPLITS)
def test_pictures_show_their_captions(tmp_path, split, size):
    """With constant images, one value for each class, polarity and split, each object
    is a square of its size and its value in its part of the canvas; the rest is black.
    """
    for stem, first in (("train", 20), ("t10k", 60)):
        images = np.arange(first, first + 10, dtype=np.uint8)[:, None, None]
        images, labels = np.tile(images, (1, 8, 8)), np.arange(10, dtype=np.uint8)
        write_idx(tmp_path, stem, images, labels, False)
    first = 20 if split in ("train", "all") else 60
    source = sources.make(f"composed:idx:{tmp_path}", split, size, 1)
    height, width = size
    batch = source.read(np.arange(300))
    for objects, image in zip(scenes_of(source, 300), batch["image"][..., 0]):
        left = image.copy()
        for thing in objects:
            value = first + NUMBERS.index(thing.name)
            value = 255 - value if thing.polarity == "inverted" else value
            part = {
                "left": np.s_[:, : width // 2],
                "right": np.s_[:, (width + 1) // 2 :],
                "top": np.s_[: height // 2],
                "bottom": np.s_[(height + 1) // 2 :],
                "centre": np.s_[:],
            }[thing.position]
            rows, columns = np.nonzero(image[part] == value)
            side = min(size) // (3 if thing.size == "small" else 2)
            assert len(rows) == side**2
            assert np.ptp(rows) == np.ptp(columns) == side - 1
            if thing.position in ("centre", "left", "right"):
                assert abs(rows.mean() - (height - 1) / 2) <= height / 16 + 1
            if thing.position in ("centre", "top", "bottom"):
                assert abs(columns.mean() - (width - 1) / 2) <= width / 16 + 1
            left[part][left[part] == value] = 0
        assert not left.any()


def test_refusals(tmp_path):
    """Other splits, small canvases and other sources are refused with what to do."""
    for name, split, size, words in (
        ("digits", "half", 24, "split of composed:digits 'half'. Known: train, test"),
        ("digits", "train", 15, "data.image_size to at least 16, better 24"),
        ("grid25", "train", 24, "composed:digits or composed:idx:PATH"),
        ("nosuch", "train", 24, "composed:digits or composed:idx:PATH"),
        ("inverted:digits", "train", 24, "composed:digits or composed:idx:PATH"),
        ("npz:a.npz", "train", 24, "composed:digits or composed:idx:PATH"),
        ("", "train", 24, "should be written composed:SOURCE"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            sources.make(f"composed:{name}", split, size, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="data.num_channels=1"):
        sources.make("composed:digits", "train", 24, 3)
    images, labels = np.zeros((11, 8, 8), np.uint8), np.arange(11, dtype=np.uint8)
    write_idx(tmp_path, "train", images, labels, False)
    with pytest.raises(ValueError, match="^composed:.* the 11 classes have no names"):
        sources.make(f"composed:idx:{tmp_path}", "train", 24, 1)


@pytest.mark.parametrize("number", range(10))
def test_data_without_unseen_combinations(tmp_path, number):
    """Data of one class can be composed, or are refused if no combination of that class
    belongs to the split."""
    images, labels = np.ones((3, 8, 8), np.uint8), np.full(3, number, np.uint8)
    for split, stem in (("train", "train"), ("unseen", "t10k")):
        write_idx(tmp_path, stem, images, labels, False)
        every = composed.combinations([NUMBERS[number]])
        if any(x.is_unseen == (split == "unseen") for x in every):
            source = sources.make(f"composed:idx:{tmp_path}", split, 24, 1)
            assert source.read(np.arange(3))["label"].tolist() == [number] * 3
        else:
            with pytest.raises(
                ValueError, match=f"{NUMBERS[number]}.* split '{split}'"
            ):
                sources.make(f"composed:idx:{tmp_path}", split, 24, 1)
