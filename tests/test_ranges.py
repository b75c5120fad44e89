"""The ranges of numeric options: everything outside is refused before compilation."""

import json
import math
import numbers
import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import pytest
from ml_collections import ConfigDict
from smoke import CONFIGS, Compiled, load

from diffusion_jax import methods, planning, run_config
from diffusion_jax.methods import ranges
from diffusion_jax.methods.ranges import RANGES
from diffusion_jax.training_loop import train

# One config of each family, and of each network with numbers of its own.
NAMES = """digits digits_autoencoder fashion_mnist_autoencoder digits_vae digits_dvae
    digits_dalle digits_cascade digits_gan digits_dcgan digits_cyclegan digits_pix2pix
    digits_classifier digits_contrastive shakespeare_gpt""".split()
# Where 0 is a value, by the comments in the defaults: "0: none", "in [0, 1)", "step".
ZERO = """seed sample.seed eval.seed data.held_out model.dropout model.num_classes
    model.num_blocks model.num_downsamplings model.disc_layers diffusion.cond_dropout
    diffusion.cond_noise sample.cond_noise
    model.caption_width model.caption_layers dalle.cond_dropout
    dvae_model.num_downsamplings dvae_model.num_blocks
    vae.beta dvae.decay dvae.kl_weight dvae.commitment gan.gradient_penalty gan.r1
    cyclegan.cycle_weight cyclegan.identity_weight cyclegan.pool_size
    pix2pix.l1_weight
    optim.warmup_steps optim.decay_start optim.decay_to optim.weight_decay optim.b1
    optim.b2 optim.ema_decay train.log_every train.save_every train.evaluate_every
    train.sample_every sample.label sample.eta sample.churn sample.guidance_scale
    sample.upsampler_guidance_scale
    sample.guidance_interval sample.num_frames sample.temperature sample.top_k
    eval.num_probes""".split()
NEGATIVE = ["sample.guidance_interval", "sample.label"]  # -1: all classes
# Numbers that another number limits as well.
LIMITED = """sample.num_steps sample.num_frames eval.num_terms diffusion.num_timesteps
    train.num_steps optim.decay_end""".split()
WILD = [-(10**40), -1e300, -2.5, -2, 10**40, 1e300, math.nan, math.inf, -math.inf]


def leaves(config, prefix=""):
    """Each value of a config by its dotted key."""
    found = {}
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        key = f"{prefix}{name}"
        found |= leaves(value, f"{key}.") if inner else {key: value}
    return found


def is_numeric(value):
    values = value if isinstance(value, tuple) else (value,)
    return any(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in values)


def changed(name, key, value, wrap=True):
    """The config NAME:tiny with a value of any type, as a config.json may hold it; in a
    tuple, where there are several."""
    config = load(name).copy_and_resolve_references().to_dict()
    *groups, last = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[last] = (value,) if isinstance(node[last], tuple) and wrap else value
    return ConfigDict(config)


def make(config):
    """Makes the method of a config as training does."""
    methods.check_training(config)
    fields = run_config.stored_fields(config, pathlib.Path("nosuch"))
    if config.method == "pix2pix":
        fields["cond_image"] = fields["image"]
    return methods.make(config, fields)


def refusal(config):
    """The sentence with which a config is refused; nothing is compiled."""
    with Compiled() as names, pytest.raises(ValueError) as error:
        make(config)
    assert not names
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    return message


KEYS = [
    (name, key)
    for name in NAMES
    for key in leaves(load(name))
    if key in RANGES or key.replace("eval.sweep.", "sample.") in RANGES
]


def row_of(name, key):
    family = ranges.OF_FAMILY.get(load(name).method, {})
    key = key.replace("eval.sweep.", "sample.")
    return family.get(key, RANGES[key])


def outside(row):
    """Numbers that a row refuses, by its definition."""
    excluded = [row.minimum] * row.above + [row.maximum] * row.below
    if row.integer:
        low, high = st.integers(max_value=row.minimum - 1), row.maximum + 1
        other = st.floats().filter(lambda x: not x.is_integer())
        drawn = st.one_of(low, st.integers(min_value=high), other)
    else:
        low = st.floats(max_value=row.minimum, exclude_max=True)
        drawn = st.one_of(low, st.floats(min_value=row.maximum, exclude_min=True))
    return st.one_of(drawn, st.sampled_from(excluded)) if excluded else drawn


def inside(row):
    """Numbers that a row allows, by its definition; floats that float32 can hold."""
    if row.integer:
        return st.integers(row.minimum, row.maximum)
    bounds = {"exclude_min": row.above, "exclude_max": row.below, "width": 32}
    if row.maximum == RANGES["sample.churn"].maximum:
        return st.floats(0, 0.40625, width=32)
    return st.floats(row.minimum, row.maximum, **bounds)


def test_every_number_has_a_range():
    """Point 17: every number in the defaults and configs has a row of the table, and
    every row belongs to an option, which may be another network's."""
    configs = [family.defaults() for family in methods.FAMILIES.values()]
    configs += [load(name, variant) for name in CONFIGS for variant in ("", "tiny")]
    there = [leaves(config) for config in configs]
    for values in there:
        numeric = {ranges.row_key(x) for x, y in values.items() if is_numeric(y)}
        assert numeric <= RANGES.keys()
        of_images = set() if "data.image_size" in values else {"data.image_width"}
        optional = {x for x in ranges.OPTIONAL if "upsampler" not in x}
        assert values.keys() >= optional - of_images
    known = set().union(*there)
    assert RANGES.keys() - known <= {"data.held_out", "model.num_levels"}
    assert set(ZERO) | set(NEGATIVE) | set(LIMITED) <= RANGES.keys()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("variant", ["", "tiny"])
def test_configs_are_inside(name, variant):
    """Point 17: every config passes the check, and is strict JSON (point 18); one that
    leaves values open does so when they are planned."""
    config = load(name, variant)
    if planning.open_keys(config):
        config.data.source = "digits"
        config = planning.complete(config)
    methods.check(config)
    json.dumps(config.copy_and_resolve_references().to_dict(), allow_nan=False)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_outside_its_range(data):
    """Point 17: a number outside the range of the table is refused by its key."""
    name, key = data.draw(st.sampled_from(KEYS))
    value = data.draw(outside(row_of(name, key)))
    message = refusal(changed(name, key, value))
    assert re.match(rf"{key} must (be|lie) .*, not ", message), message


@hypothesis.given(st.sampled_from(KEYS), st.sampled_from([*WILD, True, False, "3"]))
@hypothesis.settings(max_examples=300, deadline=None)
def test_wild_values(option, value):
    """Point 17: values that no option can have are refused, whatever the table says:
    NaN, infinities, too large for the device, booleans, text, and negative numbers but
    for the log-SNRs of an interval."""
    name, key = option
    if key in NEGATIVE and value in (-2, -2.5) and key != "sample.label":
        return
    message = refusal(changed(name, key, value))
    assert message.startswith(f"{key} must "), message


@pytest.mark.parametrize("name, key", KEYS)
def test_zero(name, key):
    """Point 17: 0 is refused, but where the defaults say what it means."""
    if key.replace("eval.sweep.", "sample.") in ZERO:
        family = ranges.OF_FAMILY.get(load(name).method, {})
        if key not in family:  # a classifier has some classes
            methods.check(changed(name, key, 0))
    else:
        assert refusal(changed(name, key, 0)).startswith(f"{key} must ")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_inside_its_range(data):
    """Point 17: a number inside its range passes, if no other number limits it."""
    name, key = data.draw(st.sampled_from([x for x in KEYS if x[1] not in LIMITED]))
    if key == "eval.sweep.num_steps":
        return
    methods.check(changed(name, key, data.draw(inside(row_of(name, key)))))


@pytest.mark.parametrize("key", [key for name, key in KEYS if name == "digits"])
def test_none(key):
    """Point 17: None is refused, but where it is the default."""
    config = changed("digits", key, None)
    if key in ranges.OPTIONAL:
        methods.check(config)
    else:
        assert refusal(config).startswith(f"{key} must be")


@pytest.mark.parametrize("name, key", KEYS)
def test_one_or_several(name, key):
    """Point 17: a number where there may be several is refused, and the reverse."""
    several = isinstance(leaves(load(name))[key], tuple)
    value, words = (3, "a tuple of numbers") if several else ([3], "one number")
    message = refusal(changed(name, key, value, wrap=False))
    assert message.startswith(f"{key} must be {words}, not ")


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("digits", {"sample.num_steps": 21}, r"sample.num_steps .* 1\.\.20 \(diffus"),
        (
            "digits",
            {"eval.sweep.num_steps": (5, 21)},
            r"eval.sweep.num_steps .*1\.\.20",
        ),
        (
            "digits",
            {"sample.num_frames": 6},
            r"sample.num_frames .*0\.\.5 \(sample.num",
        ),
        ("digits", {"eval.num_terms": 20}, r"eval.num_terms .*1\.\.19 .*timesteps - 1"),
        ("digits", {"diffusion.num_timesteps": 4}, r"sample.num_steps .*1\.\.4"),
        (
            "digits_vae",
            {"optim.decay_end": 3},
            "optim.decay_end = 3 .*train.num_steps = 4.*set optim.decay_end to 4 or",
        ),
        ("digits_vae", {"optim.decay_start": 4}, "decay_start = 4.*decay_end = 4"),
        ("digits_vae", {"optim.warmup_steps": 3}, "decay_start = 2.*warmup_steps = 3"),
        ("digits_vae", {"model.num_latents": -1}, "model.num_latents.*at least 1"),
        ("digits_classifier", {"model.channels": ()}, "model.channels.*one value"),
        ("digits", {"model.channel_multipliers": ()}, "channel_multipliers.*one value"),
        ("digits", {"optim.ema_decay": 1 - 1e-12}, r"optim.ema_decay.*\[0, 1\)"),
        ("digits", {"optim.learning_rate": 1e-50}, "optim.learning_rate.*above 0"),
        ("digits_gan", {"model.num_classes": 1}, "num_classes.*2 or more.*not 1"),
    ],
    ids=str,
)
def test_numbers_that_depend_on_others(name, changes, words):
    """Point 17: numbers that contradict each other, sequences that are empty, and
    numbers that float32 rounds to the end of their range are refused by their key, in
    training too, whether or not anything is drawn or evaluated."""
    config = load(name)
    config.update_from_flattened_dict(changes)
    config.train.update(sample_every=0, evaluate_every=0)
    assert re.search(words, refusal(config))


@pytest.mark.parametrize(
    "key, value",
    [
        ("optim.clip_norm", 0.0),
        ("optim.clip_norm", -1.0),
        ("optim.learning_rate", 0.0),
        ("model.dropout", 1.0),
        ("optim.ema_decay", -0.1),
        ("train.num_steps", -5),
        ("train.save_every", -1),
        ("sample.num_examples", 0),
        ("sample.seed", 2**32),
    ],
)
def test_nothing_is_run(key, value, tmp_path):
    """Point 17: training refuses before it compiles or writes anything."""
    config = load("digits")
    config.update_from_flattened_dict({key: value})
    with Compiled() as names, pytest.raises(ValueError, match=f"{key} must"):
        train(config, tmp_path / "run")
    assert not names and not (tmp_path / "run").exists()


def test_more_classes_than_the_data(caplog):
    """Point 17: classes that no example has are said in a sentence."""
    config = load("digits_dcgan", model__num_classes=12)
    fields = run_config.stored_fields(config, pathlib.Path("nosuch"))
    fields["label"] = fields["label"]._replace(size=10)
    methods.make(config, fields)
    assert "model.num_classes = 12 is more than the 10 classes" in caplog.text
    caplog.clear()
    config.model.num_classes = 10
    methods.make(config, fields)
    assert not caplog.text
