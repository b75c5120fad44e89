"""Experiment trackers: Weights & Biases and MLflow, as copies of a run's own logs.

metrics.jsonl, samples/ and config.json are the run's record; a tracker is given the
same. WORKDIR/trackers/NAME.json keeps the id of the tracker's run and the last step
that it was given, so that the next session continues that run, first sends what it
lacks, and sends nothing twice. A kill while a step is being sent may leave that step
out of the tracker; metrics.jsonl has it.
"""

import abc
import importlib
import json
import logging
import os
import pathlib
import re
import time
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffusion_jax import paths
from diffusion_jax.lookup import lookup
from diffusion_jax.training.interrupts import Stopped

LOGGER = logging.getLogger(__name__)

FOLDER = "trackers"
PROJECT = "diffusion_jax"  # unless the environment names another one
FINISH_SECONDS = 60.0  # how long W&B may send the rest when a session ends
MLFLOW_BATCH = 100  # parameters that MLflow takes at once
Values = Mapping[str, float | pathlib.Path]  # metrics, and images as PNG files


class Tracker(abc.ABC):
    """A run in a tracker.

    Args:
      workdir: the run's folder, where the tracker keeps its own files.
      config: of the run.
      run_id: of the tracker's run to continue; None for a new one.

    Attributes:
      id: of the tracker's run.
    """

    id: str

    @abc.abstractmethod
    def __init__(
        self, workdir: pathlib.Path, config: Mapping[str, Any], run_id: str | None
    ): ...

    @abc.abstractmethod
    def log(self, step: int, values: Values) -> None:
        """Sends what is known about a step; steps never decrease."""

    @abc.abstractmethod
    def finish(self, failed: bool) -> None:
        """Sends the rest and ends the session."""


class WandB(Tracker):
    """Weights & Biases: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and so on configure it.

    W&B wants its own steps to increase, also after a restart, so the run's step is a
    metric, which is the horizontal axis of the others.
    """

    def __init__(
        self, workdir: pathlib.Path, config: Mapping[str, Any], run_id: str | None
    ):
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.absolute().name,
            dir=workdir,
            config=dict(config),
            id=run_id,
            resume="allow",
            allow_val_change=True,  # of the config, by a session that resumes
            reinit="create_new",  # beside a run that the caller may have
            settings=wandb.Settings(finish_timeout=FINISH_SECONDS),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.id = self._run.id

    def log(self, step: int, values: Values) -> None:
        """Sends a row, of which the step is a part."""
        self._run.log(
            {
                "step": step,
                **{
                    name: self._image(str(x)) if isinstance(x, pathlib.Path) else x
                    for name, x in values.items()
                },
            }
        )

    def finish(self, failed: bool) -> None:
        """Waits up to FINISH_SECONDS for what is being sent."""
        self._run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """MLflow: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME configure it.

    Without a URI it writes WORKDIR/mlflow.db and WORKDIR/mlruns/.
    """

    def __init__(
        self, workdir: pathlib.Path, config: Mapping[str, Any], run_id: str | None
    ):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._image = Metric, mlflow.Image
        folder = workdir.absolute()
        if mlflow.is_tracking_uri_set():
            self._client, artifacts = mlflow.MlflowClient(), None
        else:
            self._client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
            artifacts = (folder / "mlruns").as_uri()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self._client.get_experiment_by_name(name)
            experiment = (
                known.experiment_id
                if known
                else self._client.create_experiment(name, artifacts)
            )
            run = self._client.create_run(experiment, run_name=folder.name)
            run_id = run.info.run_id
            params = [Param(key, str(x)) for key, x in _leaves(config)]
            for i in range(0, len(params), MLFLOW_BATCH):
                self._client.log_batch(run_id, params=params[i : i + MLFLOW_BATCH])
        else:
            self._client.update_run(run_id, "RUNNING")
        self.id = run_id

    def log(self, step: int, values: Values) -> None:
        """Sends a batch of metrics, and images one by one."""
        now, metrics = int(time.time() * 1000), []
        for name, x in values.items():
            name = re.sub(r"[^\w./ -]", "_", name)  # MLflow refuses commas, for example
            if isinstance(x, pathlib.Path):
                image = self._image(str(x))
                self._client.log_image(self.id, image, key=name, step=step)
            else:
                metrics.append(self._metric(name, x, now, step))
        if metrics:
            self._client.log_batch(self.id, metrics=metrics)

    def finish(self, failed: bool) -> None:
        """Sets the status of the run; everything has been sent."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


TRACKERS = {"wandb": WandB, "mlflow": MLflow}


def parse(trackers: str) -> list[str]:
    """Returns the names in train.trackers, and checks that their packages are there.

    Args:
      trackers: names in TRACKERS with commas between them; "" for none.

    Raises:
      ValueError: a name is unknown, or its package is not installed.
    """
    names = list(dict.fromkeys(filter(None, trackers.split(","))))
    for name in names:
        lookup(TRACKERS, name, "train.trackers")
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = None
        # W&B and MLflow write into folders of these names, which look like packages.
        if getattr(module, "__file__", None) is None:
            raise ValueError(
                f"train.trackers={trackers} needs the package {name}, which is not "
                f"installed: pip install 'diffusion_jax[{name}]' (in the repository: "
                f"-e '.[{name}]'), or leave it out."
            )
    return names


class _Session:
    """A session of a tracker, and what the tracker has been given.

    Args:
      name: in TRACKERS.
      workdir: the run's folder.
      config: of the run.

    Raises:
      RuntimeError: the tracker does not start.
    """

    def __init__(self, name: str, workdir: pathlib.Path, config: Mapping[str, Any]):
        self._name, self._path = name, workdir / FOLDER / f"{name}.json"
        stored = {"id": None, "step": 0, "names": []}
        if self._path.exists():
            stored = json.loads(self._path.read_text())
        self._step, self._names = stored["step"], set(stored["names"])
        try:
            tracker = TRACKERS[name](workdir, config, stored["id"])
        except Exception as error:  # of the tracker, whose types we do not know
            raise RuntimeError(
                f"train.trackers: {name} could not start ({_in_words(error)}): correct "
                f"that, or set train.trackers without {name}; a session with it will "
                "send what it lacks."
            ) from error
        self._tracker: Tracker | None = tracker
        self._id = tracker.id
        self._save()

    def log(self, step: int, values: Values) -> None:
        """Sends what the tracker has not been given."""
        known = self._names if step == self._step else set()
        new = {name: x for name, x in values.items() if name not in known}
        if self._tracker is None or step < self._step or not new:
            return
        before = self._step, self._names
        # First, so that a kill in between does not send anything twice.
        self._step, self._names = step, known | new.keys()
        self._save()
        try:
            self._tracker.log(step, new)
        except Exception as error:  # mended by the next session, which sends it
            self._step, self._names = before
            self._save()
            self._give_up(error)

    def finish(self, failed: bool) -> None:
        """Ends the session."""
        if self._tracker is None:
            return
        try:
            self._tracker.finish(failed)
        except Exception as error:  # the run's own logs are complete
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        LOGGER.warning(
            "%s failed at step %d (%s) and gets nothing more in this session. The logs "
            "in the run's folder are complete, and the next session sends the rest.",
            self._name,
            self._step,
            _in_words(error),
        )
        self._tracker = None

    def _save(self) -> None:
        content = {"id": self._id, "step": self._step, "names": sorted(self._names)}
        temporary = self._path.with_suffix(".tmp")
        with paths.writing(self._path):
            self._path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(content))
            temporary.replace(self._path)


class Trackers:
    """The trackers of a session; a context that ends it.

    Args:
      names: see `parse`; () for none.
      workdir: the run's folder.
      config: of the run.
    """

    def __init__(
        self, names: Iterable[str], workdir: pathlib.Path, config: Mapping[str, Any]
    ):
        self._names, self._workdir, self._config = names, workdir, config
        self._sessions: list[_Session] = []

    def start(self, read_records: Callable[[], Iterable[tuple[int, Values]]]) -> None:
        """Starts or continues their runs.

        Args:
          read_records: returns (step, values) of earlier sessions, by step; those that
            a tracker lacks are sent. It is called only if there are trackers.

        Raises:
          RuntimeError: a tracker does not start.
        """
        for name in self._names:
            self._sessions.append(_Session(name, self._workdir, self._config))
        for step, values in read_records() if self._sessions else ():
            self.log(step, values)

    def log(self, step: int, values: Values) -> None:
        """Sends the values of a step; a tracker that fails is left out from then on."""
        for session in self._sessions:
            session.log(step, values)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        failed = kind is not None and not issubclass(kind, Stopped)
        for session in self._sessions:
            session.finish(failed)


def _in_words(error: Exception) -> str:
    """Returns the type and the first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields each value of a config with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
