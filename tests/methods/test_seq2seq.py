"""Laws of the family seq2seq: its loss, decoding, tasks and evaluators."""

import functools
import math
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from smoke import load

from diffusion_jax import evaluators, methods, run_config, run_data, task_runner
from diffusion_jax.data.loader import Loader
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Variables


@functools.cache
def prepared():
    """The tiny config, its method, parameters that are not trained, and a batch."""
    config = load("reverse_attention")
    source = run_data.open_train(config)
    method = methods.make(config, source.fields)
    variables, _ = method.init(jax.random.key(0))
    batch = source.read(np.arange(8)) | {"index": np.arange(8, dtype=np.int32)}
    return config, method, variables, batch


def run(task, variables, batch, **options):
    config, method, *_ = prepared()
    task = methods.make_task(config, method, task, **options)
    inputs = {name: jnp.asarray(batch[name]) for name in ("index", *task.inputs)}
    found = jax.jit(task.run)(variables, inputs, jax.random.key(1))
    assert found.keys() == task.outputs.keys()
    for name, x in found.items():
        assert x.shape == (len(batch["index"]), *task.outputs[name].shape)
        assert x.dtype == task.outputs[name].dtype
    return found


def loss(method, variables, batch):
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    key = jax.random.key(0)
    return method.loss("net", variables, (), batch, key, jnp.array(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uniform_model(smoothing):
    """A uniform model has log V nats per token, in the loss, smoothed or not, and in
    the task, where they are summed up; the weight is the number of labels, and END."""
    _, method, variables, batch = prepared()
    method = methods.make(
        load("reverse_attention", seq2seq__label_smoothing=smoothing),
        {"source": method.source, "target": method.field},
    )
    zeros = jax.tree.map(jnp.zeros_like, variables)
    found = loss(method, zeros, batch)
    size, labels = len(method.field.vocabulary), batch["target"][:, 1:]
    assert float(found.value) == pytest.approx(math.log(size), rel=1e-5)
    assert int(found.weight) == np.sum(labels != PAD)
    nats = run("target_nats", zeros, batch)
    np.testing.assert_array_equal(nats["num_tokens"], (labels != PAD).sum(axis=1))
    expected = math.log(size) * nats["num_tokens"]
    np.testing.assert_allclose(nats["nats"], expected, rtol=1e-5)


def test_loss_is_the_mean_of_nats():
    """Without smoothing and dropout the loss is the nats per token of the task."""
    _, method, variables, batch = prepared()
    nats = run("target_nats", variables, batch)
    expected = nats["nats"].sum() / nats["num_tokens"].sum()
    found = float(loss(method, variables, batch).value)
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("side", ["source", "target"])
def test_padding_changes_no_loss(side):
    """More padding at the end of all sources or targets changes nothing."""
    _, method, variables, batch = prepared()
    padded = batch | {side: np.pad(batch[side], ((0, 0), (0, 3)))}
    expected, found = (loss(method, variables, x) for x in (batch, padded))
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-5)
    assert found.weight == expected.weight


@pytest.mark.parametrize(
    "name", ["reverse_attention", "reverse_rnn", "reverse_transformer"]
)
def test_cut_batches_have_the_same_loss(name):
    """The loss of a batch that the loader has cut, and its gradient, are those of the
    same examples with all of their padding."""
    config = load(name, data__source="reverse:2-20")
    source = run_data.open_train(config)
    method = methods.make(config, source.fields)
    variables, _ = method.init(jax.random.key(0))
    batches = Loader(source, 8, seed=0, bucketed=True)
    steps = (batches.batch_at(step) for step in range(100))
    cut = next(x for x in steps if x["source"].shape[1] == 12)
    whole = dict(cut)
    for side in ("source", "target"):
        missing = source.fields[side].shape[0] - cut[side].shape[1]
        whole[side] = np.pad(cut[side], ((0, 0), (0, missing)), constant_values=PAD)

    @jax.jit
    def loss_and_gradient(params, batch):
        def of_params(params):
            found = loss(method, Variables(params, {}), batch)
            return found.value, found.weight

        return jax.value_and_grad(of_params, has_aux=True)(params)

    found, expected = (loss_and_gradient(variables.params, x) for x in (cut, whole))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


def test_greedy_is_argmax():
    """Decoding over the cache is the argmax of the whole network's logits, token by
    token, up to END, after which there is padding."""
    _, method, variables, batch = prepared()
    text = np.asarray(run("sample", variables, batch)["text"])
    for row, source in zip(text, batch["source"], strict=True):
        tokens = [END]
        while len(tokens) <= len(row) and (len(tokens) == 1 or tokens[-1] != END):
            inputs = jnp.array([tokens])
            logits = method.apply(variables, jnp.asarray(source[None]), inputs)[0, -1]
            tokens.append(int(jnp.argmax(logits.at[PAD].set(-jnp.inf))))
        expected = np.pad(tokens[1:], (0, len(row) - len(tokens) + 1))
        np.testing.assert_array_equal(row, expected)


def test_alignment_is_of_the_decoded_text():
    """Task align decodes what sample does; its weights sum to 1 over the source."""
    _, _, variables, batch = prepared()
    found = run("align", variables, batch)
    text = run("sample", variables, batch)["text"]
    np.testing.assert_array_equal(found["text"], text)
    np.testing.assert_allclose(found["alignment"].sum(axis=-1), 1, rtol=1e-5)
    padded = (batch["source"] == PAD)[:, None, None]
    assert not np.any(found["alignment"] * padded)


def test_align_needs_attention():
    """Without attention the task is refused when it is made."""
    _, method, *_ = prepared()
    config = load("reverse_rnn")
    method = methods.make(config, {"source": method.source, "target": method.field})
    with pytest.raises(ValueError, match="model.attention 'none' has no alignment"):
        methods.make_task(config, method, "align")


def test_overfits_eight_examples():
    """It learns eight pairs by heart, and decodes each of them."""
    _, method, variables, batch = prepared()
    tx = optax.adam(0.01)
    state = tx.init(variables.params)

    @jax.jit
    def step(params, state):
        def value(params):
            return loss(method, Variables(params, {}), batch).value

        updates, state = tx.update(jax.grad(value)(params), state)
        return jax.tree.map(jnp.add, params, updates), state

    params = variables.params
    for _ in range(400):
        params, state = step(params, state)
    text = run("sample", Variables(params, {}), batch)["text"]
    np.testing.assert_array_equal(text, batch["target"][:, 1:])


def test_exact_match_counts_any_target(tmp_path, monkeypatch):
    """A source with several targets counts once, and is right if its text is one of
    them; its errors are those to the nearest."""
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{x}\t{y}\n" for x in "abcd" for y in (x, x + x)))
    config = load("reverse_attention", data__held_out=0.999)
    config.data.source = f"pairs:{path}"
    source = run_data.open_held_out(config)
    assert len(source) == 8
    method = methods.make(config, source.fields)
    (a,) = source.fields["target"].vocabulary.encode("a")

    def decode(method, options):
        def run(variables, batch, key):
            first = jnp.full((len(batch["source"]), 1), a)
            text = jnp.pad(first, ((0, 0), (0, method.num_tokens - 1)))
            return {"source": batch["source"], "text": text}

        real = TASK(method, options)
        return real._replace(run=run)

    row = methods.FAMILIES["seq2seq"].tasks
    options, TASK = row["sample"]
    monkeypatch.setitem(row, "sample", (options, decode))
    (record,) = evaluators.make(config, method, tmp_path)(Variables({}, {}))
    # Every text is "a": right for a. Of b, "bb" takes two errors, "b" one.
    assert record.settings["num_examples"] == 4
    assert record.metrics["exact_match"] == pytest.approx(1 / 4)
    assert record.details["exact_match_by_length"] == {1: 1 / 4}
    assert record.metrics["token_error_rate"] == pytest.approx(3 / 4)


def test_other_vocabulary(tmp_path):
    """Data with other tokens than those of the training are refused."""
    config, *_ = prepared()
    run_config.write_config(config, run_data.open_train(config).fields, tmp_path)
    config = config.copy_and_resolve_references()
    config.data.source = "addition:1"
    fields = run_data.open_held_out(config).fields
    with pytest.raises(ValueError, match="vocabulary of addition:1 is not that of"):
        run_config.check_vocabularies(config, fields, tmp_path)


def test_data_without_pairs():
    """Other data are refused in a sentence."""
    config, method, *_ = prepared()
    with pytest.raises(ValueError, match="needs source and target"):
        methods.make(config, {"tokens": method.field})


def test_unknown_split():
    """An unknown split is refused with the known ones."""
    config = load("reverse_attention", eval__split="rare")
    with pytest.raises(ValueError, match="split of reverse:2-4 'rare'. Known: train"):
        task_runner.make(config, prepared()[1], "sample")


def test_bleu_without_its_package(monkeypatch, tmp_path):
    """A missing sacrebleu is reported before anything is decoded, with the remedy."""
    config, method, *_ = prepared()
    config = config.copy_and_resolve_references()
    config.eval.metric = "bleu"
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[text\]"):
        evaluators.make(config, method, tmp_path)
