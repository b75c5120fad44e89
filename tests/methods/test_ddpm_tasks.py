"""Laws of a diffusion model's tasks other than sampling, and of its likelihood."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import config_of, fields_of, images

from diffusion_jax import methods
from diffusion_jax.diffusion import ode_likelihood
from diffusion_jax.training.state import Variables

KEY = jax.random.key(5)
NONE = Variables({"net": {}}, {})
COLUMNS = {
    "reconstruct": 3,
    "interpolate": 9,
    "slerp": 9,
    "inpaint": 6,
    "img2img": 5,
}


class Shrink:
    """A network without parameters: a share of its input, moved by the label."""

    def __init__(self, share=0.3):
        self.share = share

    def apply(self, variables, x, t, cond):
        moved = 0.1 * cond["label"].reshape(-1, 1, 1, 1) if cond else 0
        return self.share * x[..., :1] + moved  # of x_t, without self_cond


def digits_config(**values):
    """The config digits:tiny with 40 timesteps; keys of values are GROUP__NAME."""
    defaults = {
        "diffusion__num_timesteps": 40,
        "diffusion__schedule": "linear",
        "sample__num_steps": 20,
    }
    return config_of("digits", **defaults | values)


def make_task(name, network=None, **values):
    """A task of the network, by default `Shrink`."""
    config = digits_config(**values)
    method = methods.make(config, fields_of(config))
    method = dataclasses.replace(method, network=network or Shrink())
    return methods.make_task(config, method, name)


def batch_of(n=3):
    """Images and their partners, with labels."""
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": images(n, seed=1),
        "label": np.arange(n, dtype=np.int32),
        "partner_image": images(n, seed=2),
        "partner_label": np.arange(n, dtype=np.int32)[::-1],
    }


def run(task, *batches):
    """The task's rows for each batch, compiled once."""
    compiled = jax.jit(lambda batch: task.run(NONE, batch, KEY))
    batches = [{name: x[name] for name in ("index", *task.inputs)} for x in batches]
    return [np.asarray(compiled(batch)["rows"]) for batch in batches]


@pytest.mark.parametrize("name", COLUMNS)
def test_rows(name):
    """A row begins with its example, ends with its partner where there is one, and does
    not depend on the examples next to it."""
    order, batch = np.array([2, 0, 0]), batch_of()
    task = make_task(name, sample__sampler="ancestral", sample__num_steps=8)
    rows, again = run(task, batch, jax.tree.map(lambda x: x[order], batch))
    assert task.outputs["rows"].shape == rows.shape[1:]
    assert task.outputs["rows"].axes == ("column",)
    assert len(task.outputs["rows"].names) == COLUMNS[name]
    chex.assert_shape(rows, (3, COLUMNS[name], 8, 8, 1))
    chex.assert_tree_all_finite(rows)
    np.testing.assert_array_equal(rows[:, 0], batch["image"])
    if name in ("interpolate", "slerp"):
        np.testing.assert_array_equal(rows[:, -1], batch["partner_image"])
    if name == "inpaint":
        kept = np.broadcast_to(batch["image"][:, None, :, :4], rows[:, :, :, :4].shape)
        np.testing.assert_array_equal(rows[:, :, :, :4], kept)
    if name in ("inpaint", "img2img"):  # the last four are samples
        assert np.abs(rows[:, -1] - rows[:, -2]).max() > 1e-3
    np.testing.assert_allclose(again, rows[order], atol=1e-5)


@pytest.mark.parametrize("name", ["reconstruct", "slerp"])
def test_encoding_is_inverted(name):
    """The ends of an arc between two x_T, and one x_T itself, decode to their images; a
    network with v = 0 has a straight ODE, which is solved exactly."""
    batch = batch_of()
    (rows,) = run(make_task(name, Shrink(0.0)), batch)
    column = {"reconstruct": 2, "slerp": 1}[name]
    np.testing.assert_allclose(rows[:, column], batch["image"], atol=0.02)
    if name == "slerp":
        np.testing.assert_allclose(rows[:, -2], batch["partner_image"], atol=0.02)


def test_labels_and_self_conditioning():
    """Classes and self-conditioning are supported: an example's own label changes its
    image, and in a mixture the label of the nearer end does."""
    values = {"model__num_classes": 10, "diffusion__self_condition": True}
    batch = batch_of()
    one, two = run(
        make_task("interpolate", **values),
        batch | {"label": np.zeros(3, np.int32)},
        batch | {"label": np.full(3, 9, np.int32)},
    )
    moved = np.abs(one - two).max(axis=(0, 2, 3, 4))
    assert np.all(moved[1:5] > 1e-3) and np.all(moved[5:] == 0)
    chex.assert_tree_all_finite(run(make_task("slerp", **values), batch))


@pytest.mark.parametrize("num_probes", [0, 2])
def test_likelihood_of_a_network_without_signal(monkeypatch, num_probes):
    """A network that always predicts x_0 = 0: its ODE is x_T = x_1 sigma_T / sigma_1,
    so that x_1 / alpha_1 is normal with std sigma_1 / (sigma_T alpha_1), in closed
    form.

    With x_0 of a few hundredths, and 200 steps of Heun's rule over log-SNR.
    """
    monkeypatch.setattr(ode_likelihood, "dequantize", lambda keys, x: x)
    task = make_task(
        "log_likelihood",
        Shrink(0.0),
        diffusion__num_timesteps=200,
        diffusion__prediction="x0",
        sample__num_steps=200,
        sample__spacing="logsnr",
        eval__num_probes=num_probes,
    )
    assert task.inputs == ("image",)
    batch = {"index": np.arange(3, dtype=np.int32), "image": 0.02 * images(3)}
    nats = jax.jit(lambda b: task.run(NONE, b, KEY)["log_likelihood"])(batch)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 200))
    first, last = alpha_bar[0], alpha_bar[-1]
    variance = (1 - first) / (1 - last) / first
    squares = np.square(batch["image"].astype(np.float64)).sum(axis=(1, 2, 3))
    expected = -0.5 * (squares / variance + 64 * np.log(2 * np.pi * variance))
    np.testing.assert_allclose(nats, expected, rtol=1e-3)


def test_pure_noise_has_no_likelihood():
    """A schedule that ends in pure noise is refused when the task is made."""
    with pytest.raises(ValueError, match="no signal at time T"):
        make_task("log_likelihood", diffusion__schedule="jsd")


@pytest.mark.parametrize(
    "task, values, words",
    [
        ("nosuch", {}, "task of a ddpm model 'nosuch'.*sample, translate, reconstruct"),
        ("interpolate", {"sample__strength": 0.0}, r"strength.*\(0, 1\]"),
        ("img2img", {"sample__strength": 1.5}, r"strength.*\(0, 1\]"),
        ("inpaint", {"sample__num_resamplings": 0}, "num_resamplings.*at least 1"),
        ("img2img", {"sample__strength": 0.01}, "sample.strength = 0.01.*num_steps"),
        ("log_likelihood", {"eval__num_probes": -1}, "num_probes.*at least 0"),
    ],
    ids=str,
)
def test_refusals(task, values, words):
    """Unknown tasks and invalid options are refused when the task is made."""
    with pytest.raises(ValueError, match=words):
        make_task(task, **values)


def test_sampling_starts_at_strength():
    """Sampling from the middle visits the timesteps that are left, and none above."""
    seen = []

    class Spy:
        def apply(self, variables, x, t, cond):
            jax.debug.callback(lambda t: seen.append(int(t[0]) + 1), t)
            return jnp.zeros_like(x)

    values = {"sample__strength": 0.5, "sample__spacing": "trailing"}
    run(make_task("interpolate", Spy(), **values), batch_of(1))
    jax.effects_barrier()
    assert set(seen) == set(range(2, 21, 2))
