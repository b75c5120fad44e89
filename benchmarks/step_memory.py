"""Compares the memory that a train step is said to need with what it takes on a CPU.

    python -m benchmarks.step_memory --config configs/digits.py --batch_size 128

The process's peak is reset after compiling (Linux), so that what the step adds to the
state and the batch, which lie there already, is seen.
"""

import argparse
import json
import pathlib
import runpy

import jax
import numpy as np

from diffusion_jax import methods
from diffusion_jax.data import base
from diffusion_jax.data.loader import Loader
from diffusion_jax.training import compilation, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.step import make_train_step


def resident(name: str) -> int:
    """Returns VmRSS or VmHWM, the memory in use or its peak, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith(name))


def main() -> None:
    """Prints a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--batch_size", type=int, default=128)
    options = parser.parse_args()
    config = runpy.run_path(options.config)["get_config"]()
    data, num = config.data, options.batch_size
    shape = data.image_size, data.image_size, data.num_channels
    images = np.random.default_rng(0).integers(0, 256, (num, *shape), np.uint8)
    source = base.array_images(images, np.arange(num) % 10)
    method = methods.make(config, source.fields)
    initial = states.trace_initial(method)
    state = parallel.replicate(compilation.run_once(initial, jax.random.key(0)))
    run = parallel.train_step_on_devices(make_train_step(method, parallel.axis()))
    batch = parallel.shard(Loader(source, num, 0).batch_at(0))
    predicted = run.compile(state, batch).memory
    before = resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    arguments = sum(x.nbytes for x in jax.tree.leaves((state.replace(key=()), batch)))
    for _ in range(2):
        state, _ = run(state, batch, 0)
        jax.block_until_ready(state.params)
    seen = arguments + resident("VmHWM") - before
    line = {
        "config": config.name,
        "batch_size": num,
        "predicted_MB": round(predicted / 1e6),
        "seen_MB": round(seen / 1e6),
        "predicted/seen": round(predicted / seen, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
