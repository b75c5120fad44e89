"""Laws of the logs: one line a step, across restarts; numbers come a step late."""

import json
import math

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from diffusion_jax.training import logs


def lines_of(workdir):
    """The parsed lines of metrics.jsonl."""
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def events_of(workdir):
    """(step, name, value) of all scalars in TensorBoard's files, by step.

    A record is: length u64, its checksum u32, the bytes, their checksum u32.
    """
    found = []
    for path in (workdir / "tensorboard").glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            record, data = data[12 : 12 + size], data[16 + size :]
            event = event_pb2.Event.FromString(record)
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return sorted(found)


def watch_of(workdir, start=0, num_steps=10, log_every=1, primary=True):
    """A watch of batches of 4."""
    return logs.MetricLogger(workdir, start, num_steps, log_every, 4, primary)


def metrics_of(step, stop=0.0):
    """What a step returns."""
    return {"loss": np.float32(1 / step), "stop": np.float32(stop)}


def test_lines_and_events_are_the_same(tmp_path):
    """Every logged step is one JSON line and one TensorBoard event a metric."""
    watch = watch_of(tmp_path, num_steps=7, log_every=3)
    for step in range(1, 8):
        watch.push(step, metrics_of(step))
    watch.close()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for line in lines:
        assert line.keys() == {"step", "loss", "images_per_second"}
        assert line["loss"] == pytest.approx(1 / line["step"])
    expected = [
        (line["step"], name, pytest.approx(line[name], rel=1e-6))
        for line in lines
        for name in ("images_per_second", "loss")
    ]
    assert events_of(tmp_path) == expected


@pytest.mark.parametrize("log_every", [1, 2])
def test_no_step_is_lost_by_a_restart(tmp_path, log_every):
    """The lines of a run with a restart are those of one without."""
    for start, stop in ((0, 3), (3, 6)):
        watch = watch_of(tmp_path, start, num_steps=6, log_every=log_every)
        for step in range(start + 1, stop + 1):
            watch.push(step, metrics_of(step))
        watch.close()
    steps = [line["step"] for line in lines_of(tmp_path)]
    assert steps == list(range(log_every, 7, log_every))


@pytest.mark.parametrize("tail", ['{"step": 5, "lo', "", "\n\n", '{"st'])
def test_lines_of_steps_done_again_are_dropped(tmp_path, tail):
    """What was written after the checkpoint is dropped at a restart, with the half of
    a line that a kill left."""
    text = "".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in (1, 2, 3, 4))
    (tmp_path / "metrics.jsonl").write_text(text + tail)
    log = logs.MetricsLog(tmp_path, start=2)
    log.write(3, {"loss": 0.5})
    log.close()
    lines = lines_of(tmp_path)
    assert [(x["step"], x["loss"]) for x in lines] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_metrics_are_read_a_step_late(tmp_path):
    """Pushing step n reads step n - 1, so that the loop does not wait for n."""

    class Late:
        def __float__(self):
            raise AssertionError("read too early")

    watch = watch_of(tmp_path)
    watch.push(1, {"loss": 1.0, "stop": 0.0})
    watch.push(2, {"loss": Late(), "stop": 0.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [1]
    with pytest.raises(AssertionError, match="too early"):
        watch.flush()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_stops(tmp_path, value):
    """A metric that is not finite is named with its step, and not written."""
    watch = watch_of(tmp_path)
    watch.push(1, metrics_of(1))
    watch.push(2, {"loss": 1.0, "grad_norm": value, "stop": 0.0})
    with pytest.raises(FloatingPointError, match=f"grad_norm is {value} at step 2"):
        watch.push(3, metrics_of(3))
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


def test_a_request_to_stop_is_kept(tmp_path):
    """A request is seen with the metrics of its step, and stays."""
    watch = watch_of(tmp_path)
    watch.push(1, metrics_of(1, stop=1.0))
    assert not watch.stop_requested
    watch.push(2, metrics_of(2))
    assert watch.stop_requested
    watch.flush()
    assert watch.stop_requested
    assert "stop" not in lines_of(tmp_path)[0]


def test_only_the_primary_process_writes(tmp_path):
    """Another process checks the numbers and writes nothing."""
    watch = watch_of(tmp_path, primary=False)
    watch.push(1, metrics_of(1))
    watch.write(1, {"test_bits_per_dim": 3.0})
    watch.close()
    assert not list(tmp_path.iterdir())
    watch.push(2, {"loss": math.nan, "stop": 0.0})
    with pytest.raises(FloatingPointError):
        watch.flush()


@pytest.mark.parametrize(
    "left,clock", [(42, "0:42"), (62, "1:02"), (3725, "1:02:05"), (0, "0:00")]
)
def test_progress_line(capsys, left, clock):
    """The line holds step, loss, rate and the time left as one reads a clock."""
    progress = logs.Progress(0, 100 + 8 * left, 5)
    progress.show(100, {"loss": 0.04321}, rate=40.0)  # 8 steps a second
    expected = f"step 100/{100 + 8 * left}  loss 0.0432  40 images/s  {clock} left"
    assert capsys.readouterr().out.strip() == expected


def test_losses_of_several_phases(tmp_path, capsys):
    """The line names the loss of each phase, in their order, and what else is logged
    is not in it."""
    watch = watch_of(tmp_path, num_steps=1)
    losses = {"disc/loss": 0.5, "disc/grad_norm": 7.0, "gen/loss": 1.25}
    watch.push(1, losses | {"stop": 0.0})
    watch.close()
    assert "disc 0.5000  gen 1.2500  " in capsys.readouterr().out


def test_alarms_are_told(tmp_path, caplog):
    """What the alarm says of the metrics that are written is told with the step."""

    def alarm(step, metrics):
        return [f"too high: {metrics['loss']:.1f}"] if metrics["loss"] > 0.4 else []

    watch = logs.MetricLogger(tmp_path, 0, 3, 1, 4, True, alarm)
    for step in (1, 2, 3):  # losses of 1, 1/2, 1/3
        watch.push(step, metrics_of(step))
    watch.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Step 1: too high: 1.0",
        "Step 2: too high: 0.5",
    ]


def test_rate(monkeypatch):
    """Images a second since the last call."""
    now = iter([10.0, 12.0, 12.5])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(now))
    progress = logs.Progress(100, 200, batch_size=4)
    assert progress.rate(110) == 10 * 4 / 2
    assert progress.rate(111) == 1 * 4 / 0.5


def test_no_lines_but_the_last(tmp_path):
    """log_every = 0 means never, as elsewhere: only the run's last step is written."""
    watch = logs.MetricLogger(tmp_path, 0, 3, log_every=0, batch_size=1, primary=True)
    for step in (1, 2, 3):
        watch.push(step, {"loss": 1.0, "stop": 0.0})
    watch.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]
