"""Counts what the forward pass keeps for the backward pass, by dtype and model.remat.

    python -m benchmarks.residuals --config=configs/celeba_hq256.py

Shapes alone: nothing is compiled or run, so that every config can be counted on any
machine. What XLA plans for a device is less, where it fuses.
"""

import argparse
import json
import math
import pathlib
import runpy

import jax
from ml_collections import ConfigDict

from diffusion_jax import methods
from diffusion_jax.data.base import image_field
from diffusion_jax.methods.base import GROUP, SingleNetwork
from diffusion_jax.models.unet import REMATS
from diffusion_jax.training.state import TrainState, Variables, trace_initial

DTYPES = ("float32", "bfloat16")


def make(config: ConfigDict) -> SingleNetwork:
    """Builds the method of a config of images, without opening any data."""
    data = config.data
    field = image_field((data.image_size, data.image_size, data.num_channels))
    return methods.make(config, {"image": field})


def num_bytes(tree: object) -> int:
    """Returns the size of all arrays, or of their shapes."""
    arrays = (x for x in jax.tree.leaves(tree) if hasattr(x.dtype, "itemsize"))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def residuals(method: SingleNetwork, state: TrainState, batch_size: int) -> int:
    """Returns the bytes that the loss's forward pass keeps, parameters included."""
    batch = {
        method.data: jax.ShapeDtypeStruct(
            (batch_size, *method.field.shape), method.field.dtype
        ),
        "index": jax.ShapeDtypeStruct((batch_size,), "int32"),
    }

    def backward(params, aux, batch):
        def loss(params):
            key = jax.random.key(0)
            variables = Variables(params, {})
            return method.loss(GROUP, variables, aux, batch, key, 0).value

        return jax.vjp(loss, params)[1]

    return num_bytes(jax.eval_shape(backward, state.params, state.aux, batch))


def main() -> None:
    """Prints one JSON line, and one row of a table, for each dtype and policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, required=True)
    path = parser.parse_args().config
    rows = []
    for dtype in DTYPES:
        for remat in REMATS:
            config = runpy.run_path(str(path))["get_config"]()
            config.model.update(dtype=dtype, remat=remat)
            method = make(config)
            state = trace_initial(method).out_info
            one, two = (residuals(method, state, n) for n in (1, 2))
            record = {
                "config": path.stem,
                "dtype": dtype,
                "remat": remat,
                "megabytes_of_state": round(num_bytes(state) / 1e6, 1),
                "megabytes_per_example": round((two - one) / 1e6, 1),
            }
            print(json.dumps(record), flush=True)
            rows.append(record)
    print("\n| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
