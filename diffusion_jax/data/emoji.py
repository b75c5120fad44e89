"""Emoji with their English names: the bitmaps of a font, such as Noto Color Emoji."""

import importlib.util
import io
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator

from PIL import Image

from diffusion_jax import paths
from diffusion_jax.data import base, captions
from diffusion_jax.data.splits import hash_of
from diffusion_jax.lookup import lookup

LOGGER = logging.getLogger(__name__)

# Of Debian's package fonts-noto-color-emoji.
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SPLITS = ("train", "test", "unseen")
UNSEEN_SHARE = 0.1  # of the combinations of role, gender and skin tone
_TONE = re.compile(" (light|medium-light|medium|medium-dark|dark) skin tone")
_VARIATION_SELECTOR = "\ufe0f"  # asks for colour; fonts of emoji need not be asked


def open_emoji(rest: str, spec: base.ImageSpec) -> base.Source:
    """Opens the emoji that are in a font and have a name in the package emoji.

    Captions are the names, such as "woman firefighter medium skin tone". Emoji of a
    split that the font lacks are left out.

    Args:
      rest: path of a font with bitmaps (a table CBDT), such as NotoColorEmoji.ttf; ""
        for where Debian installs it.
      spec: with the split 'unseen' (a tenth of the combinations of role, gender and
        skin tone), 'test' (the share held_out of the other emoji, by the hash of the
        name) or 'train'; and the size and channels that the bitmaps are converted to.

    Returns:
      A source of images, captions, and labels, which are 0.

    Raises:
      FileNotFoundError: there is no such file.
      ModuleNotFoundError: the package fonttools or emoji is missing.
      ValueError: the file is not such a font, or the split is unknown or empty.
    """
    lookup(dict.fromkeys(SPLITS), spec.split, "split of emoji")
    path = paths.local(rest or FONT)
    if not path.is_file():
        raise FileNotFoundError(
            f"emoji: no font {path}; install it with apt-get install "
            "fonts-noto-color-emoji, or name another one by emoji:PATH."
        )
    for package in ("emoji", "fontTools"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"data.source=emoji needs the package {package.lower()}: pip install "
                "'diffusion_jax[emoji]'."
            )
    names = dict(_names())
    bitmaps, version = _bitmaps(path, names)
    chosen = [
        emoji
        for emoji in bitmaps
        if split_of(names[emoji], spec.held_out) == spec.split
    ]
    LOGGER.info(
        "%s: %s, with %d of %d emoji; %d in split %r.",
        path,
        version,
        len(bitmaps),
        len(names),
        len(chosen),
        spec.split,
    )
    if not chosen:
        raise ValueError(
            f"{path} has no emoji for the split {spec.split!r}; choose another font or "
            f"another data.held_out, which is {spec.held_out}."
        )

    def decode(i: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(bitmaps[chosen[i]])), 0

    source = base.lazy_images(
        len(chosen),
        decode,
        spec,
        base.label_field(1),
        f"emoji:{path}",
        lambda i: f"{path}: {names[chosen[i]]}",
        lambda: base.Identities(chosen, by_content=False),
    )
    field = captions.caption_field(names[emoji] for emoji in bitmaps)
    choices = [[names[emoji]] for emoji in chosen]
    return captions.add(source, field, choices, by_class=False)


def split_of(name: str, held_out: float) -> str:
    """Returns the split of an emoji with this name; see `open_emoji`."""
    person = parse_person(name)
    if person and hash_of(" ".join(person)) < UNSEEN_SHARE:
        return "unseen"
    return "test" if hash_of(name) < held_out else "train"


def parse_person(name: str) -> tuple[str, str, str] | None:
    """Returns the role, gender and skin tone of an emoji.

    Args:
      name: such as "woman firefighter medium skin tone".

    Returns:
      Such as ("firefighter", "woman", "medium"); None if it lacks one of them, or shows
      several people.
    """
    tones = _TONE.findall(name)
    gender, _, role = _TONE.sub("", name).partition(" ")
    several = role.startswith("and ")
    if len(tones) != 1 or gender not in ("man", "woman") or not role or several:
        return None
    return role, gender, tones[0]


def _names() -> Iterator[tuple[str, str]]:
    """Yields the emoji of the package of that name, and their captions."""
    import emoji

    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] == emoji.STATUS["fully_qualified"]:
            yield text, captions.normalise(entry["en"].strip(":").replace("_", " "))


def _bitmaps(path: pathlib.Path, wanted: Iterable[str]) -> tuple[dict[str, bytes], str]:
    """Reads the bitmaps of a font.

    Args:
      path: of the font.
      wanted: emoji; those that the font lacks are left out.

    Returns:
      A PNG file for each emoji, and the version of the font.
    """
    from fontTools import ttLib

    try:
        font = ttLib.TTFont(path, lazy=True)
    except ttLib.TTLibError as error:
        raise ValueError(
            f"{path} is not a font ({error}); choose another file."
        ) from error
    with font:
        if "CBDT" not in font:
            raise ValueError(
                f"{path} has no bitmaps (a table CBDT), perhaps since it has outlines "
                "(COLRv1); choose another font, such as Debian's "
                "fonts-noto-color-emoji."
            )
        sizes = [strike.bitmapSizeTable.ppemY for strike in font["CBLC"].strikes]
        glyphs = font["CBDT"].strikeData[sizes.index(max(sizes))]
        of_character, ligatures = font.getBestCmap(), _ligatures(font)
        found = {}
        for emoji in wanted:
            codes = [ord(x) for x in emoji if x != _VARIATION_SELECTOR]
            sequence = tuple(map(of_character.get, codes))
            glyph = ligatures.get(sequence, sequence[0])
            if (len(sequence) == 1 or sequence in ligatures) and glyph in glyphs:
                found[emoji] = glyphs[glyph].imageData
        return found, font["name"].getDebugName(5) or "of unknown version"


def _ligatures(font) -> dict[tuple[str, ...], str]:
    """Returns the glyph that replaces each sequence of glyphs, such as a flag."""
    found = {}
    lookups = font["GSUB"].table.LookupList.Lookup if "GSUB" in font else []
    for table in (table for x in lookups for table in x.SubTable):
        for first, options in getattr(table, "ligatures", {}).items():
            for option in options:
                found.setdefault((first, *option.Component), option.LigGlyph)
    return found
