"""Splits by hashes: which part of the data a name belongs to, whatever the order."""

import hashlib
import unicodedata


def hash_of(text: str) -> float:
    """Hashes a text to [0, 1), however its accents are written.

    Args:
      text: such as a path, which may have bytes that are not UTF-8.
    """
    content = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
