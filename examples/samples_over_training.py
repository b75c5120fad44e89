r"""Draws a page of texts: what a language model wrote at several steps of its training.

    python -m diffusion_jax.main --config=configs/shakespeare_gpt.py \
        --config.data.source=text:PATH --config.train.sample_every=100
    python examples/samples_over_training.py runs/shakespeare_gpt \
        --steps 100 300 1000 2000

Reads samples/STEP.txt of the run, of which the first text is shown.
"""

import argparse
import pathlib
import textwrap

from matplotlib.figure import Figure

RULE = "-" * 72  # between the texts of a file
WIDTH, LINES = 72, 9  # characters and lines that are shown of a text
LINE_HEIGHT = 0.19  # inches


def first_text(path: pathlib.Path) -> str:
    """Returns the beginning of a file's first text, wrapped.

    Texts of one line each have no rule between them.
    """
    content = path.read_text(encoding="utf-8")
    separator = f"\n{RULE}\n"
    text = content.split(separator if separator in content else "\n")[0]
    lines = [part for line in text.splitlines() for part in wrap(line)]
    return "\n".join(lines[:LINES])


def wrap(line: str) -> list[str]:
    """Breaks a line; an empty one stays."""
    return textwrap.wrap(line, WIDTH, drop_whitespace=False) or [""]


def main(run: pathlib.Path, steps: list[int], output: pathlib.Path) -> None:
    """Writes the page, one row for each step."""
    files = sorted((run / "samples").glob("*.txt"))
    shown = [x for x in files if not steps or int(x.stem) in steps]
    if not shown or len(shown) < len(set(steps)):
        known = ", ".join(str(int(x.stem)) for x in files) or "none"
        raise SystemExit(f"{run} lacks samples of some steps; it has: {known}.")
    texts = {int(path.stem): first_text(path) for path in shown}
    height = LINE_HEIGHT * (LINES + 1)
    figure = Figure(figsize=(8.5, height * len(texts)))
    for row, (step, text) in enumerate(texts.items()):
        top = 1 - (row + 0.08) / len(texts)
        figure.text(0.02, top, f"step {step}", va="top", weight="bold", fontsize=9)
        # Dollar signs would begin a formula.
        text = text.replace("$", r"\$")
        figure.text(0.14, top, text, va="top", family="monospace", fontsize=9)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--steps", nargs="*", type=int, default=[], help="default all")
    parser.add_argument(
        "--output", type=pathlib.Path, default="samples_over_training.png"
    )
    arguments = parser.parse_args()
    main(arguments.run, arguments.steps, arguments.output)
