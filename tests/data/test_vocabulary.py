"""Laws of vocabularies: text and ids are the same thing."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_jax.data.vocabulary import NUM_SPECIAL, Vocabulary, build
from diffusion_jax.special_tokens import END, PAD

LETTERS = "abcñ €🙂\n"
TEXTS = st.text(LETTERS, max_size=30)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PHRASES = st.lists(st.sampled_from("the cat sat ñu".split()), max_size=8).map(" ".join)
TRAINING = ["the cat sat on the mat\n" * 20, "ñu ñu 🙂 €"]


@functools.cache
def bpe(size=280):
    """Byte-pair encoding of TRAINING."""
    pytest.importorskip("tokenizers")
    return build("bpe", TRAINING, size)


def check_round_trip(vocabulary, text):
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert np.all((ids >= NUM_SPECIAL) & (ids < len(vocabulary)))
    assert vocabulary.decode(ids) == text
    return ids


@settings(max_examples=100, deadline=None)
@given(TEXTS)
@example("")
def test_characters(text):
    """Every text comes back; an id is one character; ids are in order of code."""
    vocabulary = build("characters", [LETTERS])
    ids = check_round_trip(vocabulary, text)
    assert len(ids) == len(text) == vocabulary.num_characters[ids].sum()
    assert list(vocabulary.tokens) == sorted(set(LETTERS))
    order = np.argsort(ids, kind="stable")
    assert [text[i] for i in order] == sorted(text)


@settings(max_examples=100, deadline=None)
@given(PHRASES)
def test_words(text):
    """Words with single spaces between them come back; every word counts its letters
    and one space."""
    vocabulary = build("words", ["sat the cat", "ñu the cat"])
    ids = check_round_trip(vocabulary, text)
    assert len(ids) == len(text.split())
    counted = vocabulary.num_characters[ids].sum()
    assert counted == len(text + " " if text else "")


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT)
@example("\x00\x1f ÿ€🙂")
def test_bytes(text):
    """Every text comes back; ids are UTF-8, and characters are counted once."""
    vocabulary = build("bytes", [])
    ids = check_round_trip(vocabulary, text)
    assert bytes((ids - NUM_SPECIAL).tolist()) == text.encode()
    assert vocabulary.num_characters[ids].sum() == len(text)
    assert len(vocabulary) == 258


@settings(max_examples=100, deadline=None)
@given(st.one_of(ANY_TEXT, st.sampled_from(TRAINING)))
@example("\x00\x1f ÿ€🙂")
@example("  leading and  double spaces \n")
def test_bpe(text):
    """Every text comes back, whether or not it was trained on, and characters are
    counted once, even those that are split between tokens."""
    vocabulary = bpe()
    ids = check_round_trip(vocabulary, text)
    assert len(ids) <= len(text.encode())
    assert vocabulary.num_characters[ids].sum() == len(text)


def test_size_of_bpe():
    """It has as many ids as asked for, frequent words become one token, and with no
    merges it is one id a byte; a smaller size is refused."""
    assert len(bpe(280)) == 280 and len(bpe(258)) == 258
    assert len(bpe(280).encode(" the cat")) == 2
    text = TRAINING[1]
    assert len(bpe(258).encode(text)) == len(text.encode())
    with pytest.raises(
        ValueError, match="vocabulary_size is 257; bpe needs at least 258"
    ):
        build("bpe", TRAINING, 257)


@pytest.mark.parametrize("kind", ["characters", "words", "bytes", "bpe"])
def test_ends_and_padding(kind):
    """Decoding stops at the first end, and leaves out padding."""
    vocabulary = bpe() if kind == "bpe" else build(kind, ["the cat sat"])
    ids = vocabulary.encode("the cat").tolist()
    more = vocabulary.encode("sat").tolist()
    assert vocabulary.decode([PAD, *ids, PAD, END, *more]) == "the cat"
    assert vocabulary.decode([END, *ids]) == vocabulary.decode([]) == ""
    assert vocabulary.num_characters[[PAD, END]].tolist() == [0, 0]
    assert len(vocabulary.num_characters) == len(vocabulary)


def test_bytes_that_are_no_text():
    """What a model draws need not be UTF-8: half a character becomes a sign for it."""
    vocabulary = build("bytes", [])
    half = vocabulary.encode("ñ")[:1]
    assert vocabulary.decode(half) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("kind, text", [("characters", "cäb☃"), ("words", "the ☃ dog")])
def test_unknown(kind, text):
    """What the training text lacks is named, and so is where it was found and what is
    known; at most ten of each."""
    vocabulary = build(kind, ["the cab"])
    with pytest.raises(
        ValueError, match="sample.prompt contains .*'☃'.*Known: .*"
    ) as e:
        vocabulary.encode(text, "sample.prompt")
    assert "\n" not in str(e.value)
    many = "".join(map(chr, range(0x400, 0x500)))
    with pytest.raises(ValueError) as e:
        vocabulary.encode(many if kind == "characters" else " ".join(many))
    assert len(str(e.value)) < 300


def test_a_vocabulary_is_a_value():
    """The order of texts changes nothing; equal ones are equal and hash equally."""
    one, other = (build("characters", x) for x in (["ab", "c"], ["ca", "b", "b"]))
    assert one == other and hash(one) == hash(other)
    assert one != build("characters", ["abcd"])
    assert dataclasses.replace(one, kind="words") != one


def test_unknown_kind():
    """An unknown kind is refused with the known ones."""
    with pytest.raises(ValueError, match="letters.*characters, words, bytes, bpe"):
        build("letters", ["a"])
    with pytest.raises(ValueError, match="letters"):
        Vocabulary("letters")
