"""Laws of CycleGAN, for generators and discriminators that multiply by a number."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import config_of, images, make, task_of

from diffusion_jax import methods
from diffusion_jax.data.base import image_field
from diffusion_jax.objectives.adversarial import GAN_LOSSES
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Variables
from diffusion_jax.training.step import make_train_step

KEY = jax.random.key(7)
STEP = jnp.int32(0)
BATCH_SIZE, NUM_DEVICES = 8, 2
FACTORS = {"ab": 0.5, "ba": 1.5, "da": 0.8, "db": -0.6}


class Scale(nn.Module):
    """y = c x; as a discriminator it returns a score for every pixel."""

    patches: bool = False

    @nn.compact
    def __call__(self, x):
        y = self.param("c", nn.initializers.ones, ()) * x
        return y[..., 0] if self.patches else y


VARIABLES = Variables({k: {"c": jnp.float32(c)} for k, c in FACTORS.items()}, {})


@functools.cache
def method_of(identity_weight=0.5, pool_size=16, loss="least_squares"):
    """A CycleGAN of those networks, for eight pairs a step."""
    method = make(
        "digits_cyclegan",
        cyclegan__identity_weight=identity_weight,
        cyclegan__pool_size=pool_size,
        cyclegan__loss=loss,
        cyclegan__cycle_weight=10.0,
    )
    return dataclasses.replace(method, generator=Scale(), discriminator=Scale(True))


def batch_of(n=BATCH_SIZE, first=0):
    index = np.arange(first, first + n).astype(np.int32)  # wraps around
    return {"index": index, "image_a": images(n, seed=3), "image_b": images(n, seed=4)}


def aux_of(method):
    """The pools, and given images as their last outputs."""
    _, aux = method.init(KEY)
    shown = {name: images(BATCH_SIZE, seed=seed) for seed, name in enumerate("ab")}
    return {name: aux[name] | {"shown": jnp.asarray(shown[name])} for name in "ab"}


def loss_of(method, phase, aux, batch):
    return method.loss(phase, VARIABLES, aux, batch, KEY, STEP)


def generators_by_hand(batch, identity_weight, gan_loss=GAN_LOSSES["least_squares"]):
    """Zhu et al. 2017, equations 1 to 3, term by term."""
    a, b = (batch[f"image_{name}"].astype(np.float64) for name in "ab")
    ab, ba, da, db = FACTORS.values()
    adversarial = float(np.mean(gan_loss.generator(db * ab * a)))
    adversarial += float(np.mean(gan_loss.generator(da * ba * b)))
    cycle = np.abs(ba * ab * a - a).mean() + np.abs(ab * ba * b - b).mean()
    same = np.abs(ab * b - b).mean() + np.abs(ba * a - a).mean()
    terms = {"adversarial": adversarial, "cycle": cycle, "identity": same}
    return adversarial + 10 * cycle + 10 * identity_weight * same, terms


def discriminators_by_hand(batch, shown, gan_loss=GAN_LOSSES["least_squares"]):
    """The sum of both losses, each between real images and the pool's output."""
    total = 0.0
    for name, group in (("a", "da"), ("b", "db")):
        real, fake = (
            FACTORS[group] * batch[f"image_{name}"],
            FACTORS[group] * shown[name],
        )
        total += float(np.mean(gan_loss.discriminator(real, fake)))
    return total


@pytest.mark.parametrize("loss", ["least_squares", "non_saturating", "wasserstein"])
@pytest.mark.parametrize("identity_weight", [0.0, 0.5])
def test_generators_by_hand(loss, identity_weight):
    """The adversarial losses, 10 times the cycle loss, and 10 times the identity weight
    times the identity loss; at weight 0 the last does not exist."""
    method, batch = method_of(identity_weight, loss=loss), batch_of()
    found = loss_of(method, "gen", (), batch)
    expected, terms = generators_by_hand(batch, identity_weight, GAN_LOSSES[loss])
    assert found.value == pytest.approx(expected, rel=1e-5)
    if not identity_weight:
        del terms["identity"]
    assert jax.tree.map(float, found.metrics) == pytest.approx(terms, rel=1e-4)


@pytest.mark.parametrize("identity_weight, calls", [(0.0, 4), (0.5, 6)])
def test_identity_costs_nothing_at_weight_0(identity_weight, calls):
    """The generators run there and back for each domain, and once more for the identity
    loss only if it has a weight."""
    seen = []

    class Counting(Scale):
        @nn.compact
        def __call__(self, x):
            seen.append(1)
            return self.param("c", nn.initializers.ones, ()) * x

    method = dataclasses.replace(method_of(identity_weight), generator=Counting())
    loss_of(method, "gen", (), batch_of())
    assert len(seen) == calls


@pytest.mark.parametrize("first", [0, 5 * BATCH_SIZE, 2**31 - BATCH_SIZE, 2**32 - 8])
def test_discriminators_see_the_pools_output(first):
    """Real pair number index is compared with the pools' output at its position in the
    batch, on whichever device: for shards too, and after the index has wrapped."""
    method, batch = method_of(), batch_of(first=first)
    aux = aux_of(method)
    values = []
    for part in (slice(0, 4), slice(4, 8)):
        shard = {name: x[part] for name, x in batch.items()}
        shown = {name: np.asarray(aux[name]["shown"][part]) for name in "ab"}
        loss = loss_of(method, "disc", aux, shard)
        values.append(float(loss.value))
        assert values[-1] == pytest.approx(
            discriminators_by_hand(shard, shown), rel=1e-5
        )
        assert loss.observed is None
        assert loss.metrics.keys() == {"accuracy_real", "accuracy_fake"}
    shown = {name: np.asarray(aux[name]["shown"]) for name in "ab"}
    whole = discriminators_by_hand(batch, shown)
    assert np.mean(values) == pytest.approx(whole, rel=1e-5)


@functools.cache
def stepped(names=("gen", "disc")):
    """The states before and after one step of those phases on two devices."""
    method = method_of(0.0)
    phases = tuple(phase for phase in method.phases if phase.name in names)
    params = VARIABLES.params
    before = states.initial(method, KEY).replace(params=params, ema=params)
    step = make_train_step(dataclasses.replace(method, phases=phases), parallel.AXIS)
    shards = {
        k: x.reshape(NUM_DEVICES, -1, *x.shape[1:]) for k, x in batch_of().items()
    }
    devices = jax.vmap(step, (None, 0), (None, 0), axis_name=parallel.AXIS)
    after, metrics = jax.jit(devices)(before, shards)
    return before, after, jax.tree.map(lambda x: x[0], metrics)


def test_a_step():
    """The generators are updated first; pools that are not full return the images that
    they made before the update; the discriminators see these on both devices. All by
    hand."""
    _, after, metrics = stepped()
    batch = batch_of()
    expected, _ = generators_by_hand(batch, 0.0)
    assert metrics["gen/loss"] == pytest.approx(expected, rel=1e-5)
    made = {
        "a": FACTORS["ba"] * batch["image_b"],
        "b": FACTORS["ab"] * batch["image_a"],
    }
    assert metrics["disc/loss"] == pytest.approx(
        discriminators_by_hand(batch, made), rel=1e-5
    )
    for name in "ab":
        np.testing.assert_allclose(after.aux[name]["shown"], made[name], rtol=1e-6)
        pool = after.aux[name]["pool"]
        assert pool.count == BATCH_SIZE
        np.testing.assert_allclose(pool.images[:BATCH_SIZE], made[name], rtol=1e-6)


@pytest.mark.parametrize(
    "phase, mine, others",
    [("gen", ("ab", "ba"), ("da", "db")), ("disc", ("da", "db"), ("ab", "ba"))],
)
def test_phases_change_only_their_own_groups(phase, mine, others):
    """A phase changes its own networks, averages and optimiser, and nothing of the
    other's, bit for bit; only the generators put images into the pools."""
    before, after, _ = stepped((phase,))
    (other,) = {"gen", "disc"} - {phase}
    jax.tree.map(
        np.testing.assert_array_equal, before.opt_state[other], after.opt_state[other]
    )
    for part in ("params", "ema"):
        old, new = getattr(before, part), getattr(after, part)
        assert all(old[group]["c"] == new[group]["c"] for group in others)
        assert all(old[group]["c"] != new[group]["c"] for group in mine)
    count = 0 if phase == "disc" else BATCH_SIZE
    assert after.aux["a"]["pool"].count == after.aux["b"]["pool"].count == count


def test_pools_draw_independently():
    """The two domains swap other images than each other; a full pool returns images of
    the step before, and nothing changes after the discriminators' phase."""
    method = method_of(pool_size=BATCH_SIZE)
    after_step = jax.jit(lambda aux, made: method.after_step(VARIABLES, aux, made)[1])
    keys = jax.random.key_data(jax.random.split(KEY, BATCH_SIZE))
    numbers = np.arange(BATCH_SIZE, dtype=np.float32).reshape(-1, 1, 1, 1)
    made = np.broadcast_to(numbers, (BATCH_SIZE, 8, 8, 1))
    _, aux = method.init(KEY)
    aux = after_step(aux, {"a": made, "b": made, "keys": keys})
    aux = after_step(aux, {"a": made + 100, "b": made + 100, "keys": keys})
    shown = {name: np.asarray(aux[name]["shown"])[:, 0, 0, 0] for name in "ab"}
    old = {name: x < 100 for name, x in shown.items()}
    assert all(0 < x.sum() < BATCH_SIZE for x in old.values())
    assert np.any(old["a"] != old["b"])
    assert method.after_step(VARIABLES, aux, None) == ({}, aux)


def test_translate():
    """There and back by hand: each domain's images, translations and ways back."""
    batch = batch_of()
    task = task_of("digits_cyclegan", method_of(), "translate")
    assert task.inputs == ("image_a", "image_b")
    rows = task.run(VARIABLES, batch, KEY)["rows"]
    assert rows.shape[1:] == task.outputs["rows"].shape
    a, b, back = batch["image_a"], batch["image_b"], FACTORS["ab"] * FACTORS["ba"]
    expected = [a, 0.5 * a, back * a, b, 1.5 * b, back * b]
    np.testing.assert_allclose(rows, np.stack(expected, axis=1), rtol=1e-5)


def test_networks_have_their_own_weights():
    """The two generators, and the two discriminators, are initialised differently."""
    networks = {"generator": nn.Dense(1), "discriminator": nn.Dense(1)}
    method = dataclasses.replace(method_of(), **networks)
    (params, _), aux = method.init(KEY)
    for one, other in (("ab", "ba"), ("da", "db")):
        kernels = zip(jax.tree.leaves(params[one]), jax.tree.leaves(params[other]))
        assert any(np.any(x != y) for x, y in kernels)
    assert aux["a"]["pool"].count == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cyclegan__loss": "nosuch"}, "cyclegan.loss 'nosuch'.*least_squares"),
        ({"model__name": "nosuch"}, "model.name 'nosuch'.*resnet, unet"),
        ({"cyclegan__cycle_weight": -1.0}, "cyclegan.cycle_weight.*at least 0"),
        ({"cyclegan__identity_weight": -1.0}, "cyclegan.identity_weight.*at least 0"),
        ({"cyclegan__pool_size": -1}, "cyclegan.pool_size.*at least 0"),
        (
            {"optim__decay_start": 3, "optim__decay_end": None},
            "decay_start = 3 requires optim.decay_end",
        ),
        (
            {"data__image_size": 9, "model__num_downsamplings": 1},
            "multiple of 2.*data.image_size|data.image_size.*multiple of 2",
        ),
        ({"model__disc_layers": 2}, "12 pixels.*image_size = 8"),
    ],
)
def test_refusals(change, words):
    """Invalid values are refused before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make("digits_cyclegan", **change).init, KEY)


def test_unknown_tasks_are_refused():
    """A ValueError names the known ones."""
    with pytest.raises(ValueError, match="task of a cyclegan model 'nosuch'.*transl"):
        task_of("digits_cyclegan", method_of(), "nosuch")


def test_one_domain_is_refused():
    """Data with one domain do not fit."""
    config = config_of("digits_cyclegan")
    with pytest.raises(ValueError, match="two domains: set data.source_b"):
        methods.make(config, {"image": image_field((8, 8, 1))})
