"""The parameters of our U-Net from those of diffusers' UNet2DModel.

The map is a bijection: each of their tensors is used once, and each of our leaves is
filled once.
"""

import re

import flax.traverse_util
import jax
import numpy as np

LAYERS = {
    "time_emb_proj": "time",
    "conv_shortcut": "shortcut",
    "group_norm": "norm",
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "out",
}

# Their module, as a pattern -> ours. L is the level counted from full resolution.
MODULES = (
    (r"conv_in", "conv_in"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_out", "conv_out"),
    (r"time_embedding\.linear_(\d)", r"time\1"),
    (r"(down|up)_L(\d)\.resnets\.(\d)\.(.+)", r"\1\2_block\3/\4"),
    (r"(down|up)_L(\d)\.attentions\.(\d)\.(.+)", r"\1\2_block\3_attention/\4"),
    (r"(down|up)_L(\d)\.(?:down|up)samplers\.0\.conv", r"\1\2_conv"),
    (r"mid_block\.resnets\.(\d)\.(.+)", r"middle_block\1/\2"),
    (r"mid_block\.attentions\.0\.(.+)", r"middle_block0_attention/\1"),
)


def our_path(name: str, levels: int) -> str:
    """Returns our 'module/layer/leaf' for the name of one of their tensors.

    Raises:
      KeyError: our tree has no place for it.
    """
    name = re.sub(r"down_blocks\.(\d)", r"down_L\1", name)
    # They count decoder levels from the lowest resolution.
    name = re.sub(
        r"up_blocks\.(\d)", lambda up: f"up_L{levels - 1 - int(up.group(1))}", name
    )
    module, leaf = name.rsplit(".", 1)
    for theirs, ours in MODULES:
        match = re.fullmatch(theirs, module)
        if match:
            *head, layer = match.expand(ours).split("/")
            layer = LAYERS.get(layer, layer)
            if leaf == "weight":
                leaf = "scale" if "norm" in layer else "kernel"
            return "/".join([*head, layer, leaf])
    raise KeyError(name)


def our_layout(path: str, value: np.ndarray) -> np.ndarray:
    """Transposes a tensor to our layout: OIHW -> HWIO, and [out, in] -> [in, out]."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        if "shortcut" in path:  # a 1x1 convolution is a dense layer per pixel
            value = value[0, 0]
    elif value.ndim == 2:
        value = value.T
    return value


def from_diffusers(tensors: dict[str, np.ndarray], params: dict, levels: int) -> dict:
    """Fills our parameter tree with their tensors.

    Args:
      tensors: their state_dict (or gradients of the same names), as arrays.
      params: our parameters, or their shapes.
      levels: the number of resolutions.

    Returns:
      A tree like params, of the tensors' dtype.

    Raises:
      AssertionError: a leaf stays empty or is filled twice, or shapes differ.
    """
    filled = {}
    for name, value in tensors.items():
        path = our_path(name, levels)
        assert path not in filled, f"{path} is filled twice, the second time by {name}."
        filled[path] = our_layout(path, value)
    empty = flax.traverse_util.flatten_dict(params, sep="/")
    assert filled.keys() == empty.keys(), sorted(filled.keys() ^ empty.keys())
    for path, leaf in empty.items():
        assert filled[path].shape == leaf.shape, path
    tree = flax.traverse_util.unflatten_dict(filled, sep="/")
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    return tree


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict:
    """Draws every tensor at random, because zeros and ones hide differences: f64.

    Weights are normal with the variance 1 / fan_in, scales of norms 1 + 0.2 z, and
    biases 0.2 z: activations stay near 1 in size.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        z = rng.standard_normal(shape)
        if len(shape) > 1:
            return z / np.sqrt(np.prod(shape[1:]))
        is_scale = "norm" in name and name.endswith("weight")
        return 0.2 * z + (1.0 if is_scale else 0.0)

    return {name: draw(name, shape) for name, shape in shapes.items()}
