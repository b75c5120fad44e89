"""Laws of resuming: a run that was stopped ends as if it had not been."""

import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from smoke import load, restore

from diffusion_jax.training import logs
from diffusion_jax.training.checkpoints import Score
from diffusion_jax.training_loop import train


def saved_state(config, workdir, step=None):
    """A checkpoint, or the last one, as {name: array}, every leaf as it was saved."""
    state = restore(config, workdir, step)
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_states(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def losses(workdir):
    """Every line of metrics.jsonl, as (step, loss)."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Returns the workdir of four steps without a stop, once."""
    made = []

    def run(config):
        if not made:
            workdir = tmp_path_factory.mktemp("straight")
            train(config, workdir)
            made.append(workdir)
        return made[0]

    return run


def test_two_and_two_steps_are_four(digits_config, straight, tmp_path):
    """2 steps + restore + 2 steps is 4 steps, bit for bit, in state and log."""
    whole = straight(digits_config)
    first = digits_config.copy_and_resolve_references()
    first.train.num_steps = 2
    train(first, tmp_path)
    assert saved_state(digits_config, tmp_path)[".step"] == 2
    train(digits_config, tmp_path)
    expected = saved_state(digits_config, whole)
    assert expected[".step"] == 4
    assert np.sum(expected[".aux['loss']"] > 0) == 4 * 8  # the sampler's state
    assert_same_states(saved_state(digits_config, tmp_path), expected)
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4]
    assert losses(tmp_path) == losses(whole)


MEMORY = {  # what a family keeps besides parameters and optimisers
    "autoencoder": [".model_state['net']['mean']"],
    "dvae": [".model_state['dvae']['counts']"],
    "vqvae": [f".model_state['dvae']['{x}']" for x in ("embedding", "sums")],
    "dcgan": [
        ".model_state['gen']['norm0']['var']",
        ".ema['gen']['project']['kernel']",
    ],
    "cyclegan": [".aux['a']['pool'].images", ".aux['b']['shown']"],
}


def test_two_and_two_steps_are_four_of_each_family(family, tmp_path, caplog):
    """2 steps + restore + 2 steps is 4 steps, bit for bit, in every leaf of the state
    of every family, and in the log: batch statistics, averages and pools are there."""
    caplog.set_level("INFO")
    name, config = family
    train(config, tmp_path / "whole")
    assert ("New length of sequences" in caplog.text) == (name == "seq2seq")
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves/checkpoints/4")  # as if killed before it was saved
    halfway = saved_state(config, tmp_path / "halves")
    train(config, tmp_path / "halves")
    whole, halves = (saved_state(config, tmp_path / x) for x in ("whole", "halves"))
    assert (halfway[".step"], whole[".step"]) == (2, 4)
    assert "RESUMING" in caplog.text
    assert_same_states(halves, whole)
    logged = [(tmp_path / x / "metrics.jsonl").read_text() for x in ("whole", "halves")]
    assert without_rates(logged[0]) == without_rates(logged[1])
    for leaf in MEMORY.get(name, []):
        assert not np.array_equal(halfway[leaf], whole[leaf]), leaf
        assert np.any(whole[leaf] != 0), leaf


def without_rates(text):
    """The lines of a log without speed and memory."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in x.items() if k not in logs.SPEED} for x in lines]


def test_a_finished_run_does_nothing(digits_config, straight, tmp_path):
    """Starting a finished run again changes neither its checkpoint nor its log."""
    whole = straight(digits_config)
    before = saved_state(digits_config, whole), losses(whole)
    train(digits_config, whole)
    assert_same_states(saved_state(digits_config, whole), before[0])
    assert losses(whole) == before[1]


@pytest.mark.parametrize(
    "number,due",
    [
        (signal.SIGTERM, "nothing"),
        pytest.param(signal.SIGINT, "evaluate_every", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "nothing", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "evaluate_every", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_step(
    digits_config, straight, tmp_path, monkeypatch, caplog, number, due
):
    """SIGTERM and Ctrl-C save and return, whatever else is due; a restart resumes."""
    expected = saved_state(digits_config, straight(digits_config))
    config = digits_config.copy_and_resolve_references()
    config.train.save_every = 100
    if due != "nothing":
        config.train[due] = 1
        evaluated = {"bits_per_dim": 1.0}, Score(1.0, {})
        evaluate = lambda *_: lambda *_: evaluated  # noqa: E731
        monkeypatch.setattr("diffusion_jax.training_loop.make_evaluate", evaluate)
    push = logs.MetricLogger.push

    def push_and_stop(self, step, *rest):
        push(self, step, *rest)
        if step == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(logs.MetricLogger, "push", push_and_stop)
    handler = signal.getsignal(number)
    train(config, tmp_path)
    assert signal.getsignal(number) is handler
    stopped = int(saved_state(config, tmp_path)[".step"])
    assert stopped in (2, 3)
    assert f"checkpoints/{stopped}." in caplog.text
    train(config, tmp_path)
    assert_same_states(saved_state(config, tmp_path), expected)


def saved_steps(workdir):
    """The steps whose checkpoints are complete, by their names."""
    return [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]


def wait_for(process, condition):
    """Waits until it holds while the process is running."""
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"It has ended: {process.communicate()[0][-2000:]}")
        time.sleep(0.005)


def test_kill_at_five_moments(commands, tmp_path):
    """A run that is killed (kill -9) and restarted five times ends as one that is not:
    at random moments after random steps, every other time while a save is under way."""
    values = {"config": "digits_vae", "train__num_steps": 80, "train__save_every": 3}
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    code, output = commands.finish(commands.start(calm, **values))
    assert code == 0, output
    draws = random.Random(0)
    for number, step in enumerate(sorted(draws.sample(range(1, 60), 5))):
        process = commands.start(rough, **values)
        wait_for(process, lambda step=step: max(saved_steps(rough), default=0) >= step)
        if number % 2:
            wait_for(process, lambda: [*rough.glob("checkpoints/*checkpoint-tmp*")])
        else:
            time.sleep(draws.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    code, output = commands.finish(commands.start(rough, **values))
    assert code == 0, output
    assert "RESUMING" in output
    config = load("digits_vae")
    assert_same_states(saved_state(config, rough), saved_state(config, calm))
    assert [step for step, _ in losses(rough)] == list(range(1, 81))
    assert losses(rough) == losses(calm)


def test_three_random_signals(commands, tmp_path):
    """Point 8: three random signals, one of them doubled, change no bit: each time the
    exit code is 0 and the last step that was done is saved."""
    values = {"config": "digits_vae", "train__num_steps": 70, "train__save_every": 50}
    values |= {"train__evaluate_every": 20, "train__sample_every": 20}
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    code, output = commands.finish(commands.start(calm, **values))
    assert code == 0, output
    draws = random.Random(0)
    for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = commands.start(rough, **values)
        done = max(saved_steps(rough), default=0)
        goal = done + draws.randint(1, 15)  # some of them evaluate and draw
        wait_for(process, lambda goal=goal: last_step(rough) >= goal)
        time.sleep(draws.uniform(0, 0.05))
        process.send_signal(kind)
        if kind == signal.SIGINT:
            time.sleep(draws.uniform(0, 0.05))
            process.send_signal(signal.SIGTERM)
        code, output = commands.finish(process)
        assert code == 0, output
        assert max(saved_steps(rough)) == last_step(rough) > done
    code, output = commands.finish(commands.start(rough, **values))
    assert code == 0, output
    config = load("digits_vae")
    assert_same_states(saved_state(config, rough), saved_state(config, calm))
    logged = [(x / "metrics.jsonl").read_text() for x in (rough, calm)]
    assert without_rates(logged[0]) == without_rates(logged[1])


def last_step(workdir):
    """The last step in metrics.jsonl, while it may be written; 0 if there is none."""
    try:
        return without_rates((workdir / "metrics.jsonl").read_text())[-1]["step"]
    except (OSError, ValueError, IndexError):
        return 0


SCRIPT = """
import sys
from absl import app
from diffusion_jax import command_line, main
def run(argv):
    main.main(argv)
    print("IMPORTED", [m for m in ("torch", "tensorflow") if m in sys.modules])
app.run(run, flags_parser=command_line.parse_flags)
"""


def test_the_end_of_the_command(commands, tmp_path):
    """Ctrl-C exits with 0 and says which step it saved, and training has imported
    neither PyTorch nor TensorFlow, even where they are installed; a rate of 1e30
    then stops the run with an error that names that step, which is finite."""
    values = {"train__num_steps": 100_000, "train__save_every": 3}
    values["config"], config = "digits_vae", load("digits_vae")
    process = commands.start(tmp_path, script=SCRIPT, **values)
    wait_for(process, lambda: saved_steps(tmp_path))
    process.send_signal(signal.SIGINT)
    code, output = commands.finish(process)
    assert code == 0, output
    state = saved_state(config, tmp_path)
    assert f"Last checkpoint: {tmp_path}/checkpoints/{state['.step']}." in output
    assert "Stopped by SIGINT. The same command resumes the run." in output
    assert "IMPORTED []" in output

    values |= {"optim__learning_rate": "1e30", "train__save_every": 1000}
    code, output = commands.finish(commands.start(tmp_path, **values))
    assert code != 0
    assert_same_states(saved_state(config, tmp_path, state[".step"]), state)
    state = saved_state(config, tmp_path)
    path = tmp_path / "checkpoints" / str(state[".step"])
    assert f"Last good checkpoint: {path}" in output
    assert all(np.isfinite(x).all() for x in state.values())
