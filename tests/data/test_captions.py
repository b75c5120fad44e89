"""Laws of captioned images: a caption goes with its image, and decodes to its text."""

import json

import chex
import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from prepared import prepare
from smoke import Compiled, load, restore
from test_sources import bytes_of, save, write_idx

from diffusion_jax import methods, run_config, run_data
from diffusion_jax.data import base, captions, loader, sources
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training_loop import train


def texts_of(source):
    """The captions of a source, whose tokens have the form of the field."""
    field, rows = source.fields["caption"], source.read(np.arange(len(source)))
    for i, row in enumerate(rows["caption"]):
        last = int(np.flatnonzero(row == END)[-1])
        assert (row[:last] > END).all() and last > 0
        assert (row[last + 1 :] == PAD).all()
        np.testing.assert_array_equal(row, source[i]["caption"])
    assert rows["caption"].shape[1:] == field.shape and field.kind == "tokens"
    assert rows["caption"].dtype == np.int32 and rows["caption"].max() < field.size
    return [field.vocabulary.decode(row) for row in rows["caption"]]


def open_folder(path, split="all", **arguments):
    return sources.make(f"captions:folder:{path}", split, 8, 3, **arguments)


def refused(path, *words, split="all"):
    with pytest.raises(ValueError) as caught:
        open_folder(path, split)
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


def draw_folder(tmp_path, names):
    for name in names:
        save(tmp_path / name, bytes_of(8, 8, 3))


# Names of classes


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits(split):
    """Captions name the label in English, in several ways; nothing else changes."""
    plain = sources.make("digits", split, 8, 1)
    source = sources.make("captions:digits", split, 8, 1)
    every = np.arange(len(source))
    for name, array in plain.read(every).items():
        np.testing.assert_array_equal(source.read(every)[name], array)
    assert source.identities() == plain.identities()
    texts, labels = texts_of(source), source.read(every)["label"]
    words = "zero one two three four five six seven eight nine".split()
    assert [text.split()[-1] for text in texts] == [words[i] for i in labels]
    sevens = {text for text in texts if text.endswith("seven")}
    assert sevens == {"a seven", "a picture of a seven", "the digit seven"}
    assert {text for text in texts if text.startswith("an ")} == {"an eight"}


def test_all_splits_share_the_field():
    """Token ids mean the same in every split, whatever its examples."""
    train, test = (sources.make("captions:digits", x, 8, 1) for x in ("train", "test"))
    assert train.fields == test.fields


@pytest.mark.parametrize(
    "folder, expected", [("fashion-mnist", "an ankle boot"), ("mnist", "a nine")]
)
def test_idx(tmp_path, folder, expected):
    """The path tells Fashion-MNIST from MNIST; ten names even with fewer labels."""
    (tmp_path / folder).mkdir()
    for stem, labels in (("train", [9] * 40), ("t10k", [0])):
        labels = np.array(labels, np.uint8)
        write_idx(tmp_path / folder, stem, bytes_of(len(labels), 8, 8), labels, False)
    name = f"captions:idx:{tmp_path / folder}"
    train, test = (sources.make(name, split, 8, 1) for split in ("train", "test"))
    assert expected in texts_of(train)
    assert train.fields["caption"] == test.fields["caption"]


def test_images_in_memory_stay_there(tmp_path):
    """Captions of arrays are one more array, and do not change which images are the
    same in two splits, whether images are compared by position or by content."""
    images, labels = np.tile(bytes_of(1, 8, 8), (40, 1, 1)), np.zeros(40, np.uint8)
    for stem in ("train", "t10k"):
        write_idx(tmp_path, stem, images, labels, False)
    for name in ("digits", f"idx:{tmp_path}"):
        for prefix in ("captions:", "captions:inverted:"):
            source = sources.make(prefix + name, "train", 8, 1)
            plain = sources.make(prefix[9:] + name, "train", 8, 1)
            assert isinstance(source, base.ArraySource)
            assert source.identities() == plain.identities()
            assert len(set(texts_of(source))) > 1


def test_names_of_a_data_set(tmp_path):
    """Names of TFDS classes are used, and digits among them are spelled."""
    images, labels = np.zeros((30, 8, 8, 1), np.uint8), [3] * 30
    prepare(tmp_path, "tiny", (8, 8, 1), images, labels)
    source = sources.make("captions:tfds:tiny", "train", 8, 1, str(tmp_path))
    assert "the digit three" in texts_of(source)


def test_captions_of_a_data_set(tmp_path):
    """TFDS data sets bring one or several captions an example; every split counts for
    the vocabulary, and a split with an example without a caption is refused."""
    images = np.zeros((4, 8, 8, 1), np.uint8)
    splits, data_dir = ("train", "test"), str(tmp_path)

    def opened(name, split):
        return sources.make(f"captions:tfds:{name}", split, 8, 1, data_dir)

    texts = ["A dog.", "a cat", "an owl", "two dogs run"]
    prepare(tmp_path, "one", (8, 8, 1), images, captions=texts, splits=splits)
    assert texts_of(opened("one", "train")) == ["a dog", "a cat"]
    assert texts_of(opened("one", "train[50%:]")) == ["a cat"]
    fields = [opened("one", split).fields["caption"] for split in splits]
    assert fields[0] == fields[1] and fields[0].shape == (4,)
    texts = [["A dog.", "the dog"], ["a cat"], ["an owl", ""], ["dogs"]]
    prepare(tmp_path, "many", (8, 8, 1), images, captions=texts, splits=splits)
    assert texts_of(opened("many", "test")) == ["an owl", "dogs"]
    assert texts_of(opened("many", "train"))[0] in ("a dog", "the dog")
    texts[3] = ["", " "]
    prepare(tmp_path, "none", (8, 8, 1), images, captions=texts, splits=splits)
    assert texts_of(opened("none", "train"))[1] == "a cat"
    with pytest.raises(ValueError, match="example 1 of split 'test' has no caption"):
        opened("none", "test")


def test_folder_of_classes(tmp_path):
    """Class folders without texts give captions of their names."""
    draw_folder(tmp_path, [f"{x}/1.png" for x in ("Big_Dog", "_", "owl", "uniform")])
    expected = ["a big dog", "a _", "an owl", "a uniform"]
    for text, end in zip(texts_of(open_folder(tmp_path)), expected):
        assert text.removeprefix("a picture of ") == end


def test_sources_without_names(tmp_path):
    """Sources without images, names, or with captions already are refused."""
    np.savez(tmp_path / "a.npz", images=bytes_of(3, 8, 8, 1), labels=np.arange(3))
    for name, words in (
        (f"captions:npz:{tmp_path}/a.npz", "classes have no names"),
        ("captions:grid25", "grid25 has no images"),
        (
            "captions:captions:digits",
            "^captions:digits has captions already: use data.source=captions:digits.$",
        ),
        ("captions:", "should be written captions:SOURCE"),
    ):
        with pytest.raises(ValueError, match=words):
            sources.make(name, "train", 8, 1)


def test_negatives(tmp_path):
    """A negative has the caption of its image, in either order of the names."""
    draw_folder(tmp_path, ["1.png", "2.png"])
    (tmp_path / "captions.tsv").write_text("1.png\tone dog\n2.png\ttwo dogs\n")
    for plain, size, channels in (("digits", 8, 1), (f"folder:{tmp_path}", 8, 3)):
        one, two, three = (
            sources.make(name + plain, "train", size, channels)
            for name in ("captions:", "captions:inverted:", "inverted:captions:")
        )
        assert texts_of(one) == texts_of(two) == texts_of(three)
        image = 255 - one[0]["image"]
        np.testing.assert_array_equal(image, two[0]["image"])
        np.testing.assert_array_equal(image, three[0]["image"])


# Texts of a folder


def test_texts_beside_images(tmp_path):
    """NAME.txt is the caption of NAME.png; of several lines an example has one."""
    draw_folder(tmp_path, ["cat/1.png", "dog/1.png", "dog/2.jpg"])
    lines = ["A cat, asleep.", "one  cat"]
    (tmp_path / "cat/1.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "dog/1.txt").write_text("A dog’s ball\n", encoding="utf-8")
    (tmp_path / "dog/2.txt").write_text("(two) T-shirts\n")
    source = open_folder(tmp_path)
    texts = texts_of(source)
    assert texts[0] in ("a cat asleep", "one cat")
    assert texts[1:] == ["a dog's ball", "two t-shirts"]
    assert source.fields["label"].names == ("cat", "dog")
    assert texts_of(open_folder(tmp_path)) == texts
    (tmp_path / "dog/2.txt").unlink()
    refused(tmp_path, "dog/2.jpg has no caption", "dog/2.txt", split="train")
    for empty in ("", " \n \n"):
        (tmp_path / "dog/2.txt").write_text(empty)
        refused(tmp_path, "dog/2.jpg has no caption; write one into dog/2.txt")
    (tmp_path / "dog/2.txt").write_bytes(b"\xff")
    refused(tmp_path, "dog/2.txt is not UTF-8")


@pytest.mark.parametrize("table", ["captions.tsv", "captions.jsonl", "metadata.jsonl"])
@pytest.mark.parametrize("below", ["", "train"])
def test_tables(tmp_path, table, below):
    """A table gives each file its captions, also from the folder of a split."""
    names = [f"train/{i}.png" for i in range(3)]
    draw_folder(tmp_path, names)
    start = "train/" if not below else "./"
    rows = [(f"{start}{i}.png", f"number {i}") for i in (2, 0, 1)]
    if table.endswith("tsv"):
        lines = ["\t".join(row) for row in rows]
    else:
        lines = [json.dumps({"file_name": x, "text": y, "size": 1}) for x, y in rows]
    path = tmp_path / below / table
    path.write_text("\n".join(lines))
    texts = texts_of(open_folder(tmp_path, "train"))
    assert texts == ["number 0", "number 1", "number 2"]
    path.write_text("\n".join(lines), encoding="utf-8-sig")  # a byte-order mark
    assert texts_of(open_folder(tmp_path, "train")) == texts
    path.write_text("\n".join(lines[:-1]))
    refused(tmp_path, "train/1.png has no caption", table[:8], split="train")
    for bad in ("1.png", '{"file_name": "1.png"}', "[1]", "a\tb\tc"):
        path.write_text("\n".join([*lines, bad]))
        refused(tmp_path, f"{table}, line 4: {bad!r} is not", "correct", split="train")


def test_folder_without_captions(tmp_path):
    """Images without texts, tables or classes are refused with what to write."""
    draw_folder(tmp_path, ["1.png", "2.png"])
    refused(tmp_path, "1.png has no caption; write one into 1.txt", "captions.tsv")


def test_vocabulary_of_all_splits(tmp_path):
    """Words and lengths of every split count, in an order that does not change."""
    draw_folder(tmp_path, ["train/1.png", "test/1.png", "test/2.png"])
    (tmp_path / "train/1.txt").write_text("a red ball")
    (tmp_path / "test/1.txt").write_text("a very large blue ball")
    (tmp_path / "test/2.txt").write_text("ball")
    train, test = open_folder(tmp_path, "train"), open_folder(tmp_path, "test")
    assert train.fields["caption"] == test.fields["caption"]
    words = train.fields["caption"].vocabulary.tokens
    assert words == ("a", "ball", "blue", "large", "red", "very")
    assert train.fields["caption"].shape == (5 + 1,)


@pytest.mark.parametrize("prefix", ["", "inverted:"])
def test_skipped_images_take_their_captions_along(tmp_path, prefix):
    """An image that replaces a damaged one brings its own caption."""
    draw_folder(tmp_path, ["0.png", "1.png", "2.png"])
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"number {i}")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[:-40])
    name = f"captions:{prefix}folder:{tmp_path}"
    source = sources.make(name, "all", 8, 3, on_error="skip")
    batch = source.read(np.arange(3))
    np.testing.assert_array_equal(batch["image"][1], batch["image"][2])
    assert texts_of(source) == ["number 0", "number 2", "number 2"]


# Words


# Not filter(str.split), which hypothesis takes for a test of the length.
LINES = st.text(st.characters(codec="utf-8")).filter(lambda line: line.split())


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(LINES, min_size=1, max_size=8))
def test_encode_inverts_decode(lines):
    """Every caption decodes to its normal form, which is its own normal form."""
    texts = [captions.normalise(line) for line in lines]
    field = captions.caption_field(texts)
    assert field.shape == (1 + max(len(text.split()) for text in texts),)
    for line, text in zip(lines, texts):
        row = captions.encode(field, line)
        assert row.shape == field.shape and row.dtype == np.int32
        assert field.vocabulary.decode(row) == text == captions.normalise(text)


def test_prompts_are_checked():
    """Empty, too long or unknown prompts are refused in a sentence that names them."""
    field = captions.caption_field(["a red ball", "a cat"])
    expected = captions.encode(field, "a red ball")
    np.testing.assert_array_equal(captions.encode(field, " A  red, BALL! "), expected)
    for text, words in (
        ("", "sample.prompt is empty; write a caption of 1 to 3 words"),
        (" \n", "sample.prompt is empty"),
        ("a red red ball", "sample.prompt has 4 words, .* has 3; shorten it"),
        ("a green ball", "sample.prompt contains 'green', .* Known: 'a' 'ball'"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            captions.encode(field, text, "sample.prompt")
        assert "\n" not in str(caught.value)


# Training


def test_flips_are_refused():
    """Mirrored images would make captions lie, in either domain."""
    source = sources.make("captions:digits", "train", 8, 1)
    plain = sources.make("digits", "train", 8, 1)
    for data in (source, base.Unpaired(plain, source)):
        loader.Loader(data, 4, seed=0)
        with pytest.raises(ValueError, match="set data.flip=False"):
            loader.Loader(data, 4, seed=0, flip=True)


def captioned(config):
    """The same config with captions, of both domains if there are two."""
    config = config.copy_and_resolve_references()
    for key in {"source", "source_b"} & set(config.data):
        config.data[key] = f"captions:{config.data[key]}"
    return config


@pytest.mark.parametrize(
    "name",
    "digits digits_autoencoder digits_vae digits_gan digits_dcgan digits_cyclegan "
    "digits_classifier".split(),
)
def test_image_families_take_captions(name):
    """Every family accepts the data, whose batches differ only by the captions."""
    plain = load(name)
    sides = [run_data.open_train(config) for config in (plain, captioned(plain))]
    for config, source in zip((plain, captioned(plain)), sides):
        jax.eval_shape(methods.make(config, source.fields).init, jax.random.key(0))
    one, two = (loader.Loader(source, 8, seed=0).batch_at(3) for source in sides)
    assert {key[:7] for key in two.keys() - one.keys()} == {"caption"}
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_training_ignores_captions(tmp_path):
    """A VAE of captioned digits has the weights of one of digits, bit for bit."""
    config = load("digits_vae", train__num_steps=2, train__sample_every=0)
    train(config, tmp_path / "plain")
    train(captioned(config), tmp_path / "captioned")
    one, two = (restore(config, tmp_path / x) for x in ("plain", "captioned"))
    chex.assert_trees_all_equal(one.params, two.params)


def test_labels_that_are_all_the_same(tmp_path):
    """A network with classes refuses captioned images of a single class."""
    images, labels = bytes_of(3, 8, 8), np.zeros(3, np.uint8)
    write_idx(tmp_path, "train", images, labels, False)
    config = load("digits_dcgan")
    config.model.num_classes = 10
    config.data.source = f"captions:idx:{tmp_path}"
    with pytest.raises(ValueError, match="Every label of .* is 0.*nothing to learn"):
        run_data.open_train(config)


def test_vocabulary_is_stored(tmp_path):
    """fields.json gives the field back; other captions are refused, and the same run
    may go on from images without captions."""
    config = load("digits_vae", train__num_steps=2, train__sample_every=0)
    train(config, tmp_path / "run")
    config.data.source = "captions:digits"
    config.train.num_steps = 4
    train(config, tmp_path / "run")
    fields = sources.make("captions:digits", "train", 8, 1).fields
    assert run_config.stored_fields(config, tmp_path / "run") == fields
    np.savez(tmp_path / "a.npz", images=bytes_of(4, 8, 8, 1))
    save(tmp_path / "data" / "1.png", bytes_of(8, 8))
    (tmp_path / "data" / "1.txt").write_text("a red ball")
    config.data.update(source=f"captions:folder:{tmp_path / 'data'}", held_out=0.0)
    with Compiled() as names, pytest.raises(ValueError, match="vocabulary of captions"):
        train(config, tmp_path / "run")
    assert not names


def test_prompts_from_a_file(tmp_path):
    """A file gives a prompt a line, as the same prompts with | between them; a missing
    or empty one is refused."""
    field = captions.caption_field(["a red ball", "a cat"])
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffA cat.\n\n a ball\n", encoding="utf-8")
    expected = captions.encode_prompts(field, "a cat|a ball")
    found = captions.encode_prompts(field, f"@{path}")
    np.testing.assert_array_equal(found, expected)
    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty; choose a file"):
        captions.encode_prompts(field, f"@{path}")
    with pytest.raises(FileNotFoundError, match="correct the path after the @"):
        captions.encode_prompts(field, f"@{tmp_path}/nosuch.txt")
