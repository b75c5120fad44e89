"""The training loop: step, log, evaluate, save, sample."""

import functools
import logging
import pathlib
import signal
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from diffusion_jax import evaluators, methods, run_config, run_data, runs, task_runner
from diffusion_jax.data.loader import Loader
from diffusion_jax.outputs import writers
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.logs import MetricLogger
from diffusion_jax.training.monitor import TrainingMonitor
from diffusion_jax.training.state import TrainState, Variables
from diffusion_jax.training.step import loss_names, make_train_step

LOGGER = logging.getLogger(__name__)
# (step, variables for inference) -> (metrics, score), and -> None.
Evaluate = Callable[[int, Variables], tuple[dict[str, float], float]]
Draw = Callable[[int, Variables], None]


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until config.train.num_steps, from the last checkpoint if there is one.

    Writes config.json, fields.json, metrics.jsonl, tensorboard/, checkpoints/ and
    samples/ into the workdir. SIGTERM and Ctrl-C save and return.

    Raises:
      ValueError: the config is invalid, or does not match the data or an earlier run.
      FileNotFoundError: the data are missing.
      FloatingPointError: the loss or the gradient is not finite.
    """
    # 1. Validate the config and the data before anything is compiled.
    num_steps, every = config.train.num_steps, config.train
    source = run_data.open_train(config)
    method = methods.make(config, source.fields)
    num_slices = max(phase.batch_slice[1] for phase in method.phases)
    parallel.check_batch_size(config.data.batch_size, "data.batch_size", num_slices)
    batches = Loader(
        source,
        config.data.batch_size,
        config.seed,
        flip=config.data.flip,
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
    )
    evaluate = make_evaluate(config, method, workdir) if every.evaluate_every else None
    draw = make_draw(config, method, workdir) if every.sample_every else None
    template = runs.make_template(method)
    run_config.write_config(config, source.fields, workdir)

    # 2. Restore the last checkpoint, or initialise a new state.
    checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, every.keep)
    state = checkpoints.restore_latest(template)
    if state is None:
        LOGGER.info("Starting from step 0 in %s.", workdir)
        initial = functools.partial(states.initial, method)
        state = jax.jit(initial)(jax.random.key(config.seed))
        state = runs.copy_groups(state, every.init_from)
    else:
        LOGGER.warning("RESUMING %s at step %d of %d.", workdir, state.step, num_steps)
    start = int(state.step)
    state = parallel.replicate(state)
    num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
    LOGGER.info("%s parameters, on %s.", f"{num_parameters:,}", parallel.describe())

    # 3. Train.
    losses = loss_names(method.phases)
    logger = MetricLogger(
        workdir,
        start,
        num_steps,
        every.log_every,
        config.data.batch_size,
        parallel.process_index() == 0,
        losses,
        TrainingMonitor(losses.values()).push,
    )
    try:
        loop(config, method, state, batches, logger, checkpoints, evaluate, draw)
        logger.close()
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
    config: ConfigDict,
    method: methods.Method,
    state: TrainState,
    batches: Loader,
    logger: MetricLogger,
    checkpoints: Checkpoints,
    evaluate: Evaluate | None,
    draw: Draw | None,
) -> None:
    """Runs the remaining steps; evaluates, saves and samples when due."""
    num_steps, every = config.train.num_steps, config.train
    for_inference = jax.jit(method.for_inference)
    run_step = parallel.train_step_on_devices(make_train_step(method, parallel.AXIS))
    start = int(state.step)
    if start >= num_steps:
        LOGGER.warning("Nothing is left to do: train.num_steps is %d.", num_steps)
        if draw:
            draw(start, for_inference(state.averaged))
        return
    with StopRequest() as stop:
        for step, batch in batches.iterate(start, num_steps):
            state, metrics = run_step(state, parallel.shard(batch), stop.requested)
            done = step + 1
            logger.push(done, metrics)
            evaluate_now = is_due(done, every.evaluate_every, num_steps)
            save_now = is_due(done, every.save_every, num_steps) or evaluate_now
            draw_now = is_due(done, every.sample_every, num_steps)
            if not (save_now or draw_now or logger.stop_requested):
                continue
            logger.flush()  # raises if a loss is not finite, before the state is used
            score = None
            if evaluate_now:
                metrics, score = evaluate(done, for_inference(state.averaged))
                logger.write(done, metrics, prefix=f"{config.eval.split}_")
            if save_now or logger.stop_requested:
                checkpoints.save(state, score)
            if draw_now:
                draw(done, for_inference(state.averaged))
            if logger.stop_requested:
                LOGGER.warning("Stopped by request after step %d, saved.", done)
                return


def is_due(done: int, every: int, num_steps: int) -> bool:
    """Returns whether a periodic action is due after `done` steps.

    It is also due after the last step; every = 0 means never.
    """
    return every > 0 and (done % every == 0 or done == num_steps)


def make_evaluate(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluate:
    """Makes a function that computes eval.metric and flattens it for the logs."""
    evaluator = evaluators.make(config, method, workdir)

    def evaluate(step: int, variables: Variables) -> tuple[dict[str, float], float]:
        found = next(evaluator(variables)).metrics
        LOGGER.info("Step %d, %s: %s", step, config.eval.split, found)
        metrics = {}
        for name, value in found.items():
            values = value if isinstance(value, list) else None  # such as a histogram
            named = {f"{name}/{i}": x for i, x in enumerate(values or [])}
            metrics |= named or {name: value}
        return metrics, next(iter(found.values()))

    return evaluate


def make_draw(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Draw:
    """Makes a function that runs sample.task and writes samples/STEP.png."""
    runner = task_runner.make(config, method, config.sample.task)

    def draw(step: int, variables: Variables) -> None:
        outputs = runner.run(variables)
        writers.save_preview(workdir / f"samples/{step:08}", outputs, runner.fields)

    return draw


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a request to stop after the current step."""

    def __enter__(self) -> "StopRequest":
        self.requested = False
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {s: signal.signal(s, self._request) for s in signals}
        return self

    def _request(self, number: int, frame: object) -> None:
        LOGGER.warning("%s: stopping soon.", signal.Signals(number).name)
        self.requested = True
        # A second signal is handled as usual.
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
