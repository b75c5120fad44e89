"""Writes scalars to TensorBoard's event files.

tensorboardX does this too, but imports PyTorch where it is installed.

Source: tensorflow/core/util/event.proto and tensorflow/core/lib/io/record_writer.h.
"""

import pathlib
import socket
import struct
import time


class EventFile:
    """A new event file.

    Args:
      folder: which TensorBoard shows as one run; created if necessary.
      first_step: TensorBoard drops what earlier files contain from this step on.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = (folder / name).open("wb")
        self._write(0, _field(3, b"brain.Event:2"))  # file_version
        self._write(first_step, _field(7, b"\x08\x01"))  # session_log: START

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of a step."""
        values = (
            _field(1, name.encode()) + b"\x15" + struct.pack("<f", value)
            for name, value in scalars.items()
        )
        self._write(step, _field(5, b"".join(_field(1, value) for value in values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, content: bytes) -> None:
        """Writes a record: length, its checksum, the event, its checksum."""
        event = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step)
        event += content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _varint(number: int) -> bytes:
    """Encodes an integer in groups of 7 bits, the lowest first (protocol buffers)."""
    more = number >> 7
    return bytes([number & 127 | 128]) + _varint(more) if more else bytes([number])


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of a protocol buffer that holds bytes or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _checksum(data: bytes) -> bytes:
    """Returns TensorFlow's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
