"""The file format of MNIST and its kin."""

import gzip
import math
import pathlib
import zlib

import numpy as np


def read(path: pathlib.Path, ndim: int) -> np.ndarray:
    """Reads one file: 00 00 08 ndim, then ndim sizes (big-endian int32), then bytes.

    Args:
      path: of the file; where it is missing, the same name with .gz is read.
      ndim: how many sizes it should have.

    Returns:
      uint8 of those sizes.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the file is damaged, or something else.
    """
    file = path if path.exists() else path.with_name(path.name + ".gz")
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent} holds neither {path.name} nor {file.name}; put one there."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}); fetch it again.") from error
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"{file} starts with the bytes '{data[:4].hex(' ')}' and not '00 00 08 "
            f"0{ndim}'; give an IDX file of bytes with {ndim} sizes."
        )
    sizes, body = data[4 : 4 + 4 * ndim], data[4 + 4 * ndim :]
    shape = tuple(int.from_bytes(sizes[4 * i : 4 * i + 4]) for i in range(ndim))
    if len(sizes) < 4 * ndim or len(body) != math.prod(shape):
        raise ValueError(
            f"{file} promises {'x'.join(map(str, shape))} bytes and holds "
            f"{len(body)}; fetch it again."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)
