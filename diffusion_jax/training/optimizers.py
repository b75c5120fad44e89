"""Optimisers, built from optax."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax import Array

from diffusion_jax.lookup import lookup
from diffusion_jax.training import ema


class Optimizer(NamedTuple):
    """How a phase turns gradients into new parameters and their moving average.

    Attributes:
      replica_tx: stateless; applied to each device's gradient before the average.
      tx: applied to the averaged gradient.
      ema_decay: number of steps done -> decay of the parameters' moving average.
    """

    replica_tx: optax.GradientTransformation
    tx: optax.GradientTransformation
    ema_decay: Callable[[Array], Array]


def make(
    learning_rate: float,
    warmup_steps: int,
    decay: str,
    decay_start: int | None,
    decay_end: int | None,
    b1: float,
    b2: float,
    eps: float,
    clip_norm: float,
    clip: str,
    ema_decay: float,
    ema_warmup: bool,
    updates_per_step: int = 1,
) -> Optimizer:
    """Makes Adam with a learning rate schedule, clipping and a moving average.

    optax adds eps to the bias-corrected root mean square, TensorFlow (Ho et al.) to the
    uncorrected one. This makes TensorFlow's eps larger by 1 / sqrt(1 - b2^t).

    Args:
      learning_rate: after the warmup, until decay_start.
      warmup_steps: steps in which the rate rises linearly from 0; 0 for no warmup.
      decay: a name in DECAYS.
      decay_start: the step at which the rate starts to fall; None: after the warmup.
      decay_end: the step at which it reaches 0; None for no decay.
      b1: Adam's decay of the gradient's mean.
      b2: Adam's decay of the gradient's mean square.
      eps: added to the root of the mean square.
      clip_norm: largest L2 norm of a gradient.
      clip: a name in CLIPS: "global" clips the averaged gradient; "per_replica" clips
        each device's gradient before the average, as Ho et al. did (16 images each).
      ema_decay: decay of the parameters' moving average, in [0, 1); 0 copies them.
      ema_warmup: whether the decay of the average increases gradually.
      updates_per_step: updates that this optimiser makes per step; the learning rate
        schedule counts steps.

    Raises:
      ValueError: a name is unknown, the decay has no end or does not end after its
        start, or ema_decay lies outside [0, 1).

    Source: Kingma and Ba 2015, arXiv:1412.6980; Ho et al. 2020, appendix B,
    arXiv:2006.11239. The linear decay is Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    replica_clip, global_clip = lookup(CLIPS, clip, "optim.clip")
    schedule = make_schedule(
        learning_rate, warmup_steps, decay, decay_start, decay_end, updates_per_step
    )
    return Optimizer(
        replica_tx=replica_clip(clip_norm),
        tx=optax.named_chain(
            ("clip", global_clip(clip_norm)),
            ("adam", optax.scale_by_adam(b1, b2, eps)),
            ("learning_rate", optax.scale_by_learning_rate(schedule)),
        ),
        ema_decay=ema.make_decay(ema_decay, ema_warmup),
    )


def make_schedule(
    learning_rate: float,
    warmup_steps: int,
    decay: str,
    decay_start: int | None,
    decay_end: int | None,
    updates_per_step: int,
) -> optax.ScalarOrSchedule:
    """Makes a constant learning rate, or a schedule: number of updates done -> rate."""
    make_decay = lookup(DECAYS, decay, "optim.decay")
    if decay_end is None and decay_start is not None:
        raise ValueError(
            f"optim.decay_start = {decay_start} requires optim.decay_end: set both, or "
            "neither."
        )
    rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    if not warmup_steps:
        rate = optax.constant_schedule(learning_rate)
        if decay_end is None:
            return learning_rate
    if decay_end is not None:
        start = warmup_steps if decay_start is None else decay_start
        if not warmup_steps <= start < decay_end:
            raise ValueError(
                f"optim.decay_start = {start} must be at least optim.warmup_steps = "
                f"{warmup_steps} and less than optim.decay_end = {decay_end}."
            )
        decaying = make_decay(learning_rate, decay_end - start)
        rate = optax.join_schedules([rate, decaying], [start])
    return lambda count: rate(count // updates_per_step)


# (learning rate, number of steps) -> schedule from that rate to 0.
DECAYS: dict[str, Callable[[float, int], optax.Schedule]] = {
    "linear": lambda rate, num_steps: optax.linear_schedule(rate, 0.0, num_steps),
    "cosine": optax.cosine_decay_schedule,
}


def _no_clipping(clip_norm: float) -> optax.GradientTransformation:
    """Leaves the gradient as it is."""
    return optax.identity()


# Clipping of (each device's gradient, the averaged gradient), made from clip_norm.
CLIPS: dict[str, tuple[Callable, Callable]] = {
    "none": (_no_clipping, _no_clipping),
    "global": (_no_clipping, optax.clip_by_global_norm),
    "per_replica": (optax.clip_by_global_norm, _no_clipping),
}
