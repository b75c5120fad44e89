"""Laws of batches of similar length: few shapes, every example once, no token lost."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.data import base, loader
from diffusion_jax.data.pairs import PairSource
from diffusion_jax.special_tokens import PAD

LONGEST = {"source": 40, "target": 30}


def numbered(lengths):
    """Pairs of these lengths, [N, 2]; the tokens of pair i are i + 1."""
    n, fields, arrays = len(lengths), {}, {}
    for side, (name, longest) in zip(lengths.T, LONGEST.items(), strict=True):
        fields[name] = base.Field((longest,), np.int32, "tokens", size=n + 1)
        inside = np.arange(longest) < side[:, None]
        arrays[name] = np.where(inside, np.arange(1, n + 1)[:, None], PAD)
    return PairSource({k: x.astype(np.int32) for k, x in arrays.items()}, fields)


def bucketed(source, batch_size, seed, **options):
    """A loader of bucketed batches."""
    return loader.Loader(source, batch_size, seed, bucketed=True, **options)


def buckets_of(source, batch):
    """The bucket of each example of a batch."""
    return loader.bucket_of(source.lengths[batch["source"][:, 0] - 1])


pairs = st.tuples(*(st.integers(1, longest) for longest in LONGEST.values()))
sources = st.lists(pairs, min_size=1, max_size=60).map(np.array).map(numbered)
sizes = st.integers(1, 20)
seeds = st.integers(0, 2**32)
steps = st.integers(0, 10**6)
properties = hypothesis.settings(max_examples=60, deadline=None)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.integers(1, 10**9))
def test_buckets_are_few_and_close(length):
    """A bucket is as long as its sequences and at most half as long again, from 6
    tokens on; there are two for each doubling."""
    bucket = loader.BUCKETS[loader.bucket_of(length)]
    assert length <= bucket <= max(8, 1.5 * length)
    number = np.sum(loader.BUCKETS <= bucket)
    assert number <= 1 + 2 * np.log2(bucket / 8)


@properties
@hypothesis.given(sources, sizes, seeds, st.integers(0, 5))
def test_every_epoch_visits_every_example_once(source, batch_size, seed, epoch):
    """Examples N*e .. N*(e+1)-1 of the run are a permutation of the source."""
    data, n = bucketed(source, batch_size, seed), len(source)
    first, last = epoch * n, (epoch + 1) * n
    batches = range(first // batch_size, -(-last // batch_size))
    run = [data.batch_at(step) for step in batches]
    index = np.concatenate([x["index"] for x in run])
    numbers = np.concatenate([x["source"][:, 0] for x in run])
    here = (index >= first) & (index < last)
    np.testing.assert_array_equal(np.sort(numbers[here]), np.arange(1, n + 1))


@properties
@hypothesis.given(sources, sizes, seeds, steps)
def test_only_padding_is_cut(source, batch_size, seed, step):
    """The sides of a pair stay together and keep all of their tokens; both are as long
    as the bucket of the batch's longest pair, if their field is."""
    batch = bucketed(source, batch_size, seed).batch_at(step)
    numbers = batch["source"][:, 0] - 1
    length = loader.BUCKETS[buckets_of(source, batch).max()]
    for name, longest in LONGEST.items():
        assert batch[name].shape == (batch_size, min(length, longest))
        rest = ((0, 0), (0, longest - batch[name].shape[1]))
        whole = np.pad(batch[name], rest, constant_values=PAD)
        np.testing.assert_array_equal(whole, source.arrays[name][numbers])
        assert batch[name].dtype == np.int32


@properties
@hypothesis.given(sources, st.integers(1, 5), st.sampled_from([2, 4]), seeds, steps)
def test_processes_have_one_shape(source, local_size, count, seed, step):
    """The slices of all processes have equal shapes and are the batch of one."""
    size = local_size * count
    shares = [
        bucketed(source, size, seed, process_index=i, process_count=count)
        for i in range(count)
    ]
    shares = [share.batch_at(step) for share in shares]
    whole = bucketed(source, size, seed).batch_at(step)
    for name, x in whole.items():
        np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), x)


@properties
@hypothesis.given(sources, sizes, seeds, st.integers(0, 5))
def test_batches_have_one_bucket(source, batch_size, seed, epoch):
    """Of the batches of a pool, only one between two buckets has both."""
    n = len(source)
    whole = range(-(-epoch * n // batch_size), (epoch + 1) * n // batch_size)
    data = bucketed(source, batch_size, seed)
    found = [np.unique(buckets_of(source, data.batch_at(step))) for step in whole]
    num_buckets = len(set().union(*found))
    num_pools = -(-len(whole) // loader.POOL)
    borders = sum(len(buckets) - 1 for buckets in found)
    assert borders <= num_pools * max(0, num_buckets - 1)


@properties
@hypothesis.given(sources, sizes, seeds, st.lists(st.integers(0, 30), max_size=10))
def test_batch_is_a_function_of_the_step(source, batch_size, seed, order):
    """Batches do not depend on which ones were read before, nor on prefetching."""
    used = bucketed(source, batch_size, seed)
    prefetched = dict(used.iterate(0, 3))
    for step in [*order, *prefetched]:
        batch = prefetched.get(step, used.batch_at(step))
        expected = bucketed(source, batch_size, seed).batch_at(step)
        assert batch.keys() == expected.keys()
        for name, x in batch.items():
            np.testing.assert_array_equal(x, expected[name])


def test_short_and_long_batches_are_in_random_order():
    """If half of the batches are short, the first one of an epoch is in half of the
    epochs (5 sigma), and two given examples meet as often as any two of a bucket."""
    lengths = np.repeat([[3, 3], [20, 20]], 8, axis=0)
    data, epochs = bucketed(numbered(lengths), 4, seed=0), 2000
    batches = [data.batch_at(4 * epoch) for epoch in range(epochs)]
    short = [batch["source"].shape[1] == 8 for batch in batches]
    assert abs(np.mean(short) - 1 / 2) < 5 * 0.5 / np.sqrt(epochs)
    rows = [set(x["source"][:, 0]) for x in np.array(batches)[short]]
    meet = [{1, 8} <= row for row in rows]
    share = 4 / 8 * 3 / 7
    sigma = np.sqrt(share * (1 - share) / len(meet))
    assert np.mean(meet) == pytest.approx(share, abs=5 * sigma)


def test_rare_lengths_are_spread_over_the_epoch():
    """Four long examples among two pools are in one batch if one pool has them all, as
    often as a random half of the epoch does (5 sigma)."""
    n = 2 * loader.POOL * 4
    lengths = np.where(np.arange(n) < 4, 20, 3)
    data, epochs = bucketed(numbered(np.stack([lengths] * 2, 1)), 4, seed=0), 300
    together = 0
    for epoch in range(epochs):
        steps = range(epoch * n // 4, (epoch + 1) * n // 4)
        long = [data.batch_at(step)["source"].shape[1] > 8 for step in steps]
        assert sum(long) in (1, 2)
        together += sum(long) == 1
    share = 2 * math.comb(n // 2, 4) / math.comb(n, 4)
    sigma = np.sqrt(share * (1 - share) / epochs)
    assert together / epochs == pytest.approx(share, abs=5 * sigma)


def test_domains_are_grouped_each_for_itself():
    """Each source of `Unpaired` has its own groups and lengths."""
    a, b = (numbered(np.full((20, 2), length)) for length in (5, 15))
    batch = bucketed(base.Unpaired(a, b), 4, seed=0).batch_at(3)
    single = bucketed(a, 4, seed=0).batch_at(3)
    np.testing.assert_array_equal(batch["source_a"], single["source"])
    assert (batch["target_a"].shape, batch["target_b"].shape) == ((4, 8), (4, 16))


def test_lengths_must_be_known():
    """Sources of unknown lengths are refused, alone or as one of two domains."""
    source = numbered(np.full((4, 2), 3))
    unknown = base.ArraySource(source.arrays, source.fields)
    for data in (unknown, base.Unpaired(source, unknown)):
        with pytest.raises(
            ValueError, match="needs the lengths of the examples.*bucketed=False"
        ):
            bucketed(data, 2, seed=0)
