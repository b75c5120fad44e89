"""A trained run: its weights, and copies of them for other runs."""

import logging
import pathlib
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
    for entry in filter(None, init_from.split(",")):
        group, equals, workdir = entry.partition("=")
        if not (equals and workdir):
            raise ValueError(
                f"train.init_from={init_from} must be written GROUP=WORKDIR,..."
            )
        group, _, theirs = group.partition(":")
        theirs = theirs or group
        params = lookup(template.params, group, "group in train.init_from")
        stats = template.model_state.get(group)
        directory = paths.local(workdir) / run_config.CHECKPOINTS
        checkpoints = Checkpoints(directory, read_only=True)
        try:
            step, found = checkpoints.restore_variables(
                Variables({theirs: params}, {} if stats is None else {theirs: stats}),
                "last",
            )
        except MismatchError as error:
            error.add_note(
                f"It is read because of train.init_from={entry}: the settings of "
                f"{group} must be those of that run, such as dvae_model and dvae those "
                "of its groups model and dvae."
            )
            raise
        LOGGER.info("Read %s from %s, step %d.", group, workdir, step)
        groups.params[group] = found.params[theirs]
        if stats is not None:
            groups.state[group] = found.state[theirs]
    return groups


def replace_groups(state: TrainState, groups: Variables) -> TrainState:
    """Replaces groups of a state at step 0: parameters, their average, statistics."""
    return state.replace(
        params=state.params | groups.params,
        ema=state.ema | jax.tree.map(np.copy, groups.params),
        model_state=state.model_state | groups.state,
    )
