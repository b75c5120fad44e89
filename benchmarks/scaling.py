"""Measures how time, memory and compilation grow, and fits exponents.

    python -m benchmarks.scaling --figure docs/scaling.png

Each axis varies one number of a digits-sized U-Net; a point has its own process.
Memory is what XLA plans for a device: arguments and temporaries.
"""

import argparse
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import comparisons, measures, turns
from benchmarks.measures import PowerLaw
from benchmarks.reports import Report
from benchmarks.turns import Worker

CONFIG = "configs/digits.py"
BATCH = 32
ROUNDS, SECONDS = 3, 1.0
QUANTITIES = {
    "milliseconds": "time",
    "megabytes": "memory",
    "compile_seconds": "compilation",
}
POINT_COLUMNS = {
    "axis": "{axis}",
    "value": "{value}",
    "ms (min-max)": "{milliseconds:.1f} ({low:.1f}-{high:.1f})",
    "MB": "{megabytes:.1f}",
    "compile, CPU s": "{compile_seconds:.1f}",
}
FIT_COLUMNS = {"axis": "{axis}"} | {
    f"{name} exponent": f"{{{name}_shown}}" for name in QUANTITIES.values()
}


class Axis(NamedTuple):
    """What varies, over which values, and what is measured.

    Attributes:
      values: in the smallest and the usual sizes.
      factory: of the program, in `ours`.
      arguments: value -> changes of the config, and arguments of the factory.
    """

    values: Sequence[int]
    factory: str
    arguments: Any


def step(batch_size: int = BATCH, **changes: Any) -> tuple[dict, dict]:
    """Returns the changes of the config and the arguments of a train step."""
    return changes, {"batch_size": batch_size}


def sample(num_images: int, sampler: str, num_steps: int, **changes: Any) -> tuple:
    """Returns the changes of the config and the arguments of a sampling run."""
    options = {"num_images": num_images, "sampler": sampler, "num_steps": num_steps}
    return changes, options


AXES = {
    "batch size": Axis(
        (8, 16, 32, 64, 128), "scaled_step", lambda n: step(batch_size=n)
    ),
    # Attention stays at half the resolution, so its logits grow with the fourth power.
    "resolution": Axis(
        (8, 16, 32),
        "scaled_step",
        lambda n: step(
            8, **{"data.image_size": n, "model.attention_resolutions": (n // 2,)}
        ),
    ),
    "base channels": Axis(
        (16, 32, 64, 128),
        "scaled_step",
        lambda n: step(**{"model.base_channels": n}),
    ),
    "T, sampled in T steps": Axis(
        (10, 100, 1000),
        "scaled_sample",
        lambda n: sample(8, "ancestral", n, **{"diffusion.num_timesteps": n}),
    ),
    "samples at once": Axis(
        (8, 32, 128), "scaled_sample", lambda n: sample(n, "ddim", 10)
    ),
    "CPU devices": Axis((1, 2, 4), "scaled_step", lambda n: step()),
}


def main() -> None:
    """Measures the axes, fits exponents, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    add("--points", type=int, default=5, help="largest number of points per axis")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change the config")
    add("--figure", help="write a PNG")
    comparisons.add_output(parser)
    arguments = parser.parse_args()
    report = Report("scaling", POINT_COLUMNS, arguments.json, arguments.output)
    report.header()
    for name in arguments.axes:
        for value in AXES[name].values[: arguments.points]:
            report.add(measure(name, value, arguments.set))
    points = report.records
    fits = Report("scaling_fit", FIT_COLUMNS, arguments.json, arguments.output)
    fits.header()
    for name in arguments.axes:
        fits.add(fit([x for x in points if x["axis"] == name]))
    if arguments.figure:
        draw(points, fits.records, pathlib.Path(arguments.figure))


def measure(name: str, value: int, changes: Sequence[str]) -> dict[str, Any]:
    """Measures one point of an axis; returns its record."""
    axis = AXES[name]
    more, options = axis.arguments(value)
    more = [f"{key}={x}" for key, x in more.items()]
    config = comparisons.load_config(CONFIG, [*changes, *more])
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment["JAX_NUM_CPU_DEVICES"] = str(value if name == "CPU devices" else 1)
    factory = f"benchmarks.ours:{axis.factory}"
    with Worker(factory, {"config": config, **options}, environment) as worker:
        (timings,) = turns.in_turn([worker], ROUNDS, SECONDS)
        wall = measures.spread([1e3 * x.wall for x in timings])
        low_high = {"low": wall.low, "high": wall.high}
        record = {"axis": name, "value": value, "milliseconds": wall.median}
        return record | low_high | worker.info


def fit(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fits an exponent to each quantity of an axis; returns its record."""
    record = {"axis": points[0]["axis"], "values": [x["value"] for x in points]}
    for quantity, name in QUANTITIES.items():
        law = measures.fit_power_law(
            [x["value"] for x in points], [x[quantity] for x in points]
        )
        record[name] = law._asdict()
        record[f"{name}_shown"] = f"{law.exponent:.2f} +- {law.standard_error:.2f}"
    return record


def draw(
    points: Sequence[Mapping[str, Any]],
    fits: Sequence[Mapping[str, Any]],
    path: pathlib.Path,
) -> None:
    """Draws each quantity against each axis, both divided by their first value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 5), layout="constrained")
    for (quantity, name), panel in zip(QUANTITIES.items(), panels):
        for found, marker in zip(fits, itertools.cycle("osv^D*")):
            here = [x for x in points if x["axis"] == found["axis"]]
            x, y = (
                [p[key] / here[0][key] for p in here] for key in ("value", quantity)
            )
            law = PowerLaw(**found[name])
            label = f"{found['axis']}: {law.exponent:.2f}"
            panel.loglog(x, y, marker=marker, label=label)
        panel.set(title=name, xlabel="times the smallest value")
        panel.set_ylabel("times the first")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.savefig(path, dpi=100)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
