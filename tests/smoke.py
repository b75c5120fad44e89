"""The smoke runs of the configs, as the tests of the commands use them."""

import json
import pathlib
import runpy

import jax
from ml_collections import ConfigDict

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
