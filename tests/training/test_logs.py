"""Laws of the logs: one line per step, across restarts; read one step late."""

import json
import math
import re
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto import event_pb2

from diffusion_jax.progress import in_words
from diffusion_jax.training import logs, tensorboard


def lines_of(workdir):
    """The parsed lines of metrics.jsonl."""
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def events_in(workdir):
    """All events in TensorBoard's files, as its own reader finds them."""
    paths = (workdir / "tensorboard").glob("events.out.tfevents.*")
    loaders = [RawEventFileLoader(str(path)) for path in paths]
    return [
        event_pb2.Event.FromString(record)
        for loader in loaders
        for record in loader.Load()
    ]


def scalars_in(workdir):
    """(step, name, value) of all scalars, by step."""
    return sorted(
        (event.step, value.tag, value.simple_value)
        for event in events_in(workdir)
        for value in event.summary.value
    )


SPEED = "step_time images_per_second images_per_second_per_device data_wait".split()


def logger_of(workdir, start=0, num_steps=10, log_every=1, primary=True, **options):
    """A logger of a run."""
    options = {"losses": {"loss": "loss"}, **options}
    rest = num_steps, log_every, primary
    return logs.MetricLogger(workdir, start, *rest, **options)


def metrics_of(step, stop=0.0):
    """What a step returns."""
    return {"loss": np.float32(1 / step), "stop": np.float32(stop)}


def test_lines_and_events_are_the_same(tmp_path):
    """Every logged step is one JSON line and one TensorBoard scalar per metric."""
    logger = logger_of(tmp_path, num_steps=7, log_every=3)
    for step in range(1, 8):
        logger.push(step, metrics_of(step), 4)
    logger.close()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for line in lines:
        assert line.keys() == {"step", "loss", *SPEED}
        assert line["loss"] == pytest.approx(1 / line["step"])
    expected = [
        (line["step"], name, pytest.approx(line[name], rel=1e-6))
        for line in lines
        for name in ("loss", *SPEED)
    ]
    assert scalars_in(tmp_path) == sorted(expected, key=lambda row: row[:2])


def test_event_files_are_tensorboards(tmp_path):
    """Any step, name and value can be read, in order, after a header with the version
    and the step from which on earlier files no longer count."""
    file = tensorboard.EventFile(tmp_path / "tensorboard", first_step=301)
    expected = []
    for step in (301, 127, 128, 2**40):
        expected.append((step, "x" * (step % 300), -1.5e-30 * step))
        file.write(step, {expected[-1][1]: expected[-1][2]})
    file.close()
    version, start, *events = events_in(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert start.step == 301
    assert start.session_log.status == event_pb2.SessionLog.START
    assert [e.step for e in events] == [step for step, _, _ in expected]
    for event, (_, name, value) in zip(events, expected, strict=True):
        (scalar,) = event.summary.value
        assert scalar.tag == name
        assert scalar.simple_value == pytest.approx(value, rel=1e-6)
        assert abs(event.wall_time - time.time()) < 100


@pytest.mark.parametrize("log_every", [1, 2])
def test_no_step_is_lost_by_a_restart(tmp_path, log_every):
    """The lines of a run with a restart are those of one without."""
    for start, stop in ((0, 3), (3, 6)):
        logger = logger_of(tmp_path, start, num_steps=6, log_every=log_every)
        for step in range(start + 1, stop + 1):
            logger.push(step, metrics_of(step), 4)
        logger.close()
    steps = [line["step"] for line in lines_of(tmp_path)]
    assert steps == list(range(log_every, 7, log_every))


@pytest.mark.parametrize("tail", ['{"step": 5, "lo', "", "\n\n", '{"st'])
def test_lines_of_steps_done_again_are_dropped(tmp_path, tail):
    """Lines of steps after the checkpoint are dropped at a restart, and so is a line
    that a kill cut short."""
    text = "".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in (1, 2, 3, 4))
    (tmp_path / "metrics.jsonl").write_text(text + tail)
    log = logs.MetricsLog(tmp_path, start=2)
    log.write(3, {"loss": 0.5})
    log.close()
    lines = lines_of(tmp_path)
    assert [(x["step"], x["loss"]) for x in lines] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_metrics_are_read_a_step_late(tmp_path):
    """Pushing step n reads step n - 1, so that the loop does not wait for step n."""

    class Late:
        def __float__(self):
            raise AssertionError("read too early")

    logger = logger_of(tmp_path)
    logger.push(1, {"loss": 1.0, "stop": 0.0}, 4)
    logger.push(2, {"loss": Late(), "stop": 0.0}, 4)
    assert [line["step"] for line in lines_of(tmp_path)] == [1]
    with pytest.raises(AssertionError, match="too early"):
        logger.flush()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_stops(tmp_path, value):
    """A metric that is not finite is named with its step, and not written."""
    logger = logger_of(tmp_path)
    logger.push(1, metrics_of(1), 4)
    logger.push(2, {"loss": 1.0, "grad_norm": value, "stop": 0.0}, 4)
    with pytest.raises(FloatingPointError, match=f"grad_norm is {value} at step 2"):
        logger.push(3, metrics_of(3), 4)
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


def test_a_request_to_stop_is_kept(tmp_path):
    """A request is seen with the metrics of its step, and stays."""
    logger = logger_of(tmp_path)
    logger.push(1, metrics_of(1, stop=1.0), 4)
    assert not logger.stop_requested
    logger.push(2, metrics_of(2), 4)
    assert logger.stop_requested
    logger.flush()
    assert logger.stop_requested
    assert "stop" not in lines_of(tmp_path)[0]


def test_only_the_primary_process_writes(tmp_path):
    """Another process checks the numbers and writes nothing."""
    logger = logger_of(tmp_path, primary=False)
    logger.push(1, metrics_of(1), 4)
    logger.write(1, {"test_bits_per_dim": 3.0})
    logger.close()
    assert not list(tmp_path.iterdir())
    logger.push(2, {"loss": math.nan, "stop": 0.0}, 4)
    with pytest.raises(FloatingPointError):
        logger.flush()


@pytest.mark.parametrize(
    "left,clock", [(42, "0:42"), (62, "1:02"), (3725, "1:02:05"), (0, "0:00")]
)
def test_progress_line(capsys, left, clock):
    """The line shows step, loss, rate and the time left like a clock, and only what
    deserves attention of the rest."""
    progress = logs.Progress(100 + 8 * left)
    speed = {"step_time": 1 / 8, "images_per_second": 40.0, "data_wait": 0.02}
    for more, shown in (
        ({}, ""),
        ({"mfu": 0.413}, "  MFU 41 %"),
        ({"mfu": 0.413, "data_wait": 0.25}, "  MFU 41 %  data wait 25 %"),
    ):
        progress.show(100, {"loss": 0.04321}, speed | more)
        expected = f"step 100/{100 + 8 * left}  loss 0.0432  40 images/s{shown}"
        assert capsys.readouterr().out.strip() == f"{expected}  {clock} left"


def test_losses_of_several_phases(tmp_path, capsys):
    """The line names the loss of each phase, in their order, and no other metric."""
    shown = {"disc": "disc/loss", "gen": "gen/loss"}
    logger = logger_of(tmp_path, num_steps=1, losses=shown)
    losses = {"disc/loss": 0.5, "disc/grad_norm": 7.0, "gen/loss": 1.25}
    logger.push(1, losses | {"stop": 0.0}, 4)
    logger.close()
    assert capsys.readouterr().out == "step 1/1  disc 0.5000  gen 1.2500\n"


def test_warnings_are_logged(tmp_path, caplog):
    """The monitor's warnings about the metrics that are written are logged with the
    step."""

    def monitor(step, metrics):
        return [f"too high: {metrics['loss']:.1f}"] if metrics["loss"] > 0.4 else []

    logger = logger_of(tmp_path, num_steps=3, monitor=monitor)
    for step in (1, 2, 3):  # losses of 1, 1/2, 1/3
        logger.push(step, metrics_of(step), 4)
    logger.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Step 1: too high: 1.0",
        "Step 2: too high: 0.5",
    ]


def test_a_prefix_is_only_in_the_logs(tmp_path):
    """Metrics of an evaluation are logged with the split's name; the monitor gets their
    own names."""
    seen = []
    monitor = lambda step, metrics: seen.append((step, metrics)) or []  # noqa: E731
    logger = logger_of(tmp_path, monitor=monitor)
    logger.write(5, {"kl": 2.0}, "test_")
    logger.close()
    assert seen == [(5, {"kl": 2.0})]
    assert lines_of(tmp_path) == [{"step": 5, "test_kl": 2.0}]
    assert scalars_in(tmp_path) == [(5, "test_kl", 2.0)]


@pytest.mark.parametrize(
    "num_steps, step_time, expected",
    [
        (1000, 2.0, r"The remaining 996 steps take about 33 minutes here, at 2 s"),
        (100_000, 0.01, r"The remaining 99499 steps take about 17 minutes here"),
        (20, 2.0, None),
    ],
)
def test_first_estimate(tmp_path, monkeypatch, caplog, num_steps, step_time, expected):
    """Once, after three steps and five seconds, the log says how long the rest takes,
    without the first step, which compiles, unless that is less than a minute."""
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    logger = logger_of(tmp_path, num_steps=num_steps)
    with caplog.at_level("INFO"):
        for step in range(1, min(num_steps, 600)):
            now += 100.0 if step == 1 else step_time
            logger.push(step, metrics_of(step), 4)
            logger.flush()
    logger.close()
    said = [x.getMessage() for x in caplog.records if "remaining" in x.getMessage()]
    assert len(said) == (expected is not None)
    assert not expected or re.match(expected, said[0])


def test_duration_in_words():
    """Units follow the size, and one unit is singular."""
    for seconds, words in (
        (20, "20 seconds"),
        (60, "1 minute"),
        (59 * 60, "59 minutes"),
        (2 * 3600, "2.0 hours"),
        (30 * 3600, "30 hours"),
        (3 * 86400, "3.0 days"),
        (40 * 86400, "40 days"),
    ):
        assert in_words(seconds) == words


def test_timing(monkeypatch):
    """Point 20: the speed is that of steps since the last call, without the first step
    of a session, which compiles, and without pauses; data_wait is the share of that
    time spent in the iterator. Batches have different numbers of tokens."""
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    progress = logs.Progress(200)

    def batches():
        nonlocal now
        for wait in (5.0, 0.5, 1.0, 0.25):
            now += wait
            yield wait

    stream = progress.waits(batches())
    assert progress.timing() == {}
    assert next(stream) == 5.0
    now = 10.0
    progress.step_done(100)
    assert next(stream) == 0.5
    now = 12.0
    progress.step_done(6)
    assert next(stream) == 1.0
    now = 13.0
    progress.step_done(2)
    assert progress.timing() == {
        "step_time": 3 / 2,
        "images_per_second": (6 + 2) / 3,
        "images_per_second_per_device": (6 + 2) / 3 / 8,
        "data_wait": 1.5 / 3,
    }
    with progress.paused():
        now = 20.0
    assert list(stream) == [0.25]
    now = 21.0
    progress.step_done(4)
    timing = progress.timing()
    assert (timing["step_time"], timing["data_wait"]) == (1, 0.25)
    assert progress.timing() == {}


def test_speed_of_known_devices(tmp_path, monkeypatch):
    """MFU and memory are logged where the devices tell their kind and memory: steps of
    1 ms that could be done in a fifth of that, or two, and so on, use on average those
    shares of the peak rate."""
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    monkeypatch.setattr(logs.parallel, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(
        logs.parallel, "device_memory", lambda: {"peak_bytes_in_use": 3_000_000_000}
    )
    logger = logger_of(tmp_path, num_steps=5, log_every=2)
    for step in range(1, 6):
        logger.push(step, metrics_of(step), 4, flops=989e12 * 0.2e-3 * step)
        now += 1e-3
    logger.close()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5]  # of step 2, 3 and 4, and 5
    assert [line["mfu"] for line in lines] == pytest.approx([0.4, 0.7, 1])
    for line in lines:
        assert line.keys() == {"step", "loss", *SPEED, "mfu", "device_memory"}
        assert line["device_memory"] == 3_000_000_000


def test_an_unknown_rate_is_not_shown(tmp_path, capsys):
    """Point 20: the first step has neither images per second nor a time left."""
    logger = logger_of(tmp_path)
    logger.push(1, metrics_of(1), 4)
    logger.flush()
    assert capsys.readouterr().out.strip() == "step 1/10  loss 1.0000"
    assert lines_of(tmp_path) == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize(
    "line", [b"no json", b"[1]", b"3", b'{"step": "x"}', b"\xff\xfe", b"null", b"{}"]
)
def test_lines_that_cannot_be_read(tmp_path, caplog, line):
    """Point 4: a line that is not JSON, not UTF-8 or no object with a step does not
    stop a start: it is dropped with a warning."""
    good = [json.dumps({"step": n, "loss": 1.0}).encode() for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]))
    logs.MetricsLog(tmp_path, start=2).close()
    assert [x["step"] for x in lines_of(tmp_path)] == [1, 2]
    assert "1 lines of" in caplog.text and "metrics.damaged" in caplog.text
    assert (tmp_path / "metrics.damaged").read_bytes() == line + b"\n"


def test_logs_without_checkpoints_are_kept(tmp_path, caplog):
    """Point 4: a session that starts from step 0 keeps the logs of earlier ones under
    other names, each time, and says so."""
    for number in (1, 2, 3):
        log = logs.MetricsLog(tmp_path, start=0)
        log.write(number, {"loss": 1.0})
        log.close()
        assert [x["step"] for x in lines_of(tmp_path)] == [number]
    for number in (1, 2):
        kept = tmp_path / f"logs-before-{number}"
        assert [x["step"] for x in lines_of(kept)] == [number]
        assert scalars_in(kept) == [(number, "loss", 1.0)]
        assert f"kept in {kept}" in caplog.text


def test_strict_json(tmp_path):
    """Point 18: metrics that are not finite, of an evaluation, are null."""
    log = logs.MetricsLog(tmp_path, start=0)
    log.write(1, {"test_bits": math.inf, "test_rate": math.nan})
    log.close()
    assert lines_of(tmp_path) == [{"step": 1, "test_bits": None, "test_rate": None}]


def test_no_lines_but_the_last(tmp_path):
    """log_every = 0 means never: only the run's last step is written."""
    logger = logger_of(tmp_path, num_steps=3, log_every=0)
    for step in (1, 2, 3):
        logger.push(step, {"loss": 1.0, "stop": 0.0}, 4)
    logger.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]


def test_an_evaluation_is_logged_once(tmp_path):
    """Point 8: a run that was killed between the record of an evaluation and its score
    evaluates again; the record is not there twice. Other values are another record."""
    for found in (1.5, 1.5, 2.5):
        log = logs.MetricsLog(tmp_path, start=4)
        log.write(4, {"test_fd": found})
        log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["test_fd"] for line in lines] == [1.5, 2.5]


def test_a_full_disk_is_named(tmp_path):
    """Point 9: if a line cannot be written, the error names the file and the step; a
    log that is a device is not read."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = logs.MetricsLog(tmp_path, start=4)
    words = r"Step 5 of .*metrics.jsonl .*could not be written .No space left"
    with pytest.raises(OSError, match=words):
        log.write(5, {"loss": 1.0})


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": true}'])
def test_odd_lines(tmp_path, line):
    """Point 4: brackets without an end, or a step that is no number, stop no start."""
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 1}}\n')
    logs.MetricsLog(tmp_path, start=4).close()
    assert lines_of(tmp_path) == [{"step": 1}]
