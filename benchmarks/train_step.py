"""Measures the train step, in turn with networks in PyTorch if asked.

    python -m benchmarks.train_step --config configs/digits.py --batch_size 32 128 \
        --against torch diffusers
"""

from benchmarks import comparisons
from benchmarks.comparisons import Task


def main() -> None:
    """Measures every config with every batch size and dtype."""
    arguments = comparisons.make_parser(__doc__).parse_args()
    comparisons.run("train_step", [Task("train step", "train_step", {})], arguments)


if __name__ == "__main__":
    main()
