"""Laws of what can be seen of a diffusion model beside samples, and of its density."""

import dataclasses
import pathlib
import runpy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import methods
from diffusion_jax.data import sources, transforms
from diffusion_jax.methods.ddpm import tasks

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = jax.random.key(5)
COLUMNS = {
    "reconstruction": 3,
    "interpolation": 9,
    "slerp": 9,
    "inpainting": 6,
    "image_to_image": 5,
}


class Shrink:
    """A network without parameters: a share of its input, moved by the label."""

    def __init__(self, share=0.3):
        self.share = share

    def apply(self, variables, x, t, label=None):
        x = x[..., :1]  # self-conditioning shows more channels
        moved = 0 if label is None else 0.1 * label.reshape(-1, 1, 1, 1)
        return self.share * x + moved


def make_method(share=0.3, **values):
    """The digits' smoke run with 40 times; keys of values are GROUP__NAME."""
    config = runpy.run_path(str(ROOT / "configs/digits.py"))["get_config"]("tiny")
    config.diffusion.update(num_timesteps=40, schedule="linear", prediction="v")
    config.sample.num_steps = 20
    for name, value in values.items():
        group, key = name.split("__")
        config[group][key] = value
    return dataclasses.replace(methods.make(config), network=Shrink(share))


def batch_of(n=3):
    """Digits and their partners."""
    source = sources.make("digits", "test", 8, 1, None)
    batch = sources.read(source, np.arange(2 * n))
    images = transforms.to_float(batch["image"])
    return {
        "index": np.arange(n, dtype=np.int32),
        "image": images[:n],
        "label": batch["label"][:n],
        "partner_image": images[n:],
        "partner_label": batch["label"][n:],
    }


def rows_of(name, method, batch):
    """The view's rows."""
    view = jax.jit(lambda batch: method.views[name]({"net": {}}, {}, batch, KEY))
    return np.asarray(view(batch))


@pytest.mark.parametrize("name", tasks.VIEWS)
def test_rows(name):
    """A row begins with its example, ends with its partner where there is one, and does
    not depend on the examples beside it."""
    method, batch = make_method(sample__sampler="ancestral"), batch_of()
    rows = rows_of(name, method, batch)
    chex.assert_shape(rows, (3, COLUMNS[name], 8, 8, 1))
    chex.assert_tree_all_finite(rows)
    np.testing.assert_array_equal(rows[:, 0], batch["image"])
    if name in ("interpolation", "slerp"):
        np.testing.assert_array_equal(rows[:, -1], batch["partner_image"])
    if name == "inpainting":
        kept = np.broadcast_to(batch["image"][:, None, :, :4], rows[:, :, :, :4].shape)
        np.testing.assert_array_equal(rows[:, :, :, :4], kept)
    if name in ("inpainting", "image_to_image"):  # its last four are draws
        assert np.abs(rows[:, -1] - rows[:, -2]).max() > 1e-3
    order = np.array([2, 0, 0])
    again = rows_of(name, method, jax.tree.map(lambda x: x[order], batch))
    np.testing.assert_allclose(again, rows[order], atol=1e-5)


@pytest.mark.parametrize("name", ["reconstruction", "slerp"])
def test_codes_come_back(name):
    """The ends of an arc between codes, and a code itself, decode to their pictures; a
    network that says v = 0 has a straight ODE, which is solved exactly."""
    batch = batch_of()
    rows = rows_of(name, make_method(share=0.0), batch)
    place = {"reconstruction": 2, "slerp": 1}[name]
    np.testing.assert_allclose(rows[:, place], batch["image"], atol=0.02)
    if name == "slerp":
        np.testing.assert_allclose(rows[:, -2], batch["partner_image"], atol=0.02)


def test_labels_and_last_predictions():
    """Classes and self-conditioning are served: the own label moves the picture, and in
    a mixture the label of the nearer end does."""
    options = {"model__num_classes": 10, "diffusion__self_condition": True}
    method, batch = make_method(**options), batch_of()
    one = rows_of("interpolation", method, batch | {"label": np.zeros(3, np.int32)})
    two = rows_of("interpolation", method, batch | {"label": np.full(3, 9, np.int32)})
    moved = np.abs(one - two).max(axis=(0, 2, 3, 4))
    assert np.all(moved[1:5] > 1e-3) and np.all(moved[5:] == 0)
    chex.assert_tree_all_finite(rows_of("slerp", method, batch))


@pytest.mark.parametrize("num_probes", [0, 2])
def test_density_of_a_network_without_hope(monkeypatch, num_probes):
    """A network that always says x_0 = 0: its flow is x_T = x_1 sigma_T / sigma_1, so
    that x_1 / alpha_1 is normal with std sigma_1 / (sigma_T alpha_1), in closed form.

    With x_0 of a few hundredths, and 200 steps of Heun's rule over log-SNR.
    """
    monkeypatch.setattr(ode_likelihood, "dequantize", lambda keys, x: x)
    method = make_method(
        share=0.0,
        diffusion__num_timesteps=200,
        diffusion__prediction="x0",
        sample__num_steps=200,
        sample__spacing="logsnr",
        eval__num_probes=num_probes,
    )
    batch = batch_of()
    batch["image"] = 0.02 * batch["image"]
    run = jax.jit(lambda b: method.log_likelihood({"net": {}}, {}, b, KEY))
    nats = run({"index": batch["index"], "image": batch["image"]})
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 200))
    first, last = alpha_bar[0], alpha_bar[-1]
    variance = (1 - first) / (1 - last) / first
    squares = np.square(batch["image"].astype(np.float64)).sum(axis=(1, 2, 3))
    expected = -0.5 * (squares / variance + 64 * np.log(2 * np.pi * variance))
    np.testing.assert_allclose(nats, expected, rtol=1e-3)


def test_pure_noise_has_no_density():
    """A schedule that ends in pure noise is refused in words, before compilation."""
    method = make_method(diffusion__schedule="jsd")
    with pytest.raises(ValueError, match="no signal at time T"):
        method.log_likelihood({"net": {}}, {}, batch_of(), KEY)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"view": "nosuch"}, "nosuch.*samples, reconstruction, interpolation"),
        ({"start": 0.0}, r"start.*\(0, 1\]"),
        ({"start": 1.5}, r"start.*\(0, 1\]"),
        ({"num_resamplings": 0}, "num_resamplings.*at least 1"),
        ({"view": "image_to_image", "start": 0.01}, "sample.start = 0.01.*num_steps"),
    ],
    ids=str,
)
def test_refusals(values, words):
    """Unknown views and impossible values are refused when the method is made."""
    with pytest.raises(ValueError, match=words):
        make_method(**{f"sample__{key}": value for key, value in values.items()})
    with pytest.raises(ValueError, match="num_probes"):
        make_method(eval__num_probes=-1)


def test_start_of_a_walk():
    """A walk from the middle visits the knots that are left, and none above."""
    seen = []

    class Spy(Shrink):
        def apply(self, variables, x, t, label=None):
            jax.debug.callback(lambda t: seen.append(int(t[0]) + 1), t)
            return jnp.zeros_like(x)

    method = dataclasses.replace(
        make_method(sample__start=0.5, sample__spacing="trailing"), network=Spy()
    )
    rows_of("interpolation", method, batch_of(1))
    jax.effects_barrier()
    assert set(seen) == set(range(2, 21, 2))
