"""Plots of what a run has logged: losses and metrics over training, and sweeps."""

import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from diffusion_jax import strict_json
from diffusion_jax.evaluators import tables
from diffusion_jax.outputs import plots
from diffusion_jax.outputs.plots import Panel
from diffusion_jax.training import logs

FOLDER = "plots"
LOSS, METRICS, SWEEP = "loss.png", "metrics.png", "sweep.png"
STEP = "training step"
LogLine = dict[str, Any]  # of metrics.jsonl or evaluations.jsonl


def save(workdir: pathlib.Path, split: str) -> None:
    """Plots the losses of a training and the evaluations during it, if there are any.

    A curve needs two points: a training that has logged one step writes nothing.

    Args:
      workdir: the run's folder; plots/loss.png and plots/metrics.png are written.
      split: of the evaluations.

    Raises:
      OSError: they cannot be written.
    """
    lines = strict_json.read_lines(workdir / logs.METRICS)
    named = {LOSS: losses({"": lines}), METRICS: metrics(lines, split)}
    for name, panels in named.items():
        panels = [x for x in panels if any(len(y) > 1 for _, y in x.curves.values())]
        if panels:
            plots.save_curves(workdir / FOLDER / name, panels)


def losses(runs: Mapping[str, Sequence[LogLine]]) -> list[Panel]:
    """Returns a panel for the loss of each phase.

    Args:
      runs: the lines of metrics.jsonl, by the name of the run.
    """
    names = (name for lines in runs.values() for name in _names(lines))
    panels = []
    for name in dict.fromkeys(names):
        if name != "loss" and not name.endswith("/loss"):
            continue
        curves = {run: _curve(lines, name) for run, lines in runs.items()}
        if any(x for x, _ in curves.values()):
            phase = name.removesuffix("loss").rstrip("/")
            title = f"Loss of {phase}" if phase else "Loss"
            panels.append(Panel(title, curves, STEP, "loss", is_noisy=True))
    return panels


def metrics(lines: Sequence[LogLine], split: str) -> list[Panel]:
    """Returns a panel for each metric of the evaluations during training.

    Args:
      lines: of metrics.jsonl.
      split: of the evaluations.
    """
    prefix, panels = f"{split}_", []
    names = [x.removeprefix(prefix) for x in _names(lines) if x.startswith(prefix)]
    for name in filter(tables.is_score, names):
        curve = _curve(lines, prefix + name)
        baselines = {}
        for control, what in _controls(names, name):
            _, values = _curve(lines, prefix + control)
            if values:
                baselines[what] = values[-1]
        if curve[0]:
            title = f"{name} on {split}"
            panels.append(Panel(title, {"": curve}, STEP, _label(name), baselines))
    return panels


def sweep(records: Sequence[LogLine], keys: Iterable[str]) -> list[Panel]:
    """Returns a panel for each metric over the number of sampling steps.

    If that is always the same, the first other number that differs takes its place; if
    there is none, nothing is returned. There is a curve for each combination of the
    other values.

    Args:
      records: lines of evaluations.jsonl, those of the sweep.
      keys: of eval.sweep.
    """
    varied = [key for key in keys if len({str(x.get(key)) for x in records}) > 1]
    numeric = [
        key
        for key in varied
        if key != "seed" and all(isinstance(x.get(key), float | int) for x in records)
    ]
    if not numeric:
        return []
    over = "num_steps" if "num_steps" in numeric else numeric[0]
    others = [key for key in varied if key != over]
    groups: dict[str, list[LogLine]] = {}
    for record in sorted(records, key=lambda record: record[over]):
        values = {key: record.get(key) for key in others}
        named = (x if key == "sampler" else f"{key} {x}" for key, x in values.items())
        groups.setdefault(", ".join(named), []).append(record)
    label = "sampling steps" if over == "num_steps" else over
    ticks = sorted({record[over] for record in records})
    panels = []
    for name in filter(tables.is_score, _names(records)):
        curves = {group: _curve(x, name, over) for group, x in groups.items()}
        curves = {group: curve for group, curve in curves.items() if curve[0]}
        baselines = {
            what: records[-1][control]
            for control, what in _controls(_names(records), name)
            if _is_finite(records[-1].get(control))
        }
        if curves:
            y_label = _label(name)
            panels.append(Panel(name, curves, label, y_label, baselines, x_ticks=ticks))
    return panels


def _names(lines: Sequence[LogLine]) -> list[str]:
    """Returns all names of values, in the order of their appearance."""
    return list(dict.fromkeys(name for line in lines for name in line))


def _controls(names: Sequence[str], metric: str) -> Iterator[tuple[str, str]]:
    """Yields the names of a metric's baselines, and what each is called."""
    for name in names:
        of, what = tables.control(name)
        if of == metric:
            yield name, what


def _curve(
    lines: Sequence[LogLine], name: str, over: str = "step"
) -> tuple[list[float], list[float]]:
    """Returns the values of a metric that are finite, and where they were measured."""
    points = [(line[over], line[name]) for line in lines if _is_finite(line.get(name))]
    return [x for x, _ in points], [y for _, y in points]


def _is_finite(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _label(metric: str) -> str:
    """Returns a metric's name, with the direction in which it is better if known."""
    better = tables.direction(metric)
    return f"{metric} ({better} is better)" if better else metric
