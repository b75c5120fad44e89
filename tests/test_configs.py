"""The configs: what they hold, what they refuse, and that each of them trains."""

import importlib.util
import math
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import methods, runs
from diffusion_jax.train import train

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {path.stem: path for path in sorted(ROOT.glob("configs/*.py"))}
GROUPS = ["method", "data", "model", "diffusion", "optim", "train", "sample", "eval"]
SCRIPTS_RELY_ON = """data.source data.batch_size diffusion.schedule model.base_channels
    train.num_steps train.save_every optim.learning_rate optim.ema_decay seed""".split()
# Ho et al. 2020, appendix B and table 6: name -> values; times in their code's words.
CIFAR10 = {
    "data.image_size": 32,
    "data.batch_size": 128,
    "data.flip": True,
    "model.channel_multipliers": (1, 2, 2, 2),
    "model.dropout": 0.1,
    "diffusion.variance": "fixedlarge",
    "optim.learning_rate": 2e-4,
    "train.num_steps": 800_000,
}
BIG = {
    "data.image_size": 256,
    "data.batch_size": 64,
    "data.flip": True,
    "model.channel_multipliers": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "diffusion.variance": "fixedsmall",
    "optim.learning_rate": 2e-5,
}
BOTH = {
    "model.base_channels": 128,
    "model.num_blocks": 2,
    "model.attention_resolutions": (16,),
    "diffusion.schedule": "linear",
    "diffusion.num_timesteps": 1000,
    "diffusion.prediction": "eps",
    "diffusion.loss": "simple",
    "optim.warmup_steps": 5000,
    "optim.decay_steps": None,
    "optim.b1": 0.9,
    "optim.b2": 0.999,
    "optim.eps": 1e-8,
    "optim.clip": "per_replica",
    "optim.clip_norm": 1.0,
    "optim.ema_decay": 0.9999,
    "optim.ema_warmup": False,
    "sample.sampler": "ancestral",
    "sample.num_steps": 1000,
    "sample.clip": "static",
}
PAPER = {
    "cifar10": BOTH | CIFAR10 | {"parameters": 35_746_307},
    "celeba_hq256": BOTH | BIG | {"train.num_steps": 500_000},
    "lsun_bedroom256": BOTH | BIG | {"train.num_steps": 2_400_000, "data.flip": False},
    "lsun_cat256": BOTH | BIG | {"train.num_steps": 1_800_000},
    "lsun_church256": BOTH | BIG | {"train.num_steps": 1_200_000},
}
UNKNOWN = """method data.source model.name optim.clip sample.sampler sample.spacing
    sample.clip diffusion.schedule diffusion.prediction diffusion.loss
    diffusion.variance diffusion.time_draw""".split()

each_config = pytest.mark.parametrize("name", CONFIGS)


def load(name, variant=""):
    spec = importlib.util.spec_from_file_location(name, CONFIGS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


@each_config
def test_form(name):
    """A config is a short file that says its name and command, with known groups."""
    text = CONFIGS[name].read_text()
    assert text.count("\n") <= 120
    docstring = text.split('"""')[1]
    command = f"-m diffusion_jax.main --config=configs/{name}.py"
    assert command in docstring or f"launch/local.sh configs/{name}.py" in docstring
    full, tiny = load(name), load(name, "tiny")
    assert (full.name, tiny.name) == (name, f"{name}_tiny")
    for config in (full, tiny):
        assert config.is_type_safe
        assert sorted(config) == sorted(["name", "seed", *GROUPS])
        runs.check_keys(config, SCRIPTS_RELY_ON)
    for group in GROUPS[1:]:  # a variant changes values, not keys
        assert list(full[group]) == list(tiny[group]), group
    with pytest.raises(ValueError, match="'huge'.*tiny"):
        load(name, "huge")


def test_configs_agree_on_keys():
    """What can be set in one config can be set in every other."""
    digits = load("digits")
    for name in CONFIGS:
        for group in GROUPS[1:]:
            assert set(load(name)[group]) == set(digits[group]), (name, group)


@each_config
def test_full_config_builds(name):
    """The factories take every value, and the network is of the published size."""
    config = load(name)
    method = methods.make(config)
    params, _, _ = jax.eval_shape(method.init, jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    if name in PAPER:
        assert size == PAPER[name].get("parameters", 113_673_219)
    assert f"{size:,}" in CONFIGS[name].read_text() or name not in PAPER


@pytest.mark.parametrize("name", PAPER)
def test_values_of_the_paper(name):
    """The reproductions hold what the paper and its authors' code say."""
    config = load(name)
    for key, expected in PAPER[name].items():
        if key != "parameters":
            assert value(config, key) == expected, key


@pytest.mark.parametrize("group", ["model", "optim"])
def test_surplus_key_is_an_error(group):
    """A group is the keyword arguments of one factory: a wrong key is refused by it."""
    config = load("digits", "tiny")
    with config.unlocked():
        config[group].nosuch = 1
    with pytest.raises(TypeError, match="nosuch"):
        methods.make(config)


@pytest.mark.parametrize("key", ["model.dropout", "optim.b1", "diffusion.loss"])
def test_missing_key_is_an_error(key):
    """There are no defaults beside the configs."""
    config = load("digits", "tiny")
    with config.unlocked():
        del config[key.split(".")[0]][key.split(".")[1]]
    with pytest.raises((TypeError, AttributeError), match=key.split(".")[1]):
        methods.make(config)


@pytest.mark.parametrize("key", UNKNOWN)
def test_unknown_name_is_refused(key, tmp_path):
    """A choice by an unknown name is refused with the known ones; nothing is run."""
    config = load("digits", "tiny")
    known = value(config, key)
    config.update_from_flattened_dict({key: "nosuch"})
    with pytest.raises(ValueError, match=rf"nosuch.*\b{known}\b"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample.num_steps": 21}, r"num_steps.*1\.\.20"),
        ({"sample.eta": 2.0}, "eta.*2"),
        ({"sample.num_frames": 6}, "5 frames|frames.*5"),
        ({"eval.num_terms": 20}, r"num_terms.*1\.\.19"),
        ({"diffusion.num_timesteps": 1}, "num_timesteps"),
        ({"diffusion.schedule": "jsd"}, "eps.*x0, v or mu"),
        ({"optim.ema_decay": 1.0}, "ema_decay"),
        ({"data.image_size": 16}, "16x16"),
        ({"data.train_split": "nosuch"}, "nosuch.*train"),
        ({"data.batch_size": 12}, "data.batch_size.*8 devices"),
        ({"data.batch_size": 0}, "batch_size"),
        ({"model.channel_multipliers": (1, 1, 1, 1, 1)}, "channel_multipliers"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_impossible_value_is_refused(change, words, tmp_path):
    """What cannot work is refused before there is a workdir."""
    config = load("cifar10", "tiny")
    config.sample.sampler = "ddim"
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=words):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@each_config
def test_tiny_trains_and_samples(name, tmp_path):
    """Every config at :tiny trains for two steps and draws finite pictures."""
    config = load(name, "tiny")
    config.train.num_steps = 2
    train(config, tmp_path)
    assert Image.open(tmp_path / "samples/00000002.png").size == (136, 136)
    method, state = runs.load(config, tmp_path, "last")
    assert int(state.step) == 2
    drawn = methods.make_draw(method, config.sample.batch_size)(state, 3, seed=0)
    assert drawn["image"].shape == (3, 8, 8, 1)
    assert np.all(np.isfinite(drawn["image"]))
