"""Writes the outputs of a task to files, by the kind and axes of their fields."""

import csv
import logging
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax import paths, strict_json
from diffusion_jax.data import transforms
from diffusion_jax.data.base import Field
from diffusion_jax.outputs import images, plots
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

GRID_IMAGES = 400  # most images in a grid; the npz file has all of them
MAX_CLASS_COLUMNS, TITLE_LENGTH = 12, 14  # classes in a grid; characters of a name
PRINTED_TEXTS = 4
ALIGNMENTS = 4  # most examples in a picture of alignments
RULE = "-" * 72  # between texts of several lines
Arrays = Mapping[str, np.ndarray]
Fields = Mapping[str, Field]


def save(
    path: pathlib.Path, outputs: Arrays, fields: Fields, animation: bool = False
) -> None:
    """Writes all outputs as arrays, a preview of them, and optionally an animation.

    PATH.npz has every output under its name, images as uint8; for the other files see
    `save_preview`. The animation, PATH.gif, shows the first output with frames of
    images, or else the first one with rows of images, column by column. Only process 0
    writes.

    Args:
      path: path of the files, without a suffix; the folder is created.
      outputs: [N, ...] by name; images f32 in [-1, 1].
      fields: fields of the outputs, by name; other fields are ignored.
      animation: whether to write the animation; logs a warning if there is nothing to
        animate.
    """
    if parallel.process_index() != 0:
        return
    arrays = {
        name: transforms.to_uint8(x) if fields[name].kind == "image" else x
        for name, x in outputs.items()
    }
    with paths.writing(f"{path}.*"):  # first: a picture that fails costs no samples
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
    LOGGER.info("Wrote %s.", path.with_suffix(".npz"))
    save_preview(path, outputs, fields)
    if animation:
        with paths.writing(f"{path}.*"):
            _save_animation(path, arrays, fields)


def _save_animation(path: pathlib.Path, arrays: Arrays, fields: Fields) -> None:
    """Writes the gif file, if there is something to animate."""
    sequences = [
        arrays[name]
        for axis in ("frame", "column")
        for name in arrays
        if fields[name].kind == "image" and axis in fields[name].axes
    ]
    if sequences:
        gif = path.with_suffix(".gif")
        images.save_animation(gif, sequences[0][:GRID_IMAGES])
        LOGGER.info("Wrote %s.", gif)
    else:
        LOGGER.warning(
            "sample.animation has no effect: none of the outputs (%s) has frames or "
            "rows of images.",
            ", ".join(arrays),
        )


def save_preview(path: pathlib.Path, outputs: Arrays, fields: Fields) -> None:
    """Writes a preview: a PNG of images, points or alignments, and a file of tokens.

    PATH.png is a grid of at most 400 images (with axes ("column",) one row per example,
    below the names of the columns; at most 100 with captions) or a density plot of the
    first two coordinates of points, or the alignments of a few examples; PATH.txt has
    the text of each example, several with tabs between them, or a line of token ids if
    there is no vocabulary.
    Only process 0 writes.

    Args:
      path: path of the files, without a suffix; the folder is created.
      outputs: [N, ...] by name; images f32 in [-1, 1].
      fields: fields of the outputs, by name; other fields are ignored.
    """
    if parallel.process_index() != 0:
        return
    with paths.writing(f"{path}.*"):
        path.parent.mkdir(parents=True, exist_ok=True)
    written = set()
    for name in outputs:
        field = fields[name]
        if field.kind not in WRITERS or "frame" in field.axes:
            continue
        suffix, write = WRITERS[field.kind]
        if suffix not in written:
            with paths.writing(f"{path}.*"):
                write(path.with_suffix(suffix), name, outputs, fields)
            LOGGER.info("Wrote %s.", path.with_suffix(suffix))
            written.add(suffix)


def print_texts(outputs: Arrays, fields: Fields) -> None:
    """Prints the first texts among the outputs, at most PRINTED_TEXTS of them.

    Args:
      outputs: [N, ...] by name.
      fields: fields of the outputs, by name.
    """
    if parallel.process_index() != 0:
        return
    if _text_names(fields) and "caption" not in fields:  # captions are in the picture
        print(_joined(outputs, fields, PRINTED_TEXTS), flush=True)


def check_writable(folder: pathlib.Path) -> None:
    """Checks, before anything is computed, that files can be written into a folder.

    Args:
      folder: may not exist yet; it is not created here.

    Raises:
      OSError: they cannot.
    """
    if parallel.process_index() != 0:
        return
    existing = next(x for x in (folder, *folder.absolute().parents) if x.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}): choose another folder "
            "with --output, or correct its permissions."
        ) from error


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Writes a dictionary as a JSON file; only process 0 writes."""
    if parallel.process_index() == 0:
        with paths.writing(path):
            path.write_text(strict_json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_csv(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns of equal length as a CSV file; the first line has their names."""
    with paths.writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(x.tolist() for x in columns.values()), strict=True))
    LOGGER.info("Wrote %s.", path)


def _save_grid(path: pathlib.Path, name: str, outputs: Arrays, fields: Fields) -> None:
    x = outputs[name]
    columns, titles = (x.shape[1] if fields[name].axes else None), fields[name].names
    if "caption" in outputs:  # and perhaps that of the partner, which the row ends with
        captions = [" -> ".join(row) for row in _texts(outputs, fields)]
        captions = np.repeat(captions, columns or 1).tolist()
        flat = transforms.to_uint8(x.reshape(-1, *x.shape[-3:]))
        plots.save_captioned(path, flat, captions, columns, titles)
        return
    shown = x[: max(1, GRID_IMAGES // (columns or 1))].reshape(-1, *x.shape[-3:])
    if columns is None and "label" in outputs:
        columns, titles = _class_columns(outputs["label"], fields["label"])
    images.save_grid(path, transforms.to_uint8(shown), columns, titles)


def _class_columns(
    labels: np.ndarray, field: Field
) -> tuple[int | None, Sequence[str]]:
    """Returns a column for each class if all of them were drawn in turn, and a few."""
    number = field.size or 0
    if not 2 <= number <= MAX_CLASS_COLUMNS or len(labels) < number:
        return None, ()
    if np.any(labels != np.arange(len(labels)) % number):
        return None, ()
    names = field.names or map(str, range(number))
    return number, [x[:TITLE_LENGTH] for x in names]


def _save_points(
    path: pathlib.Path, name: str, outputs: Arrays, fields: Fields
) -> None:
    x = outputs[name]
    plots.save_points(path, x.reshape(-1, x.shape[-1])[:, :2])


def _save_tokens(
    path: pathlib.Path, name: str, outputs: Arrays, fields: Fields
) -> None:
    if not _text_names(fields):
        np.savetxt(path, outputs[name].reshape(len(outputs[name]), -1), fmt="%d")
        return
    path.write_text(_joined(outputs, fields) + "\n", encoding="utf-8")


def _save_alignments(
    path: pathlib.Path, name: str, outputs: Arrays, fields: Fields
) -> None:
    sides = [[], []]
    for tokens, key in zip(sides, ("source", "text"), strict=True):
        for row in outputs[key][:ALIGNMENTS]:
            tokens.append(fields[key].vocabulary.token_strings(row))
    plots.save_alignments(path, outputs[name][:ALIGNMENTS], *sides)


def _text_names(fields: Fields) -> list[str]:
    """Returns the names of the fields that are text."""
    return [name for name, field in fields.items() if field.vocabulary is not None]


def _texts(
    outputs: Arrays, fields: Fields, num: int | None = None
) -> list[tuple[str, ...]]:
    """Returns the texts of each of the first examples."""
    columns = [
        [fields[name].vocabulary.decode(row) for row in outputs[name][:num]]
        for name in _text_names(fields)
    ]
    return list(zip(*columns, strict=True))


def _joined(outputs: Arrays, fields: Fields, num: int | None = None) -> str:
    """Returns the texts of the first examples, below each other."""
    texts = ["\t".join(row) for row in _texts(outputs, fields, num)]
    separator = f"\n{RULE}\n" if any("\n" in text for text in texts) else "\n"
    return separator.join(texts)


# kind -> (suffix, function); other kinds are only written to the npz file.
WRITERS = {
    "image": (".png", _save_grid),
    "points": (".png", _save_points),
    "tokens": (".txt", _save_tokens),
    "alignment": (".png", _save_alignments),
}
