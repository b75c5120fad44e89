"""A trace of a few training steps, for Perfetto, TensorBoard and scripts."""

import logging
import pathlib
import re

import jax

from diffusion_jax import paths
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
        self._stop()

    def is_due(self, step: int) -> bool:
        """Returns whether the trace starts or ends before a step."""
        return (step in self._steps) != self._running

    def switch(self) -> None:
        """Starts the trace or ends it, when the devices have done the steps before."""
        if self._running:
            self._stop()
            # Writing takes seconds, which a collective might not wait.
            parallel.barrier("profile")
            return
        if parallel.process_index() == 0:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its events are larger than all others
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
        self._running = True

    def _stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if parallel.process_index() == 0:
            with paths.writing(self._folder):
                jax.profiler.stop_trace()
            LOGGER.info("Wrote the trace into %s.", self._folder)
