"""Captioned images: an image source with one more field, the caption."""

import dataclasses
import json
import os
import pathlib
import posixpath
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures

import numpy as np

from diffusion_jax import paths
from diffusion_jax.data import base, folders, texts, tfds
from diffusion_jax.data import vocabulary as vocabularies
from diffusion_jax.data.splits import hash_of
from diffusion_jax.special_tokens import END, PAD

NUMBERS = tuple("zero one two three four five six seven eight nine".split())
FASHION_MNIST = (
    "t-shirt",
    "pair of trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TEMPLATES = ("{a} {name}", "a picture of {a} {name}")
DIGIT_TEMPLATES = (*TEMPLATES, "the digit {name}")
TABLES = ("captions.tsv", "captions.jsonl", "metadata.jsonl")

_PUNCTUATION = string.punctuation + "“”‘’…"


def normalise(text: str) -> str:
    """Returns the words of a caption: lower case, without punctuation around them.

    Accents are composed, as they may be written in two ways.
    """
    text = unicodedata.normalize("NFC", text.lower().replace("’", "'"))
    return " ".join(word.strip(_PUNCTUATION) or word for word in text.split())


def caption_field(captions: Iterable[str]) -> base.Field:
    """Returns the field of captions, int32 [L + 1] for captions of at most L words.

    Args:
      captions: normalised, those of all splits.
    """
    captions = list(captions)
    longest = max(len(text.split()) for text in captions)
    return texts.tokens_field(longest + 1, vocabularies.build("words", captions))


def encode(field: base.Field, text: str, name: str = "The caption") -> np.ndarray:
    """Returns the tokens of a caption, or of a prompt, as the field has them.

    Args:
      field: of the captions.
      text: any text; it is normalised.
      name: of the text, for messages.

    Returns:
      int32 [L + 1]: the words, END, and padding.

    Raises:
      ValueError: the text is empty, has an unknown word or is too long.
    """
    ids = field.vocabulary.encode(normalise(text), name)
    longest = field.shape[0] - 1
    if not len(ids):
        raise ValueError(f"{name} is empty; write a caption of 1 to {longest} words.")
    if len(ids) > longest:
        raise ValueError(
            f"{name} has {len(ids)} words, and the longest caption of the data has "
            f"{longest}; shorten it."
        )
    row = np.full(longest + 1, PAD, np.int32)
    row[: len(ids) + 1] = [*ids, END]
    return row


def encode_prompts(field: base.Field, text: str | Sequence[str]) -> np.ndarray:
    """Returns the tokens of prompts, int32 [k, L + 1].

    Args:
      field: of the captions.
      text: the prompts, with "|" between them, or a sequence of prompts, or "@PATH": a
        file with a prompt on each line; empty lines are skipped.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: see `encode` and `texts.read`.
    """
    if isinstance(text, str) and text.startswith("@"):
        prompts = _read_prompts(paths.local(text.removeprefix("@")))
    else:
        prompts = text.split("|") if isinstance(text, str) else text
    if not len(prompts):
        raise ValueError("sample.prompt has no prompts: give at least one.")
    return np.stack([encode(field, prompt, "sample.prompt") for prompt in prompts])


def _read_prompts(path: pathlib.Path) -> list[str]:
    """Returns the lines of a file that are not empty."""
    if not path.is_file():
        raise FileNotFoundError(
            f"sample.prompt names the file {path}, which is not there: correct the "
            "path after the @."
        )
    return [line for line in texts.read(path).splitlines() if line.strip()]


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedArrays(base.ArraySource):
    """Captioned images in memory; captions do not tell examples apart."""

    def identities(self) -> base.Identities:
        """See `base.ArraySource.identities`; those of the images without captions."""
        arrays, fields = (
            {key: value for key, value in of.items() if key != "caption"}
            for of in (self.arrays, self.fields)
        )
        return base.ArraySource(arrays, fields, self.name, self.positions).identities()


def add(
    source: base.Source,
    field: base.Field,
    choices: Sequence[Sequence[str]],
    by_class: bool,
) -> base.Source:
    """Adds a caption to every example of a source.

    Args:
      source: images with labels.
      field: of the captions.
      choices: captions of each class, or of each example. An example always has the
        same one of them, chosen by a hash of its index.
      by_class: whether they are those of each class.

    Returns:
      A source with the fields of `source`, and caption; in memory if `source` is.
    """
    if isinstance(source, base.Skipping):  # the next image comes with its own caption
        inner = add(source.source, field, choices, by_class)
        return dataclasses.replace(source, source=inner)
    rows = [np.stack([encode(field, text) for text in group]) for group in choices]
    fields = {**source.fields, "caption": field}

    def caption(i: int, label: int) -> np.ndarray:
        options = rows[label if by_class else i]
        return options[int(hash_of(str(i)) * len(options))]

    if isinstance(source, base.ArraySource):
        every = np.stack([caption(*x) for x in enumerate(source.arrays["label"])])
        arrays = {**source.arrays, "caption": every}
        return CaptionedArrays(arrays, fields, source.name, source.positions)

    def example(i: int) -> base.Example:
        plain = source[i]
        return plain | {"caption": caption(i, plain["label"])}

    return base.LazySource(len(source), example, fields, "captions", source.identities)


def class_names(name: str, label: base.Field) -> tuple[str, ...]:
    """Returns how captions call the classes of a source.

        digits            zero to nine
        idx:PATH          Fashion-MNIST's garments if the last part of the path contains
                          "fashion", otherwise zero to nine
        other sources     the names that the source has; those of one digit are spelled

    Args:
      name: of the source, as in data.source.
      label: the field of its labels.

    Returns:
      A name for each class, or () if they have none.
    """
    kind, _, path = name.partition(":")
    names = label.names
    if not names and kind in ("digits", "idx") and label.size <= len(NUMBERS):
        folder = paths.local(path).resolve().name.lower() if path else ""
        names = FASHION_MNIST if "fashion" in folder else NUMBERS
    spelled = dict(zip("0123456789", NUMBERS))
    return tuple(spelled.get(x) or normalise(x.replace("_", " ")) or x for x in names)


def by_class(source: base.Source, name: str) -> base.Source:
    """Adds captions made of the names of the classes, such as "a picture of a coat".

    Args:
      source: images with labels.
      name: of the source, as in data.source.

    Raises:
      ValueError: there are no images, no names, or captions already.
    """
    kinds = {field.kind for field in source.fields.values()}
    if "image" not in kinds:
        raise ValueError(f"captions:{name}: {name} has no images; choose another one.")
    if "tokens" in kinds:
        raise ValueError(f"{name} has captions already: use data.source={name}.")
    names = class_names(name, source.fields["label"])
    if not names:
        raise ValueError(
            f"captions:{name}: the classes have no names to make captions of; use a "
            "folder with one subfolder per class, or with captions."
        )
    templates = DIGIT_TEMPLATES if set(names) <= set(NUMBERS) else TEMPLATES
    choices = [[x.format(a=article(n), name=n) for x in templates] for n in names]
    return add(source, caption_field(sum(choices, [])), choices, by_class=True)


def article(noun: str) -> str:
    """Returns "a" or "an" by the spelling of a noun, not by its sound: "a hour"."""
    vowel = noun[0] in "aeiou" and not noun.startswith(("one", "uni", "eu"))
    return "an" if vowel else "a"


def open_folder(rest: str, spec: base.ImageSpec) -> base.Source:
    """Opens a folder of images, see `folders.open_folder`, with their captions.

        PATH/captions.tsv    lines of a file's path, a tab and a caption
        PATH/captions.jsonl  lines such as {"file_name": "x.png", "text": "a dog"}; also
                             metadata.jsonl, as Hugging Face's imagefolder calls it
        PATH/.../x.txt       next to x.png, one caption a line
        PATH/CLASS/x.png     otherwise, captions made of the names of the classes

    The first of these that is there counts; the tables may also lie in a folder below
    PATH, such as that of a split, and paths begin at their own folder.

    Args:
      rest: path of the folder.
      spec: see `folders.open_folder`.

    Raises:
      FileNotFoundError: there is no such folder, or it contains no images.
      ValueError: an image has no caption, a line of a table is not as described, or
        `folders.open_folder` refuses the folder.
    """
    contents = folders.scan(rest, spec.held_out)
    source = folders.open_contents(contents, spec)
    files = sorted({x for split in contents.splits.values() for x in split})
    captions = _from_tables(contents) or _from_texts(contents.root, files)
    if not captions and contents.classes:
        return by_class(source, contents.name)
    for file in files:
        if not captions.get(file.text):
            text = os.path.splitext(file.text)[0] + ".txt"
            raise ValueError(
                f"captions:{contents.name}: {file.text} has no caption; write one into "
                f"{text}, or add it to {TABLES[0]} or {TABLES[1]}."
            )
    field = caption_field(text for file in files for text in captions[file.text])
    chosen = contents.files(spec.split)
    return add(source, field, [captions[x.text] for x in chosen], by_class=False)


def open_tfds(rest: str, spec: base.ImageSpec) -> base.Source:
    """Opens a TFDS data set, see `tfds.open_tfds`, with its captions.

    Without a feature of captions, they are made of the names of the classes.

    Args:
      rest: NAME[/CONFIG][:VERSION].
      spec: see `tfds.open_tfds`.

    Raises:
      ValueError: an example has no caption.
      FileNotFoundError, ValueError: see `tfds.open_tfds`.
    """
    name, source = f"tfds:{rest}", tfds.open_tfds(rest, spec)
    builder = tfds.open_builder(rest, spec.data_dir)
    if not tfds.caption_feature(builder):
        return by_class(source, name)

    def read(split: str) -> list[list[str]]:
        captions = tfds.read_captions(builder, split)
        return [[*filter(None, map(normalise, texts))] for texts in captions]

    captions = read(spec.split)
    if [] in captions:
        raise ValueError(
            f"captions:{name}: example {captions.index([])} of split {spec.split!r} "
            "has no caption; choose another split or data set."
        )
    every = (text for split in builder.info.splits for x in read(split) for text in x)
    return add(source, caption_field(every), captions, by_class=False)


Captions = dict[str, list[str]]  # of each file, by its path below the root


def _from_tables(contents: folders.Contents) -> Captions:
    """Reads the captions of all tables in the folder and those directly below it."""
    captions: Captions = {}
    files = [file for split in contents.splits.values() for file in split]
    tops = {file.place[0] for file in files if len(file.place) > 1}
    for top in ["", *sorted(tops)]:
        tables = [os.path.join(contents.root, top, name) for name in TABLES]
        for table in [*filter(os.path.isfile, tables)][:1]:
            for file, text in _rows(table):
                place = posixpath.normpath(posixpath.join(top, file))
                captions.setdefault(place, []).extend(filter(None, [normalise(text)]))
    return captions


def _rows(path: str) -> Iterator[tuple[str, str]]:
    """Yields the file and the caption of each line of a table."""
    is_json = path.endswith(".jsonl")
    for number, line in enumerate(texts.read(pathlib.Path(path)).split("\n"), 1):
        if not line.strip():
            continue
        try:
            if is_json:
                row = json.loads(line)
                file, text = row["file_name"], row["text"]
            else:
                file, text = line.split("\t")
            valid = isinstance(file, str) and isinstance(text, str)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            form = (
                '{"file_name": "x.png", "text": "a caption"}'
                if is_json
                else "a file, one tab and a caption"
            )
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} is not {form}; correct the line."
            )
        yield file, text


def _from_texts(root: str, files: Sequence[folders.File]) -> Captions:
    """Reads the texts that lie next to images and are called like them.

    Returns:
      The captions of each file that has a text, none if the text is empty.
    """

    def read(file: folders.File) -> list[str] | None:
        path = os.path.splitext(os.path.join(root, *file.place))[0] + ".txt"
        if not os.path.isfile(path):
            return None
        lines = texts.read(pathlib.Path(path), allow_empty=True).split("\n")
        return [*filter(None, map(normalise, lines))]

    with futures.ThreadPoolExecutor(16) as pool:  # Network disks have a high latency.
        found = zip(files, pool.map(read, files))
    return {file.text: lines for file, lines in found if lines is not None}
