"""The smoke runs of the configs, as the tests of the commands use them."""

import functools
import json
import pathlib
import runpy

import jax
from ml_collections import ConfigDict

from diffusion_jax import methods, run_config
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.state import TrainState, trace_initial

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {path.stem: path for path in sorted(ROOT.glob("configs/*.py"))}


def load(name: str, variant: str = "tiny", **changes) -> ConfigDict:
    """Returns configs/NAME.py:VARIANT; keys of changes are GROUP__NAME."""
    config = runpy.run_path(str(CONFIGS[name]))["get_config"](variant)
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


def last_line(workdir: pathlib.Path) -> dict:
    """Returns the last line of evaluations.jsonl."""
    return json.loads((workdir / "evaluations.jsonl").read_text().splitlines()[-1])


def restore(
    config: ConfigDict, workdir: pathlib.Path, step: int | None = None
) -> TrainState:
    """Restores a checkpoint of a run, the last one if there is no step."""
    checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, read_only=True)
    step = checkpoints.steps()[-1] if step is None else step
    return checkpoints.restore(_template(config.to_json(), workdir), step)


@functools.cache
def _template(config: str, workdir: pathlib.Path) -> TrainState:
    config = ConfigDict(json.loads(config))
    method = methods.make(config, run_config.stored_fields(config, workdir))
    return trace_initial(method).out_info


class Compiled(list):
    """The names of the programs that jax compiles while the context is open."""

    def _listen(self, event, duration, fun_name="", **kwargs):
        if event.endswith("backend_compile_duration"):
            self.append(fun_name)

    def __enter__(self):
        jax.random.key(0)  # this one is always compiled
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception):
        jax.monitoring.unregister_event_duration_listener(self._listen)
