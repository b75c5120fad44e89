"""Warns about suspicious training metrics."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

PATIENCE = 5  # consecutive logged values; fewer may be chance
WON = 0.99  # accuracy on real and on generated examples; about 0.5 is healthy
STILL = 1e-4  # relative change; new batches change a healthy loss by more
MIN_NATS = 0.01  # KL per example: less carries no information


class _Logged(NamedTuple):
    step: int
    value: float


# The last PATIENCE values of each metric, by name.
_Recent = dict[str, collections.deque[_Logged]]
# Pairs (subject, warning).
_Warnings = Iterator[tuple[str, str]]


class TrainingMonitor:
    """Warns about suspicious metrics, once for each problem.

    A warning is repeated if the problem disappears and returns. A metric that is
    missing from a push keeps its last values. The monitor checks

    * the losses;
    * "disc/accuracy_real" and "disc/accuracy_fake", in [0, 1];
    * "classes_covered" of "num_classes", and "modes_covered" of "num_modes";
    * "active_units" of "num_latents", and "kl" in nats per example.

    Args:
      loss_names: the names of the losses.
    """

    def __init__(self, loss_names: Iterable[str]):
        self._loss_names = tuple(loss_names)
        self._recent: _Recent = {}
        self._active: set[tuple[str, str]] = set()

    def push(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Checks the metrics that are logged after a step.

        Args:
          step: number of steps done.
          metrics: scalars by name; metrics that are not listed above are ignored.

        Returns:
          Warnings about problems that the previous push did not have.
        """
        for name, value in metrics.items():
            values = self._recent.setdefault(name, collections.deque(maxlen=PATIENCE))
            values.append(_Logged(step, value))
        found = {
            (check, subject): warning
            for check, run in CHECKS.items()
            for subject, warning in run(self._recent, self._loss_names)
        }
        new = [found[problem] for problem in found if problem not in self._active]
        self._active = set(found)
        return new


def _discriminator_won(recent: _Recent, loss_names: tuple[str, ...]) -> _Warnings:
    names = ("disc/accuracy_real", "disc/accuracy_fake")
    if all(_lasts(recent, name, lambda x: x >= WON) for name in names):
        since = max(recent[name][0].step for name in names)
        yield (
            "disc",
            f"The discriminator has won: since step {since} it has classified at least "
            f"{WON:.0%} of the real and of the generated examples correctly, so the "
            "generator gets no useful gradient. Lower the discriminator's learning "
            "rate, or make it smaller.",
        )


def _modes_missing(recent: _Recent, loss_names: tuple[str, ...]) -> _Warnings:
    for kind in ("classes", "modes"):
        covered, total = f"{kind}_covered", f"num_{kind}"
        if not {covered, total} <= recent.keys():
            continue
        covered, total = recent[covered][-1].value, recent[total][-1].value
        if covered < total:
            yield (
                kind,
                f"Modes are missing: the samples cover {covered:.0f} of {total:.0f} "
                f"{kind}. The losses do not show this. If training longer does not "
                "help, try a lower learning rate or another seed.",
            )


def _loss_frozen(recent: _Recent, loss_names: tuple[str, ...]) -> _Warnings:
    for name in loss_names:
        logged = recent.get(name, ())
        values = [value for _, value in logged]
        if len(values) < PATIENCE:
            continue
        if max(values) - min(values) <= STILL * max(map(abs, values)):
            yield (
                name,
                f"A loss is frozen: {name} has stayed at {values[-1]:.4g} since step "
                f"{logged[0].step}. The gradient may vanish, or the learning rate may "
                "be wrong: look at the phase's grad_norm and learning rate.",
            )


def _posterior_collapsed(recent: _Recent, loss_names: tuple[str, ...]) -> _Warnings:
    warning = (
        "The posterior has collapsed: the decoder ignores the latents; {}. Lower the "
        "weight of the KL term (beta), or check that the loss sums over pixels."
    )
    if {"active_units", "num_latents"} <= recent.keys():
        if recent["active_units"][-1].value == 0:
            total = recent["num_latents"][-1].value
            yield (
                "active_units",
                warning.format(f"none of {total:.0f} latents depends on the data"),
            )
    if _lasts(recent, "kl", lambda x: x < MIN_NATS):
        since = recent["kl"][0].step
        reason = f"kl has been below {MIN_NATS} nats since step {since}"
        yield "kl", warning.format(reason)


def _lasts(recent: _Recent, name: str, holds: Callable[[float], bool]) -> bool:
    """Returns whether a condition holds for each of the last PATIENCE values."""
    logged = recent.get(name, ())
    return len(logged) == PATIENCE and all(holds(value) for _, value in logged)


CHECKS: dict[str, Callable[[_Recent, tuple[str, ...]], _Warnings]] = {
    "discriminator_won": _discriminator_won,
    "modes_missing": _modes_missing,
    "loss_frozen": _loss_frozen,
    "posterior_collapsed": _posterior_collapsed,
}
