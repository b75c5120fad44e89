"""Plots the share of right texts over the length of their source, for several runs.

    python -m diffusion_jax.main --config=configs/reverse_rnn.py
    python -m diffusion_jax.main --config=configs/reverse_rnn.py --mode=evaluate
    python -m diffusion_jax.main --config=configs/reverse_attention.py
    python -m diffusion_jax.main --config=configs/reverse_attention.py --mode=evaluate
    python examples/accuracy_by_length.py runs/reverse_rnn runs/reverse_attention

Reads each run's last evaluation by exact_match. After Bahdanau et al.
2015, figure 2, arXiv:1409.0473: a state of fixed size holds only so many tokens.
"""

import argparse
import json
import pathlib

from matplotlib.figure import Figure


def main(runs: list[pathlib.Path], output: pathlib.Path) -> None:
    """Writes the plot."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        lines = (run / "evaluations.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        record = [x for x in records if "exact_match_by_length" in x][-1]
        by_length = record["exact_match_by_length"]
        lengths = sorted(map(int, by_length))
        shares = [by_length[str(length)] for length in lengths]
        axes.plot(lengths, shares, "o-", label=record["config"])
    axes.set(xlabel="Length of the source (tokens)", ylabel="Exact match")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, default="accuracy_by_length.png")
    arguments = parser.parse_args()
    main(arguments.runs, arguments.output)
