"""How XLA compiles our programs: its options, by backend, in one place."""

from typing import Any

import jax

Options = dict[str, Any]


def run_once(traced: jax.stages.Traced, *args: Any) -> Any:
    """Compiles a traced function without optimisation and runs it once.

    An initialisation has a random-number kernel for every parameter; optimising them
    takes much longer than running them.
    """
    return traced.lower().compile(compiler_options=for_backend(ONCE))(*args)


def about(num_arrays: int) -> str:
    """Says how long a train step takes to compile, or "" if it is not known.

    Args:
      num_arrays: of parameters.
    """
    seconds = SECONDS_PER_ARRAY.get(jax.default_backend())
    if seconds is None:
        return ""
    seconds = max(1, round(seconds * num_arrays))
    return f" (about {seconds} s on two idle cores; less if it is cached)"


def for_backend(table: dict[str, Options]) -> Options | None:
    """Returns the options for the backend in use, or None for XLA's defaults.

    XLA refuses options that it does not know, so they are for versions that were tried.
    """
    is_tried = jax.__version_info__ < UNTRIED
    return table.get(jax.default_backend()) if is_tried else None


UNTRIED = (0, 13)  # the first version of JAX that the options were not tried on
# For programs that run many times. XLA's default gives convolutions to YNNPACK too; its
# own are faster, 1.5 times for the CIFAR-10 U-Net (docs/performance.md).
REPEATED: dict[str, Options] = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_DOT"
        ),
    },
}
# 7 s for the 144 arrays of configs/digits.py, 15 s for the 328 of configs/cifar10.py.
SECONDS_PER_ARRAY = {"cpu": 0.05}
# For programs that run once, such as an initialisation.
ONCE: dict[str, Options] = {
    "cpu": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
}
if jax.__version_info__ < (0, 11):  # newer ones do not have this option
    ONCE["cpu"]["xla_cpu_use_fusion_emitters"] = False
