"""What all tests share: drawn examples that repeat, and a fresh source of noise."""

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
