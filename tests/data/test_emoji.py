"""Laws of the emoji: each name comes with the bitmap that its font has for it."""

import collections
import io
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import captions, emoji, sources

package = pytest.importorskip("emoji", reason="needs the extra 'emoji'")
pytest.importorskip("fontTools", reason="needs the extra 'emoji'")

TONES = [chr(0x1F3FB + i) for i in range(5)]
ROLES = ["🚒", "🚀", "🍳", "🌾", "🎓", "🎤", "🏫", "🏭", "💻", "🔧"]
PEOPLE = [f"{x}{tone}\u200d{role}" for role in ROLES for x in "👨👩" for tone in TONES]
SINGLE = ["🚀", "🍳", "🌾", "❤\ufe0f", "🐈", "🍎", "🍌", "🚗", "🚢", "🏠"]
EMOJI = [*SINGLE, "🇫🇷", "👨‍👩‍👧", *PEOPLE]
BORDER, SIDE = 8, 128


def colour(i):
    return (i * 37 % 200, i * 91 % 200, i % 200)


def png(i):
    """A square of a colour of its own, with a transparent border to the left."""
    pixels = np.zeros((SIDE, SIDE + 2 * BORDER, 4), np.uint8)
    pixels[:, 3 * BORDER :] = *colour(i), 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_font(path, bitmaps=True):
    """A font of EMOJI, with ligatures for those of several characters."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables import C_B_D_T_ as cbdt
    from fontTools.ttLib.tables import E_B_L_C_ as eblc
    from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics

    sequences = [[ord(x) for x in text if x != "\ufe0f"] for text in EMOJI]
    codes = sorted({code for sequence in sequences for code in sequence})
    glyph_of = {code: f"u{code:X}" for code in codes}
    ligatures, pictures = [], {}
    for i, sequence in enumerate(sequences):
        glyph = glyph_of[sequence[0]]
        if len(sequence) > 1:
            glyph = f"picture{i}"
            parts = " ".join(map(glyph_of.get, sequence))
            ligatures.append(f"sub {parts} by {glyph};")
        pictures[glyph] = i
    # In the order of the glyphs, as an index of bitmaps wants it.
    names = [".notdef", *glyph_of.values(), *(x for x in pictures if x[0] == "p")]
    builder = FontBuilder(1024)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(glyph_of)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1024, 0)))
    builder.setupHorizontalHeader()
    builder.setupNameTable({"familyName": "Test", "version": "Version 7.5"})
    builder.setupOS2()
    builder.setupPost()
    builder.addOpenTypeFeatures("feature ccmp {" + "\n".join(ligatures) + "} ccmp;")
    font = builder.font
    if bitmaps:
        shown = [x for x in names if x in pictures]
        font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
        font["CBDT"].version = font["CBLC"].version = 3.0
        font["CBDT"].strikeData, font["CBLC"].strikes = [], []
        for size in (20, 109, 40):  # the largest is the one to read
            glyphs = {}
            for x in shown:
                glyph = cbdt.cbdt_bitmap_format_17(b"", font)
                glyph.metrics = SmallGlyphMetrics()
                for key in "height width BearingX BearingY Advance".split():
                    setattr(glyph.metrics, key, 100)
                glyph.imageData = png(pictures[x]) if size == 109 else b"not read"
                glyphs[x] = glyph
            font["CBDT"].strikeData.append(glyphs)
            index = eblc.eblc_index_sub_table_1(b"", font)
            index.imageFormat, index.indexFormat, index.names = 17, 1, shown
            strike, table = eblc.Strike(), eblc.BitmapSizeTable()
            for side in ("hori", "vert"):
                line = eblc.SbitLineMetrics()
                for key in eblc.sbitLineMetricsFormat.split("\n"):
                    if ":" in key:
                        setattr(line, key.split(":")[0].strip(), 0)
                setattr(table, side, line)
            table.colorRef, table.flags, table.bitDepth = 0, 1, 32
            table.ppemX = table.ppemY = size
            strike.bitmapSizeTable, strike.indexSubTables = table, [index]
            font["CBLC"].strikes.append(strike)
    font.save(path)
    return f"emoji:{path}"


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    """data.source of the font."""
    return write_font(tmp_path_factory.mktemp("font") / "a.ttf")


def texts_of(source):
    field, rows = source.fields["caption"], source.read(np.arange(len(source)))
    return [field.vocabulary.decode(row) for row in rows["caption"]]


def name_of(text):
    """The name in the package, by its own function."""
    return package.demojize(text, delimiters=("", "")).replace("_", " ").lower()


def test_names_and_bitmaps(font):
    """Every emoji is in one split, under its name, with its colour over white."""
    expected = {name_of(text): colour(i) for i, text in enumerate(EMOJI)}
    assert len(expected) == len(EMOJI)
    found = {}
    for split in emoji.SPLITS:
        source = sources.make(font, split, 16, 3)
        assert source.fields["image"].shape == (16, 16, 3)
        for text, image in zip(
            texts_of(source), source.read(np.arange(len(source)))["image"]
        ):
            assert text not in found
            found[text] = tuple(image[8, 8].tolist())
            assert image[8, 0].tolist() == [255, 255, 255]
    assert found == expected


def test_background_and_channels(font):
    """Bitmaps go through the transforms that other images go through."""
    source = sources.make(font, "train", (12, 16), 1, background="black")
    assert source.fields["image"].shape == (12, 16, 1)
    assert source[0]["image"][6, 0, 0] == 0


def test_unseen_people(font):
    """Combinations of `unseen` are in no other split, but each of their factors is."""
    people = {}
    fields = []
    for split in emoji.SPLITS:
        source = sources.make(font, split, 8, 3)
        people[split] = list(filter(None, map(emoji.parse_person, texts_of(source))))
        fields.append(source.fields["caption"])
    assert fields[0] == fields[1] == fields[2]
    unseen = set(people["unseen"])
    assert unseen and not unseen & {*people["train"], *people["test"]}
    assert sum(map(len, people.values())) == len(PEOPLE)
    for i in range(3):
        assert {x[i] for x in unseen} <= {x[i] for x in people["train"]}


def test_parse_person():
    """Names of one person with a role, a gender and a skin tone are taken apart."""
    for name, expected in (
        ("woman firefighter medium skin tone", ("firefighter", "woman", "medium")),
        ("man medium-light skin tone red hair", ("red hair", "man", "medium-light")),
        ("man dark skin tone", None),
        ("woman firefighter", None),
        ("firefighter dark skin tone", None),
        ("woman and man holding hands dark skin tone", None),
        ("kiss man man dark skin tone light skin tone", None),
        ("manual wheelchair", None),
    ):
        assert emoji.parse_person(name) == expected


def test_held_out(font):
    """data.held_out is the share of the split test, of those that are not `unseen`."""
    sizes = collections.Counter()
    for split in ("train", "unseen"):
        sizes[split] = len(sources.make(font, split, 8, 3, held_out=0.0))
    assert sum(sizes.values()) == len(EMOJI)
    with pytest.raises(ValueError, match="no emoji for the split 'test'.*held_out"):
        sources.make(font, "test", 8, 3, held_out=0.0)


def test_version_is_logged(font, caplog):
    """The font's version, and how many emoji it has, are logged."""
    caplog.set_level(logging.INFO)
    sources.make(font, "train", 8, 3)
    assert f"Version 7.5, with {len(EMOJI)} of" in caplog.text


def test_refusals(tmp_path, font, monkeypatch):
    """Other files and fonts are refused in one sentence with what to do."""
    write_font(tmp_path / "outlines.ttf", bitmaps=False)
    (tmp_path / "text.ttf").write_text("no font")
    for name, kind, words in (
        ("outlines.ttf", ValueError, "no bitmaps .*COLRv1.*choose another font"),
        ("text.ttf", ValueError, "is not a font"),
        ("nosuch.ttf", FileNotFoundError, "apt-get install fonts-noto-color-emoji"),
    ):
        with pytest.raises(kind, match=words) as caught:
            sources.make(f"emoji:{tmp_path / name}", "train", 8, 3)
        assert "\n" not in str(caught.value)
    for name, split, words in (
        (font, "valid", "Unknown split of emoji 'valid'. Known: train, test, unseen"),
        ("emoji:", "train", "should be written emoji"),
        (f"captions:{font}", "train", f"captions already: use data.source={font}."),
    ):
        with pytest.raises(ValueError, match=words):
            sources.make(name, split, 8, 3)
    monkeypatch.setattr(emoji.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[emoji\]"):
        sources.make(font, "train", 8, 3)


@pytest.mark.skipif(not pathlib.Path(emoji.FONT).exists(), reason="needs the font")
def test_debians_font():
    """Debian's font has bitmaps of thousands of emoji, all with captions."""
    parts = [sources.make("emoji", split, 32, 3) for split in emoji.SPLITS]
    assert sum(map(len, parts)) > 3000 and parts[0][0]["image"].shape == (32, 32, 3)
    assert captions.encode(parts[0].fields["caption"], "red apple").any()
