"""Laws of the writers: which files the outputs of a task become, by kind and axes."""

import logging

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.data.vocabulary import build
from diffusion_jax.methods.base import with_axis
from diffusion_jax.outputs import images, writers
from diffusion_jax.special_tokens import END
from diffusion_jax.training import parallel

RANDOM = np.random.default_rng(0)
SIZE = (32, 40, 3)  # images that are not square
LABEL = label_field(10)
SCALAR = Field((), np.float32, "scalar")
TOKENS = Field((3,), np.int32, "tokens", size=50)


@pytest.fixture(autouse=True)
def not_enlarged(monkeypatch):
    """Grids have the size of their images."""
    monkeypatch.setattr(writers.images, "MIN_LONG_SIDE", 1)


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """Point 9: an error of the disk names the files and says what to do; a folder that
    cannot be written is found out before anything is computed."""
    outputs = {"image": np.zeros((1, 8, 8, 1), np.float32)}
    fields = {"image": image_field((8, 8, 1))}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    words = r"sample\.\* could not be written \(No space left on device\): free"
    for function in ("save_grid", "save_animation"):
        with monkeypatch.context() as patch:
            patch.setattr(writers.images, function, fail)
            rows = {"rows": np.zeros((1, 2, 8, 8, 1), np.float32)}
            field = {"rows": with_axis(fields["image"], 2, "column")}
            with pytest.raises(OSError, match=words):
                writers.save(tmp_path / "sample", rows, field, animation=True)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", fail)
        with pytest.raises(OSError, match=words):
            writers.save(tmp_path / "sample", outputs, fields)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(OSError, match="cannot be written .*--output"):
            writers.check_writable(folder)
    writers.check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def draw_images(*shape):
    """Images with some values outside [-1, 1]."""
    return RANDOM.uniform(-1.1, 1.1, shape).astype(np.float32)


def to_bytes(images):
    """The nearest level of 0..255 for values in [-1, 1], which are clipped."""
    return np.floor((np.clip(images, -1, 1) + 1) * 127.5 + 0.5).astype(np.uint8)


def write(tmp_path, outputs, fields, animation=False):
    """Saves to tmp_path/deep/sample.*; returns (suffixes, arrays of the npz file)."""
    path = tmp_path / "deep" / "sample"
    writers.save(path, outputs, fields, animation)
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    assert set(arrays) == set(outputs)
    return {x.suffix for x in path.parent.iterdir()}, arrays


def read_png(tmp_path):
    """The pixels of sample.png."""
    with Image.open(tmp_path / "deep" / "sample.png") as image:
        return np.asarray(image)


def cells(pixels, size=SIZE):
    """The images of a grid, u8[rows, columns, *size], without the gaps."""
    height, width = size[0] + 2, size[1] + 2
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    grid = pixels.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
    return grid[:, :, :-2, :-2]


def test_images_with_labels_and_scalars(tmp_path):
    """Images become a grid, and bytes in the npz file; labels and scalars are only in
    the npz file, unchanged. The folder is created."""
    outputs = {
        "label": np.arange(4, dtype=np.int32),
        "image": draw_images(4, *SIZE),
        "error": RANDOM.normal(size=4).astype(np.float32),
    }
    fields = {"image": image_field(SIZE), "label": LABEL, "error": SCALAR}
    suffixes, arrays = write(tmp_path, outputs, fields)
    assert suffixes == {".npz", ".png"}
    assert arrays["image"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["image"], to_bytes(outputs["image"]))
    for name in ("label", "error"):
        np.testing.assert_array_equal(arrays[name], outputs[name])
        assert arrays[name].dtype == outputs[name].dtype
    grid = cells(read_png(tmp_path))
    np.testing.assert_array_equal(grid.reshape(4, *SIZE), arrays["image"])


def test_rows_of_images(tmp_path):
    """With the axis "column" each example is one row of the grid, and the animation
    shows column by column."""
    rows = {"rows": draw_images(2, 5, *SIZE)}
    fields = {"rows": image_field((5, *SIZE))._replace(axes=("column",))}
    suffixes, arrays = write(tmp_path, rows, fields, animation=True)
    assert suffixes == {".npz", ".png", ".gif"}
    np.testing.assert_array_equal(cells(read_png(tmp_path)), arrays["rows"])
    with Image.open(tmp_path / "deep" / "sample.gif") as animation:
        assert animation.n_frames == 5
        assert animation.size == (2 * 42, 34)  # two examples side by side


def test_titles(tmp_path, monkeypatch):
    """The names of columns become the titles of the grid, with captions, too: these are
    the caption of an example, and of its partner if the row goes there."""
    vocabulary = build("words", ["a", "b"])
    caption = TOKENS._replace(shape=(2,), vocabulary=vocabulary)
    a, b = (np.append(vocabulary.encode(text), END) for text in ("a", "b"))
    fields = {
        "rows": image_field((2, *SIZE))._replace(axes=("column",), names=("0", "1")),
        "caption": caption,
        "partner_caption": caption,
    }
    rows = {"rows": draw_images(2, 2, *SIZE)}
    drawn = {}
    for module, function in (("images", "save_grid"), ("plots", "save_captioned")):
        patched = getattr(writers, module)
        monkeypatch.setattr(
            patched, function, lambda *x, name=function: drawn.update({name: x[2:]})
        )
    writers.save_preview(tmp_path / "x", rows, fields)
    assert drawn.pop("save_grid") == (2, ("0", "1"))
    with_partner = rows | {"caption": np.stack([a, b]), "partner_caption": [b, a]}
    writers.save_preview(tmp_path / "x", with_partner, fields)
    captions = ["a -> b", "a -> b", "b -> a", "b -> a"]
    assert drawn["save_captioned"] == (captions, 2, ("0", "1"))


@pytest.mark.parametrize(
    "labels,names,expected",
    [
        ([0, 1, 2, 0, 1], ("cat", "dog", "a" * 20), (3, ["cat", "dog", "a" * 14])),
        ([0, 1, 2, 0, 1], (), (3, ["0", "1", "2"])),
        ([0, 1], ("cat", "dog", "fish"), (None, ())),
        ([1, 1, 1, 1], ("cat", "dog", "fish"), (None, ())),
        (range(13), tuple(map(str, range(13))), (None, ())),
    ],
)
def test_classes_in_turn_are_columns(tmp_path, monkeypatch, labels, names, expected):
    """A few classes that were drawn in turn are the columns of the grid, with their
    names or numbers; one class, or many, are a grid as usual."""
    drawn = []
    monkeypatch.setattr(writers.images, "save_grid", lambda *x: drawn.append(x[2:]))
    labels = np.array(labels, np.int32)
    outputs = {"image": draw_images(len(labels), *SIZE), "label": labels}
    number = len(names) or 3
    fields = {"image": image_field(SIZE), "label": label_field(number, names)}
    writers.save_preview(tmp_path / "x", outputs, fields)
    assert drawn == [expected]


def test_all_images_are_in_the_columns(tmp_path):
    """Class columns show as many images as a grid without them; with captions, which
    the picture has instead, they are left out."""
    labels = np.arange(100, dtype=np.int32) % 10
    outputs = {"image": draw_images(100, *SIZE), "label": labels}
    fields = {"image": image_field(SIZE), "label": label_field(10)}
    suffixes, arrays = write(tmp_path, outputs, fields)
    grid = cells(read_png(tmp_path)[images.TITLE_HEIGHT :])
    np.testing.assert_array_equal(grid.reshape(100, *SIZE), arrays["image"])
    vocabulary = build("words", ["a", "b"])
    caption = TOKENS._replace(shape=(2,), vocabulary=vocabulary)
    outputs = {name: x[:20] for name, x in outputs.items()}
    outputs["caption"] = np.stack([np.append(vocabulary.encode("a"), END)] * 20)
    suffixes, arrays = write(tmp_path, outputs, fields | {"caption": caption})
    assert ".png" in suffixes and len(arrays["image"]) == 20


def test_frames(tmp_path):
    """With the axis "frame" the animation shows them over time, even if there are rows;
    the grid is of the first output without frames."""
    outputs = {
        "frames": draw_images(4, 3, *SIZE),
        "rows": draw_images(4, 5, *SIZE),
        "image": draw_images(4, *SIZE),
    }
    fields = {
        "frames": image_field((3, *SIZE))._replace(axes=("frame",)),
        "rows": image_field((5, *SIZE))._replace(axes=("column",)),
        "image": image_field(SIZE),
    }
    suffixes, arrays = write(tmp_path, outputs, fields, animation=True)
    assert suffixes == {".npz", ".png", ".gif"}
    np.testing.assert_array_equal(arrays["frames"], to_bytes(outputs["frames"]))
    np.testing.assert_array_equal(cells(read_png(tmp_path)), arrays["rows"])
    with Image.open(tmp_path / "deep" / "sample.gif") as animation:
        assert animation.n_frames == 3


def test_no_animation_unless_requested(tmp_path):
    """Frames are in the npz file, but there is no GIF without `animation`."""
    frames = {"frames": draw_images(1, 2, *SIZE)}
    fields = {"frames": image_field((2, *SIZE))._replace(axes=("frame",))}
    assert write(tmp_path, frames, fields)[0] == {".npz"}


@pytest.mark.parametrize("kind", ["image", "points"])
def test_nothing_to_animate(tmp_path, kind, caplog):
    """An animation of outputs without frames or rows of images is a warning."""
    shape = SIZE if kind == "image" else (2,)
    field = Field(shape, np.float32, kind)
    with caplog.at_level(logging.WARNING):
        suffixes, _ = write(tmp_path, {"x": draw_images(3, *shape)}, {"x": field}, True)
    assert suffixes == {".npz", ".png"}
    assert "sample.animation has no effect" in caplog.text


def test_points(tmp_path):
    """Points become a density plot, and are unchanged in the npz file."""
    points = RANDOM.normal(size=(50, 2)).astype(np.float32)
    field = Field((2,), np.float32, "points")
    suffixes, arrays = write(tmp_path, {"points": points}, {"points": field})
    assert suffixes == {".npz", ".png"}
    np.testing.assert_array_equal(arrays["points"], points)
    pixels = read_png(tmp_path)
    assert pixels.shape == (256, 256) and 0 < np.sum(pixels < 255) <= 50


def test_tokens(tmp_path):
    """Tokens become one line of integers per example."""
    tokens = RANDOM.integers(0, 50, (4, 3), np.int32)
    suffixes, arrays = write(tmp_path, {"tokens": tokens}, {"tokens": TOKENS})
    assert suffixes == {".npz", ".txt"}
    np.testing.assert_array_equal(arrays["tokens"], tokens)
    lines = (tmp_path / "deep" / "sample.txt").read_text().splitlines()
    assert [[int(x) for x in line.split()] for line in lines] == tokens.tolist()


WORDS = ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("texts", [WORDS, ["one\ntwo", *WORDS]], ids=["line", "lines"])
def test_texts(tmp_path, capsys, texts):
    """Tokens of a vocabulary become text: a line for each example, or several lines
    with a rule between examples; the first four are printed, by process 0."""
    vocabulary = build("characters", texts)
    ids = [np.append(vocabulary.encode(text), END) for text in texts]
    size = max(map(len, ids))
    tokens = np.stack([np.pad(x, (0, size - len(x))) for x in ids])
    field = TOKENS._replace(shape=(size,), vocabulary=vocabulary)
    fields = {"label": LABEL, "tokens": field}
    outputs = {"label": np.zeros(len(ids), np.int32), "tokens": tokens}
    suffixes, _ = write(tmp_path, outputs, fields)
    assert suffixes == {".npz", ".txt"}
    separator = "\n" if texts == WORDS else f"\n{writers.RULE}\n"
    written = (tmp_path / "deep" / "sample.txt").read_text(encoding="utf-8")
    assert written == separator.join(texts) + "\n"
    writers.print_texts(outputs, fields)
    assert capsys.readouterr().out == separator.join(texts[:4]) + "\n"
    writers.print_texts({"tokens": tokens}, {"tokens": TOKENS})  # no vocabulary
    assert capsys.readouterr().out == ""


def test_other_processes_print_nothing(monkeypatch, capsys):
    """Only process 0 prints."""
    vocabulary = build("characters", ["a"])
    fields = {"tokens": TOKENS._replace(shape=(1,), vocabulary=vocabulary)}
    monkeypatch.setattr(parallel, "process_index", lambda: 1)
    writers.print_texts({"tokens": np.full((1, 1), 2, np.int32)}, fields)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "field",
    [
        LABEL,
        SCALAR,
        Field((5,), np.float32, "vector"),
        Field((8, 2), np.float32, "signal"),
        Field((2,), np.float32, "vector"),
        Field((8, 8, 3), np.float32, "vector"),
    ],
)
def test_arrays_only(tmp_path, field):
    """Labels, scalars, vectors and signals are only in the npz file, unchanged; the
    shape does not make them images or points."""
    x = (RANDOM.normal(size=(3, *field.shape)) * 9).astype(field.dtype)
    suffixes, arrays = write(tmp_path, {"x": x}, {"x": field, "unused": TOKENS})
    assert suffixes == {".npz"}
    np.testing.assert_array_equal(arrays["x"], x)


@pytest.mark.parametrize("columns,rows", [(None, 400), (3, 133), (401, 1)])
def test_large_grids(tmp_path, monkeypatch, columns, rows):
    """The grid has at most 400 images, in complete rows and at least one of them; the
    npz file has all images."""
    shown = []
    monkeypatch.setattr(
        writers.images,
        "save_grid",
        lambda path, x, columns, _: shown.append((x, columns)),
    )
    num, axes = (410, ()) if columns is None else (140, ("column",))
    shape = (2, 1, 1) if columns is None else (columns, 2, 1, 1)
    outputs = {"image": draw_images(num, *shape)}
    _, arrays = write(
        tmp_path, outputs, {"image": image_field(shape)._replace(axes=axes)}
    )
    assert len(arrays["image"]) == num
    [(drawn, drawn_columns)] = shown
    assert drawn_columns == columns
    expected = to_bytes(outputs["image"][:rows]).reshape(-1, 2, 1, 1)
    np.testing.assert_array_equal(drawn, expected)


def test_a_preview_has_no_arrays(tmp_path):
    """A preview writes what can be viewed, and no npz file."""
    outputs = {"image": draw_images(2, *SIZE), "tokens": np.zeros((2, 3), np.int32)}
    fields = {"image": image_field(SIZE), "tokens": TOKENS}
    writers.save_preview(tmp_path / "00000010", outputs, fields)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"00000010.png", "00000010.txt"}


def test_only_process_0_writes(tmp_path, monkeypatch):
    """The other processes write nothing."""
    monkeypatch.setattr(parallel, "process_index", lambda: 1)
    outputs, fields = {"image": draw_images(1, *SIZE)}, {"image": image_field(SIZE)}
    writers.save(tmp_path / "deep" / "sample", outputs, fields, True)
    writers.save_preview(tmp_path / "deep" / "sample", outputs, fields)
    assert not list(tmp_path.iterdir())


def test_csv(tmp_path):
    """The file has one line of names and one line per row."""
    columns = {"time": np.arange(5, 0, -1), "rate": np.linspace(0, 1, 5) / 3}
    writers.write_csv(tmp_path / "x.csv", columns)
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "time,rate" and len(lines) == 6
    table = np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table, np.stack(list(columns.values()), axis=1))
