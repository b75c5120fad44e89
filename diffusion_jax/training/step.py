"""The train step, which is the same for every family."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from diffusion_jax.training import batches, ema, parallel
from diffusion_jax.training.state import Loss, Phase, TrainState, Variables

Batch = dict[str, Array]
Metrics = dict[str, Array]
Params = dict[str, Any]


def loss_names(phases: Sequence[Phase]) -> dict[str, str]:
    """Maps the displayed name of each phase's loss to the name of its metric.

    {"loss": "loss"} for one phase; {"disc": "disc/loss", "gen": "gen/loss"} for two.
    """
    if len(phases) == 1:
        return {"loss": "loss"}
    return {phase.name: f"{phase.name}/loss" for phase in phases}


def check_batch(method: Any, batch_size: int, accumulate: int) -> None:
    """Checks that each phase can split its batch over the devices and into slices.

    Args:
      method: a `methods.base.Method`.
      batch_size: over all devices of all processes.
      accumulate: see `make_train_step`.

    Raises:
      ValueError: it cannot.
    """
    if accumulate > 1 and method.couples_examples:
        raise ValueError(
            f"train.accumulate = {accumulate} splits a batch into slices, and this "
            "loss couples all examples of a batch, as batch norm and contrastive "
            "losses do: set train.accumulate=1 (or, if it is batch norm, choose "
            "networks without it)."
        )
    parts = accumulate * max(
        (phase.batch_slice[1] for phase in method.phases), default=1
    )
    reason = f" (train.accumulate = {accumulate})" if accumulate > 1 else ""
    parallel.check_batch_size(batch_size, "data.batch_size", parts, reason)


def make_train_step(
    method: Any, axis: str | None, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the step that every device runs on its shard of the batch.

    For each phase in order, the gradient averaged over the devices updates the phase's
    groups, and then their moving average. Later phases use the updated groups. Images
    may be bytes; the method gets them in [-1, 1] (`batches.normalise`).

    Args:
      method: a `methods.base.Method`.
      axis: name of the device axis; None if the batch is not split.
      accumulate: number of slices of a device's batch that are computed in turn and
        whose gradients are added, to save memory; the update is that of the whole.

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
            state, phase_metrics = run_phase(
                phase, method, axis, state, batch, key, accumulate
            )
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
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """Runs one phase; returns the new state and the phase's metrics.

    With a shard's gradient g_i and weight w_i (`Loss.weight`), the gradient is

        sum_i w_i replica_tx(g_i) / sum_i w_i

    which without `replica_tx` is the gradient of the whole batch's weighted mean. A
    replica's gradient is clipped before it is weighted, since the scale of a mean does
    not depend on the number of tokens. The average's norm is at most clip_norm. Under
    accumulation g_i and w_i are those of all slices of the shard.
    """
    first, stride = phase.batch_slice
    batch = jax.tree.map(lambda x: x[first::stride], batch)

    def phase_loss(trained: Params, batch: Batch) -> tuple[Array, Loss]:
        variables = Variables(state.params | trained, state.model_state)
        loss = method.loss(phase.name, variables, state.aux, batch, key, state.step)
        return loss.value, loss

    optimizer = phase.optimizer
    trained = {group: state.params[group] for group in phase.trains}
    gradient = jax.grad(phase_loss, has_aux=True)
    if accumulate == 1:
        grads, loss = gradient(trained, batch)
    else:
        grads, loss = accumulated(gradient, trained, batch, accumulate)
    grads, _ = optimizer.replica_tx.update(grads, optimizer.replica_tx.init(grads))
    weighted = grads, {"loss": loss.value, **loss.metrics}
    grads, metrics = parallel.weighted_mean(weighted, loss.weight, axis)
    # A group's statistics change in the phase that trains it, and in no other.
    stats = {g: loss.state[g] for g in phase.trains if g in loss.state}
    stats = parallel.mean(stats, axis)
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


def accumulated(
    gradient: Callable[[Params, Batch], tuple[Params, Loss]],
    trained: Params,
    batch: Batch,
    num_slices: int,
) -> tuple[Params, Loss]:
    """Computes the gradient and the loss of a batch slice by slice.

        sum_j w_j g_j / sum_j w_j  for slices of gradient g_j and weight w_j

    The same holds for value, metrics and statistics; the weight is sum_j w_j.

    Args:
      gradient: (params, batch) -> gradient of the batch's loss, and that loss.
      trained: the parameters.
      batch: arrays [b, ...]; num_slices divides b.
      num_slices: contiguous slices, of which one at a time is in memory.
    """
    slices = jax.tree.map(lambda x: x.reshape(num_slices, -1, *x.shape[1:]), batch)

    def add(total: Params, part: Batch) -> tuple[Params, Loss]:
        grads, loss = gradient(trained, part)
        return jax.tree.map(lambda t, g: t + loss.weight * g, total, grads), loss

    total, losses = lax.scan(add, jax.tree.map(jnp.zeros_like, trained), slices)
    weight = jnp.sum(losses.weight)
    divisor = jnp.where(weight == 0, 1, weight)  # a shard without tokens counts nothing

    def mean(x: Array) -> Array:  # no matrix product, which TPUs round to bfloat16
        return jnp.sum(jax.vmap(jnp.multiply)(losses.weight, x), axis=0) / divisor

    return jax.tree.map(lambda x: x / divisor, total), Loss(
        value=mean(losses.value),
        metrics=jax.tree.map(mean, losses.metrics),
        state=jax.tree.map(mean, losses.state),
        observed=jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), losses.observed),
        weight=weight,
    )
