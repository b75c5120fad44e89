"""Laws of generative adversarial networks as a family."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import make

from diffusion_jax import prng
from diffusion_jax.methods import gan
from diffusion_jax.methods.base import Aux
from diffusion_jax.objectives.adversarial import GAN_LOSSES, GANLoss
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.step import make_train_step

KEY = jax.random.key(6)
STEP = jnp.int32(0)


def batch_of(n=4, size=8):
    rng = np.random.default_rng(2)
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": rng.uniform(-1, 1, (n, size, size, 1)).astype(np.float32),
        "label": (np.arange(n) % 10).astype(np.int32),
    }


@functools.cache
def dcgan():
    """A DCGAN whose two networks both have batch statistics, each device its own."""
    return make("digits_dcgan", data__image_size=16, gan__sync_statistics=False)


@functools.cache
def mlp(**values):
    return make("digits_gan", **values)


@functools.cache
def initial(method):
    """The state before the first step."""
    return jax.jit(lambda key: states.initial(key, method.phases, method.init))(KEY)


def weights_of(method, scale=1.0):
    """Scaled parameters, and batch statistics."""
    state = initial(method)
    return jax.tree.map(lambda x: scale * x, state.params), dict(state.model_state)


def assert_equal(old, new):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, old, new)


# Who moves.


@pytest.mark.parametrize(
    "number, mine, other", [(0, "disc", "gen"), (1, "gen", "disc")]
)
def test_a_phase_moves_its_own_side_alone(number, mine, other):
    """Parameters, averages, optimiser and statistics of the other side stay bit for
    bit; those of the side to move do not."""
    method = dcgan()
    phases = (method.phases[number],)
    before = initial(method)
    step = make_train_step(phases, method.loss, method.remember)
    run = jax.pmap(step, axis_name=parallel.AXIS, devices=jax.local_devices()[:1])
    after, _ = run(*jax.tree.map(lambda x: x[None], (before, batch_of(size=16))))
    after = jax.tree.map(lambda x: x[0], after)
    for part in ("params", "model_state", "opt_state", "ema"):
        old, new = getattr(before, part), getattr(after, part)
        assert old.keys() == new.keys() == {"gen", "disc"}, part
        assert_equal(old[other], new[other])
        moved = jax.tree.map(lambda a, b: np.any(a != b), old[mine], new[mine])
        assert jax.tree.all(moved), part


def test_order():
    """The discriminator moves first, then the generator."""
    assert [phase.trains for phase in mlp().phases] == [("disc",), ("gen",)]


def indices_seen(method):
    """What the examples' indices are that each phase is given, of eight."""

    def loss(phase, params, model_state, extra, batch, key, step):
        zero = sum(jnp.sum(0 * x) for x in jax.tree.leaves(params))
        return zero, Aux({}, {}, batch["index"])

    @jax.jit
    def run(key):
        state = states.initial(key, method.phases, method.init)
        step = make_train_step(method.phases, loss, lambda seen, new: (*seen, new))
        one_device = jax.tree.map(lambda x: x[None], (state, {"index": jnp.arange(8)}))
        return jax.vmap(step, axis_name=parallel.AXIS)(*one_device)[0].extra

    return [np.asarray(x[0]).tolist() for x in run(KEY)]


def test_critic_steps_see_other_examples():
    """Two steps of the critic share out the batch; the generator sees one share."""
    method = mlp(gan__critic_steps=2, data__batch_size=16)
    assert [phase.name for phase in method.phases] == ["disc", "disc", "gen"]
    assert indices_seen(method) == [[0, 2, 4, 6], [1, 3, 5, 7], [0, 2, 4, 6]]


def test_decay_counts_steps():
    """A critic that moves twice a step has in both the rate of that step: whole up to
    step 1, half of it in step 2, and nothing from step 3 on; likewise the generator."""
    rates = {"learning_rate": 0.25, "decay_start": 1, "decay_end": 3}
    values = {f"optim__{name}": value for name, value in rates.items()}
    method = mlp(
        **values,
        optim__disc_learning_rate=0.5,
        gan__critic_steps=2,
        data__batch_size=16,
    )
    expected = {
        "disc": [0.5] * 4 + [0.25] * 2 + [0] * 2,
        "gen": [0.25] * 2 + [0.125, 0],
    }
    for phase in (method.phases[0], method.phases[-1]):
        # Adam moves by its rate under a constant gradient.
        state, found = phase.optimizer.tx.init(jnp.zeros(())), []
        for _ in expected[phase.name]:
            update, state = phase.optimizer.tx.update(jnp.float32(1), state)
            found.append(-float(update))
        np.testing.assert_allclose(found, expected[phase.name], rtol=1e-4, atol=1e-7)


# What is minimised.


@pytest.mark.parametrize("name", ["non_saturating", "wasserstein", "least_squares"])
def test_losses(name):
    """Each side's loss is the mean of its game over the pictures, generated ones from
    the examples' own noise; a critic logs its distance, others how often they are
    right."""
    method = dataclasses.replace(mlp(), game=GAN_LOSSES[name])
    batch = batch_of()

    @jax.jit
    def run(key):
        params = jax.tree.map(lambda x: 3 * x, method.init(key)[0])
        z_key, _ = jax.random.split(KEY)
        z = prng.normal(prng.example_keys(z_key, batch["index"]), (4,))
        pictures = batch["image"], method.generator.apply({"params": params["gen"]}, z)
        variables = {"params": params["disc"]}
        logits = [method.discriminator.apply(variables, x) for x in pictures]
        losses = [
            method.loss(phase, params, {}, (), batch, KEY, STEP)
            for phase in ("disc", "gen")
        ]
        return logits, losses

    (real, fake), ((disc, disc_aux), (gen, gen_aux)) = jax.device_get(run(KEY))
    game = GAN_LOSSES[name]
    expected = float(np.mean(game.discriminator(real, fake)))
    assert disc == pytest.approx(expected, rel=1e-4)
    assert gen == pytest.approx(float(np.mean(game.generator(fake))), rel=1e-4)
    if name == "wasserstein":
        expected = {"distance": real.mean() - fake.mean()}
        assert disc == pytest.approx(-expected["distance"], rel=1e-4)
    else:
        middle = 0.5 if name == "least_squares" else 0.0
        right = {"real": real > middle, "fake": fake < middle}
        expected = {f"accuracy_{side}": x.mean() for side, x in right.items()}
    assert jax.tree.map(float, disc_aux.metrics) == pytest.approx(expected, rel=1e-4)
    assert not gen_aux.metrics


def test_accuracies_by_hand():
    """Above the middle is real: by hand for both middles, and for none."""
    real, fake = np.array([-1.0, 0.2, 0.6, 2.0]), np.array([-3.0, 0.1, 0.7, 0.9])
    for name, shares in (("hinge", (0.75, 0.25)), ("least_squares", (0.5, 0.5))):
        found = gan.accuracies(GAN_LOSSES[name], real, fake)
        assert (found["accuracy_real"], found["accuracy_fake"]) == shares
    found = gan.accuracies(GAN_LOSSES["wasserstein"], real, fake)
    assert found == {"distance": pytest.approx(0.45 + 0.325)}


def test_real_and_fake_are_judged_apart():
    """Under batch statistics too, what is said of real pictures does not move with the
    generated ones, and the other way round."""
    batch, other = batch_of(size=16), batch_of(size=16)
    other["image"] = -0.5 * other["image"][::-1]
    params, statistics = weights_of(dcgan())
    moved = params | {"gen": jax.tree.map(lambda x: 2 * x + 0.1, params["gen"])}

    def mean(side):
        """The loss of a game that is about one side alone."""
        method = dataclasses.replace(dcgan(), game=GANLoss(side, jnp.negative, 0.0))
        return lambda p, b: method.loss("disc", p, statistics, (), b, KEY, STEP)[0]

    real, fake = mean(lambda real, fake: real), mean(lambda real, fake: fake)
    run = jax.jit(lambda p, b: (real(p, b), fake(p, b)))
    before, by_fake, by_real = run(params, batch), run(moved, batch), run(params, other)
    assert before[0] == by_fake[0] and before[1] != by_fake[1]
    assert before[1] == by_real[1] and before[0] != by_real[0]


@pytest.mark.parametrize("name", ["gradient_penalty", "r1"])
def test_penalty_is_added(name):
    """A linear critic pays weight (|w| - 1)^2, or weight |w|^2 / 2, beside its game."""
    plain = mlp(model__hidden=(), gan__loss="hinge")
    method = mlp(model__hidden=(), gan__loss="hinge", **{f"gan__{name}": 3.0})
    params, _ = weights_of(method, 2.0)
    length = np.linalg.norm(params["disc"]["out"]["kernel"])
    price = {"gradient_penalty": (length - 1) ** 2, "r1": length**2 / 2}[name]

    @jax.jit
    def losses(batch):
        ways = (method, plain)
        return [way.loss("disc", params, {}, (), batch, KEY, STEP) for way in ways]

    (value, aux), (without, plain_aux) = losses(batch_of())
    assert aux.metrics["penalty"] == pytest.approx(3 * price, rel=1e-4)
    assert value - without == pytest.approx(3 * price, rel=1e-4)
    assert "penalty" not in plain_aux.metrics


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch, with a penalty:
    noise and mixing weights are each example's own."""
    method, batch = mlp(gan__gradient_penalty=10.0), batch_of()
    params, _ = weights_of(method, 3.0)

    @jax.jit
    def loss(batch):
        return method.loss("disc", params, {}, (), batch, KEY, STEP)[0]

    parts = [slice(0, 2), slice(2, 4), slice(0, 4)]
    cut = [jax.tree.map(lambda x, part=part: x[part], batch) for part in parts]
    first, second, whole = (float(loss(shard)) for shard in cut)
    assert (first + second) / 2 == pytest.approx(whole, rel=1e-5)


# Samples.


def test_sample_is_its_indexs_own():
    """A sample depends on its index alone: not on its batch-mates, nor on how many are
    drawn, also with batch statistics."""
    method = dcgan()
    params, statistics = weights_of(method, 3.0)
    sample = jax.jit(lambda index: method.sample(params, statistics, index, KEY))
    all_of_them = sample(jnp.arange(6))["image"]
    assert all_of_them.shape == (6, 16, 16, 1)
    some = sample(jnp.array([4, 1, 4]))["image"]
    np.testing.assert_allclose(some, all_of_them[np.array([4, 1, 4])], atol=1e-6)
    assert np.abs(all_of_them[0] - all_of_them[1]).max() > 1e-3


def test_ends_of_an_interpolation_are_samples():
    """A row goes from the sample of its index to that of its partner's."""
    method = mlp()
    params, _ = weights_of(method, 3.0)
    index, partner = jnp.arange(3), jnp.array([7, 5, 9])
    batch = {"index": index, "partner_index": partner}
    for name in ("image", "label"):
        batch |= {name: jnp.zeros(3), f"partner_{name}": jnp.zeros(3)}
    rows = method.views["interpolation"](params, {}, batch, KEY)
    for column, numbers in ((0, index), (-1, partner)):
        sample = method.sample(params, {}, numbers, KEY)["image"]
        np.testing.assert_allclose(rows[:, column], sample, atol=1e-6)


def test_labels():
    """Every sample has the class that is asked for; -1 deals the classes out in turn,
    and the same picture belongs to the same index and class."""
    dealt, threes, fours = (
        mlp(model__num_classes=10, sample__label=label) for label in (-1, 3, 4)
    )
    params, _ = weights_of(dealt, 3.0)

    @jax.jit
    def run(index):
        ways = (dealt, threes, fours)
        return [method.sample(params, {}, index, KEY) for method in ways]

    of_all, of_three, of_four = run(jnp.arange(10, 15))
    np.testing.assert_array_equal(of_all["label"], np.arange(5))
    np.testing.assert_array_equal(of_three["label"], np.full(5, 3))
    np.testing.assert_allclose(of_all["image"][3], of_three["image"][3], atol=1e-6)
    np.testing.assert_allclose(of_all["image"][4], of_four["image"][4], atol=1e-6)
    assert np.abs(of_three["image"] - of_four["image"]).max() > 1e-2


def test_both_sides_are_told_the_class():
    """Other labels, same noise and pictures: another loss of either side."""
    method, batch = mlp(model__num_classes=10), batch_of()
    params, _ = weights_of(method, 3.0)

    @jax.jit
    def both(label):
        rest = batch | {"label": label}, KEY, STEP
        phases = "disc", "gen"
        return [method.loss(phase, params, {}, (), *rest)[0] for phase in phases]

    one, two = (np.array(both(label)) for label in (batch["label"], 9 - batch["label"]))
    assert np.all(np.abs(one - two) > 1e-4)


# Statistics for averaged parameters.


def test_settled_statistics_are_the_exact_moments():
    """The first layer adds W z, for normal z, and a row for the class: channel c has,
    over the pixels p and the classes, the variance mean_p |W_pc|^2 beside that of the
    rows, whose mean is its mean. Deterministic, whatever the running ones were; the
    discriminator keeps its own, and a network without any has none."""
    method = make("digits_dcgan", model__num_classes=10)
    params, statistics = weights_of(method, 2.0)
    statistics |= {"disc": {"norm1": {"mean": jnp.arange(3.0)}}}
    run = jax.jit(method.settle)
    settled = run(params, statistics)
    assert_equal(settled["disc"], statistics["disc"])

    def first_layer(z, label):
        """Before its normalisation, [B, pixels, C]."""
        variables = {"params": params["gen"], "batch_stats": statistics["gen"]}
        _, seen = method.generator.apply(
            variables, z, label, capture_intermediates=True, mutable="intermediates"
        )
        (out,) = seen["intermediates"]["project"]["__call__"]
        return np.asarray(out).reshape(len(z), 16, -1)

    of_class = first_layer(jnp.zeros((10, 4)), jnp.arange(10))
    of_noise = first_layer(jnp.eye(4), jnp.zeros(4, jnp.int32)) - of_class[:1]
    mean = of_class.mean((0, 1))
    var = (of_noise**2).sum(0).mean(0) + (of_class**2).mean((0, 1)) - mean**2
    found = settled["gen"]["norm0"]
    np.testing.assert_allclose(found["var"], var, rtol=0.08)
    assert np.all(np.abs(found["mean"] - mean) < 5 * np.sqrt(var / 8192))
    assert_equal(run(params, statistics), settled)
    again = run(params, jax.tree.map(lambda x: x + 100, statistics))["gen"]["norm0"]
    np.testing.assert_allclose(again["mean"], found["mean"], atol=1e-6)
    np.testing.assert_allclose(again["var"], found["var"], rtol=1e-5)
    assert mlp().settle(weights_of(mlp())[0], {}) == {}


PENALTY_WORDS = "batch statistics.*model.disc_norm"


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("digits_gan", {"gan__loss": "nosuch"}, "gan.loss 'nosuch'.*hinge"),
        ("digits_gan", {"model__name": "nosuch"}, "model.name 'nosuch'.*dcgan"),
        ("digits_gan", {"sample__view": "nosuch"}, "sample.view 'nosuch'.*slerp"),
        ("digits_gan", {"model__num_classes": 1}, "num_classes = 1.*two or more"),
        ("digits_gan", {"model__num_classes": -2}, "num_classes = -2"),
        ("digits_gan", {"sample__label": 0}, "sample.label = 0.*0 classes"),
        (
            "digits_gan",
            {"sample__label": 10, "model__num_classes": 10},
            "sample.label = 10.*10 classes",
        ),
        ("digits_gan", {"sample__label": -2}, "sample.label = -2"),
        ("digits_gan", {"gan__critic_steps": 0}, "gan.critic_steps.*at least 1"),
        ("digits_gan", {"gan__loss": "wasserstein"}, "set gan.gradient_penalty"),
        ("digits_gan", {"gan__r1": -1.0}, "gan.r1 must be at least 0"),
        ("digits_gan", {"gan__num_latents": 0}, "gan.num_latents"),
        (
            "digits_gan",
            {"sample__view": "manifold", "gan__num_latents": 1},
            "two latents",
        ),
        ("digits_gan", {"optim__decay_start": 3}, "both optim.decay_start"),
        (
            "digits_gan",
            {"optim__decay_start": 3, "optim__decay_end": 3},
            "decay_start = 3 must lie before",
        ),
        ("digits_dcgan", {"data__image_size": 18}, "image_size = 18 cannot be halved"),
        ("digits_dcgan", {"model__disc_norm": "nosuch"}, "norm 'nosuch'.*batch, none"),
        ("digits_dcgan", {"data__image_size": 16, "gan__r1": 1.0}, PENALTY_WORDS),
        (
            "digits_dcgan",
            {"data__image_size": 16, "gan__gradient_penalty": 1.0},
            PENALTY_WORDS,
        ),
    ],
)
def test_refusals(name, change, words):
    """What cannot work is refused in words, before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make(name, **change).init, KEY)
