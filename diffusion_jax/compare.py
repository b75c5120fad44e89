"""--mode=compare: several runs side by side, in the terminal and on a page."""

import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from rich import box
from rich.table import Table

from diffusion_jax import paths, progress, run_plots, run_summary, runs, strict_json
from diffusion_jax.evaluators import tables
from diffusion_jax.evaluators.base import data_settings
from diffusion_jax.outputs import html, plots, writers
from diffusion_jax.run_summary import Summary
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

PAGE = "compare.html"
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}
NOTE = (
    f"{ARROWS['lower']} lower is better, {ARROWS['higher']} higher is better. "
    "Baselines are in parentheses. Metrics are in one row only if they can be "
    "compared: with the same data, split, N and classifier. Small differences may be "
    "chance."
)
NOT_EVALUATED = "None of these runs has been evaluated yet: see --mode=evaluate."
MAX_TEXT = 2000  # characters of the texts that a run drew
# Values that the first rows show.
SUMMARISED = "name method data.source data.batch_size train.num_steps".split()
# Settings of an evaluation without which its metrics cannot be compared. Others, such
# as the sampler, belong to the model that is compared.
MEASURED = """split splits num_samples num_examples num_pairs num_tokens num_characters
    num_real num_baseline num_captions num_train num_held_out num_importance num_terms
    num_probes clipped dequantization classifier classifier_id classifiers
    classifier_ids judge judge_id""".split()
OF_ODE = "num_steps", "spacing"  # for ode_likelihood these are not the model's
TITLED = "split splits classifier classifiers judge".split()  # always in the title
SAMPLED = "sampler num_steps guidance_scale temperature beam_size".split()
Rows = list[tuple[str, ...]]  # the name of each row, and a cell for each run
Group = tuple[str, Rows]
Key = tuple[tuple[str, Any], ...]


def compare(workdirs: Sequence[str], output: str | None = None) -> None:
    """Prints a table of runs and writes OUTPUT/compare.html, with samples and losses.

    It reads what training and evaluation have written, and no weights. A metric of two
    runs is in one row only if it was measured on the same data, split, number of
    examples and classifier.

    Args:
      workdirs: the folders of at least two runs.
      output: folder of the page; None for the current one.

    Raises:
      FileNotFoundError: a folder has no run.
      ValueError: there are fewer than two folders, one is given twice, or a file of a
        run is damaged.
      OSError: the page cannot be written.
    """
    folders = _resolve_folders(workdirs)
    configs = [runs.complete_config(folder) for folder in folders]
    if parallel.process_index() != 0:
        return
    folder = paths.local(output or ".")
    writers.check_writable(folder)
    summaries = [run_summary.read(*x) for x in zip(configs, folders, strict=True)]
    labels = _labels(folders)
    rows = [{"config": x.config.name, **x.rows()} for x in summaries]
    shared, single = _values(configs)
    metrics = _metrics(summaries)
    note = NOTE if metrics else NOT_EVALUATED
    groups = [
        ("Runs", [(x, *(row[x] for row in rows)) for x in rows[0]]),
        ("Config values that differ", shared),
        *metrics,
    ]
    groups = [group for group in groups if group[1]]
    for group in groups:
        progress.CONSOLE.print(_table(labels, group))
    progress.CONSOLE.print(note)
    header = ("", *labels)
    values = html.columns(header, [("Values that only one run has", single)])
    curves = run_plots.losses(
        dict(zip(labels, (x.log for x in summaries), strict=True))
    )
    sections = [
        ("Side by side", html.columns(header, groups) + f"<p>{html.text(note)}</p>"),
        ("Last samples", html.row([*map(_drawn, labels, summaries)], "pictures")),
        ("Losses", html.row([*map(plots.svg, curves)], "curves")),
        ("Other config values", html.details("Show", values) if single else ""),
    ]
    path = folder / PAGE
    with paths.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        title = f"Comparison of {', '.join(labels)}"
        path.write_text(html.page(title, sections), encoding="utf-8")
    LOGGER.info("Wrote %s. Open it with a browser.", path)


def _resolve_folders(workdirs: Sequence[str]) -> list[pathlib.Path]:
    """Returns the folders of the runs.

    Raises:
      ValueError: they are too few, or two are the same.
    """
    if len(workdirs) < 2:
        raise ValueError(
            "--mode=compare needs the folders of at least two runs, such as "
            "--mode=compare runs/a runs/b."
        )
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for folder in map(paths.local, workdirs):
        if folder.resolve() in folders:
            raise ValueError(
                f"--mode=compare is given the run in {folder} twice: leave one of "
                "them out."
            )
        folders[folder.resolve()] = folder
    return [*folders.values()]


def _labels(folders: Sequence[pathlib.Path]) -> list[str]:
    """Returns the names of the folders; whole paths if two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len({*names}) == len(names) else [*map(str, folders)]


def _values(configs: Sequence[ConfigDict]) -> tuple[Rows, Rows]:
    """Returns the values that differ: those of several runs, and those that one has."""
    flat = [_flat(config.to_dict()) for config in configs]
    shared, single = [], []
    for key in dict.fromkeys(key for values in flat for key in values):
        cells = [values.get(key) for values in flat]
        known = [x for x in cells if x is not None]
        row = (key, *(x or "" for x in cells))
        if len(known) == 1:
            single.append(row)
        elif len({*known}) > 1 and key not in SUMMARISED:
            shared.append(row)
    return shared, single


def _flat(group: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the values of a config as JSON, by dotted key."""
    values = {}
    for key, value in group.items():
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            is_word = isinstance(value, str) and value != ""
            values[prefix + key] = value if is_word else strict_json.dumps(value)
    return values


def _metrics(summaries: Sequence[Summary]) -> list[Group]:
    """Returns a group of rows for each metric and each way it was measured."""
    # By metric and key, then by the number of the run: its last such evaluation.
    last: dict[str, dict[Key, dict[int, dict[str, Any]]]] = {}
    for i, run in enumerate(summaries):
        for line in run.evaluations:
            keys = last.setdefault(line["metric"], {})
            keys.setdefault(_key(run, line), {})[i] = line
    groups = []
    for metric, keys in last.items():
        settings = [*map(dict, keys)]
        names = dict.fromkeys(name for x in settings for name in x)
        titled = {
            name
            for name in names.keys() - {"source", *tables.NUMBERS}  # there anyway
            if len({json.dumps(x.get(name)) for x in settings}) > 1
        }
        titled |= {*TITLED}
        for key, lines in keys.items():
            listed = [f"{name} {tables.joined(x)}" for name, x in key if name in titled]
            what = ", ".join([f"{metric} on {dict(key)['source']}", *listed])
            record = tables.from_line(next(iter(lines.values())))
            rows = _rows(lines, len(summaries))
            groups.append((tables.title(what, record), rows))
    return groups


def _key(run: Summary, line: dict[str, Any]) -> Key:
    """Returns what two evaluations must have in common to be comparable."""
    data = data_settings(run.config) | {
        "source": line.get("data", run.config.data.source)
    }
    names = [*MEASURED, *OF_ODE] if line["metric"] == "ode_likelihood" else MEASURED
    measured = {name: line[name] for name in names if name in line}
    known = {name: x for name, x in (data | measured).items() if x not in (None, "", 0)}
    return tuple(
        (name, tuple(x) if isinstance(x, list) else x) for name, x in known.items()
    )


def _rows(lines: dict[int, dict[str, Any]], num_runs: int) -> Rows:
    """Returns a row for each metric, with baselines, and one on how it was sampled.

    Args:
      lines: comparable evaluations, by the number of the run.
      num_runs: the number of cells; those without an evaluation are blank.
    """
    evaluated: dict[int, str] = {}
    metrics: dict[str, dict[int, tables.Line]] = {}
    for i, line in lines.items():
        options = [f"{x} {line[x]}" for x in SAMPLED if line.get(x) is not None]
        evaluated[i] = ", ".join([f"step {line['step']:,}", *options])
        for shown in tables.lines(tables.from_line(line)):
            metrics.setdefault(shown.name, {})[i] = shown
    rows = [("evaluated", *(evaluated.get(i, "") for i in range(num_runs)))]
    for name, known in metrics.items():
        way = tables.direction(name)
        values = {i: x for i in known if (x := lines[i].get(name)) is not None}
        best = None
        if way and len({*values.values()}) > 1:
            best = (min if way == "lower" else max)(values.values())
        mark = "best" if len(values) > 2 else "better"
        cells = [""] * num_runs
        for i, shown in known.items():
            is_best = best is not None and values.get(i) == best
            cells[i] = f"{shown.value} {mark}" if is_best else shown.value
            if shown.baselines:
                cells[i] += f"\n({shown.baselines})"
        rows.append((f"{name} {ARROWS[way]}" if way else name, *cells))
    return rows


def _table(labels: Sequence[str], group: Group) -> Table:
    """Returns a group of rows as a table for a terminal."""
    title, rows = group
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for label in ("", *labels):
        table.add_column(label, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _drawn(label: str, run: Summary) -> str:
    """Returns what training drew last, for the page."""
    if not run.drawn:
        return f"<p>{html.text(label)} has drawn no samples yet.</p>"
    images = [path for path in run.drawn if path.suffix == ".png"]
    path = (images or run.drawn)[-1]
    caption = f"{label}, step {int(path.stem):,}"
    if images:
        return html.figure(html.Slide(path.read_bytes(), caption))
    text = html.text(path.read_text(encoding="utf-8")[:MAX_TEXT])
    return f"<div><p>{html.text(caption)}</p><pre>{text}</pre></div>"
