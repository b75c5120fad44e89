"""Laws of the loader: batches are a function of (seed, step) and nothing else."""

import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.data import base, loader, transforms


def numbered(n):
    """A source whose image i encodes i in its two left pixels, for n <= 2^16."""
    images = np.zeros((n, 2, 3, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(n) % 256, np.arange(n) // 256
    images[:, :, 1] = 99
    return base.array_images(images, np.arange(n, dtype=np.int32))


class Lazy(base.Source):
    """The same examples one by one, as a folder gives them."""

    def __init__(self, source):
        self.source, self.fields = source, source.fields
        self.threads = set()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        assert isinstance(i, int)
        self.threads.add(threading.get_ident())
        return self.source[i]


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


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(sizes, st.integers(1, 20), seeds, steps, st.booleans())
def test_batch_has_the_contract(n, batch_size, seed, step, flip):
    """Shapes, dtypes, and index = step * batch_size + position."""
    batch = loader.Loader(numbered(n), batch_size, seed, flip).batch_at(step)
    assert set(batch) == {"index", "image", "label"}
    assert batch["index"].dtype == np.int32
    np.testing.assert_array_equal(
        batch["index"], step * batch_size + np.arange(batch_size)
    )
    assert batch["image"].shape == (batch_size, 2, 3, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (batch_size,) and batch["label"].dtype == np.int32


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(sizes, st.integers(1, 20), seeds, st.integers(0, 5))
def test_every_epoch_visits_every_example_once(n, batch_size, seed, epoch):
    """Examples n*e .. n*(e+1)-1 of the run are a permutation of the source."""
    data = loader.Loader(numbered(n), batch_size, seed)
    first, last = epoch * n, (epoch + 1) * n
    batches = range(first // batch_size, -(-last // batch_size))
    run = joined(data.batch_at(step) for step in batches)
    here = (run["index"] >= first) & (run["index"] < last)
    np.testing.assert_array_equal(np.sort(run["label"][here]), np.arange(n))


@hypothesis.settings(max_examples=40, deadline=None)
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


@hypothesis.settings(max_examples=40, deadline=None)
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
    np.testing.assert_array_equal(
        batch["image"], source.arrays["image"][batch["label"]]
    )


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
        image = data.batch_at(2)["image"][:, 0, :, 0]
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
    """A file that cannot be read stops the loop with its own error."""

    class Broken(Lazy):
        def __getitem__(self, i):
            raise ValueError("bad.png cannot be read")

    with pytest.raises(ValueError, match="bad.png cannot be read"):
        list(loader.Loader(Broken(numbered(8)), 2, seed=0).iterate(0, 3))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 50))
def test_to_batch_starts_over(n, size, first):
    """Examples come in order and unflipped with the index asked for; beyond the end of
    the source they start over."""
    source, index = numbered(n), np.arange(first, first + size)
    for one in (source, Lazy(source)):
        batch = loader.to_batch(one, index)
        assert batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["label"], index % n)
        np.testing.assert_array_equal(
            batch["image"], transforms.to_float(source.arrays["image"][index % n])
        )
        travels = loader.read(one, index)
        assert travels["image"].dtype == np.uint8
        travels["image"] = transforms.to_float(travels["image"])
        assert_same(travels, batch)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            dict(batch_size=10, process_count=4),
            "multiple of the number of processes, 4",
        ),
        (dict(batch_size=0), "batch_size is 0; it must be a positive multiple"),
        (dict(process_index=2, process_count=2), "is 2; it must lie in 0..1"),
        (dict(seed=-1), "seed is -1; it must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    """Invalid arguments raise an error that names them."""
    with pytest.raises(ValueError, match=sentence):
        loader.Loader(numbered(3), **{"batch_size": 4, "seed": 0, **arguments})


def test_empty_source_is_refused():
    """There are no batches of an empty source, nor of one with an empty domain."""
    empty = base.Range(0)
    for source in (
        empty,
        base.Unpaired(empty, numbered(3)),
        base.Unpaired(numbered(3), empty),
    ):
        with pytest.raises(ValueError, match="source is empty"):
            loader.Loader(source, 4, seed=0)


# Data of any kind

SIGNALS = np.random.default_rng(0).normal(0, 9, (6, 5, 2)).astype(np.float32)
KINDS = {
    "points": (SIGNALS[:, 0], base.Field((2,), np.float32, "points")),
    "signal": (SIGNALS, base.Field((5, 2), np.float32, "signal")),
    "tokens": (
        np.arange(24, dtype=np.int32).reshape(6, 4),
        base.Field((4,), np.int32, "tokens", size=24),
    ),
    "vector": (SIGNALS[:, 1], base.Field((2,), np.float32, "vector")),
    "scalar": (SIGNALS[:, 0, 0], base.Field((), np.float32, "scalar")),
}


@pytest.mark.parametrize("flip", [False, True])
def test_kinds_other_than_images_are_unchanged(flip):
    """Points, signals, tokens, vectors and scalars reach the batch bit for bit and in
    their dtype, never flipped, and all fields of an example stay together."""
    arrays = {name: array for name, (array, _) in KINDS.items()}
    fields = {name: field for name, (_, field) in KINDS.items()}
    arrays["label"], fields["label"] = np.arange(6, dtype=np.int32), base.label_field(6)
    source = base.ArraySource(arrays, fields)
    data = loader.Loader(source, 12, seed=0, flip=flip)
    for batch in (data.batch_at(3), loader.to_batch(source, np.arange(12))):
        assert batch.keys() == {"index", *fields}
        for name, array in arrays.items():
            assert batch[name].dtype == array.dtype
            np.testing.assert_array_equal(batch[name], array[batch["label"]])


def test_images_of_an_example_are_flipped_together():
    """One coin mirrors every image of an example, of any size, square or not."""
    rng = np.random.default_rng(1)
    shapes = {"image": (2, 7, 3), "low_res": (1, 3, 1)}
    arrays = {k: rng.integers(0, 256, (4, *s), np.uint8) for k, s in shapes.items()}
    arrays["label"] = np.arange(4, dtype=np.int32)
    fields = {name: base.image_field(shape) for name, shape in shapes.items()}
    source = base.ArraySource(arrays, {**fields, "label": base.label_field(4)})
    batch = loader.Loader(source, 64, seed=0, flip=True).batch_at(1)
    upright = loader.Loader(source, 64, seed=0).batch_at(1)
    flips = []
    for name in shapes:
        assert batch[name].shape == (64, *shapes[name])
        same, mirrored = (
            (batch[name] == x).all((1, 2, 3))
            for x in (upright[name], upright[name][:, :, ::-1])
        )
        assert np.all(same != mirrored)
        flips.append(mirrored)
    np.testing.assert_array_equal(*flips)
    assert 0 < flips[0].sum() < 64


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(sizes, st.integers(0, 50), st.integers(0, 60), st.booleans())
def test_pairs_have_the_example_at_an_offset(n, offset, first, lazy):
    """The partner of running index i is what index i + offset gives: the same fields,
    starting over beyond the end, and partner_index = i + offset."""
    source = Lazy(numbered(n)) if lazy else numbered(n)
    pairs, index = base.Pairs(source, offset), np.arange(first, first + 5)
    batch = loader.to_batch(pairs, index)
    partner = {k[8:]: v for k, v in batch.items() if k.startswith("partner_")}
    assert_same(partner, loader.to_batch(source, index + offset))
    assert_same({k: batch[k] for k in partner}, loader.to_batch(source, index))
    assert len(pairs) == n and batch.keys() == {"index", *pairs.fields}
    example, expected = pairs[n - 1], pairs.read(np.array([n - 1]))
    assert_same({k: np.asarray(v)[None] for k, v in example.items()}, expected)


def test_pairs_of_a_range_are_indices():
    """A source without fields still has partners, by their index."""
    batch = loader.to_batch(base.Pairs(base.Range(10), 3), np.arange(8, 12))
    assert_same(
        batch,
        {
            "index": np.arange(8, 12, dtype=np.int32),
            "partner_index": np.arange(11, 15, dtype=np.int32),
        },
    )


# Two domains

DOMAIN_KEYS = ("image_a", "label_a", "image_b", "label_b")


def domain(batch, which):
    """The part of a batch that belongs to domain 'a' or 'b', under plain names."""
    return {k: batch[f"{k}_{which}"] for k in ("image", "label")}


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(sizes, sizes, st.integers(1, 20), seeds, steps, st.booleans())
def test_domains_have_the_contract(n_a, n_b, batch_size, seed, step, flip):
    """Shapes, dtypes and index, and domain a is the same without domain b."""
    pair = base.Unpaired(numbered(n_a), numbered(n_b))
    batch = loader.Loader(pair, batch_size, seed, flip).batch_at(step)
    single = loader.Loader(pair.a, batch_size, seed, flip).batch_at(step)
    assert set(batch) == {"index", *DOMAIN_KEYS}
    assert_same({"index": batch["index"], **domain(batch, "a")}, single)
    for key, value in domain(batch, "b").items():
        assert value.shape == single[key].shape and value.dtype == single[key].dtype
    assert 0 <= batch["label_b"].min() and batch["label_b"].max() < n_b
    pixels = batch["image_b"]
    upright = pixels[:, :, :1] + pixels[:, :, 2:]  # One of the two columns is black.
    np.testing.assert_array_equal(
        upright, pair.b.arrays["image"][batch["label_b"]][:, :, :1]
    )


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(sizes, sizes, st.integers(1, 20), seeds, st.integers(0, 3))
def test_each_domain_has_epochs_of_its_own(n_a, n_b, batch_size, seed, epoch):
    """Every n consecutive examples from n * e on are all n of a domain, whatever the
    other's length: each example is seen equally often."""
    pair = base.Unpaired(numbered(n_a), numbered(n_b))
    data = loader.Loader(pair, batch_size, seed)
    for which, n in (("a", n_a), ("b", n_b)):
        first, last = epoch * n, (epoch + 1) * n
        batches = range(first // batch_size, -(-last // batch_size))
        run = joined(data.batch_at(step) for step in batches)
        here = (run["index"] >= first) & (run["index"] < last)
        np.testing.assert_array_equal(np.sort(run[f"label_{which}"][here]), range(n))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    sizes, sizes, st.integers(1, 6), st.sampled_from([1, 2, 4]), seeds, steps
)
def test_processes_split_one_batch_of_domains(n_a, n_b, local, count, seed, step):
    """The slices of all processes, one after another, are the batch of one."""
    pair, size = base.Unpaired(numbered(n_a), numbered(n_b)), local * count
    shares = [
        loader.Loader(pair, size, seed, True, True, i, count).batch_at(step)
        for i in range(count)
    ]
    assert_same(joined(shares), loader.Loader(pair, size, seed, True).batch_at(step))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(sizes, sizes, seeds, st.integers(1, 12))
def test_run_of_domains_does_not_depend_on_batch_size(n_a, n_b, seed, size):
    """Batches only cut the run into pieces, of both domains."""
    pair = base.Unpaired(numbered(n_a), numbered(n_b))
    data = loader.Loader(pair, size, seed, flip=True)
    run = joined(data.batch_at(step) for step in range(-(-60 // size)))
    once = loader.Loader(pair, 60, seed, flip=True).batch_at(0)
    assert_same({k: v[:60] for k, v in run.items()}, once)


def test_pairs_are_drawn_uniformly():
    """Of equal domains each a meets each b equally often (5 sigma)."""
    n, epochs = 5, 4000
    data = loader.Loader(base.Unpaired(numbered(n), numbered(n)), n * epochs, seed=0)
    batch = data.batch_at(0)
    counts = np.zeros((n, n))
    np.add.at(counts, (batch["label_a"], batch["label_b"]), 1)
    sigma = np.sqrt(epochs / n * (1 - 1 / n))  # A pair meets once an epoch or not.
    assert np.abs(counts - epochs / n).max() < 5 * sigma


def test_orders_of_domains_differ():
    """No seed, epoch and domain share an order with another."""
    pair = base.Unpaired(numbered(50), numbered(50))
    orders = [
        tuple(loader.Loader(pair, 50, seed).batch_at(epoch)[key])
        for seed in range(4)
        for epoch in range(4)
        for key in ("label_a", "label_b")
    ]
    assert len(set(orders)) == len(orders)


def test_flips_of_domains_are_fair_and_independent():
    """Each domain mirrors half of its images, and both agree in half (5 sigma)."""
    source = base.array_images(
        np.array([[[[255], [0]]]], np.uint8), np.zeros(1, np.int32)
    )
    n = 4000
    batch = loader.Loader(base.Unpaired(source, source), n, 3, flip=True).batch_at(5)
    a, b = (batch[key][:, 0, 0, 0] == 0 for key in ("image_a", "image_b"))
    for share in (a.mean(), b.mean(), (a == b).mean()):
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(n)


def test_domains_without_shuffle_repeat_in_their_order():
    """shuffle=False repeats 0, 1, ..., n-1 in each domain."""
    data = loader.Loader(base.Unpaired(numbered(7), numbered(4)), 5, 9, shuffle=False)
    run = joined(data.batch_at(step) for step in range(6))
    np.testing.assert_array_equal(run["label_a"], np.arange(30) % 7)
    np.testing.assert_array_equal(run["label_b"], np.arange(30) % 4)


@pytest.mark.parametrize("lazy", ["", "b", "ab"])
def test_iterate_over_domains_is_batch_at(lazy):
    """Fetching ahead changes nothing, nor does what the domains are made of."""
    arrays = {"a": numbered(11), "b": numbered(6)}
    pair = {k: Lazy(v) if k in lazy else v for k, v in arrays.items()}
    data = loader.Loader(base.Unpaired(**pair), 4, seed=2, flip=True)
    known = loader.Loader(base.Unpaired(**arrays), 4, seed=2, flip=True)
    seen = list(data.iterate(3, 9))
    assert [step for step, _ in seen] == list(range(3, 9))
    for step, batch in seen:
        assert_same(batch, known.batch_at(step))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(sizes, sizes)
def test_a_pass_over_domains_keeps_pairs(n_a, n_b):
    """One pass has the first min(n_a, n_b) of both, in their order, side by side and
    unflipped; beyond that each domain starts over after its own last example."""
    pair = base.Unpaired(numbered(n_a), numbered(n_b))
    assert len(pair) == min(n_a, n_b)
    index = np.arange(len(pair) + 9)
    batch = loader.to_batch(pair, index)
    assert set(batch) == {"index", *DOMAIN_KEYS} == {"index", *pair.fields}
    for which, source in (("a", pair.a), ("b", pair.b)):
        single = loader.to_batch(source, index)
        assert_same({"index": index.astype(np.int32), **domain(batch, which)}, single)
    first = pair[len(pair) - 1]
    assert first["label_a"] == first["label_b"] == len(pair) - 1


def test_domains_need_one_shape():
    """Domains with images of different shapes are refused, in memory or not."""
    small = numbered(3)
    other = base.array_images(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32))
    for a, b in ((small, other), (Lazy(small), other), (small, Lazy(other))):
        with pytest.raises(ValueError, match="2x3x1 in domain a and 4x4x1 in domain b"):
            base.Unpaired(a, b)


def test_domains_have_their_own_classes():
    """Each domain keeps its number of classes, also where it is unknown."""
    known = numbered(10)
    unknown = Lazy(known)
    unknown.fields = {**known.fields, "label": base.label_field(None)}
    fields = base.Unpaired(known, unknown).fields
    assert fields["label_a"].size == 10 and fields["label_b"].size is None
