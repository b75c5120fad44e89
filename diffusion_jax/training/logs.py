"""Training logs: a progress line, metrics.jsonl and TensorBoard."""

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from diffusion_jax.training.tensorboard import EventFile

LOGGER = logging.getLogger(__name__)


class Progress:
    """Prints "step 1200/4000  loss 0.0432  5123 images/s  0:42 left".

    With several phases it prints the loss of each: "disc 1.3863  gen 0.6931".

    Args:
      start: the step at which this session starts.
      num_steps: the step at which the run ends.
      batch_size: examples per step, over all devices.
    """

    def __init__(self, start: int, num_steps: int, batch_size: int):
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._last = (start, time.monotonic())

    def rate(self, step: int) -> float:
        """Returns the number of examples per second since the last call."""
        last_step, last_time = self._last
        self._last = (step, time.monotonic())
        return (step - last_step) * self._batch_size / (self._last[1] - last_time)

    def show(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Prints the line for a step; on a terminal it replaces the last line."""
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
    """Appends metrics to workdir/metrics.jsonl, a line per call, and to TensorBoard.

    Args:
      workdir: the run's folder.
      start: the step at which this session starts; metrics that an earlier session
        logged for later steps are dropped, since those steps are run again.
    """

    def __init__(self, workdir: pathlib.Path, start: int):
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= start]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self._path)
        self._events = EventFile(workdir / "tensorboard", start + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._events.write(step, metrics)

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self._events.close()


def _step(line: str) -> float:
    """Returns the step of a line; infinity if the line was cut short by a kill."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


class MetricLogger:
    """Reads metrics one step late, so that the loop never waits for the device.

    Args:
      workdir: the run's folder.
      start: the step at which this session starts.
      num_steps: the step at which the run ends.
      log_every: steps between two lines; 0 logs only the last step.
      batch_size: examples per step, over all devices.
      primary: whether this process writes.
      losses: name to display -> name of the metric, for the progress line.
      monitor: (step, metrics) -> warnings.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        num_steps: int,
        log_every: int,
        batch_size: int,
        primary: bool,
        losses: dict[str, str],
        monitor: Callable[[int, dict[str, float]], list[str]] = lambda *_: [],
    ):
        self.stop_requested = False
        self._pending = None
        self._num_steps = num_steps
        self._log_every = log_every
        self._progress = Progress(start, num_steps, batch_size)
        self._log = MetricsLog(workdir, start) if primary else None
        self._losses = losses
        self._monitor = monitor
        self._first = start + 1

    def push(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a step and processes those of the step before.

        Args:
          step: number of steps done.
          metrics: scalars, including "stop"; the device may still be computing them.
        """
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Processes the metrics that were pushed last.

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
                losses = {name: values[x] for name, x in self._losses.items()}
                self._progress.show(step, losses, rate)
        elif step == self._first:
            self._progress.rate(step)  # the next rate excludes the compilation

    def write(self, step: int, metrics: dict[str, float], prefix: str = "") -> None:
        """Writes metrics to the logs, and warnings about them.

        Args:
          step: number of steps done.
          metrics: by name, without the prefix.
          prefix: prefix of their names in the logs, such as "test_".
        """
        if self._log:
            self._log.write(step, {prefix + name: x for name, x in metrics.items()})
            for warning in self._monitor(step, metrics):
                LOGGER.warning("Step %d: %s", step, warning)

    def close(self) -> None:
        """Processes the metrics that were pushed last and closes the logs."""
        self.flush()
        if self._log:
            self._log.close()
