"""A scorer of images and captions: a small CLIP."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import Field
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.models import CONTRASTIVE
from diffusion_jax.models.contrastive import Embeddings
from diffusion_jax.objectives.contrastive import caption_targets, info_nce
from diffusion_jax.training import parallel
from diffusion_jax.training.state import Loss, Variables


@dataclasses.dataclass(frozen=True)
class Contrastive(base.SingleNetwork):
    """Embeddings in which an image is similar to its caption, unlike to others.

    Attributes:
      caption: the field of captions; `data` and `field` are those of images.
      axis: name of the axis of the devices that share a batch; None if they do not.

    Source: Radford et al. 2021, section 2.3, arXiv:2103.00020.
    """

    caption: Field
    axis: str | None

    @property
    def couples_examples(self) -> bool:
        """The captions of a batch are each other's negatives."""
        return True

    def init(self, key: Array) -> tuple[Variables, base.PyTree]:
        """Initialises the network."""
        image = jnp.zeros((1, *self.field.shape), self.field.dtype)
        caption = jnp.zeros((1, *self.caption.shape), jnp.int32)
        params = self.network.init(key, image, caption)["params"]
        return Variables({base.GROUP: params}, {}), ()

    def embed(self, variables: Variables, image: Array, caption: Array) -> Embeddings:
        """Embeds images [B, H, W, C] and captions i32[B, L]."""
        return self.apply(variables, image, caption)

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """Cross-entropy of the caption given the image, and of the image, averaged.

        The candidates are those of the whole batch, on all devices.

        Source: Radford et al. 2021, figure 3, arXiv:2103.00020.
        """
        caption = batch["caption"]
        image, text, scale = self.embed(variables, batch[self.data], caption)
        images, texts, captions = parallel.gather((image, text, caption), self.axis)
        targets = caption_targets(caption, captions)
        of_text = info_nce(image, texts, targets, scale)
        of_image = info_nce(text, images, targets, scale)
        metrics = {
            "image_to_text": jnp.mean(of_text),
            "text_to_image": jnp.mean(of_image),
            "scale": scale,
        }
        return Loss((jnp.mean(of_text) + jnp.mean(of_image)) / 2, metrics)


def make_embed(method: Contrastive, options: base.NoOptions) -> base.Task:
    """Returns the task with outputs "image_embedding" and "text_embedding", [B, E]."""

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        found = method.embed(variables, batch[method.data], batch["caption"])
        return {"image_embedding": found.image, "text_embedding": found.text}

    field = Field((method.network.num_features,), np.float32, "vector")
    outputs = dict.fromkeys(("image_embedding", "text_embedding"), field)
    return base.Task(run, (method.data, "caption"), outputs)


def defaults() -> ConfigDict:
    """Returns the settings of a small scorer of 8x8 digits with captions."""
    config = common.defaults("contrastive")
    config.data.source = "captions:digits"
    config.model = config_dict.create(
        name="clip",
        channels=(32, 64),  # of the convolutions; each halves the size
        caption_width=64,  # of the text encoder and the hidden layer of images
        caption_layers=2,  # layers of the text encoder
        caption_heads=4,  # heads of its attention
        num_features=64,  # width of the embeddings
    )
    config.sample.task = "embed"
    config.eval.metric = "retrieval"
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.data.source = "captions:digits"
    config.model.update(channels=(8,), caption_width=8, caption_heads=2)
    config.model.update(caption_layers=1, num_features=8)
    config.optim.warmup_steps = min(1, config.optim.warmup_steps)


def make(config: ConfigDict, fields: base.Fields) -> Contrastive:
    """Builds a scorer from the groups model and optim."""
    caption = base.caption_field(fields, config.data.source)
    network = base.make_network(CONTRASTIVE, config, vocabulary_size=caption.size)
    data, field = base.data_field(fields, ("image",))
    phases, axis = base.single_phase(config), parallel.axis()
    return Contrastive(phases, network, data, field, caption, axis)


TASKS = {"embed": (base.NoOptions, make_embed)}
FAMILY = base.Family(make, defaults, TASKS)
