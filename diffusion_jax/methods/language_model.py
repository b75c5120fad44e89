"""Language models: the next token given the ones before."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.decoding import token_samplers
from diffusion_jax.decoding.generation import Decoder, generate_beyond_context
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.models import LANGUAGE_MODELS
from diffusion_jax.objectives.cross_entropy import cross_entropy, masked_mean
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Loss, Variables


@dataclasses.dataclass(frozen=True)
class LanguageModel(base.SingleNetwork):
    """A network that predicts each token from those before it.

    The network is called with (tokens, segment, index) and has the methods `init_cache`
    and `step`; see `models.recurrent.RecurrentLM`.

    Attributes:
      extra: ("segment",) if examples have several documents.
    """

    extra: tuple[str, ...] = ()

    def init(self, key: Array) -> tuple[Variables, base.PyTree]:
        """See `SingleNetwork.init`; the last token is a target only."""
        tokens = jnp.zeros((1, self.field.shape[0] - 1), jnp.int32)
        params = self.network.init(key, tokens)["params"]
        return Variables({base.GROUP: params}, {}), ()

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """-log p(token | tokens before), a mean over tokens that are not padding."""
        value, weight = masked_mean(*self.nats(variables, batch, key))
        return Loss(value, weight=weight)

    def nats(
        self, variables: Variables, batch: base.Batch, key: Array | None = None
    ) -> tuple[Array, Array]:
        """Computes -log p of each token from the second one on.

            nats_t = -log softmax(network(tokens_1..t))_{token t+1}

        Args:
          variables: of the model.
          batch: tokens i32[B, L + 1] and, if packed, segment i32[B, L + 1].
          key: for dropout; None: no dropout.

        Returns:
          nats f32[B, L], and bool[B, L], whether a token counts: it is no padding, and
          in the same document as the one before.
        """
        tokens, segment = batch[self.data], batch.get("segment")
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        mask, before = targets != PAD, None
        if segment is not None:
            before = segment[:, :-1]
            mask &= segment[:, 1:] == before
        dropout = {} if key is None else {"dropout": key}
        logits = self.network.apply(
            {"params": variables.params[base.GROUP]},
            inputs,
            before,
            None if key is None else batch["index"],
            rngs=dropout,
        )
        return cross_entropy(logits, targets), mask

    def decoder(self, variables: Variables, batch_size: int) -> Decoder:
        """Returns the model as a function of one token after the other."""

        def apply(method: str, *args: Array):
            return self.apply(variables, *args, method=method)

        return Decoder(
            init=lambda: apply("init_cache", batch_size),
            step=lambda *args: apply("step", *args),
            max_length=getattr(self.network, "context", None),
        )


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of the task sample.

    Attributes:
      num_tokens: the most that a prompt is continued by.
      temperature: see `decoding.token_samplers.make`.
      top_k: the same.
      top_p: the same.
    """

    num_tokens: int
    temperature: float
    top_k: int
    top_p: float


def make_sample(method: LanguageModel, options: SampleOptions) -> base.Task:
    """Continues prompts; output "text", int32 [P - 1 + num_tokens], without first END.

    A network of limited context goes on from its last tokens; see
    `generate_beyond_context`.
    """
    choose = token_samplers.make(options.temperature, options.top_k, options.top_p)

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        prompt = batch["prompt"]
        decoder = method.decoder(variables, len(prompt))
        keys = prng.example_keys(key, batch["index"])
        text = generate_beyond_context(
            decoder, prompt, options.num_tokens, choose, keys
        )
        return {"text": text[:, 1:]}

    field = method.field._replace(shape=(options.num_tokens,))

    def encode(text: str) -> np.ndarray:
        ids = method.field.vocabulary.encode(text, "sample.prompt")
        return np.concatenate([[END], ids])[None].astype(np.int32)

    return base.Task(run, ("prompt",), {"text": field}, {"prompt": encode})


def make_nats(method: LanguageModel, options: base.NoOptions) -> base.Task:
    """Sums over an example's tokens: "nats", "num_tokens" and "num_characters"."""
    num_characters = method.field.vocabulary.num_characters

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        nats, mask = method.nats(variables, batch)
        characters = jnp.asarray(num_characters)[batch[method.data][:, 1:]]
        values = {"nats": nats, "num_tokens": 1, "num_characters": characters}
        return {name: jnp.sum(x * mask, axis=1) for name, x in values.items()}

    outputs = base.scalar_fields("nats", "num_tokens", "num_characters")
    return base.Task(run, (method.data, *method.extra), outputs)


def defaults(network: str = "recurrent") -> ConfigDict:
    """Returns the settings of a small language model of characters.

    Args:
      network: a name in models.LANGUAGE_MODELS.
    """
    config = common.defaults("language_model", common.text_data())
    config.model = lookup(NETWORKS, network, "network")(config)
    config.optim.update(clip="global", ema_decay=0.0)
    config.sample.update(
        num_examples=4,
        batch_size=4,
        prompt="",  # the text to continue
        num_tokens=256,  # the most that it is continued by
        temperature=1.0,  # at least 0; 0: the most likely token
        top_k=0,  # draw among the k most likely tokens; 0: all
        top_p=1.0,  # and among the fewest that have this probability, in (0, 1]
    )
    config.eval.update(metric="bits_per_character", batch_size=64)
    return config


def _recurrent(config: ConfigDict) -> ConfigDict:
    return config_dict.create(
        name="recurrent",
        cell="lstm",  # or gru
        num_layers=2,
        width=256,  # of the embeddings and layers
        tied=False,  # the embeddings are the weights of the logits
        dropout=0.0,  # rate, in [0, 1)
        dtype="float32",  # of activations, or bfloat16
    )


def _gpt(config: ConfigDict) -> ConfigDict:
    return config_dict.create(
        name="gpt",
        context=config.data.get_oneway_ref("context"),  # the most tokens it reads
        num_layers=4,
        num_heads=4,
        width=128,  # a multiple of num_heads
        positions="learned",  # or rotary
        dropout=0.0,  # rate, in [0, 1)
        dtype="float32",  # of activations, or bfloat16
    )


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny_text(config)
    config.model.update(num_layers=1, width=16)
    if "num_heads" in config.model:
        config.model.num_heads = 2


def make(config: ConfigDict, fields: base.Fields) -> LanguageModel:
    """Builds a language model from the groups model and optim."""
    data, field = base.data_field(fields, ("tokens",))
    if field.vocabulary is None:
        raise ValueError(
            f"The {data} of {config.data.source} have no vocabulary; choose another "
            "data.source."
        )
    network = base.make_network(
        LANGUAGE_MODELS, config, vocabulary_size=len(field.vocabulary)
    )
    extra = tuple(name for name in fields if name == "segment")
    return LanguageModel(base.single_phase(config), network, data, field, extra)


NETWORKS = {"recurrent": _recurrent, "gpt": _gpt}  # the group model of each
TASKS = {
    "sample": (SampleOptions, make_sample),
    "nats": (base.NoOptions, make_nats),
}
FAMILY = base.Family(make, defaults, TASKS, data="text")
