"""--mode=report: a page about a run that opens from a file."""

import importlib.metadata
import json
import logging
import pathlib
import platform
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import paths, run_plots, run_summary, strict_json
from diffusion_jax.evaluators import tables
from diffusion_jax.outputs import html, images, plots, writers
from diffusion_jax.run_summary import Summary
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

REPORT = "report.html"
MAX_SLIDES = 24
STRIP, STRIP_SIDE = 8, 200  # frames next to each other, and the pixels of each
MAX_TEXT = 10_000  # characters
VERSIONS = "jax jaxlib flax optax orbax-checkpoint numpy".split()
# Settings of a sample that are shown below it.
SAMPLED = "step label prompt sampler num_steps guidance_scale seed".split()
# Settings of an evaluation that are shown with its metrics.
SHOWN = """split splits sampler num_steps guidance_scale classifier classifiers judge
    date""".split()


def report(
    config: ConfigDict,
    workdir: pathlib.Path,
    output: pathlib.Path | None = None,
    config_file: str | None = None,
) -> None:
    """Writes OUTPUT/report.html: pictures, curves, metrics, config and commands.

    It reads what training, sampling and evaluation have written, and no weights.

    Args:
      config: of the run.
      workdir: the run's folder.
      output: folder of the page; None for the workdir.
      config_file: FILE or FILE:VARIANT of the config, for the commands on the page.

    Raises:
      FileNotFoundError: there is no run in workdir.
    """
    if parallel.process_index() != 0:
        return
    folder = output or workdir
    writers.check_writable(folder)
    run = run_summary.read(config, workdir)
    sections = [
        ("The model", _model(run)),
        ("Samples over training", _samples(run)),
        ("Pictures", _pictures(workdir)),
        ("Texts", _texts(run)),
        ("Curves", _curves(run.log, config.eval.split)),
        ("Metrics", _metrics(run.evaluations)),
        ("Next commands", _commands(config, workdir, config_file)),
        ("Config", _all_values(config)),
        ("Versions", _versions()),
    ]
    path = folder / REPORT
    with paths.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(html.page(config.name, sections), encoding="utf-8")
    LOGGER.info("Wrote %s. Open it with a browser.", path)


def _model(run: Summary) -> str:
    """What was trained, on what, and for how long."""
    shapes = (f"{x} {list(y.shape) or ''}".strip() for x, y in run.fields.items())
    rows = {**run.rows(), "fields of the data": ", ".join(shapes)}
    return html.table([(name, x) for name, x in rows.items() if x])


def _samples(run: Summary) -> str:
    """The pictures that training drew."""
    files = [path for path in run.drawn if path.suffix == ".png"]
    files = [files[i] for i in images.evenly(len(files), MAX_SLIDES)]
    slides = [html.Slide(x.read_bytes(), f"Step {x.stem.lstrip('0')}") for x in files]
    return html.slider(slides)


def _pictures(workdir: pathlib.Path) -> str:
    """What --mode=sample and evaluations wrote; animations become sliders."""
    parts = []
    for path in sorted(workdir.glob("*.gif")):
        frames = images.frames(path, MAX_SLIDES)
        label = _frame_label(path, max(frames))
        slides = [html.Slide(x, f"{path.stem}, {label(i)}") for i, x in frames.items()]
        parts.append(html.slider(slides))
        if len(frames) > 1:
            strip = images.frames(path, STRIP, STRIP_SIDE)
            small = [html.figure(html.Slide(x, label(i))) for i, x in strip.items()]
            parts.append(html.row(small, "strip"))
    for path in sorted(workdir.glob("*.png")):
        parts.append(html.figure(html.Slide(path.read_bytes(), _title(path))))
    sweep = workdir / run_plots.FOLDER / run_plots.SWEEP
    if sweep.is_file():
        alt = "Metrics of samples over the options of the last sweep"
        parts.append(html.figure(html.Slide(sweep.read_bytes(), alt)))
    return "\n".join(parts)


def _title(path: pathlib.Path) -> str:
    """Returns what a picture shows, and how it was sampled if that is known."""
    file = path.with_suffix(".json")
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return path.stem
    except (ValueError, TypeError):
        LOGGER.warning("%s is damaged: its picture has no settings.", file)
        return path.stem
    shown = [f"{name} {settings[name]}" for name in SAMPLED if name in settings]
    return f"{path.stem}: {', '.join(shown)}"


def _frame_label(path: pathlib.Path, total: int) -> Callable[[int], str]:
    """Returns a function from the number of an animation's frame to what it shows.

    The frames of a reverse chain are evenly spaced over its steps, see
    `diffusion.sampling`; others are such as the columns of an interpolation.
    """
    arrays = path.with_suffix(".npz")
    is_chain = False
    if arrays.is_file():
        with np.load(arrays) as stored:
            is_chain = "frames" in stored.files
    if is_chain:
        return lambda i: f"after {i / total:.0%} of the steps".replace("%", " %")
    return lambda i: f"frame {i} of {total}"


def _texts(run: Summary) -> str:
    """The texts that were drawn last by training, and by --mode=sample."""
    drawn = [path for path in run.drawn if path.suffix == ".txt"]
    files = [*drawn[-1:], *sorted(run.workdir.glob("*.txt"))]
    files = [path for path in files if not path.with_suffix(".png").exists()]
    texts = (path.read_text(encoding="utf-8")[:MAX_TEXT] for path in files)
    return "".join(f"<pre>{html.text(text)}</pre>" for text in texts)


def _curves(lines: list[dict[str, Any]], split: str) -> str:
    """Losses, and the metrics of evaluations during training, over the steps.

    They are SVG, not the PNGs in plots/, so that they can be read on a phone.
    """
    panels = run_plots.losses({"": lines}) + run_plots.metrics(lines, split)
    return html.row([*map(plots.svg, panels)], "curves")


def _metrics(evaluations: list[dict[str, Any]]) -> str:
    """The last evaluation of each metric and settings, with baselines and meanings."""
    last = {}
    for line in evaluations:
        key = [line.get(x) for x in ("metric", *SHOWN) if x != "date"]
        last[json.dumps(key)] = line
    parts = []
    for line in last.values():
        record = tables.from_line(line)
        known = {key: line[key] for key in SHOWN if line.get(key) is not None}
        settings = ", ".join(f"{key} {tables.joined(x)}" for key, x in known.items())
        title = tables.title(f"{line['metric']} at step {line['step']:,}", record)
        parts.append(f"<h3>{html.text(title)}</h3><p>{html.text(settings)}</p>")
        parts.append(html.table(tables.lines(record), tables.HEADER))
    return "\n".join(parts)


def _commands(
    config: ConfigDict, workdir: pathlib.Path, config_file: str | None
) -> str:
    """How to resume, sample, evaluate, and load the run in Python."""
    folder = shlex.quote(str(workdir))
    file = shlex.quote(config_file) if config_file else "CONFIG"
    command = f"python -m diffusion_jax.main --config={file} --workdir={folder}"
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
    shown = "".join(f"<pre>{html.text(block)}</pre>" for block in blocks)
    if not config_file:
        shown = f"<p>CONFIG is the config that the run was started with.</p>{shown}"
    return shown


def _all_values(config: ConfigDict) -> str:
    """The config, folded away."""
    shown = html.text(strict_json.dumps(config.to_dict(), indent=2))
    return html.details("All values", f"<pre>{shown}</pre>")


def _versions() -> str:
    """What is installed now."""
    version = importlib.metadata.version
    rows = [("Python", platform.python_version())]
    rows += [(name, version(name)) for name in ("diffusion_jax", *VERSIONS)]
    return html.table(rows)
