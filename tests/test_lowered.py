"""Programs lowered for GPUs and TPUs on a machine without them: what is in their text.

Fused attention is in none of them, since JAX traces it only where there is a GPU.
"""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from smoke import load

from diffusion_jax import methods
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.data.texts import tokens_field
from diffusion_jax.data.vocabulary import build
from diffusion_jax.training.state import trace_initial
from diffusion_jax.training.step import make_train_step

PLATFORMS = ("cuda", "tpu")
IMAGE, LABEL = image_field((8, 8, 1)), label_field(10)
ONE = {"image": IMAGE, "label": LABEL}
TWO = {"image_a": IMAGE, "image_b": IMAGE}
PAIR = ONE | {"cond_image": IMAGE}
POINTS = {"points": Field((2,), np.float32, "points")}
CAPTIONED = ONE | {"caption": tokens_field(5, build("characters", ["abcdef"]))}
UNET = {"model__attention_resolutions": (4,), "model__dropout": 0.1}
# A config, what is changed in its smoke run, the fields of its data, and its task.
PROGRAMS = {
    "ddpm": ("digits", UNET | {"model__num_classes": 10}, ONE, "sample"),
    "vae": ("fashion_mnist_vae", {}, ONE, "sample"),
    "autoencoder": ("fashion_mnist_autoencoder", {}, ONE, "reconstruct"),
    "dvae": ("digits_dvae", {}, ONE, "codes"),
    "vqvae": ("digits_dvae", {"model__name": "vq"}, ONE, "reconstruct"),
    "dalle": ("digits_dalle", {}, CAPTIONED, "sample"),
    "captions": ("digits_captions", {}, CAPTIONED, "sample"),
    "cascade": ("digits_cascade", {}, CAPTIONED, "sample"),
    "dcgan": ("digits_dcgan", {"gan__sync_statistics": False}, ONE, "sample"),
    "wgan_gp": ("grid25_gan", {}, POINTS, "sample"),
    "cyclegan": ("digits_cyclegan", {}, TWO, "translate"),
    "pix2pix": ("digits_pix2pix", {}, PAIR, "sample"),
    "classifier": ("digits_classifier", {}, ONE, "classify"),
    "contrastive": ("digits_contrastive", {}, CAPTIONED, "embed"),
}
BFLOAT16 = {"model__dtype": "bfloat16"}
LARGE = {
    "ddpm": PROGRAMS["ddpm"],
    "ddpm_ddim": ("digits", UNET | {"sample__sampler": "ddim"}, ONE, "sample"),
    "remat": ("digits", UNET | {"model__remat": "elementwise"}, ONE, "sample"),
    "blocks": ("digits", UNET | {"model__remat": "blocks"}, ONE, "sample"),
    "slices": ("digits", UNET | {"train__accumulate": 2}, ONE, "sample"),
    "dcgan": PROGRAMS["dcgan"],
    "resnet": PROGRAMS["cyclegan"],
    "unet": ("fashion_mnist_cyclegan", {}, TWO, "translate"),
}
# JAX's own threefry kernel, where its GPU plugin is installed.
CUSTOM_CALLS = {"cuda": {"cu_threefry2x32_ffi"}, "tpu": set()}
PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general)\b.* : \((.*?)\) ->")


@functools.cache
def texts(name, dtype):
    """{(program, platform): lowered text} of the train step and of a task."""
    table = LARGE if dtype == "bfloat16" else PROGRAMS
    config_name, changes, fields, task = table[name]
    if dtype == "bfloat16":
        changes = changes | BFLOAT16
    config = load(config_name, **changes)
    method = methods.make(config, fields)
    if name == "contrastive":
        method = dataclasses.replace(method, axis=None)  # one device
    state = trace_initial(method).out_info
    batch = {
        key: jax.ShapeDtypeStruct((8, *field.shape), field.dtype)
        for key, field in fields.items()
    }
    batch["index"] = jax.ShapeDtypeStruct((8,), np.int32)
    step = make_train_step(method, None, config.train.accumulate)
    run = methods.make_task(config, method, task).run
    traced = {
        "step": jax.jit(step).trace(state, batch),
        "task": jax.jit(run).trace(state.variables, batch, state.key),
    }
    return {
        (program, platform): x.lower(lowering_platforms=(platform,)).as_text()
        for program, x in traced.items()
        for platform in PLATFORMS
    }


def cases():
    """Each family in float32, each network with a dtype in bfloat16."""
    programs = [(name, "float32") for name in PROGRAMS]
    programs += [(name, "bfloat16") for name in LARGE]
    return pytest.mark.parametrize("name,dtype", programs)


@cases()
def test_nothing_that_accelerators_lack(name, dtype):
    """No float64, no call of the host, no kernel of one platform in another's program:
    in the train step and in a task."""
    for (program, platform), text in texts(name, dtype).items():
        where = f"{program} for {platform}"
        assert "stablehlo." in text
        assert not re.search(r"\b(?:\w*x)?f64\b", text), where
        assert "callback" not in text, where
        calls = set(re.findall(r"custom_call @(\w+)", text))
        calls |= set(re.findall(r'call_target_name = "(\w+)"', text))
        assert calls <= CUSTOM_CALLS[platform], where


@pytest.mark.parametrize("name", LARGE)
def test_products_are_in_bfloat16(name):
    """Every convolution and matrix product has operands in bfloat16, in the forward and
    the backward pass; parameters, optimiser and averages stay float32."""
    for (program, platform), text in texts(name, "bfloat16").items():
        products = PRODUCT.findall(text)
        assert len(products) > 1
        for operands in products:
            types = re.findall(r"tensor<(?:\d+x)*(\w+)>", operands)
            assert types == ["bf16", "bf16"], f"{program} for {platform}: {operands}"
        assert "bf16" not in re.search(r"func.func public @main\((.*?)\n", text)[1]


def test_products_are_found():
    """The pattern finds every product: a float32 program has as many, in float32."""
    text = texts("ddpm", "float32")["step", "cuda"]
    number = len(re.findall(r"= stablehlo\.(?:convolution|dot_general)\b", text))
    found = PRODUCT.findall(text)
    assert len(found) == number > 50
    assert all(x.count("xf32>") == 2 for x in found)


@pytest.mark.parametrize("name", ["celeba_hq256", "lsun_church256", "celeba_dcgan64"])
def test_large_configs_compute_in_bfloat16(name):
    """The configs meant for accelerators; at the full size only the config is read."""
    assert load(name, variant="").model.dtype == "bfloat16"
