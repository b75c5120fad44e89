"""The documentation as a site."""

import os
import pathlib
import subprocess
import sys

import pytest
from pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_site(tmp_path):
    """The site builds without warnings: no link is broken and every docstring of the
    API is well-formed. All pages are in the navigation, all pictures have texts, and
    equations are shown as they are written."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    done = subprocess.run(
        [*command, "-b", "html", "-d", tmp_path / "trees", ROOT / "docs", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "index.html").read_text()
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"sampler_errors"}
    for name in pages - {"index"}:
        assert f'href="{name}.html"' in index
        assert (tmp_path / f"{name}.html").is_file()
    for name in pages:
        assert all(Page((tmp_path / f"{name}.html").read_text()).alts)
    api = (tmp_path / "api.html").read_text()
    assert "logsnr(t) = log(alpha_bar_t / (1 - alpha_bar_t))" in api
    assert "TrainedModel.reconstruct" in api
