"""Measures the forward pass and sampling, in turn with networks in PyTorch if asked.

    python -m benchmarks.sampling --config configs/cifar10.py --batch_size 8 \
        --tasks forward ddim:50 ancestral:1000 --against diffusers

A batch is all that is sampled: its size is the number of images.
"""

from benchmarks import comparisons
from benchmarks.comparisons import Task


def parse_task(text: str) -> Task:
    """Turns "forward", or "SAMPLER:NUM_STEPS" such as "ddim:50", into a task.

    Raises:
      ValueError: it is neither.
    """
    if text == "forward":
        return Task("forward pass", "forward", {})
    sampler, _, num_steps = text.partition(":")
    if sampler not in ("ddim", "ancestral"):
        raise ValueError(f"{text!r} is neither forward, ddim:N nor ancestral:N.")
    options = {"sampler": sampler, "num_steps": int(num_steps)}
    return Task(f"{sampler}, {num_steps} steps", "sample", options)


def main() -> None:
    """Measures every task with every config, batch size and dtype."""
    parser = comparisons.make_parser(__doc__)
    default = [parse_task("forward"), parse_task("ddim:50")]
    parser.add_argument("--tasks", nargs="+", type=parse_task, default=default)
    arguments = parser.parse_args()
    comparisons.run("sampling", arguments.tasks, arguments)


if __name__ == "__main__":
    main()
