"""Names that older versions gave to config keys and their values."""

import logging
import math
import re
from typing import Any

LOGGER = logging.getLogger(__name__)


OVERRIDE = re.compile("--?config[.]([^=]+)(.*)", re.DOTALL)  # --config.KEY=VALUE


def rename_argument(argument: str) -> str:
    """Returns a command line argument; an override gets today's key and value.

    The value may also be the next argument, which then keeps its name.
    """
    match = OVERRIDE.fullmatch(argument)
    if not match:
        return argument
    key = RENAMED_KEYS.get(match[1]) or match[1]
    names = RENAMED_VALUES.get(key, {})
    value = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), match[2])
    renamed = f"--config.{key}{value}"
    if (key, value) != match.groups():
        LOGGER.warning("%s is now called %s.", argument, renamed)
    return renamed


def rename_stored(stored: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the config.json of an older version with today's names.

    Args:
      stored: the config, or a group of it.
      prefix: of the group's keys, such as "sample.".
    """
    new: dict[str, Any] = {}
    for name, value in stored.items():
        key = RENAMED_KEYS.get(prefix + name, prefix + name)
        if key != prefix + name:
            LOGGER.info("config.%s%s is now called %s.", prefix, name, key or "nothing")
        if key is None:
            continue
        names = RENAMED_VALUES.get(key, {})
        if isinstance(value, dict):
            value = rename_stored(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = [names.get(x, x) if isinstance(x, str) else x for x in value]
            if key == "sample.guidance_interval":
                value = _finite_interval(value)
        elif isinstance(value, str):
            value = names.get(value, value)
        new[key.removeprefix(prefix)] = value
    return new


def _finite_interval(interval: list[float]) -> list[float]:
    """Returns an interval of log-SNR without infinities, which JSON does not have.

    Today [] is everywhere; 1000 is beyond the log-SNR of any schedule.
    """
    if not any(map(math.isfinite, interval)):
        return []
    return [max(-1000.0, min(1000.0, end)) for end in interval]


# What older versions did where they had no key, if it is not today's value.
IMPLIED = {"data.held_out": 0.0, "data.bucketed": False, "model.dtype": "float32"}
# Keys (None: dropped), and values by the key's new name.
RENAMED_KEYS = {
    "diffusion.zero_snr": "diffusion.zero_terminal_snr",
    "diffusion.time_draw": "diffusion.timestep_sampler",
    "diffusion.label_dropout": "diffusion.cond_dropout",
    "optim.decay_steps": "optim.decay_end",
    "sample.clip": "sample.thresholding",
    "sample.view": "sample.task",
    "sample.film": "sample.animation",
    "sample.start": "sample.strength",
    "sample.concepts": None,
    "sample.num_images": "sample.num_examples",
    "eval.measure": "eval.metric",
}
_SAMPLERS = {f"dpm_solver_pp_{x}": f"dpmpp_{x}" for x in ("1", "2m", "3m", "2s", "3s")}
RENAMED_VALUES = {
    "diffusion.loss": {"bound": "vlb"},
    "eval.metric": {"bound": "vlb"},
    "sample.sampler": _SAMPLERS,
    "eval.sweep.sampler": _SAMPLERS,
    "sample.task": {
        "samples": "sample",
        "reconstruction": "reconstruct",
        "interpolation": "interpolate",
        "inpainting": "inpaint",
        "image_to_image": "img2img",
        "traversal": "traverse",
        "translations": "translate",
    },
}
