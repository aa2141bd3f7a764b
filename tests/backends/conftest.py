"""CuPy for tests: over its stand-in on the host, and as it is where there is a GPU."""

import pytest
from host_cupy import cupy_or_its_stand_in, instead_of_cupy


@pytest.fixture(scope="module", params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request):
    """The module ``cupy``."""
    with cupy_or_its_stand_in(request.param == "gpu") as cupy:
        yield cupy


@pytest.fixture
def machine():
    """The stand-in's devices, for tests of what a GPU cannot be made to do."""
    with instead_of_cupy() as machine:
        yield machine
