"""Two stages: the second run's checkpoint holds a frozen group of the first run."""

import dataclasses
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import methods, run_config, runs
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.training import optimizers
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.state import Loss, Phase, Variables, trace_initial
from diffusion_jax.training_loop import train


@dataclasses.dataclass(frozen=True)
class Stages(base.Method):
    """A linear encoder and decoder in group "encoder"; "head" reads its latents."""

    phases: tuple[Phase, ...]

    def init(self, key):
        keys = jax.random.split(key)
        x, z = jnp.zeros((1, 64)), jnp.zeros((1, 2))
        params = {"encoder": nn.Dense(2).init(keys[0], x)["params"]}
        params["head"] = nn.Dense(10).init(keys[1], z)["params"]
        return Variables(params, {}), ()

    def loss(self, phase, variables, aux, batch, key, step):
        x = batch["image"].reshape(len(batch["image"]), -1)
        z = nn.Dense(2).apply({"params": variables.params["encoder"]}, x)
        y = nn.Dense(10).apply({"params": variables.params["head"]}, z)
        if phase == "encoder":
            return Loss(jnp.mean(jnp.square(jnp.mean(z, axis=1) - jnp.mean(x, axis=1))))
        target = jax.nn.one_hot(batch["label"], 10)
        return Loss(jnp.mean(jnp.square(y - target)))


def make(config, fields):
    """data.train_phase says which group this run trains; the other one is frozen."""
    group = config.stages.trains
    optimizer = optimizers.make(**config.optim)
    return Stages((Phase(group, (group,), optimizer),))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """The first stage, and the second one from it; both of three steps."""
    patch = pytest.MonkeyPatch()
    patch.setitem(
        methods.FAMILIES, "stages", base.Family(make, lambda: config_of("head"), {})
    )
    first, second = (tmp_path_factory.mktemp(x) / "run" for x in ("first", "second"))
    train(config_of("encoder"), first)
    train(config_of("head", f"encoder={first}"), second)
    yield first, second
    patch.undo()


def config_of(trains, init_from=""):
    config = common.defaults("stages")
    config.model, config.stages = {}, {"trains": trains}
    config.data.batch_size = 8
    config.optim.ema_decay = 0.5
    config.train.update(num_steps=3, save_every=1, log_every=1, init_from=init_from)
    return config


def state_of(config, workdir, step):
    method = methods.make(config, run_config.stored_fields(config, workdir))
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    return checkpoints.restore(trace_initial(method).out_info, step)


def test_a_frozen_group_is_copied_and_never_changes(workdirs):
    """From step 0 on the second run holds the first run's averaged encoder, in its
    parameters and their average, while its own group is trained."""
    first, second = workdirs
    encoder = state_of(config_of("encoder"), first, 3).ema["encoder"]
    for step in (1, 3):
        state = state_of(config_of("head"), second, step)
        for group in (state.params["encoder"], state.ema["encoder"]):
            jax.tree.map(np.testing.assert_array_equal, group, encoder)
        assert set(state.opt_state) == {"head"}
    heads = [state_of(config_of("head"), second, n).params["head"] for n in (1, 3)]
    assert not np.array_equal(heads[0]["kernel"], heads[1]["kernel"])


def test_the_second_checkpoint_is_all_that_is_needed(workdirs, tmp_path):
    """Without the first run the second one is loaded and resumed."""
    first, second = workdirs
    elsewhere = tmp_path / "run"
    shutil.copytree(second, elsewhere)
    config = config_of("head", f"encoder={tmp_path}/gone")
    run = runs.load(config, elsewhere, "last")
    assert run.step == 3 and set(run.variables.params) == {"encoder", "head"}
    config.train.num_steps = 4
    train(config, elsewhere)
    kept = [state_of(config, elsewhere, n).params["encoder"]["kernel"] for n in (3, 4)]
    np.testing.assert_array_equal(*kept)
