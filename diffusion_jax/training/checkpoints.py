"""Checkpoints: the only file that uses Orbax."""

import contextlib
import json
import logging
import math
import os
import pathlib
import re
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from diffusion_jax import strict_json
from diffusion_jax.lookup import lookup
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState, Variables

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

HALF_WRITTEN = ".orbax-checkpoint-tmp"
DAMAGED = "damaged-"
SCORE_FILE = "score.json"  # in a checkpoint's folder
OLD_SCORE_FILE = "metrics/metrics"  # of older versions, which wrote {"score": x}


class Score(NamedTuple):
    """The result of evaluating a checkpoint.

    Attributes:
      value: lower is better.
      settings: the metric and the settings that the value depends on.
        Only scores with equal settings can be compared.
    """

    value: float
    settings: dict[str, Any]


class SaveError(OSError):
    """A checkpoint could not be written."""


class Checkpoints:
    """The checkpoints of a run: workdir/checkpoints/STEP, each with checksums.

    Saving is asynchronous: a checkpoint is written under a temporary name and renamed
    when it is complete. A run killed at any moment thus leaves complete checkpoints and
    at most one half-written one, which is logged and removed at the next start.

    Args:
      directory: absolute, or relative to the current directory.
      keep: number of latest checkpoints to keep; the best one is kept as well.
      read_only: change nothing on disk, so that a run may be training there.

    Raises:
      SaveError: the directory cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike, keep: int = 3, read_only: bool = False
    ):
        self.directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._read_only = read_only
        self._manager = None  # until the directory has been checked
        if not read_only:
            for path in sorted(self.directory.glob(f"*{HALF_WRITTEN}*")):
                LOGGER.warning("Half-written checkpoint %s: it is not used.", path)
            self._check_writable()
        parallel.barrier("all processes open the checkpoints")  # Orbax waits only 30 s
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "checksums": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                # In the background, a folder that cannot be created leaves threads that
                # wait for it and keep the process from ending.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                # Without these two the manager only reads until it saves. Orbax's own
                # read_only does no more, and logs warnings.
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )
        self._scores = {
            step: score
            for step in self.steps()
            if (score := read_score(self.directory / str(step)))
        }

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Tells Orbax which checkpoints to keep: the latest ones and the best one."""
        kept = {checkpoint.step for checkpoint in checkpoints[-self._keep :]}
        kept.add(self.best_step())
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def steps(self) -> list[int]:
        """Returns the steps that were saved, in ascending order."""
        return sorted(self._manager.all_steps())

    def has_score(self, step: int) -> bool:
        """Returns whether a saved step was evaluated."""
        return step in self._scores

    def best_step(self) -> int | None:
        """Returns the step with the lowest score, or None if no step has a score.

        Only scores that measure the same as the latest one are compared.
        """
        scores = {x: self._scores[x] for x in self.steps() if x in self._scores}
        if not scores:
            return None
        latest = scores[max(scores)].settings
        values = {x: y.value for x, y in scores.items() if y.settings == latest}
        best = min(values, key=values.__getitem__)
        return best if values[best] < math.inf else None

    def save(self, state: TrainState) -> None:
        """Starts saving a state; does nothing if its step has already been saved.

        Arrays are checked one at a time: the state is never copied as a whole.

        Args:
          state: its arrays are replicated in all processes, or sharded over them.

        Raises:
          FloatingPointError: an array is not finite; nothing is saved.
          SaveError: this or the previous checkpoint cannot be written.
        """
        step = int(state.step)
        if step in self.steps():
            return
        self._scores.pop(step, None)  # of a checkpoint that turned out to be damaged
        arrays = parallel.to_global(
            _flatten(state.replace(key=jax.random.key_data(state.key)))
        )
        checksums = {}
        for name, array in arrays.items():
            x = parallel.to_host(array)
            if jnp.issubdtype(x.dtype, jnp.floating) and not np.isfinite(x).all():
                raise FloatingPointError(f"{name} is not finite after step {step}.")
            checksums[name] = _checksum(x)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays),
                    checksums=ocp.args.JsonSave(checksums),
                ),
            )
        except Exception as error:  # of the disk; the type depends on the disk
            raise self._save_error(error) from error

    def set_score(self, step: int, score: Score) -> None:
        """Stores the score of a step that was saved, which may make it the best one.

        Raises:
          SaveError: the checkpoint or the score cannot be written.
        """
        self.wait()  # its folder appears when it is complete
        score = score._replace(settings=json.loads(strict_json.dumps(score.settings)))
        before = [x for x in self._scores if x < step]
        old = self._scores[max(before)].settings if before else score.settings
        if old != score.settings:
            changed = [
                f"{name} was {old.get(name)} and is {score.settings.get(name)}"
                for name in old | score.settings
                if old.get(name) != score.settings.get(name)
            ]
            LOGGER.warning(
                "Earlier scores of this run measure something else (%s): the best "
                "checkpoint is chosen anew, from step %d on.",
                "; ".join(changed[:3]) if old else "an older version did not store it",
                step,
            )
        if not math.isfinite(score.value):
            score = score._replace(value=math.inf)  # NaN would compare as the lowest
        self._scores[step] = score
        if parallel.process_index() == 0:
            path = self.directory / str(step) / SCORE_FILE
            try:
                temporary = path.with_suffix(".tmp")
                temporary.write_text(strict_json.dumps(score._asdict(), indent=2))
                temporary.replace(path)
            except OSError as error:
                raise self._save_error(error) from error

    def last_good(self) -> str:
        """Returns the path of the last complete checkpoint, for messages.

        It waits for a save that is running, whose error is of no interest here.
        """
        if self._manager:
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()
        found = [x for x in self.directory.glob("*") if x.name.isdigit() and x.is_dir()]
        return str(max(found, key=lambda x: int(x.name), default="none"))

    def _check_writable(self) -> None:
        """Raises SaveError if nothing can be written."""
        if parallel.process_index() != 0:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"x")
        except OSError as error:
            raise self._save_error(error) from error

    def _save_error(self, error: Exception) -> SaveError:
        return SaveError(
            f"A checkpoint in {self.directory} could not be written "
            f"({_first_line(error)}): free or mount the disk, or correct its "
            "permissions, and run the same command again. Last good checkpoint: "
            f"{self.last_good()}."
        )

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          SaveError: a checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # of the disk; the type depends on the disk
            raise self._save_error(error) from error

    def close(self) -> None:
        """Waits as `wait` does, and then releases the directory."""
        self.wait()
        self._manager.close()

    def restore(self, template: TrainState, step: int) -> TrainState:
        """Restores one checkpoint.

        Args:
          template: a state, or its shapes, that the checkpoint has to match; arrays
            that have a sharding are restored with it, the others to this host.
          step: of the checkpoint.

        Raises:
          ValueError: the checkpoint belongs to another model.
          Exception: the checkpoint is damaged; the type depends on the damage.
        """
        key_data = jax.eval_shape(jax.random.key_data, template.key)
        template = template.replace(key=key_data)
        state = self._restore(template, step, lambda *_: True)
        return state.replace(key=jax.random.wrap_key_data(state.key))

    def restore_latest(self, template: TrainState) -> TrainState | None:
        """Restores the latest checkpoint that can be read, or None if there is none.

        A damaged checkpoint is logged and (unless read_only) renamed to damaged-STEP;
        the one before it is used.

        Raises:
          ValueError: the checkpoint belongs to another model.
          RuntimeError: there are checkpoints, but none of them can be read.
        """
        return self._latest(lambda step: self.restore(template, step))

    def restore_variables(
        self, template: Variables, which: str
    ) -> tuple[int, Variables]:
        """Restores the averaged parameters, for sampling and evaluation.

        Nothing else is read: neither the optimiser's state nor the parameters that are
        being trained.

        Args:
          template: the shapes of all groups, or of those to restore.
          which: "last" or "best".

        Returns:
          (step, variables); pass them through `Method.for_inference` before use.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: the checkpoint belongs to another model, or which is unknown.
        """
        needs = lookup(REMEDIES, which, "checkpoint")
        parts = {"ema": template.params, "model_state": template.state}

        def wanted(part: str, group: str = "") -> bool:
            return part in parts and group in parts["ema"]

        def read(step: int) -> tuple[int, Variables]:
            found = self._restore(parts, step, wanted)
            return step, Variables(found["ema"], found["model_state"])

        if which == "best":
            best = self.best_step()
            result = None if best is None else read(best)
        else:
            result = self._latest(read)
        if result is None:
            raise FileNotFoundError(
                f"There is no {which} checkpoint in {self.directory}: {needs}."
            )
        return result

    def _restore(self, template: Any, step: int, wanted: Callable[..., bool]) -> Any:
        """Restores the arrays for which wanted(first two parts of the name) is true."""
        path = self.directory / str(step)
        metadata = self._manager.item_metadata(step)["state"]
        checksums = self._manager.restore(
            step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())
        )["checksums"]
        if checksums.keys() != metadata.tree.keys():
            raise OSError(f"{path}: arrays and checksums have different names")
        expected = _flatten(template)
        stored = {
            name if name in expected else _current_name(name): name
            for name in metadata.tree
            if wanted(*name.split(".")[:2])
        }
        for name in expected.keys() ^ stored.keys():
            for pattern, equal in EQUAL.items():
                other = re.sub(pattern, equal, name)
                if other == name or other not in stored:
                    continue
                if name in expected:  # the schedule is new: the counts agree
                    stored[name] = stored[other]
                    LOGGER.warning("%s starts as %s, %s.", name, other, path)
                else:
                    del stored[name]  # the learning rate is constant now
        _check_match({x: metadata.tree[stored[x]] for x in stored}, expected, path)
        item = {stored[name]: x for name, x in expected.items()}
        arrays = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                    partial_restore=True,
                )
            ),
        )["state"]
        for name, x in arrays.items():
            x = parallel.to_host(x) if isinstance(x, Array) else x
            if checksums[name] != _checksum(x):
                raise OSError(f"{path}: the checksum of {name} is wrong")
        leaves = [arrays[stored[name]] for name in expected]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _latest(self, read: Callable[[int], T]) -> T | None:
        """Reads the latest checkpoint that is not damaged; None if there is none."""
        steps = self.steps()
        for step in reversed(steps):
            path = self.directory / str(step)
            try:
                result = read(step)
            except MismatchError:
                raise
            except Exception as error:  # damage can surface as any error
                LOGGER.error("Damaged checkpoint %s: %s", path, _first_line(error))
                if not self._read_only:
                    self._set_aside(step)
                continue
            LOGGER.info("Restored %s.", path)
            return result
        if steps or any(self.directory.glob(f"{DAMAGED}*")):
            raise RuntimeError(
                f"None of the checkpoints in {self.directory} can be read. They were "
                "kept. Remove that folder to start from the beginning."
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again."""
        parallel.barrier("every process has read the damaged checkpoint")
        if parallel.process_index() == 0:
            target = self.directory / f"{DAMAGED}{step}"
            number = 1
            while target.exists():
                number += 1
                target = self.directory / f"{DAMAGED}{step}-{number}"
            (self.directory / str(step)).rename(target)
            LOGGER.error("Renamed it to %s; trying the one before.", target)
        parallel.barrier("the damaged checkpoint is renamed")
        self._manager.reload()


class MismatchError(ValueError):
    """A checkpoint is intact, but belongs to another model than the config's."""


def _check_match(
    found: dict[str, Any], expected: dict[str, Any], path: pathlib.Path
) -> None:
    """Raises MismatchError if names, shapes or dtypes differ."""
    problems = [
        f"{name} is only in the {'checkpoint' if name in found else 'config'}"
        for name in sorted(expected.keys() ^ found.keys())
    ] + [
        f"{name} is {_describe(found[name])} in the checkpoint and {_describe(x)} "
        "according to the config"
        for name, x in expected.items()
        if name in found and _describe(found[name]) != _describe(x)
    ]
    if problems:
        raise MismatchError(
            f"The checkpoint {path} does not match the config: {problems[0]}"
            f" ({len(problems)} differences in total). Use the config that it was "
            "trained with, or another --workdir."
        )


def _describe(x: Any) -> str:
    """Describes an array by dtype and shape, e.g. "float32[3, 3]"."""
    return f"{np.dtype(x.dtype)}{list(x.shape)}"


def _flatten(tree: Any) -> dict[str, Any]:
    """Flattens a tree to {"params.net.conv.kernel": leaf}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves
    }


def _checksum(x: np.ndarray) -> int:
    """Returns a CRC-32 of dtype, shape and bytes."""
    return zlib.crc32(np.ascontiguousarray(x), zlib.crc32(_describe(x).encode()))


def _current_name(name: str) -> str:
    """Returns the current name of an array that an earlier version saved."""
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def read_score(path: pathlib.Path) -> Score | None:
    """Returns the score of a checkpoint, or None if it has none that can be read."""
    for name in (SCORE_FILE, OLD_SCORE_FILE):
        file = path / name
        try:
            stored = json.loads(file.read_bytes())
            value = stored["value"] if name == SCORE_FILE else stored["score"]
            value = math.inf if value is None else float(value)
            return Score(value, dict(stored.get("settings", {})))
        except FileNotFoundError:
            continue
        except Exception as error:  # damage can surface as any error
            LOGGER.error("Damaged score %s: %s", file, _first_line(error))
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


# What to do if there is no such checkpoint.
REMEDIES = {"last": "train first", "best": "train with train.evaluate_every"}
# Arrays that were renamed: pattern of the old name -> replacement.
RENAMED = {
    r"^extra\b": "aux",
    r"^(opt_state\.[^.]+)\.(1\.)?0\.": r"\1.adam.",
    r"^(opt_state\.[^.]+)\.(1\.)?1\.count$": r"\1.learning_rate.count",
}
# Arrays that a state may have or not -> arrays that always have the same value. A
# learning rate schedule, unlike a constant rate, counts the updates, as Adam does.
EQUAL = {r"^(opt_state\.[^.]+)\.learning_rate\.count$": r"\1.adam.count"}
