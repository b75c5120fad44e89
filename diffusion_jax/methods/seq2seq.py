"""Sequence to sequence: the next token of a target given its source."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.data import pairs
from diffusion_jax.data.base import Field
from diffusion_jax.decoding import token_samplers
from diffusion_jax.decoding.beam import beam_search
from diffusion_jax.decoding.generation import Decoder, generate
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.models import SEQ2SEQ
from diffusion_jax.objectives.cross_entropy import cross_entropy, masked_mean
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Loss, Variables

LOGGER = logging.getLogger(__name__)

SOURCE, TARGET = "source", "target"


@dataclasses.dataclass(frozen=True)
class Seq2Seq(base.SingleNetwork):
    """A network that predicts each token of a target from those before and a source.

    The network is called with (source, target, index) and has the methods `encode`,
    `init_cache`, `step` and `alignment`; see `models.seq2seq.RecurrentSeq2Seq`.

    Attributes:
      source: the field of the source; `field` is that of the target.
      label_smoothing: of the loss, in [0, 1).
    """

    source: Field
    label_smoothing: float

    def init(self, key: Array) -> tuple[Variables, base.PyTree]:
        """See `SingleNetwork.init`; the last token of a target is a label only."""
        source = jnp.full((1, *self.source.shape), END, jnp.int32)
        target = jnp.full((1, self.num_tokens), END, jnp.int32)
        params = self.network.init(key, source, target)["params"]
        return Variables({base.GROUP: params}, {}), ()

    @property
    def num_tokens(self) -> int:
        """The most tokens that are predicted, with the END."""
        return self.field.shape[0] - 1

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """Smoothed cross-entropy, a mean over the labels that are not padding."""
        logits = self.network.apply(
            {"params": variables.params[base.GROUP]},
            batch[SOURCE],
            batch[TARGET][:, :-1],
            batch["index"],
            rngs={"dropout": key},
        )
        labels = batch[TARGET][:, 1:]
        nats = cross_entropy(logits, labels, self.label_smoothing)
        value, weight = masked_mean(nats, labels != PAD)
        return Loss(value, weight=weight)

    def decoder(self, variables: Variables, source: Array) -> Decoder:
        """Returns the model as a function of one token of the target after the other.

        Args:
          variables: of the model.
          source: i32[B, S].
        """

        def apply(method: str, *args: Array):
            return self.apply(variables, *args, method=method)

        memory = apply("encode", source)
        return Decoder(
            init=lambda: apply("init_cache", memory, self.num_tokens),
            step=lambda *args: apply("step", *args),
        )


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of the tasks sample and align.

    Attributes:
      beam_size: hypotheses of beam search; 1: greedy decoding.
      length_penalty: see `decoding.beam.beam_search`.
    """

    beam_size: int
    length_penalty: float


def make_sample(method: Seq2Seq, options: SampleOptions) -> base.Task:
    """Decodes sources; outputs "source" and "text", int32 [num_tokens]."""

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        source = batch[SOURCE]
        decoder = method.decoder(variables, source)
        prompt = jnp.full((len(source), 1), END, jnp.int32)
        if options.beam_size == 1:  # the same, without copies of the cache
            keys = prng.example_keys(key, batch["index"])
            greedy = token_samplers.greedy
            texts = generate(decoder, prompt, method.num_tokens, greedy, keys)
        else:
            beams, _ = beam_search(decoder, prompt, method.num_tokens, **vars(options))
            texts = beams[:, 0]
        return {SOURCE: source, "text": texts[:, 1:]}

    outputs = {
        SOURCE: method.source,
        "text": method.field._replace(shape=(method.num_tokens,)),
    }

    def encode(text: str) -> np.ndarray:
        ids = pairs.encode_source(method.source.vocabulary, text, "sample.prompt")
        length, longest = len(ids) - 1, method.source.shape[0] - 1
        if not length:
            raise ValueError("sample.prompt is empty; give a source, or leave it out.")
        if length > longest:
            LOGGER.warning(
                "sample.prompt has %d tokens, and the sources of the training data at "
                "most %d; the target ends after %d tokens.",
                length,
                longest,
                method.num_tokens,
            )
        return ids[None]

    return base.Task(run, (SOURCE,), outputs, {SOURCE: encode})


def make_align(method: Seq2Seq, options: SampleOptions) -> base.Task:
    """Decodes sources; the outputs of `make_sample`, and "alignment".

    Alignment, f32 [heads, num_tokens, S], is where each token of the text attends to.

    Raises:
      ValueError: the network has no attention.
    """
    decode = make_sample(method, options)

    def align(variables: Variables, source: Array, text: Array) -> Array:
        inputs = jnp.pad(text[:, :-1], ((0, 0), (1, 0)), constant_values=END)
        return method.apply(variables, source, inputs, method="alignment")

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        found = decode.run(variables, batch, key)
        return found | {"alignment": align(variables, found[SOURCE], found["text"])}

    variables, _ = jax.eval_shape(method.init, jax.random.key(0))
    shapes = [(1, *decode.outputs[name].shape) for name in (SOURCE, "text")]
    tokens = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]
    _, *shape = jax.eval_shape(align, variables, *tokens).shape
    field = Field(tuple(shape), np.float32, "alignment")
    return decode._replace(run=run, outputs=decode.outputs | {"alignment": field})


def make_target_nats(method: Seq2Seq, options: base.NoOptions) -> base.Task:
    """Sums over a target's tokens and its END: "nats" and "num_tokens".

    nats = -sum_t log p(token t | tokens before, source)
    """

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        labels = batch[TARGET][:, 1:]
        logits = method.apply(variables, batch[SOURCE], batch[TARGET][:, :-1])
        mask = (labels != PAD).astype(jnp.float32)
        nats = jnp.sum(cross_entropy(logits, labels) * mask, axis=1)
        return {"nats": nats, "num_tokens": jnp.sum(mask, axis=1)}

    outputs = base.scalar_fields("nats", "num_tokens")
    return base.Task(run, (SOURCE, TARGET), outputs)


def defaults(network: str = "recurrent") -> ConfigDict:
    """Returns the settings of a small network that reverses digits.

    Args:
      network: a name in models.SEQ2SEQ.
    """
    config = common.defaults("seq2seq", common.pair_data())
    config.model = lookup(NETWORKS, network, "network")()
    config.seq2seq = config_dict.create(
        label_smoothing=0.0,  # of the loss, in [0, 1)
    )
    config.optim.update(clip="global")
    config.sample.update(
        num_examples=4,
        batch_size=4,
        prompt=config_dict.placeholder(str),  # a source; None: those of eval.split
        beam_size=1,  # hypotheses of beam search; 1: greedy decoding
        length_penalty=0.0,  # at least 0; 0 favours short targets
    )
    config.eval.metric = "exact_match"
    return config


def _transformer() -> ConfigDict:
    return config_dict.create(
        name="transformer",
        num_layers=2,  # of the encoder, and of the decoder
        num_heads=4,
        width=128,  # of embeddings and layers: even, a multiple of num_heads
        mlp_width=512,  # hidden width of the MLPs
        dropout=0.0,  # rate, in [0, 1)
        dtype="float32",  # of activations, or bfloat16
    )


def _recurrent() -> ConfigDict:
    return config_dict.create(
        name="recurrent",
        cell="gru",  # or lstm
        num_layers=1,
        width=128,  # of embeddings, and of the layers in each direction
        attention="additive",  # or multiplicative, none
        dropout=0.0,  # rate, in [0, 1)
        dtype="float32",  # of activations, or bfloat16
    )


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny_pairs(config)
    config.model.update(num_layers=1, width=16)
    if config.model.name == "transformer":
        config.model.update(num_heads=2, mlp_width=32)


def make(config: ConfigDict, fields: base.Fields) -> Seq2Seq:
    """Builds a model of sequences from the groups model, seq2seq and optim."""
    if not {SOURCE, TARGET} <= fields.keys():
        raise ValueError(
            f"The data have the fields {', '.join(fields)}: this model needs source "
            "and target. Choose another data.source."
        )
    source, target = fields[SOURCE], fields[TARGET]
    shared = config.data.shared_vocabulary  # and so are the embeddings
    network = base.make_network(
        SEQ2SEQ,
        config,
        source_vocabulary_size=None if shared else len(source.vocabulary),
        vocabulary_size=len(target.vocabulary),
    )
    phases = base.single_phase(config)
    return Seq2Seq(phases, network, TARGET, target, source, **config.seq2seq)


NETWORKS = {
    "recurrent": _recurrent,
    "transformer": _transformer,
}  # the group model of each
TASKS = {
    "sample": (SampleOptions, make_sample),
    "align": (SampleOptions, make_align),
    "target_nats": (base.NoOptions, make_target_nats),
}
FAMILY = base.Family(make, defaults, TASKS, data="pairs")
