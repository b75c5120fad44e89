"""TFDS data sets prepared as ArrayRecord, read without TensorFlow."""

import os

import numpy as np
from PIL import Image

from diffusion_jax.data import base


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
    import tensorflow_datasets as tfds

    name, data_dir = f"tfds:{rest}", spec.data_dir
    data_dir = os.path.expanduser(data_dir) if data_dir else None  # may be a URL
    remedy = (
        f"prepare it with: pip install -e '.[prepare]' && tfds build {rest} "
        "--file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
    )
    try:
        builder = tfds.builder(rest, data_dir=data_dir, file_format="array_record")
        features, prepared = builder.info.features, builder.is_prepared()
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
