"""Laws of the trackers: they have what the run's own logs have, once, under one id.

Fakes of the packages record what they are given; they have the signatures of wandb
0.31.0 and mlflow 3.17.2, with which this was tried by hand.
"""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image
from smoke import load

from diffusion_jax.training import logs, trackers
from diffusion_jax.training_loop import train


class Service:
    """What a tracker's server has: runs by id, and its failures.

    Attributes:
      runs: id -> (step, name) -> the values received, in order.
      configs: id -> the configs received.
      ends: (id, whether the session failed).
      broken: whether sending fails.
    """

    def __init__(self):
        self.runs, self.configs, self.ends, self.broken = {}, {}, [], False

    def start(self, run_id):
        run_id = run_id or f"run{len(self.runs)}"
        self.runs.setdefault(run_id, {})
        return run_id

    def receive(self, run_id, step, name, value):
        if self.broken:
            raise ConnectionError("no route to host\nand more")
        self.runs[run_id].setdefault((step, name), []).append(value)


def fake_wandb(service):
    class Run:
        def __init__(self, id):
            self.id = id

        def define_metric(self, name, step_metric=None):
            assert (name, step_metric) in (("step", None), ("*", "step"))

        def log(self, data):
            for name in data.keys() - {"step"}:
                service.receive(self.id, data["step"], name, data[name])

        def finish(self, exit_code):
            service.ends.append((self.id, exit_code != 0))

    def init(project, name, dir, config, id, resume, settings, **options):
        assert (project, resume) == ("diffusion_jax", "allow")
        assert settings.finish_timeout > 0
        assert options == {"allow_val_change": True, "reinit": "create_new"}
        run = Run(service.start(id))
        service.configs.setdefault(run.id, []).append(config)
        return run

    module = types.ModuleType("wandb")
    module.init, module.Image, module.__file__ = init, Image.open, "wandb.py"
    module.Settings = types.SimpleNamespace
    return {"wandb": module}


def fake_mlflow(service):
    class Client:
        def __init__(self, uri):
            assert uri.startswith("sqlite:////") and uri.endswith("/mlflow.db")

        def get_experiment_by_name(self, name):
            assert name == "diffusion_jax"
            known = types.SimpleNamespace(experiment_id="7")
            return known if service.runs else None

        def create_experiment(self, name, artifact_location):
            assert artifact_location.startswith("file:///")
            return "7"

        def create_run(self, experiment_id, run_name):
            assert experiment_id == "7"
            info = types.SimpleNamespace(run_id=service.start(None))
            service.configs[info.run_id] = [{}]
            return types.SimpleNamespace(info=info)

        def update_run(self, run_id, status):
            assert run_id in service.runs and status == "RUNNING"

        def log_batch(self, run_id, metrics=(), params=()):
            assert len(params) <= 100
            for key, value in params:
                (config,) = service.configs[run_id]
                assert key not in config  # parameters cannot be given again
                config[key] = value
            for key, value, timestamp, step in metrics:
                assert timestamp > 1e12  # milliseconds
                service.receive(run_id, step, key, value)

        def log_image(self, run_id, image, key, step):
            service.receive(run_id, step, key, image)

        def set_terminated(self, run_id, status):
            service.ends.append((run_id, status != "FINISHED"))

    module, entities = (types.ModuleType(x) for x in ("mlflow", "mlflow.entities"))
    module.MlflowClient, module.Image, module.__file__ = Client, Image.open, "mlflow.py"
    module.is_tracking_uri_set = lambda: False
    entities.Metric, entities.Param = lambda *x: x, lambda *x: x
    return {"mlflow": module, "mlflow.entities": entities}


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow}


def install(monkeypatch, name):
    """Replaces a tracker's package; returns what its server has."""
    service = Service()
    for key, module in FAKES[name](service).items():
        monkeypatch.setitem(sys.modules, key, module)
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return service


@pytest.fixture(params=FAKES)
def tracker(request, monkeypatch):
    """Each tracker in turn: its name, and what its server has."""
    return request.param, install(monkeypatch, request.param)


CONFIG = {"seed": 3, "train": {"num_steps": 6}}


def session(name, workdir, start, stop, error=None):
    """Logs the steps after `start` up to `stop`; a picture and a test every third.

    There is no tracker if the name is "".
    """
    with trackers.Trackers([name] if name else [], workdir, CONFIG) as tracked:
        logger = logs.MetricLogger(
            workdir, start, 6, 1, True, {"loss": "loss"}, tracked=tracked
        )
        for step in range(start, stop + 1):
            if step > start:
                logger.push(step, {"loss": np.float32(1 / step), "stop": 0.0}, 4)
            if step and step % 3 == 0:  # a session starts with what is due at its start
                logger.flush()
                logger.write(step, {"fd": 1.0, "accuracy, shuffled": 0.5}, "test_")
                (workdir / "samples").mkdir(exist_ok=True)
                picture = Image.new("L", (2, 2), step)
                picture.save(workdir / f"samples/{step:08}.png")
                logger.write_samples(step)
        logger.close()
        if error:
            raise error


def logged(workdir, name):
    """(step, name) of all that the run's own logs have, in the tracker's names."""
    found = {(int(x.stem), "samples") for x in (workdir / "samples").glob("*.png")}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        found |= {(step, key) for key in values}
    clean = {
        key: key.replace(",", "_") if name == "mlflow" else key for _, key in found
    }
    return {(step, clean[key]) for step, key in found}


def received(service):
    """What the only run has, each value of which must have been sent once."""
    (values,) = service.runs.values()
    assert all(len(x) == 1 for x in values.values())
    return {key: x[0] for key, x in values.items()}


def test_a_tracker_has_the_logs(tracker, tmp_path):
    """Metrics of training and of evaluations, and pictures, with their steps."""
    name, service = tracker
    session(name, tmp_path, 0, 6)
    values = received(service)
    assert values.keys() == logged(tmp_path, name)
    assert values[4, "loss"] == 0.25 and values[3, "test_fd"] == 1.0
    assert values[6, "samples"].getpixel((0, 0)) == 6
    ((run_id, (config,)),) = service.configs.items()
    flat = {"seed": "3", "train.num_steps": "6"}
    assert config == (CONFIG if name == "wandb" else flat)
    assert service.ends == [(run_id, False)]


@pytest.mark.parametrize("reached", [3, 5])
def test_a_resumed_run_goes_on(tracker, tmp_path, reached):
    """A session that resumes at step 3, whatever step was reached, continues the same
    run: each step is there once, and the config of MLflow is not given again."""
    name, service = tracker
    session(name, tmp_path, 0, reached)
    session(name, tmp_path, 3, 6)
    missing = logged(tmp_path, name) - received(service).keys()
    # The first step of a session has no speed; the values sent before are kept.
    assert not {key for key in missing if key[0] > reached or key[1] in ("loss",)}
    assert len(service.configs) == 1
    assert [failed for _, failed in service.ends] == [False, False]


def test_a_service_that_fails(tracker, tmp_path, caplog):
    """Training goes on after one warning, its own logs are complete, and the next
    session sends what is missing."""
    name, service = tracker
    session(name, tmp_path, 0, 2)
    service.broken = True
    session(name, tmp_path, 2, 4)
    (record,) = caplog.records
    assert f"{name} failed at step 2 (ConnectionError: no route to host)" in (
        record.getMessage()
    )
    service.broken = False
    session(name, tmp_path, 4, 6)
    assert received(service).keys() == logged(tmp_path, name)
    assert {step for step, key in logged(tmp_path, name) if key == "loss"} == {
        *range(1, 7)
    }


def test_a_tracker_may_come_later(tracker, tmp_path):
    """A tracker that is switched on when a run is resumed gets its past as well."""
    name, service = tracker
    session("", tmp_path, 0, 3)
    session(name, tmp_path, 3, 6)
    assert received(service).keys() == logged(tmp_path, name)


def test_from_step_0_another_run_starts(tracker, tmp_path):
    """If the earlier logs are set aside, since there is no checkpoint, so is the id."""
    name, service = tracker
    session(name, tmp_path, 0, 2)
    session(name, tmp_path, 0, 2)
    assert len(service.runs) == 2
    assert (tmp_path / f"logs-before-1/trackers/{name}.json").exists()


def test_a_failure_is_told(tracker, tmp_path):
    """An error of training ends the tracker's run as failed; a signal does not."""
    name, service = tracker
    with pytest.raises(FloatingPointError):
        session(name, tmp_path, 0, 2, FloatingPointError())
    with pytest.raises(trackers.Stopped):
        session(name, tmp_path, 2, 4, trackers.Stopped(15))
    assert [failed for _, failed in service.ends] == [True, False]


def test_a_tracker_that_does_not_start(tracker, tmp_path, monkeypatch):
    """It is an error in one sentence, before anything is trained."""
    name, service = tracker

    def start(run_id):
        raise ConnectionError("not logged in\nrun the login")

    monkeypatch.setattr(service, "start", start)
    words = (
        rf"train.trackers: {name} could not start \(ConnectionError: not logged in\)"
    )
    with pytest.raises(RuntimeError, match=words):
        session(name, tmp_path, 0, 2)


def test_names_are_checked(tracker, tmp_path, monkeypatch):
    """An unknown name and a missing package are refused; so is a folder that the
    tracker has made, which looks like a package."""
    name, _ = tracker
    assert trackers.parse("") == []
    assert trackers.parse(f"{name},{name}") == [name]
    with pytest.raises(ValueError, match="Unknown train.trackers 'comet'"):
        trackers.parse(f"{name},comet")
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"the package {name}, .*'.\[{name}\]'"):
            trackers.parse(name)
        sys.modules.pop(name, None)
        (tmp_path / name).mkdir(exist_ok=True)


def test_a_training_is_tracked(tmp_path, monkeypatch, caplog):
    """A tiny training gives both trackers its log, and pictures where it draws some;
    a tracker that fails does not stop it, and a missing one stops it at once."""
    wandb, mlflow = (install(monkeypatch, name) for name in FAKES)
    mlflow.broken = True
    config = load("digits_autoencoder", train__trackers="wandb,mlflow")
    config.train.update(num_steps=2, log_every=1, save_every=2, sample_every=2)
    train(config, tmp_path)
    assert received(wandb).keys() == logged(tmp_path, "wandb")
    assert (2, "samples") in received(wandb)
    (stored,) = wandb.configs["run0"]
    assert stored["train"]["num_steps"] == 2
    assert mlflow.configs["run0"][0]["train.num_steps"] == "2"
    assert "mlflow failed at step 0" in caplog.text
    assert (tmp_path / "checkpoints/2").is_dir()
    config.train.trackers = "comet"
    with pytest.raises(ValueError, match="comet"):
        train(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()
