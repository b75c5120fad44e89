"""Eight CPU devices, strict shapes and quick compilation, for every test."""

import importlib.metadata
import os
import shutil
import tempfile

# Before jax is imported: the number of devices is fixed when its backend starts. The
# processes that tests start inherit all of this; one cache of compiled programs serves
# the session, since compiling takes longer than running here, and about half as long
# without the expensive optimisations, MLIR emitters of fused loops, and split modules.
# A cache that the environment names is kept for the next session.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA aborts on flags it does not know, so each is for the versions that were tried.
MINOR = importlib.metadata.version("jaxlib").split(".")[:2]
FLAGS = []
if MINOR in (["0", "10"], ["0", "11"], ["0", "12"]):
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
if MINOR == ["0", "10"]:  # 0.11 has removed it
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
KEEPS_CACHE = "JAX_COMPILATION_CACHE_DIR" in os.environ  # in a worker, always
if not KEEPS_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Enables double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_file():
    """Releases the compiled programs after each file: a process may map only so many
    pages of memory, and the whole suite needs more. The cache on disk keeps them."""
    yield
    jax.clear_caches()


def pytest_unconfigure():
    """Removes the session's compiled programs."""
    if not KEEPS_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
