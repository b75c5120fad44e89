"""Checkpoints: the only file that says orbax."""

import json
import logging
import math
import os
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)

HALF_WRITTEN = ".orbax-checkpoint-tmp"
DAMAGED = "damaged-"
METRICS, SCORE = "metrics", "score"  # orbax's folder and file; what is in it


class Checkpoints:
    """The checkpoints of a run: workdir/checkpoints/STEP, each with checksums.

    Saving is asynchronous: a save is first complete under a temporary name and then
    renamed, so that a run killed at any moment leaves only whole checkpoints and
    perhaps a half-written one, which is named and removed at the next start.

    Args:
      directory: absolute, or relative to where the program was started.
      keep: how many of the last checkpoints to keep, beside the best one.
      read_only: leaves the checkpoints alone, where a training may be under way.
    """

    def __init__(
        self, directory: str | os.PathLike, keep: int = 3, read_only: bool = False
    ):
        self.directory = pathlib.Path(directory).absolute()
        self._read_only = read_only
        if not read_only:
            for path in sorted(self.directory.glob(f"*{HALF_WRITTEN}*")):
                LOGGER.warning("Half-written checkpoint %s: it is not used.", path)
        for path in sorted(self.directory.glob(f"*/{METRICS}/{METRICS}")):
            if path.parents[1].name.isdigit():  # complete, not under way
                _check_score(path)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            n=1,
                            get_metric_fn=_score,
                            reverse=True,  # the lowest score is the best
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=_score,  # orbax writes no metrics without it
                best_mode="min",
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )

    def steps(self) -> list[int]:
        """Returns the steps that were saved, rising."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step with the lowest score, or None where none has one."""
        scores = {step: _score(self._manager.metrics(step)) for step in self.steps()}
        best = min(scores, key=scores.__getitem__, default=None)
        return best if scores.get(best, math.inf) < math.inf else None

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Begins to save a state (not replicated); does nothing if it is saved already.

        Args:
          state: the state of one device.
          score: lower is better; None where it was not measured.

        Raises:
          FloatingPointError: something in the state is not finite; nothing is saved.
        """
        step = int(state.step)
        if step in self.steps():
            return
        arrays = _to_arrays(state)
        for name, x in arrays.items():
            if jnp.issubdtype(x.dtype, jnp.floating) and not np.isfinite(x).all():
                raise FloatingPointError(f"{name} is not finite after step {step}.")
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                checksums=ocp.args.JsonSave(_checksums(arrays)),
            ),
            metrics={SCORE: math.inf if score is None else float(score)},
        )

    def wait(self) -> None:
        """Waits until what was begun is on disk; raises what a save has raised."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self.wait()
        self._manager.close()

    def restore(self, template: TrainState, step: int) -> TrainState:
        """Restores one checkpoint.

        Args:
          template: a state, or its shapes, that the checkpoint has to match.
          step: which one.

        Raises:
          ValueError: the checkpoint belongs to another model.
          Exception: whatever reading a damaged checkpoint raises.
        """
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), checksums=ocp.args.JsonRestore()
            ),
        )
        arrays = {name: np.asarray(x) for name, x in items["state"].items()}
        expected = items["checksums"]
        found = _checksums(arrays)
        changed = sorted(n for n in expected | found if expected.get(n) != found.get(n))
        if changed:
            path = self.directory / str(step)
            raise OSError(f"{path}: the checksum of {changed[0]} is wrong")
        return _to_state(arrays, template, self.directory / str(step))

    def restore_latest(self, template: TrainState) -> TrainState | None:
        """Restores the latest checkpoint that can be read, or None if there is none.

        A damaged one is named and (unless read_only) set aside as damaged-STEP; the one
        before is used.

        Raises:
          ValueError: the checkpoint belongs to another model.
          RuntimeError: there are checkpoints, and none of them can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.directory / str(step)
            try:
                state = self.restore(template, step)
            except MismatchError:
                raise
            except Exception as error:  # any reader's: what damage looks like is open
                LOGGER.error("Damaged checkpoint %s: %s", path, _first_line(error))
                if not self._read_only:
                    self._set_aside(step)
                continue
            LOGGER.info("Restored %s.", path)
            return state
        if steps or any(self.directory.glob(f"{DAMAGED}*")):
            raise RuntimeError(
                f"None of the checkpoints in {self.directory} can be read; they are "
                "kept there. Remove that folder to start from the beginning."
            )
        return None

    def restore_trained(self, template: TrainState, which: str) -> TrainState:
        """Restores the "last" or the "best" checkpoint, for sampling or evaluation.

        Raises:
          FileNotFoundError: there is none.
          ValueError: the checkpoint belongs to another model, or which is unknown.
        """
        if which not in ("last", "best"):
            raise ValueError(f"Unknown checkpoint {which!r}. Known ones: last, best.")
        if which == "best":
            step, needs = self.best_step(), "train with train.evaluate_every"
            state = None if step is None else self.restore(template, step)
        else:
            state, needs = self.restore_latest(template), "train first"
        if state is None:
            raise FileNotFoundError(
                f"There is no {which} checkpoint in {self.directory}: {needs}."
            )
        return state

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again."""
        parallel.barrier("damaged checkpoint read by all")
        if parallel.process_index() == 0:
            target = self.directory / f"{DAMAGED}{step}"
            number = 1
            while target.exists():
                number += 1
                target = self.directory / f"{DAMAGED}{step}-{number}"
            (self.directory / str(step)).rename(target)
            LOGGER.error("Set aside as %s; trying the one before.", target)
        parallel.barrier("damaged checkpoint set aside")
        self._manager.reload()


class MismatchError(ValueError):
    """A checkpoint that was read well, of another model than the config's."""


def _to_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """Flattens a state to host arrays by name; typed keys become their data."""
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(state))[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _to_state(
    arrays: dict[str, np.ndarray], template: TrainState, path: pathlib.Path
) -> TrainState:
    """Rebuilds a state from arrays by name, and refuses any that does not fit."""
    key_shape = jax.eval_shape(jax.random.key_data, template.key)
    flat, treedef = jax.tree_util.tree_flatten_with_path(
        template.replace(key=key_shape)
    )
    expected = {_name(keys): leaf for keys, leaf in flat}
    problems = [
        f"{name} is in the {'checkpoint' if name in arrays else 'config'} alone"
        for name in sorted(expected.keys() ^ arrays.keys())
    ] + [
        f"{name} is {arrays[name].dtype}{list(arrays[name].shape)} in the checkpoint "
        f"and {leaf.dtype}{list(leaf.shape)} by the config"
        for name, leaf in expected.items()
        if name in arrays
        and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if problems:
        raise MismatchError(
            f"The checkpoint {path} does not match the config: {problems[0]}"
            f" ({len(problems)} differences in all). Use the config that it was "
            "trained with, or another --workdir."
        )
    state = jax.tree.unflatten(treedef, [arrays[name] for name in expected])
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _checksums(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    def checksum(x: np.ndarray) -> int:
        kind = f"{x.dtype}{list(x.shape)}".encode()  # the bytes alone may mean another
        return zlib.crc32(np.ascontiguousarray(x), zlib.crc32(kind))

    return {name: checksum(x) for name, x in arrays.items()}


def _score(metrics: dict[str, float] | None) -> float:
    return (metrics or {}).get(SCORE, math.inf)


def _check_score(path: pathlib.Path) -> None:
    """Removes a score that cannot be read; orbax would not start over it."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        LOGGER.error("Damaged score %s: %s", path, _first_line(error))
        path.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
