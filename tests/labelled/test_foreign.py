"""Labelled arrays of other libraries: JAX's, and CuPy's over its stand-in on the host."""

import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from host_cupy import asarray as on_gpu
from host_cupy import instead_of_cupy, ndarray

import scatflow
from scatflow.errors import SourceError
from scatflow.flow.verify import apart

S = scatflow.Scattering1D(J=3, Q=2)

WAYS = {
    "whole": {},
    "frames": {"boundary": "frames", "frame": 128, "hop": 64},
    "seamless": {"boundary": "seamless"},
}


@pytest.fixture(scope="module")
def gpu():
    """CuPy's stand-in in this process."""
    with instead_of_cupy() as machine:
        yield machine


@pytest.fixture
def host():
    """Two records, in the order that the transform has to change."""
    x = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    return xr.DataArray(x, {"station": ["a", "b"]}, ("time", "station"), "x", {"units": "m"})


def close(found, expected):
    axis = expected.scattering.dims.index("path")
    return apart(found, expected.scattering.values, axis).max() <= 1e-5


def same_labels(found, expected):
    return found.drop_vars("scattering").identical(expected.drop_vars("scattering"))


@pytest.mark.parametrize("way", WAYS)
def test_coefficients_of_jax_are_jaxs_with_the_labels_of_numpys(host, way):
    expected = scatflow.scatter(host, S, "time", **WAYS[way])
    found = scatflow.scatter(host.copy(data=jnp.asarray(host.values)), S, "time", **WAYS[way])
    assert isinstance(found.scattering.data, jax.Array)
    assert close(np.asarray(found.scattering.data), expected)
    assert same_labels(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_coefficients_of_cupy_stay_on_their_gpu_with_the_labels_of_numpys(gpu, host, way):
    expected = scatflow.scatter(host, S, "time", **WAYS[way])
    found = scatflow.scatter(host.copy(data=on_gpu(host.values)), S, "time", **WAYS[way])
    assert isinstance(found.scattering.data, ndarray)
    values = found.scattering.data.get()
    assert not np.array_equal(values, expected.scattering.values)  # NumPy did not compute them.
    assert close(values, expected)
    assert same_labels(found, expected)


def test_gaps_of_other_libraries_are_those_of_numpys(gpu, host):
    host[100, 0] = np.nan
    expected = scatflow.scatter(host, S, "time")
    assert expected.scattering.isnull().any()
    for put, back in ((jnp.asarray, np.asarray), (on_gpu, lambda x: x.get())):
        found = scatflow.scatter(host.copy(data=put(host.values)), S, "time")
        assert close(back(found.scattering.data), expected)
        assert same_labels(found, expected)
        with pytest.raises(SourceError, match="1 of 256 samples are not finite"):
            scatflow.scatter(host.copy(data=put(host.values)), S, "time", gaps="raise")


def test_overflow_of_other_libraries_is_refused_as_numpys():
    x = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    huge = xr.DataArray(jnp.asarray(1e30 * x), dims=("z", "y", "x"))
    with pytest.raises(SourceError, match="overflow float32"):
        scatflow.scatter(huge, scatflow.HarmonicScattering3D(J=1, L=1))


def test_lazy_arrays_of_cupy_give_lazy_arrays_of_cupy(gpu, host):
    expected = scatflow.scatter(host, S, "time")
    x = on_gpu(host.values)
    lazy = da.Array({("x", 0, 0): x}, "x", chunks=((256,), (2,)), meta=x[:0, :0])
    found = scatflow.scatter(host.copy(data=lazy), S, "time").scattering.data
    assert isinstance(found._meta, ndarray)
    block = found.blocks[0, 0, 0].compute(scheduler="sync")
    assert isinstance(block, ndarray)
    assert close(block.get(), expected)


def test_volumes_of_jax_are_summed_where_they_lie():
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    T = scatflow.HarmonicScattering3D(J=1, L=1)
    host = xr.DataArray(x, dims=("molecule", "z", "y", "x"))
    found = scatflow.scatter(host.copy(data=jnp.asarray(x)), T)
    assert isinstance(found.scattering.data, jax.Array)
    assert close(np.asarray(found.scattering.data), scatflow.scatter(host, T))
