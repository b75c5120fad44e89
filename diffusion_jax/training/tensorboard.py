"""Writes scalars to TensorBoard's event files.

It uses tensorboard's record writer and protocol buffers, because the existing writers
(tensorboardX's and tensorboard's own) import PyTorch or TensorFlow if these are
installed.
"""

import pathlib
import socket
import time
from typing import Any


class EventFile:
    """A new event file.

    Args:
      folder: the folder, which TensorBoard shows as one run; created if necessary.
      first_step: TensorBoard discards the events of earlier files from this step on.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._writer = RecordWriter((folder / name).open("wb"))
        self._make_event = event_pb2.Event
        self._write(file_version="brain.Event:2")
        start = {"status": event_pb2.SessionLog.START}
        self._write(step=first_step, session_log=start)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of a step."""
        values = [{"tag": name, "simple_value": x} for name, x in scalars.items()]
        self._write(step=step, summary={"value": values})

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, **content: Any) -> None:
        event = self._make_event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
