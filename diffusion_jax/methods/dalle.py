"""DALL-E: a Transformer over the tokens of a caption and the codes of its image."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.data.base import Field
from diffusion_jax.decoding import token_samplers
from diffusion_jax.decoding.generation import Decoder, classifier_free, generate
from diffusion_jax.methods import base, dvae
from diffusion_jax.methods import config as common
from diffusion_jax.models.transformer import GPT
from diffusion_jax.objectives.cross_entropy import cross_entropy
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Loss, Variables

IMAGE_WEIGHT = 7 / 8  # weight of the image's loss; the text has 1/8


@dataclasses.dataclass(frozen=True)
class DALLE(base.SingleNetwork):
    """A language model of captions followed by images.

    A sequence is END, the L tokens of the caption, and the N codes of the image, row by
    row. One vocabulary has all of them: V words, a padding token for each of the L
    positions, and K codes.

    The group "dvae" is frozen: it turns images into codes and back. Unlike the paper's
    model, this one has neither sparse attention nor embeddings of rows and columns, and
    reads words instead of byte pairs.

    Attributes:
      caption: the field of captions; `data` and `field` are those of images.
      dvae: the discrete autoencoder.
      cond_dropout: rate at which training replaces a caption by padding, in [0, 1).

    Source: Ramesh et al. 2021, section 2.2, arXiv:2102.12092.
    """

    caption: Field
    dvae: dvae.DiscreteAutoencoder
    cond_dropout: float

    @property
    def num_words(self) -> int:
        """V."""
        return self.caption.size

    @property
    def num_text(self) -> int:
        """L."""
        return self.caption.shape[0]

    @property
    def num_codes(self) -> int:
        """N, of an image."""
        return math.prod(self.dvae.network.grid)

    def init(self, key: Array) -> tuple[Variables, base.PyTree]:
        """Initialises the network and the autoencoder."""
        net_key, dvae_key = jax.random.split(key)
        tokens = jnp.zeros((1, self.num_text + self.num_codes), jnp.int32)
        params = {base.GROUP: self.network.init(net_key, tokens)["params"]}
        (frozen, state), _ = self.dvae.init(dvae_key)
        return Variables(params | frozen, state), ()

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """(text + 7 image) / 8: means of -log p over the tokens of either part.

        Source: Ramesh et al. 2021, section 2.2, arXiv:2102.12092.
        """
        drop_key, dropout_key = jax.random.split(key)
        keys = prng.example_keys(drop_key, batch["index"])
        dropped = prng.uniform(keys) < self.cond_dropout
        caption = jnp.where(dropped[:, None], PAD, batch["caption"])
        tokens = self.tokens(caption, self.codes(variables, batch[self.data]))
        logits = self.network.apply(
            {"params": variables.params[base.GROUP]},
            tokens[:, :-1],
            None,
            batch["index"],
            rngs={"dropout": dropout_key},
        )
        text, image = self.nats(logits, tokens, caption)
        num_tokens = jnp.sum(caption != PAD, axis=1)
        text = jnp.sum(text, axis=1) / jnp.maximum(num_tokens, 1)
        image = jnp.mean(image, axis=1)
        # Dropped captions cost nothing; the log has the mean of the others.
        of_text = jnp.mean(text) / (1 - self.cond_dropout)
        metrics = {"text": of_text, "image": jnp.mean(image)}
        value = (1 - IMAGE_WEIGHT) * text + IMAGE_WEIGHT * image
        return Loss(jnp.mean(value), metrics)

    def codes(self, variables: Variables, images: Array) -> Array:
        """Returns the codes of images, i32[B, N]."""
        codes = self.dvae.codes(variables, images)
        return jax.lax.stop_gradient(codes.reshape(len(codes), -1))

    def prompt(self, caption: Array) -> Array:
        """Returns END and the ids of captions i32[B, L], padding by its position."""
        pads = (self.num_words + jnp.arange(self.num_text))[None]
        text = jnp.where(caption == PAD, pads, caption)
        return jnp.pad(text, ((0, 0), (1, 0)), constant_values=END)

    def tokens(self, caption: Array, codes: Array) -> Array:
        """Returns the ids of whole sequences, i32[B, 1 + L + N].

        Args:
          caption: i32[B, L].
          codes: i32[B, N].
        """
        ids = self.num_words + self.num_text + codes
        return jnp.concatenate([self.prompt(caption), ids], axis=1)

    def allowed(self) -> np.ndarray:
        """Returns which ids may follow each position: bool[L + N, V + L + K]."""
        num_ids = self.num_words + self.num_text + self.dvae.network.num_codes
        is_code = np.arange(num_ids) >= self.num_words + self.num_text
        follows_text = np.arange(self.num_text + self.num_codes) >= self.num_text
        return is_code[None] == follows_text[:, None]

    def nats(self, logits: Array, tokens: Array, caption: Array) -> tuple[Array, Array]:
        """Computes -log p of each token given those before it and its modality.

        Args:
          logits: f32[B, L + N, V + L + K].
          tokens: i32[B, 1 + L + N].
          caption: i32[B, L]; its padding counts 0.

        Returns:
          Of the text f32[B, L], and of the image f32[B, N].
        """
        logits = jnp.where(self.allowed()[None], logits, -jnp.inf)
        nats = cross_entropy(logits, tokens[:, 1:])
        text, image = jnp.split(nats, [self.num_text], axis=1)
        return jnp.where(caption == PAD, 0.0, text), image

    def decoder(self, variables: Variables, captions: Array) -> Decoder:
        """Returns the model as a function of one token after the other.

        Args:
          variables: of the model.
          captions: i32[B, L], which replace the text that the decoder is given.
        """
        allowed = jnp.asarray(self.allowed())

        def init() -> tuple[Array, base.PyTree]:
            text = self.prompt(captions)
            return text, self.apply(variables, len(text), method="init_cache")

        def step(cache: tuple[Array, base.PyTree], token: Array, position: Array):
            text, cache = cache
            last = jnp.minimum(position, self.num_text)
            token = jnp.where(position <= self.num_text, text[:, last], token)
            logits, cache = self.apply(variables, cache, token, position, method="step")
            return jnp.where(allowed[position][None], logits, -jnp.inf), (text, cache)

        return Decoder(init, step, max_length=self.network.context)


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of the task sample.

    Attributes:
      temperature: see `decoding.token_samplers.make`.
      top_k: the same.
      top_p: the same.
      guidance_scale: see `decoding.generation.classifier_free`.
    """

    temperature: float
    top_k: int
    top_p: float
    guidance_scale: float


def make_sample(method: DALLE, options: SampleOptions) -> base.Task:
    """Draws the image of each caption; outputs the image and "caption".

    Raises:
      ValueError: an option is invalid, or guidance lacks an unconditional model.
    """
    choose = token_samplers.make(options.temperature, options.top_k, options.top_p)
    scale = options.guidance_scale
    if scale != 1.0 and not method.cond_dropout:
        raise ValueError(
            f"sample.guidance_scale = {scale} needs a model that was also trained "
            "without captions: train with dalle.cond_dropout=0.1, or set "
            "guidance_scale to 1."
        )

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        caption = batch["caption"]
        decoder = method.decoder(variables, caption)
        if scale != 1.0:
            null = method.decoder(variables, jnp.full_like(caption, PAD))
            decoder = classifier_free(decoder, null, scale)
        keys = prng.example_keys(key, batch["index"])
        prompt = method.prompt(caption)
        ids = generate(decoder, prompt, method.num_codes, choose, keys)
        codes = ids[:, -method.num_codes :] - method.num_words - method.num_text
        codes = codes.reshape(-1, *method.dvae.network.grid)
        return {method.data: method.dvae.images(variables, codes)}

    task = base.Task(run, ("caption",), {method.data: method.field})
    return base.with_captions(task, method.caption)


def make_token_nats(method: DALLE, options: base.NoOptions) -> base.Task:
    """Sums -log p over an example: "text_nats", "num_tokens" and "image_nats".

    The tokens are the words of the caption and its END.
    """

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        caption = batch["caption"]
        tokens = method.tokens(caption, method.codes(variables, batch[method.data]))
        logits = method.apply(variables, tokens[:, :-1])
        text, image = method.nats(logits, tokens, caption)
        return {
            "text_nats": jnp.sum(text, axis=1),
            "num_tokens": jnp.sum(caption != PAD, axis=1, dtype=jnp.float32),
            "image_nats": jnp.sum(image, axis=1),
        }

    outputs = base.scalar_fields("text_nats", "num_tokens", "image_nats")
    return base.Task(run, (method.data, "caption"), outputs)


def defaults() -> ConfigDict:
    """Returns the settings of a small model of 8x8 digits with captions."""
    config = common.defaults("dalle")
    config.data.source = "captions:digits"
    config.model = config_dict.create(
        name="gpt",
        num_layers=4,
        num_heads=4,
        width=128,  # a multiple of num_heads
        positions="learned",  # or rotary
        dropout=0.1,  # rate, in [0, 1)
        dtype="float32",  # of activations, or bfloat16
    )
    config.dalle = config_dict.create(
        cond_dropout=0.0,  # rate of training without caption, in [0, 1)
    )
    autoencoder = dvae.defaults()
    config.dvae_model = autoencoder.model  # as in the run of train.init_from
    config.dvae = autoencoder.dvae
    config.optim.update(clip="global")
    common.add_caption_options(config)
    config.sample.update(
        temperature=1.0,  # at least 0; 0: the most likely code
        top_k=0,  # draw among the k most likely codes; 0: all
        top_p=1.0,  # and among the fewest that have this probability, in (0, 1]
        guidance_scale=1.0,  # 1: none
    )
    config.eval.sweep.update(guidance_scale=(), temperature=())
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.data.source = "captions:digits"
    config.model.update(num_layers=1, width=16, num_heads=2)
    config.dvae_model.update(num_codes=8, num_features=4, width=8)
    config.dvae_model.update(num_downsamplings=1, num_blocks=1)
    config.train.init_from, config.optim.warmup_steps = "", 1


def make(config: ConfigDict, fields: base.Fields) -> DALLE:
    """Builds a DALL-E from the groups model, dalle, dvae_model, dvae and optim."""
    caption = base.caption_field(fields, config.data.source)
    first_stage = ConfigDict(
        {"model": config.dvae_model, "dvae": config.dvae, "optim": config.optim}
    )
    autoencoder = dvae.make(first_stage, fields)
    frozen = autoencoder.network
    network = base.make_network(
        {"gpt": GPT},
        config,
        vocabulary_size=caption.size + caption.shape[0] + frozen.num_codes,
        context=caption.shape[0] + math.prod(frozen.grid),
    )
    return DALLE(
        base.single_phase(config),
        network,
        autoencoder.data,
        autoencoder.field,
        caption,
        autoencoder,
        config.dalle.cond_dropout,
    )


TASKS = {
    "sample": (SampleOptions, make_sample),
    "token_nats": (base.NoOptions, make_token_nats),
}
FAMILY = base.Family(make, defaults, TASKS)
