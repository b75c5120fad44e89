"""The configs: what they hold, and what they refuse; test_families trains them."""

import ast
import inspect
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from smoke import CONFIGS, load

from diffusion_jax import main, methods, planning, run_config
from diffusion_jax.data.base import label_field
from diffusion_jax.data.survey import Survey
from diffusion_jax.data.texts import tokens_field
from diffusion_jax.data.vocabulary import Vocabulary
from diffusion_jax.training_loop import train

GROUPS = ["data", "model", "optim", "train", "sample", "eval"]
OWN_GROUP = {
    "ddpm": ["diffusion"],
    "cascade": ["diffusion", "upsampler", "cascade"],
    "autoencoder": ["autoencoder"],
    "vae": ["vae"],
    "dvae": ["dvae"],
    "dalle": ["dalle", "dvae_model", "dvae"],
    "gan": ["gan"],
    "cyclegan": ["cyclegan"],
    "pix2pix": ["pix2pix"],
    "classifier": [],
    "contrastive": [],
    "language_model": [],
    "seq2seq": ["seq2seq"],
}
# What the commands and the launch scripts read, for every family.
ALL_HAVE = """data.source data.train_split data.batch_size model.name
    optim.learning_rate
    optim.ema_decay train.num_steps train.log_every train.save_every train.keep
    train.evaluate_every train.sample_every sample.checkpoint eval.checkpoint
    eval.metric eval.split eval.batch_size eval.sweep eval.seed seed""".split()
OF_DATA = {  # and of each kind of data
    "image_size": "data_dir num_channels flip".split(),
    "context": "vocabulary vocabulary_size packed held_out".split(),
    "target_vocabulary": """vocabulary vocabulary_size max_length bucketed
        held_out""".split(),
}
# Ho et al. 2020, appendix B and table 6: name -> values; intervals as in their code.
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
    "optim.decay_end": None,
    "optim.b1": 0.9,
    "optim.b2": 0.999,
    "optim.eps": 1e-8,
    "optim.clip": "per_replica",
    "optim.clip_norm": 1.0,
    "optim.ema_decay": 0.9999,
    "optim.ema_warmup": False,
    "sample.sampler": "ancestral",
    "sample.num_steps": 1000,
    "sample.thresholding": "static",
}
PAPER = {
    "cifar10": BOTH | CIFAR10,
    "celeba_hq256": BOTH | BIG | {"train.num_steps": 500_000},
    "lsun_bedroom256": BOTH | BIG | {"train.num_steps": 2_400_000, "data.flip": False},
    "lsun_cat256": BOTH | BIG | {"train.num_steps": 1_800_000},
    "lsun_church256": BOTH | BIG | {"train.num_steps": 1_200_000},
}
# Radford et al. 2016, section 4: noise of 100, width 128, plain Adam.
DCGAN = {
    "data.image_size": 64,
    "data.batch_size": 128,
    "model.name": "dcgan",
    "model.width": 128,
    "model.disc_norm": "batch",
    "model.num_classes": 0,
    "gan.loss": "non_saturating",
    "gan.gradient_penalty": 0.0,
    "gan.r1": 0.0,
    "gan.critic_steps": 1,
    "gan.num_latents": 100,
    "optim.learning_rate": 2e-4,
    "optim.disc_learning_rate": 2e-4,
    "optim.decay_start": None,
    "optim.b1": 0.5,
}
# Zhu et al. 2017, section 4 and appendix 7: 100 epochs and 100 of linear decay.
CYCLEGAN = {
    "data.image_size": 256,
    "data.batch_size": 1,
    "model.name": "resnet",
    "model.base_channels": 64,
    "model.num_blocks": 9,
    "model.num_downsamplings": 2,
    "model.disc_channels": 64,
    "model.disc_layers": 3,
    "cyclegan.loss": "least_squares",
    "cyclegan.cycle_weight": 10.0,
    "cyclegan.identity_weight": 0.5,
    "cyclegan.pool_size": 50,
    "optim.learning_rate": 2e-4,
    "optim.b1": 0.5,
    "optim.b2": 0.999,
    "optim.ema_decay": 0.0,
}
PAPER |= {
    "celeba_dcgan64": DCGAN,
    "horse2zebra_cyclegan": CYCLEGAN,
    "photo2vangogh_cyclegan": CYCLEGAN,
}
CYCLEGAN_SIZE = 2 * 11_378_179 + 2 * 2_764_737  # as its authors' code prints them
# By hand. A DCGAN's layers have 16 weights a pair of channels, and two numbers a
# normalised channel: at 64 pixels those of G, then those of D.
SIZES = dict.fromkeys([name for name, x in PAPER.items() if "model.dropout" in x])
SIZES = dict.fromkeys(SIZES, 113_673_219) | {
    "cifar10": 35_746_307,
    "celeba_dcgan64": 16 * (100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    + 2 * (1024 + 512 + 256 + 128)
    + 16 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024)
    + 2 * (256 + 512 + 1024),
    # Vaswani et al. 2017, table 3, say 65M: embeddings, attentions, MLPs and norms
    "transformer_base": 37_000 * 512
    + 18 * 4 * (512 + 1) * 512
    + 12 * ((512 + 1) * 2048 + (2048 + 1) * 512)
    + (6 * 2 + 6 * 3) * 2 * 512,
    "gpt1": (40478 + 512 + 12 * (12 * 768 + 13) + 2) * 768,  # the paper's 117M
    "horse2zebra_cyclegan": CYCLEGAN_SIZE,
    "photo2vangogh_cyclegan": CYCLEGAN_SIZE,
    # 784-500-20-500-784, with a mean and a log-variance
    "mnist_vae": 785 * 500 + 2 * 501 * 20 + 21 * 500 + 501 * 784,
    "fashion_mnist_vae": 785 * 500 + 2 * 501 * 20 + 21 * 500 + 501 * 784,
    # Foster 2019, chapter 3: convolutions of 32, 64, 64, 64, and back from 7x7x64
    "fashion_mnist_autoencoder": (9 + 1) * 32
    + (9 * 32 + 1) * 64
    + 2 * (9 * 64 + 1) * 64
    + (3136 + 1) * 2
    + (2 + 1) * 3136
    + 2 * (9 * 64 + 1) * 64
    + (9 * 64 + 1) * 32
    + (9 * 32 + 1),
}
UNKNOWN = """method data.source model.name optim.clip sample.sampler sample.spacing
    sample.thresholding diffusion.schedule diffusion.prediction diffusion.loss
    diffusion.variance diffusion.timestep_sampler""".split()

# The data and the machine of configs that leave values open.
PICTURES = Survey(5000, "test", 100, 100, same_size=False, grey=False, num_classes=2)
MACHINE = planning.Machine(is_cpu=True, num_devices=1)
# Files whose variants are of several families: variant -> the function that sets it.
VARIANTS = {
    "folder": {
        "": "diffusion",
        "vae": "vae",
        "dcgan": "dcgan",
        "cyclegan": "between_folders",
        "classifier": "classifier",
    }
}

each_config = pytest.mark.parametrize("name", CONFIGS)


def value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def keys_of(node, prefix=""):
    """The dotted keys of all values in a group."""
    if not hasattr(node, "keys"):
        return {prefix}
    return {prefix}.union(*(keys_of(node[k], f"{prefix}.{k}") for k in node.keys()))


def make(config):
    """The method of a config, without its data; the command line locks configs."""
    if planning.open_keys(config):
        for key, planned, _ in planning.plan(config, PICTURES, MACHINE):
            config.update_from_flattened_dict({key: planned})
    config.lock()
    is_bpe = config.data.get("vocabulary") == "bpe"
    size = config.data.vocabulary_size - 2 if is_bpe else 94
    letters = Vocabulary("characters", tuple(chr(i) for i in range(33, 33 + size)))
    data = methods.FAMILIES[config.method].data
    if data == "text":
        fields = {"tokens": tokens_field(config.data.context + 1, letters)}
    elif data == "pairs":
        fields = {name: tokens_field(9, letters) for name in ("source", "target")}
    else:
        fields = run_config.stored_fields(config, pathlib.Path("nosuch"))
        fields["caption"] = tokens_field(6, letters)
        if config.data.source.startswith(("low_res:", "paired:")):
            fields["cond_image"] = fields["image"]
        further = config.model.get("labels", ())[1:]
        fields |= {label: label_field(3) for label in further}
    return methods.make(config, fields)


@each_config
def test_form(name):
    """A config states its command, and has known groups and keys in each variant."""
    docstring = CONFIGS[name].read_text().split('"""')[1]
    command = f"-m diffusion_jax.main --config=configs/{name}.py"
    assert command in docstring or f"launch/local.sh configs/{name}.py" in docstring
    full, tiny = load(name, ""), load(name)
    assert (full.name, tiny.name) == (name, f"{name}_tiny")
    for config in (full, tiny):
        assert config.is_type_safe
        groups = [*GROUPS, *OWN_GROUP[config.method]]
        assert sorted(config) == sorted(["name", "seed", "method", *groups])
        run_config.check_keys(config, ALL_HAVE)
        (of_data,) = (keys for first, keys in OF_DATA.items() if first in config.data)
        run_config.check_keys(config, [f"data.{key}" for key in of_data])
    assert keys_of(full) == keys_of(tiny)  # a variant changes values, not keys
    with pytest.raises(ValueError, match="'huge'.*tiny"):
        load(name, "huge")


def keys_set_by(path, function):
    """The dotted keys that a function of a config file sets by = or by update(...)."""
    keys, tree = [], ast.parse(path.read_text())
    (body,) = [x for x in tree.body if getattr(x, "name", "") == function]
    for node in ast.walk(body):
        if isinstance(node, ast.Assign):
            keys += [ast.unparse(target) for target in node.targets]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".update"):
            group = ast.unparse(node.func).removesuffix("update")
            assert not node.args
            keys += [group + keyword.arg for keyword in node.keywords]
    return [key.removeprefix("config.") for key in keys if key.startswith("config.")]


def defaults_of(config):
    """The defaults of a config's family; those of its network, where it has several."""
    make = methods.FAMILIES[config.method].defaults
    has_networks = "network" in inspect.signature(make).parameters
    return make(config.model.name) if has_networks else make()


EACH_FUNCTION = [
    (name, *x)
    for name in CONFIGS
    for x in VARIANTS.get(name, {"": "get_config"}).items()
]


@pytest.mark.parametrize("name, variant, function", EACH_FUNCTION)
def test_config_is_thin(name, variant, function):
    """A config sets only what differs from its family's defaults, and nothing twice."""
    config = load(name, variant)
    keys, defaults = keys_set_by(CONFIGS[name], function), defaults_of(config)
    assert "name" in keys and len(keys) + len(planning.open_keys(config)) > 3
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert value(config, key) != value(defaults, key), f"{key} is the default"


def test_configs_are_short():
    """Configs have fewer than 32 lines on average; those of a file are counted."""
    lines = [path.read_text().count("\n") for path in CONFIGS.values()]
    assert sum(lines) < 32 * len(EACH_FUNCTION)


def test_configs_agree_on_keys():
    """All configs of a family have the same keys; in the group model, all with the same
    network."""
    first = {}
    for name in CONFIGS:
        config = load(name, "")
        keys = keys_of(config)
        of_model = {key for key in keys if key.startswith(".model.")}
        family, network = config.method, (config.method, config.model.name)
        assert keys - of_model == first.setdefault(family, keys - of_model), name
        assert of_model == first.setdefault(network, of_model), name
    assert {name for name in first if isinstance(name, str)} == set(methods.FAMILIES)


@pytest.mark.parametrize("name", ["digits", "horse2zebra_cyclegan"])
def test_mode_config(name, capsys, tmp_path):
    """--mode=config prints every value of the resolved config, and runs nothing."""
    config = load(name, "").copy_and_resolve_references()
    main.MODES["config"](config, tmp_path / "run", tmp_path / "run")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(config.to_dict()))
    assert not (tmp_path / "run").exists()


@each_config
def test_full_config_builds(name):
    """The factories take every value, and the network has the published size."""
    config = load(name, "")
    variables, _ = jax.eval_shape(make(config).init, jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.params))
    if name in SIZES:
        assert size == SIZES[name]
    if config.method == "ddpm" and name in SIZES:
        assert f"{size:,}" in CONFIGS[name].read_text()


@pytest.mark.parametrize("name", PAPER)
def test_values_of_the_paper(name):
    """The reproductions hold the values of the paper and of its authors' code."""
    config = load(name, "")
    for key, expected in PAPER[name].items():
        assert value(config, key) == expected, key


def test_dcgan_starts_as_in_the_paper():
    """Section 4: every convolution's weights are draws of N(0, 0.02^2)."""
    config = load("celeba_dcgan64", "")
    config.model.width = 16  # enough draws: the standard error is 2.6% at most
    variables, _ = jax.jit(make(config).init)(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.params):
        if leaf.ndim == 4:
            where = jax.tree_util.keystr(path)
            assert np.std(leaf) == pytest.approx(0.02, rel=0.1), where
            assert abs(np.mean(leaf)) < 0.02 * 6 / np.sqrt(leaf.size), where


@pytest.mark.parametrize("name", [x for x in PAPER if x.endswith("cyclegan")])
def test_cyclegan_decays_over_the_second_half(name):
    """The rate falls in a straight line over the second half, to 0 at the end."""
    config = load(name, "")
    assert config.optim.decay == "linear"
    assert config.optim.decay_end == config.train.num_steps
    assert 2 * config.optim.decay_start == config.optim.decay_end


@pytest.mark.parametrize("group", ["model", "optim"])
def test_surplus_key_is_an_error(group):
    """A group is the keyword arguments of one factory, which refuses a wrong key."""
    config = load("digits")
    with config.unlocked():
        config[group].nosuch = 1
    with pytest.raises(TypeError, match="nosuch"):
        make(config)


@pytest.mark.parametrize("key", ["model.dropout", "optim.b1", "diffusion.loss"])
def test_missing_key_is_an_error(key):
    """No other file has defaults."""
    config = load("digits")
    with config.unlocked():
        del config[key.split(".")[0]][key.split(".")[1]]
    with pytest.raises((TypeError, AttributeError), match=key.split(".")[1]):
        make(config)


@pytest.mark.parametrize("key", UNKNOWN)
def test_unknown_name_is_refused(key, tmp_path):
    """An unknown name is refused with the known ones; nothing is run."""
    config = load("digits")
    known = value(config, key)
    config.update_from_flattened_dict({key: "nosuch"})
    with pytest.raises(ValueError, match=rf"'nosuch'.*Known: .*\b{known}\b.*\."):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample.num_steps": 21}, r"num_steps.*1\.\.20"),
        ({"sample.eta": 2.0}, "eta.*2"),
        ({"sample.num_frames": 6}, "5 frames|frames.*5"),
        ({"eval.num_terms": 20, "train.evaluate_every": 2}, r"num_terms.*1\.\.19"),
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
    config = load("cifar10")
    config.sample.sampler = "ddim"
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=words):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
