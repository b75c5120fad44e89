"""Opens a source of token sequences by its name, for language models."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax import paths
from diffusion_jax.data import base
from diffusion_jax.data import vocabulary as vocabularies
from diffusion_jax.data.vocabulary import Vocabulary
from diffusion_jax.lookup import lookup
from diffusion_jax.special_tokens import END, PAD

SPLITS = ("train", "test")
Splits = dict[str, list[str]]  # the documents of each split


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """How text becomes examples; see the group `data` of a language model's config.

    Attributes:
      context: tokens that an example predicts, at least 1.
      vocabulary: a name in vocabulary.KINDS.
      vocabulary_size: number of ids of "bpe".
      packed: several documents in one example, if they are short.
      held_out: share of the text that is split "test", in [0, 1).
    """

    context: int
    vocabulary: str
    vocabulary_size: int
    packed: bool
    held_out: float


def make(source: str, split: str, spec: TextSpec) -> base.Source:
    """Opens a source of text by its name.

        python_docs     the help topics of Python's standard library; test topics are
                        chosen by the hash of their name
        text:PATH       a UTF-8 file, of which the last part is the split 'test'
        lines:PATH      a UTF-8 file, of which each line is a document of its own; test
                        lines are chosen by the hash of their content

    PATH may also be a folder with the files train.txt and test.txt.

    Args:
      source: 'NAME' or 'NAME:REST', one of the above.
      split: 'train' or 'test'.
      spec: how text becomes examples.

    Returns:
      A source of tokens, int32 [context + 1], and if packed of segments, int32 [context
      + 1]: the number of the document in its example, from 1 on, and 0 for padding.
      Every document begins and ends with END. A test set has every token once as a
      target. Long documents are joined, and an example of the training set begins at
      any of their tokens; lines are padded.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the name or split is unknown, or the text does not fit the spec.
    """
    name, _, rest = source.partition(":")
    row = lookup(SOURCES, name, "data.source of a language model")
    if bool(rest) != (":" in row.form) or source.endswith(":"):
        raise ValueError(f"data.source {source!r} should be written {row.form}.")
    lookup(dict.fromkeys(SPLITS), split, f"split of {name}")
    if spec.packed and row.joined:
        raise ValueError(
            f"data.packed is for short documents, such as lines:PATH; {source} is "
            "joined anyway: set data.packed=False."
        )
    splits = row.read(rest, spec.held_out)
    training = splits["train"]
    known = training if spec.vocabulary == "bpe" else sum(splits.values(), [])
    vocabulary = vocabularies.build(spec.vocabulary, known, spec.vocabulary_size)
    if not splits[split]:
        raise ValueError(
            f"{source} has no text in split {split!r}; change data.held_out, which is "
            f"{spec.held_out}."
        )
    documents = [vocabulary.encode(text, source) for text in splits[split]]
    if row.joined:
        stride = 1 if split == "train" else spec.context
        return windows(documents, vocabulary, spec.context, stride, source)
    return padded(documents, vocabulary, spec.context, spec.packed, source)


def tokens_field(length: int, vocabulary: Vocabulary) -> base.Field:
    """Returns the field of token sequences."""
    size = len(vocabulary)
    return base.Field((length,), np.int32, "tokens", size=size, vocabulary=vocabulary)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(base.Source):
    """Overlapping or adjacent pieces of one long sequence.

    Args:
      tokens: i32[N].
      fields: of an example: tokens [L].
      stride: example i begins at token i * stride; the last one may be padded.
    """

    tokens: np.ndarray
    fields: dict[str, base.Field]
    stride: int

    def __len__(self) -> int:
        if self.stride == 1:
            return len(self.tokens) - self._length + 1
        return -(-(len(self.tokens) - 1) // self.stride)

    def __getitem__(self, i: int) -> base.Example:
        return {name: x[0] for name, x in self.read(np.array([i])).items()}

    def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.read`."""
        first = index % len(self) * self.stride
        position = first[:, None] + np.arange(self._length)
        inside = position < len(self.tokens)
        tokens = self.tokens[np.where(inside, position, 0)]
        return {"tokens": np.where(inside, tokens, PAD).astype(np.int32)}

    @property
    def _length(self) -> int:
        return self.fields["tokens"].shape[0]


def windows(
    documents: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    context: int,
    stride: int,
    name: str,
) -> Windows:
    """Joins documents, with an END before, between and after them, and cuts windows.

    Args:
      documents: i32[L] each.
      vocabulary: of the documents.
      context: tokens that a window predicts; it has one more.
      stride: distance between windows; `context` predicts every token once.
      name: used in error messages.

    Raises:
      ValueError: there are fewer tokens than in one window of stride 1.
    """
    end = np.array([END], np.int32)
    tokens = np.concatenate([end, *(x for text in documents for x in (text, end))])
    if stride == 1 and len(tokens) <= context:
        raise ValueError(
            f"{name} has {len(tokens)} tokens with its ends, and data.context = "
            f"{context} needs at least {context + 1}: use a longer text or a smaller "
            "context."
        )
    return Windows(tokens, {"tokens": tokens_field(context + 1, vocabulary)}, stride)


def padded(
    documents: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    context: int,
    packed: bool,
    name: str,
) -> base.ArraySource:
    """Makes an example of each document, or of as many as fit into one.

    Args:
      documents: i32[L] each.
      vocabulary: of the documents.
      context: tokens that an example predicts.
      packed: whether documents share an example, by first fit in order of falling
        length. Which ones do does not depend on the epoch, so that batches remain a
        function of the step.
      name: used in error messages.

    Raises:
      ValueError: a document is longer than an example.
    """
    length = context + 1
    texts = [np.concatenate([[END], text, [END]]) for text in documents]
    longest = max(map(len, texts))
    if longest > length:
        raise ValueError(
            f"{name}: the longest document has {longest - 2} tokens, and data.context "
            f"= {context} leaves room for {context - 1}: set data.context="
            f"{longest - 1} or more."
        )
    rows = (
        pack([len(x) for x in texts], length)
        if packed
        else [[i] for i in range(len(texts))]
    )
    tokens = np.full((len(rows), length), PAD, np.int32)
    segment = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        start = 0
        for number, j in enumerate(row, 1):
            here = slice(start, start + len(texts[j]))
            tokens[i, here], segment[i, here] = texts[j], number
            start = here.stop
    arrays, fields = {"tokens": tokens}, {"tokens": tokens_field(length, vocabulary)}
    if packed:
        arrays["segment"] = segment
        fields["segment"] = base.Field((length,), np.int32, "segment")
    return base.ArraySource(arrays, fields, name)


def sequence(source: base.Source) -> np.ndarray:
    """Returns the documents of a source that `make` has opened, one after the other.

    Returns:
      i32[N], with padding before each document, or before the first one if they are
      joined. What an example predicts is every token but those after padding.
    """
    if isinstance(source, Windows):
        return np.concatenate([[PAD], source.tokens])
    tokens = source.arrays["tokens"]
    segment = source.arrays.get("segment", np.zeros_like(tokens))
    before = np.pad(segment, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return np.insert(tokens, np.flatnonzero(segment != before), PAD)


def fingerprint(source: base.Source) -> str:
    """Hashes the documents of a source that `make` has opened.

    The order of the documents does not matter, nor does the vocabulary, as long as it
    keeps white space: that of "words" does not.
    """
    tokens = sequence(source)
    vocabulary = source.fields["tokens"].vocabulary
    pieces = np.split(tokens, np.flatnonzero(tokens == END))
    documents = sorted(vocabulary.decode(x[x != END]) for x in pieces)
    text = "\n".join(filter(None, documents))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Distributes items over as few bins as first fit by falling length needs.

    Args:
      lengths: of the items, each at most `size`.
      size: of a bin.

    Returns:
      The items of each bin.
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]  # bins by room left
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = next((r for r in range(lengths[item], size + 1) if by_room[r]), None)
        if room is None:
            bins.append([])
            number, room = len(bins) - 1, size
        else:
            number = by_room[room].pop(0)
        bins[number].append(item)
        by_room[room - lengths[item]].append(number)
    return bins


def split_by_hash(
    documents: Mapping[str, str], held_out: float, weigh: Callable[[str], int]
) -> Splits:
    """Splits documents by the hash of their keys, whatever their order.

    Args:
      documents: text by key; the keys are hashed.
      held_out: share of the whole that is split 'test'.
      weigh: text -> its size.

    Returns:
      The documents of each split, in their order. The test split has those of the
      smallest hashes, whose sizes together reach the share.
    """
    digests = {key: hashlib.blake2b(key.encode()).digest() for key in documents}
    room = held_out * sum(map(weigh, documents.values()))
    test = set()
    for key in sorted(documents, key=digests.__getitem__):
        if room <= 0:
            break
        test.add(key)
        room -= weigh(documents[key])
    return {
        "train": [text for key, text in documents.items() if key not in test],
        "test": [text for key, text in documents.items() if key in test],
    }


def files(name: str, rest: str) -> dict[str, pathlib.Path]:
    """Finds the files of the source NAME:REST.

    Returns:
      The path of each split that has a file of its own: train.txt and test.txt, if REST
      is a folder. Otherwise 'train' alone: one file, which is to be split.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if rest == "PATH":  # as in the config files
        raise ValueError(
            f"data.source is {name}:PATH: set --config.data.source={name}:YOUR_FILE."
        )
    path = paths.local(rest)
    found = {"train": path}
    if path.is_dir():
        found = {split: path / f"{split}.txt" for split in SPLITS}
    for file in found.values():
        if not file.is_file():
            raise FileNotFoundError(f"{name}:{rest}: no file {file}; correct the path.")
    return found


def read(path: pathlib.Path, allow_empty: bool = False) -> str:
    """Returns the text of a file, without a byte-order mark.

    Args:
      path: of the file.
      allow_empty: whether the text may consist of white space only.

    Raises:
      ValueError: it is empty, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it.") from error
    if not (allow_empty or text.strip()):
        raise ValueError(f"{path} is empty; choose a file with text.")
    return text


def _python_docs(rest: str, held_out: float) -> Splits:
    from pydoc_data import topics

    return split_by_hash(dict(sorted(topics.topics.items())), held_out, len)


def _file(rest: str, held_out: float) -> Splits:
    texts = {split: read(path) for split, path in files("text", rest).items()}
    if "test" in texts:
        return {split: [text] for split, text in texts.items()}
    text = texts["train"]
    cut = int(len(text) * (1 - held_out))
    return {"train": [text[:cut]], "test": [text[cut:]] if cut < len(text) else []}


def _lines(rest: str, held_out: float) -> Splits:
    found = {
        split: list(filter(None, read(path).splitlines()))
        for split, path in files("lines", rest).items()
    }
    if "test" in found:
        return found
    lines = found["train"]
    counts = collections.Counter(lines)
    splits = split_by_hash({x: x for x in counts}, held_out, counts.__getitem__)
    test = set(splits["test"])
    return {
        "train": [line for line in lines if line not in test],
        "test": [line for line in lines if line in test],
    }


class Row(NamedTuple):
    """How a source of text is read.

    Attributes:
      read: (rest of the name, share that is held out) -> documents by split.
      form: how data.source is written.
      joined: whether documents are joined and cut, or padded one by one.
    """

    read: Callable[[str, float], Splits]
    form: str
    joined: bool


SOURCES = {
    "python_docs": Row(_python_docs, "python_docs", joined=True),
    "text": Row(_file, "text:PATH", joined=True),
    "lines": Row(_lines, "lines:PATH", joined=False),
}
