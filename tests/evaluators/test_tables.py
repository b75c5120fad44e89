"""Laws of the table that a person reads."""

import re

import hypothesis
from hypothesis import strategies as st

from diffusion_jax.evaluators import Record, tables


def test_baselines_stand_next_to_their_metric():
    """Controls, real images and PCA are baselines, a standard error belongs to the
    score, and all else that is a number has a line of its own."""
    record = Record(
        {
            "FD of pixels": 0.25,
            "FD of pixels, real": 0.07,
            "conditional_accuracy of size": 0.98,
            "conditional_accuracy of size, shuffled": 0.5,
            "nearest_distance": 5.5,
            "histogram": [1, 2],
            "squared_error": 0.0125,
            "squared_error_of_pca": 0.02,
            "standard_error": 0.001,
            "num_classes": 10,
        },
        {"num_samples": 2000},
        {"accuracy_real of size": 1.0, "nearest_distance_real": 5.15, "seconds": 3.0},
    )
    lines = {line.name: line for line in tables.lines(record)}
    assert {name: line.baselines for name, line in lines.items()} == {
        "FD of pixels": "real 0.07",
        "conditional_accuracy of size": "shuffled 0.5, real 1",
        "nearest_distance": "real 5.15",
        "squared_error": "PCA 0.02",
    }
    assert lines["FD of pixels"].value == "0.25 ± 0.001"
    assert all(line.meaning for line in lines.values())


@hypothesis.given(st.sampled_from(sorted(tables.MEANINGS)), st.floats())
def test_any_value_has_a_line(name, value):
    """Any number of any metric is shown, and the title says how many there were."""
    record = Record({name: value}, {"num_examples": 12_345})
    (line,) = tables.lines(record)
    assert line.name == name and re.fullmatch(r"-?(\d.*|inf|nan)", line.value)
    assert tables.table("a run", record).title == "a run, N = 12,345"
