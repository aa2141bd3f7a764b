"""CuPy arrays on NVIDIA GPUs: the kernels of ``kernels.cu`` around cuFFT.

Filters live on the device of one :class:`Cupy`. All work of a call is queued on the caller's
current stream. NumPy arrays come and go through pinned memory on two streams of their own, so that
one batch is copied while another is computed. Nothing is differentiated here: that is torch's.

Each number is made by one thread in a fixed order, so the kernels' results depend neither on timing
nor on what else is in the batch. What cuFFT rounds may depend on how many transforms it is given.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import cupy
import cupyx
import numpy as np
from cupy.cuda import cufft

from scatflow.backends.plain import averages
from scatflow.backends.protocol import (
    PRECISE_VOXELS,
    BandFilter,
    Grid,
    HarmonicFilter,
    Keep,
    Kept,
    Lowpass,
    Mean,
    PowerSums,
    Samples,
    Tree,
)
from scatflow.errors import BackendError

Array = Any
Run = Callable[[Tree, Array], list[Array]]
"""Transforms ``(batch, *grid)`` with so much in flight as the tree says."""

SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = ("--std=c++17",)
"""What NVRTC is told besides the device."""

NAMES = tuple(
    name.format(T=T)
    for T in ("float", "double")
    for name in (
        "reflect<{T}>",
        "fold<{T}>",
        "modulus<{T}>",
        "stack<{T}, {T}>",
        "stack<{T}, Complex<{T}>>",
        "fold_rows<{T}>",
        "keep_rows<{T}>",
        "average_rows<{T}, {T}>",
        "average_rows<{T}, Complex<{T}>>",
        "lowpass<{T}>",
        "smooth<{T}>",
        "sums<{T}>",
        "harmonics<{T}, {T}>",
        "harmonics<{T}, Complex<{T}>>",
        "stored_harmonics<{T}, {T}>",
        "stored_harmonics<{T}, Complex<{T}>>",
        "root_of_sum<{T}, {T}>",
        "root_of_sum<{T}, Complex<{T}>>",
    )
)
"""The kernels, by their names in C++."""

TYPES = {
    "float32": "float",
    "float64": "double",
    "complex64": "Complex<float>",
    "complex128": "Complex<double>",
}

TRANSFORMS = {
    ("R2C", "complex64"): cufft.CUFFT_R2C,
    ("C2R", "complex64"): cufft.CUFFT_C2R,
    ("C2C", "complex64"): cufft.CUFFT_C2C,
    ("R2C", "complex128"): cufft.CUFFT_D2Z,
    ("C2R", "complex128"): cufft.CUFFT_Z2D,
    ("C2C", "complex128"): cufft.CUFFT_Z2Z,
}
"""cuFFT's names, by the type of the spectra."""

THREADS = 256
"""Threads in a block at most."""

WARP = 32
"""Threads that go together."""

GRID_ROWS = 65535
"""Blocks that a grid may have along its second axis."""

LARGEST = 2**31
"""Columns and rows are counted in 32 bits; offsets are not."""

SUMS = 128
"""Partial sums that one thread adds up at the end; as many threads do so before."""

IN_FLIGHT = 2**26
"""Samples of moduli in flight at most: more do not keep a GPU busier."""

NUMBERS = 16
"""Numbers on the device for each sample in flight.

Two layers of products, moduli and spectra, cuFFT's room for each, and what the pool cannot reuse.
"""

SHARE = 0.5
"""Of the memory that is free when a call begins, how much its arrays may take."""

FIELDS = 2**24
"""Samples of solid harmonics' fields that are rooted together.

Larger volumes take their components in several rounds, the same on any device.
"""

VOLUMES = 4
"""Volumes in flight for each that is transformed (see ``Plan``): so many fields of it are, too."""

PLANS = 256
"""Plans that each thread and stream keeps at most."""

MEANS = 64
"""Averages over all rows that are kept at most, few numbers each."""

STREAMS = 4
"""Streams for which each thread keeps plans at most."""

PIECES, PIECE = 4, 2**22
"""Host arrays are cut into so many batches, if these have as many samples in flight, so that the
device computes one while the next is copied."""


@dataclass(frozen=True, eq=False)
class BandStage:
    """A stack of stored filters, with the decimation's mean and the FFT's 1/N inside."""

    boxes: Array
    """``(filters, 5)``: where each begins on the grid, its widths, and where its values begin."""
    weights: Array
    shape: Grid
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return int(self.boxes.nbytes + self.weights.nbytes)


@dataclass(frozen=True, eq=False)
class HarmonicStage:
    """The filters of one degree and scale, on the box that they touch."""

    filters: HarmonicFilter
    kernel: str
    weights: str
    """Type of the filters' values, in C++."""
    volume: Array
    """The grid and the box, as the kernels want them."""
    tables: tuple[Array, ...]
    """Columns and planes with their terms, or the filters bin by bin."""
    components: int

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return int(sum(table.nbytes for table in self.tables))


class _Plans:
    """cuFFT's plans of one thread and stream, which work in the same room one after the other.

    Two streams or threads must not use a plan at a time: each has its own. There is one room, as
    large as the largest plan needs: where one needs more, those of the smaller room are dropped.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._room: Any = None
        self._size = 0

    def get(self, how: tuple[Any, ...]) -> Any:
        """Return the plan with CuPy's parameters, made once; the least recently used go first."""
        if how not in self._known:
            allocate = cupy.cuda.get_allocator()
            with cupy.cuda.using_allocator(lambda size: self._shared(size, allocate)):
                made = cufft.PlanNd(*how)  # takes its room from the allocator
            self._known[how] = made
            if len(self._known) > PLANS:
                self._known.popitem(last=False)
        self._known.move_to_end(how)
        return self._known[how]

    def _shared(self, size: int, allocate: Callable[[int], Any]) -> Any:
        """Return the room, as large as it is asked for."""
        if self._room is None or size > self._size:
            self._known.clear()
            self._room = None  # first, so that the pool has it again
            self._room, self._size = allocate(size), size
        return self._room


class Cupy:
    """The verbs on one device."""

    name = "cupy"

    def __init__(self, number: int) -> None:
        self.device = cupy.cuda.Device(number)
        self._factors: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
        self._means: OrderedDict[Any, Array] = OrderedDict()  # for each length and crop
        self._local = threading.local()
        self._kernels: dict[str, Any] = {}

    def program(self, tree: Tree, shape: Grid, before: Grid, dtype: Any) -> None:
        """Return None: the cascade goes verb by verb, each a launch or two."""

    def pad(self, x: Array, before: Grid, after: Grid) -> Array:
        """Extend ``(batch, *grid)`` by whole-sample reflection, repeated where it must be."""
        if not any(before) and not any(after):
            return x
        grid = x.shape[1:]
        padded = tuple(sum(sizes) for sizes in zip(before, grid, after, strict=True))
        out = cupy.empty((x.shape[0], *padded), x.dtype)
        n0, n1 = _image(grid)
        before0, before1 = _image(before, 0)
        p0, p1 = _image(padded)
        how = (x, _count(n0), _count(n1), _count(before0), _count(before1), out, _count(p0))
        self._launch("reflect", x.dtype, how, columns=p1, rows=x.shape[0] * p0)
        return out

    def spectrum(self, u: Array, ndim: int) -> Array:
        """Return the half spectrum over the last `ndim` axes."""
        grid = u.shape[-ndim:]
        if ndim == 3 and u.dtype == np.float32 and math.prod(grid) <= PRECISE_VOXELS:
            return self._forward(u.astype(np.float64), grid).astype(np.complex64)
        return self._forward(u, grid)

    def prepare(
        self, filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[Any]
    ) -> BandStage | HarmonicStage:
        """Lay out filters on the device."""
        if not isinstance(filters, Sequence):
            return self._harmonics(filters, dtype)
        return self._bands(filters, target, dtype)

    def _bands(
        self, filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any]
    ) -> BandStage:
        """Lay out filters that are stored inside boxes."""
        shape = filters[0].shape
        rows, used = [], 0
        for band in filters:
            rows.append([*_image(band.starts, 0), *_image(band.values.shape), used])
            used += band.values.size
        values = np.concatenate([band.values.reshape(-1) for band in filters])
        weights = (values / math.prod(shape)).astype(dtype)
        boxes = self._resident(np.array(rows, np.int64))
        return BandStage(boxes, self._resident(weights), shape, tuple(target))

    def wavelet_modulus(self, u_hat: Array, stage: Any, which: slice) -> Array:
        """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
        if isinstance(stage, HarmonicStage):
            return self._harmonic_modulus(u_hat, stage)
        z = self.wavelet(u_hat, stage, which)
        u = cupy.empty(z.shape, _real(z.dtype))
        columns = z.shape[-1]
        self._launch("modulus", u.dtype, (z, u), columns, rows=z.size // columns)
        return u

    def wavelet(self, u_hat: Array, stage: BandStage, which: slice) -> Array:
        """Return ``u * psi``, complex, decimated, ``(batch, parents, filters, *grid)``."""
        boxes = stage.boxes[which]
        shape = (*u_hat.shape[:2], boxes.shape[0], *stage.target)
        z = cupy.empty(shape, u_hat.dtype)
        n0, n1 = _image(stage.shape)
        m0, m1 = _image(stage.target)
        filters = (boxes, stage.weights, _count(boxes.shape[0]))
        how = (u_hat, _count(n0), _count(n1), *filters, z, _count(m0))
        rows = math.prod(shape[:3]) * m0
        self._launch("fold", _real(z.dtype), how, columns=m1, rows=rows)
        return self._inverse(z, stage.target)

    def average(self, u: Array, how: Kept, u_hat: Array | None = None) -> Array:
        """Reduce ``(batch, paths, *grid)`` as `how` says."""
        match how:
            case Keep(crop):
                return cupy.ascontiguousarray(u[(..., *crop)])
            case Mean(crop):
                inside = cupy.ascontiguousarray(u[(..., *crop)])
                count = math.prod(inside.shape[2:])
                mean = self._sums(inside, (1.0,)) / count
                return mean.astype(u.dtype).reshape(*u.shape[:2], *(1,) * len(crop))
            case Lowpass():
                return self._lowpass(u, how, u_hat)
            case PowerSums(powers, crop):
                u = cupy.ascontiguousarray(u[(..., *crop)])
                return self._sums(u, powers).astype(u.dtype)
            case Samples():
                return self._samples(u, how, u_hat)

    def join(self, parts: Sequence[Array], order: Any) -> Array:
        """Return groups of paths ``(batch, paths, ...)`` as one, of which path i is `order[i]`."""
        return cupy.concatenate(list(parts), axis=1).take(cupy.asarray(order), axis=1)

    def split(self, y: Array, axis: int) -> list[Array]:
        """Return the entries of one axis."""
        front = (slice(None),) * (axis % y.ndim)
        return [y[(*front, i)] for i in range(y.shape[axis])]

    # --- batches ---

    def over(self, run: Run, tree: Tree, signals: Any, each: int) -> list[Any]:
        """Transform ``(batch, *grid)``, on the device or the host, as many at a time as fit.

        `each` is how many samples one signal has in flight. The results are where `signals` are.
        """
        _same_process()
        with self.device:
            if isinstance(signals, np.ndarray):
                tree, at_once = self._cut(tree, signals.dtype, each)
                fill = max(PIECE // each, -(-len(signals) // PIECES), 1)
                return _streamed(run, tree, signals, min(at_once, fill), self._copies())
            signals = cupy.ascontiguousarray(signals)
            if not signals.shape[0]:  # one of zeros tells the shapes
                some = cupy.zeros((1, *signals.shape[1:]), signals.dtype)
                return [y[:0] for y in run(tree, some)]
            return self._in_parts(run, tree, signals, each)

    def _copies(self) -> tuple[Any, Any]:
        """Return the streams for the way there and back, the same for all calls of a thread.

        What the pool has had back from one stream serves no other.
        """
        known = self._local.__dict__
        if "copies" not in known:
            known["copies"] = tuple(cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        found: tuple[Any, Any] = known["copies"]
        return found

    def _in_parts(self, run: Run, tree: Tree, signals: Array, each: int) -> list[Array]:
        """Transform arrays on the device, each part written to its place in the output.

        The first part tells how large the output is; the others have what that leaves.
        """
        count = signals.shape[0]
        cut, first = self._cut(tree, signals.dtype, each)
        some = run(cut, signals[:first])
        if first >= count:
            return some
        whole = [cupy.empty((count, *y.shape[1:]), y.dtype) for y in some]
        _put(some, whole, 0)
        cut, at_once = self._cut(tree, signals.dtype, each)
        for begin in range(first, count, at_once):
            _put(run(cut, signals[begin : begin + at_once]), whole, begin)
        return whole

    def _cut(self, tree: Tree, dtype: np.dtype[Any], each: int) -> tuple[Tree, int]:
        """Return the tree for the memory that is free, and how many signals there is room for.

        Powers of two: cuFFT's plans, which are of so many transforms, serve the next call, too.
        """
        elements = self._in_flight(dtype)
        return replace(tree, elements=_rounded(elements)), _rounded(elements // each)

    def _in_flight(self, dtype: np.dtype[Any]) -> int:
        """Return how many samples the free memory has room for, what the pool keeps included."""
        free, _ = self.device.mem_info
        pool = cupy.get_default_memory_pool()
        free += pool.free_bytes()
        if pool.get_limit():
            free = min(free, pool.get_limit() - pool.used_bytes())
        return max(1, min(IN_FLIGHT, int(SHARE * free) // (NUMBERS * dtype.itemsize)))

    # --- averages ---

    def _lowpass(self, u: Array, how: Lowpass, u_hat: Array | None) -> Array:
        ndim = len(how.target)
        grid = u.shape[-ndim:]
        half = self.spectrum(u, ndim) if u_hat is None else u_hat
        n0, n1 = _image(grid)
        m0, m1 = _image(how.target)
        factors = self._filter(how, _image(grid), u.dtype)
        reaches = [(factor, _count(factor.size - 1)) for factor in factors]
        columns, fields = m1 // 2 + 1, math.prod(u.shape[:2])
        out = cupy.empty((*u.shape[:2], *how.target[:-1], columns), half.dtype)
        spectra = (half, _count(n0), _count(n1), *itertools.chain(*reaches))
        self._launch(
            "lowpass", u.dtype, (*spectra, out, _count(m0), _count(m1)), columns, fields * m0
        )
        kept = self._inverse_real(out, how.target)
        return cupy.ascontiguousarray(kept[(..., *how.crop)])

    def _filter(self, how: Lowpass | Samples, grid: Grid, dtype: np.dtype[Any]) -> list[Array]:
        """Return a separable filter on the device, with the FFT's 1/N inside, laid out once."""
        known = self._factors.setdefault(how, {})
        if (grid, dtype) not in known:
            first, *rest = how.factors
            factors = [first / math.prod(grid), *rest]
            if len(factors) == 1:
                factors = [np.ones(1), *factors]
            known[grid, dtype] = [self._resident(factor.astype(dtype)) for factor in factors]
        found: list[Array] = known[grid, dtype]
        return found

    def _samples(self, u: Array, how: Samples, u_hat: Array | None) -> Array:
        """Convolve with a Gaussian and keep a decimated map or some points."""
        nz, ny, nx = grid = u.shape[-3:]
        half = self.spectrum(u, 3) if u_hat is None else u_hat
        z, y, x = self._filter(how, grid, u.dtype)
        out = cupy.empty(half.shape, half.dtype)
        rows = math.prod(u.shape[:2]) * nz * ny
        args = (half, z, y, x, out, _count(nz), _count(ny))
        self._launch("smooth", u.dtype, args, columns=nx // 2 + 1, rows=rows)
        field = self._inverse_real(out, grid)
        if isinstance(how.where, tuple):
            steps = tuple(slice(None, None, step) for step in how.where)
            return cupy.ascontiguousarray(field[(..., *steps)])
        points = cupy.asarray(np.ravel_multi_index(how.where.T, grid))
        return field.reshape(*u.shape[:2], -1).take(points, axis=2)

    def _sums(self, u: Array, powers: tuple[float, ...]) -> Array:
        """Return the sums of powers of each path, ``(batch, paths, powers)``, in float64."""
        length, rows = math.prod(u.shape[2:]), math.prod(u.shape[:2])
        lanes = _lanes(length)
        totals = cupy.empty((len(powers), rows, lanes), np.float64)
        for i, power in enumerate(powers):
            args = (u, np.int64(length), np.float64(power), totals[i])
            self._launch("sums", u.dtype, args, columns=lanes, rows=rows)
        while lanes > 1:
            length, lanes = lanes, _lanes(lanes)
            finer, totals = totals, cupy.empty((len(powers), rows, lanes), np.float64)
            args = (finer, np.int64(length), np.float64(1.0), totals)
            self._launch("sums", totals.dtype, args, columns=lanes, rows=len(powers) * rows)
        return cupy.ascontiguousarray(totals[:, :, 0].T).reshape(*u.shape[:2], len(powers))

    # --- filters along log-frequency ---

    def prepare_joint(
        self, filters: Sequence[BandFilter], target: int, dtype: np.dtype[Any]
    ) -> BandStage:
        """Lay out filters along log-frequency on the device."""
        return self._bands(filters, (target,), dtype)

    def joint_modulus(self, rows: Sequence[Array], stage: BandStage, how: Kept) -> Array:
        """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
        y = self._stacked(rows, stage.shape[0])
        _, batch, time = y.shape
        self._along_rows(y, cufft.CUFFT_FORWARD)
        filters, (target,) = stage.boxes.shape[0], stage.target
        z = cupy.empty((target, filters, batch, time), y.dtype)
        which = (stage.boxes, stage.weights, _count(filters))
        args = (y, _count(stage.shape[0]), *which, z, _count(target))
        self._launch("fold_rows", _real(z.dtype), args, batch * time, target * filters)
        self._along_rows(z, cufft.CUFFT_INVERSE)
        return self._kept_rows(z, how)

    def _stacked(self, pieces: Sequence[Array], n: int) -> Array:
        """Return pieces ``(batch, rows, time)`` with zeros below, complex, ``(n, batch, time)``."""
        pieces = [cupy.ascontiguousarray(piece) for piece in pieces if piece.shape[1]]
        batch, _, time = pieces[0].shape
        real = pieces[0].dtype if pieces[0].dtype.kind == "f" else _real(pieces[0].dtype)
        y = cupy.empty((n, batch, time), np.result_type(real, 1j))
        first = 0
        for piece in pieces:
            there = piece.shape[1]
            rows = n - first if piece is pieces[-1] else there
            args = (piece, _count(there), _count(batch), y[first:])
            self._launch("stack", real, args, time, rows * batch, TYPES[piece.dtype.name])
            first += there
        return y

    def _kept_rows(self, z: Array, how: Kept) -> Array:
        """Take moduli of ``(rows, filters, batch, time)`` and reduce them as `how` says.

        They are taken on the way where each is wanted once.
        """
        target, filters, batch, time = z.shape
        real = _real(z.dtype)
        sizes = (_count(filters), _count(batch))
        if isinstance(how, Keep):
            inside = range(*how.crop[0].indices(target))
            kept, values = len(inside), z[inside.start :]
            out = cupy.empty((batch, filters, kept, time), real)
            given = (values, *sizes, _count(kept), out)
            self._launch("keep_rows", real, given, time, rows=batch * filters * kept)
            return out
        matrix, values = self._matrix(how, target, real), z
        kept = matrix.shape[0]
        if kept > 1:
            values = cupy.empty(z.shape, real)
            self._launch("modulus", real, (z, values), z.size // target, rows=target)
        out = cupy.empty((batch, filters, kept, time), real)
        args = (values, _count(target), *sizes, matrix, _count(kept), out)
        kind = TYPES[values.dtype.name]
        self._launch("average_rows", real, args, time, batch * filters * kept, kind)
        return out

    def _matrix(self, how: Kept, n: int, dtype: np.dtype[Any]) -> Array:
        """Return the average of n rows on the device, ``(kept, n)``, laid out once."""
        key: tuple[Any, ...] = (n, dtype)
        known: dict[Any, Array] = self._means
        if isinstance(how, Mean):  # told by its crop; the other by itself, which its plan holds
            key = (*key, *how.crop[0].indices(n))
        else:
            known = self._factors.setdefault(how, {})
        found = known.get(key)
        if found is None:
            found = known[key] = self._resident(averages(how, n).astype(dtype))
        while len(self._means) > MEANS:
            self._means.popitem(last=False)
        return found

    # --- solid harmonics ---

    def _harmonics(self, filters: HarmonicFilter, dtype: np.dtype[Any]) -> HarmonicStage:
        """Lay out filters as sums of columns times planes, those with published rounding whole."""
        tables: tuple[np.ndarray[Any, Any], ...]
        if filters.published:
            whole = np.stack([c / math.prod(filters.shape) for c in filters.components(dtype)])
            box = whole.shape[1:]
            kernel, tables, weights = "stored_harmonics", (whole,), whole
            components = len(whole)
        else:
            tables = _terms(filters, dtype)
            box = (tables[0].shape[1], *tables[1].shape[1:])
            kernel, weights, components = "harmonics", tables[1], tables[2].size - 1
        low_x = box[2] if filters.real else (box[2] + 1) // 2
        volume = self._resident(np.array([*filters.shape, *box, low_x], np.int64))
        resident = tuple(self._resident(table) for table in tables)
        kind = TYPES[weights.dtype.name]
        return HarmonicStage(filters, kernel, kind, volume, resident, components)

    def _harmonic_modulus(self, u_hat: Array, stage: HarmonicStage) -> Array:
        """Return the root of the sum over m of ``|u * psi|^2``, one filter to each parent."""
        shape = stage.filters.shape
        spectra = u_hat.reshape(-1, *u_hat.shape[2:])
        moduli = cupy.empty((spectra.shape[0], *shape), _real(u_hat.dtype))
        fields = max(1, FIELDS // math.prod(shape))
        components = min(stage.components, fields)
        volumes = max(1, min(fields, VOLUMES * spectra.shape[0]) // stage.components)
        for first in range(0, spectra.shape[0], volumes):
            some = slice(first, first + volumes)
            for begin in range(0, stage.components, components):
                count = min(components, stage.components - begin)
                self._add_components(spectra[some], stage, begin, count, moduli[some])
        return moduli.reshape(*u_hat.shape[:2], 1, *shape)

    def _add_components(
        self, spectra: Array, stage: HarmonicStage, begin: int, count: int, moduli: Array
    ) -> None:
        """Take some components and those before into the root of the sum of squares."""
        filters = stage.filters
        nz, ny, nx = filters.shape
        columns = nx // 2 + 1 if filters.real else nx
        z = cupy.empty((spectra.shape[0], count, nz, ny, columns), spectra.dtype)
        turns = filters.l if filters.real else 0
        which = (_count(begin), _count(count), _count(turns))
        args = (spectra, stage.volume, *stage.tables, *which, z)
        rows = math.prod(z.shape[:4])
        self._launch(stage.kernel, moduli.dtype, args, columns, rows, stage.weights)
        invert = self._inverse_real if filters.real else self._inverse
        fields = invert(z, filters.shape)
        how = (fields, _count(count), _count(nz * ny), _count(begin > 0), moduli)
        rows, kind = moduli.shape[0] * nz * ny, TYPES[fields.dtype.name]
        self._launch("root_of_sum", moduli.dtype, how, nx, rows, kind)

    # --- Fourier transforms ---

    def _forward(self, u: Array, grid: Grid) -> Array:
        """Return half spectra over the last axes."""
        half = (*grid[:-1], grid[-1] // 2 + 1)
        out = cupy.empty((*u.shape[: -len(grid)], *half), np.result_type(u.dtype, 1j))
        if u.data.ptr % out.dtype.itemsize:  # cuFFT reads real numbers in pairs
            u = u.copy()
        self._plan("R2C", out.dtype, grid, _many(u, grid)).fft(u, out, cufft.CUFFT_FORWARD)
        return out

    def _inverse(self, z: Array, grid: Grid) -> Array:
        """Invert whole spectra in place, without their 1/N."""
        self._plan("C2C", z.dtype, grid, _many(z, grid)).fft(z, z, cufft.CUFFT_INVERSE)
        return z

    def _inverse_real(self, half: Array, grid: Grid) -> Array:
        """Invert half spectra, which are lost, without their 1/N."""
        out = cupy.empty((*half.shape[: -len(grid)], *grid), _real(half.dtype))
        self._plan("C2R", half.dtype, grid, _many(out, grid)).fft(half, out, cufft.CUFFT_INVERSE)
        return out

    def _along_rows(self, z: Array, direction: int) -> None:
        """Transform the first axis in place, without 1/N; all else is side by side."""
        n, many = z.shape[0], z.size // z.shape[0]
        layout = ((n,), many, 1)  # from one row to the next, and from one transform
        self._plan("C2C", z.dtype, (n,), many, layout).fft(z, z, direction)

    def _plan(
        self,
        kind: str,
        dtype: np.dtype[Any],
        grid: Grid,
        many: int,
        layout: tuple[Grid | None, int, int] = (None, 1, 0),
    ) -> Any:
        """Return a plan of cuFFT's for the current stream; by default transforms follow another."""
        streams = self._local.__dict__.setdefault("plans", OrderedDict())
        stream = cupy.cuda.get_current_stream().ptr
        plans = streams.setdefault(stream, _Plans())
        streams.move_to_end(stream)
        if len(streams) > STREAMS:
            streams.popitem(last=False)
        return plans.get((grid, *layout, *layout, TRANSFORMS[kind, dtype.name], many, "C", 0, None))

    # --- kernels ---

    def _launch(
        self,
        name: str,
        dtype: np.dtype[Any],
        args: tuple[Any, ...],
        columns: int,
        rows: int,
        weights: str = "",
    ) -> None:
        """Queue a kernel on the current stream."""
        if max(columns, rows) >= LARGEST:
            raise BackendError(
                f"An array has {rows} rows of {columns}, and the kernels count to {LARGEST}: "
                "transform parts of it, or take backend='numpy'."
            )
        types = TYPES[np.dtype(dtype).name] + (f", {weights}" if weights else "")
        full = f"{name}<{types}>"
        if full not in self._kernels:
            self._kernels[full] = self._module.get_function(full)
        self._kernels[full](*geometry(columns, rows), (*args, _count(columns), _count(rows)))

    @cached_property
    def _module(self) -> Any:
        """The compiled kernels; CuPy keeps what NVRTC made of them on disk, for each device."""
        return cupy.RawModule(
            code=SOURCE.read_text("utf-8"), options=OPTIONS, name_expressions=NAMES
        )

    def _resident(self, array: Any) -> Array:
        """Return a host array on the device, where any stream may use it from now on.

        Past the pool, which would hand the memory on when a plan is forgotten, with other streams'
        kernels still to read it: CUDA's own free waits for these.
        """
        array = np.ascontiguousarray(array)
        with self.device:
            if array.nbytes > self.device.mem_info[0]:  # the pool has it
                cupy.get_default_memory_pool().free_all_blocks()
            with cupy.cuda.using_allocator(None):
                found = cupy.asarray(array)
            cupy.cuda.get_current_stream().synchronize()
        return found


def geometry(columns: int, rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the grid and the block of a launch, see the head of ``kernels.cu``.

    Examples
    --------
    >>> geometry(1000, 3)
    ((4, 3), (256, 1))
    >>> geometry(20, 100)  # a block has eight rows of 32 threads
    ((1, 13), (32, 8))
    >>> geometry(257, 3)  # a half spectrum leaves few threads idle
    ((2, 3), (160, 1))
    """
    across = -(-columns // THREADS)
    wide = -(-columns // across)  # for one block
    wide = -(-wide // WARP) * WARP if wide > WARP else 1 << (wide - 1).bit_length()
    deep = THREADS // wide
    return (across, min(-(-rows // deep), GRID_ROWS)), (wide, deep)


def _lanes(length: int) -> int:
    """Return how many threads add up a row of numbers."""
    return SUMS**2 if length > SUMS**2 else SUMS if length > SUMS else 1


def _image(sizes: Grid, alone: int = 1) -> tuple[int, int]:
    """Return what belongs to two axes; signals are images of one row."""
    rows, columns = (alone, *sizes)[-2:]
    return int(rows), int(columns)


def _put(parts: list[Array], whole: list[Array], first: int) -> None:
    """Write what some signals gave to its place, and let go of it."""
    for y in whole:
        part = parts.pop(0)
        y[first : first + part.shape[0]] = part


def _rounded(n: int) -> int:
    """Return the largest power of two that is at most n, or one."""
    return 1 << max(n, 1).bit_length() - 1


def _many(a: Array, grid: Grid) -> int:
    """Return how many grids there are in an array."""
    return int(a.size) // math.prod(grid)


def _count(n: int) -> np.uint32:
    """Return an argument of a kernel."""
    return np.uint32(n)


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype == np.complex64 else np.float64)


def _terms(filters: HarmonicFilter, dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Return solid harmonics as columns (z), planes (y, x), and which make up a component.

    A single harmonic of order -l is complex; all of its terms have the same power of z.
    """
    columns, components = filters.parts(half=filters.real)
    if filters.l > 0 and not filters.rotation_covariant:
        ((power, cosine),), ((_, sine),) = components
        components = [[(power, cosine - 1j * sine)]]
    powers = list(columns)
    terms = [term for component in components for term in component]
    planes = np.stack([plane for _, plane in terms])
    kind = np.result_type(dtype, 1j) if np.iscomplexobj(planes) else dtype
    profiles = np.stack([columns[a] for a in powers]) / math.prod(filters.shape)
    ends = np.cumsum([0, *map(len, components)]).astype(np.int32)
    which = np.array([powers.index(a) for a, _ in terms], np.int32)
    return profiles.astype(dtype), planes.astype(kind), ends, which


# --- from the host and back ----------------------------------------------------------------


class _Slot:
    """Room for one batch on its way there and back: pinned on the host, and on the device."""

    def __init__(self, shape: Grid, dtype: np.dtype[Any], upload: Any) -> None:
        self.pinned = cupyx.empty_pinned(shape, dtype)
        with upload:  # the pool may give memory that queued work of another stream still uses
            self.device = cupy.empty(shape, dtype)
        self.results: list[Array] = []
        """Kept until they have arrived: the pool would give their memory to the next batch."""
        self.arrived: list[np.ndarray[Any, Any]] = []
        self.first = 0

    def load(self, some: np.ndarray[Any, Any], upload: Any) -> Array:
        """Queue the way to the device; the current stream waits for it."""
        count = len(some)
        self.pinned[:count] = some
        inside = self.device[:count]
        inside.set(self.pinned[:count], stream=upload)
        cupy.cuda.get_current_stream().wait_event(upload.record())
        return inside

    def fetch(self, results: list[Array], first: int, download: Any) -> None:
        """Queue the way back of what the current stream computes."""
        self.first, self.arrived = first, []
        self.results = [cupy.ascontiguousarray(y) for y in results]
        download.wait_event(cupy.cuda.get_current_stream().record())
        for y in self.results:
            pinned = cupyx.empty_pinned(y.shape, y.dtype)
            y.get(stream=download, out=pinned, blocking=False)
            self.arrived.append(pinned)
        self.done = download.record()

    def unload(self, whole: list[np.ndarray[Any, Any]], signals: int) -> None:
        """Wait for what was queued, if anything was, and copy it to where it belongs."""
        if not self.results:
            return
        self.done.synchronize()
        if not whole:
            whole += [np.empty((signals, *y.shape[1:]), y.dtype) for y in self.arrived]
        for y, some in zip(whole, self.arrived, strict=True):
            y[self.first : self.first + len(some)] = some
        self.results, self.arrived = [], []


def _streamed(
    run: Run, tree: Tree, signals: np.ndarray[Any, Any], at_once: int, copies: tuple[Any, Any]
) -> list[np.ndarray[Any, Any]]:
    """Transform a host array: one batch is computed while its neighbours are copied."""
    if not len(signals):
        some = np.zeros((1, *signals.shape[1:]), signals.dtype)
        return [y[:0] for y in _streamed(run, tree, some, 1, copies)]
    upload, download = copies
    firsts = range(0, len(signals), at_once)
    shape = (min(at_once, len(signals)), *signals.shape[1:])
    slots = [_Slot(shape, signals.dtype, upload) for _ in firsts[:2]]
    whole: list[np.ndarray[Any, Any]] = []
    try:
        for slot, first in zip(itertools.cycle(slots), firsts, strict=False):
            slot.unload(whole, len(signals))
            some = slot.load(signals[first : first + at_once], upload)
            slot.fetch(run(tree, some), first, download)
        for slot in slots:
            slot.unload(whole, len(signals))
    finally:  # pinned memory is given back, so nothing may be on its way any more
        upload.synchronize()
        download.synchronize()
    return whole


# --- devices and arrays --------------------------------------------------------------------

_PROCESS: list[int] = []
"""The process that holds the CUDA context, once there is one."""


def _same_process() -> None:
    """Say so if CUDA was initialised by the process that this one was forked from."""
    if _PROCESS and _PROCESS[0] != os.getpid():
        raise BackendError(
            f"This process was forked from process {_PROCESS[0]} after that had used CUDA, whose "
            "context does not survive a fork. Start processes with 'spawn' "
            "(multiprocessing.set_start_method('spawn'); Dask's workers are spawned unless "
            "distributed.worker.multiprocessing-method says otherwise), or use the GPU in one of "
            "them only."
        )


def device(place: Any = None) -> int:
    """Return the number of a device, by default the current one, or say that it is not there."""
    _same_process()
    name = "cuda" if place is None else str(getattr(place, "id", place))
    number = name.removeprefix("cuda").removeprefix(":")
    if name != "cuda" and not number.isdecimal():
        raise BackendError(
            f"backend='cupy' computes on NVIDIA GPUs ('cuda', 'cuda:1' or a number), not on "
            f"{place!r}. For the CPU, leave backend out or take backend='numpy'."
        )
    try:
        there = cupy.cuda.runtime.getDeviceCount()
        current = cupy.cuda.runtime.getDevice() if there else 0
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(_no_gpu(str(error))) from error
    if not there:
        raise BackendError(_no_gpu("it counts no devices"))
    if name == "cuda":
        return int(current)
    if int(number) >= there:
        raise BackendError(
            f"There is no cuda:{number}: CUDA sees {there} device(s), numbered from 0. Take one of "
            "these, or check CUDA_VISIBLE_DEVICES."
        )
    return int(number)


def _no_gpu(why: str) -> str:
    return (
        f"backend='cupy' computes on NVIDIA GPUs, and CUDA finds none here ({why}). Check that "
        "nvidia-smi lists one, that the driver is as new as CuPy's CUDA (cuda12 or cuda13), that "
        "a container was started with its GPUs, and CUDA_VISIBLE_DEVICES. For the CPU, leave "
        "backend out or take backend='numpy'."
    )


def on(place: Any = None) -> Cupy:
    """Return the verbs on a device, by default the current one."""
    found = _on(device(place))
    _PROCESS[:] = [os.getpid()]
    return found


@lru_cache(maxsize=32)
def _on(number: int) -> Cupy:
    return Cupy(number)


def array(x: Any) -> Array:
    """Return whatever has ``__cuda_array_interface__`` as an array, without a copy."""
    _same_process()
    return x if isinstance(x, cupy.ndarray) else cupy.asarray(x)


def from_dlpack(x: Any) -> Array:
    """Return an array of another library, in the memory that it has."""
    _same_process()
    return cupy.from_dlpack(x)


def converted(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array of some type, without a copy if it is one."""
    with x.device:
        return x.astype(dtype, copy=False)


def device_of(x: Array) -> int:
    """Return the number of an array's device."""
    return int(x.device.id)


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return an array as NumPy's."""
    _same_process()
    with x.device:
        host: np.ndarray[Any, Any] = cupy.ascontiguousarray(x).get()
        return host


def from_host(values: np.ndarray[Any, Any], like: Array) -> Array:
    """Return NumPy's values as an array on the device of another."""
    _same_process()
    with like.device:
        return cupy.asarray(values)


def finite(x: Array) -> bool:
    """Return whether all samples of an array are finite."""
    with x.device:
        return bool(cupy.isfinite(x).all())


def describe() -> str:
    """Say which CuPy there is, and which devices it sees."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy {cupy.__version__}, no GPU: {error}"
    names = []
    for number in range(count):
        told = cupy.cuda.runtime.getDeviceProperties(number)
        names.append(
            f"{number}: {told['name'].decode()}, sm_{told['major']}{told['minor']}, "
            f"{told['totalGlobalMem'] / 2**30:.1f} GiB"
        )
    return f"CuPy {cupy.__version__}, {'; '.join(names) or 'no GPU'}"
