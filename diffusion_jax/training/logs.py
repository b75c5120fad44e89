"""Training logs: a progress line, metrics.jsonl, TensorBoard, and trackers."""

import contextlib
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusion_jax import paths, progress, strict_json
from diffusion_jax.training import costs, parallel, trackers
from diffusion_jax.training.tensorboard import EventFile
from diffusion_jax.training.trackers import Trackers

LOGGER = logging.getLogger(__name__)

METRICS, TENSORBOARD, SAMPLES = "metrics.jsonl", "tensorboard", "samples"
UNITS = "images", "tokens", "examples"  # in which speed is measured
# What a line may say about speed and memory.
SPEED = ["step_time", "data_wait", "mfu", "device_memory"]
SPEED += [f"{unit}_per_second{x}" for unit in UNITS for x in ("", "_per_device")]
KEPT = "logs-before-"  # folder of logs that are set aside, before its number
MIN_WAIT = 0.2  # the progress line shows a larger share of waiting for data
# The time that is left is estimated once, from so many steps and seconds, if it is not
# shorter than this.
FIRST_STEPS, FIRST_SECONDS, MIN_LEFT = 3, 5.0, 60.0


class Progress:
    """Prints "step 1200/4000  loss 0.0432  5123 images/s  MFU 41 %  0:42 left".

    With several phases it prints the loss of each: "disc 1.3863  gen 0.6931". Only the
    time of steps counts, not that of the first step, which compiles, nor of pauses. If
    the loop waits for data for more than a fifth of the time, the line says so.

    Args:
      num_steps: the step at which the run ends.
      unit: what the speed is measured in, one of UNITS.
    """

    def __init__(self, num_steps: int, unit: str = "images"):
        self._num_steps = num_steps
        self._unit = unit
        self._since: float | None = None  # the end of the last step or pause
        # Steps and seconds until they are enough for `first_estimate`, then None.
        self._first: tuple[int, float] | None = (0, 0.0)
        self._reset()

    def _reset(self) -> None:
        self._steps, self._units, self._flops = 0, 0, 0.0
        self._seconds, self._waited = 0.0, 0.0

    def step_done(self, units: int, flops: float | None = None) -> None:
        """Measures the time of a step.

        Args:
          units: of the batch, over all devices.
          flops: of the step on each device, if known.
        """
        now = time.monotonic()
        if self._since is not None:
            self._steps += 1
            self._units += units
            self._flops += flops or 0
            self._seconds += now - self._since
            if self._first:
                steps, seconds = self._first
                self._first = steps + 1, seconds + now - self._since
        self._since = now

    def first_estimate(self, step: int) -> str:
        """Returns a sentence on the time that is left, as soon as it is known.

        Returns:
          "" before and after that, or if less than a minute is left.
        """
        if not self._first:
            return ""
        steps, seconds = self._first
        if steps < FIRST_STEPS or seconds < FIRST_SECONDS:
            return ""
        self._first = None
        left = (self._num_steps - step) * seconds / steps
        if left < MIN_LEFT:
            return ""
        return (
            f"The remaining {self._num_steps - step} steps take about "
            f"{progress.in_words(left)} here, at {seconds / steps:.3g} s a step; "
            "sampling and evaluation come on top."
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time within a `with` statement."""
        yield
        if self._since is not None:
            self._since = time.monotonic()

    def waits(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields batches and measures the time spent waiting for the next one."""
        while True:
            start = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._since is not None:
                self._waited += time.monotonic() - start
            yield batch

    def timing(self) -> dict[str, float]:
        """Returns the speed since the last call; {} if there was no step.

        Returns:
          step_time in seconds, UNIT_per_second, UNIT_per_second_per_device, data_wait,
          the share of the time spent waiting for data, and mfu if it is known.
        """
        if not self._seconds:
            return {}
        rate = self._units / self._seconds
        speed = {
            "step_time": self._seconds / self._steps,
            f"{self._unit}_per_second": rate,
            f"{self._unit}_per_second_per_device": rate / parallel.num_devices(),
            "data_wait": self._waited / self._seconds,
        }
        kind = parallel.device_kind()
        mfu = costs.utilisation(self._flops, self._seconds, kind)
        self._reset()
        return speed if mfu is None else speed | {"mfu": mfu}

    def show(
        self, step: int, losses: dict[str, float], speed: dict[str, float]
    ) -> None:
        """Prints the line for a step; on a terminal it replaces the last line."""
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        line = f"step {step}/{self._num_steps}  {shown}"
        if speed:
            rate = speed[f"{self._unit}_per_second"]
            left = progress.clock((self._num_steps - step) * speed["step_time"])
            line += f"  {rate:.0f} {self._unit}/s"
            if "mfu" in speed:
                line += f"  MFU {speed['mfu']:.0%}".replace("%", " %")
            if speed["data_wait"] > MIN_WAIT:
                line += f"  data wait {speed['data_wait']:.0%}".replace("%", " %")
            line += f"  {left} left"
        progress.line(line, step == self._num_steps)


class MetricsLog:
    """Appends metrics to workdir/metrics.jsonl, a line per call, and to TensorBoard.

    Args:
      workdir: the run's folder.
      start: the step at which this session starts; metrics that an earlier session
        logged for later steps are dropped, since those steps are run again. Lines that
        cannot be read are moved to metrics.damaged. If the session starts from step 0,
        the logs of an earlier one are kept under another name.
    """

    def __init__(self, workdir: pathlib.Path, start: int):
        self._path = workdir / METRICS
        self._last: list[bytes] = []  # the lines of step `start`
        with paths.writing(self._path):
            if start == 0:
                _set_aside(workdir)
            if self._path.is_file():  # reading a link to /dev/full would never end
                self._keep_until(start)
            self._events = EventFile(workdir / TENSORBOARD, start + 1)

    def _keep_until(self, start: int) -> None:
        """Drops the lines of later steps."""
        lines = self._path.read_bytes().splitlines()
        steps = [_step(line) for line in lines]
        by_step = list(zip(steps, lines, strict=True))
        self._last = [line for step, line in by_step if step == start]
        # The last line may have been cut short by a kill.
        damaged = [line for step, line in by_step[:-1] if math.isnan(step)]
        if damaged:
            path = self._path.with_suffix(".damaged")
            with path.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
            LOGGER.warning(
                "%d lines of %s cannot be read: moved to %s.",
                len(damaged),
                self._path,
                path,
            )
        temporary = self._path.with_suffix(".tmp")
        kept = [line + b"\n" for step, line in by_step if step <= start]
        temporary.write_bytes(b"".join(kept))
        temporary.replace(self._path)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step.

        A line that the session before has written is not repeated: it was killed after
        an evaluation, before the score was saved.

        Raises:
          OSError: they cannot be written.
        """
        line = strict_json.dumps({"step": step, **metrics})
        if line.encode() in self._last:
            return
        with paths.writing(f"Step {step} of {self._path} or {TENSORBOARD}/"):
            with self._path.open("a") as file:
                file.write(line + "\n")
            self._events.write(step, metrics)

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self._events.close()


def _set_aside(workdir: pathlib.Path) -> None:
    """Renames the logs of an earlier session that has left no checkpoint."""
    has_samples = (workdir / SAMPLES).is_dir()
    if not (has_samples or (workdir / METRICS).exists()):
        return
    number = 1
    while (workdir / f"{KEPT}{number}").exists():
        number += 1
    kept = workdir / f"{KEPT}{number}"
    kept.mkdir()
    for name in (METRICS, TENSORBOARD, trackers.FOLDER, *[SAMPLES] * has_samples):
        if (workdir / name).exists():
            (workdir / name).rename(kept / name)
    LOGGER.warning(
        "%s has logs but no checkpoints: training starts from step 0, and the earlier "
        "logs and samples are kept in %s. If there should be checkpoints, stop now and "
        "look for them (is a disk not mounted?).",
        workdir,
        kept,
    )


def read_records(
    workdir: pathlib.Path, last: int
) -> list[tuple[int, dict[str, float | pathlib.Path]]]:
    """Reads what metrics.jsonl and samples/ hold.

    Args:
      workdir: the run's folder.
      last: the last step to read; lines of later ones have been dropped, samples of
        later ones may be left.

    Returns:
      (step, values) by step: metrics, without those that were not finite, and images.
    """
    records = []
    for values in strict_json.read_lines(workdir / METRICS):
        step = values.pop("step")
        records.append((step, {k: x for k, x in values.items() if x is not None}))
    for path in (workdir / SAMPLES).glob("*.png"):
        if path.stem.isdigit() and int(path.stem) <= last:
            records.append((int(path.stem), {SAMPLES: path}))
    return sorted(records, key=lambda record: record[0])


def _step(line: bytes) -> float:
    """Returns the step of a line; NaN if it cannot be read."""
    try:
        step = json.loads(line)["step"]
        return float(step) if type(step) is int else math.nan  # true is no step
    except (ValueError, KeyError, TypeError, RecursionError):  # no JSON object
        return math.nan


class MetricLogger:
    """Reads metrics one step late, so that the loop never waits for the device.

    Args:
      workdir: the run's folder.
      start: the step at which this session starts.
      num_steps: the step at which the run ends.
      log_every: steps between two lines; 0 logs only the last step.
      primary: whether this process writes.
      losses: name to display -> name of the metric, for the progress line.
      monitor: (step, metrics) -> warnings.
      unit: what the speed is measured in, one of UNITS.
      tracked: the trackers of this process, which are started here; None for none.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        num_steps: int,
        log_every: int,
        primary: bool,
        losses: dict[str, str],
        monitor: Callable[[int, dict[str, float]], list[str]] = lambda *_: [],
        unit: str = "images",
        tracked: Trackers | None = None,
    ):
        self.stop_requested = 0  # the signal, if there was one in any process
        self._pending = None
        self._num_steps = num_steps
        self._log_every = log_every
        self._progress = Progress(num_steps, unit)
        self._log = MetricsLog(workdir, start) if primary else None
        self._losses = losses
        self._monitor = monitor
        self._samples = workdir / SAMPLES
        self._tracked = tracked
        if tracked:
            tracked.start(lambda: read_records(workdir, start))

    def push(
        self,
        step: int,
        metrics: dict[str, Any],
        units: int,
        flops: float | None = None,
    ) -> None:
        """Takes the metrics of a step and processes those of the step before.

        Args:
          step: number of steps done.
          metrics: scalars, including "stop"; the device may still be computing them.
          units: of the batch, over all devices.
          flops: of the step on each device, if known.
        """
        self.flush()
        self._pending = step, metrics, units, flops

    def flush(self) -> None:
        """Processes the metrics that were pushed last.

        Raises:
          FloatingPointError: one of them is not finite.
        """
        if self._pending is None:
            return
        step, metrics, units, flops = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {step}.")
        stop = int(values.pop("stop"))
        self.stop_requested = self.stop_requested or stop
        self._progress.step_done(units, flops)
        estimate = self._progress.first_estimate(step)
        if self._log and estimate:
            LOGGER.info(estimate)
        due = self._log_every > 0 and step % self._log_every == 0
        if due or step == self._num_steps:
            speed = self._speed()
            self.write(step, values | speed)
            if self._log:
                losses = {name: values[x] for name, x in self._losses.items()}
                self._progress.show(step, losses, speed)

    def _speed(self) -> dict[str, float]:
        """Returns the speed, mfu and device_memory, as far as they are known."""
        speed = self._progress.timing()
        memory = parallel.device_memory().get("peak_bytes_in_use")
        if speed and memory is not None:
            speed["device_memory"] = memory
        return speed

    def waits(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields batches and measures the time spent waiting for the next one."""
        return self._progress.waits(batches)

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Excludes the time within a `with` statement from the speed."""
        return self._progress.paused()

    def write(self, step: int, metrics: dict[str, float], prefix: str = "") -> None:
        """Writes metrics to the logs, and warnings about them.

        Args:
          step: number of steps done.
          metrics: by name, without the prefix.
          prefix: prefix of their names in the logs, such as "test_".
        """
        if self._log:
            named = {prefix + name: x for name, x in metrics.items()}
            self._log.write(step, named)
            if self._tracked:
                self._tracked.log(step, named)
            for warning in self._monitor(step, metrics):
                LOGGER.warning("Step %d: %s", step, warning)

    def write_samples(self, step: int) -> None:
        """Gives the trackers the picture in samples/ of a step, if there is one."""
        path = self._samples / f"{step:08}.png"
        if self._tracked and path.exists():
            self._tracked.log(step, {SAMPLES: path})

    def close(self) -> None:
        """Processes the metrics that were pushed last and closes the logs."""
        self.flush()
        if self._log:
            self._log.close()
