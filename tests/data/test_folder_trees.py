"""Random trees of folders: what is printed is what is read, or one sentence refuses.

The oracle walks every path of the tree, links included, and keeps the path with the
fewest links for each file; the generator makes that path unique.
"""

import collections
import contextlib
import io
import logging
import os
import pathlib
import re
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data import sources

SPLITS = {
    "train": "train",
    "Training": "train",
    "val": "validation",
    "TEST": "test",
    "testing": "test",
}
CLASSES = ["cat", "dog", "9", "10", "2", "-1", ".hidden", "__MACOSX"]
FILES = ["a.png", "b.PNG", "c.jpg.png", "d.txt", "Thumbs.db", "noext", ".e.png"]
OUTSIDE = ["../../out/folder", "../../out/alone.png", ".shelf"]  # one link each
INSIDE = [".", "..", "cat", "dog/deep", "train", "cat/a.png", "nowhere", "dog/d.txt"]
LINKS = ["cat", "dog", "loop", "x.png", "y.txt", "test"]
IMAGES = (".png",)

folders = st.sampled_from(CLASSES)
splits = st.sampled_from(list(SPLITS))
deeper = st.sampled_from([(), (), ("deep",), ("deep", ".cache"), ("deep", "train")])


def places(layout):
    """Paths of files as tuples: flat, with classes, with splits, or any of these."""
    parts = {
        "flat": st.just(()),
        "classes": st.tuples(folders),
        "splits": st.tuples(splits, folders),
        "flat splits": st.tuples(splits),
    }
    parts["mixed"] = st.one_of(*parts.values())
    path = st.tuples(parts[layout], deeper if "flat" not in layout else st.just(()))
    file = st.sampled_from(FILES)
    return st.tuples(path, file).map(lambda x: (*x[0][0], *x[0][1], x[1]))


@st.composite
def trees(draw):
    """Returns (files: place -> whether transparent, links: place -> target)."""
    layout = draw(
        st.sampled_from(["flat", "classes", "splits", "flat splits", "mixed"])
    )
    files = draw(st.dictionaries(places(layout), st.booleans(), max_size=8))
    names = st.sampled_from(LINKS)
    within = [(), *sorted({place[:i] for place in files for i in range(1, len(place))})]
    where = st.tuples(st.sampled_from(within), names).map(lambda x: (*x[0], x[1]))
    links = draw(st.dictionaries(where, st.sampled_from(INSIDE), max_size=3))
    for target in draw(st.sets(st.sampled_from(OUTSIDE))):
        links.setdefault(draw(where), target)
    return files, links


class Tree:
    """A tree on disk; `colours` is the colour of each image by its real path."""

    def __init__(self, base, files, links):
        self.root = base / "box" / "tree"
        self.colours = {}
        self.root.mkdir(parents=True)
        for place, transparent in files.items():
            self.write(self.root.joinpath(*place), transparent)
        self.write(self.root / ".shelf" / "s.png", True)
        self.write(base / "out" / "folder" / "f.png", False)
        self.write(base / "out" / "folder" / "inner" / "g.png", True)
        self.write(base / "out" / "alone.png", False)
        (base / "out" / "folder" / "back").symlink_to(self.root)
        for place, target in links.items():
            path = self.root.joinpath(*place)
            is_text = target.endswith(".txt")
            if not os.path.lexists(path) and is_text <= (path.suffix != ".png"):
                path.symlink_to(self.root / target)

    def write(self, path, transparent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() not in IMAGES:
            path.write_text("no image")
            return
        number = len(self.colours) + 1
        pixels = np.full((2, 2, 4), [number, 7, 99, 255], np.uint8)
        if transparent:
            pixels[1, :, 3] = 0
        Image.fromarray(pixels if transparent else pixels[..., :3]).save(path)
        self.colours[os.path.realpath(path)] = (number, transparent)

    def described(self):
        """Returns (images: real path -> place, number of skipped files)."""
        best = {}  # real path -> (links on the way, place)
        entries = set()  # what any folder contains

        def walk(path, place, links):
            real, is_folder = os.path.realpath(path), os.path.isdir(path)
            if place:
                entries.add(os.path.join(os.path.realpath(path.parent), path.name))
            is_image = os.path.exists(path) and path.suffix.lower() in IMAGES
            if is_folder or is_image:
                best[real] = min(best.get(real, (links, place)), (links, place))
            if is_folder and links < 3:
                for name in os.listdir(path):
                    if name[0] != "." and name != "__MACOSX":
                        inside = path / name
                        walk(inside, (*place, name), links + inside.is_symlink())

        walk(self.root, (), 0)
        images = {r: place for r, (_, place) in best.items() if r in self.colours}
        return images, len(entries) - (len(best) - 1)  # the root is in no folder


def expected(images):
    """Returns ({split: {real: class or None}}, classes); None if it is refused."""
    tops = {place[0] for place in images.values() if len(place) > 1}
    found = [top for top in tops if top.lower() in map(str.lower, SPLITS)]
    lower = {name.lower(): split for name, split in SPLITS.items()}
    by_split = collections.defaultdict(dict)
    for real, place in images.items():
        if not found:
            by_split["all"][real] = place
        elif place[0] not in found:
            return None
        else:
            by_split[lower[place[0].lower()]][real] = place[1:]
    if len(by_split) < len(found):
        return None
    for split, members in by_split.items():
        depths = {len(place) > 1 for place in members.values()}
        if len(depths) > 1:
            return None
        by_split[split] = {
            real: place[0] if len(place) > 1 else None
            for real, place in members.items()
        }
    classes = {c for x in by_split.values() for c in x.values() if c is not None}

    def order(name):
        is_number = name.lstrip("-").isdigit()
        return (0, int(name), "") if is_number else (1, 0, name)

    return by_split, sorted(classes, key=order)


@contextlib.contextmanager
def printed():
    """Collects what the package logs, as main prints it."""
    stream, logger = io.StringIO(), logging.getLogger("diffusion_jax")
    handler, level = logging.StreamHandler(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def read(tree, split):
    """Opens a split; compares what is printed with what is read.

    Returns ({real path: label}, classes, number of skipped files).
    """
    with printed() as stream:
        source = sources.make(f"folder:{tree.root}", split, 2, 3)
    line, *warnings = stream.getvalue().splitlines()
    number, num_classes, classes, skipped = re.search(
        r": (\d+) pictures, (\d+) classes(?:: (.*?))?, (\d+) skipped", line
    ).groups()
    classes = [part.partition("=")[2] for part in (classes or "").split()]
    by_colour = {number: real for real, (number, _) in tree.colours.items()}
    labels, transparent = {}, 0
    for i in range(len(source)):
        image = source[i]["image"]
        real = by_colour[image[0, 0, 0]]
        assert real not in labels, "no image is read twice"
        labels[real] = int(source[i]["label"])
        # Transparent pixels are white, whatever colour lies under them.
        bottom = 255 if tree.colours[real][1] else image[0]
        np.testing.assert_array_equal(image[1], np.broadcast_to(bottom, (2, 3)))
        transparent += tree.colours[real][1]
    assert int(number) == len(labels) and int(num_classes) == len(classes)
    assert len(warnings) == bool(transparent)
    if transparent:
        assert f"{transparent} of {number} images have transparency" in warnings[0]
    return labels, classes, int(skipped)


def refused(tree, split):
    """Asserts that a split is refused in one sentence."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        sources.make(f"folder:{tree.root}", split, 2, 3)
    assert "\n" not in str(caught.value) and str(caught.value)[-1] == "."


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.example(({("9", "d.txt"): False}, {("9", "cat"): "cat"}))
@hypothesis.example(({("9", "a.png"): False}, {("9", "cat"): "cat"}))
@hypothesis.given(trees())
def test_what_is_printed_is_what_is_read(tree):
    """Points 11, 12 and 13: a tree of any layout, with links in circles, gives each
    image once, with the label of its class, or one sentence refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(pathlib.Path(folder), *tree)
        images, num_skipped = tree.described()
        layout = expected(images) if images else None
        if layout is None:
            for split in ("train", "test", "all"):
                refused(tree, split)
            return
        by_split, classes = layout
        for split, members in by_split.items():
            if classes and None in members.values():
                refused(tree, split)  # nobody knows its classes
                continue
            number = {None: 0} | {name: i for i, name in enumerate(classes)}
            labels, names, skipped = read(tree, split)
            assert labels == {real: number[name] for real, name in members.items()}
            assert names == classes and skipped == num_skipped
        if "all" in by_split and len(images) > 1:
            train, test = (read(tree, split)[0] for split in ("train", "test"))
            assert train and test and not train.keys() & test.keys()
            assert train | test == read(tree, "all")[0]
