"""The one train step, for every family."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax import Array

from diffusion_jax.training import ema, parallel
from diffusion_jax.training.state import Phase, TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]


def make_train_step(
    phases: Sequence[Phase],
    loss: Callable[..., tuple[Array, Any]],
    remember: Callable[[Any, Any], Any],
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the step that runs on every device, each with its shard of the batch.

    Each phase in turn: gradients of what it trains, averaged over devices, applied by
    its optimiser; then the average of what it trained moves.

    Args:
      phases: in order; a later one sees what an earlier one has updated.
      loss: (phase name, params, model_state, extra, batch, key, step) ->
        (f32[], Aux), the mean over one shard; see methods/base.py.
      remember: (extra, observed on all devices) -> extra, after each phase.

    Returns:
      (state, shard of the batch) -> (state, metrics); metrics are means over the whole
      batch, with "loss" and "grad_norm" of each phase among them (prefixed with the
      phase's name and "/" where there are several phases; of phases of one name, those
      of the last). The norm is that of the averaged gradient before `tx`, but after
      `replica_tx`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(state.key, state.step)
        metrics: Metrics = {}
        for number, phase in enumerate(phases):
            key = jax.random.fold_in(step_key, number)
            state, phase_metrics = run_phase(phase, loss, remember, state, batch, key)
            prefix = f"{phase.name}/" if len(phases) > 1 else ""
            metrics |= {prefix + name: x for name, x in phase_metrics.items()}
        return state.replace(step=state.step + 1), metrics

    return train_step


def run_phase(
    phase: Phase,
    loss: Callable[..., tuple[Array, Any]],
    remember: Callable[[Any, Any], Any],
    state: TrainState,
    batch: Batch,
    key: Array,
) -> tuple[TrainState, Metrics]:
    """Updates what one phase trains, and returns the phase's metrics."""
    first, stride = phase.part
    batch = jax.tree.map(lambda x: x[first::stride], batch)

    def phase_loss(trained):
        params = state.params | trained
        rest = state.model_state, state.extra, batch, key, state.step
        return loss(phase.name, params, *rest)

    optimizer = phase.optimizer
    trained = {group: state.params[group] for group in phase.trains}
    (value, aux), grads = jax.value_and_grad(phase_loss, has_aux=True)(trained)
    grads, _ = optimizer.replica_tx.update(grads, optimizer.replica_tx.init(grads))
    # Only the phase that trains a group keeps that group's new statistics.
    kept = {g: aux.model_state[g] for g in phase.trains if g in aux.model_state}
    grads, kept, metrics = parallel.mean((grads, kept, {"loss": value, **aux.metrics}))
    metrics["grad_norm"] = optax.tree.norm(grads)

    opt_state = state.opt_state[phase.name]
    updates, opt_state = optimizer.tx.update(grads, opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    averaged = {group: state.ema[group] for group in phase.trains}
    averaged = ema.update(averaged, trained, optimizer.ema_decay(state.step))
    state = state.replace(
        params=state.params | trained,
        model_state=state.model_state | kept,
        opt_state=state.opt_state | {phase.name: opt_state},
        ema=state.ema | averaged,
        extra=remember(state.extra, parallel.gather(aux.observed)),
    )
    return state, metrics
