"""Types shared by the trainer and the model families, and the training state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from diffusion_jax.training.optimizers import Optimizer

PyTree = Any


class Variables(NamedTuple):
    """Parameters and statistics of a model, by group ("net"; "gen" and "disc").

    Attributes:
      params: trainable parameters.
      state: batch statistics and the like, empty for groups that have none.
    """

    params: dict[str, PyTree]
    state: dict[str, PyTree]


class Phase(NamedTuple):
    """One update within a step; a GAN has two, "disc" and then "gen".

    Attributes:
      name: e.g. "disc".
      trains: the groups that this phase updates. A group that no phase trains is
        frozen: checkpoints contain it, but it never changes.
      optimizer: how the groups are updated.
      batch_slice: the examples that it uses: (0, 1) all, (i, n) every n-th from the
        i-th on, for critics with several updates per step. n must divide the number of
        examples on a device.
    """

    name: str
    trains: tuple[str, ...]
    optimizer: Optimizer
    batch_slice: tuple[int, int] = (0, 1)


class Loss(NamedTuple):
    """The loss of a phase on one shard of the batch.

    Attributes:
      value: f32[], the weighted mean over the shard.
      metrics: scalars to log, each a mean with the same weights.
      state: new statistics of the groups that changed.
      observed: arrays [b, ...] of each example, passed on to `Method.after_step`.
      weight: f32[], the sum of the shard's weights: the number of tokens that are not
        masked, for example. Shards of equal weight may leave it at 1.
    """

    value: Array
    metrics: dict[str, Array] = {}
    state: dict[str, PyTree] = {}
    observed: PyTree = None
    weight: Array | float = 1.0


@struct.dataclass
class TrainState:
    """Everything that the next step depends on, except the batch.

    Attributes:
      step: i32[], the number of steps done.
      key: the run's typed key, never advanced: a step's key is fold_in(key, step).
      params: parameters by group.
      model_state: batch statistics and the like, by group.
      opt_state: the optimiser's state by phase.
      ema: exponential moving average of the parameters, by group.
      aux: extra state of a family, such as image pools.
    """

    step: Array
    key: Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]
    aux: PyTree

    @property
    def variables(self) -> Variables:
        """The trained parameters with their statistics."""
        return Variables(self.params, self.model_state)

    @property
    def averaged(self) -> Variables:
        """The averaged parameters with the trained ones' statistics.

        Pass it through `Method.for_inference` before use.
        """
        return Variables(self.ema, self.model_state)


def trace_initial(method: Any) -> jax.stages.Traced:
    """Traces `initial`, key -> state; `out_info` has the shapes of the state."""
    traced = jax.jit(functools.partial(initial, method))
    return traced.trace(jax.random.key(0))


def initial(method: Any, key: Array) -> TrainState:
    """Returns the state before the first step.

    Args:
      method: a `methods.base.Method`.
      key: typed key of the whole run.
    """
    init_key, run_key = jax.random.split(key)
    (params, model_state), aux = method.init(init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        params=params,
        model_state=model_state,
        opt_state={
            phase.name: phase.optimizer.tx.init(
                {group: params[group] for group in phase.trains}
            )
            for phase in method.phases
        },
        # A copy: buffers shared with params could not both be donated.
        ema=jax.tree.map(jnp.copy, params),
        aux=aux,
    )
