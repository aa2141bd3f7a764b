"""What a spec means for signals of one shape: everything known before any arithmetic."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from scatflow.backends.choose import HOST
from scatflow.backends.protocol import (
    Backend,
    Grid,
    Joining,
    Kept,
    Layer,
    Lowpass,
    PowerSums,
    Program,
    Recording,
    Rows,
    Samples,
    Tree,
)
from scatflow.engines.cascade import Again, Emit, reshape, scatter, slices
from scatflow.engines.paths import PathTable
from scatflow.errors import InputTypeError, ParameterError

Boundary = Literal["reflect", "periodic"]
Tail = Literal["decimated", "power", "point", "ragged"]

ONE_PASS = (0.5, 1.0, 2.0)
"""Powers that are summed without an array of their own."""


@dataclass(frozen=True)
class CanonicalGrid:
    """How an endless record is cut so that the cut cannot be seen: fixed blocks from sample 0.

    All lengths in samples, the same along each axis of an image or a volume. Along one axis, block
    b gives the windows centred on ``[b block, (b + 1) block)`` and is computed periodically from
    ``[b block - halo, (b + 1) block + halo)``.
    """

    block: int
    halo: int
    stride: int
    unit: int
    """Blocks and halos are multiples of it: the largest decimation inside the transform."""
    least: int
    """Samples that one block is computed from at least, its halos included."""
    tolerance: float
    """Height of the filters' joint envelope at the edge of the halo, relative to its peak."""
    reach: float
    """Where the joint envelope of the filters, measured in space, has fallen to the tolerance."""
    seen: float = 0.0
    """Height, relative to its peak, at which a filter is cut off at the Nyquist frequency. The cut
    rings on beyond any halo, for what a record holds of that frequency."""

    @property
    def length(self) -> int:
        """Samples that one block is computed from, its halos included."""
        return self.block + 2 * self.halo

    def cut(self, tile: int, ndim: int) -> CanonicalGrid:
        """Return the grid with blocks of `tile` samples a side, their halos as long as FFTs like.

        Raises
        ------
        ValueError
            Blocks cannot be so long, would be computed mostly in vain, or would have much longer
            halos.
        """
        unit = self.unit
        shortest = 2 * self.halo / (MOST_WORK ** (1 / ndim) - 1)
        first = math.ceil(max(shortest, self.least - 2 * self.halo, 1) / unit)
        if tile % unit or not first * unit <= tile <= self.block:
            raise ParameterError(
                f"tile={tile} is not a multiple of {unit} samples, the largest decimation in the "
                f"transform, from {first * unit} (below, each sample is computed more than "
                f"{MOST_WORK} times) to {self.block} (what is taken, in this precision, where no "
                "tile is given). Take such a multiple, or leave it out."
            )
        halo = self._halo(tile)
        if halo is None:
            # The length that is taken where no tile is given is among them.
            around = (tile + side * n for n in range(unit, self.block, unit) for side in (-1, 1))
            allowed = (n for n in around if first * unit <= n <= self.block)
            near = next(n for n in allowed if self._halo(n) is not None)
            raise ParameterError(
                f"tile={tile} and its halos are no length that FFTs like, and the next one has "
                f"much more halo, which gaps would take with them. Take tile={near}."
            )
        return replace(self, block=tile, halo=halo)

    def _halo(self, tile: int) -> int | None:
        """Return the shortest halo with which a tile is as long as FFTs like, if there is one."""
        n, least = tile // self.unit, self.halo // self.unit
        for halo in range(least, least + least // 4 + 3):
            if _smooth(n + 2 * halo):
                return halo * self.unit
        return None


MOST_WORK = 64
"""Times that each sample may be computed for the sake of small tiles."""


def _smooth(n: int) -> bool:
    """Tell whether a number has no prime factor above 13."""
    for prime in (2, 3, 5, 7, 11, 13):
        while n % prime == 0:
            n //= prime
    return n == 1


@dataclass(frozen=True, eq=False)
class Plan:
    """A transform of signals of one shape, dtype and boundary, ready to be applied.

    Plans hold no mutable state: threads may share one.
    """

    backend: Backend
    dtype: np.dtype[np.floating]
    shape: Grid
    """One signal."""
    padded: Grid
    before: Grid
    """Samples padded in front, along each axis."""
    tree: Tree
    paths: PathTable
    output_shape: Grid
    """One signal's coefficients in the engine's own layout (empty for ragged output)."""
    labelled_shape: Grid
    """The same with a single path axis in front."""
    tail: Tail
    """What the axes after the path axis are."""
    windows: tuple[tuple[int, int], ...]
    """For each decimated axis: window k is centred on sample ``start + k step``."""
    threads: int = 1
    """Threads that one call may keep busy."""

    recompute: bool = False
    """Whether moduli are computed again for derivatives instead of being kept."""

    program: Program | None = None
    """The transform as one call, where the backend has one."""

    delegate: Plan | None = None
    """The same transform on another backend, which computes NumPy's arrays instead of this one."""

    def compiled(self) -> Plan:
        """Return the plan as its backend wants to run it."""
        program = self.backend.program(self.tree, self.shape, self.before, self.dtype)
        return replace(self, program=program)

    def scatter(self, tree: Tree, x: Any, emit: Emit, each: Callable[..., Any] = map) -> None:
        """Take padded signals ``(batch, *grid)`` down the tree and emit their paths."""
        scatter(self.backend, tree, x, emit, each, self.again)

    @property
    def again(self) -> Again | None:
        """What computes moduli again for derivatives, if anything should."""
        return cast(Recording, self.backend).again if self.recompute else None

    def on(self, threads: int) -> Plan:
        """Return the plan for calls that keep so many threads busy."""
        return self if threads == self.threads else replace(self, threads=threads)

    def summing(self, crop: tuple[slice, ...]) -> Plan:
        """Return the plan that sums powers over a part of each volume only."""
        other = None if self.delegate is None else self.delegate.summing(crop)
        changed = self._keeping(lambda kept: replace(kept, crop=crop))
        return replace(changed, delegate=other)

    def at(self, points: NDArray[np.intp]) -> Plan:
        """Return the plan that gives values at other points, ``(points, 3)``."""
        shape = (*self.labelled_shape[:-1], len(points))
        other = replace(self, output_shape=(*self.output_shape[:-1], len(points)))
        delegate = None if self.delegate is None else self.delegate.at(points)
        other = replace(other, labelled_shape=shape, delegate=delegate)
        return other._keeping(lambda kept: replace(kept, where=points))

    def _keeping(self, change: Callable[[Any], Any]) -> Plan:
        """Return the plan with the same filters that keeps something else of each modulus."""

        def changed(layer: Layer) -> Layer:
            children = tuple(changed(child) for child in layer.children)
            return replace(layer, average=change(layer.average), children=children)

        layers = tuple(changed(layer) for layer in self.tree.layers)
        return replace(self, tree=replace(self.tree, layers=layers))

    @property
    def signals_at_once(self) -> int:
        """Signals that are taken through the cascade together."""
        return max(1, self.tree.elements // (4 * math.prod(self.padded)))

    def apply(self, x: Any) -> Any:
        """Transform real signals.

        Parameters
        ----------
        x : ndarray, Tensor, cupy.ndarray or array of the array API standard
            ``(..., *shape)``, of the plan's dtype and backend, or NumPy's for CuPy.

        Returns
        -------
        ndarray, Tensor, cupy.ndarray or array
            ``(..., *output_shape)``, of the same dtype.
        """
        if self.tail == "ragged":
            raise ParameterError(
                "Without averaging (T=0) each path has its own number of samples, which no one "
                "array holds: use apply_ragged."
            )
        if self.delegate is not None:
            return self.delegate.apply(x)
        batch = x.shape[: x.ndim - len(self.shape)]
        signals = reshape(x, (math.prod(batch), *self.shape))
        if self._elsewhere:
            (y,) = self._over(self._joined, signals)
            return reshape(y, (*batch, *self.output_shape))
        self._check_precision(x)
        out = np.empty((signals.shape[0], *self.labelled_shape), self.dtype)
        exponents = _exponents(signals)
        self._apply(signals, exponents, out)
        if exponents.any():
            self._rescale(out, exponents)
        return out.reshape(*batch, *self.output_shape)

    @property
    def _elsewhere(self) -> bool:
        """Whether the backend computes elsewhere than NumPy, with arrays of its own."""
        return self.backend.name not in HOST

    @property
    def samples_in_flight(self) -> int:
        """Samples that one signal has in flight on a device.

        As :attr:`signals_at_once` has it, or those of its coefficients.
        """
        layers = list(self.tree.layers)
        layers += [child for layer in layers for child in layer.children]
        ragged = sum(layer.rows.size * math.prod(layer.grid) for layer in layers)
        kept = ragged if self.tail == "ragged" else math.prod(self.labelled_shape)
        return max(4 * math.prod(self.padded), kept)

    def _over(self, run: Callable[[Tree, Any], list[Any]], signals: Any) -> list[Any]:
        """Transform ``(batch, *shape)`` elsewhere, as many at a time as the backend says."""
        backend = cast(Joining, self.backend)
        return backend.over(run, self.tree, signals, self.samples_in_flight)

    def _joined(self, tree: Tree, signals: Any) -> list[Any]:
        """Return the coefficients of all paths as one array."""
        order, parts = self._parts(tree, signals)
        return [cast(Joining, self.backend).join(parts, order)]

    def _apart(self, tree: Tree, signals: Any) -> list[Any]:
        """Return the coefficients of each path."""
        order, parts = self._parts(tree, signals)
        found = [path for part in parts for path in cast(Joining, self.backend).split(part, 1)]
        return [found[i] for i in order]

    def _parts(self, tree: Tree, signals: Any) -> tuple[NDArray[np.intp], list[Any]]:
        """Return groups of paths ``(batch, paths, ...)``, and where each path is among them."""
        rows: list[Rows] = []
        parts: list[Any] = []

        def emit(which: Rows, values: Any) -> None:
            rows.append(which)
            parts.append(values)

        after = self._after()
        self.scatter(tree, self.backend.pad(signals, self.before, after), emit)
        return np.argsort(np.concatenate(rows)), parts

    def window_shares(self, valid: NDArray[np.bool_]) -> NDArray[Any]:
        """Return how much of each averaging window's weight lies on some samples of a signal.

        Parameters
        ----------
        valid : ndarray of bool
            One signal's samples, of the plan's shape.

        Returns
        -------
        ndarray
            The low-pass of `valid`, from 0 to 1: one number a window, ``(*windows)``, or one for
            each path and point where the width of a window depends on the path.
        """
        x = self.backend.pad(valid.astype(self.dtype)[None], self.before, self._after())
        u, u_hat = x[None], None
        if len(self.shape) == 3:
            u_hat = self.backend.spectrum(u, 3)

        def share(how: Kept) -> NDArray[Any]:
            found = np.asarray(self.backend.average(u, how, u_hat))[0, 0] / _gain(how)
            return np.asarray(np.clip(found, 0.0, 1.0))

        if self.tail != "point":
            # Wavelets of the largest frequencies are not decimated, so neither is their window.
            return share(self.tree.average or self.tree.layers[0].average)
        widths: dict[bytes, NDArray[Any]] = {}
        shares = np.empty(self.labelled_shape, self.dtype)
        first = self.tree.layers
        for layer in (*first, *(child for parent in first for child in parent.children)):
            how = cast(Samples, layer.average)
            key = b"".join(factor.tobytes() for factor in how.factors)
            if key not in widths:
                widths[key] = share(how)
            shares[layer.rows.reshape(-1)] = widths[key]
        return shares

    def _after(self) -> Grid:
        """Return the samples padded behind, along each axis."""
        sizes = zip(self.padded, self.shape, self.before, strict=True)
        return tuple(p - n - b for p, n, b in sizes)

    def _check_precision(self, x: NDArray[Any]) -> None:
        if x.dtype != self.dtype:
            raise InputTypeError(
                f"This plan transforms {self.dtype}, but the input has dtype {x.dtype}. Convert "
                "it, or call the engine, which has a plan for each precision."
            )

    def _apply(self, signals: NDArray[Any], exponents: NDArray[np.intc], out: NDArray[Any]) -> None:
        """Transform ``(batch, *shape)`` over two to the power of `exponents`."""
        if self.program is not None:
            step = self.program.at_once * self.threads if exponents.any() else len(signals)
            for first in range(0, len(signals), max(step, 1)):
                which = slice(first, first + step)
                self.program(_scaled(signals[which], -exponents[which]), out[which], self.threads)
            return

        def emit(first: int, rows: Rows, values: NDArray[Any]) -> None:
            out[first : first + values.shape[0], rows] = values

        self._walk(signals, exponents, emit, self.threads)

    def _rescale(self, out: NDArray[Any], exponents: NDArray[np.intc]) -> None:
        """Multiply coefficients by two to the power of their signals' exponents, in place."""
        kept = self.tree.layers[0].average
        shape = (len(out), *[1] * (out.ndim - 1))
        with np.errstate(over="ignore"):  # infinite is what some powers are in this precision
            if isinstance(kept, PowerSums):
                degrees = np.multiply.outer(exponents.astype(np.float64), kept.powers)
                whole = np.floor(degrees)
                shape = (*shape[:-1], len(kept.powers))
                out *= np.exp2(degrees - whole).reshape(shape).astype(self.dtype)
                exponents = whole.astype(np.intc)
            np.ldexp(out, exponents.reshape(shape), out=out)

    def split(self, y: Any) -> list[Any]:
        """Return the coefficients of each path, ``(..., *windows)``."""
        axis = -1 - len(self.windows)
        if isinstance(y, np.ndarray):
            return list(np.moveaxis(y, axis, 0))
        return cast(Joining, self.backend).split(y, axis)

    def apply_ragged(self, x: Any) -> list[Any]:
        """Transform real signals and return one array ``(..., *n_path)`` per path."""
        if self.program is not None:
            raise ParameterError(
                "The paths of this plan have all as many samples and are computed in one call: use "
                "apply, and split to take them apart."
            )
        batch = x.shape[: x.ndim - len(self.shape)]
        signals = reshape(x, (math.prod(batch), *self.shape))
        if self._elsewhere:
            return [reshape(y, (*batch, *y.shape[1:])) for y in self._over(self._apart, signals)]
        self._check_precision(x)
        paths: dict[int, NDArray[Any]] = {}

        def emit(first: int, rows: Rows, values: NDArray[Any]) -> None:
            for i, row in enumerate(rows.tolist()):
                if row not in paths:
                    paths[row] = np.empty((signals.shape[0], *values.shape[2:]), self.dtype)
                some = paths[row][first : first + values.shape[0]]
                some[...] = values[: some.shape[0], i]

        # Without any signal, one of zeros tells the lengths.
        some = signals if signals.size else np.zeros((1, *self.shape), self.dtype)
        exponents = _exponents(some)
        self._walk(some, exponents, emit, threads=1)
        if exponents.any():
            for path in paths.values():
                self._rescale(path, exponents[: len(path)])
        return [paths[row].reshape(*batch, *paths[row].shape[1:]) for row in range(len(paths))]

    def _walk(
        self,
        signals: NDArray[Any],
        exponents: NDArray[np.intc],
        emit: Callable[[int, Rows, NDArray[Any]], None],
        threads: int,
    ) -> None:
        """Take a few signals at a time, over two to the power of `exponents`, down the cascade.

        Threads have each their own, but for the last ones, whose first-order paths they share.
        """
        after = self._after()

        def take(first: int, each: Callable[..., Any] = map) -> None:
            which = slice(first, first + self.signals_at_once)
            some = _scaled(signals[which], -exponents[which])
            padded = self.backend.pad(some, self.before, after)
            self.scatter(self.tree, padded, partial(emit, first), each)

        firsts = range(0, signals.shape[0], self.signals_at_once)
        if threads == 1:
            for first in firsts:
                take(first)
        else:
            shared = len(firsts) % threads
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(take, firsts[: len(firsts) - shared]))
                for first in firsts[len(firsts) - shared :]:
                    take(first, pool.map)

    @property
    def build_bytes(self) -> int:
        """Bytes that making the plan takes at its peak, besides those it holds.

        A wide filter is evaluated on the whole grid, in float64 and complex, and the filters of
        all signals' moduli, or of one layer of images, are there in float64 before they are laid
        out: measured, up to 131 bytes a sample of signals, and of images up to 150 and two numbers
        for each filter of a layer. Solid harmonics take none.
        """
        if len(self.shape) == 3:
            return 0
        if len(self.shape) == 1:
            return 144 * math.prod(self.padded)
        most = max(int(layer.rows.shape[1]) for layer in self.tree.layers)
        return math.prod(self.padded) * (160 + 2 * self.dtype.itemsize * most)

    @property
    def held_bytes(self) -> int:
        """Bytes of the filters, which stay while the plan is cached."""
        if self.program is not None:
            return self.program.held_bytes
        stages = {id(stage): stage for layer in self.tree.layers for stage in layer.stages()}
        return sum(stage.nbytes for stage in stages.values())

    def peak_bytes(self, batch: int = 1) -> int:
        """Return the bytes of working memory in flight for `batch` signals.

        Neither the output nor the filters (:attr:`held_bytes`) are counted. What it grows with is
        the signals in flight as they are padded, V bytes, never the batch:

        - Signals in one compiled call (:attr:`program`) are in flight one a thread, in at most 8 V
          and 16 KiB, of which MKL has 2 V in buffers of its own; 10 V with a window at every
          sample. Without MKL, and on AMD's processors, sixteen are in flight a thread (eight in
          float64). Images are in
          flight four a thread (two in float64), be there so many or not; beyond 2**19 pixels one
          where MKL serves it well, beyond 2**20 in any case; in at most 8 V and 16 KiB, too, but
          for strips up to eight pixels wide, which take up to 22 V. Input that is not contiguous
          in the order of C is copied first.
        - Otherwise so many are taken together (:attr:`signals_at_once`) that the moduli in flight
          are ``tree.elements`` samples, E bytes, however short one signal is: at most 3 V and
          8 times E or V a thread, whichever is larger.
        - A volume takes 3 V, its spectrum and the modulus and spectrum of a first-order path, and
          what the filters ask for: together at most 6 V, up to degree 3. Every two degrees above
          take 2 V more, moduli that are smoothed 3 V, those raised to powers of one's own 2 V, FFTs
          by SciPy 1 V. Planes are taken sixteen at a time (float64: eight), and room for 48 of them
          is more of a small volume: 6.2 V at 80^3, 6.3 V at 100^3. Spectra of volumes of up to
          2**18 voxels are in double precision, one at a time, in 4 V a thread.

        Signals whose squares would leave the range of floating point are scaled first, which takes
        a copy of those in flight besides.
        """
        if self.program is not None:
            return self.threads * self.program.working_bytes
        signals = self.threads * self.signals_at_once
        if self.threads == 1:
            signals = min(max(batch, 1), signals)
        item: int = self.dtype.itemsize
        volume: int = signals * math.prod(self.padded) * item
        if len(self.shape) == 3:
            return self._volume_bytes(volume)
        deepest = max(
            _layer_bytes(layer, 1, signals, item, self.tree) for layer in self.tree.layers
        )
        return 3 * volume + self.threads * deepest

    def _volume_bytes(self, volume: int) -> int:
        """Return the bytes in flight for volumes of so many bytes in all."""
        voxels = math.prod(self.padded)
        stages: list[Any] = [s for layer in self.tree.layers for s in layer.stages()]
        most = max(stage.volumes for stage in stages)
        nx = self.padded[-1]
        half = 2 * (nx // 2 + 1) / nx
        own: int = self.threads * math.ceil(voxels * self.dtype.itemsize * most)
        kept = self.tree.layers[0].average
        averaging = 3 if isinstance(kept, Samples) else 2
        if isinstance(kept, PowerSums) and kept.powers == ONE_PASS:
            averaging = 1 if kept.crop else 0
        return math.ceil((3 + averaging) * volume * half) + own


def _gain(how: Kept) -> float:
    """Return what an average makes of a constant one."""
    if isinstance(how, Lowpass | Samples):
        return math.prod(float(factor[0]) for factor in how.factors)
    return 1.0


FAR = {kind: np.finfo(kind).maxexp // 4 for kind in "fd"}
"""Exponents beyond which signals are scaled, for float32 and float64."""


def _exponents(signals: NDArray[Any]) -> NDArray[np.intc]:
    """Return the power of two that each signal's peak is near, 0 if it is far from any limit.

    Moduli are roots of sums of squares, which leave the range of floating point long before the
    numbers do. A transform is homogeneous, and powers of two change no digit.
    """
    if not signals.size:
        return np.zeros(len(signals), np.intc)
    axes = tuple(range(1, signals.ndim))
    peaks = np.maximum(signals.max(axis=axes), -signals.min(axis=axes))
    near = FAR[signals.dtype.char]
    if peaks.max() < 2.0**near and peaks.min() >= 2.0**-near:
        return np.zeros(len(signals), np.intc)
    exponents = np.frexp(np.where(np.isfinite(peaks), peaks, 0))[1]
    far = np.abs(exponents) > near
    return np.where(far, exponents, 0).astype(np.intc)


def _scaled(x: NDArray[Any], exponents: NDArray[np.intc]) -> NDArray[Any]:
    """Return each entry of the first axis times a power of two."""
    if not exponents.any():
        return x
    return np.asarray(np.ldexp(x, exponents.reshape(-1, *[1] * (x.ndim - 1))))


def _layer_bytes(layer: Layer, parents: int, batch: int, item: int, tree: Tree) -> int:
    """Return the bytes in flight while a layer and what is below it are computed."""
    taken = next(slices(parents, layer.rows.shape[1], batch, layer.grid, tree.elements))
    count = parents * (taken.stop - taken.start)
    u: int = batch * count * math.prod(layer.grid) * item
    # Band-passed (complex), its FFT's copy, squares and modulus; or modulus, spectrum, low-pass.
    own = 6 * u
    kept = 2 * u  # the modulus and its spectrum stay while the children are computed
    below = [
        _layer_bytes(child, taken.stop - taken.start, batch, item, tree) for child in layer.children
    ]
    return max(own, kept + max(below, default=0))


class PlanCache:
    """Plans by value, the least recently used forgotten first; each is built exactly once.

    Threads that ask for the same plan wait for the one that builds it; others go on.
    """

    def __init__(self, bound: int, bound_bytes: int = 512 * 2**20) -> None:
        self.bound = bound
        self.bound_bytes = bound_bytes
        self._lock = threading.Lock()
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._held: dict[Hashable, int] = {}
        self._building: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, build: Callable[[], Plan]) -> Plan:
        """Return the plan of `key`, built by `build` if it is not there."""
        with self._lock:
            plan = self._find(key)
            if plan is not None:
                return plan
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                plan = self._find(key)
            if plan is not None:
                return plan
            try:
                plan = build()
                with self._lock:
                    self._plans[key] = plan
                    self._forget()
            finally:
                self._building.pop(key, None)
            return plan

    def _forget(self) -> None:
        """Drop the oldest plans beyond the bounds; the newest stays in any case."""
        if len(self._plans) == 1:
            return
        for key, plan in self._plans.items():
            if key not in self._held:
                self._held[key] = plan.held_bytes
        held = sum(self._held.values())
        while len(self._plans) > 1 and (len(self._plans) > self.bound or held > self.bound_bytes):
            key, _ = self._plans.popitem(last=False)
            held -= self._held.pop(key)

    def _find(self, key: Hashable) -> Plan | None:
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def __len__(self) -> int:
        return len(self._plans)

    def clear(self) -> None:
        """Forget all plans."""
        with self._lock:
            self._plans.clear()
            self._held.clear()


PLANS = PlanCache(bound=32)
"""The plans of this process. A worker's cached engines are these."""
