"""Recurrent layers, attention and Transformers equal PyTorch's for the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from torch_layers import distance  # noqa: E402

from diffusion_jax.models.recurrent import Recurrent  # noqa: E402
from diffusion_jax.models.text_encoder import TextEncoder  # noqa: E402
from diffusion_jax.models.transformer import (  # noqa: E402
    GPT,
    KeysValues,
    MultiHeadAttention,
    Transformer,
)

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}  # of `distance`
WIDTH, HEADS = 12, 2


def randomised(net, dtype):
    """Their network with random weights of std 0.3, scales near 1; no dropout."""
    rng = np.random.default_rng(0)
    net = net.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, leaf in net.named_parameters():
            is_scale = leaf.ndim == 1 and "norm" in name or ".ln_" in name
            z = 0.3 * rng.standard_normal(tuple(leaf.shape))
            leaf.copy_(torch.from_numpy(z + (is_scale and name.endswith("weight"))))
    return net


def of(tensor):
    return tensor.detach().numpy()


def dense(weight, bias):
    return {"kernel": of(weight).T, "bias": of(bias)}


def norm(layer):
    return {"scale": of(layer.weight), "bias": of(layer.bias)}


def attention_of(theirs):
    """Our parameters of their nn.MultiheadAttention."""
    weights = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    found = {
        name: dense(weight, bias)
        for name, weight, bias in zip(("query", "key", "value"), *weights, strict=True)
    }
    return found | {"out": dense(theirs.out_proj.weight, theirs.out_proj.bias)}


def mlp_of(hidden, out):
    return {
        "hidden": dense(hidden.weight, hidden.bias),
        "out": dense(out.weight, out.bias),
    }


def encoder_layer(theirs):
    """Our parameters of their nn.TransformerEncoderLayer."""
    return {
        "norm1": norm(theirs.norm1),
        "attention": attention_of(theirs.self_attn),
        "norm2": norm(theirs.norm2),
        "mlp": mlp_of(theirs.linear1, theirs.linear2),
    }


def check(ours, theirs, params, their_params, dtype):
    """Compares outputs, and the gradients in the parameters of a random weighted sum.

    Args:
      ours: params -> output.
      theirs: () -> output.
      params: our parameters.
      their_params: the leaf of theirs for some of ours, by path.
      dtype: of all.
    """
    expected = theirs()
    weights = np.random.default_rng(2).standard_normal(expected.shape).astype(dtype)
    expected.backward(torch.from_numpy(weights))

    @jax.jit
    def both(params):
        output, pullback = jax.vjp(ours, params)
        return output, pullback(jnp.asarray(weights))[0]

    output, gradient = both(params)
    assert output.dtype == dtype
    assert distance(output, of(expected)) < TOLERANCE[dtype]
    if dtype == "float64":
        for path, leaf in their_params.items():
            found = gradient
            for name in path.split("/"):
                found = found[name]
            found = found.T if path.endswith("kernel") else found
            assert distance(found, of(leaf.grad)) < TOLERANCE[dtype], path


@pytest.fixture(autouse=True)
def precision(request):
    """Double precision where the test asks for it."""
    wide = request.node.callspec.params.get("dtype") == "float64"
    jax.config.update("jax_enable_x64", wide)
    yield
    jax.config.update("jax_enable_x64", False)


@DTYPES
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent(cell, dtype):
    """A layer is nn.LSTM, or nn.GRU. Where theirs adds two biases, ours has one."""
    net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](5, 4, batch_first=True)
    net = randomised(net, dtype)
    x = np.random.default_rng(1).standard_normal((3, 7, 5)).astype(dtype)
    first, second = of(net.bias_ih_l0), of(net.bias_hh_l0)
    if cell == "lstm":
        bias = first + second
    else:  # that of n is inside the reset gate
        gates = first + second
        bias = np.concatenate([gates[:8], first[8:], second[8:]])
    params = {
        "input": {"kernel": of(net.weight_ih_l0).T},
        "recurrent": of(net.weight_hh_l0).T,
        "bias": bias,
    }
    ours = Recurrent(cell, 4, dtype)
    check(
        lambda params: ours.apply({"params": params}, x, ours.initial(3))[0],
        lambda: net(torch.from_numpy(x))[0],
        params,
        {"input/kernel": net.weight_ih_l0},
        dtype,
    )


@DTYPES
def test_attention(dtype):
    """Several heads, with keys of another length and a mask: nn.MultiheadAttention."""
    net = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    net = randomised(net, dtype)
    draws = np.random.default_rng(1)
    x = draws.standard_normal((2, 4, WIDTH)).astype(dtype)
    y = draws.standard_normal((2, 6, WIDTH)).astype(dtype)
    mask = draws.uniform(size=(4, 6)) < 0.6
    mask[:, 0] = True
    ours = MultiHeadAttention(HEADS, WIDTH, dtype=dtype)

    def run(network, method):
        keys_values = network.keys_values(jnp.asarray(y))
        return getattr(network, method)(jnp.asarray(x), keys_values, mask[None, None])

    def apply(params, method="__call__"):
        return ours.apply({"params": params}, method, method=run)

    def theirs(weights=False):
        inputs = (torch.from_numpy(z) for z in (x, y, y))
        return net(
            *inputs, attn_mask=torch.from_numpy(~mask), average_attn_weights=False
        )[int(weights)]

    params = attention_of(net)
    their_params = {"out/kernel": net.out_proj.weight, "out/bias": net.out_proj.bias}
    check(apply, theirs, params, their_params, dtype)
    weights = jax.jit(lambda params: apply(params, "weights"))(params)
    assert distance(weights, of(theirs(True))) < TOLERANCE[dtype]


def transformer_pair(dtype):
    """Their nn.Transformer between embeddings and logits, ours, and our parameters."""
    net = torch.nn.Transformer(
        WIDTH, HEADS, 2, 2, 20, 0.0, batch_first=True, norm_first=False
    )
    net.encoder.norm = net.decoder.norm = None  # the paper has no norm at the end
    net.embed = torch.nn.Embedding(9, WIDTH)
    net.embed_source = torch.nn.Embedding(8, WIDTH)
    net = randomised(net, dtype)
    params = {
        "embed": {"embedding": of(net.embed.weight)},
        "embed_source": {"embedding": of(net.embed_source.weight)},
    }
    for i, layer in enumerate(net.encoder.layers):
        params[f"encoder_{i}"] = encoder_layer(layer)
    for i, layer in enumerate(net.decoder.layers):
        params[f"decoder_{i}"] = {
            "attention": attention_of(layer.self_attn),
            "norm1": norm(layer.norm1),
            "cross_attention": attention_of(layer.multihead_attn),
            "norm2": norm(layer.norm2),
            "mlp": mlp_of(layer.linear1, layer.linear2),
            "norm3": norm(layer.norm3),
        }
    return net, Transformer(9, 8, 2, HEADS, WIDTH, 20, 0.0, dtype), params


def by_formula(length, dtype):
    """The paper's positions, entry by entry."""
    table = np.zeros((length, WIDTH))
    for p in range(length):
        for i in range(WIDTH // 2):
            angle = p / 10000 ** (2 * i / WIDTH)
            table[p, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    return torch.from_numpy(table.astype(dtype))


@DTYPES
def test_transformer(dtype):
    """The encoder-decoder is nn.Transformer, with the paper's positions and embeddings,
    and masks of the future and of the source's padding."""
    net, ours, params = transformer_pair(dtype)
    draws = np.random.default_rng(1)
    source = draws.integers(1, 8, (3, 6))
    source[1, 4:], source[2, 1:] = 0, 0
    target = draws.integers(1, 9, (3, 5))

    def theirs():
        def embed(layer, tokens):
            x = layer(torch.from_numpy(tokens)) * WIDTH**0.5
            return x + by_formula(tokens.shape[1], dtype)

        future = torch.triu(torch.ones(5, 5, dtype=bool), 1)
        pad = torch.from_numpy(source == 0)
        x = net(
            embed(net.embed_source, source),
            embed(net.embed, target),
            tgt_mask=future,
            src_key_padding_mask=pad,
            memory_key_padding_mask=pad,
        )
        return x @ net.embed.weight.T

    check(
        lambda params: ours.apply({"params": params}, source, target),
        theirs,
        params,
        {
            "embed/embedding": net.embed.weight,
            "embed_source/embedding": net.embed_source.weight,
            "decoder_0/cross_attention/out/kernel": (
                net.decoder.layers[0].multihead_attn.out_proj.weight
            ),
            "encoder_1/norm1/scale": net.encoder.layers[1].norm1.weight,
        },
        dtype,
    )


@DTYPES
def test_text_encoder(dtype):
    """The encoder of captions is nn.TransformerEncoder with norms first, and a mask of
    padding."""
    pattern = torch.nn.TransformerEncoderLayer(
        WIDTH,
        HEADS,
        4 * WIDTH,
        0.0,
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    net = torch.nn.TransformerEncoder(pattern, 2, torch.nn.LayerNorm(WIDTH), False)
    net.embed = torch.nn.Embedding(9, WIDTH)
    net = randomised(net, dtype)
    params = {
        "Embed_0": {"embedding": of(net.embed.weight)},
        "LayerNorm_0": norm(net.norm),
    }
    for i, layer in enumerate(net.layers):
        params[f"GPTLayer_{i}"] = encoder_layer(layer)
    ours = TextEncoder(9, 2, HEADS, WIDTH, 0.0, dtype)
    captions = np.random.default_rng(1).integers(1, 9, (3, 6))
    captions[1, 4:], captions[2, 1:] = 0, 0

    def theirs():
        x = net.embed(torch.from_numpy(captions)) + by_formula(6, dtype)
        return net(x, src_key_padding_mask=torch.from_numpy(captions == 0))

    check(
        lambda params: ours.apply({"params": params}, captions).tokens,
        theirs,
        params,
        {
            "Embed_0/embedding": net.embed.weight,
            "LayerNorm_0/scale": net.norm.weight,
            "GPTLayer_0/attention/out/kernel": net.layers[0].self_attn.out_proj.weight,
            "GPTLayer_1/mlp/hidden/kernel": net.layers[1].linear1.weight,
        },
        dtype,
    )


@DTYPES
def test_gpt(dtype):
    """The decoder is GPT-2 of the library transformers, cached or not."""
    config = transformers.GPT2Config(
        vocab_size=11,
        n_positions=10,
        n_embd=WIDTH,
        n_layer=2,
        n_head=HEADS,
        activation_function="gelu_new",
        attn_implementation="eager",
    )
    net = randomised(transformers.GPT2LMHeadModel(config), dtype)
    body = net.transformer

    def conv1d(layer):
        return {"kernel": of(layer.weight), "bias": of(layer.bias)}

    params = {
        "embed": {"embedding": of(body.wte.weight)},
        "embed_position": {"embedding": of(body.wpe.weight)},
        "norm": norm(body.ln_f),
    }
    for i, block in enumerate(body.h):
        joint = conv1d(block.attn.c_attn)
        parts = (np.split(joint[name], 3, axis=-1) for name in ("kernel", "bias"))
        names = "query", "key", "value"
        params[f"layers_{i}"] = {
            "norm1": norm(block.ln_1),
            "attention": {
                name: {"kernel": kernel, "bias": bias}
                for name, kernel, bias in zip(names, *parts, strict=True)
            }
            | {"out": conv1d(block.attn.c_proj)},
            "norm2": norm(block.ln_2),
            "mlp": {"hidden": conv1d(block.mlp.c_fc), "out": conv1d(block.mlp.c_proj)},
        }
    ours = GPT(11, 10, 2, HEADS, WIDTH, "learned", 0.0, dtype)
    tokens = np.random.default_rng(1).integers(0, 11, (3, 8))
    check(
        lambda params: ours.apply({"params": params}, tokens),
        lambda: net(torch.from_numpy(tokens)).logits,
        params,
        {
            "embed/embedding": body.wte.weight,
            "embed_position/embedding": body.wpe.weight,
            "layers_1/mlp/out/bias": body.h[1].mlp.c_proj.bias,
            "layers_0/norm1/scale": body.h[0].ln_1.weight,
        },
        dtype,
    )
    variables = {"params": params}
    cache = ours.apply(variables, 3, method="init_cache")
    assert all(isinstance(x, KeysValues) for x in cache)
    step = jax.jit(lambda *args: ours.apply(variables, *args, method="step"))
    theirs = of(net(torch.from_numpy(tokens)).logits)
    for i in range(8):
        logits, cache = step(cache, tokens[:, i], jnp.int32(i))
        assert distance(logits, theirs[:, i]) < TOLERANCE[dtype]
