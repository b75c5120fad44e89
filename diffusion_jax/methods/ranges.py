"""The range of every numeric option, checked before data are opened or compiled.

0 switches an option off only where the family's defaults say so. Counts that a Python
loop or a table on the host depends on have a maximum, so that a typing error is refused
instead of running for hours.
"""

import math
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.diffusion import samplers

MAX_INT32 = 2**31 - 1
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_LOGSNR = 1000.0  # beyond any schedule's


class Range(NamedTuple):
    """The values that a number may have.

    Attributes:
      minimum: the smallest value.
      maximum: the largest value; by default the largest of the number's type.
      above: whether the minimum itself is excluded.
      below: whether the maximum itself is excluded.
      integer: whether only integers are allowed.
    """

    minimum: float
    maximum: float = MAX_FLOAT32
    above: bool = False
    below: bool = False
    integer: bool = False

    def problem(self, value: Any) -> str:
        """Returns what the value must be, such as "be above 0"; "" if it is."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return "be a number"
        if self.integer and not isinstance(value, numbers.Integral):
            return "be an integer"
        if not isinstance(value, numbers.Integral) and not math.isfinite(value):
            return "be a finite number"
        too_small, too_large = value < self.minimum, value > self.maximum
        if not (too_small or too_large):  # the device computes in float32
            rounded = value if self.integer else np.float32(value)
            too_small = self.above and rounded <= self.minimum
            too_large = self.below and rounded >= self.maximum
        if not (too_small or too_large):
            return ""
        if not self.integer and self.maximum < MAX_FLOAT32:
            left, right = "(" if self.above else "[", ")" if self.below else "]"
            return f"lie in {left}{self.minimum:.7g}, {self.maximum:.7g}{right}"
        if too_small:
            return f"be {'above' if self.above else 'at least'} {self.minimum:.7g}"
        return f"be at most {self.maximum:.10g}"


def check(config: ConfigDict) -> None:
    """Checks every number of a config.

    Args:
      config: of any family; keys that it lacks are not checked.

    Raises:
      ValueError: a number is outside its range; the message names its key.
    """
    values = dict(_leaves(config))
    rows = RANGES | OF_FAMILY.get(config.method, {})
    rows |= {
        key.replace("sample.", "eval.sweep."): row
        for key, row in rows.items()
        if key.startswith("sample.")
    }
    for key in (key for key in values if row_key(key) in rows):
        for number in _numbers(key, values[key]):
            problem = rows[row_key(key)].problem(number)
            if problem:
                raise ValueError(f"{key} must {problem}, not {values[key]!r}.")


def row_key(key: str) -> str:
    """Returns the key of the row in RANGES of a dotted key.

    A key of a cascade's stage, such as upsampler.model.width, has that of model.width.
    """
    group, *rest = key.split(".")
    is_stage = len(rest) == 2 and rest[0] in ("model", "diffusion")
    return ".".join(rest) if is_stage else key


def check_training(config: ConfigDict) -> None:
    """Checks every number of a config, and the numbers that limit each other.

    For training, whether or not it samples and evaluates. Of a trained model, each task
    checks what it uses.

    Args:
      config: of any family.

    Raises:
      ValueError: a number is outside its range; the message names its key.
    """
    check(config)
    values = dict(_leaves(config))
    # Then sample.num_steps is of the base alone, and frames are of the last upsampler.
    separate = values.get(UPSAMPLER_STEPS) is not None
    for key, (other, difference) in LIMITS.items():
        if separate and key == "sample.num_frames":
            other = UPSAMPLER_STEPS
        of_base = separate and key != UPSAMPLER_STEPS
        limits = [
            value
            for x, value in values.items()
            if (x == other and key != UPSAMPLER_STEPS)
            or (x != other and row_key(x) == other and not of_base)
        ]
        if values.get(key) is None or not limits:
            continue
        maximum = min(limits) - difference  # of the stages, if there are several
        if any(number > maximum for number in _numbers(key, values[key])):
            less = f" - {difference}" if difference else ""
            minimum = RANGES[key.replace("eval.sweep.", "sample.")].minimum
            raise ValueError(
                f"{key} must lie in {minimum}..{maximum} ({other}{less}), "
                f"not {values[key]!r}."
            )
    end, num_steps = values.get("optim.decay_end"), values.get("train.num_steps")
    to_zero = end is not None and not values.get("optim.decay_to")
    if to_zero and num_steps is not None and end < num_steps:
        raise ValueError(
            f"optim.decay_end = {end} lies before train.num_steps = {num_steps}, and "
            "the learning rate would be 0 from then on: set optim.decay_end to "
            f"{num_steps} or more, or train.num_steps to {end}."
        )


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key of each value, and the value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _numbers(key: str, value: Any) -> tuple:
    """Returns the numbers that the value of a key consists of.

    Raises:
      ValueError: there are several where one is needed, or one where there may be
        several, or too few.
    """
    if value is None and key in OPTIONAL:
        return ()
    is_sequence = isinstance(value, tuple | list)
    if is_sequence != (row_key(key) in MIN_LENGTHS or key.startswith("eval.sweep.")):
        form = "one number" if is_sequence else "a tuple of numbers"
        raise ValueError(f"{key} must be {form}, not {value!r}.")
    if not is_sequence:
        return (value,)
    if len(value) < MIN_LENGTHS.get(row_key(key), 0):
        raise ValueError(f"{key} must have at least one value, not none.")
    return tuple(value)


def _count(minimum: int, maximum: int = MAX_INT32) -> Range:
    """Returns a range of integers."""
    return Range(minimum, maximum, integer=True)


POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1, below=True)  # of a decay, a dropout rate or held-out data
SEED = _count(0, 2**32 - 1)  # jax.random.key drops higher bits
SIZE = _count(1, 2**20)  # of a batch or a layer
SIDE = _count(1, 2**14)  # of an image
RANGES: dict[str, Range] = {
    "seed": SEED,
    "data.image_size": SIDE,
    "data.image_width": SIDE,
    "data.num_channels": _count(1, 3),  # images: 1 or 3, see data.sources
    "data.context": _count(1, 2**20),
    "data.vocabulary_size": _count(3, 2**20),
    "data.max_length": _count(0, 2**20),
    "data.batch_size": SIZE,
    "data.held_out": SHARE,
    "model.base_channels": SIZE,
    "model.channel_multipliers": _count(1, 1024),
    "model.num_blocks": _count(0, 1024),
    "model.attention_resolutions": SIDE,
    "model.dropout": SHARE,
    "model.num_classes": _count(0, 2**20),
    "model.hidden": SIZE,
    "model.num_latents": SIZE,
    "model.num_codes": _count(2, 2**20),
    "model.channels": SIZE,
    "model.strides": _count(1, 2),
    "model.width": SIZE,
    "model.num_features": SIZE,
    "model.num_downsamplings": _count(0, 20),
    "model.num_levels": _count(1, 20),
    "model.disc_channels": SIZE,
    "model.disc_layers": _count(0, 20),
    "model.num_layers": _count(1, 1024),
    "model.context": _count(1, 2**20),
    "model.mlp_width": SIZE,
    "model.num_heads": _count(1, 1024),
    "model.caption_width": _count(0, 2**20),
    "model.caption_layers": _count(0, 1024),
    "model.caption_heads": _count(1, 1024),
    "diffusion.num_timesteps": _count(2, 10**6),
    "diffusion.cond_dropout": SHARE,
    "diffusion.cond_noise": Range(0, 1),
    "autoencoder.noise_scale": POSITIVE,
    "vae.noise_scale": POSITIVE,
    "vae.beta": NOT_NEGATIVE,
    "dvae.noise_scale": POSITIVE,
    "dvae.decay": SHARE,
    "dvae.temperature_start": POSITIVE,
    "dvae.temperature_end": POSITIVE,
    "dvae.temperature_steps": _count(1),
    "dvae.kl_weight": NOT_NEGATIVE,
    "dvae.kl_warmup_steps": _count(1),
    "dvae.commitment": NOT_NEGATIVE,
    "gan.gradient_penalty": NOT_NEGATIVE,
    "gan.r1": NOT_NEGATIVE,
    "gan.critic_steps": _count(1, 1024),
    "gan.num_latents": SIZE,
    "dalle.cond_dropout": SHARE,
    "dvae_model.num_codes": _count(2, 2**20),
    "dvae_model.num_features": SIZE,
    "dvae_model.width": SIZE,
    "dvae_model.num_downsamplings": _count(0, 20),
    "dvae_model.num_blocks": _count(0, 1024),
    "seq2seq.label_smoothing": SHARE,
    "cascade.factor": _count(2, 1024),
    "cyclegan.cycle_weight": NOT_NEGATIVE,
    "cyclegan.identity_weight": NOT_NEGATIVE,
    "cyclegan.pool_size": _count(0, 2**20),
    "pix2pix.l1_weight": NOT_NEGATIVE,
    "optim.learning_rate": POSITIVE,
    "optim.disc_learning_rate": POSITIVE,
    "optim.warmup_steps": _count(0),
    "optim.decay_start": _count(0),
    "optim.decay_end": _count(1),
    "optim.decay_to": Range(0, 1),
    "optim.b1": SHARE,
    "optim.b2": SHARE,
    "optim.eps": POSITIVE,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.clip_norm": POSITIVE,
    "optim.ema_decay": SHARE,
    "train.num_steps": _count(1),
    "train.accumulate": SIZE,
    "train.log_every": _count(0),
    "train.save_every": _count(0),
    "train.keep": _count(1),
    "train.evaluate_every": _count(0),
    "train.sample_every": _count(0),
    "sample.num_examples": _count(1),
    "sample.batch_size": SIZE,
    "sample.seed": SEED,
    "sample.cond_noise": Range(0, 1),
    "sample.label": _count(-1, 2**20),
    "sample.num_candidates": _count(1, 2**20),
    "sample.num_steps": _count(1, 10**6),
    "sample.upsampler_num_steps": _count(1, 10**6),
    "sample.upsampler_guidance_scale": NOT_NEGATIVE,
    "sample.eta": Range(0, 1),
    "sample.churn": Range(0, samplers.MAX_CHURN),
    "sample.guidance_scale": NOT_NEGATIVE,
    "sample.guidance_interval": Range(-MAX_LOGSNR, MAX_LOGSNR),
    "sample.num_tokens": _count(1, 2**20),
    "sample.temperature": NOT_NEGATIVE,
    "sample.top_k": _count(0, 2**20),
    "sample.top_p": Range(0, 1, above=True),
    "sample.beam_size": _count(1, 1024),
    "sample.length_penalty": NOT_NEGATIVE,
    "sample.num_frames": _count(0, 10**6),
    "sample.strength": Range(0, 1, above=True),
    "sample.num_resamplings": _count(1, 10**6),
    "eval.batch_size": SIZE,
    "eval.seed": SEED,
    "eval.num_terms": _count(1, 10**6),
    "eval.num_probes": _count(0, 2**20),
    "eval.num_importance": _count(1, 10**6),
}
OF_FAMILY: dict[str, dict[str, Range]] = {  # where a family needs another range
    "ddpm": {"model.base_channels": _count(4, 2**20)},  # of the timestep's embedding
    "cascade": {"model.base_channels": _count(4, 2**20)},
    "classifier": {"model.num_classes": _count(2, 2**20)},
    "contrastive": {"model.caption_width": SIZE},
}
OPTIONAL = (  # may be None
    *("data.image_width", "optim.decay_start", "optim.decay_end"),
    *("sample.upsampler_num_steps", "sample.upsampler_guidance_scale"),
)
MIN_LENGTHS = {  # of the keys with several numbers, beside those of eval.sweep
    "model.channel_multipliers": 1,
    "model.attention_resolutions": 0,
    "model.hidden": 0,
    "model.channels": 1,
    "model.strides": 1,
    "sample.guidance_interval": 0,
}
UPSAMPLER_STEPS = "sample.upsampler_num_steps"
# key -> (the key that limits it, how far below it must stay).
LIMITS = {
    "sample.num_steps": ("diffusion.num_timesteps", 0),
    "eval.sweep.num_steps": ("diffusion.num_timesteps", 0),
    UPSAMPLER_STEPS: ("diffusion.num_timesteps", 0),
    "sample.num_frames": ("sample.num_steps", 0),
    "eval.num_terms": ("diffusion.num_timesteps", 1),
}
