"""Programs that compile quickly."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These tests compile for longer than they run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
