"""The training loop: step, log, evaluate, save, sample."""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax import (
    evaluators,
    methods,
    planning,
    progress,
    run_config,
    run_data,
    run_plots,
    runs,
    task_runner,
)
from diffusion_jax.data.base import Field
from diffusion_jax.data.loader import Loader
from diffusion_jax.evaluators.base import data_settings
from diffusion_jax.outputs import writers
from diffusion_jax.training import (
    compilation,
    costs,
    interrupts,
    logs,
    parallel,
    profiling,
    trackers,
)
from diffusion_jax.training import state as states
from diffusion_jax.training.checkpoints import (
    Checkpoints,
    MismatchError,
    SaveError,
    Score,
)
from diffusion_jax.training.lock import locked
from diffusion_jax.training.logs import MetricLogger
from diffusion_jax.training.monitor import TrainingMonitor
from diffusion_jax.training.state import TrainState, Variables
from diffusion_jax.training.step import check_batch, loss_names, make_train_step

LOGGER = logging.getLogger(__name__)
# Variables for inference -> (metrics, score); (step, variables, skip if it exists).
Evaluate = Callable[[Variables], tuple[dict[str, float], Score]]
Draw = Callable[[int, Variables, bool], None]


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until config.train.num_steps, from the last checkpoint if there is one.

    Values that the config leaves open are planned first, see `planning`.
    Writes config.json, fields.json, metrics.jsonl, tensorboard/, checkpoints/, samples/
    and at the end plots/ into the workdir, but nothing before everything has been
    checked; only half-written and damaged checkpoints are set aside before. SIGTERM and
    Ctrl-C save and return.

    Raises:
      ValueError: the config is invalid, or does not match the data or an earlier run.
      FileNotFoundError: the data are missing.
      LockedError: another process is training in the workdir.
      FloatingPointError: the loss or the gradient is not finite.
      Exception: any error while training; the state before it has been saved.
    """
    with interrupts.handled():
        try:
            _train(config, workdir)
        except interrupts.Stopped as stopped:
            LOGGER.warning("%s The same command resumes the run.", stopped)


def _train(config: ConfigDict, workdir: pathlib.Path) -> None:
    # 1. Validate the config, the data and the folder before anything is compiled.
    run_data.forget()
    config = planning.complete(config, workdir=workdir)
    every = config.train
    methods.check_training(config)
    changes = run_config.compare_config(config, workdir)
    is_trained = run_config.has_checkpoints(workdir)
    source = run_data.open_train(config)
    run_config.check_classes(config, source.fields, workdir)
    run_config.check_vocabularies(config, source.fields, workdir)
    method = methods.make(config, source.fields)
    evaluators.check_name(config)
    check_batch(method, config.data.batch_size, every.accumulate)
    profiled = profiling.parse(every.profile, every.num_steps)
    tracker_names = trackers.parse(every.trackers)
    batches = Loader(
        source,
        config.data.batch_size,
        config.seed,
        flip=config.data.get("flip", False),
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
        bucketed=config.data.get("bucketed", False),
    )
    evaluate = make_evaluate(config, method, workdir) if every.evaluate_every else None
    draw = None
    if every.sample_every:
        classes = run_config.class_names(config, source.fields)
        draw = make_draw(config, method, workdir, classes)
    initial = states.trace_initial(method)
    template = initial.out_info
    groups = None
    if not is_trained:
        groups = runs.read_groups(template, every.init_from)
        runs.warn_of_other_diffusion(config)
        check_random_groups(method, template, groups)

    primary = parallel.process_index() == 0
    names = tracker_names if primary else ()
    tracked = trackers.Trackers(names, workdir, config.to_dict())
    with locked(workdir) if primary else contextlib.nullcontext(), tracked:
        # 2. Restore the last checkpoint, or initialise a new state.
        checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, every.keep)
        state = restore(checkpoints, template, changes)
        run_config.write_config(config, source.fields, workdir)
        if state is None:
            LOGGER.info("Starting from step 0 in %s.", workdir)
            key = jax.random.key(config.seed)
            state = compilation.run_once(initial, key)
            state = runs.replace_groups(state, groups)
        else:
            step, last = int(state.step), every.num_steps
            LOGGER.warning("RESUMING %s at step %d of %d.", workdir, step, last)
        start = int(state.step)
        state = parallel.replicate(state, donate=True)
        num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
        LOGGER.info("%s parameters, on %s.", f"{num_parameters:,}", parallel.describe())

        # 3. Train.
        losses, (unit, count) = loss_names(method.phases), unit_of(source.fields)
        profile = profiling.Profile(profiled, workdir)
        try:
            logger = MetricLogger(
                workdir,
                start,
                every.num_steps,
                every.log_every,
                primary,
                losses,
                TrainingMonitor(losses.values()).push,
                unit,
                tracked,
            )
            with profile:
                loop(
                    config,
                    method,
                    state,
                    batches,
                    count,
                    logger,
                    checkpoints,
                    profile,
                    evaluate,
                    draw,
                )
            logger.close()
            checkpoints.close()
            if primary:
                run_plots.save(workdir, config.eval.split)
        except interrupts.Stopped:
            checkpoints.close()
            LOGGER.warning("Last checkpoint: %s.", checkpoints.last_good())
            raise
        except SaveError:
            raise  # it names the last good checkpoint
        except Exception as error:
            error.add_note(f"Last good checkpoint: {checkpoints.last_good()}.")
            if isinstance(error, FloatingPointError):
                error.add_note("A lower optim.learning_rate may help.")
            raise


def check_random_groups(
    method: methods.Method, template: TrainState, groups: Variables
) -> None:
    """Warns if a group that no phase trains is not copied from another run.

    Args:
      method: that is trained.
      template: the shapes of the run's state.
      groups: that train.init_from copies.

    Raises:
      ValueError: there is such a group, and nothing else is trained either.
    """
    trained = {group for phase in method.phases for group in phase.trains}
    for group in sorted(template.params.keys() - trained - groups.params.keys()):
        sentence = (
            f"The weights of {group} are random and will stay so: set train.init_from="
            f"{group}=WORKDIR, the folder of a run that trained them ({group}:net="
            "WORKDIR for a run of a diffusion model, whose group is net)"
        )
        if not method.phases:
            raise ValueError(f"{sentence}, or name {group} in cascade.trained.")
        LOGGER.warning("%s.", sentence)


def restore(
    checkpoints: Checkpoints, template: TrainState, changes: run_config.Changes
) -> TrainState | None:
    """Restores the last checkpoint, if there is one, and logs changes of the config.

    Raises:
      MismatchError: it belongs to another model; a note names the changes.
    """
    try:
        state = checkpoints.restore_latest(template)
    except MismatchError as error:
        if changes:
            error.add_note(f"Changed: {run_config.describe(changes)}.")
        raise
    if changes:
        LOGGER.warning("Config changed: %s.", run_config.describe(changes))
    if state is not None and "train.init_from" in changes:
        LOGGER.warning(
            "train.init_from is read at step 0 only: the run keeps its weights. Use "
            "another --workdir to start from others."
        )
    return state


def loop(
    config: ConfigDict,
    method: methods.Method,
    state: TrainState,
    batches: Loader,
    count: Callable[[Any], int],
    logger: MetricLogger,
    checkpoints: Checkpoints,
    profile: profiling.Profile,
    evaluate: Evaluate | None,
    draw: Draw | None,
) -> None:
    """Runs the remaining steps; saves, evaluates and samples when due.

    Raises:
      Stopped: the program was asked to stop; the state has been saved.
      FloatingPointError: a metric or the state is not finite.
      Exception: anything else went wrong; the state before it has been saved.
    """
    num_steps, every = config.train.num_steps, config.train
    for_inference = jax.jit(method.for_inference)
    train_step = make_train_step(method, parallel.axis(), every.accumulate)
    run_step = parallel.train_step_on_devices(train_step)
    start = int(state.step)

    def look(done: int, state: TrainState) -> None:
        """Evaluates and samples if due after `done` steps, which have been saved."""
        evaluate_now = evaluate and is_due(done, every.evaluate_every, num_steps)
        # Processes may see different states of a shared disk.
        if evaluate_now and not parallel.largest(checkpoints.has_score(done)):
            metrics, score = evaluate(for_inference(state.averaged))
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            LOGGER.info("Step %d, %s: %s", done, config.eval.split, shown)
            logger.write(done, metrics, prefix=f"{config.eval.split}_")
            checkpoints.set_score(done, score)
        if draw and is_due(done, every.sample_every, num_steps):
            draw(done, for_inference(state.averaged), done == start)
            logger.write_samples(done)

    if parallel.process_count() == 1:  # several ones agree with the first step
        interrupts.check()
    done = start
    try:
        if start:
            look(start, state)  # an earlier session may have been stopped before that
        if start >= num_steps:
            LOGGER.warning("Nothing is left to do: train.num_steps is %d.", num_steps)
        flops: dict[Any, float | None] = {}  # of a step, by the shapes of its batch
        stream = parallel.to_devices(batches.iterate(start, num_steps))
        for step, batch in logger.waits(stream):
            shapes = parallel.shapes(batch)
            if shapes not in flops:
                with logger.paused():
                    logger.flush()
                    if flops:
                        LOGGER.info("New length of sequences at step %d.", step)
                    flops[shapes] = compile_step(run_step, state, batch)
            if profile.starts(step):
                with logger.paused():
                    logger.flush()
                    profile.start()
            stop = interrupts.requested()
            state, metrics = run_step(state, batch, stop)
            done = step + 1
            logger.push(done, metrics, count(batch), flops[shapes])
            if profile.ends(done):
                with logger.paused():
                    logger.flush()
                    profile.end()
            periods = every.save_every, every.evaluate_every, every.sample_every
            save_now, *look_now = (is_due(done, x, num_steps) for x in periods)
            save_now |= any(look_now) or done == num_steps
            if not (save_now or logger.stop_requested):
                continue
            with logger.paused():
                logger.flush()  # raises before a state that is not finite is used
                checkpoints.save(state)
                if logger.stop_requested:
                    raise interrupts.Stopped(logger.stop_requested)
                look(done, state)
    except (FloatingPointError, SaveError):
        raise  # there is nothing good to save, or nowhere to save it
    except interrupts.Stopped:
        checkpoints.save(state)  # unless it has been
        raise
    except Exception:
        if done > start:
            rescue(state, logger, checkpoints)
        raise


def compile_step(
    run_step: parallel.TrainStep, state: TrainState, batch: Any
) -> int | None:
    """Compiles the train step and logs the memory it needs.

    Args:
      run_step: the step.
      state: replicated.
      batch: sharded.

    Returns:
      The floating point operations of a step on each device, if their peak is known.
    """
    num_arrays = len(jax.tree.leaves(state.params))
    LOGGER.info("Compiling the train step%s.", compilation.about(num_arrays))
    with progress.waiting("Compiling", parallel.process_index() == 0):
        memory = costs.memory(run_step.compile(state, batch))
    if memory is not None:
        LOGGER.info("The train step needs about %s per device.", costs.in_words(memory))
        limit = parallel.device_memory().get("bytes_limit")
        if limit and memory > limit:
            LOGGER.warning(
                "A device has only %s. Use a smaller data.batch_size, more devices, "
                "train.accumulate, model.remat or model.dtype=bfloat16.",
                costs.in_words(limit),
            )
    if parallel.device_kind() not in costs.PEAK_FLOPS:
        return None  # counting traces the step once more
    return run_step.count_flops(state, batch)


def rescue(state: TrainState, logger: MetricLogger, checkpoints: Checkpoints) -> None:
    """Saves the state before an error, if it can be saved.

    With several processes it cannot, since the others do not know of the error.
    """
    if parallel.process_count() > 1:
        return
    try:
        logger.flush()
        checkpoints.save(state)
        checkpoints.wait()
    except Exception as error:  # the first error is the one to report
        LOGGER.error("The last state could not be saved: %s", error)


def unit_of(fields: Mapping[str, Field]) -> tuple[str, Callable[[Any], int]]:
    """Returns in what a run's speed is measured, and a function that counts it.

    The function takes this process's batch and counts that of all processes.
    """
    names = {field.kind: name for name, field in fields.items()}

    def examples(batch: Any) -> int:
        return batch["index"].size * parallel.process_count()

    def tokens(batch: Any) -> int:
        """Those that are predicted, with padding; of a pair, those of the target."""
        return examples(batch) * (batch[names["tokens"]].shape[-1] - 1)

    if "image" in names:
        return "images", examples
    return ("tokens", tokens) if "tokens" in names else ("examples", examples)


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

    def evaluate(variables: Variables) -> tuple[dict[str, float], Score]:
        record = next(evaluator(variables))
        metrics = {}
        for name, value in record.metrics.items():
            values = value if isinstance(value, list) else None  # such as a histogram
            named = {f"{name}/{i}": x for i, x in enumerate(values or [])}
            metrics |= named or {name: value}
        data = data_settings(config)
        settings = {"metric": config.eval.metric, **data, **record.settings}
        value = next(iter(record.metrics.values()))
        return metrics, Score(value, settings)

    return evaluate


def make_draw(
    config: ConfigDict,
    method: methods.Method,
    workdir: pathlib.Path,
    class_names: tuple[str, ...],
) -> Draw:
    """Makes a function that runs sample.task and writes samples/STEP.png.

    Args:
      config: of the run.
      method: that the config describes.
      workdir: the run's folder.
      class_names: see `task_runner.make`.
    """
    runner, folder = (
        task_runner.make(config, method, config.sample.task, class_names=class_names),
        workdir / logs.SAMPLES,
    )

    def draw(step: int, variables: Variables, unless_drawn: bool) -> None:
        if unless_drawn and parallel.largest(any(folder.glob(f"{step:08}.*"))):
            return
        outputs = runner.run(variables)
        writers.save_preview(folder / f"{step:08}", outputs, runner.fields)

    return draw
