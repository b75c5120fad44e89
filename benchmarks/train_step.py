"""Measures the train step, in turn with networks in PyTorch if asked.

    python -m benchmarks.train_step --config configs/digits.py --batch_size 32 128 \
        --against torch diffusers
"""

import itertools

from benchmarks import comparisons
from benchmarks.reports import Report


def main() -> None:
    """Measures every config with every batch size and dtype."""
    arguments = comparisons.make_parser(__doc__).parse_args()
    report = Report("train_step", comparisons.COLUMNS, arguments.json, arguments.output)
    ceilings = comparisons.Ceilings(with_torch=bool(arguments.against))
    report.header(accelerator=ceilings.kind)
    cases = itertools.product(
        arguments.config,
        arguments.batch_size,
        comparisons.dtypes(arguments.dtype, ceilings.device),
    )
    for path, batch_size, dtype in cases:
        config = comparisons.load_config(path, arguments.set)
        comparisons.compare(
            report,
            "train_step",
            {"config": config, "batch_size": batch_size, "dtype": dtype},
            {
                "config": config["name"],
                "what": "train step",
                "batch_size": batch_size,
                "dtype": dtype,
            },
            comparisons.counterparts(
                arguments.against, ceilings.device, arguments.compile
            ),
            ceilings,
            arguments.rounds,
            arguments.seconds,
        )


if __name__ == "__main__":
    main()
