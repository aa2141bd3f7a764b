"""What all tests share: drawn examples that repeat, noise, and what a GPU is needed for."""

import importlib
import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Deadlines measure the machine, not the code; the same examples are drawn on every run.
settings.register_profile(
    "scatflow",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("scatflow")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


NOT_RUN = pytest.StashKey[dict]()


def what_is_missing():
    """Say why tests of a mark cannot run here, by mark."""
    if importlib.util.find_spec("cupy") is None:
        return dict.fromkeys(("gpu", "cupy"), "CuPy is not installed")
    cupy = importlib.import_module("cupy")
    try:
        there = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return {"gpu": f"no CUDA device: {error}"}
    return {} if there else {"gpu": "no CUDA device"}


def pytest_collection_modifyitems(config, items):
    missing = what_is_missing()
    left_out = {m: [item for item in items if item.get_closest_marker(m)] for m in missing}
    without = {id(item) for some in left_out.values() for item in some}
    items[:] = [item for item in items if id(item) not in without]
    config.stash[NOT_RUN] = {m: (len(some), missing[m]) for m, some in left_out.items() if some}
    for some in left_out.values():
        config.hook.pytest_deselected(items=some)


def pytest_terminal_summary(terminalreporter, config):
    for mark, (count, why) in config.stash.get(NOT_RUN, {}).items():
        terminalreporter.write_line(f"NOT RUN: {count} tests marked {mark}: {why}")
