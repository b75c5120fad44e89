"""Laws of checkpoints: what was saved comes back, or is named as damaged."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training.checkpoints import Checkpoints, MismatchError
from diffusion_jax.training.state import TrainState


def make_state(step, width=64):
    """A state with leaves of many kinds, different at every step."""
    key = jax.random.key(step)
    weights = jax.random.normal(key, (width, 3))
    return TrainState(
        step=jnp.int32(step),
        key=jax.random.fold_in(key, 7),
        params={"net": {"kernel": weights, "half": weights[0].astype(jnp.bfloat16)}},
        model_state={"net": {"mean": jnp.full((2,), step / 3)}},
        opt_state={"net": ({"count": jnp.int32(step)}, (), {"mu": -weights})},
        ema={"net": {"kernel": weights / 3, "half": weights[1].astype(jnp.bfloat16)}},
        extra={"pool": jnp.arange(step, step + 6, dtype=jnp.uint8).reshape(2, 3)},
    )


TEMPLATE = jax.eval_shape(lambda: make_state(1))


def leaves(state):
    """Bytes of every leaf, by name, with its shape and dtype."""
    state = state.replace(key=jax.random.key_data(state.key))
    flat = jax.tree_util.tree_flatten_with_path(jax.device_get(state))[0]
    return {
        jax.tree_util.keystr(path): (np.asarray(x).tobytes(), x.shape, x.dtype)
        for path, x in flat
    }


def save(directory, *steps, keep=3, scores=()):
    """Saves states of those steps and returns the (closed) checkpoints' steps."""
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(make_state(step), dict(scores).get(step))
    checkpoints.close()
    return Checkpoints(directory, keep).steps()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 1 and 2, both with a score; not to be changed."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    assert save(directory, 1, 2, scores={1: 0.5, 2: 0.75}) == [1, 2]
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of it that may be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_round_trip(saved):
    """Every leaf comes back bit for bit: float32, bfloat16, integers and the key."""
    state = Checkpoints(saved).restore_latest(TEMPLATE)
    assert leaves(state) == leaves(make_state(2))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(2))
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    assert leaves(Checkpoints(saved).restore(TEMPLATE, 1)) == leaves(make_state(1))


def test_nothing_saved(tmp_path):
    """Without a checkpoint a run starts anew, and sampling is refused."""
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.restore_latest(TEMPLATE) is None
    assert checkpoints.best_step() is None
    with pytest.raises(FileNotFoundError, match="no last checkpoint.*train first"):
        checkpoints.restore_trained(TEMPLATE, "last")


def test_keeps_the_last_and_the_best(tmp_path):
    """The last k and the one of the lowest score are kept, across restarts too."""
    scores = {1: 3.0, 2: 1.0, 3: 2.0}
    assert save(tmp_path, 1, 2, 3, 4, keep=2, scores=scores) == [2, 3, 4]
    assert Checkpoints(tmp_path).best_step() == 2
    assert save(tmp_path, 5, 6, keep=2) == [2, 5, 6]
    assert save(tmp_path, 7, keep=2, scores={7: 0.5}) == [6, 7]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best_step() == 7
    assert checkpoints.restore_trained(TEMPLATE, "best").step == 7


def test_without_scores_none_is_the_best(tmp_path):
    """Where nothing was measured the last k are kept and "best" is refused."""
    assert save(tmp_path, 1, 2, 3, keep=1) == [3]
    assert Checkpoints(tmp_path).best_step() is None
    with pytest.raises(FileNotFoundError, match="train.evaluate_every"):
        Checkpoints(tmp_path).restore_trained(TEMPLATE, "best")


def test_last_and_best_are_what_they_say(saved):
    """ "last" is the highest step, "best" the lowest score, all else is refused."""
    checkpoints = Checkpoints(saved)
    assert checkpoints.restore_trained(TEMPLATE, "last").step == 2
    assert checkpoints.restore_trained(TEMPLATE, "best").step == 1
    with pytest.raises(ValueError, match="'first'.*last, best"):
        checkpoints.restore_trained(TEMPLATE, "first")


def test_saving_a_step_twice_does_nothing(copied):
    """What is on disk under a step stays."""
    checkpoints = Checkpoints(copied)
    checkpoints.save(make_state(5).replace(step=jnp.int32(2)))
    checkpoints.save(make_state(3))
    checkpoints.save(make_state(5).replace(step=jnp.int32(3)))  # it is being written
    checkpoints.close()
    checkpoints = Checkpoints(copied)
    assert checkpoints.steps() == [1, 2, 3]
    for step in (2, 3):
        state = checkpoints.restore(TEMPLATE, step)
        assert leaves(state) == leaves(make_state(step))


@pytest.mark.parametrize("part", ["params", "ema", "opt_state"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved(copied, part, value):
    """The last good checkpoint stays the last."""
    state = make_state(3)
    poisoned = jax.tree.map(lambda x: (x * value).astype(x.dtype), getattr(state, part))
    checkpoints = Checkpoints(copied)
    with pytest.raises(FloatingPointError, match=f"{part}.* not finite after step 3"):
        checkpoints.save(state.replace(**{part: poisoned}))
    checkpoints.close()
    assert Checkpoints(copied).steps() == [1, 2]


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """Saving is asynchronous: a state whose buffers are given away and overwritten
    right after is saved as it was."""
    spoil = jax.jit(
        lambda state: jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x * 0 + 9,
            state,
        ),
        donate_argnums=0,
    )
    state = jax.tree.map(jnp.copy, make_state(4, width=100_000))
    jax.block_until_ready(state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    jax.block_until_ready(spoil(state))
    checkpoints.close()
    template = jax.eval_shape(lambda: make_state(4, width=100_000))
    found = Checkpoints(tmp_path).restore_latest(template)
    assert leaves(found) == leaves(make_state(4, width=100_000))


def delete(path):
    """Removes a file."""
    path.unlink()


def truncate(path):
    """Cuts a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Changes one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


# orbax goes on reading in the background when it has already given up.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_any_damaged_file(saved, tmp_path, caplog, damage):
    """Whichever file of a checkpoint is damaged: either the state is intact all the
    same, or the checkpoint is named, set aside, and the one before is used; what
    comes back is always a state that was saved, and the run can save again."""
    files = [p.relative_to(saved) for p in sorted((saved / "2").rglob("*"))]
    files = [p for p in files if (saved / p).is_file() and (saved / p).stat().st_size]
    set_aside = 0
    for file in files:
        directory = shutil.copytree(saved, tmp_path / str(file).replace("/", "-"))
        damage(directory / file)
        caplog.clear()
        checkpoints = Checkpoints(directory)
        state = checkpoints.restore_latest(TEMPLATE)
        step = int(state.step)
        assert leaves(state) == leaves(make_state(step)), file
        if step == 1:
            set_aside += 1
            assert f"Damaged checkpoint {directory / '2'}" in caplog.text
            assert (directory / "damaged-2").is_dir()
            assert checkpoints.steps() == [1]
            checkpoints.save(make_state(2))
            checkpoints.close()
            state = Checkpoints(directory).restore_latest(TEMPLATE)
            assert leaves(state) == leaves(make_state(2)), file
    assert set_aside >= 4, "at least checksums, metadata, manifest and the arrays"


def test_a_damaged_score_is_only_a_score(copied, caplog):
    """Half a score is named and left out; the checkpoint itself is used."""
    (path,) = copied.glob("1/metrics/metrics")
    truncate(path)
    checkpoints = Checkpoints(copied)
    assert f"Damaged score {path}" in caplog.text
    assert checkpoints.best_step() == 2
    assert leaves(checkpoints.restore(TEMPLATE, 1)) == leaves(make_state(1))


def test_damaged_twice(copied):
    """A second damaged checkpoint of the same step does not meet the first one."""
    for number in (1, 2):
        shutil.rmtree(copied / "2" / "state")
        checkpoints = Checkpoints(copied)
        assert checkpoints.restore_latest(TEMPLATE).step == 1
        if number == 1:
            checkpoints.save(make_state(2))
        checkpoints.close()
    assert (copied / "damaged-2").is_dir() and (copied / "damaged-2-2").is_dir()


def test_all_damaged(copied):
    """A run whose checkpoints are all damaged stops, every time it is started: it does
    not start anew over them."""
    for step in ("1", "2"):
        shutil.rmtree(copied / step / "state")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="None of the checkpoints.*Remove that"):
            Checkpoints(copied).restore_latest(TEMPLATE)


def test_half_written_is_named_and_not_used(copied, caplog):
    """A folder that a kill left under its temporary name is named and not used."""
    half = copied / "3.orbax-checkpoint-tmp-0"
    shutil.copytree(copied / "2", half)
    checkpoints = Checkpoints(copied)
    assert f"Half-written checkpoint {half}" in caplog.text
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore_latest(TEMPLATE).step == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda: make_state(1, width=65),
        lambda: make_state(1).replace(params={"other": make_state(1).params["net"]}),
        lambda: make_state(1).replace(extra=()),
        lambda: make_state(1).replace(step=jnp.float32(1)),
    ],
    ids=["shape", "name", "missing", "dtype"],
)
def test_another_model_is_refused(copied, change, caplog):
    """Another shape, name or dtype is refused in words, and nothing is set aside."""
    template = jax.eval_shape(change)
    with pytest.raises(MismatchError, match="does not match the config.*--workdir"):
        Checkpoints(copied).restore_latest(template)
    assert Checkpoints(copied).restore_latest(TEMPLATE).step == 2
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
