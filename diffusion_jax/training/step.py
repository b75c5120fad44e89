"""The train step, which is the same for every family."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax import Array

from diffusion_jax.training import batches, ema, parallel
from diffusion_jax.training.state import Loss, Phase, TrainState, Variables

Batch = dict[str, Array]
Metrics = dict[str, Array]


def loss_names(phases: Sequence[Phase]) -> dict[str, str]:
    """Maps the displayed name of each phase's loss to the name of its metric.

    {"loss": "loss"} for one phase; {"disc": "disc/loss", "gen": "gen/loss"} for two.
    """
    if len(phases) == 1:
        return {"loss": "loss"}
    return {phase.name: f"{phase.name}/loss" for phase in phases}


def make_train_step(
    method: Any, axis: str | None
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the step that every device runs on its shard of the batch.

    For each phase in order, the gradient averaged over the devices updates the phase's
    groups, and then their moving average. Later phases use the updated groups. Images
    may be bytes; the method gets them in [-1, 1] (`batches.normalise`).

    Args:
      method: a `methods.base.Method`.
      axis: name of the device axis; None if the batch is not split.

    Returns:
      (state, shard of the batch) -> (state, metrics). Metrics are means over the whole
      batch, among them each phase's "loss" and "grad_norm", prefixed with the phase's
      name and "/" if there are several phases (of phases with the same name, the last
      one counts). grad_norm is the norm of the averaged gradient before `tx`, but after
      `replica_tx`.
    """
    phases = method.phases

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = batches.normalise(batch)
        step_key = jax.random.fold_in(state.key, state.step)
        metrics: Metrics = {}
        for number, phase in enumerate(phases):
            key = jax.random.fold_in(step_key, number)
            state, phase_metrics = run_phase(phase, method, axis, state, batch, key)
            prefix = f"{phase.name}/" if len(phases) > 1 else ""
            metrics |= {prefix + name: x for name, x in phase_metrics.items()}
        return state.replace(step=state.step + 1), metrics

    return train_step


def run_phase(
    phase: Phase,
    method: Any,
    axis: str | None,
    state: TrainState,
    batch: Batch,
    key: Array,
) -> tuple[TrainState, Metrics]:
    """Runs one phase; returns the new state and the phase's metrics.

    With a shard's gradient g_i and weight w_i (`Loss.weight`), the gradient is

        sum_i w_i replica_tx(g_i) / sum_i w_i

    which without `replica_tx` is the gradient of the whole batch's weighted mean. A
    replica's gradient is clipped before it is weighted, since the scale of a mean does
    not depend on the number of tokens. The average's norm is at most clip_norm.
    """
    first, stride = phase.batch_slice
    batch = jax.tree.map(lambda x: x[first::stride], batch)

    def phase_loss(trained: dict[str, Any]) -> tuple[Array, Loss]:
        variables = Variables(state.params | trained, state.model_state)
        loss = method.loss(phase.name, variables, state.aux, batch, key, state.step)
        return loss.value, loss

    optimizer = phase.optimizer
    trained = {group: state.params[group] for group in phase.trains}
    grads, loss = jax.grad(phase_loss, has_aux=True)(trained)
    grads, _ = optimizer.replica_tx.update(grads, optimizer.replica_tx.init(grads))
    scale = loss.weight / parallel.mean(loss.weight, axis)
    weighted = grads, {"loss": loss.value, **loss.metrics}
    weighted = jax.tree.map(lambda x: scale * x, weighted)
    # A group's statistics change in the phase that trains it, and in no other.
    stats = {g: loss.state[g] for g in phase.trains if g in loss.state}
    (grads, metrics), stats = parallel.mean((weighted, stats), axis)
    metrics["grad_norm"] = optax.tree.norm(grads)

    opt_state = state.opt_state[phase.name]
    updates, opt_state = optimizer.tx.update(grads, opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    averaged = {group: state.ema[group] for group in phase.trains}
    averaged = ema.update(averaged, trained, optimizer.ema_decay(state.step))

    params, model_state = state.params | trained, state.model_state | stats
    observed = parallel.gather(loss.observed, axis)
    variables = Variables(params, model_state)
    model_state, aux = method.after_step(variables, state.aux, observed)
    state = state.replace(
        params=params,
        model_state=model_state,
        opt_state=state.opt_state | {phase.name: opt_state},
        ema=state.ema | averaged,
        aux=aux,
    )
    return state, metrics
