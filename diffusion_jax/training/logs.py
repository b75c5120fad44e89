"""What a run writes for people and scripts: a progress line, metrics, TensorBoard."""

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger(__name__)


class Progress:
    """Prints "step 1200/4000  loss 0.0432  5123 images/s  0:42 left".

    With several phases, the loss of each: "disc 1.3863  gen 0.6931" and so on.

    Args:
      start: the step at which this session begins.
      num_steps: the step at which the run ends.
      batch_size: images in a step, over all devices.
    """

    def __init__(self, start: int, num_steps: int, batch_size: int):
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._last = (start, time.monotonic())

    def rate(self, step: int) -> float:
        """Returns images a second since the last call."""
        last_step, last_time = self._last
        self._last = (step, time.monotonic())
        return (step - last_step) * self._batch_size / (self._last[1] - last_time)

    def show(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Prints the line for that step, over the last one on a terminal."""
        left = round((self._num_steps - step) * self._batch_size / rate)
        minutes, seconds = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        clock = (
            f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        )
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        line = (
            f"step {step}/{self._num_steps}  {shown}  {rate:.0f} images/s  {clock} left"
        )
        end = "\r" if sys.stdout.isatty() and step < self._num_steps else "\n"
        print(f"{line:<72}", end=end, flush=True)


class MetricsLog:
    """Appends one JSON line a call to workdir/metrics.jsonl, and to TensorBoard.

    Args:
      workdir: the run's folder.
      start: the step at which this session begins; what an earlier session wrote of
        later steps is dropped, since those steps are done again.
    """

    def __init__(self, workdir: pathlib.Path, start: int):
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= start]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self._path)
        folder = str(workdir / "tensorboard")
        self._summary = _summary_writer_class()(folder, purge_step=start + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._summary.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        self._summary.close()


def _summary_writer_class() -> type:
    """Imports tensorboardX without PyTorch.

    Where PyTorch is installed tensorboardX imports it, for types that are never passed
    to it here: seconds of start-up, and a dependency this project does not have.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut short belongs to no kept step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _losses(metrics: dict[str, float]) -> dict[str, float]:
    """The losses of all phases, by the phase's name; of one phase, as "loss"."""
    found = {name: x for name, x in metrics.items() if name.endswith("/loss")}
    found = {name.removesuffix("/loss"): x for name, x in found.items()}
    return found or {"loss": metrics["loss"]}


class MetricLogger:
    """Reads metrics a step late, so that the loop never waits for the device.

    Args:
      workdir: the run's folder.
      start: the step at which this session begins.
      num_steps: the step at which the run ends.
      log_every: steps between two lines; 0 for the last step's alone.
      batch_size: images in a step, over all devices.
      primary: whether this process writes.
      alarm: (step, metrics that were written) -> warnings in words.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        num_steps: int,
        log_every: int,
        batch_size: int,
        primary: bool,
        alarm: Callable[[int, dict[str, float]], list[str]] = lambda *_: [],
    ):
        self.stop_requested = False
        self._pending = None
        self._num_steps = num_steps
        self._log_every = log_every
        self._progress = Progress(start, num_steps, batch_size)
        self._log = MetricsLog(workdir, start) if primary else None
        self._alarm = alarm
        self._first = start + 1

    def push(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics after a step, and deals with those of the step before."""
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Deals with the metrics that wait.

        Raises:
          FloatingPointError: one of them is not finite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {step}.")
        self.stop_requested |= values.pop("stop") > 0
        due = self._log_every > 0 and step % self._log_every == 0
        if due or step == self._num_steps:
            rate = self._progress.rate(step)
            self.write(step, values | {"images_per_second": rate})
            if self._log:
                self._progress.show(step, _losses(values), rate)
        elif step == self._first:
            self._progress.rate(step)  # compilation counts in no later rate

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes metrics of a step to the logs, and what is alarming about them."""
        if self._log:
            self._log.write(step, metrics)
            for words in self._alarm(step, metrics):
                LOGGER.warning("Step %d: %s", step, words)

    def close(self) -> None:
        """Deals with what waits and closes the logs."""
        self.flush()
        if self._log:
            self._log.close()
