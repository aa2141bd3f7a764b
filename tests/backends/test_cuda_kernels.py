"""The kernels themselves: for every GPU by NVRTC, and on the host with the launches of a GPU.

What the verbs make of them is in ``test_verbs.py``.
"""

import ctypes
import doctest
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from host_cuda import Kernels
from host_cupy import instead_of_cupy
from hypothesis import given
from hypothesis import strategies as st

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100)
NAMES = {np.float32: "float", np.float64: "double"}
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


@pytest.fixture(scope="module")
def backend():
    """The module, of which only what needs no device is used."""
    with instead_of_cupy():
        yield importlib.import_module("scatflow.backends.cupy")


# --- for GPUs ------------------------------------------------------------------------------


class Nvrtc:
    """NVIDIA's compiler, which needs neither a device nor a driver."""

    def __init__(self):
        folder = importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0]
        self.library = ctypes.CDLL(str(next(Path(folder).glob("lib/libnvrtc.so.*"))))

    def call(self, name, *args):
        return getattr(self.library, f"nvrtc{name}")(*args)

    def compile(self, source, names, *options):
        """Return how many bytes of machine code there are, and what the compiler said."""
        program = ctypes.c_void_p()
        text = source.encode()
        assert self.call("CreateProgram", ctypes.byref(program), text, b"k.cu", 0, None, None) == 0
        for name in names:
            assert self.call("AddNameExpression", program, name.encode()) == 0
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.call("CompileProgram", program, len(options), given)
        size = ctypes.c_size_t()
        self.call("GetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.call("GetProgramLog", program, log)
        code = ctypes.c_size_t(0)
        if not failed:
            self.call("GetCUBINSize", program, ctypes.byref(code))
            for name in names:
                lowered = ctypes.c_char_p()
                assert (
                    self.call("GetLoweredName", program, name.encode(), ctypes.byref(lowered)) == 0
                )
        self.call("DestroyProgram", ctypes.byref(program))
        return code.value, log.value.decode().strip()


@pytest.fixture(scope="module")
def nvrtc():
    return Nvrtc()


@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA has NVRTC for Linux in this form")
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_every_kernel_compiles_for_every_gpu_without_a_warning(nvrtc, backend, sm):
    source = backend.SOURCE.read_text("utf-8")
    # The second option is CuPy's own.
    as_cupy = "--device-as-default-execution-space"
    options = (*backend.OPTIONS, as_cupy, f"-arch=sm_{sm}")
    code, said = nvrtc.compile(source, backend.NAMES, *options)
    # That a GPU is old is no fault of the source.
    assert [line for line in said.splitlines() if "Architectures prior to" not in line] == []
    assert code > 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA has NVRTC for Linux in this form")
def test_what_nvrtc_warns_of_is_seen(nvrtc, backend):
    source = "__global__ void k(int* x) { int unused = 3; x[0] = 1; }"
    _, said = nvrtc.compile(source, ["k"], *backend.OPTIONS, "-arch=sm_80")
    assert "never referenced" in said
    code, said = nvrtc.compile("__global__ void k() { nothing(); }", ["k"], "-arch=sm_80")
    assert code == 0
    assert "undefined" in said


def test_a_source_needs_no_header(backend):
    assert "#include" not in backend.SOURCE.read_text("utf-8")


# --- on the host ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels(backend):
    return Kernels.of(backend.SOURCE.read_text("utf-8"), backend.NAMES)


@pytest.fixture(scope="module")
def launch(backend, kernels):
    """Launch a kernel as the backend does, and again with its threads the other way round.

    Arrays that are written begin with NaN; both ways must give the same bits.
    """

    def run(name, args, out, columns, rows):
        grid, block = backend.geometry(columns, rows)
        found = []
        for kernels.backwards in (False, True):
            out.fill(np.nan)
            counts = (np.uint32(columns), np.uint32(rows))
            kernels.launch(name, grid, block, (*args, *counts))
            found.append(out.copy())
        np.testing.assert_array_equal(*found)
        return found[0]

    return run


@given(columns=st.integers(1, 2**31 - 1), rows=st.integers(1, 2**31 - 1))
def test_a_launch_is_within_the_limits_and_leaves_nothing_out(backend, columns, rows):
    (across, down), (wide, deep) = backend.geometry(columns, rows)
    assert wide * deep <= backend.THREADS < wide * (deep + 1)
    idle = across * wide - columns
    assert idle < min(columns, 32 * across)  # no more than a warp's in a block, or half of one
    assert across * wide >= columns
    assert (across - 1) * wide < columns
    assert 1 <= down <= backend.GRID_ROWS
    assert across < 2**31
    # Rows go on in strides of the grid: the last stride still fits in 32 bits.
    assert rows + down * deep < 2**32
    assert down == backend.GRID_ROWS or down * deep >= rows


def test_the_examples_hold(backend):
    failed, tried = doctest.testmod(backend)
    assert (failed, tried) == (0, 3)


def count(*numbers):
    return tuple(np.uint32(n) for n in numbers)


@given(data=st.data(), dtype=dtypes, seed=seeds)
def test_reflecting(launch, data, dtype, seed):
    n0, n1 = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 300)))
    before0, before1, after0, after1 = (data.draw(st.integers(0, 20)) for _ in range(4))
    x = np.random.default_rng(seed).standard_normal((3, n0, n1)).astype(dtype)
    expected = np.pad(x, ((0, 0), (before0, after0), (before1, after1)), "reflect")
    out = np.empty_like(expected)
    _, p0, p1 = expected.shape
    args = (x, *count(n0, n1, before0, before1), out, *count(p0))
    found = launch(f"reflect<{NAMES[dtype]}>", args, out, p1, 3 * p0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("before", [0, 7])
def test_reflecting_signals_as_long_as_can_be_counted(launch, before):
    begin = np.arange(100.0)  # of which no sample further on is asked for
    out = np.empty((1, 80))
    args = (begin, *count(1, 2**31 - 1, 0, before), out, *count(1))
    found = launch("reflect<double>", args, out, 80, 1)
    np.testing.assert_array_equal(found[0], abs(np.arange(80) - before))


@given(
    st.integers(1, 700), st.integers(1, 40), dtypes, st.sampled_from([0, 1, -1, 1.9, -1.9]), seeds
)
def test_moduli_of_any_size(launch, columns, rows, dtype, size, seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** (size * np.log10(np.finfo(dtype).max) / 2)
    z = rng.standard_normal((rows, columns, 2)) * scale / 10
    z = z.astype(dtype).view(np.result_type(dtype, 1j))[..., 0]
    z.flat[:: 1 + columns // 3] = 0
    u = np.empty(z.shape, dtype)
    found = launch(f"modulus<{NAMES[dtype]}>", (z, u), u, columns, rows)
    expected = np.hypot(z.real.astype(np.longdouble), z.imag)
    limits = np.finfo(dtype)
    np.testing.assert_allclose(
        found, expected.astype(dtype), rtol=4 * limits.eps, atol=2 * limits.smallest_subnormal
    )


@pytest.mark.parametrize("dtype", NAMES)
def test_moduli_of_what_is_no_number(launch, dtype):
    nan, inf = np.nan, np.inf
    tiny = np.finfo(dtype).smallest_subnormal
    parts = [(nan, 1), (1, nan), (nan, 0), (0, nan), (inf, 1), (-1, -inf), (inf, inf), (0, 0)]
    parts += [(-0.0, 0), (tiny, 0)]
    pairs = np.array(parts, dtype)
    expected = np.array([nan, nan, nan, nan, inf, inf, inf, 0, 0, tiny], dtype)
    u = np.empty(len(parts), dtype)
    z = pairs.view(np.result_type(dtype, 1j))[:, 0]
    found = launch(f"modulus<{NAMES[dtype]}>", (z, u), u, z.size, 1)
    np.testing.assert_array_equal(found, expected)
    T = NAMES[dtype]
    for fields, kind, components in ((z, f"Complex<{T}>", 1), (pairs.T.copy(), T, 2)):
        args = (fields, *count(components, 1, 0), u)
        found = launch(f"root_of_sum<{T}, {kind}>", args, u, u.size, 1)
        np.testing.assert_array_equal(found, expected)


def noise(seed, shape, dtype, real=False):
    """Numbers of a precision, complex or real."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, *shape)).astype(dtype)
    return parts[0] if real else parts[0] + 1j * parts[1]


sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 300))


@given(sizes, st.integers(0, 9), st.booleans(), dtypes, seeds)
def test_stacking_rows_above_zeros(launch, shape, below, real, dtype, seed):
    batch, there, time = shape
    piece = noise(seed, shape, dtype, real)
    y = np.empty((there + below, batch, time), np.result_type(dtype, 1j))
    kind = f"{NAMES[dtype]}, " + (NAMES[dtype] if real else f"Complex<{NAMES[dtype]}>")
    args = (piece, *count(there, batch), y)
    found = launch(f"stack<{kind}>", args, y, time, y.size // time)
    np.testing.assert_array_equal(found[:there], piece.swapaxes(0, 1))
    assert not found[there:].any()


@given(st.data(), st.integers(1, 20), st.integers(1, 4), st.integers(1, 600), dtypes, seeds)
def test_folding_along_the_first_axis(launch, data, m, aliases, columns, dtype, seed):
    n = m * aliases
    spectra = noise(seed, (n, columns), dtype)
    bands = data.draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(1, n)), min_size=1, max_size=4)
    )
    starts, widths = np.transpose(bands)
    offsets = np.cumsum([0, *widths[:-1]])
    boxes = np.stack([0 * starts, starts, 0 * starts + 1, widths, offsets], axis=1)
    weights = noise(seed, (widths.sum(),), dtype, real=True)
    z = np.empty((m, len(bands), columns), spectra.dtype)
    args = (spectra, *count(n), boxes, weights, *count(len(bands)), z, *count(m))
    found = launch(f"fold_rows<{NAMES[dtype]}>", args, z, columns, m * len(bands))
    expected = np.zeros(z.shape, complex)
    for f, (start, width, offset) in enumerate(zip(starts, widths, offsets, strict=True)):
        for i in range(width):
            bin = (start + i) % n
            expected[bin % m, f] += weights[offset + i] * spectra[bin].astype(complex)
    np.testing.assert_allclose(found, expected, atol=20 * aliases * np.finfo(dtype).eps)


@given(sizes, st.integers(1, 12), st.data(), dtypes, seeds)
def test_moduli_of_the_rows_that_are_kept(launch, shape, m, data, dtype, seed):
    filters, batch, time = shape
    kept = data.draw(st.integers(1, m))
    z = noise(seed, (m, *shape), dtype)
    out = np.empty((batch, filters, kept, time), dtype)
    args = (z, *count(filters, batch, kept), out)
    found = launch(f"keep_rows<{NAMES[dtype]}>", args, out, time, out.size // time)
    expected = np.abs(z[:kept]).transpose(2, 1, 0, 3)
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)


@given(sizes, st.integers(1, 40), st.integers(1, 9), st.booleans(), dtypes, seeds)
def test_averages_along_rows(launch, shape, m, kept, taken, dtype, seed):
    filters, batch, time = shape
    values = noise(seed, (m, *shape), dtype, real=taken)
    matrix = noise(seed + 1, (kept, m), dtype, real=True)
    out = np.empty((batch, filters, kept, time), dtype)
    kind = f"{NAMES[dtype]}, " + (NAMES[dtype] if taken else f"Complex<{NAMES[dtype]}>")
    args = (values, *count(m, filters, batch), matrix, *count(kept), out)
    found = launch(f"average_rows<{kind}>", args, out, time, out.size // time)
    moduli = values if taken else np.abs(values.astype(complex))
    expected = np.einsum("km,mfbt->bfkt", matrix.astype(float), moduli)
    np.testing.assert_allclose(found, expected, atol=20 * m * np.finfo(dtype).eps)


@given(data=st.data(), dtype=dtypes, seed=seeds)
def test_roots_of_sums_in_any_rounds(launch, kernels, backend, data, dtype, seed):
    volumes, components, lines, columns = (
        data.draw(st.integers(1, most)) for most in (3, 7, 12, 70)
    )
    parts = data.draw(st.sampled_from([1, 2]))
    scale = data.draw(
        st.sampled_from([1.0, 1e-30, 1e30] if dtype == np.float32 else [1.0, 1e-200, 1e200])
    )
    rng = np.random.default_rng(seed)
    fields = rng.standard_normal((volumes, components, lines, columns, parts)) * scale
    fields = fields.astype(dtype)
    fields[:, :, 0, 0] = 0
    expected = np.sqrt((fields.astype(np.longdouble) ** 2).sum(axis=(1, 4)))
    fields = fields.view(np.result_type(dtype, 1j) if parts == 2 else dtype)[..., 0]
    T = NAMES[dtype]
    name = f"root_of_sum<{T}, {T if parts == 1 else f'Complex<{T}>'}>"
    u = np.empty((volumes, lines, columns), dtype)
    whole = launch(name, (fields, *count(components, lines, 0), u), u, columns, volumes * lines)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(whole, expected.astype(dtype), rtol=8 * eps)
    grid, block = backend.geometry(columns, volumes * lines)
    sizes = count(columns, volumes * lines)
    for c in range(components):
        one = np.ascontiguousarray(fields[:, c : c + 1])
        kernels.launch(name, grid, block, (one, *count(1, lines, c > 0), u, *sizes))
    np.testing.assert_allclose(u, expected.astype(dtype), rtol=16 * eps)


@given(
    st.integers(1, 40_000), st.integers(1, 3), dtypes,
    st.sampled_from([0.5, 1.0, 2.0, 0.3, 3.0]), seeds,
)  # fmt: skip
def test_sums_of_powers(launch, backend, length, rows, dtype, power, seed):
    values = np.abs(np.random.default_rng(seed).standard_normal((rows, length))).astype(dtype)
    lanes = backend._lanes(length)
    out = np.empty((rows, lanes))
    args = (values, np.int64(length), np.float64(power), out)
    found = launch(f"sums<{NAMES[dtype]}>", args, out, lanes, rows)
    for lane in {0, lanes // 2, lanes - 1}:
        expected = (values[:, lane::lanes].astype(np.float64) ** power).sum(axis=1)
        np.testing.assert_allclose(found[:, lane], expected, rtol=1e-12)


@given(data=st.data(), seed=seeds)
def test_rows_beyond_the_grid_are_not_forgotten(backend, kernels, data, seed):
    columns, rows = data.draw(st.tuples(st.integers(1, 600), st.integers(1, 300)))
    z = np.random.default_rng(seed).standard_normal((rows, columns)) + 0j
    u = np.full(z.shape, np.nan)
    (_, down), block = backend.geometry(columns, rows)
    few = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, down)))
    kernels.launch("modulus<double>", few, block, (z, u, *count(columns, rows)))
    np.testing.assert_allclose(u, np.abs(z), rtol=1e-15)


def test_arguments_of_another_type_are_refused(kernels):
    z, u = np.zeros(4, np.complex64), np.zeros(4, np.float32)
    size = count(4, 1)
    for args in ((z, u.astype(np.float64), *size), (u, u, *size), (z, u, 4, 1), (z, u)):
        with pytest.raises(AssertionError):
            kernels.launch("modulus<float>", (1, 1), (256, 1), args)
