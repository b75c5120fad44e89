"""Laws of generative adversarial networks as a family."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import compiled, config_of, images, make, task_of

from diffusion_jax import prng, task_runner
from diffusion_jax.methods import gan
from diffusion_jax.objectives.adversarial import GAN_LOSSES, GANLoss
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Loss, Variables
from diffusion_jax.training.step import make_train_step, run_phase

KEY = jax.random.key(6)
STEP = jnp.int32(0)


def batch_of(n=4, size=8):
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": images(n, size, seed=2),
        "label": (np.arange(n) % 10).astype(np.int32),
    }


def dcgan():
    """A DCGAN whose two networks both have batch statistics, each device its own."""
    return make("digits_dcgan", data__image_size=16, gan__sync_statistics=False)


mlp = functools.partial(make, "digits_gan")


@functools.cache
def initial(method):
    """The state before the first step."""
    return jax.jit(lambda key: states.initial(method, key))(KEY)


def variables_of(method, scale=1.0):
    """Scaled parameters, and batch statistics."""
    variables = initial(method).variables
    params = jax.tree.map(lambda x: scale * x, variables.params)
    return variables._replace(params=params)


def loss_of(method, phase, variables, batch):
    return method.loss(phase, variables, (), batch, KEY, STEP)


def assert_equal(old, new):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, old, new)


# What each phase changes.


@pytest.mark.parametrize(
    "number, mine, other", [(0, "disc", "gen"), (1, "gen", "disc")]
)
def test_a_phase_changes_only_its_own_side(number, mine, other):
    """Parameters, averages, optimiser and statistics of the other side stay bit for
    bit; those of the side that is updated do not."""
    method = dcgan()
    before = initial(method)
    run = functools.partial(run_phase, method.phases[number], method, None)
    after, _ = jax.jit(run)(before, batch_of(size=16), KEY)
    for part in ("params", "model_state", "opt_state", "ema"):
        old, new = getattr(before, part), getattr(after, part)
        assert old.keys() == new.keys() == {"gen", "disc"}, part
        assert_equal(old[other], new[other])
        moved = jax.tree.map(lambda a, b: np.any(a != b), old[mine], new[mine])
        assert jax.tree.all(moved), part


def test_order():
    """The discriminator is updated first, then the generator."""
    assert [phase.trains for phase in mlp().phases] == [("disc",), ("gen",)]


class Record:
    """A method that remembers which examples each phase sees."""

    def __init__(self, phases):
        self.phases = phases

    def init(self, key):
        return Variables({"gen": jnp.ones(()), "disc": jnp.ones(())}, {}), ()

    def loss(self, phase, variables, aux, batch, key, step):
        value = sum(variables.params.values())
        return Loss(value, observed=batch["index"])

    def after_step(self, variables, aux, observed):
        return variables.state, (*aux, observed)


def test_critic_steps_see_other_examples():
    """Two steps of the critic share the batch; the generator sees one share."""
    method = mlp(gan__critic_steps=2, data__batch_size=16)
    assert [phase.name for phase in method.phases] == ["disc", "disc", "gen"]
    record = Record(method.phases)
    state = states.initial(record, KEY)
    state, _ = make_train_step(record, None)(state, {"index": jnp.arange(8)})
    seen = [index.tolist() for index in state.aux]
    assert seen == [[0, 2, 4, 6], [1, 3, 5, 7], [0, 2, 4, 6]]


def test_decay_counts_steps():
    """A critic that is updated twice a step has in both the rate of that step: all of
    it up to step 1, half of it in step 2, and 0 from step 3 on; so has the
    generator."""
    rates = {"learning_rate": 0.25, "decay_start": 1, "decay_end": 3}
    values = {f"optim__{name}": value for name, value in rates.items()}
    method = mlp(
        **values,
        train__num_steps=3,
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
    """Each side's loss is the mean of its GAN loss over the images, generated ones from
    the examples' own noise; a critic logs its distance, others their accuracy."""
    method, batch = dataclasses.replace(mlp(), gan_loss=GAN_LOSSES[name]), batch_of()
    variables = variables_of(mlp(), 3.0)
    z_key, _ = jax.random.split(KEY)
    z = prng.normal(prng.example_keys(z_key, batch["index"]), (4,))
    fake = method.generator.apply({"params": variables.params["gen"]}, z)
    real, fake = (
        np.asarray(method.discriminator.apply({"params": variables.params["disc"]}, x))
        for x in (batch["image"], fake)
    )
    disc, gen = (loss_of(method, x, variables, batch) for x in ("disc", "gen"))
    gan_loss = GAN_LOSSES[name]
    expected = float(np.mean(gan_loss.discriminator(real, fake)))
    assert disc.value == pytest.approx(expected, rel=1e-4)
    assert gen.value == pytest.approx(
        float(np.mean(gan_loss.generator(fake))), rel=1e-4
    )
    if name == "wasserstein":
        expected = {"distance": real.mean() - fake.mean()}
        assert disc.value == pytest.approx(-expected["distance"], rel=1e-4)
    else:
        middle = 0.5 if name == "least_squares" else 0.0
        right = {"real": real > middle, "fake": fake < middle}
        expected = {f"accuracy_{side}": x.mean() for side, x in right.items()}
    assert jax.tree.map(float, disc.metrics) == pytest.approx(expected, rel=1e-4)
    assert not gen.metrics


def test_accuracies_by_hand():
    """Logits above the threshold are real: by hand for both thresholds, and for
    none."""
    real, fake = np.array([-1.0, 0.2, 0.6, 2.0]), np.array([-3.0, 0.1, 0.7, 0.9])
    for name, shares in (("hinge", (0.75, 0.25)), ("least_squares", (0.5, 0.5))):
        found = gan.discriminator_metrics(GAN_LOSSES[name], real, fake)
        assert (found["accuracy_real"], found["accuracy_fake"]) == shares
    found = gan.discriminator_metrics(GAN_LOSSES["wasserstein"], real, fake)
    assert found == {"distance": pytest.approx(0.45 + 0.325)}


def test_real_and_fake_pass_separately():
    """Under batch statistics too, the logits of real images do not change with the
    generated ones, and the other way round."""
    batch, other = batch_of(size=16), batch_of(size=16)
    other["image"] = -0.5 * other["image"][::-1]
    variables = variables_of(dcgan())
    moved = jax.tree.map(lambda x: 2 * x + 0.1, variables.params["gen"])
    moved = variables._replace(params=variables.params | {"gen": moved})

    def logits(variables, batch):
        """Means of the logits of real and of generated images."""
        sides = [lambda real, fake: real, lambda real, fake: fake]
        return [
            float(
                loss_of(
                    dataclasses.replace(
                        dcgan(), gan_loss=GANLoss(side, jnp.negative, 0.0)
                    ),
                    *("disc", variables, batch),
                ).value
            )
            for side in sides
        ]

    before, by_fake = logits(variables, batch), logits(moved, batch)
    by_real = logits(variables, other)
    assert before[0] == by_fake[0] and before[1] != by_fake[1]
    assert before[1] == by_real[1] and before[0] != by_real[0]


@pytest.mark.parametrize("name", ["gradient_penalty", "r1"])
def test_penalty_is_added(name):
    """A linear critic adds weight (|w| - 1)^2, or weight |w|^2 / 2, to its loss."""
    plain = mlp(model__hidden=(), gan__loss="hinge")
    method = mlp(model__hidden=(), gan__loss="hinge", **{f"gan__{name}": 3.0})
    variables = variables_of(plain, 2.0)
    length = np.linalg.norm(variables.params["disc"]["out"]["kernel"])
    price = {"gradient_penalty": (length - 1) ** 2, "r1": length**2 / 2}[name]
    found, without = (
        loss_of(x, "disc", variables, batch_of()) for x in (method, plain)
    )
    assert found.metrics["penalty"] == pytest.approx(3 * price, rel=1e-4)
    assert found.value - without.value == pytest.approx(3 * price, rel=1e-4)
    assert "penalty" not in without.metrics


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch, with a penalty:
    noise and mixing weights are each example's own."""
    method, batch = mlp(gan__gradient_penalty=10.0), batch_of()
    variables = variables_of(mlp(), 3.0)
    first, second, whole = (
        float(
            loss_of(
                method, "disc", variables, jax.tree.map(lambda x, p=p: x[p], batch)
            ).value
        )
        for p in (slice(0, 2), slice(2, 4), slice(0, 4))
    )
    assert (first + second) / 2 == pytest.approx(whole, rel=1e-5)


# Samples.


def test_sample_depends_on_its_index():
    """A sample depends only on its index: not on the other samples, nor on their
    number, also with batch statistics."""
    method = dcgan()
    run = compiled("digits_dcgan", method, "sample")
    variables = variables_of(method, 3.0)
    samples, some = (
        np.asarray(run(variables, {"index": np.array(index)}, KEY)["image"])
        for index in (range(6), [4, 1, 4])
    )
    assert samples.shape == (6, 16, 16, 1)
    np.testing.assert_allclose(some, samples[[4, 1, 4]], atol=1e-6)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3


def test_ends_of_an_interpolation_are_samples():
    """A row goes from the sample of its index to that of its partner's."""
    method, variables = mlp(), variables_of(mlp(), 3.0)
    sample = task_of("digits_gan", method, "sample")
    interpolate = task_of("digits_gan", method, "interpolate")
    assert interpolate.inputs == ("partner_index",)
    batch = {"index": jnp.arange(3), "partner_index": jnp.array([7, 5, 9])}
    rows = interpolate.run(variables, batch, KEY)["rows"]
    for column, name in ((0, "index"), (-1, "partner_index")):
        expected = sample.run(variables, {"index": batch[name]}, KEY)["image"]
        np.testing.assert_allclose(rows[:, column], expected, atol=1e-6)


def test_labels():
    """Every sample has the class that sample.label asks for; -1 draws all classes in
    turn, and the same image belongs to the same index and class."""
    values = {"model__num_classes": 10, "sample__num_examples": 15}
    method = mlp(**values)
    variables = variables_of(method, 3.0)
    of_all, of_three, of_four = (
        task_runner.make(
            config_of("digits_gan", **values, sample__label=label), method, "sample"
        ).run(variables)
        for label in (-1, 3, 4)
    )
    np.testing.assert_array_equal(of_all["label"], np.arange(15) % 10)
    np.testing.assert_array_equal(of_three["label"], np.full(15, 3))
    for index in (3, 13):
        np.testing.assert_allclose(
            of_all["image"][index], of_three["image"][index], atol=1e-6
        )
    np.testing.assert_allclose(of_all["image"][4], of_four["image"][4], atol=1e-6)
    assert np.abs(of_three["image"] - of_four["image"]).max() > 1e-2


def test_both_sides_receive_the_class():
    """Other labels, same noise and images: another loss of either side."""
    method, batch = mlp(model__num_classes=10), batch_of()
    variables = variables_of(method, 3.0)
    for phase in ("disc", "gen"):
        one, two = (
            float(loss_of(method, phase, variables, batch | {"label": label}).value)
            for label in (batch["label"], 9 - batch["label"])
        )
        assert abs(one - two) > 1e-4


# Statistics for averaged parameters.


def test_recalibrated_statistics_are_the_exact_moments():
    """The first layer adds W z, for normal z, and a row for the class: channel c has,
    over the pixels p and the classes, the variance mean_p |W_pc|^2 plus that of the
    rows, whose mean is its mean. Deterministic, whatever the running ones were; the
    discriminator keeps its own, and a network without any has none."""
    method = make("digits_dcgan", model__num_classes=10)
    params, statistics = variables_of(method, 2.0)
    statistics = statistics | {"disc": {"norm1": {"mean": jnp.arange(3.0)}}}
    for_inference = jax.jit(lambda p, s: method.for_inference(Variables(p, s)).state)
    recalibrated = for_inference(params, statistics)
    assert_equal(recalibrated["disc"], statistics["disc"])

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
    found = recalibrated["gen"]["norm0"]
    np.testing.assert_allclose(found["var"], var, rtol=0.08)
    assert np.all(np.abs(found["mean"] - mean) < 5 * np.sqrt(var / 8192))
    assert_equal(for_inference(params, statistics), recalibrated)
    other = jax.tree.map(lambda x: x + 100, statistics)
    again = for_inference(params, other)["gen"]["norm0"]
    np.testing.assert_allclose(again["mean"], found["mean"], atol=1e-6)
    np.testing.assert_allclose(again["var"], found["var"], rtol=1e-5)
    assert mlp().for_inference(variables_of(mlp())).state == {}


PENALTY_WORDS = "batch statistics.*model.disc_norm"


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("digits_gan", {"gan__loss": "nosuch"}, "gan.loss 'nosuch'.*hinge"),
        ("digits_gan", {"model__name": "nosuch"}, "model.name 'nosuch'.*dcgan"),
        (
            "digits_gan",
            {"model__num_classes": 1},
            "num_classes must be 2 or more.*not 1",
        ),
        (
            "digits_gan",
            {"model__num_classes": -2},
            "num_classes must be at least 0, not -2",
        ),
        ("digits_gan", {"gan__critic_steps": 0}, "gan.critic_steps.*at least 1"),
        ("digits_gan", {"gan__loss": "wasserstein"}, "set gan.gradient_penalty"),
        ("digits_gan", {"gan__r1": -1.0}, "gan.r1 must be at least 0"),
        ("digits_gan", {"gan__num_latents": 0}, "gan.num_latents"),
        ("digits_gan", {"optim__decay_start": 3}, "3 requires optim.decay_end"),
        (
            "digits_gan",
            {"optim__decay_start": 4, "optim__decay_end": 4},
            "decay_start = 4 must be.*less than optim.decay_end = 4",
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
    """Invalid values are refused before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make(name, **change).init, KEY)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample__task": "nosuch"}, "task of a gan model 'nosuch'.*slerp"),
        ({"sample__label": 0}, "sample.label = 0, but the model has no classes"),
        (
            {"sample__label": 10, "model__num_classes": 10},
            "sample.label = 10.*10 classes",
        ),
        ({"sample__label": -2}, "sample.label.*-1, not -2"),
        ({"sample__task": "manifold", "gan__num_latents": 1}, "two latents"),
    ],
)
def test_tasks_refuse(change, words):
    """Unknown tasks and labels are refused before anything is computed."""
    config = config_of("digits_gan", **change)
    with pytest.raises(ValueError, match=words):
        task_runner.make(config, mlp(**change), config.sample.task)
