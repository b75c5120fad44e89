"""Runs side by side: only what is comparable is in one row."""

import json
import re

import pytest
from documents import call_main
from handmade import make_run
from pages import Page
from smoke import CONFIGS, Compiled

from diffusion_jax.compare import compare
from diffusion_jax.progress import CONSOLE

LOG = [{"step": step, "loss": 1 / step, "step_time": 0.1} for step in range(1, 21)]
GAN_LOG = [{"step": step, "disc/loss": 1.4, "gen/loss": 0.7} for step in range(1, 21)]


def of_samples(distance, precision, num_samples=64, **settings):
    """A line of evaluations.jsonl."""
    return {
        "metric": "samples",
        "FD of pixels": distance,
        "FD of pixels, real": 0.07,
        "precision": precision,
        "num_samples": num_samples,
        "splits": ["train", "test"],
        "histogram": [1, 2],
        **settings,
    }


@pytest.fixture
def shown(tmp_path, capsys, monkeypatch):
    """Returns shown(*folders): what is printed, as lines of cells, and the page."""
    monkeypatch.setattr(CONSOLE, "width", 300)

    def run(*folders):
        with Compiled() as programs:
            compare([str(x) for x in folders], str(tmp_path / "out"))
        assert not programs
        text = capsys.readouterr().out
        page = Page((tmp_path / "out/compare.html").read_text(encoding="utf-8"))
        assert not page.open and not page.loads and all(page.alts)
        assert all(x.startswith("data:image/png;base64,") for x in page.sources)
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        return lines, page

    return run


def rows(lines, name):
    """The cells of all rows of a name."""
    return [cells for first, *cells in lines if first == name]


def test_side_by_side(tmp_path, shown):
    """Values that differ are shown and equal ones are not; the better metric of two is
    marked, in the known direction; every run has its picture and its loss curve."""
    changes = {"diffusion__schedule": "linear"}
    a = make_run(tmp_path / "a", log=LOG, evaluations=[of_samples(0.2, 0.5)], **changes)
    b = make_run(tmp_path / "b", log=LOG, evaluations=[of_samples(0.1, 0.4)])
    lines, page = shown(a, b)
    assert rows(lines, "diffusion.schedule") == [["linear", "cosine"]]
    assert not rows(lines, "optim.learning_rate")
    assert rows(lines, "steps") == [["20 of 4", "20 of 4"]]
    assert rows(lines, "time of the train steps") == [["2 seconds", "2 seconds"]]
    assert rows(lines, "FD of pixels \N{DOWNWARDS ARROW}") == [["0.2", "0.1 better"]]
    assert rows(lines, "precision \N{UPWARDS ARROW}") == [["0.5 better", "0.4"]]
    assert page.text.count("(real 0.07)") == 2
    assert page.title == "Comparison of a, b"
    assert {"a, step 20", "b, step 20", "Loss over training step"} <= {*page.alts}


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": 500}, {"splits": ["train", "val"]}, {"classifier": "another"}]
    + [{"data": "mnist"}],
)
def test_what_is_not_comparable(settings, tmp_path, shown):
    """Metrics of another N, split, classifier or data are in rows of their own, none of
    which is called better; the titles tell them apart."""
    a = make_run(tmp_path / "a", evaluations=[of_samples(0.2, 0.5)])
    b = make_run(tmp_path / "b", evaluations=[of_samples(0.1, 0.4, **settings)])
    lines, page = shown(a, b)
    assert rows(lines, "FD of pixels \N{DOWNWARDS ARROW}") == [["0.2"], ["0.1"]]
    assert "better" not in page.text.replace("is better", "")
    titles = [first for first, *_ in lines if first.startswith("samples on")]
    assert len({*titles}) == 2


@pytest.mark.parametrize("num_steps, num_rows", [(10, 1), (100, 2)])
def test_steps_of_an_ode_likelihood(num_steps, num_rows, tmp_path, shown):
    """They are part of the measurement: other numbers of them are not comparable."""
    line = {"metric": "ode_likelihood", "bits_per_dim": 3.0, "split": "test"}
    a = make_run(tmp_path / "a", evaluations=[{**line, "num_steps": 10}])
    b = make_run(tmp_path / "b", evaluations=[{**line, "num_steps": num_steps}])
    lines, _ = shown(a, b)
    assert len(rows(lines, "bits_per_dim \N{DOWNWARDS ARROW}")) == num_rows


def test_last_evaluation(tmp_path, shown):
    """Of comparable evaluations the last one counts, whatever the sampler was; a run
    without any has blanks, and one without samples a sentence."""
    line = of_samples(0.3, 0.5, sampler="ddim", num_steps=10)
    later = of_samples(0.2, 0.5, sampler="ancestral", num_steps=100)
    a = make_run(tmp_path / "a", evaluations=[line, later])
    b = make_run(tmp_path / "b", samples=False)
    lines, page = shown(a, b)
    assert rows(lines, "FD of pixels \N{DOWNWARDS ARROW}") == [["0.2"]]
    how = "step 20, sampler ancestral, num_steps 100"
    assert rows(lines, "evaluated") == [[how]]
    assert "b has drawn no samples yet" in page.text and "nan" not in page.text


def test_evaluation_during_training(tmp_path, shown):
    """The last one counts like a later one with the same settings."""
    scores = [{"step": x, "test_FD of pixels": 2 / x} for x in (10, 20)]
    a = make_run(tmp_path / "a", log=LOG + scores)
    line = of_samples(0.2, 0.5)
    names = "metric", "num_samples", "splits"
    settings = {name: line[name] for name in names}
    (a / "checkpoints/20").mkdir(parents=True)
    score = json.dumps({"value": 0.1, "settings": settings})
    (a / "checkpoints/20/score.json").write_text(score)
    b = make_run(tmp_path / "b", evaluations=[line])
    lines, page = shown(a, b)
    assert rows(lines, "FD of pixels \N{DOWNWARDS ARROW}") == [["0.1 better", "0.2"]]


def test_families(tmp_path, shown):
    """Runs of different families are compared by the values that they have in common;
    the values of a single run are folded away. Folders of the same name are labelled
    with their paths."""
    a = make_run(tmp_path / "x/run", log=LOG)
    b = make_run(tmp_path / "y/run", "digits_gan", log=GAN_LOG)
    lines, page = shown(a, b)
    assert rows(lines, "family") == [["ddpm", "gan"]]
    assert not rows(lines, "diffusion.schedule") and "diffusion.schedule" in page.text
    assert str(a) in page.title and str(b) in page.title
    assert "None of these runs has been evaluated" in page.text
    losses = {f"Loss{x} over training step" for x in ("", " of disc", " of gen")}
    assert losses <= {*page.alts}


@pytest.fixture
def refuse(capsys, monkeypatch):
    """Returns refuse(*args): the one sentence with which the program ends, code 2."""

    def run(*args):
        with pytest.raises(SystemExit) as error:
            call_main([*map(str, args)], monkeypatch)
        said = capsys.readouterr().err
        assert error.value.code == 2 and said.count("\n") == 1
        return said

    return run


def test_refusals(tmp_path, refuse, monkeypatch):
    """Too few runs, the same twice, a folder without a run, and flags that have no
    meaning are refused in one sentence, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    a, mode = make_run(tmp_path / "a"), "--mode=compare"
    assert "at least two runs" in refuse(mode)
    assert "at least two runs" in refuse(mode, a)
    assert "twice" in refuse(mode, a, tmp_path / "b", "a/../a")
    assert f"No run in {tmp_path}/nosuch" in refuse(mode, a, tmp_path / "nosuch")
    config = f"--config={CONFIGS['digits']}:tiny"
    assert "takes no --config" in refuse(mode, config, a, a)
    assert "no --workdir" in refuse(mode, "--workdir=a", a, a)
    assert "takes no --config" in refuse(mode, "--config.seed=1", a, a)
    assert "Unknown arguments: a b" in refuse(config, "a", "b")
    assert [x.name for x in tmp_path.iterdir()] == ["a"]
