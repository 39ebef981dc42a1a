"""The whole suite is strict: float64, no implicit rank or dtype promotion, every warning an error.

optax promotes dtypes itself, so a module that calls it says `pytestmark = pytest.mark.promotes`.
"""

import functools
import gc
import os
from importlib.metadata import version
from pathlib import Path

# Four devices on any machine, whatever flags are set; and, unless they are, little optimization, as the suite
# spends its time compiling, not running.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # Programs this small take longer to make in parts, and the other core has tests of its own.
    + " --xla_cpu_parallel_codegen_split_count=1"
    # Later versions refuse this one.
    + " --xla_cpu_use_fusion_emitters=false" * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
)
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
# Which line of Python an operation comes from is told by no test.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# The suite's processes share the cores already: threads of their linear algebra would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from threadpoolctl import threadpool_limits

from jaxflow._disk import program_cache

jax.config.update("jax_enable_x64", True)
threadpool_limits(1, "blas")  # that of NumPy, which a plugin of pytest has loaded before
try:
    from jax._src.interpreters import mlir

    fresh_context = mlir.make_ir_context
except (ImportError, AttributeError):  # these parts of JAX are not public
    shared_context = functools.cache(lambda: None)
else:
    shared_context = functools.cache(fresh_context)
    # JAX loads every dialect of MLIR anew for each program, a third of what a small one takes. A program that is made
    # while another is lowered has a context to itself, as its parts would end in the other.
    mlir.make_ir_context = lambda: shared_context() if mlir.ir.Context.current is None else fresh_context()
try:
    from jax._src.lru_cache import LRUCache

    make_room = LRUCache._evict_if_needed
except (ImportError, AttributeError):
    make_room = None
else:
    # Before JAX writes a program it looks at the ages of all that are there, which, with the suite's 14,000, takes
    # longer than to compile most of them. So it is done once for all, and the shortest programs are kept too.
    LRUCache._evict_if_needed = lambda self, *, additional_size=0: None
    program_cache.SHORTEST = 0.0
PROGRAMS = program_cache.keep_programs("suite")  # JAX_ENABLE_COMPILATION_CACHE=false compiles everything anew
if make_room and PROGRAMS and "PYTEST_XDIST_WORKER" not in os.environ:
    kept = LRUCache(os.fspath(PROGRAMS), max_size=2**29)
    with kept.lock:
        make_room(kept)
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.disable()  # while modules are imported


def pytest_collection_finish():
    """Tracing makes many objects and few circles: rarer collections of garbage save a twelfth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    gc.enable()


@pytest.fixture(autouse=True)
def dtype_promotion(request):
    promotes = request.node.get_closest_marker("promotes") or request.node.__class__.__name__ == "DoctestItem"
    with jax.numpy_dtype_promotion("standard" if promotes else "strict"):
        yield


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Every compiled program holds some memory maps, of which a process has 65,530: past that XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 40_000:
        jax.clear_caches()
        shared_context.cache_clear()
        gc.collect()
