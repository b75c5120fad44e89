"""Laws of CycleGAN, on translators and discriminators that multiply by a number."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import make

from diffusion_jax.objectives.adversarial import GAN_LOSSES
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.step import make_train_step

KEY = jax.random.key(7)
STEP = jnp.int32(0)
BATCH_SIZE, NUM_DEVICES = 8, 2
FACTORS = {"ab": 0.5, "ba": 1.5, "da": 0.8, "db": -0.6}


class Scale(nn.Module):
    """y = c x; as a discriminator it scores every pixel."""

    patches: bool = False

    @nn.compact
    def __call__(self, x):
        y = self.param("c", nn.initializers.ones, ()) * x
        return y[..., 0] if self.patches else y


PARAMS = {group: {"c": jnp.float32(c)} for group, c in FACTORS.items()}


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
    return dataclasses.replace(method, translator=Scale(), discriminator=Scale(True))


def batch_of(n=BATCH_SIZE, first=0):
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-1, 1, (2, n, 8, 8, 1)).astype(np.float32)
    index = np.arange(first, first + n).astype(np.int32)  # wraps around
    return {"index": index, "image_a": a, "image_b": b}


def extra_of(method, seed=0):
    """The extra state, in which what was shown are given pictures."""
    _, _, extra = method.init(KEY)
    shown = np.random.default_rng(seed).uniform(-1, 1, (2, BATCH_SIZE, 8, 8, 1))
    return {
        name: extra[name] | {"shown": jnp.asarray(pictures, jnp.float32)}
        for name, pictures in zip("ab", shown)
    }


def generators_by_hand(batch, identity_weight, game=GAN_LOSSES["least_squares"]):
    """Zhu et al. 2017, equations 1 to 3, term by term."""
    a, b = (batch[f"image_{name}"].astype(np.float64) for name in "ab")
    ab, ba, da, db = FACTORS.values()
    fooling = float(np.mean(game.generator(db * ab * a)))
    fooling += float(np.mean(game.generator(da * ba * b)))
    cycle = np.abs(ba * ab * a - a).mean() + np.abs(ab * ba * b - b).mean()
    same = np.abs(ab * b - b).mean() + np.abs(ba * a - a).mean()
    terms = {"adversarial": fooling, "cycle": cycle, "identity": same}
    return fooling + 10 * cycle + 10 * identity_weight * same, terms


def discriminators_by_hand(batch, shown, game=GAN_LOSSES["least_squares"]):
    """The sum of both games, each between its real pictures and what it was shown."""
    total = 0.0
    for name, group in (("a", "da"), ("b", "db")):
        real, fake = (
            FACTORS[group] * batch[f"image_{name}"],
            FACTORS[group] * shown[name],
        )
        total += float(np.mean(game.discriminator(real, fake)))
    return total


@pytest.mark.parametrize("loss", ["least_squares", "non_saturating", "wasserstein"])
@pytest.mark.parametrize("identity_weight", [0.0, 0.5])
def test_generators_by_hand(loss, identity_weight):
    """Fooling both discriminators, 10 times the way back, and 10 times the identity
    weight of leaving alone what is there; at weight 0 the last is not there at all."""
    method, batch = method_of(identity_weight, loss=loss), batch_of()
    run = jax.jit(lambda p: method.loss("gen", p, {}, (), batch, KEY, STEP))
    value, aux = run(PARAMS)
    expected, terms = generators_by_hand(batch, identity_weight, GAN_LOSSES[loss])
    assert value == pytest.approx(expected, rel=1e-5)
    if not identity_weight:
        del terms["identity"]
    assert jax.tree.map(float, aux.metrics) == pytest.approx(terms, rel=1e-4)


@pytest.mark.parametrize("identity_weight, calls", [(0.0, 4), (0.5, 6)])
def test_identity_costs_nothing_at_weight_0(identity_weight, calls):
    """The translators run there and back for each domain, and once more for what is
    there already, only if that counts."""
    seen = []

    class Counting(Scale):
        @nn.compact
        def __call__(self, x):
            seen.append(1)
            return self.param("c", nn.initializers.ones, ()) * x

    method = dataclasses.replace(method_of(identity_weight), translator=Counting())
    run = lambda p: method.loss("gen", p, {}, (), batch_of(), KEY, STEP)  # noqa: E731
    jax.eval_shape(run, PARAMS)
    assert len(seen) == calls


@pytest.mark.parametrize("first", [0, 5 * BATCH_SIZE, 2**31 - BATCH_SIZE, 2**32 - 8])
def test_discriminators_are_shown_what_the_pools_gave(first):
    """Pair number index is judged beside what the pools gave in its place of the batch,
    on whichever device: for shards too, and after the index has wrapped around."""
    method, batch = method_of(), batch_of(first=first)
    extra = extra_of(method)
    run = jax.jit(lambda e, b: method.loss("disc", PARAMS, {}, e, b, KEY, STEP))
    values = []
    for part in (slice(0, 4), slice(4, 8)):
        shard = {name: x[part] for name, x in batch.items()}
        shown = {name: np.asarray(extra[name]["shown"][part]) for name in "ab"}
        value, aux = run(extra, shard)
        values.append(float(value))
        assert values[-1] == pytest.approx(
            discriminators_by_hand(shard, shown), rel=1e-5
        )
        assert aux.observed is None and aux.metrics.keys() == {
            "accuracy_real",
            "accuracy_fake",
        }
    shown = {name: np.asarray(extra[name]["shown"]) for name in "ab"}
    whole = discriminators_by_hand(batch, shown)
    assert np.mean(values) == pytest.approx(whole, rel=1e-5)


@functools.cache
def stepped(names=("gen", "disc")):
    """The states before and after one step of those phases on two devices."""
    method = method_of(0.0)
    init = lambda key: (PARAMS, {}, method.init(key)[2])  # noqa: E731
    phases = [phase for phase in method.phases if phase.name in names]
    before = jax.jit(lambda key: states.initial(key, method.phases, init))(KEY)
    step = make_train_step(phases, method.loss, method.remember)
    devices = jax.local_devices()[:NUM_DEVICES]
    run = jax.pmap(step, axis_name=parallel.AXIS, devices=devices)
    state = jax.tree.map(lambda x: jnp.stack([x] * NUM_DEVICES), before)
    shards = {
        k: x.reshape(NUM_DEVICES, -1, *x.shape[1:]) for k, x in batch_of().items()
    }
    after, metrics = run(state, shards)
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    return before, first(after), first(metrics)


def test_a_step():
    """The generators move first; a pool that fills up gives what they made before they
    moved; the discriminators extractor it on both devices. All by hand."""
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
        np.testing.assert_allclose(after.extra[name]["shown"], made[name], rtol=1e-6)
        pool = after.extra[name]["pool"]
        assert pool.count == BATCH_SIZE
        np.testing.assert_allclose(pool.images[:BATCH_SIZE], made[name], rtol=1e-6)


@pytest.mark.parametrize(
    "phase, mine, others",
    [("gen", ("ab", "ba"), ("da", "db")), ("disc", ("da", "db"), ("ab", "ba"))],
)
def test_phases_leave_the_others_alone(phase, mine, others):
    """A phase moves its own networks, averages and optimiser, and nothing of the
    other's, bit for bit; only the generators put anything into the pools."""
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
    assert after.extra["a"]["pool"].count == after.extra["b"]["pool"].count == count


def test_pools_have_their_own_coins():
    """The two domains swap other images than each other; a full pool shows images of
    the step before, and remembers nothing where the discriminators play."""
    method = method_of(pool_size=BATCH_SIZE)
    remember = jax.jit(method.remember)
    keys = jax.random.key_data(jax.random.split(KEY, BATCH_SIZE))
    numbers = np.arange(BATCH_SIZE, dtype=np.float32).reshape(-1, 1, 1, 1)
    made = np.broadcast_to(numbers, (BATCH_SIZE, 8, 8, 1))
    _, _, extra = method.init(KEY)
    extra = remember(extra, {"a": made, "b": made, "keys": keys})
    extra = remember(extra, {"a": made + 100, "b": made + 100, "keys": keys})
    shown = {name: np.asarray(extra[name]["shown"])[:, 0, 0, 0] for name in "ab"}
    old = {name: x < 100 for name, x in shown.items()}
    assert all(0 < x.sum() < BATCH_SIZE for x in old.values())
    assert np.any(old["a"] != old["b"])
    assert method.remember(extra, None) is extra


def test_evaluate_and_translations():
    """There and back by hand: each domain's pictures, translations and ways back."""
    method, batch = method_of(), batch_of(3)
    a, b = batch["image_a"], batch["image_b"]
    found, rows = jax.jit(
        lambda p: (
            method.evaluate(p, {}, batch, KEY),
            method.views["translations"](p, {}, batch, KEY),
        )
    )(PARAMS)
    back = FACTORS["ab"] * FACTORS["ba"]
    np.testing.assert_allclose(found["to_b"], 0.5 * a, rtol=1e-6)
    np.testing.assert_allclose(found["to_a"], 1.5 * b, rtol=1e-6)
    for name, image in (("cycle_a", a), ("cycle_b", b)):
        expected = np.abs((back - 1) * image).mean((1, 2, 3))
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    expected = [a, 0.5 * a, back * a, b, 1.5 * b, back * b]
    np.testing.assert_allclose(rows, np.stack(expected, axis=1), rtol=1e-5)


def test_networks_start_apart():
    """The two directions, and the two judges, are networks of their own."""
    networks = {"translator": nn.Dense(1), "discriminator": nn.Dense(1)}
    method = dataclasses.replace(method_of(), **networks)
    params, _, extra = jax.jit(method.init)(KEY)
    for one, other in (("ab", "ba"), ("da", "db")):
        kernels = zip(jax.tree.leaves(params[one]), jax.tree.leaves(params[other]))
        assert any(np.any(x != y) for x, y in kernels)
    assert extra["a"]["pool"].count == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cyclegan__loss": "nosuch"}, "cyclegan.loss 'nosuch'.*least_squares"),
        ({"model__name": "nosuch"}, "model.name 'nosuch'.*resnet, unet"),
        ({"sample__view": "nosuch"}, "sample.view 'nosuch'.*translations"),
        ({"cyclegan__cycle_weight": -1.0}, "cyclegan.cycle_weight.*at least 0"),
        ({"cyclegan__identity_weight": -1.0}, "cyclegan.identity_weight.*at least 0"),
        ({"cyclegan__pool_size": -1}, "cyclegan.pool_size.*at least 0"),
        ({"data__batch_size": 0}, "data.batch_size.*at least 1"),
        ({"optim__decay_start": None}, "both optim.decay_start and optim.decay_end"),
        (
            {"data__image_size": 9, "model__num_downsamplings": 1},
            "multiple of 2.*data.image_size|data.image_size.*multiple of 2",
        ),
        ({"model__disc_layers": 2}, "12 pixels.*image_size = 8"),
    ],
)
def test_refusals(change, words):
    """What cannot work is refused in words, before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make("digits_cyclegan", **change).init, KEY)
