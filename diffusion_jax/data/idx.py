"""IDX, the file format of MNIST and Fashion-MNIST."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from diffusion_jax.data import base
from diffusion_jax.lookup import lookup


def open_idx(rest: str, spec: base.ImageSpec) -> base.ArraySource:
    """Reads the images and labels of one split, from one file each.

    Args:
      rest: path of the folder with the four files of MNIST, optionally gzipped.
      spec: with the split 'train' or 'test'.

    Raises:
      FileNotFoundError: the folder or one of the files is missing.
      ValueError: there is no such split, or a file is damaged.
    """
    name = f"idx:{rest}"
    stem = lookup({"train": "train", "test": "t10k"}, spec.split, f"split of {name}")
    folder = base.existing_folder(name, rest)
    images = read(folder / f"{stem}-images-idx3-ubyte", 3)
    labels = read(folder / f"{stem}-labels-idx1-ubyte", 1)
    return base.array_images(images[..., None], labels, name)


def read(path: pathlib.Path, ndim: int) -> np.ndarray:
    """Reads one file: 00 00 08 ndim, then ndim sizes (big-endian int32), then bytes.

    Args:
      path: path of the file; if it is missing, the same name with .gz is read.
      ndim: the number of sizes it must have.

    Returns:
      uint8 of those sizes.

    Raises:
      FileNotFoundError: neither file exists.
      ValueError: the file is damaged or has another format.
    """
    file = path if path.exists() else path.with_name(path.name + ".gz")
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent} contains neither {path.name} nor {file.name}; add one."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again.") from error
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"{file} starts with the bytes '{data[:4].hex(' ')}' instead of '00 00 08 "
            f"0{ndim}'; provide an IDX file of bytes with {ndim} sizes."
        )
    sizes, body = data[4 : 4 + 4 * ndim], data[4 + 4 * ndim :]
    shape = tuple(int.from_bytes(sizes[4 * i : 4 * i + 4]) for i in range(ndim))
    if len(sizes) < 4 * ndim or len(body) != math.prod(shape):
        raise ValueError(
            f"{file} announces {base.shape_text(shape)} bytes but contains "
            f"{len(body)}; download it again."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)
