"""Vocabularies: between text and token ids."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.lookup import lookup
from diffusion_jax.special_tokens import END, PAD

NUM_SPECIAL = 2


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Maps text to token ids and back; the ids 0 and 1 are padding and end of text.

    Attributes:
      kind: how text is split into tokens, a name in KINDS.
      tokens: the token of each id from 2 on; empty for "bytes".
      merges: pairs of tokens that byte-pair encoding joins, in order; else empty.
    """

    kind: str
    tokens: tuple[str, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        lookup(KINDS, self.kind, "data.vocabulary")

    def __len__(self) -> int:
        """Returns the number of ids, with the special ones."""
        return NUM_SPECIAL + (256 if self.kind == "bytes" else len(self.tokens))

    def encode(self, text: str, name: str = "The text") -> np.ndarray:
        """Returns the ids of a text, int32 [L], without an end.

        Args:
          text: any text.
          name: of the text, for the message.

        Raises:
          ValueError: it contains a token that is not in the vocabulary.
        """
        if self.kind == "bytes":
            data = np.frombuffer(text.encode(), np.uint8)
            return data.astype(np.int32) + NUM_SPECIAL
        if self.kind == "bpe":
            return np.array(self._bpe.encode(text).ids, np.int32) + NUM_SPECIAL
        ids, pieces = self._ids, _SPLITTERS[self.kind].split(text)
        unknown = sorted({piece for piece in pieces if piece not in ids})
        if unknown:
            known = " ".join(map(repr, self.tokens[:60]))
            more = ", ..." if len(self.tokens) > 60 else ""
            raise ValueError(
                f"{name} contains {', '.join(map(repr, unknown[:10]))}, which the "
                f"training data do not. Known: {known}{more}."
            )
        return np.fromiter((ids[piece] for piece in pieces), np.int32, len(pieces))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids up to the first end; padding is left out."""
        kept = []
        for i in ids:
            if i == END:
                break
            if i != PAD:
                kept.append(int(i) - NUM_SPECIAL)
        if self.kind == "bytes":
            return bytes(kept).decode(errors="replace")
        if self.kind == "bpe":
            return self._bpe.decode(kept)
        return _SPLITTERS[self.kind].separator.join(self.tokens[i] for i in kept)

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        """Returns each token of ids as text, up to and with the first end."""
        found = []
        for i in ids:
            if i == END:
                return [*found, "END"]
            if i != PAD:
                found.append(self.decode([i]))
        return found

    @functools.cached_property
    def num_characters(self) -> np.ndarray:
        """The number of characters of each id, int32 [V]; 0 for padding and end.

        Of a character of several bytes, only the first one counts, and a word counts
        the space after it.
        """
        if self.kind == "bytes":
            counts = [_num_characters([byte]) for byte in range(256)]
        elif self.kind == "bpe":
            values = _byte_values()
            counts = [_num_characters([values[x] for x in t]) for t in self.tokens]
        else:
            space = len(_SPLITTERS[self.kind].separator)
            counts = [len(token) + space for token in self.tokens]
        return np.array([0] * NUM_SPECIAL + counts, np.int32)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens, NUM_SPECIAL)}

    @functools.cached_property
    def _bpe(self) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        ids = {token: i for i, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.BPE(ids, list(self.merges)))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer


def build(kind: str, texts: Iterable[str], size: int = 0) -> Vocabulary:
    """Builds the vocabulary of texts.

    Args:
      kind: "characters", "words" (separated by single spaces), "bytes" or "bpe".
      texts: all texts to be encoded; for "bpe" those of the training split are enough,
        since it can encode any text.
      size: number of ids of "bpe"; other kinds have as many as they need.

    Raises:
      ValueError: the kind is unknown, or the size of "bpe" is less than 258.
      ModuleNotFoundError: "bpe" without the package tokenizers.
    """
    lookup(KINDS, kind, "data.vocabulary")
    if kind == "bytes":
        return Vocabulary(kind)
    if kind == "bpe":
        return _train_bpe(texts, size)
    split = _SPLITTERS[kind].split
    return Vocabulary(kind, tuple(sorted({x for text in texts for x in split(text)})))


def _train_bpe(texts: Iterable[str], size: int) -> Vocabulary:
    """Merges the most frequent pair of tokens until there are `size` ids.

    Source: Sennrich et al. 2016, algorithm 1, arXiv:1508.07909; on bytes as Radford et
    al. 2019 (GPT-2), section 2.2.
    """
    if size < NUM_SPECIAL + 256:
        raise ValueError(
            f"data.vocabulary_size is {size}; bpe needs at least {NUM_SPECIAL + 256}, "
            "the padding, the end and 256 bytes."
        )
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ModuleNotFoundError as error:
        error.msg = (
            "data.vocabulary=bpe needs the package tokenizers: pip install "
            "'diffusion_jax[text]'."
        )
        raise
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - NUM_SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return Vocabulary("bpe", tuple(tokens), tuple(map(tuple, model["merges"])))


def _num_characters(values: Iterable[int]) -> int:
    """Counts the bytes that begin a character in UTF-8; 10xxxxxx continue one."""
    return sum(value & 0xC0 != 0x80 for value in values)


def _byte_values() -> dict[str, int]:
    """Returns the byte of each character of the tokens of byte-level "bpe".

    Visible bytes of Latin-1 stand for themselves, the others in turn for the characters
    from 256 on.

    Source: Radford et al. 2019 (GPT-2), encoder.py of its code.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in visible]
    numbers = {256 + i: value for i, value in enumerate(others)}
    return {chr(i): value for i, value in ({x: x for x in visible} | numbers).items()}


class _Splitter(NamedTuple):
    split: Callable[[str], list[str]]
    separator: str


_SPLITTERS = {
    "characters": _Splitter(list, ""),
    "words": _Splitter(str.split, " "),
}
KINDS = dict.fromkeys((*_SPLITTERS, "bytes", "bpe"))
