"""Laws of attention: its values, and where it is fused."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models import attention as attention_file
from diffusion_jax.models.attention import attention, is_fused
from diffusion_jax.models.unet import UNet

MARK = 12345.0  # in the lowered text, where cuDNN's attention would be


def heads(dtype, channels=16, seed=0):
    """Random q [2, 5, C], k and v [2, 7, C]."""
    draws = np.random.default_rng(seed)
    return [jnp.asarray(draws.normal(size=(2, n, channels)), dtype) for n in (5, 7, 7)]


def by_hand(q, k, v):
    """Equation 1 of the paper, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "dtype,rtol", [("float64", 1e-13), ("float32", 1e-5), ("bfloat16", 0.03)]
)
def test_values(dtype, rtol):
    """The paper's equation, to the precision of the dtype, which the result has."""
    q, k, v = heads(dtype)
    found = jax.jit(attention)(q, k, v)
    assert found.dtype == dtype
    scale = np.abs(by_hand(q, k, v)).max()
    np.testing.assert_allclose(
        np.asarray(found, np.float64) / scale, by_hand(q, k, v) / scale, atol=rtol
    )


@pytest.mark.usefixtures("x64")
def test_heads_and_masks():
    """Each head by itself is the paper's equation over the keys that the mask leaves;
    the others may be anything."""
    draws = np.random.default_rng(0)
    q, k, v = (draws.normal(size=(2, 3, n, 4)) for n in (5, 7, 7))
    mask = draws.uniform(size=(2, 1, 5, 7)) < 0.5
    mask[..., 0] = True
    found = jax.jit(attention)(q, k, v, mask)
    assert found.shape == q.shape
    for b, h, t in np.ndindex(2, 3, 5):
        kept = mask[b, 0, t]
        one = q[b : b + 1, h, t : t + 1], k[b : b + 1, h, kept], v[b : b + 1, h, kept]
        np.testing.assert_allclose(found[b, h, t], by_hand(*one)[0, 0], rtol=1e-12)


def test_nothing_to_attend_to():
    """A query whose keys are all masked gets their mean value, and finite gradients."""
    q, k, v = heads("float32")
    mask = jnp.zeros((2, 1, 7), bool)
    found = attention(q, k, v, mask)
    mean = np.broadcast_to(np.mean(v, axis=1, keepdims=True), found.shape)
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda *x: jnp.sum(attention(*x, mask)), (0, 1, 2))(q, k, v)
    assert all(np.all(np.isfinite(x)) for x in gradient)


def test_softmax_of_large_logits_is_in_float32():
    """Of logits that differ by less than bfloat16 resolves relative to the largest
    weight, the small weights still add up: 4096 equal weights sum to 1."""
    q = jnp.zeros((1, 1, 8), "bfloat16")
    k, v = jnp.zeros((1, 4096, 8), "bfloat16"), jnp.ones((1, 4096, 8), "bfloat16")
    np.testing.assert_allclose(np.asarray(attention(q, k, v), float), 1, atol=1e-2)


@pytest.mark.parametrize(
    "dtype,head_dim,capability,expected",
    [
        ("bfloat16", 128, 8, True),
        ("float16", 64, 8, True),
        ("bfloat16", 256, 9, True),  # the head of the CIFAR-10 U-Net on Hopper
        ("bfloat16", 256, 8, False),
        ("bfloat16", 256, 10, False),
        ("bfloat16", 512, 9, False),  # the heads of the 256x256 U-Net
        ("bfloat16", 20, 9, False),
        ("float32", 64, 9, False),
        ("float64", 64, 9, False),
        ("bfloat16", 64, 7, False),
        ("bfloat16", 64, 0, False),
    ],
)
def test_what_is_fused(dtype, head_dim, capability, expected):
    """cuDNN's rules: half precision, a multiple of 8, and the GPU's largest head."""
    assert is_fused(dtype, head_dim, capability) == expected


@pytest.fixture
def marked(monkeypatch):
    """cuDNN's attention is plain attention times MARK, as there is no GPU here."""

    def marked(q, k, v, mask, implementation):
        assert implementation == "cudnn"
        assert q.ndim == k.ndim == v.ndim == 4  # [B, T, heads, C]
        heads = (x.swapaxes(1, 2) for x in (q, k, v))
        return MARK * attention_file.plain(*heads, mask).swapaxes(1, 2)

    monkeypatch.setattr(jax.nn, "dot_product_attention", marked)
    monkeypatch.setattr(attention_file, "compute_capability", lambda: 9)


def has_mark(text):
    return bool(re.search(r"1[.]23\d*E?[+]?0*4|0x46[0-9A-F]{2}", text, re.IGNORECASE))


@pytest.mark.parametrize("differentiate", [False, True])
def test_the_platform_is_chosen_when_lowered(marked, differentiate):
    """One trace on a machine with a Hopper GPU holds the fused kernel if it is lowered
    for CUDA, and only then; it runs on the CPU, with plain attention's values."""
    function = attention
    if differentiate:
        function = jax.grad(lambda *x: jnp.sum(attention(*x)))
    traced = jax.jit(function).trace(*heads("bfloat16"))
    found = {
        platform: has_mark(traced.lower(lowering_platforms=(platform,)).as_text())
        for platform in ("cuda", "cpu", "tpu")
    }
    assert found == {"cuda": True, "cpu": False, "tpu": False}
    if not differentiate:
        plain = attention_file.plain(*heads("bfloat16"))
        np.testing.assert_array_equal(jax.jit(function)(*heads("bfloat16")), plain)


@pytest.mark.parametrize("lengths, expected", [((6, 8), True), ((5, 8), False)])
def test_fused_with_a_mask(marked, lengths, expected):
    """With a mask, several heads are fused if both lengths are even: cuDNN's backward
    pass supports no other. The axes of heads come back as they were."""
    draws = np.random.default_rng(0)
    t, s = lengths
    q, k, v = (
        jnp.asarray(draws.normal(size=(2, 3, n, 16)), "bfloat16") for n in (t, s, s)
    )
    mask = jnp.asarray(draws.uniform(size=(2, 1, t, s)) < 0.7)
    traced = jax.jit(attention).trace(q, k, v, mask)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert has_mark(text) == expected
    fused = attention_file.fused(q, k, v, mask).astype("float32")
    plain = attention_file.plain(q, k, v, mask).astype("float32")
    np.testing.assert_allclose(fused, MARK * plain, rtol=0.02)


@pytest.mark.parametrize(
    "dtype,capability,expected",
    [("bfloat16", 9, True), ("bfloat16", 0, False), ("float32", 9, False)],
)
def test_the_network_is_fused(marked, monkeypatch, dtype, capability, expected):
    """The U-Net's attention is fused in bfloat16 on such a GPU, in training, too."""
    monkeypatch.setattr(attention_file, "compute_capability", lambda: capability)
    net = UNet(8, (1,), 0, (), 0.0, 3, dtype=dtype)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), x, t)

    def loss(params, x, t):
        return jnp.sum(net.apply(params, x, t))

    traced = jax.jit(jax.grad(loss)).trace(params, x, t)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert has_mark(text) == expected
    assert not has_mark(traced.lower(lowering_platforms=("cpu",)).as_text())


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ({"compute_capability": "9.0"}, 9),
        ({"compute_capability": "12.1"}, 12),
        ({"compute_capability": "gfx942"}, 0),  # AMD
        ({}, 0),
    ],
)
def test_compute_capability(attributes, expected, monkeypatch):
    """The major number of NVIDIA's GPUs; other devices have none."""
    device = types.SimpleNamespace(**attributes)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert attention_file.compute_capability() == expected
