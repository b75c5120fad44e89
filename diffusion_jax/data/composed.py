"""Pictures composed of one or two objects, and sentences that say how.

Combinations of factors that never occur in training show whether a model composes what
it has learned.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffusion_jax.data import base, captions, transforms
from diffusion_jax.data.splits import hash_of


class Split(NamedTuple):
    """A split of composed pictures.

    Attributes:
      size: number of pictures.
      objects: the split of the base set that their objects are from.
      unseen: whether at least one object has an unseen combination of factors, or none;
        None: any combinations.
    """

    size: int
    objects: str
    unseen: bool | None


SPLITS = {
    "train": Split(2**16, "train", False),
    "test": Split(2**11, "test", False),
    "unseen": Split(2**11, "test", True),
    "all": Split(2**16, "train", None),
}
UNSEEN_SHARE = 0.1  # of the combinations
SIZES = {"small": 3, "large": 2}  # the canvas has so many times the object's side
POLARITIES = ("normal", "inverted")
# The part of the canvas that an object lies in, as shares of the height and the width;
# its centre is that of the part, up to JITTER.
POSITIONS = {
    "centre": ((0, 1), (0, 1)),
    "left": ((0, 1), (0, 1 / 2)),
    "right": ((0, 1), (1 / 2, 1)),
    "top": ((0, 1 / 2), (0, 1)),
    "bottom": ((1 / 2, 1), (0, 1)),
}
JITTER = 1 / 16  # of the canvas
FACTORS = ("label", "size", "polarity", "position")  # labels, as in an Object
PHRASES = {
    "centre": "",
    "left": " on the left",
    "right": " on the right",
    "top": " at the top",
    "bottom": " at the bottom",
}
# Where the first and the second object of a pair are placed.
RELATIONS = {
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
_NAMES = "|".join(captions.NUMBERS + captions.FASHION_MNIST)
_NOUN = f"a ({'|'.join(SIZES)})( inverted)? ({_NAMES})"
_ONE = re.compile(_NOUN + f"({'|'.join(filter(None, PHRASES.values()))})?")
_TWO = re.compile(f"{_NOUN} ({'|'.join(RELATIONS)}) {_NOUN}")


class Object(NamedTuple):
    """What a caption says about an object: its factors.

    Attributes:
      name: of its class.
      size: a key of SIZES.
      polarity: one of POLARITIES.
      position: a key of POSITIONS; of two objects, that of their relation.
    """

    name: str
    size: str
    polarity: str
    position: str

    @property
    def is_unseen(self) -> bool:
        """Whether the combination of factors never occurs in training."""
        return hash_of(" ".join(self)) < UNSEEN_SHARE


def describe(objects: Sequence[Object]) -> str:
    """Returns the caption of one object, or of two that are in a relation.

    Such as "a small three on the left", "a large inverted seven" (in the centre) or "a
    small three left of a large inverted seven"; the inverse of `parse`.
    """
    first, *others = [_noun(x) for x in objects]
    if not others:
        return first + PHRASES[objects[0].position]
    positions = tuple(x.position for x in objects)
    relation = next(x for x, pair in RELATIONS.items() if pair == positions)
    return f"{first} {relation} {others[0]}"


def _noun(thing: Object) -> str:
    inverted = " inverted" if thing.polarity == "inverted" else ""
    return f"a {thing.size}{inverted} {thing.name}"


def parse(caption: str) -> tuple[Object, ...]:
    """Returns the objects of a caption; the inverse of `describe`.

    Raises:
      ValueError: the caption has another form.
    """
    if match := _TWO.fullmatch(caption):
        *one, relation, size, inverted, name = match.groups()
        sides = one, (size, inverted, name)
        positions = RELATIONS[relation]
    elif match := _ONE.fullmatch(caption):
        *one, phrase = match.groups()
        sides = (one,)
        positions = [x for x, known in PHRASES.items() if known == (phrase or "")]
    else:
        raise ValueError(
            f"{caption!r} is no caption of composed pictures, such as 'a small three "
            "on the left', 'a large inverted seven' or 'a small three left of a large "
            "inverted seven'."
        )
    return tuple(
        Object(name, size, "inverted" if inverted else "normal", position)
        for (size, inverted, name), position in zip(sides, positions)
    )


def combinations(names: Sequence[str]) -> Iterator[Object]:
    """Yields all combinations of factors."""
    for factors in itertools.product(names, SIZES, POLARITIES, POSITIONS):
        yield Object(*factors)


def draw(
    random: np.random.RandomState, names: Sequence[str], unseen: bool | None
) -> tuple[Object, ...]:
    """Draws one object, or two in a relation.

    Args:
      random: source of the draws.
      names: of the classes.
      unseen: see `Split`; such a combination of the classes must exist.
    """

    def choice(options: Sequence) -> object:
        return options[random.randint(len(options))]

    while True:
        positions = choice(
            (choice([(x,) for x in POSITIONS]), choice([*RELATIONS.values()]))
        )
        objects = tuple(
            Object(choice(names), choice([*SIZES]), choice(POLARITIES), position)
            for position in positions
        )
        if unseen in (None, any(x.is_unseen for x in objects)):
            return objects


def factor_fields(names: tuple[str, ...]) -> dict[str, base.Field]:
    """Returns the fields of the factors of the objects of a picture.

    label, size, polarity and position are those of the left or upper object of two, and
    label_2, size_2, polarity_2 and position_2 those of the other one, "none" if there
    is only one object. The picture does not show which one its caption names first.

    Args:
      names: of the classes.
    """
    values = (names, tuple(SIZES), POLARITIES, tuple(POSITIONS))
    factors = dict(zip(FACTORS, values, strict=True))
    of_second = {x + base.SECOND: (*y, base.NONE) for x, y in factors.items()}
    every = factors | of_second
    return {x: base.label_field(len(y), y) for x, y in every.items()}


def factors_of(
    objects: Sequence[Object], fields: Mapping[str, base.Field]
) -> dict[str, int]:
    """Returns the factors of one object, or of two, as labels.

    Args:
      objects: in any order.
      fields: see `factor_fields`.
    """
    # In POSITIONS, left comes before right, and top before bottom.
    first, *others = sorted(objects, key=lambda x: [*POSITIONS].index(x.position))
    second = others[0] if others else [base.NONE] * len(FACTORS)
    values = zip(fields, (*first, *second), strict=True)
    return {name: fields[name].names.index(value) for name, value in values}


def place(
    canvas: np.ndarray, image: np.ndarray, thing: Object, jitter: tuple[float, float]
) -> None:
    """Pastes an object into a picture.

    Args:
      canvas: uint8 [H, W, C]; changed.
      image: uint8 [h, w, C].
      thing: its size, polarity and position are used.
      jitter: in [-1, 1], of the height and of the width.
    """
    shape = canvas.shape[:2]
    side = min(shape) // SIZES[thing.size]
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    pixels = np.asarray(transforms.resize_and_crop(pixels, side, side))
    pixels = pixels.reshape(side, side, -1)
    corner = []
    for length, part, offset in zip(shape, POSITIONS[thing.position], jitter):
        low, high = (share * length for share in part)
        start = round((low + high - side) / 2 + JITTER * offset * length)
        corner.append(min(max(start, math.ceil(low)), math.floor(high) - side))
    top, left = corner
    inside = canvas[top : top + side, left : left + side]
    inside[:] = 255 - pixels if thing.polarity == "inverted" else pixels


def compose(
    pictures: base.ArraySource, name: str, spec: base.ImageSpec
) -> base.LazySource:
    """Composes pictures of the images of a source, the same every time.

    Example i of a split is a function of i: one object or two, see `draw`, each with a
    random image of its class, see `place`, on black.

    Args:
      pictures: images in memory, with labels; of the split that the objects of
        spec.split are from.
      name: of the source, as in data.source.
      spec: with the split 'train', 'test' (combinations of factors as in training),
        'unseen' (at least one object in a combination that never occurs there) or
        'all' (all combinations, of the objects of 'train'); the size of the canvas is
        at least twice that of the images.

    Returns:
      A source of images, captions, and the labels of `factor_fields`.

    Raises:
      ValueError: the images do not fit, their classes have no names, or no combination
        of theirs belongs to the split.
    """
    split = SPLITS[spec.split]
    stream = list(SPLITS).index(spec.split)
    images, labels = pictures.arrays["image"], pictures.arrays["label"]
    shape = (*spec.image_size, spec.num_channels)
    side = max(images.shape[1:3])
    if 2 * side > min(spec.image_size) or images.shape[3] != spec.num_channels:
        raise ValueError(
            f"composed:{name}: the objects are {base.shape_text(images.shape[1:])}; "
            f"set data.image_size to at least {2 * side}, better {3 * side}, and "
            f"data.num_channels={images.shape[3]}."
        )
    names = captions.class_names(name, pictures.fields["label"])
    if not names:
        raise ValueError(
            f"composed:{name}: the {pictures.fields['label'].size} classes have no "
            f"names; use digits, or an idx:PATH with at most {len(captions.NUMBERS)}."
        )
    of_class = {text: np.flatnonzero(labels == i) for i, text in enumerate(names)}
    present = [text for text in names if len(of_class[text])]
    if not any(split.unseen in (None, x.is_unseen) for x in combinations(present)):
        raise ValueError(
            f"composed:{name}: no combination of factors of the classes in the data "
            f"({', '.join(present)}) is in split {spec.split!r}; use data with more "
            "classes or another split."
        )
    single = list(combinations(names))
    pairs = [
        tuple(x._replace(position=position) for position in positions)
        for x in single
        for positions in RELATIONS.values()
    ]
    field = captions.caption_field(map(describe, [*((x,) for x in single), *pairs]))
    factors = factor_fields(names)

    def example(i: int) -> base.Example:
        # The draws of RandomState, unlike Generator's, never change.
        random = np.random.RandomState(np.random.Philox([stream, i]))
        objects = draw(random, present, split.unseen)
        canvas = np.zeros(shape, np.uint8)
        for thing in objects:
            chosen = of_class[thing.name][random.randint(len(of_class[thing.name]))]
            place(canvas, images[chosen], thing, random.uniform(-1, 1, 2))
        return {
            "image": canvas,
            "caption": captions.encode(field, describe(objects)),
            **factors_of(objects, factors),
        }

    fields = {"image": base.image_field(shape), "caption": field, **factors}
    places = [(spec.split, i) for i in range(split.size)]
    identities = base.Identities(places, by_content=False)
    return base.LazySource(
        split.size, example, fields, f"composed:{name}", lambda: identities
    )
