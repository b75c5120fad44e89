"""Prepares small TFDS data sets without TensorFlow."""

import io

import numpy as np
from PIL import Image


def prepare(
    data_dir,
    name,
    shape,
    images,
    labels=None,
    suffix="array_record",
    splits=("train",),
    version="3.0.1",
    captions=None,
):
    """Writes what `tfds build` writes: tf.train.Examples and metadata.

    Several splits share the images out equally, in order. Captions are a text for each
    image, or lists of texts, which are stored as in coco_captions.
    """
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image(shape=shape)}
    if labels is not None:
        features["label"] = tfds.features.ClassLabel(num_classes=10)
    several = captions is not None and not isinstance(captions[0], str)
    if several:
        text = {"id": np.int64, "text": tfds.features.Text()}
        features["captions"] = tfds.features.Sequence(text)
    elif captions is not None:
        features["caption"] = tfds.features.Text()
    size = len(images) // len(splits)
    for number, split in enumerate(splits):
        stem = folder / f"{name.split('/')[0]}-{split}.{suffix}-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(stem), "group_size:1")
        for i in range(number * size, (number + 1) * size):
            file, example = io.BytesIO(), tf_example_pb2.Example()
            Image.fromarray(images[i].squeeze()).save(file, "PNG")
            example.features.feature["image"].bytes_list.value.append(file.getvalue())
            if labels is not None:
                example.features.feature["label"].int64_list.value.append(labels[i])
            if captions is not None:
                key = "captions/text" if several else "caption"
                texts = captions[i] if several else [captions[i]]
                values = [text.encode() for text in texts]
                example.features.feature[key].bytes_list.value.extend(values)
            if several:
                ids = range(len(captions[i]))
                example.features.feature["captions/id"].int64_list.value.extend(ids)
            writer.write(example.SerializeToString())
        writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[size],
                num_bytes=1,
                filename_template=None,
            )
            for split in splits
        ],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
