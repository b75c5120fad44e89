"""Laws of inference: any task over any number of examples, as a stream of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import inference, prng
from diffusion_jax.data.base import (
    ArraySource,
    Field,
    LazySource,
    Pairs,
    Range,
    Unpaired,
)
from diffusion_jax.methods import Task
from diffusion_jax.training.state import Variables

VARIABLES = Variables({"net": jnp.float32(2.0)}, {})
POINTS = Field((2,), np.float32, "points")
SCALAR = Field((), np.float32, "scalar")


def points(length, first=0.0):
    """A source of different points."""
    x = first + np.arange(2 * length, dtype=np.float32).reshape(length, 2)
    return ArraySource({"points": x}, {"points": POINTS})


def _run(variables, batch, key):
    keys = prng.example_keys(key, batch["index"])
    scaled = variables.params["net"] * batch["points"]
    return {"scaled": scaled, "noise": prng.uniform(keys)}


TASK = Task(_run, ("points",), {"scaled": POINTS, "noise": SCALAR})
STREAMS = {}


def stream_of(batch_size, seed=3):
    """The streams of all tests, made once: compiled once for each batch size."""
    key = batch_size, seed
    if key not in STREAMS:
        STREAMS[key] = inference.make_stream(TASK, batch_size, seed)
    return STREAMS[key]


def rows_of(source, num, batch_size=8, seed=3):
    stream = stream_of(batch_size, seed)(VARIABLES, source, num)
    return inference.collect(stream, "index", "points", "scaled", "noise")


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(1, 60),
    length=st.integers(1, 40),
    batch_size=st.sampled_from([1, 5, 8, 16, 24]),
)
def test_each_example_once_and_in_order(num, length, batch_size):
    """Row i is that of example i modulo the length of the source, for every i < num,
    whatever the batch size, the length or the rest in the last batch."""
    source = points(length)
    found = rows_of(source, num, batch_size)
    np.testing.assert_array_equal(found["index"], np.arange(num))
    expected = source.arrays["points"][np.arange(num) % length]
    np.testing.assert_array_equal(found["points"], expected)
    np.testing.assert_array_equal(found["scaled"], 2 * expected)
    np.testing.assert_array_equal(found["noise"], noise(60)[:num])
    assert found["scaled"].sum(dtype=np.float64) == 2 * expected.sum(dtype=np.float64)


NOISE = {}


def noise(n, seed=3):
    """What examples 0..n-1 draw, without a stream."""
    if (n, seed) not in NOISE:
        keys = prng.example_keys(jax.random.key(seed), jnp.arange(n))
        NOISE[n, seed] = np.asarray(prng.uniform(keys))
    return NOISE[n, seed]


def test_rows_depend_on_seed_and_index():
    """Equal examples at different indices, and different seeds, draw different noise;
    it is the same for another source and for another number of rows."""
    found = rows_of(points(1), 20)
    assert len(set(found["noise"].tolist())) == 20
    other = rows_of(points(7, first=3.0), 9)
    np.testing.assert_array_equal(other["noise"], found["noise"][:9])
    reseeded = rows_of(points(1), 20, seed=4)
    assert np.all(reseeded["noise"] != found["noise"])


def test_batches_are_cut_and_compiled_once():
    """All batches but the last have batch_size rows, rounded up to the devices, and
    padding is cut off the last; they share one program."""
    traces = []

    def run(variables, batch, key):
        traces.append(batch["points"].shape)
        return {"scaled": batch["points"]}

    task = Task(run, ("points",), {"scaled": POINTS})
    stream = inference.make_stream(task, 9, seed=0)
    for num, sizes in ((40, [16, 16, 8]), (35, [16, 16, 3]), (1, [1]), (32, [16, 16])):
        batches = list(stream(VARIABLES, points(50), num))
        assert [len(batch["scaled"]) for batch in batches] == sizes
        assert [len(batch["index"]) for batch in batches] == sizes
    assert traces == [(2, 2)]


def test_outputs_are_host_arrays():
    """Outputs and the example's entries are NumPy arrays; an output replaces an entry
    of the same name, and entries that the task does not read stay on the host."""
    source = ArraySource(
        {"points": np.ones((5, 2), np.float32), "name": np.zeros((5, 3), np.int32)},
        {"points": POINTS, "name": Field((3,), np.int32, "tokens", size=9)},
    )

    def run(variables, batch, key):
        assert set(batch) == {"index", "points"}
        return {"points": -batch["points"]}

    task = Task(run, ("points",), {"points": POINTS})
    (batch,) = inference.make_stream(task, 8, seed=0)(VARIABLES, source, 5)
    assert set(batch) == {"index", "points", "name"}
    assert all(type(x) is np.ndarray for x in batch.values())
    np.testing.assert_array_equal(batch["points"], -source.arrays["points"])
    np.testing.assert_array_equal(batch["name"], source.arrays["name"])


def test_it_is_a_stream():
    """After the first batch only a few batches have been read, by prefetching; nothing
    is read before it is asked for, and a range without fields has no end."""
    read = []

    def decode(i):
        read.append(i)
        return {"points": np.full(2, i, np.float32)}

    num = 8 * 500
    source = LazySource(num, decode, {"points": POINTS})
    stream = stream_of(8)(VARIABLES, source, num)
    assert not read
    first = next(stream)
    assert len(read) < num // 4
    np.testing.assert_array_equal(first["points"][:, 0], np.arange(8))
    stream.close()

    task = Task(lambda v, batch, key: {"double": 2 * batch["index"]}, (), {})
    stream = inference.make_stream(task, 8, seed=0)(VARIABLES, Range(2**31), 2**31 - 1)
    np.testing.assert_array_equal(next(stream)["double"], 2 * np.arange(8))
    stream.close()


def test_two_unpaired_sources():
    """Both sources are read next to each other, and each starts over after its own last
    example."""
    a, b = points(3), points(5, first=100.0)

    def run(variables, batch, key):
        return {"difference": batch["points_b"] - batch["points_a"]}

    task = Task(run, ("points_a", "points_b"), {"difference": POINTS})
    stream = inference.make_stream(task, 8, seed=0)(VARIABLES, Unpaired(a, b), 11)
    found = inference.collect(stream, "difference", "points_a", "points_b")
    index = np.arange(11)
    in_a, in_b = a.arrays["points"][index % 3], b.arrays["points"][index % 5]
    np.testing.assert_array_equal(found["points_a"], in_a)
    np.testing.assert_array_equal(found["points_b"], in_b)
    np.testing.assert_array_equal(found["difference"], in_b - in_a)


@pytest.mark.parametrize("offset", [1, 4, 13])
def test_pairs(offset):
    """An example comes with the one `offset` later, whose index does not wrap: a
    partner draws what it would draw as example index + offset."""
    source = points(6)

    def run(variables, batch, key):
        keys = prng.example_keys(key, batch["partner_index"])
        return {"noise": prng.uniform(keys)}

    task = Task(run, ("partner_index",), {"noise": SCALAR})
    stream = inference.make_stream(task, 8, seed=3)
    names = "index", "partner_index", "points", "partner_points", "noise"
    pairs = Pairs(source, offset)
    found = inference.collect(stream(VARIABLES, pairs, 10), *names)
    index, x = np.arange(10), source.arrays["points"]
    np.testing.assert_array_equal(found["index"], index)
    np.testing.assert_array_equal(found["partner_index"], index + offset)
    np.testing.assert_array_equal(found["points"], x[index % 6])
    np.testing.assert_array_equal(found["partner_points"], x[(index + offset) % 6])
    np.testing.assert_array_equal(found["noise"], noise(60)[index + offset])
