"""Warnings in words about a training, from the metrics that it logs."""

import collections
from collections.abc import Callable, Iterator
from typing import NamedTuple

PATIENCE = 5  # logged values in a row: fewer may be chance
WON = 0.99  # of real and of generated alike; a fair game is near 0.5
STILL = 1e-4  # relative; fresh batches alone move a living loss by more
MIN_NATS = 0.01  # of KL in an example: no code that tells examples apart


class _Logged(NamedTuple):
    step: int
    value: float


# The last PATIENCE values of each metric, by name; a warning after its subject.
_Recent = dict[str, collections.deque[_Logged]]
_Found = Iterator[tuple[str, str]]


class TrainingMonitor:
    """Says what looks wrong in the metrics of a training, each thing once.

    An alarm that has cleared may sound again. Metrics that are absent are silent, and
    those that come seldom keep their last values. Known by name:

    * "disc/accuracy_real", "disc/accuracy_fake": shares in [0, 1];
    * "loss", and "<phase>/loss" of each phase;
    * "kl": nats of an example;
    * "classes_covered" with "num_classes", "modes_covered" with "num_modes", and
      "active_units" with "num_latents"; also with a prefix, as in "test_active_units",
      which the second name may have or not.
    """

    def __init__(self) -> None:
        self._recent: _Recent = {}
        self._sounding: set[tuple[str, str]] = set()

    def push(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Takes the metrics logged after a step.

        Args:
          step: steps done.
          metrics: by name; names that no alarm knows are passed over.

        Returns:
          Warnings that did not hold after the last push; mostly none.
        """
        for name, value in metrics.items():
            values = self._recent.setdefault(name, collections.deque(maxlen=PATIENCE))
            values.append(_Logged(step, value))
        found = {
            (alarm, subject): warning
            for alarm, look in CHECKS.items()
            for subject, warning in look(self._recent)
        }
        new = [found[alarm] for alarm in found if alarm not in self._sounding]
        self._sounding = set(found)
        return new


def _discriminator_won(recent: _Recent) -> _Found:
    names = ("disc/accuracy_real", "disc/accuracy_fake")
    if all(_lasts(recent, name, lambda x: x >= WON) for name in names):
        since = max(recent[name][0].step for name in names)
        yield (
            "disc",
            f"The discriminator has won: since step {since} it has told real from "
            f"generated in at least {WON:.0%} of cases. The generator's gradient is "
            "gone or useless; lower the discriminator's learning rate, or make it "
            "smaller.",
        )


def _modes_lost(recent: _Recent) -> _Found:
    for kind in ("classes", "modes"):
        for name, covered, total in _counts(recent, f"{kind}_covered", f"num_{kind}"):
            if covered < total:
                yield (
                    name,
                    f"Modes are lost: samples cover {covered:.0f} of {total:.0f} "
                    f"{kind} ({name}). The losses do not show it; unless training "
                    "longer helps, try a lower learning rate or another seed.",
                )


def _loss_frozen(recent: _Recent) -> _Found:
    for name, logged in recent.items():
        if name != "loss" and not name.endswith("/loss"):
            continue
        values = [value for _, value in logged]
        spread, size = max(values) - min(values), max(map(abs, values))
        if len(values) == PATIENCE and spread <= STILL * size:
            yield (
                name,
                f"A loss is frozen: {name} has stayed at {values[-1]:.4g} since step "
                f"{logged[0].step}. What it trains gets no gradient or does not follow "
                "it; look at its grad_norm and its learning rate.",
            )


def _posterior_collapsed(recent: _Recent) -> _Found:
    warning = (
        "The posterior has collapsed: the decoder ignores the code; {}. Give the KL "
        "less weight (beta), or check that the loss sums over pixels."
    )
    for name, active, total in _counts(recent, "active_units", "num_latents"):
        if active == 0:
            what = f"none of {total:.0f} latents follows the data ({name})"
            yield name, warning.format(what)
    if _lasts(recent, "kl", lambda x: x < MIN_NATS):
        what = f"kl is below {MIN_NATS} nats since step {recent['kl'][0].step}"
        yield "kl", warning.format(what)


def _lasts(recent: _Recent, name: str, holds: Callable[[float], bool]) -> bool:
    """Whether something holds of each of the last PATIENCE values."""
    logged = recent.get(name, ())
    return len(logged) == PATIENCE and all(holds(value) for _, value in logged)


def _counts(
    recent: _Recent, part: str, whole: str
) -> Iterator[tuple[str, float, float]]:
    """Yields the latest of each metric named [prefix]part, and of its whole."""
    for name, logged in recent.items():
        if name.endswith(part):
            totals = recent.get(name.removesuffix(part) + whole) or recent.get(whole)
            if totals:
                yield name, logged[-1].value, totals[-1].value


CHECKS: dict[str, Callable[[_Recent], _Found]] = {
    "discriminator_won": _discriminator_won,
    "modes_lost": _modes_lost,
    "loss_frozen": _loss_frozen,
    "posterior_collapsed": _posterior_collapsed,
}
