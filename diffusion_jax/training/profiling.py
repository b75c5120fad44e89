"""A trace of a few training steps, for Perfetto, TensorBoard and scripts."""

import logging
import pathlib
import re

import jax

from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

FOLDER = "profile"


def parse(text: str, num_steps: int) -> range:
    """Returns the steps that train.profile asks for, counted from 0.

    Args:
      text: "START:STOP", or "" for none.
      num_steps: train.num_steps.

    Raises:
      ValueError: the text has another form, or there are no such steps.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    start, stop = map(int, match.groups()) if match else (0, 0)
    if not start < stop <= num_steps:
        raise ValueError(
            f"train.profile is {text!r}; it must be START:STOP, such as 10:12 for the "
            f"two steps after step 10, with START < STOP <= {num_steps} "
            "(train.num_steps)."
        )
    return range(start, stop)


class Profile:
    """Traces some steps of a training loop; at the end of `with`, the trace is closed.

    Args:
      steps: the steps to trace, counted from 0.
      workdir: the run's folder; process 0 writes its trace into profile/ in it.
    """

    def __init__(self, steps: range, workdir: pathlib.Path):
        self._steps, self._folder = steps, workdir / FOLDER
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._close()

    def starts(self, step: int) -> bool:
        """Returns whether the trace starts before a step."""
        return step in self._steps and not self._running

    def ends(self, done: int) -> bool:
        """Returns whether the trace ends after `done` steps."""
        return self._running and done not in self._steps

    def start(self) -> None:
        """Starts the trace, when the devices have done the steps before."""
        if parallel.process_index() == 0:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's events would be most of the file
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
        self._running = True

    def end(self) -> None:
        """Ends the trace, when the devices have done its steps."""
        self._close()
        # Process 0 writes for seconds, longer than a collective of the others may wait.
        parallel.barrier("profile")

    def _close(self) -> None:
        self._running = False
        if parallel.process_index() > 0:
            return
        try:
            jax.profiler.stop_trace()
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            # The training is worth more than its trace.
            LOGGER.warning("No trace in %s: %s", self._folder, error)
        else:
            LOGGER.info("Wrote the trace into %s.", self._folder)
