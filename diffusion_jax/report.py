"""--mode=report: a page about a run that opens from a file."""

import importlib.metadata
import json
import logging
import math
import pathlib
import platform
import shlex
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax import (
    methods,
    paths,
    progress,
    run_config,
    run_plots,
    strict_json,
)
from diffusion_jax.evaluators import tables
from diffusion_jax.outputs import html, plots, writers
from diffusion_jax.training import logs, parallel

LOGGER = logging.getLogger(__name__)

REPORT = "report.html"
MAX_SLIDES = 24
MAX_TEXT = 10_000  # characters
VERSIONS = "jax jaxlib flax optax orbax-checkpoint numpy".split()
# Settings of an evaluation that are shown with its metrics.
SHOWN = "split sampler num_steps guidance_scale classifier judge date".split()


def report(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None
) -> None:
    """Writes OUTPUT/report.html: pictures, curves, metrics, config and commands.

    It reads what training, sampling and evaluation have written, and no weights.

    Args:
      config: of the run.
      workdir: the run's folder.
      output: folder of the page; None for the workdir.

    Raises:
      FileNotFoundError: there is no run in workdir.
    """
    if parallel.process_index() != 0:
        return
    folder = output or workdir
    writers.check_writable(folder)
    lines = strict_json.read_lines(workdir / logs.METRICS)
    sections = [
        ("The model", _model(config, workdir, lines)),
        ("Samples over training", html.slider(_samples(workdir))),
        ("Pictures", _pictures(workdir)),
        ("Texts", _texts(workdir)),
        ("Curves", _curves(lines, config.eval.split)),
        ("Metrics", _metrics(workdir)),
        ("Going on", _commands(config, workdir)),
        ("Config", _details(strict_json.dumps(config.to_dict(), indent=2))),
        ("Versions", _versions()),
    ]
    path = folder / REPORT
    with paths.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(html.page(config.name, sections), encoding="utf-8")
    LOGGER.info("Wrote %s. Open it with a browser.", path)


def _model(
    config: ConfigDict, workdir: pathlib.Path, lines: list[dict[str, Any]]
) -> str:
    """What was trained, on what, and for how long."""
    fields = run_config.stored_fields(config, workdir)
    method = methods.make(config, fields)
    variables, _ = jax.eval_shape(method.init, jax.random.key(0))
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables.params))
    step = max((line["step"] for line in lines), default=0)
    seconds = [line["step_time"] for line in lines if "step_time" in line]
    shapes = [f"{name} {list(x.shape) or ''}".strip() for name, x in fields.items()]
    rows = [
        ("family", config.method),
        ("data", f"{config.data.source} ({', '.join(shapes)})"),
        ("parameters", f"{parameters:,}"),
        ("steps", f"{step:,} of {config.train.num_steps:,}"),
        ("examples per step", config.data.batch_size),
    ]
    if seconds:
        total = step * sum(seconds) / len(seconds)
        rows.append(("time of the steps", progress.in_words(total)))
    return html.table(rows)


def _samples(workdir: pathlib.Path) -> list[html.Slide]:
    """The pictures that training drew."""
    files = sorted((workdir / logs.SAMPLES).glob("[0-9]*.png"))
    files = [files[i] for i in html.evenly(len(files), MAX_SLIDES)]
    return [html.Slide(x.read_bytes(), f"Step {x.stem.lstrip('0')}") for x in files]


def _pictures(workdir: pathlib.Path) -> str:
    """What --mode=sample and evaluations wrote; animations become sliders."""
    parts = []
    for path in sorted(workdir.glob("*.gif")):
        frames = html.frames(path, MAX_SLIDES)
        alts = (f"{path.stem}, frame {i} of {len(frames)}" for i in range(1, 99))
        parts.append(html.slider([*map(html.Slide, frames, alts)]))
    for path in sorted(workdir.glob("*.png")):
        parts.append(html.slider([html.Slide(path.read_bytes(), path.stem)]))
    return "\n".join(parts)


def _texts(workdir: pathlib.Path) -> str:
    """The texts that were drawn last by training, and by --mode=sample."""
    drawn = sorted((workdir / logs.SAMPLES).glob("*.txt"))[-1:]
    files = [*drawn, *sorted(workdir.glob("*.txt"))]
    files = [path for path in files if not path.with_suffix(".png").exists()]
    texts = (path.read_text(encoding="utf-8")[:MAX_TEXT] for path in files)
    return "".join(f"<pre>{html.text(text)}</pre>" for text in texts)


def _curves(lines: list[dict[str, Any]], split: str) -> str:
    """Losses, and the metrics of evaluations during training, over the steps.

    They are SVG, not the PNGs in plots/, so that they can be read on a phone.
    """
    panels = run_plots.losses({"": lines}) + run_plots.metrics(lines, split)
    curves = "".join(map(plots.svg, panels))
    return f'<div class="curves">{curves}</div>' if curves else ""


def _metrics(workdir: pathlib.Path) -> str:
    """The last evaluation of each metric and settings, with baselines and meanings."""
    last = {}
    for line in strict_json.read_lines(workdir / "evaluations.jsonl"):
        key = [line.get(x) for x in ("metric", *SHOWN) if x != "date"]
        last[json.dumps(key)] = line
    parts = []
    for line in last.values():
        record = tables.from_line(line)
        known = {key: line[key] for key in SHOWN if line.get(key) is not None}
        settings = ", ".join(f"{key} {value}" for key, value in known.items())
        title = tables.title(f"{line['metric']} at step {line['step']:,}", record)
        parts.append(f"<h3>{html.text(title)}</h3><p>{html.text(settings)}</p>")
        parts.append(html.table(tables.lines(record), tables.HEADER))
    return "\n".join(parts)


def _commands(config: ConfigDict, workdir: pathlib.Path) -> str:
    """How to resume, sample, evaluate, and load the run in Python."""
    folder = shlex.quote(str(workdir))
    command = f"python -m diffusion_jax.main --config=CONFIG --workdir={folder}"
    python = (
        "import diffusion_jax as dj\n\n"
        f"samples = dj.load({str(workdir)!r}).sample(16, seed=1)"
    )
    modes = [
        f"{command} --config.train.num_steps={2 * config.train.num_steps}  # go on",
        f"{command} --mode=sample",
        f"{command} --mode=evaluate",
    ]
    blocks = "\n".join(modes), python
    first = "<p>CONFIG is the config that the run was started with.</p>"
    return first + "".join(f"<pre>{html.text(block)}</pre>" for block in blocks)


def _details(content: str) -> str:
    """A text that is folded away."""
    shown = f"<pre>{html.text(content)}</pre>"
    return f"<details><summary>All values</summary>{shown}</details>"


def _versions() -> str:
    """What is installed now."""
    version = importlib.metadata.version
    rows = [("Python", platform.python_version())]
    rows += [(name, version(name)) for name in ("diffusion_jax", *VERSIONS)]
    return html.table(rows)
