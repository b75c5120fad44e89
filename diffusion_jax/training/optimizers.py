"""Optimisers, built from optax."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax import Array

from diffusion_jax.training import ema


class Optimizer(NamedTuple):
    """How a phase turns gradients into new parameters and their average.

    Attributes:
      replica_tx: stateless, on the gradients of one device before they are averaged.
      tx: on the averaged gradients.
      ema_decay: number of steps done -> decay of the parameters' average.
    """

    replica_tx: optax.GradientTransformation
    tx: optax.GradientTransformation
    ema_decay: Callable[[Array], Array]


def make(
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int | None,
    b1: float,
    b2: float,
    eps: float,
    clip_norm: float,
    clip: str,
    ema_decay: float,
    ema_warmup: bool,
) -> Optimizer:
    """Adam with a linear warmup from 0, clipping, and an average of the parameters.

    optax adds eps to the bias-corrected root, TensorFlow (the paper) to the raw one:
    they differ by a factor sqrt(1 - b2^t) on eps alone.

    Args:
      learning_rate: reached after the warmup.
      warmup_steps: 0 for none.
      decay_steps: the step at which a cosine has brought the rate to 0; None keeps it.
      b1: of Adam.
      b2: of Adam.
      eps: of Adam.
      clip_norm: the largest L2 norm of a gradient.
      clip: a name of CLIPS: "global" clips the averaged gradient; "per_replica" clips
        each device's gradient before averaging, as the authors did (16 images each).
      ema_decay: decay of the average of the parameters.
      ema_warmup: whether the average's memory grows with the run.

    Raises:
      ValueError: an unknown clip, or a decay outside [0, 1).

    Source: Ho et al. 2020, appendix B, arXiv:2006.11239.
    """
    if clip not in CLIPS:
        raise ValueError(f"Unknown clip {clip!r}. Known ones: {', '.join(CLIPS)}.")
    if decay_steps is not None:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_steps, decay_steps
        )
    elif warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    else:
        rate = learning_rate
    replica_tx, global_tx = CLIPS[clip](optax.clip_by_global_norm(clip_norm))
    return Optimizer(
        replica_tx=replica_tx,
        tx=optax.chain(global_tx, optax.adam(rate, b1=b1, b2=b2, eps=eps)),
        ema_decay=ema.make_decay(ema_decay, ema_warmup),
    )


def make_plain(
    learning_rate: float,
    decay_start: int | None,
    decay_end: int | None,
    b1: float,
    b2: float,
    eps: float,
    ema_decay: float,
    updates_a_step: int = 1,
) -> Optimizer:
    """Adam without clipping, a linear decay to 0, and an average of the parameters.

    Args:
      learning_rate: until decay_start.
      decay_start: the step from which on the rate falls in a straight line.
      decay_end: the step at which it is 0; None (of both) keeps the rate.
      b1: of Adam.
      b2: of Adam.
      eps: of Adam.
      ema_decay: decay of the average of the parameters, whose memory grows with the
        run; 0 keeps the parameters themselves.
      updates_a_step: of what this optimiser updates.

    Raises:
      ValueError: a decay that has one end or none of its length, or an ema_decay
        outside [0, 1).

    Source: Kingma and Ba 2015, arXiv:1412.6980; the decay is that of Zhu et al. 2017,
    section 4, arXiv:1703.10593.
    """
    if (decay_start is None) != (decay_end is None):
        raise ValueError("Set both optim.decay_start and optim.decay_end, or neither.")
    rate = learning_rate
    if decay_end is not None:
        if not 0 <= decay_start < decay_end:
            raise ValueError(
                f"optim.decay_start = {decay_start} must lie before optim.decay_end = "
                f"{decay_end}."
            )
        line = optax.linear_schedule(
            learning_rate, 0.0, decay_end - decay_start, decay_start
        )
        rate = lambda count: line(count // updates_a_step)  # noqa: E731
    return Optimizer(
        replica_tx=optax.identity(),
        tx=optax.adam(rate, b1=b1, b2=b2, eps=eps),
        ema_decay=ema.make_decay(ema_decay, warmup=True),
    )


# A clipping transformation -> (on each replica's gradient, on the averaged one).
CLIPS: dict[str, Callable] = {
    "global": lambda clip: (optax.identity(), clip),
    "per_replica": lambda clip: (clip, optax.identity()),
}
