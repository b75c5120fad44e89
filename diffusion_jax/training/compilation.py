"""How XLA compiles our programs: its options, by backend, in one place."""

from typing import Any

import jax

Options = dict[str, Any]


def run_once(traced: jax.stages.Traced, *args: Any) -> Any:
    """Runs a traced function that will not run again: compiled quickly, not well.

    An initialisation draws every parameter by a program of its own, which takes many
    times longer to optimise than to run.
    """
    return traced.lower().compile(compiler_options=for_backend(ONCE))(*args)


def for_backend(table: dict[str, Options]) -> Options | None:
    """Returns the options for the backend in use, or None for XLA's defaults."""
    return table.get(jax.default_backend())


# For programs that run many times. XLA's default gives convolutions to YNNPACK too; its
# own are faster, 1.5 times for the CIFAR-10 U-Net (docs/performance.md).
REPEATED: dict[str, Options] = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_DOT"
        ),
    },
}
# For programs that run once: an initialisation compiles in a quarter of the time.
ONCE: dict[str, Options] = {
    "cpu": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
}
