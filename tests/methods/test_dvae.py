"""Laws of the dVAE and the VQ-VAE: losses by hand, codebooks, codes and back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from families import compiled, config_of, images, make, task_of

from diffusion_jax import methods, prng
from diffusion_jax.data.base import image_field
from diffusion_jax.models.discrete import nearest
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Variables
from diffusion_jax.training.step import make_train_step

KEY = jax.random.key(4)
DIGITS = "digits_dvae"
KINDS = ("gumbel", "vq")
each_kind = pytest.mark.parametrize("kind", KINDS)


def make_kind(kind, **values):
    return make(DIGITS, model__name=kind, **values)


def batch_of(n=4, first=0):
    index = np.arange(first, first + n, dtype=np.int32)
    return {"index": index, "image": images(n)}


@functools.cache
def variables_of(kind):
    """Larger than at initialisation, so that logits and vectors differ."""
    variables, _ = jax.jit(make_kind(kind).init)(KEY)
    return variables._replace(params=jax.tree.map(lambda x: 1.5 * x, variables.params))


def loss_of(method, variables, batch, step=0, key=KEY):
    return method.loss("dvae", variables, (), batch, key, jnp.int32(step))


def call(kind, variables, *args, method):
    return np.asarray(make_kind(kind).apply(variables, *args, method=method))


def gaussian(x, output, scale):
    """-log p of images under a normal distribution, by example."""
    terms = 0.5 * ((x - output) / scale) ** 2 + np.log(scale * np.sqrt(2 * np.pi))
    return terms.reshape(len(x), -1).sum(axis=1)


@each_kind
def test_groups(kind):
    """Parameters and state are in the group that the phase of the same name trains, so
    that another run can copy it; every code starts with the count 1."""
    method, variables = make_kind(kind), variables_of(kind)
    (phase,) = method.phases
    assert phase.name == "dvae" and phase.trains == ("dvae",)
    assert set(variables.params) == set(variables.state) == {"dvae"}
    state = variables.state["dvae"]
    np.testing.assert_array_equal(state["counts"], np.ones(8))
    assert set(state) == {"counts"} | ({"embedding", "sums"} if kind == "vq" else set())


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("step", [0, 3, 10, 30])
def test_dvae_loss_by_hand(step, straight_through):
    """-log p(x | z) + beta (log K - H), for one relaxed draw with the example's own
    Gumbel noise; temperature and weight are those of the step."""
    options = {"temperature_steps": 20, "kl_warmup_steps": 10, "kl_weight": 2.0}
    options |= {"straight_through": straight_through, "noise_scale": 0.3}
    method = make_kind("gumbel", **{f"dvae__{k}": v for k, v in options.items()})
    variables, batch = variables_of("gumbel"), batch_of(first=5)
    logits = call("gumbel", variables, batch["image"], method="logits")
    keys = prng.example_keys(KEY, batch["index"])
    noise = np.stack([jax.random.gumbel(key, logits.shape[1:]) for key in keys])
    temperature = 1 / 16 + 15 / 32 * (1 + np.cos(np.pi * min(step / 20, 1)))
    beta = 1 - np.cos(np.pi * min(step / 10, 1))
    weights = scipy.special.softmax((logits + noise) / temperature, axis=-1)
    if straight_through:
        weights = np.eye(8, dtype=np.float32)[weights.argmax(axis=-1)]
    output = call("gumbel", variables, weights, method="decode_relaxed")
    nats = gaussian(batch["image"], output, 0.3)
    q = scipy.special.softmax(logits, axis=-1)
    kl = (np.log(8) - scipy.special.entr(q).sum(axis=-1)).sum(axis=(1, 2))
    loss = loss_of(method, variables, batch, step)
    assert loss.value == pytest.approx((nats + beta * kl).mean(), rel=1e-4)
    expected = {"reconstruction": nats.mean(), "kl": kl.mean()}
    expected |= {"temperature": temperature, "perplexity": 8, "usage": 1}
    assert jax.tree.map(float, loss.metrics) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(loss.observed["codes"], logits.argmax(axis=-1))


def test_vq_loss_by_hand():
    """-log p(x | e) + beta |z - e|^2, with the nearest entries e, over the grid."""
    method = make_kind("vq", dvae__noise_scale=0.3, dvae__commitment=0.7)
    variables, batch = variables_of("vq"), batch_of()
    vectors = call("vq", variables, batch["image"], method="vectors")
    embedding = np.asarray(variables.state["dvae"]["embedding"])
    squares = ((vectors[..., None, :] - embedding) ** 2).sum(axis=-1)
    output = call("vq", variables, squares.argmin(axis=-1), method="decode")
    nats = gaussian(batch["image"], output, 0.3)
    distance = squares.min(axis=-1).sum(axis=(1, 2))
    loss = loss_of(method, variables, batch)
    assert loss.value == pytest.approx((nats + 0.7 * distance).mean(), rel=1e-4)
    expected = {"reconstruction": nats.mean(), "commitment": distance.mean()}
    expected |= {"perplexity": 8, "usage": 1}
    assert jax.tree.map(float, loss.metrics) == pytest.approx(expected, rel=1e-4)


def test_commitment_moves_the_encoder():
    """beta weights the encoder's term: the loss's gradient grows by beta times that of
    |z - e|^2 with constant entries e, and that of the decoder not at all."""
    variables, batch = variables_of("vq"), batch_of()

    def gradient(commitment):
        method = make_kind("vq", dvae__commitment=commitment)

        def value(params):
            return loss_of(method, Variables(params, variables.state), batch).value

        return jax.grad(value)(variables.params)["dvae"]

    def distance(params):
        moved = Variables(params, variables.state)
        z = make_kind("vq").apply(moved, batch["image"], method="vectors")
        embedding = variables.state["dvae"]["embedding"]
        e = embedding[nearest(z, embedding)]
        return jnp.mean(jnp.sum((z - e) ** 2, axis=(1, 2, 3)))

    without, found = gradient(0.0), gradient(2.0)
    expected = jax.grad(distance)(variables.params)["dvae"]
    for name in found:
        for x, y, z in zip(
            *map(jax.tree.leaves, (found[name], without[name], expected[name])),
            strict=True,
        ):
            np.testing.assert_allclose(x - y, 2 * z, rtol=2e-3, atol=2e-3)
        is_encoder = name.startswith(("down", "conv_in", "encoder", "to_vectors"))
        moved = max(np.abs(z).max() for z in jax.tree.leaves(expected[name]))
        assert (moved > 0) == is_encoder, name


@each_kind
def test_reconstruction_is_decoded_codes(kind):
    """The task reconstruct is images -> codes -> images, without noise; the task codes
    gives the same codes row by row; the methods that another family uses agree."""
    method, variables, batch = make_kind(kind), variables_of(kind), batch_of()
    rows = compiled(DIGITS, method, "reconstruct")(variables, batch, KEY)["rows"]
    codes = compiled(DIGITS, method, "codes")(variables, batch, KEY)["codes"]
    np.testing.assert_array_equal(rows[:, 0], batch["image"])
    assert codes.shape == (4, 16) and codes.dtype == jnp.int32
    assert len(np.unique(codes)) > 1
    others = Variables(
        variables.params | {"lm": jnp.zeros(3)}, variables.state | {"lm": {}}
    )
    found = method.codes(others, batch["image"])
    np.testing.assert_array_equal(found.reshape(4, -1), codes)
    grid = codes.reshape(4, *method.network.grid)
    back = method.images(others, grid)
    np.testing.assert_allclose(rows[:, 1], back, atol=1e-6)
    field = task_of(DIGITS, method, "codes").outputs["codes"]
    assert (field.shape, field.kind, field.size) == ((16,), "tokens", 8)


@each_kind
def test_noise_is_its_examples_own(kind):
    """An example's loss and what is observed of it depend on its index and image only,
    not on its place in the batch."""
    method, variables, batch = make_kind(kind), variables_of(kind), batch_of()
    order = np.array([2, 0, 3])
    whole = loss_of(method, variables, batch).observed
    part = loss_of(method, variables, jax.tree.map(lambda x: x[order], batch)).observed
    for name, values in whole.items():
        np.testing.assert_allclose(part[name], values[order], rtol=1e-4, atol=1e-5)
    values = [
        float(
            loss_of(method, variables, jax.tree.map(lambda x, i=i: x[i], batch)).value
        )
        for i in (slice(1), slice(1, 2), slice(2, 4))
    ]
    mean = (values[0] + values[1] + 2 * values[2]) / 4
    assert loss_of(method, variables, batch).value == pytest.approx(mean, rel=1e-5)
    other = loss_of(method, variables, batch | {"index": batch["index"] + 4})
    if kind == "gumbel":
        assert other.value != loss_of(method, variables, batch).value
    else:
        assert np.all(other.observed["priority"] != whole["priority"])


def test_dead_codes_are_drawn_by_step_and_index():
    """Which vectors replace dead codes depends on the step's key and the indices of the
    batch, not on how the batch was split; another step draws others. Without restarts
    dead codes stay."""
    method, variables, batch = make_kind("vq"), variables_of("vq"), batch_of(8)
    state = variables.state["dvae"]
    dead = {**state, "counts": state["counts"].at[4:].set(0.0) * 1e3}
    variables = Variables(variables.params, {"dvae": dead})

    def moved(key, *parts):
        parts = [loss_of(method, variables, part, key=key).observed for part in parts]
        observed = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        new, _ = method.after_step(variables, (), observed)
        return np.asarray(new["dvae"]["embedding"]), observed["vectors"]

    halves = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (np.s_[:4], np.s_[4:])]
    whole, vectors = moved(KEY, batch)
    split, _ = moved(KEY, *halves)
    np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-5)
    flat = np.asarray(vectors).reshape(-1, vectors.shape[-1])
    for entry in whole[4:]:
        assert np.abs(flat - entry).sum(axis=1).min() < 1e-5
    other, _ = moved(jax.random.key(5), batch)
    assert not np.allclose(other[4:], whole[4:])
    kept = make_kind("vq", dvae__restart=False)
    observed = loss_of(method, variables, batch).observed
    new, _ = kept.after_step(variables, (), observed)
    assert np.all(np.asarray(new["dvae"]["counts"])[4:] < 100)


@each_kind
def test_counts_follow_the_batch(kind):
    """Without memory (decay 0) the counts after a step are those of the whole batch's
    codes, and the next step logs their perplexity and usage."""
    method = make_kind(kind, dvae__decay=0.0, dvae__restart=False)
    variables, batch = variables_of(kind), batch_of()
    loss = loss_of(method, variables, batch)
    state, aux = method.after_step(variables, (), loss.observed)
    counts = np.bincount(np.asarray(loss.observed["codes"]).reshape(-1), minlength=8)
    np.testing.assert_allclose(state["dvae"]["counts"], counts, rtol=1e-6)
    assert aux == ()
    metrics = loss_of(method, Variables(variables.params, state), batch).metrics
    p = counts / counts.sum()
    expected = np.exp(scipy.special.entr(p).sum())
    assert metrics["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert metrics["usage"] == pytest.approx(np.mean(p >= 0.1 / 8))


@pytest.mark.parametrize(
    "kind, likelihood",
    [("gumbel", "gaussian"), ("gumbel", "logit_laplace"), ("vq", "gaussian")],
)
def test_eight_examples_are_overfitted(kind, likelihood):
    """Eight images of 2x2 black and white blocks are reconstructed from their codes to
    a squared error below 0.01 in [0, 1]; their variance is 1/4."""
    config = config_of(DIGITS, model__name=kind, dvae__likelihood=likelihood)
    config.model.update(num_codes=16, width=32)
    config.dvae.update(noise_scale=0.2, temperature_steps=200, kl_weight=0.1)
    config.optim.update(learning_rate=3e-3, decay_start=None, decay_end=None)
    method = methods.make(config, {"image": image_field((8, 8, 1))})
    blocks = np.random.default_rng(0).choice([-1.0, 1.0], (8, 4, 4, 1))
    x = blocks.repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)
    batch = {"index": np.arange(8, dtype=np.int32), "image": x}
    state = jax.jit(functools.partial(states.initial, method))(jax.random.key(0))
    train_step = jax.jit(make_train_step(method, None))
    for _ in range(300):
        state, _ = train_step(state, batch)
    task = jax.jit(task_of(DIGITS, method, "reconstruct").run)
    rows = np.asarray(task(state.variables, batch, KEY)["rows"])
    assert np.mean(((rows[:, 1] - rows[:, 0]) / 2) ** 2) < 0.01


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model__name": "nosuch"}, "model.name 'nosuch'.*gumbel, vq"),
        ({"dvae__likelihood": "poisson"}, "dvae.likelihood.*logit_laplace"),
        ({"dvae__temperature_end": 0.0}, "dvae.temperature_end.*above 0"),
        ({"dvae__temperature_steps": 0}, "dvae.temperature_steps.*at least 1"),
        ({"dvae__decay": 1.0}, "dvae.decay"),
        ({"dvae__commitment": -1.0}, "dvae.commitment.*-1"),
        ({"model__num_codes": 1}, "model.num_codes.*at least 2"),
        ({"model__num_downsamplings": 4}, "factor of 16.*the images are 8x8"),
    ],
)
def test_refusals(change, words):
    """Invalid values are refused before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make(DIGITS, **change).init, KEY)


def test_data_of_another_range():
    """The logit-Laplace is for data in [-1, 1]; the normal distribution is for any."""
    field = image_field((8, 8, 1))._replace(range=(0.0, 5.0))
    config = config_of(DIGITS, dvae__likelihood="logit_laplace")
    with pytest.raises(ValueError, match="logit_laplace.*set dvae.likelihood=gaussian"):
        methods.make(config, {"image": field})
    config.dvae.likelihood = "gaussian"
    assert dataclasses.is_dataclass(methods.make(config, {"image": field}))
