"""Which errors are one sentence with an exit code, and which keep their traceback."""

import re
import subprocess
import sys

import jax
import pytest
from absl.testing import flagsaver
from smoke import ROOT

from diffusion_jax import command_line, lookup, main, paths
from diffusion_jax.training import interrupts


def ours():
    paths.local("gs://x")  # raised by this package, on purpose


def ours_by_name():
    lookup.lookup({"a": 1}, "b", "letter")


def of_a_library():
    int("x")


def a_fault():
    {}["key"]


def of_the_disk():
    open("/nosuch/file")  # noqa: SIM115


def noted():
    try:
        ours()
    except ValueError as error:
        error.add_note("Last good checkpoint: none.")
        error.add_note("-----\nwhat a library adds")
        raise


def out_of_memory():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nmuch more")


def stopped():
    raise interrupts.Stopped(15)


@pytest.mark.parametrize(
    "fail, code, words",
    [
        (ours, 2, "gs://x: gs:// addresses are not"),
        (ours_by_name, 2, "Unknown letter 'b'. Known: a."),
        (noted, 2, "its path. Last good checkpoint: none."),
        (of_the_disk, 1, "/nosuch/file"),
        (out_of_memory, 1, "Out of memory. Lower the batch_size in data, sample or"),
        (stopped, 143, "Stopped by SIGTERM."),
        (of_a_library, None, ""),
        (a_fault, None, ""),
    ],
)
def test_what_is_explained(fail, code, words, capsys):
    """Point 19: what this package refuses, and what the disk refuses, is one line on
    stderr and an exit code; a fault of the program keeps its traceback."""
    error = SystemExit if code else (ValueError, KeyError)
    with pytest.raises(error) as raised, command_line.explained(traceback=False):
        fail()
    said = capsys.readouterr().err
    if code:
        assert raised.value.code == code
        assert words in said and said.count("\n") == 1 and "library" not in said
    else:
        assert not said


def test_a_traceback_on_request():
    """Point 19: --traceback lets every error pass."""
    with pytest.raises(ValueError), command_line.explained(traceback=True):
        ours()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/digit.py"], "Did you mean configs/digits.py"),
        (["--config=configs/cifar.py:tiny"], "Did you mean configs/cifar10.py"),
        (["--config=digits"], "no config digits. Did you mean configs/digits.py"),
        (["--config=qqqqqq.py"], "Known: .*configs/cifar10.py"),
        (["--config=configs"], "There is no config configs"),
        (["--config=configs/nosuch_x.py", "--config.seed=1"], "There is no config con"),
        (["--config.seed=1"], "--config is missing"),
        (["--config="], "--config is missing"),
        (["--config"], "Missing value for flag --config"),
        ([], "--config is missing"),
        (["--config=a.py", "--config=configs/digits.py"], "--config is given twice"),
    ],
)
def test_config_files_that_do_not_exist(arguments, words, monkeypatch, capsys):
    """Point 19: the nearest names are shown, whatever else is on the command line."""
    monkeypatch.chdir(ROOT)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
        command_line.parse_flags([main.__file__, *arguments])
    said = capsys.readouterr().err
    assert error.value.code == 2 and said.count("\n") == 1
    assert re.search(words, said), said


FILES = {
    "syntax": ("def get_config(:", "SyntaxError"),
    "import": ("import nosuchmodule", "No module named 'nosuchmodule'"),
    "function": ("x = 1", "get_config"),
    "none": ("def get_config():\n    return None", "returns no ConfigDict"),
    "error": ("def get_config():\n    return {}['a']", "KeyError"),
}


@pytest.mark.parametrize("name", FILES)
def test_config_files_that_cannot_be_loaded(name, monkeypatch, capsys, tmp_path):
    """Points 18 and 19: whatever a config file raises is one sentence; ~ in its path is
    expanded."""
    text, words = FILES[name]
    (tmp_path / "x.py").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/x.py", str(tmp_path / "x.py")):
        monkeypatch.delitem(sys.modules, "config_config", raising=False)  # its name
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
            command_line.parse_flags([main.__file__, f"--config={path}"])
        said = capsys.readouterr().err
        assert error.value.code == 2 and said.count("\n") == 1
        assert re.search(words, said), said


def test_the_process_ends():
    """Point 9: after an error the process ends within a bound, even if a thread waits
    for ever, and with the exit code of the error."""
    script = (
        "import sys, threading\n"
        "from diffusion_jax import command_line\n"
        "command_line.END_WITHIN = 0.2\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "try:\n"
        "    sys.exit(2)\n"
        "except BaseException as error:\n"
        "    command_line.end_soon(error)\n"
        "    raise\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, cwd=ROOT)
    assert done.returncode == 2
