"""Laws of checkpoints: what was saved is restored, or is reported as damaged."""

import json
import logging
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from diffusion_jax.training import parallel
from diffusion_jax.training.checkpoints import (
    Checkpoints,
    MismatchError,
    SaveError,
    Score,
)
from diffusion_jax.training.state import TrainState, Variables


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
        aux={"pool": jnp.arange(step, step + 6, dtype=jnp.uint8).reshape(2, 3)},
    )


TEMPLATE = jax.eval_shape(lambda: make_state(1))
VARIABLES = TEMPLATE.variables


def leaves(state):
    """Bytes of every leaf, by name, with its shape and dtype."""
    return tree_bytes(state.replace(key=jax.random.key_data(state.key)))


def tree_bytes(tree):
    """As `leaves`, without keys."""
    flat = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {
        jax.tree_util.keystr(path): (np.asarray(x).tobytes(), x.shape, x.dtype)
        for path, x in flat
    }


def save(directory, *steps, keep=3, scores=()):
    """Saves states of these steps and returns the steps that are kept."""
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(make_state(step))
        if step in dict(scores):
            checkpoints.set_score(step, Score(scores[step], {"metric": "loss"}))
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


def test_restore_variables(saved, caplog, recwarn):
    """The averaged parameters and the statistics come back bit for bit, of all groups
    or of some, and the step with them; Orbax warns of nothing."""
    checkpoints, expected = Checkpoints(saved, read_only=True), make_state(2)
    step, variables = checkpoints.restore_variables(VARIABLES, "last")
    assert step == 2
    assert tree_bytes(variables) == tree_bytes(expected.averaged)
    assert jax.tree.structure(variables) == jax.tree.structure(expected.averaged)
    some = Variables({"net": VARIABLES.params["net"]}, {"net": VARIABLES.state["net"]})
    _, variables = checkpoints.restore_variables(some, "last")
    assert tree_bytes(variables.params) == tree_bytes({"net": expected.ema["net"]})
    assert not caplog.messages and not recwarn


def set_checksum(directory, name):
    """Writes a wrong checksum of one array of checkpoint 2."""
    path = directory / "2" / "checksums" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: 1}))


@pytest.mark.parametrize(
    "name", ["opt_state.net.0.count", "params.net.kernel", "aux.pool"]
)
def test_restore_variables_reads_nothing_else(copied, name):
    """Neither the optimiser nor the trained parameters are read: a checkpoint in which
    they do not match their checksum has intact variables, but is no intact state."""
    set_checksum(copied, name)
    checkpoints = Checkpoints(copied, read_only=True)
    assert checkpoints.restore_variables(VARIABLES, "last")[0] == 2
    with pytest.raises(OSError, match=f"the checksum of {name} is wrong"):
        checkpoints.restore(TEMPLATE, 2)


@pytest.mark.parametrize("name", ["ema.net.half", "model_state.net.mean"])
def test_restore_variables_verifies_what_it_reads(copied, caplog, name):
    """Damaged variables are reported, and the checkpoint before is used; it changes
    nothing on disk, since a run may be training there."""
    set_checksum(copied, name)
    checkpoints = Checkpoints(copied, read_only=True)
    assert checkpoints.restore_variables(VARIABLES, "last")[0] == 1
    assert f"the checksum of {name} is wrong" in caplog.text
    assert sorted(p.name for p in copied.iterdir()) == ["1", "2"]


def test_variables_of_another_model_are_refused(saved):
    """Variables of another shape or of a group that is missing are refused."""
    for change in (make_state(1, width=65), make_state(1).replace(model_state={})):
        with pytest.raises(MismatchError, match="does not match the config"):
            template = jax.eval_shape(lambda change=change: change).variables
            Checkpoints(saved, read_only=True).restore_variables(template, "last")


def test_sharded_arrays(tmp_path):
    """An array that is spread over the devices is saved and restored, to the sharding
    of the template or to one whole array, bit for bit, with the same checksum."""
    expected = make_state(3)
    mesh = jax.sharding.Mesh(jax.devices(), "x")
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    state = parallel.replicate(expected)
    spread = jax.device_put(expected.params["net"]["kernel"], rows)
    net = state.params["net"] | {"kernel": spread}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state.replace(params={"net": net}))
    checkpoints.wait()
    found = checkpoints.restore(TEMPLATE, 3)
    assert leaves(found) == leaves(expected)
    assert isinstance(found.params["net"]["kernel"], np.ndarray)
    shape = jax.ShapeDtypeStruct((64, 3), jnp.float32, sharding=rows)
    template = TEMPLATE.replace(
        params={"net": TEMPLATE.params["net"] | {"kernel": shape}}
    )
    found = checkpoints.restore(template, 3)
    assert leaves(found) == leaves(expected)
    assert found.params["net"]["kernel"].sharding == rows


@struct.dataclass
class OldState:
    """The state of a version that called `aux` "extra"."""

    step: jax.Array
    key: jax.Array
    params: dict
    opt_state: dict
    extra: dict


def test_names_of_earlier_versions(tmp_path):
    """Arrays that were renamed are found under their old names: aux, and the state of
    Adam and of the schedule, with clipping before them or without."""
    moments, one, two = {"mu": {"w": jnp.ones(3)}}, jnp.int32(1), jnp.int32(2)
    old_adam = ({"count": one, **moments}, {"count": two})
    new_adam = {"adam": old_adam[0], "learning_rate": old_adam[1]}
    part = {"step": jnp.int32(1), "key": jax.random.key(0), "params": {"w": one}}
    old = OldState(
        **part,
        opt_state={"net": ((), old_adam), "disc": old_adam, "gen": old_adam[:1]},
        extra={"a": {"pool": two}},
    )
    expected = TrainState(
        **part,
        model_state={},
        opt_state={"net": new_adam, "disc": new_adam, "gen": {"adam": old_adam[0]}},
        ema={},
        aux={"a": {"pool": two}},
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(old)
    checkpoints.wait()
    found = checkpoints.restore(jax.eval_shape(lambda: expected), 1)
    assert leaves(found) == leaves(expected)


def test_a_new_learning_rate_schedule(tmp_path):
    """Point 1: a schedule that is introduced on resume goes on from the number of
    updates done, as Adam counts them; one that is removed is forgotten."""
    counted = {
        "adam": {"count": jnp.int32(5)},
        "learning_rate": {"count": jnp.int32(5)},
    }
    constant = counted | {"learning_rate": ()}
    states = {
        name: make_state(5).replace(opt_state={"disc": opt_state})
        for name, opt_state in (("counted", counted), ("constant", constant))
    }
    for before, after in (("counted", "constant"), ("constant", "counted")):
        checkpoints = Checkpoints(tmp_path / before)
        checkpoints.save(states[before])
        checkpoints.wait()
        template = jax.eval_shape(lambda after=after: states[after])
        assert leaves(checkpoints.restore(template, 5)) == leaves(states[after])


def test_nothing_saved(tmp_path):
    """Without a checkpoint a run starts from the beginning, and sampling is refused."""
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.restore_latest(TEMPLATE) is None
    assert checkpoints.best_step() is None
    with pytest.raises(FileNotFoundError, match="no last checkpoint.*train first"):
        checkpoints.restore_variables(VARIABLES, "last")


def test_keeps_the_last_and_the_best(tmp_path):
    """The last k and the one of the lowest score are kept, across restarts too."""
    scores = {1: 3.0, 2: 1.0, 3: 2.0}
    assert save(tmp_path, 1, 2, 3, 4, keep=2, scores=scores) == [2, 3, 4]
    assert Checkpoints(tmp_path).best_step() == 2
    assert save(tmp_path, 5, 6, keep=2) == [2, 5, 6]
    assert save(tmp_path, 7, keep=2, scores={7: 0.5}) == [2, 6, 7]
    assert save(tmp_path, 8, keep=2) == [7, 8]  # 2 was kept until 7 was the best
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best_step() == 7
    assert checkpoints.restore_variables(VARIABLES, "best")[0] == 7


def test_without_scores_none_is_the_best(tmp_path):
    """If nothing was evaluated, the last k are kept and "best" is refused."""
    assert save(tmp_path, 1, 2, 3, keep=1) == [3]
    assert Checkpoints(tmp_path).best_step() is None
    with pytest.raises(FileNotFoundError, match="train.evaluate_every"):
        Checkpoints(tmp_path).restore_variables(VARIABLES, "best")


def test_last_and_best_are_what_they_say(saved):
    """ "last" is the highest step, "best" the lowest score; other names are refused."""
    checkpoints = Checkpoints(saved)
    assert checkpoints.restore_variables(VARIABLES, "last")[0] == 2
    assert checkpoints.restore_variables(VARIABLES, "best")[0] == 1
    with pytest.raises(ValueError, match="'first'.*last, best"):
        checkpoints.restore_variables(VARIABLES, "first")


def test_saving_a_step_twice_does_nothing(copied):
    """A step that is on disk is never overwritten."""
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


def test_a_state_that_is_not_finite_is_not_saved(copied):
    """A state with a NaN or an infinity is refused, wherever it is: the last good
    checkpoint stays the last."""
    state = make_state(3)
    checkpoints = Checkpoints(copied)
    for part in ("params", "ema", "opt_state"):
        for value in (np.nan, np.inf):
            spoilt = jax.tree.map(
                lambda x, value=value: (x * value).astype(x.dtype), getattr(state, part)
            )
            message = f"{part}.* not finite after step 3"
            with pytest.raises(FloatingPointError, match=message):
                checkpoints.save(state.replace(**{part: spoilt}))
    checkpoints.close()
    assert Checkpoints(copied).steps() == [1, 2]


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """Saving is asynchronous: a state that is donated and overwritten right after the
    call is saved as it was, on one device and replicated."""
    spoil = jax.jit(
        lambda state: jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x * 0 + 9,
            state,
        ),
        donate_argnums=0,
    )
    expected = make_state(4, width=100_000)
    template = jax.eval_shape(lambda: expected)
    copies = {"one": jax.tree.map(jnp.copy, expected)}
    copies["replicated"] = parallel.replicate(expected)
    for name, state in copies.items():
        jax.block_until_ready(state)
        checkpoints = Checkpoints(tmp_path / name)
        checkpoints.save(state)
        jax.block_until_ready(spoil(state))
        checkpoints.close()
        found = Checkpoints(tmp_path / name).restore_latest(template)
        assert leaves(found) == leaves(expected), name


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


def rename(path):
    """Changes the name of an array."""
    path.write_bytes(path.read_bytes().replace(b"kernel", b"kernex"))


# Orbax keeps reading in the background after it has raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [delete, truncate, flip, rename])
def test_any_damaged_file(saved, tmp_path, caplog, damage):
    """Whichever file of a checkpoint is damaged: either the state is still intact, or
    the checkpoint is reported and renamed and the one before is used. What is restored
    is always a state that was saved, and the run can save again."""
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
    # Checksums and metadata hold names; also damaged are the manifest and the arrays.
    assert set_aside >= (2 if damage is rename else 4)


def test_a_damaged_score_is_only_a_score(copied, caplog):
    """A truncated score is reported and ignored; the checkpoint itself is used."""
    path = copied / "1" / "score.json"
    truncate(path)
    checkpoints = Checkpoints(copied)
    assert f"Damaged score {path}" in caplog.text
    assert checkpoints.best_step() == 2
    assert leaves(checkpoints.restore(TEMPLATE, 1)) == leaves(make_state(1))


def test_only_equal_measures_are_compared(tmp_path, caplog):
    """Point 10: a score is stored with what it measures; the best one is the lowest of
    those that measure what the latest one does; a sentence says when that changes."""
    scores = [(0.1, "test"), (3.0, "train"), (2.0, "train"), (2.5, "train")]
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, (value, split) in enumerate(scores, start=1):
        checkpoints.save(make_state(step))
        checkpoints.set_score(step, Score(value, {"metric": "loss", "split": split}))
        assert checkpoints.best_step() == (1, 2, 3, 3)[step - 1]
    checkpoints.close()
    assert (
        caplog.text.count("measure something else (split was test and is train)") == 1
    )
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.steps() == [3, 4]
    assert checkpoints.best_step() == 3
    checkpoints.save(make_state(5))
    checkpoints.set_score(5, Score(9.0, {"metric": "loss", "split": "test"}))
    assert "else (split was train and is test)" in caplog.text  # and back again
    assert checkpoints.best_step() == 5
    checkpoints.close()
    stored = json.loads((tmp_path / "3/score.json").read_text())
    assert stored == {"value": 2.0, "settings": {"metric": "loss", "split": "train"}}


def test_a_score_that_is_not_finite_is_never_the_best(tmp_path):
    """Points 10 and 18: NaN and infinity are stored as null, and are never the best."""
    checkpoints = Checkpoints(tmp_path)
    for step, value in ((1, np.nan), (2, 5.0), (3, np.inf)):
        checkpoints.save(make_state(step))
        checkpoints.set_score(step, Score(value, {}))
    checkpoints.close()
    assert json.loads((tmp_path / "1/score.json").read_text())["value"] is None
    assert checkpoints.best_step() == Checkpoints(tmp_path).best_step() == 2


def test_scores_of_earlier_versions(tmp_path):
    """A score that Orbax wrote for an earlier version is read."""
    save(tmp_path, 1, 2)
    for step, value in ((1, "0.25"), (2, "Infinity")):
        (tmp_path / str(step) / "metrics").mkdir()
        (tmp_path / str(step) / "metrics/metrics").write_text(f'{{"score": {value}}}')
    assert Checkpoints(tmp_path).best_step() == 1


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    """Point 9: an error of the disk is one sentence with the folder and what to do;
    what was saved before stays."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(make_state(1))
    checkpoints.wait()
    shutil.move(tmp_path / "checkpoints", tmp_path / "away")
    (tmp_path / "checkpoints").touch()
    with pytest.raises(SaveError, match="could not be written .*run the same") as error:
        checkpoints.save(make_state(2))
        checkpoints.wait()
    assert str(tmp_path / "checkpoints") in str(error.value)
    assert "\n" not in str(error.value)
    assert Checkpoints(tmp_path / "away").restore_latest(TEMPLATE).step == 1


def test_a_folder_that_cannot_be_written(copied, monkeypatch):
    """Point 9: it is found out at the start, with the last good checkpoint; reading is
    still possible."""

    def fail(**options):
        raise OSError("Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    words = f"Permission denied.*Last good checkpoint: {copied}/2"
    with pytest.raises(SaveError, match=words):
        Checkpoints(copied)
    assert Checkpoints(copied, read_only=True).steps() == [1, 2]


def test_damaged_twice(copied):
    """A second damaged checkpoint of the same step does not replace the first one."""
    for number in (1, 2):
        shutil.rmtree(copied / "2" / "state")
        checkpoints = Checkpoints(copied)
        assert checkpoints.restore_latest(TEMPLATE).step == 1
        if number == 1:
            checkpoints.save(make_state(2))
        checkpoints.close()
    assert (copied / "damaged-2").is_dir() and (copied / "damaged-2-2").is_dir()


def test_all_damaged(copied):
    """A run whose checkpoints are all damaged stops, every time it is started, and does
    not start from the beginning."""
    for step in ("1", "2"):
        shutil.rmtree(copied / step / "state")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="None of the checkpoints.*Remove that"):
            Checkpoints(copied).restore_latest(TEMPLATE)


def test_half_written_is_named_and_not_used(copied, caplog):
    """A folder that a kill left under its temporary name is reported and not used."""
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
        lambda: make_state(1).replace(aux=()),
        lambda: make_state(1).replace(step=jnp.float32(1)),
    ],
    ids=["shape", "name", "missing", "dtype"],
)
def test_another_model_is_refused(copied, change, caplog):
    """Another shape, name or dtype is refused, and nothing is renamed."""
    template = jax.eval_shape(change)
    with pytest.raises(MismatchError, match="does not match the config.*--workdir"):
        Checkpoints(copied).restore_latest(template)
    assert Checkpoints(copied).restore_latest(TEMPLATE).step == 2
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
