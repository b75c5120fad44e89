"""A device holds one training state, however the run starts."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke import load

from diffusion_jax import training_loop as commands
from diffusion_jax.training import parallel

SMALL = {"data__batch_size": 8, "sample__num_examples": 8, "sample__batch_size": 8}


def held(arrays):
    """Bytes of the arrays on the first device; a shared buffer counts once."""
    buffers = {}
    for array in arrays:
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        for shard in array.addressable_shards:
            if shard.device == jax.local_devices()[0]:
                buffers[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(buffers.values())


@pytest.fixture
def calls(monkeypatch):
    """(bytes of all arrays, bytes of the state) on the first device at each step."""
    found, make = [], parallel.train_step_on_devices

    def spied(step):
        run = make(step)

        def spy(state, batch, stop):
            gc.collect()
            found.append((held(jax.live_arrays()), held(jax.tree.leaves(state))))
            return run(state, batch, stop)

        spy.compile = run.compile
        return spy

    monkeypatch.setattr(parallel, "train_step_on_devices", spied)
    return found


@pytest.mark.parametrize("start", ["fresh", "resumed", "other run"])
def test_one_state_on_the_device(start, calls, tmp_path):
    """When a step starts, the first device holds the state and nothing else but what
    is small: no fresh, restored or unreplicated copy of it."""
    config = load("digits_vae", train__num_steps=2, train__save_every=2, **SMALL)
    config.model.hidden = (256,)  # larger than what other tests leave behind
    config.train.sample_every = 0
    before = held(jax.live_arrays())
    commands.train(config, tmp_path / "first")
    if start == "resumed":
        config.train.num_steps = 4
        commands.train(config, tmp_path / "first")
    if start == "other run":
        config.train.init_from = f"net={tmp_path / 'first'}"
        commands.train(config, tmp_path / "second")
    assert len(calls) == (2 if start == "fresh" else 4)
    for everything, state in calls:
        assert state > 500_000
        assert everything - before < 1.2 * state


def test_a_donated_tree_is_not_copied_on_its_device():
    """The buffer that is there already becomes the first device's copy, so that there
    are never two; a host array and one that is kept are copied."""
    for x in (jnp.arange(1000.0), np.arange(1000, dtype=np.float32)):
        old = np.asarray(x).ctypes.data  # on a CPU a view of the buffer
        pointers = {}
        for donate in (False, True):
            copies = parallel.replicate({"x": x, "key": jax.random.key(3)}, donate)
            assert jax.random.key_data(copies["key"]).tolist() == [0, 3]
            np.testing.assert_array_equal(copies["x"], np.arange(1000))
            shards = copies["x"].addressable_shards
            pointers[donate] = {shard.data.unsafe_buffer_pointer() for shard in shards}
            assert len(pointers[donate]) == jax.local_device_count()
        assert old not in pointers[False]
        assert (old in pointers[True]) == isinstance(x, jax.Array)
