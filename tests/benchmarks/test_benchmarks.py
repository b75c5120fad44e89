"""The benchmarks: their statistics, their turns, and one tiny run of each command."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import measures, startup
from benchmarks.reports import ROOT

positive = st.floats(0.1, 100.0)
SMALL = ["model.base_channels=8", "model.channel_multipliers=(1,)"]


def test_spread():
    """The median of an odd number is one of them; low and high are the extremes."""
    assert measures.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


@given(ratio=positive, theirs=st.lists(positive, min_size=1))
def test_pairs_cancel_what_both_suffer(ratio, theirs):
    """If every turn of ours takes `ratio` times theirs, so does the median, no matter
    how the machine's speed changes from turn to turn."""
    ours = [ratio * x for x in theirs]
    assert measures.paired_ratios(ours, theirs).median == pytest.approx(ratio)


def test_pairs_must_be_pairs():
    """Turns without a partner are refused."""
    with pytest.raises(ValueError):
        measures.paired_ratios([1.0, 2.0], [1.0])


@given(exponent=st.floats(-3, 3), factor=positive)
def test_a_power_law_is_found(exponent, factor):
    """Points on y = factor x^exponent give both back, with no error left."""
    x = np.array([1.0, 2.0, 4.0, 7.0])
    law = measures.fit_power_law(x, factor * x**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    assert law.factor == pytest.approx(factor, rel=1e-6)
    assert law.standard_error < 1e-6


def test_the_error_of_an_exponent():
    """It is that of textbook least squares, and NaN for two points."""
    x, noise = np.array([1.0, np.e, np.e**2]), np.array([0.1, -0.2, 0.1])
    law = measures.fit_power_law(x, np.exp(noise + 2 * np.log(x)))
    # Residuals of a line through (0, 1, 2): noise itself, which sums to 0 with x too.
    assert law.exponent == pytest.approx(2.0)
    assert law.standard_error == pytest.approx(math.sqrt(0.06 / 1 / 2))
    assert math.isnan(measures.fit_power_law([1, 2], [1, 2]).standard_error)


def run(module, *arguments):
    """Runs a command; returns the records that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *arguments]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def check_common(record):
    """Every record says where it was measured."""
    assert record["machine"]["cores"] >= 1
    assert {"python", "jax", "flax"} <= record["versions"].keys()
    assert record["commit"] and record["time"]


def test_train_step_and_sampling_report_all_sides():
    """Milliseconds, images a second, operations and their share of the ceiling; the
    rate is the batch over the time."""
    quick = ["--rounds", "1", "--seconds", "0", "--batch_size", "8"]
    found = run("train_step", *quick, "--set", *SMALL)
    found += run("sampling", *quick, "--set", *SMALL, "--tasks", "forward", "ddim:2")
    assert [x["what"] for x in found] == ["train step", "forward pass", "ddim, 2 steps"]
    for record in found:
        check_common(record)
        assert record["side"] == "this project"
        seconds = record["milliseconds"] / 1e3
        assert record["images_per_second"] == pytest.approx(8 / seconds)
        rate = record["flops"] / seconds / 1e9
        assert record["gflops_per_second"] == pytest.approx(rate)
        ceiling = max(record["ceiling_gflops_per_second"].values())
        assert record["share"] == pytest.approx(rate / ceiling)


def test_scaling_reports_points_and_fits():
    """Each point has a time, a memory and a compilation; each axis three exponents."""
    found = run(
        "scaling", "--axes", "samples at once", "--points", "2", "--set", *SMALL
    )
    *points, fit = found
    assert [x["value"] for x in points] == [8, 32]
    for record in found:
        check_common(record)
    assert points[1]["megabytes"] > points[0]["megabytes"]
    slope = math.log(points[1]["milliseconds"] / points[0]["milliseconds"], 4)
    assert fit["time"]["exponent"] == pytest.approx(slope)


def test_startup_names_its_cases():
    """A case is a config and a part; another part is refused."""
    assert startup.parse_case("digits:tiny") == ("digits", "tiny")
    with pytest.raises(ValueError, match="CONFIG:first_step"):
        startup.parse_case("digits:all")
    first = startup.make_command(startup.parse_case("digits:first_step"), ROOT)
    assert "--config.train.num_steps=1" in first
