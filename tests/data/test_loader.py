"""Laws of the loader: batches are a function of (seed, step) and nothing else."""

import collections
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.data import loader, sources


def numbered(n):
    """A source whose image i says i in its two left pixels, for n <= 2^16."""
    images = np.zeros((n, 2, 3, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(n) % 256, np.arange(n) // 256
    images[:, :, 1] = 99
    return sources.ArraySource(images, np.arange(n, dtype=np.int32))


class Lazy:
    """The same examples one by one, as a folder gives them."""

    def __init__(self, source):
        self.source = source
        self.threads = set()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        assert isinstance(i, int)
        self.threads.add(threading.get_ident())
        return {"image": self.source.images[i], "label": self.source.labels[i]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
        assert a[key].dtype == b[key].dtype


def joined(batches):
    batches = list(batches)
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32)
steps = st.integers(0, 10**6)


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, st.integers(1, 20), seeds, steps, st.booleans())
def test_batch_has_the_contract(n, batch_size, seed, step, flip):
    """Shapes, dtypes, range, and index = step * batch_size + position."""
    batch = loader.Loader(numbered(n), batch_size, seed, flip).batch_at(step)
    assert set(batch) == {"index", "image", "label"}
    assert batch["index"].dtype == np.int32
    np.testing.assert_array_equal(
        batch["index"], step * batch_size + np.arange(batch_size)
    )
    assert batch["image"].shape == (batch_size, 2, 3, 1)
    assert batch["image"].dtype == np.float32
    assert np.abs(batch["image"]).max() <= 1
    assert batch["label"].shape == (batch_size,) and batch["label"].dtype == np.int32


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, st.integers(1, 20), seeds, st.integers(0, 5))
def test_every_epoch_visits_every_example_once(n, batch_size, seed, epoch):
    """Examples n*e .. n*(e+1)-1 of the run are a permutation of the source."""
    data = loader.Loader(numbered(n), batch_size, seed)
    first, last = epoch * n, (epoch + 1) * n
    batches = range(first // batch_size, -(-last // batch_size))
    run = joined(data.batch_at(step) for step in batches)
    here = (run["index"] >= first) & (run["index"] < last)
    np.testing.assert_array_equal(np.sort(run["label"][here]), np.arange(n))


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, st.integers(1, 6), st.sampled_from([1, 2, 4]), seeds, steps)
def test_processes_split_one_global_batch(n, local_size, count, seed, step):
    """The slices of all processes, one after another, are the batch of one."""
    source, size = numbered(n), local_size * count
    shares = [
        loader.Loader(source, size, seed, True, True, i, count).batch_at(step)
        for i in range(count)
    ]
    assert all(len(share["index"]) == local_size for share in shares)
    assert_same(joined(shares), loader.Loader(source, size, seed, True).batch_at(step))


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, seeds, st.integers(1, 12), st.integers(1, 12))
def test_run_does_not_depend_on_batch_size(n, seed, size_a, size_b):
    """Order and flips belong to (seed, index): batches only cut the run into pieces."""
    a, b = (
        joined(
            loader.Loader(numbered(n), size, seed, flip=True).batch_at(step)
            for step in range(-(-60 // size))
        )
        for size in (size_a, size_b)
    )
    assert_same({k: v[:60] for k, v in a.items()}, {k: v[:60] for k, v in b.items()})


def test_image_and_label_belong_together():
    """Shuffling moves an image with its label; without flips the pixels are intact."""
    source = numbered(1000)
    batch = loader.Loader(source, 300, seed=5).batch_at(7)
    pixels = np.rint((batch["image"] + 1) * 127.5)
    np.testing.assert_array_equal(pixels, source.images[batch["label"]])


def test_orders_differ():
    """Epochs differ, seeds differ, and epoch 1 of a seed is no epoch 0 of the next."""
    order = {
        (seed, epoch): tuple(
            loader.Loader(numbered(50), 50, seed).batch_at(epoch)["label"]
        )
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(order.values())) == len(order)
    assert tuple(range(50)) not in order.values()


def test_order_is_uniform():
    """Over many epochs each example stands at each place equally often (5 sigma)."""
    n, epochs = 5, 4000
    data = loader.Loader(numbered(n), n * epochs, seed=0)
    table = data.batch_at(0)["label"].reshape(epochs, n)
    counts = np.stack([np.bincount(table[:, place], minlength=n) for place in range(n)])
    sigma = np.sqrt(epochs / n * (1 - 1 / n))
    assert np.abs(counts - epochs / n).max() < 5 * sigma


def test_flips_are_fair_and_independent_of_the_order():
    """Half of the images are mirrored; the coin of an index ignores shuffling."""
    flipped = []
    for shuffle in (True, False):
        data = loader.Loader(numbered(50), 2000, 3, flip=True, shuffle=shuffle)
        # The left column is the number and the right one is 0, so that only the label
        # 0 looks the same mirrored.
        image = np.rint((data.batch_at(2)["image"] + 1) * 127.5)[:, 0, :, 0]
        label = data.batch_at(2)["label"]
        known = label > 0
        flipped.append((np.where(image[:, 2] == label, 1, 0), known))
    (a, known_a), (b, known_b) = flipped
    both = known_a & known_b
    np.testing.assert_array_equal(a[both], b[both])
    assert abs(a[known_a].mean() - 0.5) < 5 * 0.5 / np.sqrt(known_a.sum())
    changes = np.mean(a[both][1:] != a[both][:-1])
    assert abs(changes - 0.5) < 5 * 0.5 / np.sqrt(both.sum())


def test_without_shuffle_the_order_is_the_source():
    """shuffle=False repeats 0, 1, ..., n-1."""
    data = loader.Loader(numbered(7), 5, seed=9, shuffle=False)
    run = joined(data.batch_at(step) for step in range(6))
    np.testing.assert_array_equal(run["label"], np.arange(30) % 7)


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(seeds, st.integers(0, 50), st.integers(0, 12), st.booleans())
def test_iterate_is_batch_at(seed, start, count, lazy):
    """Fetching ahead changes nothing, from any start: resuming needs no state."""
    source = Lazy(numbered(11)) if lazy else numbered(11)
    data = loader.Loader(source, 4, seed, flip=True)
    seen = list(data.iterate(start, start + count))
    assert [step for step, _ in seen] == list(range(start, start + count))
    for step, batch in seen:
        assert_same(batch, data.batch_at(step))


def test_lazy_source_gives_the_batches_of_the_array():
    """What a source is made of cannot be seen in the batches."""
    array = loader.Loader(numbered(20), 6, 1, flip=True)
    lazy = loader.Loader(Lazy(numbered(20)), 6, 1, flip=True)
    for step in range(5):
        assert_same(array.batch_at(step), lazy.batch_at(step))


def test_iterate_reads_in_the_background():
    """Examples are decoded in other threads than the caller's, and ahead of it."""
    source = Lazy(numbered(8))
    batches = loader.Loader(source, 2, seed=0).iterate(0, 10)
    next(batches)
    batches.close()
    assert source.threads and threading.get_ident() not in source.threads


def test_iterate_can_be_left_early():
    """A loop that breaks leaves no thread that reads on for ever."""
    before = threading.active_count()
    for step, _ in loader.Loader(Lazy(numbered(8)), 2, seed=0).iterate(0, 10**9):
        if step == 3:
            break
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(timeout=5)
    assert threading.active_count() <= before + 1


def test_error_of_a_source_reaches_the_loop():
    """A file that cannot be read stops the loop with its own sentence."""

    class Broken(Lazy):
        def __getitem__(self, i):
            raise ValueError("bad.png cannot be read")

    with pytest.raises(ValueError, match="bad.png cannot be read"):
        list(loader.Loader(Broken(numbered(8)), 2, seed=0).iterate(0, 3))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(sizes, st.integers(1, 5), st.sampled_from([1, 2, 3]))
def test_epoch_counts_every_example_once(n, local_size, count):
    """Weighted sums over all processes are sums over the source; shapes are fixed."""
    source, size = numbered(n), local_size * count
    passes = [
        list(loader.Loader(source, size, 0, True, True, i, count).epoch())
        for i in range(count)
    ]
    assert {len(p) for p in passes} == {-(-n // size)}
    batches = [batch for p in passes for batch in p]
    assert {b["image"].shape for b in batches} == {(local_size, 2, 3, 1)}
    assert {b["weight"].dtype for b in batches} == {np.dtype(np.float32)}
    run = joined(batches)
    seen = collections.Counter(run["label"][run["weight"] == 1].tolist())
    assert seen == collections.Counter(range(n))
    assert set(run["weight"]) <= {0.0, 1.0}
    assert np.all(run["label"][run["weight"] == 0] == n - 1)
    np.testing.assert_array_equal(np.sort(run["index"]), np.arange(len(run["index"])))
    real = run["weight"] == 1
    np.testing.assert_array_equal(run["label"][real], run["index"][real])


def test_epoch_is_unflipped():
    """An evaluation sees the images as they are, whatever the training does."""
    source = numbered(10)
    run = joined(loader.Loader(source, 4, seed=0, flip=True).epoch())
    np.testing.assert_array_equal(
        np.rint((run["image"][:10] + 1) * 127.5), source.images
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            dict(batch_size=10, process_count=4),
            "multiple of the number of processes, 4",
        ),
        (dict(batch_size=0), "batch_size 0 must be a positive multiple"),
        (dict(process_index=2, process_count=2), "process_index 2 must lie in 0..1"),
        (dict(seed=-1), "seed -1 must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    """A loader that cannot work is not made."""
    with pytest.raises(ValueError, match=sentence):
        loader.Loader(numbered(3), **{"batch_size": 4, "seed": 0, **arguments})


def test_what_is_no_picture_stays_in_its_units():
    """float32 of a source reaches the batch bit for bit, bytes do not."""
    points = np.random.default_rng(0).normal(0, 9, (6, 1, 1, 2)).astype(np.float32)
    source = sources.ArraySource(points, np.arange(6, dtype=np.int32))
    for flip in (False, True):
        data = loader.Loader(source, 6, seed=0, flip=flip)
        batch, passed = data.batch_at(3), next(data.epoch())
        assert batch["image"].dtype == passed["image"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"], points[batch["label"]])
        np.testing.assert_array_equal(passed["image"], points)


def test_empty_source_is_refused():
    """There is no batch of nothing."""
    with pytest.raises(ValueError, match="source is empty"):
        loader.Loader([], 4, seed=0)


# Two domains

DOMAIN_KEYS = ("image_a", "label_a", "image_b", "label_b")


def domain(batch, which):
    """The part of a batch that belongs to domain 'a' or 'b', under plain names."""
    return {k: batch[f"{k}_{which}"] for k in ("image", "label")}


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, sizes, st.integers(1, 20), seeds, steps, st.booleans())
def test_domains_have_the_contract(n_a, n_b, batch_size, seed, step, flip):
    """Shapes, dtypes, range and index, and domain a is what it would be alone."""
    pair = sources.Unpaired(numbered(n_a), numbered(n_b))
    batch = loader.Loader(pair, batch_size, seed, flip).batch_at(step)
    alone = loader.Loader(pair.a, batch_size, seed, flip).batch_at(step)
    assert set(batch) == {"index", *DOMAIN_KEYS}
    assert_same({"index": batch["index"], **domain(batch, "a")}, alone)
    for key, value in domain(batch, "b").items():
        assert value.shape == alone[key].shape and value.dtype == alone[key].dtype
    assert np.abs(batch["image_b"]).max() <= 1
    assert 0 <= batch["label_b"].min() and batch["label_b"].max() < n_b
    pixels = np.rint((batch["image_b"] + 1) * 127.5)
    upright = pixels[:, :, :1] + pixels[:, :, 2:]  # One of the two columns is black.
    np.testing.assert_array_equal(
        upright, pair.b.images[batch["label_b"]][:, :, :1].astype(float)
    )


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, sizes, st.integers(1, 20), seeds, st.integers(0, 3))
def test_each_domain_has_epochs_of_its_own(n_a, n_b, batch_size, seed, epoch):
    """Every n consecutive examples from n * e on are all n of a domain, whatever the
    other's length: each example is seen equally often."""
    pair = sources.Unpaired(numbered(n_a), numbered(n_b))
    data = loader.Loader(pair, batch_size, seed)
    for which, n in (("a", n_a), ("b", n_b)):
        first, last = epoch * n, (epoch + 1) * n
        batches = range(first // batch_size, -(-last // batch_size))
        run = joined(data.batch_at(step) for step in batches)
        here = (run["index"] >= first) & (run["index"] < last)
        np.testing.assert_array_equal(np.sort(run[f"label_{which}"][here]), range(n))


@hypothesis.settings(deadline=None)
@hypothesis.given(
    sizes, sizes, st.integers(1, 6), st.sampled_from([1, 2, 4]), seeds, steps
)
def test_processes_split_one_batch_of_domains(n_a, n_b, local, count, seed, step):
    """The slices of all processes, one after another, are the batch of one."""
    pair, size = sources.Unpaired(numbered(n_a), numbered(n_b)), local * count
    shares = [
        loader.Loader(pair, size, seed, True, True, i, count).batch_at(step)
        for i in range(count)
    ]
    assert_same(joined(shares), loader.Loader(pair, size, seed, True).batch_at(step))


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(sizes, sizes, seeds, st.integers(1, 12))
def test_run_of_domains_does_not_depend_on_batch_size(n_a, n_b, seed, size):
    """Batches only cut the run into pieces, of both domains."""
    pair = sources.Unpaired(numbered(n_a), numbered(n_b))
    data = loader.Loader(pair, size, seed, flip=True)
    run = joined(data.batch_at(step) for step in range(-(-60 // size)))
    once = loader.Loader(pair, 60, seed, flip=True).batch_at(0)
    assert_same({k: v[:60] for k, v in run.items()}, once)


def test_pairs_are_drawn_uniformly():
    """Of equal domains each a meets each b equally often (5 sigma)."""
    n, epochs = 5, 4000
    data = loader.Loader(sources.Unpaired(numbered(n), numbered(n)), n * epochs, seed=0)
    batch = data.batch_at(0)
    counts = np.zeros((n, n))
    np.add.at(counts, (batch["label_a"], batch["label_b"]), 1)
    sigma = np.sqrt(epochs / n * (1 - 1 / n))  # A pair meets once an epoch or not.
    assert np.abs(counts - epochs / n).max() < 5 * sigma


def test_orders_of_domains_differ():
    """No seed, epoch and domain share an order with another."""
    pair = sources.Unpaired(numbered(50), numbered(50))
    orders = [
        tuple(loader.Loader(pair, 50, seed).batch_at(epoch)[key])
        for seed in range(4)
        for epoch in range(4)
        for key in ("label_a", "label_b")
    ]
    assert len(set(orders)) == len(orders)


def test_flips_of_domains_are_fair_and_independent():
    """Each domain mirrors half of its images, and both agree in half (5 sigma)."""
    source = sources.ArraySource(
        np.array([[[[255], [0]]]], np.uint8), np.zeros(1, np.int32)
    )
    n = 4000
    batch = loader.Loader(sources.Unpaired(source, source), n, 3, flip=True).batch_at(5)
    a, b = (batch[key][:, 0, 0, 0] < 0 for key in ("image_a", "image_b"))
    for share in (a.mean(), b.mean(), (a == b).mean()):
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(n)


def test_domains_without_shuffle_repeat_in_their_order():
    """shuffle=False repeats 0, 1, ..., n-1 in each domain."""
    data = loader.Loader(
        sources.Unpaired(numbered(7), numbered(4)), 5, 9, shuffle=False
    )
    run = joined(data.batch_at(step) for step in range(6))
    np.testing.assert_array_equal(run["label_a"], np.arange(30) % 7)
    np.testing.assert_array_equal(run["label_b"], np.arange(30) % 4)


@pytest.mark.parametrize("lazy", ["", "b", "ab"])
def test_iterate_over_domains_is_batch_at(lazy):
    """Fetching ahead changes nothing, nor does what the domains are made of."""
    arrays = {"a": numbered(11), "b": numbered(6)}
    pair = {k: Lazy(v) if k in lazy else v for k, v in arrays.items()}
    data = loader.Loader(sources.Unpaired(**pair), 4, seed=2, flip=True)
    known = loader.Loader(sources.Unpaired(**arrays), 4, seed=2, flip=True)
    seen = list(data.iterate(3, 9))
    assert [step for step, _ in seen] == list(range(3, 9))
    for step, batch in seen:
        assert_same(batch, known.batch_at(step))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(sizes, sizes, st.integers(1, 5), st.sampled_from([1, 2, 3]))
def test_epoch_over_domains_keeps_pairs(n_a, n_b, local_size, count):
    """One pass has the first min(n_a, n_b) of both, in their order, side by side and
    unflipped, once each at weight 1 over all processes."""
    pair, size = sources.Unpaired(numbered(n_a), numbered(n_b)), local_size * count
    n = len(pair)
    assert n == min(n_a, n_b)
    passes = [
        list(loader.Loader(pair, size, 0, True, True, i, count).epoch())
        for i in range(count)
    ]
    assert {len(p) for p in passes} == {-(-n // size)}
    run = joined(batch for p in passes for batch in p)
    assert set(run) == {"index", "weight", *DOMAIN_KEYS}
    assert run["weight"].dtype == np.float32
    real = run["weight"] == 1
    np.testing.assert_array_equal(real, run["index"] < n)
    np.testing.assert_array_equal(np.sort(run["index"][real]), np.arange(n))
    for which in "ab":
        part = domain(run, which)
        expected = np.minimum(run["index"], n - 1)
        np.testing.assert_array_equal(part["label"], expected)
        np.testing.assert_array_equal(
            np.rint((part["image"] + 1) * 127.5), numbered(n).images[expected]
        )


def test_domains_refuse_what_is_no_pair():
    """Both have images, of one shape, whether they lie in memory or not."""
    small, other = (
        numbered(3),
        sources.ArraySource(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)),
    )
    for a, b in ((small, other), (Lazy(small), other), (small, Lazy(other))):
        with pytest.raises(ValueError, match="domain a are 2x3x1 .* domain b 4x4x1"):
            sources.Unpaired(a, b)
    for name, pair in (("a", ([], small)), ("b", (small, []))):
        with pytest.raises(ValueError, match=f"Domain {name} is empty"):
            sources.Unpaired(*pair)


def test_domains_have_the_classes_of_a():
    """num_classes is that of domain a, also where nobody knows it."""
    unknown = sources.make("digits", "train_odd", 8, 1)
    known = sources.make("inverted:digits", "train_even", 8, 1)
    assert sources.Unpaired(known, unknown).num_classes == 10

    class Unknown(Lazy):
        num_classes = None

    assert sources.Unpaired(Unknown(known), unknown).num_classes is None
