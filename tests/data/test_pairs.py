"""Laws of pairs: splits never share a source, targets are right, errors are named."""

import contextlib
import dataclasses
import datetime

import numpy as np
import pytest

from diffusion_jax.data import pairs
from diffusion_jax.data.splits import hash_of
from diffusion_jax.special_tokens import END, PAD

SPEC = pairs.PairSpec("characters", "characters", 1024, False, 0, 0.2)
GENERATED = ["reverse:2-5", "reverse:2-3,4-6", "addition:2", "dates"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Generated splits are small."""
    monkeypatch.setattr(pairs, "NUM_TRAIN", 3000)
    monkeypatch.setattr(pairs, "NUM_TEST", 200)


def decoded(source):
    """The (source, target) texts of all examples of a source."""
    columns = []
    for name in ("source", "target"):
        rows, field = source.arrays[name], source.fields[name]
        rows = rows[:, 1:] if name == "target" else rows
        columns.append([field.vocabulary.decode(row) for row in rows])
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("name", GENERATED)
def test_no_source_is_in_two_splits(name):
    """No source of a held-out split is ever trained on, and none repeats in it; other
    random numbers would not change that, as the hash of the source decides."""
    splits = pairs.make(name, SPEC)
    sources = {split: [x for x, _ in decoded(s)] for split, s in splits.items()}
    training = set(sources["train"])
    assert len(sources["train"]) == 3000
    for split in sources.keys() - {"train"}:
        assert not training & set(sources[split])
        assert len(set(sources[split])) == len(sources[split]) <= 200
        assert len(sources[split]) > 100
        if name != "dates":
            assert all(hash_of(x) < 0.2 for x in sources[split])
            assert not any(hash_of(x) < 0.2 for x in training)
    if name == "dates":  # no date in another format either
        dates = {split: {y for _, y in decoded(s)} for split, s in splits.items()}
        assert not dates["train"] & dates["test"]


def test_targets_are_right():
    """Reversed digits, sums, and ISO dates as the standard library reads them."""
    for split, source in pairs.make("reverse:2-3,4-6", SPEC).items():
        lengths = {len(x) for x, _ in decoded(source)}
        usual = set() if split == "rare" else {2, 3}
        assert usual <= lengths <= usual | {4, 5, 6}
        assert all(y == x[::-1] for x, y in decoded(source))
    for x, y in decoded(pairs.make("addition:2", SPEC)["train"]):
        a, b = map(int, x.split("+"))
        assert int(y) == a + b and 0 <= a <= 99 and 0 <= b <= 99
        assert (len(x), len(y)) == (5, 3)
    forms = ["%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%A, %B %d, %Y"]
    forms += ["%A %d %B %Y", "%m/%d/%Y", "%d.%m.%Y"]
    seen = set()
    for x, y in decoded(pairs.make("dates", SPEC)["test"]):
        found = set()
        for form in forms:
            with contextlib.suppress(ValueError):  # it is not of this form
                found.add(datetime.datetime.strptime(x, form).date().isoformat())
                seen.add(form)
        assert found == {y}, x
    assert seen == set(forms)


def test_rare_lengths_are_one_in_a_hundred():
    """The share of rare lengths in training is 1 % to four standard deviations."""
    source = pairs.make("reverse:2-3,4-6", SPEC)["train"]
    share = np.mean([len(x) > 3 for x, _ in decoded(source)])
    assert abs(share - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 3000)


def test_form_of_examples():
    """A source ends with END, a target begins and ends with it; then there is padding;
    all splits have one shape; the length of a pair is that of its longer side; the
    same pairs again in another process's call."""
    splits = pairs.make("reverse:2-3,4-6", SPEC)
    for source in splits.values():
        assert {k: f.shape for k, f in source.fields.items()} == {
            "source": (7,),
            "target": (8,),
        }
        x, y = source.arrays["source"], source.arrays["target"]
        assert np.all(y[:, 0] == END)
        for rows, ends in ((x, 1), (y, 2)):
            assert np.all((rows == END).sum(axis=1) == ends)
            lengths = (rows != PAD).sum(axis=1)
            assert np.all(rows[np.arange(len(rows)), lengths - 1] == END)
            inside = np.arange(rows.shape[1]) < lengths[:, None]
            np.testing.assert_array_equal(rows != PAD, inside)
        ends = [(len(a) + 1, len(b) + 2) for a, b in decoded(source)]
        np.testing.assert_array_equal(source.lengths, np.max(ends, axis=1))
    again = pairs.make("reverse:2-3,4-6", SPEC)
    for split, source in splits.items():
        np.testing.assert_array_equal(
            source.arrays["source"], again[split].arrays["source"]
        )


def test_small_tasks_have_what_there_is():
    """One-digit sums have 100 pairs; those that are held out are in no other split."""
    splits = pairs.make("addition:1", SPEC)
    train, test = (set(decoded(splits[x])) for x in ("train", "test"))
    assert len(train | test) == 100 and not train & test


LINES = "one\tun\ntwo\tdeux\nthree\ttrois\ntwo\t2\nfour\tquatre\nfive\tcinq\n"


def test_file(tmp_path):
    """Each line is a pair, and pairs of one source stay together."""
    path = tmp_path / "pairs.tsv"
    path.write_text(LINES, encoding="utf-8")
    splits = pairs.make(f"pairs:{path}", dataclasses.replace(SPEC, held_out=0.5))
    rows = {split: decoded(source) for split, source in splits.items()}
    assert sorted(sum(rows.values(), [])) == sorted(
        tuple(line.split("\t")) for line in LINES.splitlines()
    )
    assert sum(any(x == "two" for x, _ in some) for some in rows.values()) == 1


def test_max_length_leaves_out(tmp_path, caplog):
    """Pairs with more tokens than data.max_length on a side are left out and counted;
    the limit itself stays."""
    caplog.set_level("INFO")
    path = tmp_path / "pairs.tsv"
    path.write_text(LINES, encoding="utf-8")
    spec = dataclasses.replace(SPEC, held_out=0, max_length=4)
    source = pairs.make(f"pairs:{path}", spec)["train"]
    expected = {("one", "un"), ("two", "deux"), ("two", "2"), ("five", "cinq")}
    assert set(decoded(source)) == expected
    assert "left out 2 of 6 pairs" in caplog.text
    with pytest.raises(ValueError, match="All pairs.*data.max_length = 1: raise it"):
        pairs.make(f"pairs:{path}", dataclasses.replace(spec, max_length=1))


def test_shared_vocabulary(tmp_path):
    """One vocabulary of both sides, of all tokens."""
    path = tmp_path / "pairs.tsv"
    path.write_text("a b\tb c\n", encoding="utf-8")
    spec = dataclasses.replace(
        SPEC, vocabulary="words", shared_vocabulary=True, held_out=0
    )
    fields = pairs.make(f"pairs:{path}", spec)["train"].fields
    assert fields["source"].vocabulary is fields["target"].vocabulary
    assert fields["source"].vocabulary.tokens == ("a", "b", "c")


CMUDICT = """;;; a comment
read R EH1 D
read(2) R IY1 D
record R AH0 K AO1 R D
record(2) R EH1 K ER0 D # noun
record(3) R AH0 K AO2 R D
zoë Z OW1 IY0
"""


def test_cmudict_file(tmp_path):
    """Stress and comments are left out, equal variants are one, the others stay."""
    path = tmp_path / "cmudict.dict"
    path.write_text(CMUDICT, encoding="utf-8")
    spec = dataclasses.replace(SPEC, target_vocabulary="words", held_out=0.5)
    rows = [decoded(source) for source in pairs.make(f"cmudict:{path}", spec).values()]
    assert sorted(sum(rows, [])) == [
        ("read", "R EH D"),
        ("read", "R IY D"),
        ("record", "R AH K AO R D"),
        ("record", "R EH K ER D"),
        ("zoë", "Z OW IY"),
    ]
    words = [{word for word, _ in some} for some in rows]
    assert sum(map(len, words)) == len(set.union(*words)) == 3


@pytest.mark.parametrize(
    "line, number", [("a b", 2), ("a\tb\tc", 2), ("\tb", 2), ("", 2)]
)
def test_odd_tabs(line, number, tmp_path):
    """A line without exactly one tab between two texts is named by its number."""
    path = tmp_path / "pairs.tsv"
    path.write_text(f"one\tun\n{line}\ntwo\tdeux\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line {number}: .* one tab.*correct"):
        pairs.make(f"pairs:{path}", SPEC)


@pytest.mark.parametrize("name, tab", [("pairs", "\t"), ("cmudict", " ")])
def test_splits_of_a_folder(name, tab, tmp_path):
    """The files of a folder are the splits, with one vocabulary of both."""
    contents = {"train": [("ab", "c"), ("b", "cc")], "test": [("a", "d")]}
    for split, rows in contents.items():
        lines = "\n".join(map(tab.join, rows))
        (tmp_path / f"{split}.txt").write_text(lines + "\n", encoding="utf-8")
    splits = pairs.make(f"{name}:{tmp_path}", SPEC)
    assert splits.keys() == contents.keys()
    for split, rows in contents.items():
        fields, arrays = splits[split].fields, splits[split].arrays
        for key, side in (("source", 0), ("target", 1)):
            decode = fields[key].vocabulary.decode
            found = [decode(x[x != END]) for x in arrays[key]]
            assert found == [row[side] for row in rows]


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("revers:6-12", "Unknown data.source.*'revers'"),
        ("reverse", "should be written reverse:6-12"),
        ("dates:x", "should be written dates"),
        ("reverse:12-6", "has the lengths '12-6'"),
        ("reverse:0-6", "has the lengths '0-6'"),
        ("reverse:1-2,x", "has the lengths 'x'"),
        ("addition:0", "numbers of '0' digits; write addition:DIGITS"),
        ("addition:x", "numbers of 'x' digits; write addition:DIGITS"),
        ("pairs:nosuch", "no file .*nosuch; correct the path"),
        ("cmudict:", "should be written cmudict or cmudict:PATH"),
    ],
)
def test_errors(source, sentence):
    """What is wrong is named, with what to write instead."""
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        pairs.make(source, SPEC)


def test_damaged_files(tmp_path):
    """A file that is empty, not UTF-8, or no dictionary is named."""
    path = tmp_path / "file"
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match="is empty; choose a file with text"):
        pairs.make(f"pairs:{path}", SPEC)
    path.write_bytes(b"\xff\t\xff")
    with pytest.raises(ValueError, match="is not UTF-8"):
        pairs.make(f"pairs:{path}", SPEC)
    path.write_text("word\n")
    with pytest.raises(ValueError, match="no line with a word and its phonemes"):
        pairs.make(f"cmudict:{path}", SPEC)
