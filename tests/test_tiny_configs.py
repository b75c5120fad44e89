"""The configs at :tiny that are not among the families' runs of test_families.py."""

import pytest
from tiny_runs import RUNS, check_tiny, distinct_programs, train_tiny


@pytest.mark.parametrize("name", [x for x in distinct_programs() if x not in RUNS])
def test_tiny_trains_and_samples(name, tmp_path):
    """Every config at :tiny trains for two steps and draws finite images or text."""
    check_tiny(*train_tiny(name, tmp_path))
