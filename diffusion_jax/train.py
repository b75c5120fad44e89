"""The training loop: step, log, evaluate, save, draw."""

import functools
import logging
import pathlib
import signal

import jax
import ml_collections

from diffusion_jax import evaluators, methods, runs
from diffusion_jax.data.loader import Loader
from diffusion_jax.outputs import writers
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.logs import MetricLogger
from diffusion_jax.training.monitor import TrainingMonitor
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_train_step

LOGGER = logging.getLogger(__name__)


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until config.train.num_steps, from the last checkpoint if there is one.

    Writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and samples/ into the
    workdir. SIGTERM and Ctrl-C save and return.

    Raises:
      ValueError: the config, the data or an earlier run in workdir do not fit.
      FileNotFoundError: the data are not there.
      FloatingPointError: the loss or the gradient is not finite.
    """
    # 1. Whatever can be refused is refused before anything is compiled.
    num_steps, log_every = config.train.num_steps, config.train.log_every
    batch_size = config.data.batch_size
    source = runs.open_train(config)
    method = methods.make(config)
    num_parts = max(phase.part[1] for phase in method.phases)
    parallel.check_batch_size(batch_size, "data.batch_size", num_parts)
    batches = Loader(
        source,
        batch_size,
        config.seed,
        flip=config.data.flip,
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
    )
    views = Views(config, method, workdir)
    initial = functools.partial(states.initial, phases=method.phases, init=method.init)
    key = jax.random.key(config.seed)
    template = jax.eval_shape(initial, key)
    runs.write_config(config, workdir)

    # 2. The state: the last checkpoint's, or a new one.
    checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, config.train.keep)
    state = checkpoints.restore_latest(template)
    if state is None:
        LOGGER.info("Starting from the beginning in %s.", workdir)
        state = jax.jit(initial)(key)
    else:
        LOGGER.warning("RESUMING %s at step %d of %d.", workdir, state.step, num_steps)
    start = int(state.step)
    LOGGER.info("%s parameters, on %s.", count(state.params), parallel.describe())

    # 3. The loop.
    primary = parallel.process_index() == 0
    alarm = TrainingMonitor().push
    watch = MetricLogger(
        workdir, start, num_steps, log_every, batch_size, primary, alarm
    )
    try:
        loop(config, method, state, batches, watch, checkpoints, views)
        watch.close()
    except FloatingPointError as error:
        checkpoints.wait()
        kept = [str(checkpoints.directory / str(n)) for n in checkpoints.steps()[-1:]]
        raise FloatingPointError(
            f"{error} The run stops here. Last good checkpoint: "
            f"{kept[0] if kept else 'none was saved yet'}. "
            "A lower optim.learning_rate may help."
        ) from error
    finally:
        checkpoints.close()


def loop(
    config: ml_collections.ConfigDict,
    method: methods.Method,
    state: TrainState,
    batches: Loader,
    watch: MetricLogger,
    checkpoints: Checkpoints,
    views: "Views",
) -> None:
    """Runs the steps that are left, and what is due after each."""
    num_steps, every = config.train.num_steps, config.train
    step_fn = make_train_step(method.phases, method.loss, method.remember)
    run_step = parallel.train_step_on_devices(step_fn)
    start = int(state.step)
    if start >= num_steps:
        LOGGER.warning("Nothing is left to do: train.num_steps is %d.", num_steps)
        if every.sample_every:
            views.draw(state)
        return
    state = parallel.replicate(state)
    with StopRequest() as stop:
        for step, batch in batches.iterate(start, num_steps):
            state, metrics = run_step(state, parallel.shard(batch), stop.requested)
            done = step + 1
            watch.push(done, parallel.unreplicate(metrics))
            measure = is_due(done, every.evaluate_every, num_steps)
            save = is_due(done, every.save_every, num_steps) or measure
            draw = is_due(done, every.sample_every, num_steps)
            if not (save or draw or watch.stop_requested):
                continue
            watch.flush()  # no state is used before its loss was seen to be finite
            local = parallel.unreplicate(state)
            score = None
            if measure:
                figures, score = views.measure(local)
                watch.write(done, figures)
            if save or watch.stop_requested:
                checkpoints.save(local, score)
            if draw:
                views.draw(local)
            if watch.stop_requested:
                LOGGER.warning("Stopped by request after step %d, saved.", done)
                return


def count(params: dict) -> str:
    """Says how many parameters there are, e.g. "35,746,307"."""
    return f"{sum(x.size for x in jax.tree.leaves(params)):,}"


def is_due(done: int, every: int, num_steps: int) -> bool:
    """Whether something is done after this step: every so often and at the end.

    0 means never.
    """
    return every > 0 and (done % every == 0 or done == num_steps)


class Views:
    """What one wants to see of a run: figures of held-out data, and writers."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        method: methods.Method,
        workdir: pathlib.Path,
    ):
        self._settle = methods.make_settle(method)
        self._split = config.eval.split
        self._folder = workdir / "samples"
        if config.train.sample_every:
            self._pictures = writers.make_pictures(config, method)
        if config.train.evaluate_every:
            self._measure = evaluators.make(config, method, workdir)

    def measure(self, state: TrainState) -> tuple[dict[str, float], float]:
        """Returns the figures of eval.metric, named after the split, and the score."""
        found = next(self._measure(self._settle(state))).found
        LOGGER.info("Step %d, %s: %s", state.step, self._split, found)
        figures = {}
        for name, value in found.items():
            several = isinstance(value, list)  # such as a histogram
            parts = {f"{name}/{i}": x for i, x in enumerate(value)} if several else {}
            figures |= parts or {name: value}
        score = next(iter(found.values()))
        return {f"{self._split}_{name}": x for name, x in figures.items()}, score

    def draw(self, state: TrainState) -> None:
        """Writes what sample.view names, with the averaged parameters."""
        arrays = self._pictures(self._settle(state))
        path = self._folder / f"{int(state.step):08}"
        writers.save_picture(path, arrays["images"])


class StopRequest:
    """SIGTERM and Ctrl-C become a request, which is granted after the current step."""

    def __enter__(self) -> "StopRequest":
        self.requested = False
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {s: signal.signal(s, self._request) for s in signals}
        return self

    def _request(self, number: int, frame: object) -> None:
        LOGGER.warning("%s: stopping soon.", signal.Signals(number).name)
        self.requested = True
        # A second one is not held back.
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
