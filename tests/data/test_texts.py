"""Laws of text as examples: splits, windows, padding and packing."""

import collections
import dataclasses
import functools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion_jax.data import loader, texts
from diffusion_jax.data.texts import TextSpec
from diffusion_jax.data.vocabulary import build
from diffusion_jax.special_tokens import END, PAD

SPEC = TextSpec(8, "characters", 300, packed=False, held_out=0.2)


def spec(**changes):
    return dataclasses.replace(SPEC, **changes)


def write(folder, text, name="text.txt"):
    """Writes a file; returns its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def arrays_of(source):
    """Every example of a source, stacked."""
    return loader.to_batch(source, np.arange(len(source)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("abc", max_size=12), min_size=1, max_size=5),
    st.integers(1, 9),
    st.data(),
)
def test_windows(documents, context, data):
    """With a stride of the context every token but the first is a target exactly once,
    in order, after the token before it; with stride 1 there is a window of every
    offset, without padding."""
    vocabulary = build("characters", ["abc"])
    ids = [vocabulary.encode(x) for x in documents]
    whole = [END]
    for document in ids:
        whole += [*document.tolist(), END]
    source = texts.windows(ids, vocabulary, context, context, "test")
    tokens = np.stack([source[i]["tokens"] for i in range(len(source))])
    assert tokens.shape[1] == context + 1 and tokens.dtype == np.int32
    before, after = tokens[:, :-1].reshape(-1), tokens[:, 1:].reshape(-1)
    predicted = after != PAD
    assert after[predicted].tolist() == whole[1:]
    assert before[predicted].tolist() == whole[:-1]
    assert np.all(predicted[: len(whole) - 1])  # the padding is at the end
    assert texts.sequence(source).tolist() == [PAD, *whole]

    assume(len(whole) > context)
    source = texts.windows(ids, vocabulary, context, 1, "test")
    assert len(source) == len(whole) - context
    i = data.draw(st.integers(0, 3 * len(source)))  # indices wrap around
    first = i % len(source)
    expected = whole[first : first + context + 1]
    assert source.read(np.array([i]))["tokens"][0].tolist() == expected


@pytest.mark.parametrize("name", ["text", "lines"])
def test_splits_of_a_folder(name, tmp_path):
    """The files of a folder are the splits, whatever data.held_out is."""
    spec = texts.TextSpec(6, "characters", 0, packed=False, held_out=0.5)
    contents = {"train": "one\ntwo\nsix", "test": "one\nten"}
    for split, content in contents.items():
        (tmp_path / f"{split}.txt").write_text(content)
    for split, content in contents.items():
        source = texts.make(f"{name}:{tmp_path}", split, spec)
        tokens = texts.sequence(source)
        decode = source.fields["tokens"].vocabulary.decode
        expected = content if name == "text" else content.replace("\n", "")
        assert decode(tokens[tokens != END]) == expected
    (tmp_path / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no file .*test.txt; correct the path"):
        texts.make(f"{name}:{tmp_path}", "train", spec)


DOCUMENTS = st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.integers(0, 5), st.booleans())
def test_padded(documents, more, packed):
    """Every document is in exactly one example, whole, between two ends; segments are
    numbered from 1, and are 0 where there is padding, which is at the end."""
    vocabulary = build("characters", ["abc"])
    ids = [vocabulary.encode(x) for x in documents]
    context = max(map(len, documents)) + 1 + more
    source = texts.padded(ids, vocabulary, context, packed, "test")
    arrays = arrays_of(source)
    tokens = arrays["tokens"]
    assert tokens.shape == (len(source), context + 1)
    segment = arrays.get("segment", (tokens != PAD).astype(np.int32))
    np.testing.assert_array_equal(segment > 0, tokens != PAD)
    found = []
    for row, numbers in zip(tokens, segment, strict=True):
        used = np.flatnonzero(numbers)
        assert used.tolist() == list(range(len(used)))
        assert set(np.diff(numbers[used])) <= {0, 1} and numbers[0] == 1
        for number in range(1, numbers.max() + 1):
            document = row[numbers == number]
            assert document[0] == document[-1] == END
            found.append(vocabulary.decode(document[1:]))
    assert collections.Counter(found) == collections.Counter(documents)
    if not packed:
        assert found == documents  # in their order
    assert len(source) <= len(documents)
    in_sequence = "".join(
        vocabulary.decode([x]) for x in texts.sequence(source) if x != END
    )
    assert in_sequence == "".join(found)
    lengths = [len(x) + 1 for x in found]  # that can be predicted
    sequence = texts.sequence(source)
    assert np.sum((sequence[1:] != PAD) & (sequence[:-1] != PAD)) == sum(lengths)


def fewest_bins(lengths, size):
    """The smallest number of bins, by trying every assignment."""

    @functools.cache
    def search(i, rooms):
        if i == len(lengths):
            return len(rooms)
        best = search(i + 1, tuple(sorted((*rooms, size - lengths[i]))))
        for j, room in enumerate(rooms):
            if lengths[i] <= room:
                smaller = (*rooms[:j], *rooms[j + 1 :], room - lengths[i])
                best = min(best, search(i + 1, tuple(sorted(smaller))))
        return best

    return search(0, ())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=8), st.integers(10, 14))
def test_pack(lengths, size):
    """Every item is in exactly one bin, no bin is too full, and there are at most
    11/9 OPT + 6/9 bins, the bound of first fit by falling length (Dosa 2007), where
    OPT is found by brute force."""
    bins = texts.pack(lengths, size)
    assert sorted(i for row in bins for i in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= size for row in bins)
    assert len(bins) <= 11 / 9 * fewest_bins(tuple(lengths), size) + 6 / 9


def test_pack_is_first_fit():
    """Each item, longest first, goes into a bin that has room for it if there is one,
    and many items take little time."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(1, 60, 30_000)
    bins = texts.pack(lengths.tolist(), 128)
    filled = np.array([lengths[row].sum() for row in bins])
    assert filled.max() <= 128
    assert len(bins) <= math.ceil(lengths.sum() / 128) + 1


KEYS = st.dictionaries(st.text(max_size=4), st.text("ab", max_size=9), min_size=1)


@settings(max_examples=60, deadline=None)
@given(KEYS, st.floats(0, 0.99), st.randoms())
def test_split_by_hash(documents, held_out, draws):
    """Every document is in one split; the order of the documents does not matter; the
    test split has the share that was asked for, and at most one document more; a larger
    share holds out what a smaller one does."""
    splits = texts.split_by_hash(documents, held_out, len)
    both = splits["train"] + splits["test"]
    assert sorted(both) == sorted(documents.values())
    keys = list(documents)
    draws.shuffle(keys)
    again = texts.split_by_hash({k: documents[k] for k in keys}, held_out, len)
    for name in texts.SPLITS:
        assert sorted(splits[name]) == sorted(again[name])
    share = held_out * sum(map(len, documents.values()))
    found = sum(map(len, splits["test"]))
    longest = max(map(len, documents.values()))
    assert share - 1e-9 <= found <= share + longest
    smaller = texts.split_by_hash(documents, held_out / 2, len)["test"]
    assert not collections.Counter(smaller) - collections.Counter(splits["test"])


def test_lines_are_split_by_content(tmp_path):
    """The same line is always in the same split, however often and in whichever order
    lines occur; nothing is in both; the share is near what was asked for."""
    draws = random.Random(0)
    lines = ["".join(draws.choices("abc", k=draws.randint(1, 7))) for _ in range(2000)]
    found = {}
    for name in ("one", "other"):
        path = write(tmp_path, "\n".join(lines) + "\n\n", f"{name}.txt")
        for split in texts.SPLITS:
            source = texts.make(f"lines:{path}", split, spec())
            decode = source.fields["tokens"].vocabulary.decode
            rows = [decode(row[1:]) for row in arrays_of(source)["tokens"]]
            found[name, split] = collections.Counter(rows)
        draws.shuffle(lines)
    train, test = (found["one", split] for split in texts.SPLITS)
    assert train + test == collections.Counter(lines)
    assert not train.keys() & test.keys()
    assert 0.19 < test.total() / len(lines) < 0.25
    hashes = set()
    for split in texts.SPLITS:
        assert found["one", split] == found["other", split]
        for name, packed in (("one", False), ("other", True)):
            source = texts.make(
                f"lines:{tmp_path}/{name}.txt", split, spec(packed=packed)
            )
            hashes.add((split, texts.fingerprint(source)))
    assert len(hashes) == len({x for _, x in hashes}) == 2


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_a_file_is_cut_in_two(tmp_path, kind):
    """The two splits of text:PATH are its first and last part; together they are the
    file, and a hash of either does not depend on the vocabulary, but on the text."""
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    text = "Größe: the cat sat on the mat.\n" * 40
    path = write(tmp_path, text)
    parts, hashes = [], []
    for split in texts.SPLITS:
        source = texts.make(f"text:{path}", split, spec(vocabulary=kind))
        tokens = texts.sequence(source)
        vocabulary = source.fields["tokens"].vocabulary
        parts.append(vocabulary.decode(tokens[tokens != END]))
        hashes.append(texts.fingerprint(source))
        assert source.fields["tokens"].size == len(vocabulary) > tokens.max()
    assert "".join(parts) == text and len(parts[1]) == pytest.approx(
        0.2 * len(text), abs=1
    )
    other = texts.make(f"text:{path}", "test", spec(vocabulary="bytes"))
    assert hashes[1] == texts.fingerprint(other) != hashes[0]


def test_byte_order_mark(tmp_path):
    """A byte-order mark at the beginning of a file is no part of its text."""
    path = tmp_path / "text.txt"
    path.write_text("Größe\n", encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert texts.read(path) == "Größe\n"


def test_python_docs():
    """The topics of the standard library are whole in one split; the test split has the
    share that was asked for and at most one topic more, whichever Python's they are."""
    from pydoc_data import topics

    found = {}
    for split in texts.SPLITS:
        source = texts.make("python_docs", split, spec(context=32, held_out=0.1))
        tokens = texts.sequence(source)
        vocabulary = source.fields["tokens"].vocabulary
        documents = np.split(tokens, np.flatnonzero(tokens == END))[1:-1]
        found[split] = [vocabulary.decode(x[1:]) for x in documents]
    every = sorted(topics.topics.values())
    assert sorted(found["train"] + found["test"]) == every
    share = 0.1 * sum(map(len, every))
    assert share <= sum(map(len, found["test"])) <= share + max(map(len, every))


REFUSED = [
    ("text:FILE", "", {}, ValueError, "is empty"),
    ("text:FILE", "  \n\n", {}, ValueError, "is empty"),
    ("lines:FILE", "\n\n", {}, ValueError, "is empty"),
    ("text:FILE", b"\xff\xfe\x00a", {}, ValueError, "is not UTF-8"),
    ("text:nosuch.txt", "", {}, FileNotFoundError, "no file .*nosuch.txt"),
    ("text:", "", {}, ValueError, "text:PATH"),
    ("text", "", {}, ValueError, "text:PATH"),
    ("python_docs:x", "", {}, ValueError, "should be written python_docs"),
    ("nosuch:x", "", {}, ValueError, "nosuch.*python_docs, text, lines"),
    ("text:FILE", "abcdef", {}, ValueError, r"has \d+ tokens.*data.context = 8.*small"),
    ("lines:FILE", "ab\nabcdefgh\nc", {}, ValueError, "has 8 tokens.*data.context=9"),
    ("text:FILE", "abc" * 9, {"held_out": 0.0}, ValueError, "no text in split 'test'"),
    ("text:FILE", "abc" * 9, {"vocabulary": "x"}, ValueError, "'x'.*characters"),
]


@pytest.mark.parametrize(
    "source, content, changes, kind, words",
    REFUSED,
    ids=[f"{row[0]}-{i}" for i, row in enumerate(REFUSED)],
)
def test_refused(tmp_path, monkeypatch, source, content, changes, kind, words):
    """What cannot be used is refused in one sentence, which names the file or key."""
    monkeypatch.chdir(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "FILE").write_bytes(data)
    with pytest.raises(kind, match=words) as error:
        for split in texts.SPLITS:
            texts.make(source, split, spec(**changes))
    assert "\n" not in str(error.value)


def test_unknown_split(tmp_path):
    """A split that text does not have is refused with those that it has."""
    path = write(tmp_path, "abc" * 20)
    with pytest.raises(ValueError, match="valid.*train, test"):
        texts.make(f"text:{path}", "valid", spec())
