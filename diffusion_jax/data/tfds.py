"""TFDS data sets prepared as ArrayRecord, read without TensorFlow."""

import os
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data import base


def open_builder(rest: str, data_dir: str | None) -> Any:
    """Opens a prepared data set.

    Args:
      rest: NAME[/CONFIG][:VERSION].
      data_dir: folder or URL of the prepared data sets; empty: TFDS's own.

    Returns:
      Its `tfds.core.DatasetBuilder`.

    Raises:
      FileNotFoundError, ValueError: see `open_tfds`.
    """
    import tensorflow_datasets as tfds

    name = f"tfds:{rest}"
    data_dir = os.path.expanduser(data_dir) if data_dir else None  # may be a URL
    remedy = (
        f"prepare it with: pip install -e '.[prepare]' && tfds build {rest} "
        "--file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
    )
    try:
        builder = tfds.builder(rest, data_dir=data_dir, file_format="array_record")
        prepared = builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        raise FileNotFoundError(
            f"{name} is neither in {data_dir or 'the default data_dir'} nor known "
            f"to TFDS; correct the name, or {remedy}"
        ) from None
    except (AssertionError, ValueError) as error:  # Version, config, file format.
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise ValueError(
            f"{name} cannot be opened: {reason}; correct the name or choose "
            f"another data_dir, then {remedy}"
        ) from error
    if not prepared:
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_dir}; {remedy}"
        )
    return builder


def open_tfds(rest: str, spec: base.ImageSpec) -> base.Source:
    """Opens a prepared TFDS data set of images.

    Args:
      rest: NAME[/CONFIG][:VERSION], such as cycle_gan/horse2zebra.
      spec: with a split in the syntax of TFDS: trainA, train[:90%], ...

    Returns:
      A source of images; the label is the feature 'label', or 0 if there is none.

    Raises:
      FileNotFoundError: the data set is not prepared or not known to TFDS.
      ValueError: the version, config, file format or split is unknown, the split is
        empty, or the data set has no 8-bit images.
    """
    name = f"tfds:{rest}"
    builder = open_builder(rest, spec.data_dir)
    features = builder.info.features
    image, label = (features[k] if k in features else None for k in ("image", "label"))
    if image is None or image.np_dtype != np.uint8 or len(image.shape) != 3:
        raise ValueError(
            f"{name} has the features {', '.join(features)} but no 8-bit 'image'; "
            "choose a data set of images."
        )
    try:
        examples = builder.as_data_source(spec.split)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not len(examples):
        raise ValueError(f"{name}: split {spec.split!r} is empty; choose another.")
    has_label = label is not None and np.issubdtype(label.np_dtype, np.integer)
    has_label = has_label and label.shape == ()

    if image.shape[-1] == 4:
        size = len(examples)
        base.warn_of_transparency(name, size, size, spec.background)

    def decode(i: int) -> tuple[Image.Image, int]:
        example = examples[i]
        pixels = example["image"]
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        return Image.fromarray(pixels), example["label"] if has_label else 0

    def describe(i: int) -> str:
        return f"{name}: example {i} of split {spec.split!r}"

    def identify() -> base.Identities:
        shards = builder.info.splits[spec.split].file_instructions
        places = [
            (shard.filename, i)
            for shard in shards
            for i in range(shard.skip, shard.skip + shard.take)
        ]
        return base.Identities(places, by_content=False)

    num_classes = getattr(label, "num_classes", None) if has_label else 1
    names = tuple(getattr(label, "names", None) or ()) if has_label else ()
    label = base.label_field(num_classes, names)
    return base.lazy_images(
        len(examples), decode, spec, label, name, describe, identify
    )


CAPTIONS = ("caption", "captions", "text")  # features that may contain captions


def caption_feature(builder: Any) -> str | None:
    """Returns the name of the feature with captions, or None if there is none.

    It is the first of CAPTIONS that is a text, a sequence of texts or, as in
    coco_captions, a sequence of {"text": ..., ...}.

    Args:
      builder: see `open_builder`.
    """
    import tensorflow_datasets as tfds

    def has_texts(feature: Any) -> bool:
        inner = getattr(feature, "feature", feature)  # of a sequence
        if isinstance(inner, tfds.features.FeaturesDict) and "text" in inner:
            inner = inner["text"]
        return isinstance(inner, tfds.features.Text)

    features = builder.info.features
    return next((x for x in CAPTIONS if x in features and has_texts(features[x])), None)


def read_captions(builder: Any, split: str) -> list[list[str]]:
    """Reads the captions of each example of a split, without decoding its images.

    Args:
      builder: see `open_builder`; with a `caption_feature`.
      split: in the syntax of TFDS.
    """
    import tensorflow_datasets as tfds

    name = caption_feature(builder)
    skipped = {
        key: tfds.decode.SkipDecoding() for key in builder.info.features if key != name
    }
    values = (x[name] for x in builder.as_data_source(split, decoders=skipped))
    texts = (value["text"] if isinstance(value, dict) else value for value in values)
    return [[text.decode() for text in np.atleast_1d(row).tolist()] for row in texts]
