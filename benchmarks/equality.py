"""Compares the U-Net and one train step on the accelerator with those on the CPU.

    python -m benchmarks.equality --config configs/cifar10.py --batch_size 4

Both start from the same random weights, batch and key. The CPU computes in float32; the
accelerator in float32 with the highest precision of products, and in bfloat16. The
distance of two trees is the norm of their difference over the norm of the CPU's. Exits
with code 1 if a distance is above its tolerance.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import comparisons
from benchmarks.reports import Report

# float32 rounds at 6e-8 and bfloat16 at 4e-3; sums of up to 4,608 products in another
# order, through some 60 layers, amplify that: by about 30 where it was measured against
# PyTorch (tests/parity). Gradients pass twice as many layers.
TOLERANCES = {
    "float32": {"output": 1e-4, "loss": 1e-4, "gradient": 1e-3, "params": 1e-4},
    "bfloat16": {"output": 5e-2, "loss": 5e-2, "gradient": 2e-1, "params": 1e-2},
}
COLUMNS = {
    "dtype": "{dtype}",
    "what": "{what}",
    "distance": "{distance:.1e}",
    "tolerance": "{tolerance:.0e}",
    "equal": "{equal}",
}


def main() -> None:
    """Compares both dtypes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/cifar10.py")
    parser.add_argument("--batch_size", type=int, default=4)
    comparisons.add_output(parser)
    arguments = parser.parse_args()
    import jax

    report = Report("equality", COLUMNS, arguments.json, arguments.output)
    report.header(accelerator=jax.devices()[0].device_kind)
    config = comparisons.load_config(arguments.config, ["optim.warmup_steps=0"])
    cpu = jax.devices("cpu")[0]
    reference = compute(config, arguments.batch_size, "float32", cpu)
    for dtype, tolerances in TOLERANCES.items():
        found = compute(config, arguments.batch_size, dtype, jax.devices()[0])
        for what, tolerance in tolerances.items():
            far = distance(found[what], reference[what])
            record = {"config": config["name"], "dtype": dtype, "what": what}
            record |= {"distance": far, "tolerance": tolerance}
            report.add(record | {"equal": far <= tolerance})
    sys.exit(not all(record["equal"] for record in report.records))


def compute(
    config: Mapping[str, Any], batch_size: int, dtype: str, device: Any
) -> dict[str, Any]:
    """Runs the network and a train step on one device; returns host arrays by name.

    The gradient is read from Adam's first moment after the first step, (1 - b1) g.
    """
    import jax
    import numpy as np

    from benchmarks import ours  # first: it stands in for grain
    from diffusion_jax.data import loader
    from diffusion_jax.training.state import trace_initial
    from diffusion_jax.training.step import make_train_step

    config, method, source = ours.prepare(config, dtype)
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        z = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return z / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return np.float32(0.2) * z + (jax.tree_util.keystr(path)[-7:-2] == "scale")

    def zeros(leaf: jax.ShapeDtypeStruct) -> Any:
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if is_key else np.zeros(leaf.shape, leaf.dtype)

    template = trace_initial(method).out_info
    params = jax.tree_util.tree_map_with_path(draw, template.params)
    state = jax.tree.map(zeros, template).replace(params=params, ema=params)
    batch = loader.to_batch(source, np.arange(batch_size))
    state, batch = jax.device_put((state, batch), device)
    with jax.default_matmul_precision("highest" if dtype == "float32" else None):
        network = jax.jit(ours.network_of(method))
        output = network(state.variables, batch, state.key)["image"]
        state, metrics = jax.jit(make_train_step(method, None))(state, batch)
    return jax.device_get(
        {
            "output": output,
            "loss": metrics["loss"],
            "gradient": state.opt_state["net"]["adam"].mu,
            "params": state.params,
        }
    )


def distance(found: Any, reference: Any) -> float:
    """Returns the norm of the difference of two trees over the norm of the second."""
    import jax
    import numpy as np

    def norm(trees: list) -> float:
        return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in trees))

    found, reference = jax.tree.leaves(found), jax.tree.leaves(reference)
    differences = [np.subtract(a, b) for a, b in zip(found, reference, strict=True)]
    return float(norm(differences) / norm(reference))


if __name__ == "__main__":
    main()
