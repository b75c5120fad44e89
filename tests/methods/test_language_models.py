"""Laws of the family of language models."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import config_of

from diffusion_jax import inference, methods, task_runner
from diffusion_jax.data import loader, texts
from diffusion_jax.data.base import Field
from diffusion_jax.data.vocabulary import build
from diffusion_jax.decoding.generation import Decoder
from diffusion_jax.models.recurrent import RecurrentLM
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Variables
from diffusion_jax.training.step import make_train_step

DOCUMENTS = ["ab", "bcabc", "c", "abcab", "ca", "bab", "ccc", "acbac"]
VOCABULARY = build("characters", DOCUMENTS)
KEY = jax.random.key(0)


def source_of(packed=False, documents=DOCUMENTS, context=9):
    """The documents as examples."""
    ids = [VOCABULARY.encode(x) for x in documents]
    return texts.padded(ids, VOCABULARY, context, packed, "documents")


def batch_of(source):
    """All examples as one batch."""
    return loader.to_batch(source, np.arange(len(source)))


@functools.cache
def make(packed=False, **values):
    """The config, the method and variables whose logits differ."""
    config = config_of("python_docs_gru", model__width=8, **values)
    method = methods.make(config, source_of(packed).fields)
    variables, _ = method.init(jax.random.key(1))
    return config, method, variables


def loss_of(method, variables, batch):
    """The loss and its gradient."""

    def loss(params):
        found = method.loss("net", Variables(params, {}), (), batch, KEY, 0)
        return found.value, found.weight

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)


@pytest.mark.parametrize("packed", [False, True])
def test_a_uniform_model_loses_log_v(packed):
    """With equal logits the loss is log V, however much is padding, and its
    weight is the number of tokens: those of the documents and an end each."""
    _, method, variables = make(packed)
    variables = jax.tree.map(jnp.zeros_like, variables)
    (value, weight), _ = loss_of(method, variables, batch_of(source_of(packed)))
    assert value == pytest.approx(math.log(len(VOCABULARY)), rel=1e-6)
    assert weight == sum(len(x) + 1 for x in DOCUMENTS)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_packed_is_padded(cell):
    """The documents packed into fewer examples have the loss, the gradient and the
    nats of the same documents, one in each example."""
    (_, padded, variables), (_, packed, _) = (
        make(x, model__cell=cell) for x in (False, True)
    )
    few, many = batch_of(source_of(True)), batch_of(source_of(False))
    assert len(few["tokens"]) < len(many["tokens"]) == len(DOCUMENTS)
    expected, found = (
        loss_of(*x) for x in ((padded, variables, many), (packed, variables, few))
    )
    close(found, expected, rtol=1e-5, atol=1e-6)
    totals = [
        jax.tree.map(np.sum, run_nats(*x))
        for x in ((padded, variables, many), (packed, variables, few))
    ]
    close(totals[0], totals[1], rtol=1e-5)


def run_nats(method, variables, batch):
    """The outputs of the task nats."""
    task = methods.make_task(config_of("python_docs_gru"), method, "nats")
    assert set(task.inputs) <= batch.keys()
    return jax.jit(task.run)(variables, batch, KEY)


def close(found, expected, **tolerances):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **tolerances), found, expected
    )


def test_nats_by_hand():
    """The nats of an example are -sum log softmax(logits)[next token], in NumPy, over
    tokens that are not padding; padding at the end changes nothing."""
    _, method, variables = make()
    for context in (9, 12):
        batch = batch_of(source_of(context=context))
        found = run_nats(method, variables, batch)
        logits = method.apply(variables, batch["tokens"][:, :-1])
        logits = np.asarray(logits, np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for i, document in enumerate(DOCUMENTS):
            ids = [*VOCABULARY.encode(document), END]
            nats = -sum(log_p[i, j, x] for j, x in enumerate(ids))
            assert found["nats"][i] == pytest.approx(nats, rel=1e-5)
            assert found["num_tokens"][i] == len(ids)
            assert found["num_characters"][i] == len(document)


def test_only_padding_has_no_loss():
    """A shard without a token has loss and weight 0 and no gradient that is not
    finite."""
    _, method, variables = make()
    batch = batch_of(source_of())
    batch["tokens"] = np.full_like(batch["tokens"], PAD)
    (value, weight), gradient = loss_of(method, variables, batch)
    assert value == weight == 0
    assert all(np.all(x == 0) for x in jax.tree.leaves(gradient))


def test_eight_examples_are_overfitted():
    """Eight documents are learned by heart: what is left is the entropy of which of
    them it is, log 8 nats for each document; and greedy decoding completes each."""
    documents = ["abca", "acbb", "baac", "bcab", "caba", "cbca", "aabb", "bbcc"]
    source = source_of(documents=documents)
    config = config_of("python_docs_gru", model__width=32, optim__learning_rate=0.02)
    config.optim.update(warmup_steps=0, decay_start=None, decay_end=None)
    method = methods.make(config, source.fields)
    state = jax.jit(functools.partial(states.initial, method))(KEY)
    step = jax.jit(make_train_step(method, None))
    for _ in range(150):
        state, metrics = step(state, batch_of(source))
    nats = metrics["loss"] * 5  # of a document: four letters and the end
    assert math.log(8) - 1e-3 < nats < math.log(8) + 0.05
    for document in documents:  # two letters say which one it is
        found = sample(config, method, state.averaged, document[:2], temperature=0.0)
        assert found == [document]


def sample(config, method, variables, prompt, number=1, **options):
    """Texts from the task sample, by the runner of the commands."""
    config = config.copy_and_resolve_references()
    config.sample.update(num_examples=number, prompt=prompt, **options)
    runner = task_runner.make(config, method, "sample")
    outputs = runner.run(variables)
    assert outputs["text"].dtype == np.int32
    return [VOCABULARY.decode(row) for row in outputs["text"]]


def test_samples():
    """A sample begins with its prompt and has at most num_tokens more; sample i depends
    on the seed and its index alone; temperature 0 draws the same for all."""
    config, method, variables = make()
    drawn = sample(config, method, variables, "ab", 12, num_tokens=20)
    assert all(x.startswith("ab") and len(x) <= 22 for x in drawn)
    assert len(set(drawn)) > 3
    options = {"num_tokens": 20, "batch_size": 8}
    assert sample(config, method, variables, "ab", 5, **options) == drawn[:5]
    other = sample(config, method, variables, "ab", 5, num_tokens=20, seed=1)
    assert other != drawn[:5]
    assert len(set(sample(config, method, variables, "", 6, temperature=0.0))) == 1


def test_the_prompt_is_checked_first():
    """A prompt of unknown characters is refused when the task is made."""
    config, method, _ = make()
    config = config.copy_and_resolve_references()
    config.sample.prompt = "abx"
    with pytest.raises(ValueError, match="sample.prompt contains 'x'.*'a' 'b' 'c'"):
        task_runner.make(config, method, "sample")


FIELDS = "vocabulary_size cell num_layers width tied dropout dtype".split()


class LimitedLM(RecurrentLM):
    """A recurrent network that says that it knows twelve positions."""

    context = 12


def test_a_limited_context():
    """A network with a limit goes on beyond it, in rounds, and greedily draws what the
    same network without a limit does as long as it fits."""
    config, method, variables = make()
    network = LimitedLM(**{x: getattr(method.network, x) for x in FIELDS})
    limited = dataclasses.replace(method, network=network)
    assert isinstance(limited.decoder(variables, 2), Decoder)
    assert limited.decoder(variables, 2).max_length == LimitedLM.context
    no_end = jax.tree.map(lambda x: x, variables)
    no_end.params["net"]["head"]["bias"] = jnp.zeros(len(VOCABULARY)).at[END].set(-99)
    options = {"num_tokens": 40, "temperature": 0.0}
    (whole,) = sample(config, method, no_end, "ab", **options)
    (rounds,) = sample(config, limited, no_end, "ab", **options)
    assert len(whole) == len(rounds) == 42
    assert rounds[: LimitedLM.context] == whole[: LimitedLM.context]


def test_tokens_without_a_vocabulary():
    """Tokens that nobody can read are refused."""
    fields = {"tokens": Field((6,), np.int32, "tokens", size=7)}
    with pytest.raises(ValueError, match="tokens of python_docs have no vocabulary"):
        methods.make(config_of("python_docs_gru"), fields)


def test_rows_of_the_stream():
    """Evaluated in batches of another size, with rows left over, every example has the
    same nats."""
    _, method, variables = make()
    source = source_of()
    task = methods.make_task(config_of("python_docs_gru"), method, "nats")
    stream = inference.make_stream(task, 8, 0)
    found = inference.collect(stream(variables, source, len(source)), "nats")["nats"]
    expected = run_nats(method, variables, batch_of(source))["nats"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
