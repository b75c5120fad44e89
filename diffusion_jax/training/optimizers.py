"""Optimisers, built from optax."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    decay_to: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    clip: str,
    ema_decay: float,
    ema_warmup: bool,
    updates_per_step: int = 1,
) -> Optimizer:
    """Makes Adam with a learning rate schedule, clipping and a moving average.

    With weight_decay it is AdamW: the learning rate times weight_decay times the
    parameters is subtracted from them, where they are matrices (arrays of two or more
    axes), not biases or scales.

    optax adds eps to the bias-corrected root mean square, TensorFlow (Ho et al.) to the
    uncorrected one. This makes TensorFlow's eps larger by 1 / sqrt(1 - b2^t).

    Args:
      learning_rate: after the warmup, until decay_start.
      warmup_steps: steps in which the rate rises linearly from 0; 0 for no warmup.
      decay: a name in DECAYS.
      decay_start: the step at which the rate starts to fall; None: after the warmup.
      decay_end: the step at which it reaches decay_to; None for no decay.
      decay_to: the share of the rate that is left at decay_end.
      b1: Adam's decay of the gradient's mean.
      b2: Adam's decay of the gradient's mean square.
      eps: added to the root of the mean square.
      weight_decay: at least 0; 0 is Adam.
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

    Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, algorithm
    2 (AdamW), arXiv:1711.05101; Ho et al. 2020, appendix B, arXiv:2006.11239. The
    linear decay is Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    replica_clip, global_clip = lookup(CLIPS, clip, "optim.clip")
    schedule = make_schedule(
        learning_rate,
        warmup_steps,
        decay,
        decay_start,
        decay_end,
        decay_to,
        updates_per_step,
    )
    # Checkpoints hold the states of the chain, so without decay it has no such link.
    decayed = optax.add_decayed_weights(weight_decay, _are_matrices)
    return Optimizer(
        replica_tx=replica_clip(clip_norm),
        tx=optax.named_chain(
            ("clip", global_clip(clip_norm)),
            ("adam", optax.scale_by_adam(b1, b2, eps)),
            *([("weight_decay", decayed)] if weight_decay else []),
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
    decay_to: float,
    updates_per_step: int,
) -> optax.ScalarOrSchedule:
    """Makes a constant learning rate, or a schedule: number of updates done -> rate."""
    make_decay = lookup(DECAYS, decay, "optim.decay")
    if make_decay is None:
        if not warmup_steps or (decay_start, decay_end, decay_to) != (None, None, 0):
            raise ValueError(
                "optim.decay inverse_sqrt begins after the warmup and has no end: set "
                "optim.warmup_steps above 0, optim.decay_to to 0, and, in the config "
                "file, optim.decay_start and optim.decay_end to None."
            )
        schedule = inverse_sqrt(learning_rate, warmup_steps)
        return lambda count: schedule(count // updates_per_step)
    if decay_end is None and decay_start is not None:
        raise ValueError(
            f"optim.decay_start = {decay_start} requires optim.decay_end: set both, or "
            "neither."
        )
    if decay_end is None and decay_to:
        raise ValueError(
            f"optim.decay_to = {decay_to} requires optim.decay_end: set it, or set "
            "optim.decay_to to 0."
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
                f"{warmup_steps} and less than optim.decay_end = {decay_end}: change "
                "them (a run shorter than its warmup needs a smaller "
                "optim.warmup_steps)."
            )
        decaying = make_decay(learning_rate, decay_end - start, decay_to)
        rate = optax.join_schedules([rate, decaying], [start])
    return lambda count: rate(count // updates_per_step)


def inverse_sqrt(learning_rate: float, warmup_steps: int) -> optax.Schedule:
    """Makes a schedule with a linear warmup that decays as one over the root of steps.

        rate(step) = learning_rate * min(step / warmup, sqrt(warmup / step))

    With learning_rate = (width * warmup)^-0.5 this is the paper's width^-0.5 *
    min(step^-0.5, step * warmup^-1.5).

    Args:
      learning_rate: at the end of the warmup.
      warmup_steps: at least 1.

    Source: Vaswani et al. 2017, equation 3, arXiv:1706.03762.
    """

    def rate(step: Array) -> Array:
        ratio = step / warmup_steps
        return learning_rate * jnp.minimum(ratio, jnp.maximum(ratio, 1.0) ** -0.5)

    return rate


def _are_matrices(params: optax.Params) -> optax.Params:
    """Returns, for each parameter, whether it has two or more axes."""
    return jax.tree.map(lambda x: x.ndim >= 2, params)


# (learning rate, number of steps, share) -> schedule from that rate to the share of it;
# None: without an end.
DECAYS: dict[str, Callable[[float, int, float], optax.Schedule] | None] = {
    "linear": lambda rate, num_steps, share: optax.linear_schedule(
        rate, share * rate, num_steps
    ),
    "cosine": optax.cosine_decay_schedule,
    "inverse_sqrt": None,
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
