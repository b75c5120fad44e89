"""A trained run: its weights, and copies of them for other runs."""

import logging
import pathlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods, paths, run_config
from diffusion_jax.lookup import lookup
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.checkpoints import Checkpoints, MismatchError
from diffusion_jax.training.state import TrainState, Variables

LOGGER = logging.getLogger(__name__)
# Keys of the group diffusion that a network's predictions depend on.
MEANING = "prediction schedule num_timesteps zero_terminal_snr self_condition".split()


class Run(NamedTuple):
    """A trained model.

    Attributes:
      method: that was trained.
      variables: averaged, ready for inference.
      step: of the checkpoint.
    """

    method: methods.Method
    variables: Variables
    step: int

    @property
    def id(self) -> str:
        """Eight digits that change with the weights."""
        number = 0
        for array in jax.tree.leaves(self.variables):
            number = zlib.crc32(np.ascontiguousarray(array), number)
        return f"{number:08x}"


def complete_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads the config of a run, with the keys that its family was given since.

    Raises:
      FileNotFoundError: there is no run in workdir.
      ValueError: config.json is damaged, or the family is unknown.
    """
    config = run_config.stored_config(workdir)
    defaults = lookup(methods.FAMILIES, config.method, "method").defaults()
    return run_config.complete(config, defaults, workdir)


def load(config: ConfigDict, workdir: pathlib.Path, checkpoint: str) -> Run:
    """Loads a trained model; nothing of the optimiser is read.

    Args:
      config: of the run.
      workdir: the run's folder.
      checkpoint: "last" or "best".

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint belongs to another model.
    """
    fields = run_config.stored_fields(config, workdir)
    method = methods.make(config, fields)
    checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, read_only=True)
    step, variables = checkpoints.restore_variables(
        states.trace_initial(method).out_info.variables, checkpoint
    )
    variables = parallel.replicate(variables, donate=True)
    variables = jax.jit(method.for_inference)(variables)
    return Run(method, variables, step)


def _entries(init_from: str) -> Iterator[tuple[str, str, str, pathlib.Path]]:
    """Yields each entry of train.init_from: itself, its group, the group there, where.

    Raises:
      ValueError: an entry has another form.
    """
    for entry in filter(None, init_from.split(",")):
        group, equals, workdir = entry.partition("=")
        if not (equals and workdir):
            raise ValueError(
                f"train.init_from={init_from} must be written GROUP=WORKDIR,..."
            )
        group, _, theirs = group.partition(":")
        yield entry, group, theirs or group, paths.local(workdir)


def read_groups(template: TrainState, init_from: str) -> Variables:
    """Reads parameter groups of other runs, from which a run starts.

    Args:
      template: the shapes of the run's state.
      init_from: "GROUP=WORKDIR,...", or "GROUP:THEIRS=WORKDIR" if the group has
        another name there; the averaged parameters and the statistics are read.

    Returns:
      The parameters and statistics of the groups; others are absent.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: a group is unknown, or has other shapes than in the other run.
    """
    groups = Variables({}, {})
    for entry, group, theirs, workdir in _entries(init_from):
        params = lookup(template.params, group, "group in train.init_from")
        stats = template.model_state.get(group)
        checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, read_only=True)
        try:
            step, found = checkpoints.restore_variables(
                Variables({theirs: params}, {} if stats is None else {theirs: stats}),
                "last",
            )
        except MismatchError as error:
            error.add_note(
                f"It is read because of train.init_from={entry}: the settings of "
                f"{group} must be those of that run. Its groups model and dvae are "
                "dvae_model and dvae of a dalle; its groups model and diffusion are "
                "those of a cascade's base, which has smaller images, or "
                "NAME.model and NAME.diffusion of an upsampler."
            )
            raise
        LOGGER.info("Read %s from %s, step %d.", group, workdir, step)
        groups.params[group] = found.params[theirs]
        if stats is not None:
            groups.state[group] = found.state[theirs]
    return groups


def warn_of_other_diffusion(config: ConfigDict) -> None:
    """Warns if train.init_from copies a denoiser that was trained otherwise.

    Its weights fit, but their predictions mean something else.

    Args:
      config: of the run, whose train.init_from has been read.
    """
    for entry, group, theirs, workdir in _entries(config.train.init_from):
        ours = _diffusion(config, group)
        other = _diffusion(run_config.stored_config(workdir), theirs)
        changes = [
            f"{key}={other[key]} there and {ours[key]} here"
            for key in MEANING
            if key in other and key in ours and other[key] != ours[key]
        ]
        if changes:
            LOGGER.warning(
                "train.init_from=%s: the group diffusion has %s. Unless %s is trained "
                "further, its samples will be wrong.",
                entry,
                ", ".join(changes),
                group,
            )


def _diffusion(config: ConfigDict, group: str) -> ConfigDict:
    """Returns the group diffusion of a parameter group; it may be empty."""
    stage = config.get(group)
    if isinstance(stage, ConfigDict) and "diffusion" in stage:
        return stage.diffusion
    return config.get("diffusion", ConfigDict())


def replace_groups(state: TrainState, groups: Variables) -> TrainState:
    """Replaces groups of a state at step 0: parameters, their average, statistics."""
    return state.replace(
        params=state.params | groups.params,
        ema=state.ema | jax.tree.map(np.copy, groups.params),
        model_state=state.model_state | groups.state,
    )
