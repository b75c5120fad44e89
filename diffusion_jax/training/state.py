"""The state of a run: all that a checkpoint holds, with the config beside it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from diffusion_jax.training.optimizers import Optimizer

PyTree = Any


class Phase(NamedTuple):
    """One update within a step: "discriminator, then generator" is two of them.

    Attributes:
      name: e.g. "disc".
      trains: the parameter groups that this phase updates.
      optimizer: how it updates them.
      part: which examples it sees: (0, 1) is all, (i, n) every n-th from the i-th on,
        for critics that take several steps. A device's share must divide by n.
    """

    name: str
    trains: tuple[str, ...]
    optimizer: Optimizer
    part: tuple[int, int] = (0, 1)


@struct.dataclass
class TrainState:
    """Everything that the next step depends on, but the batch.

    Attributes:
      step: i32[], the number of steps done.
      key: the run's typed key, never advanced: a step's key is fold_in(key, step).
      params: parameters by group.
      model_state: batch statistics and the like, by group.
      opt_state: the optimiser's state by phase.
      ema: exponential moving average of the parameters, by group.
      extra: what else a family keeps, such as image pools.
    """

    step: Array
    key: Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]
    extra: PyTree


def initial(
    key: Array,
    phases: Sequence[Phase],
    init: Callable[[Array], tuple[dict[str, PyTree], dict[str, PyTree], PyTree]],
) -> TrainState:
    """Returns the state before the first step.

    Args:
      key: typed key of the whole run.
      phases: of the method.
      init: key -> (params, model_state, extra), of the method.
    """
    init_key, run_key = jax.random.split(key)
    params, model_state, extra = init(init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        params=params,
        model_state=model_state,
        opt_state={
            phase.name: phase.optimizer.tx.init(
                {group: params[group] for group in phase.trains}
            )
            for phase in phases
        },
        # A copy: buffers shared with params could not both be donated.
        ema=jax.tree.map(jnp.copy, params),
        extra=extra,
    )
