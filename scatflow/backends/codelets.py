"""Fourier transforms of many signals side by side, one to each lane of the vector unit.

A *point* is one sample of as many complex signals as there are lanes: their real parts, then
their imaginary parts. Every step of a fast Fourier transform then works on whole vectors, whatever
the length's factors and wherever the points lie, so that rows and columns cost alike; and no lane
knows of the others, so that a signal's bits do not depend on its neighbours.

The small transforms that a long one consists of are written out as straight vector code, once for
each radix: Cooley and Tukey's factorisation down to primes, for which sums and differences of
mirrored points halve the products. Lengths are split by Stockham's method, which needs no
permutation.

References
----------
J. W. Cooley, J. W. Tukey, "An algorithm for the machine calculation of complex Fourier series",
Math. Comp. 19 (1965), 10.1090/S0025-5718-1965-0178586-1. I. J. Good, "The interaction algorithm
and practical Fourier analysis", J. R. Stat. Soc. B 20 (1958), 10.1111/j.2517-6161.1958.tb00300.x.
C. Van Loan, "Computational Frameworks for the Fast Fourier Transform" (1992),
10.1137/1.9781611970999.
"""

from __future__ import annotations

import cmath
import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from scatflow.backends.compiling import KEPT

VECTOR_BYTES = 64
"""Of one part of a point: the widest vectors there are; other processors take several."""

POINT = 2 * VECTOR_BYTES
"""Bytes of a point."""

ABREAST = 4
"""Lines of images in a point, each in one chunk of either part."""

CHUNK = VECTOR_BYTES // ABREAST
"""Bytes of a chunk."""

UNITS = 2 * ABREAST
"""Chunks of a point."""

TAP, STRETCH = 2 * 8, 5 * 8
"""Bytes of a row of taps and of one of stretches, see :func:`lanes.stretch`."""

RADICES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17)
"""Lengths of the transforms written out."""

WRITTEN_OUT = max(RADICES)

COPRIME = -1
"""Instead of a number of passes: two without twiddles."""

INVERSE, FORWARD, MODULI, PACKED_MODULI = range(4)
"""What to make of a line: a transform, or the inverse one's moduli, as the first halves of points
or packed."""

GROUPED = 64
"""Instead of a number of lanes: all chunks, whose bins have weights of their own."""

LARGEST_PRIME = 251
"""Largest factor of a length; those without a radix of their own are sums over all points."""

FLAGS = ("contract",)
"""Products and sums may be fused, which is the same for every lane."""

_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)


def lanes(dtype: np.dtype[Any]) -> int:
    """Return how many numbers a chunk has."""
    return CHUNK // dtype.itemsize


@lru_cache(maxsize=1024)
def splits(n: int) -> bool:
    """Return whether a length can be transformed."""
    for p in range(2, LARGEST_PRIME + 1):
        while n % p == 0:
            n //= p
    return n == 1


# --- vector code ---------------------------------------------------------------------------

Number = tuple[Any, Any]
"""Real and imaginary parts, each a vector."""


class _Code:
    """Writes vector instructions of one element type."""

    def __init__(self, builder: Any, scalar: Any, count: int | None = None) -> None:
        self.builder = builder
        self.scalar = scalar
        self.bytes = 4 if isinstance(scalar, ir.FloatType) else 8
        self.size = ir.Constant(_WORD, self.bytes)
        self.count = count or VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(scalar, self.count)

    def load(self, address: Any) -> Any:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        return self.builder.load(pointer, align=self.bytes)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.bytes)

    def broadcast(self, address: Any, offset: int = 0) -> Any:
        """Load one number into all lanes."""
        at = self.builder.add(address, ir.Constant(_WORD, offset * self.bytes))
        return self.spread(self.builder.load(self.builder.inttoptr(at, self.scalar.as_pointer())))

    def spread(self, value: Any) -> Any:
        """Copy a number into all lanes."""
        none = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(none, value, ir.Constant(_INDEX, 0))
        mask = ir.Constant(ir.VectorType(_INDEX, self.count), [0] * self.count)
        return self.builder.shuffle_vector(first, none, mask)

    def word(self, address: Any, k: int) -> Any:
        """Load the k-th integer behind an address."""
        at = self.builder.add(address, ir.Constant(_WORD, 8 * k))
        return self.builder.load(self.builder.inttoptr(at, _WORD.as_pointer()))

    def chunk(self) -> _Code:
        """Return what writes instructions for one chunk."""
        return _Code(self.builder, self.scalar, self.count // ABREAST)

    def pick(self, a: Any, b: Any, which: list[int]) -> Any:
        """Return a vector of some lanes of two vectors, which are numbered through."""
        mask = ir.Constant(ir.VectorType(_INDEX, len(which)), which)
        return self.builder.shuffle_vector(a, b, mask)

    def join(self, vectors: list[Any]) -> Any:
        """Return vectors, a power of two, as one."""
        while len(vectors) > 1:
            both = list(range(2 * vectors[0].type.count))
            vectors = [
                self.pick(a, b, both) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    def constant(self, c: float) -> Any:
        return ir.Constant(self.vector, [c] * self.count)

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=FLAGS)

    def minus(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=FLAGS)

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=FLAGS)

    def load_number(self, at: Any, re: Any, im: Any) -> Number:
        return self.load(self.builder.add(at, re)), self.load(self.builder.add(at, im))

    def store_number(self, x: Number, at: Any, re: Any, im: Any) -> None:
        self.store(x[0], self.builder.add(at, re))
        self.store(x[1], self.builder.add(at, im))

    def add(self, x: Number, y: Number) -> Number:
        return self.plus(x[0], y[0]), self.plus(x[1], y[1])

    def subtract(self, x: Number, y: Number) -> Number:
        return self.minus(x[0], y[0]), self.minus(x[1], y[1])

    def multiply(self, x: Number, w: Number) -> Number:
        re = self.minus(self.times(x[0], w[0]), self.times(x[1], w[1]))
        im = self.plus(self.times(x[0], w[1]), self.times(x[1], w[0]))
        return re, im

    def times_i(self, x: Number) -> Number:
        return self.builder.fneg(x[1]), x[0]

    def root(self, x: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector])
        name = f"llvm.sqrt.v{self.count}f{8 * self.bytes}"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), [x]
        )

    def modulus(self, x: Number) -> Any:
        return self.root(self.plus(self.times(x[0], x[0]), self.times(x[1], x[1])))

    def turn(self, x: Number, k: int, n: int) -> Number:
        """Multiply by ``exp(2 pi i k / n)``."""
        for _ in range(4 * k // n):
            x = self.times_i(x)
        w = cmath.exp(2j * math.pi * ((4 * k) % n) / (4 * n))
        if w == 1:
            return x
        if 8 * k % n == 0:  # at 45 degrees
            c = self.constant(math.sqrt(0.5))
            re, im = self.minus(x[0], x[1]), self.plus(x[0], x[1])
            return self.times(re, c), self.times(im, c)
        return self.multiply(x, (self.constant(w.real), self.constant(w.imag)))

    def transform(self, x: list[Number]) -> list[Number]:
        """Return the inverse transform, without a factor."""
        n = len(x)
        if n == 1:
            return x
        if n == 2:
            return [self.add(x[0], x[1]), self.subtract(x[0], x[1])]
        p = next((p for p in (4, 2, 3, 5, 7) if n % p == 0 and n > p), n)
        if n == 4:
            p = 2
        m = n // p
        if m == 1:
            return self._prime(x)
        out: list[Any] = [None] * n
        if math.gcd(m, p) == 1:  # one of two dimensions
            inner = [self.transform([x[(q * m + j * p) % n] for j in range(m)]) for q in range(p)]
            for k in range(m):
                for q, y in enumerate(self.transform([row[k] for row in inner])):
                    out[(q * m * pow(m, -1, p) + k * p * pow(p, -1, m)) % n] = y
            return out
        inner = [self.transform(x[q::p]) for q in range(p)]
        for k in range(m):
            turned = [self.turn(inner[q][k], q * k, n) for q in range(p)]
            out[k::m] = self.transform(turned)
        return out

    def _prime(self, x: list[Number]) -> list[Number]:
        """Transform a prime number of points, part by part, so that registers suffice."""
        n = len(x)
        js = range(1, (n + 1) // 2)
        sums = {j: self.add(x[j], x[n - j]) for j in js}
        differences = {j: self.subtract(x[j], x[n - j]) for j in js}
        parts = []
        for part in (0, 1):
            total = x[0][part]
            for j in js:
                total = self.plus(total, sums[j][part])
            even = dict.fromkeys(js, x[0][part])
            odd: dict[int, Any] = {}
            for j in js:
                for k in js:
                    c = self.constant(math.cos(2 * math.pi * (j * k % n) / n))
                    even[k] = self.plus(even[k], self.times(sums[j][part], c))
            for j in js:
                for k in js:
                    c = self.constant(math.sin(2 * math.pi * (j * k % n) / n))
                    term = self.times(differences[j][1 - part], c)
                    odd[k] = self.plus(odd[k], term) if k in odd else term
            ahead, back = (self.plus, self.minus) if part else (self.minus, self.plus)
            parts.append(
                [total, *(ahead(even[k], odd[k]) for k in js)]
                + [back(even[n - k], odd[n - k]) for k in range((n + 1) // 2, n)]
            )
        return list(zip(*parts, strict=True))


def _scalar(like: Any) -> Any:
    """Return LLVM's type of a number."""
    return ir.FloatType() if like == types.float32 else ir.DoubleType()


class _Loop:
    """A loop of `count` rounds over values, which :meth:`close` tells the next round's of.

    After it, `values` are what the last round left.
    """

    def __init__(self, builder: Any, count: Any, starts: list[Any]) -> None:
        self.builder = builder
        before = builder.block
        self.head = builder.append_basic_block("head")
        body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.branch(self.head)
        builder.position_at_end(self.head)
        self._phis = [builder.phi(start.type) for start in [count, *starts]]
        for phi, start in zip(self._phis, [count, *starts], strict=True):
            phi.add_incoming(start, before)
        self.values = self._phis[1:]
        more = builder.icmp_signed(">", self._phis[0], ir.Constant(_WORD, 0))
        builder.cbranch(more, body, self.after)
        builder.position_at_end(body)

    def close(self, values: list[Any]) -> None:
        """End the round."""
        left = self.builder.sub(self._phis[0], ir.Constant(_WORD, 1))
        for phi, value in zip(self._phis, [left, *values], strict=True):
            phi.add_incoming(value, self.builder.block)
        self.builder.branch(self.head)
        self.builder.position_at_end(self.after)


def _each_radix(builder: Any, scalar: Any, name: str, words: Any, write: Any) -> None:
    """Call what transforms as many points as the first word says: one function, compiled once."""
    name = f"scatflow{name}_{scalar}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * len(words))
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        code = _Code(inside, scalar)
        radix, *rest = function.args
        done = inside.append_basic_block("done")
        switch = inside.switch(radix, done)
        for n in RADICES:
            case = inside.append_basic_block(f"radix{n}")
            switch.add_case(ir.Constant(_WORD, n), case)
            inside.position_at_end(case)
            write(code, n, *rest)
            inside.branch(done)
        inside.position_at_end(done)
        inside.ret_void()
    builder.call(function, words)


@intrinsic
def _turned(typingctx, like, radix, source, step, to, leap, twiddles, re, im):
    """Transform `radix` points and multiply all but the first by twiddles."""

    def write(code: _Code, n: int, at: Any, step: Any, to: Any, leap: Any, *rest: Any) -> None:
        twiddles, re, im = rest
        x = []
        for _ in range(n):
            x.append(code.load_number(at, re, im))
            at = code.builder.add(at, step)
        for k, y in enumerate(code.transform(x)):
            if k:
                w = code.broadcast(twiddles, 2 * k - 2), code.broadcast(twiddles, 2 * k - 1)
                y = code.multiply(y, w)
            code.store_number(y, to, re, im)
            to = code.builder.add(to, leap)

    def codegen(context, builder, signature, args):
        _each_radix(builder, _scalar(like), "_turned", args[1:], write)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 8), codegen


def _places(builder: Any, first: Any, table: Any, n: int) -> list[Any]:
    """Return n addresses: `first` and what a table says."""
    entries = builder.inttoptr(table, _INDEX.as_pointer())
    offsets = (builder.gep(entries, [ir.Constant(_WORD, k)]) for k in range(n))
    return [builder.add(first, builder.sext(builder.load(at), _WORD)) for at in offsets]


@intrinsic
def _plain(typingctx, like, radix, source, reads, to, writes, re, im):
    """Transform `radix` points, which are so many bytes behind `source`, and go behind `to`."""

    def write(
        code: _Code, n: int, source: Any, reads: Any, to: Any, writes: Any, *rest: Any
    ) -> None:
        x = [code.load_number(at, *rest) for at in _places(code.builder, source, reads, n)]
        y, places = code.transform(x), _places(code.builder, to, writes, n)
        for part, offset in enumerate(rest):
            for value, at in zip(y, places, strict=True):
                code.store(value[part], code.builder.add(at, offset))

    def codegen(context, builder, signature, args):
        _each_radix(builder, _scalar(like), "_plain", args[1:], write)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 7), codegen


@intrinsic
def _rooted(typingctx, like, radix, source, reads, to, writes, shift):
    """Do as :func:`_plain`, but write moduli, by a power of two nearer to each other."""

    def write(
        code: _Code, n: int, source: Any, reads: Any, to: Any, writes: Any, shift: Any
    ) -> None:
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        x = [code.load_number(at, zero, part) for at in _places(code.builder, source, reads, n)]
        places = _places(code.builder, zero, writes, n)
        for y, at in zip(code.transform(x), places, strict=True):
            code.store(code.modulus(y), code.builder.add(to, code.builder.ashr(at, shift)))

    def codegen(context, builder, signature, args):
        _each_radix(builder, _scalar(like), "_rooted", args[1:], write)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 6), codegen


@intrinsic
def copy(typingctx, like, to, source):
    """Copy a point."""

    def codegen(context, builder, signature, args):
        _, to, source = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        code.store_number(code.load_number(source, zero, part), to, zero, part)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 2), codegen


@intrinsic
def _mirror(typingctx, like, x, mirrored, sums, differences, re, im):
    """Write the sum and the difference of two points."""

    def codegen(context, builder, signature, args):
        _, *places, re, im = args
        code = _Code(builder, _scalar(like))
        a, b = (code.load_number(place, re, im) for place in places[:2])
        code.store_number(code.add(a, b), places[2], re, im)
        code.store_number(code.subtract(a, b), places[3], re, im)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 6), codegen


@intrinsic
def _four_outputs(typingctx, like, n, mixed, to, leap, table, twiddles, k, next_k, re, im):
    """Store outputs k, -k and `next_k`, ``-next_k`` of the transform of n points, turned.

    ``mixed`` are point 0, the sums of points j and -j for ascending j and their differences for
    descending j. ``table`` holds for each k cosine and sine of angle j, ``twiddles`` what each
    output is turned by. Two k at a time have enough independent sums to keep the vector unit busy.
    """

    def codegen(context, builder, signature, args):
        _, n, mixed, to, leap, table, twiddles, *ks, re, im = args
        code = _Code(builder, _scalar(like))
        one, point = ir.Constant(_WORD, 1), ir.Constant(_WORD, POINT)
        pair = builder.mul(ir.Constant(_WORD, 2), code.size)
        half = builder.lshr(n, one)
        row = builder.mul(pair, builder.add(half, one))
        starts = [builder.add(builder.add(table, pair), builder.mul(k, row)) for k in ks]
        first, zero = code.load_number(mixed, re, im), code.constant(0.0)
        last = builder.add(mixed, builder.mul(builder.sub(n, one), point))
        sums = [*first, zero, zero] * 2
        loop = _Loop(builder, half, [builder.add(mixed, point), last, *starts, *sums])
        ahead, back, *turns = loop.values[:4]
        x = [*code.load_number(ahead, re, im), *code.load_number(back, re, im)]
        weights = [code.broadcast(turn, part) for turn in turns for part in (0, 0, 1, 1)]
        terms = [code.times(part, weight) for part, weight in zip(2 * x, weights, strict=True)]
        sums = [code.plus(a, b) for a, b in zip(loop.values[4:], terms, strict=True)]
        turns = [builder.add(turn, pair) for turn in turns]
        loop.close([builder.add(ahead, point), builder.sub(back, point), *turns, *sums])
        for i, k in enumerate(ks):
            a, b, c, d = loop.values[4 + 4 * i : 8 + 4 * i]
            even, odd = (a, b), code.times_i((c, d))
            mirrored = builder.urem(builder.sub(n, k), n)
            for value, output in (
                (code.add(even, odd), k),
                (code.subtract(even, odd), mirrored),
            ):
                w = builder.add(twiddles, builder.mul(output, pair))
                turned = code.multiply(value, (code.broadcast(w), code.broadcast(w, 1)))
                code.store_number(turned, builder.add(to, builder.mul(output, leap)), re, im)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 10), codegen


# --- for the kernels -----------------------------------------------------------------------


@intrinsic
def sum_bins(
    typingctx, like, lanes, to, count, spectrum, mirror, unit, weights, stride, taps, straight,
    mirrored
):  # fmt: skip
    """Write `count` points that follow one another: sums of some lanes of bins times real weights.

    Each row of `taps` is the first bin and the first weight of one term. The bins of `straight`
    rows go up; those of the `mirrored` ones that follow go down, are conjugate and count from
    `mirror` on. Bins count in chunks, of `unit` bytes, weights in `stride` bytes. `lanes` is a
    power of two, or :data:`GROUPED` for all chunks at once, each with one of as many weights: of
    mirrored bins, whose lines come in falling order, the first chunk is that of a point in
    `spectrum`, the others are the last ones of a point in `mirror`, the last one first.
    """

    def codegen(context, builder, signature, args):
        _, lanes, to, count, *rest, straight, mirrored = args
        unit = rest[2]
        part = builder.mul(unit, ir.Constant(_WORD, ABREAST))
        scalar = _scalar(like)
        done = builder.append_basic_block("done")
        switch = builder.switch(lanes, done)
        width = _Code(builder, scalar).count
        widths = [width >> k for k in range(width.bit_length())]
        for key, width in [*((width, width) for width in widths), (GROUPED, widths[0])]:
            case = builder.append_basic_block(f"lanes{key}")
            switch.add_case(ir.Constant(_WORD, key), case)
            builder.position_at_end(case)
            code = _Code(builder, scalar, width)
            term = _grouped_term if key == GROUPED else _term
            _sums(code, to, count, (straight, mirrored), rest, part, term)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 11), codegen


def _sums(
    code: _Code, to: Any, count: Any, rows: Any, where: list[Any], part: Any, term: Any
) -> None:
    """Write the sums of :func:`sum_bins` for one width."""
    builder = code.builder
    spectrum, mirror, unit, weights, stride, taps = where
    points = _Loop(builder, count, [to, ir.Constant(_WORD, 0)])
    at, k = points.values
    x: list[Any] = [taps, code.constant(0.0), code.constant(0.0)]
    ahead = builder.mul(k, ir.Constant(_WORD, UNITS))
    for some, back in zip(rows, (False, True), strict=True):
        terms = _Loop(builder, some, x)
        row, re, im = terms.values
        bins = (builder.sub if back else builder.add)(code.word(row, 0), ahead)
        bins = builder.mul(bins, unit)
        weight = builder.mul(builder.add(code.word(row, 1), k), stride)
        value, c = term(
            code, [builder.add(base, bins) for base in (spectrum, mirror)],
            builder.add(weights, weight), part, back,
        )  # fmt: skip
        re = code.plus(re, code.times(value[0], c))
        im = (code.minus if back else code.plus)(im, code.times(value[1], c))
        terms.close([builder.add(row, ir.Constant(_WORD, TAP)), re, im])
        x = terms.values
    code.store_number((x[1], x[2]), at, ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES))
    points.close(
        [builder.add(at, ir.Constant(_WORD, POINT)), builder.add(k, ir.Constant(_WORD, 1))]
    )


def _term(code: _Code, places: list[Any], weight: Any, part: Any, back: bool) -> Any:
    """Load some lanes of a bin, and its weight."""
    return code.load_number(places[back], ir.Constant(_WORD, 0), part), code.broadcast(weight)


def _grouped_term(code: _Code, places: list[Any], weight: Any, part: Any, back: bool) -> Any:
    """Load bins of all chunks, and their weights."""
    narrow = code.count // ABREAST
    each = _Code(code.builder, code.scalar, ABREAST).load(weight)
    c = code.pick(each, each, [k // narrow for k in range(code.count)])
    zero = ir.Constant(_WORD, 0)
    value = code.load_number(places[0], zero, part)
    if back:
        falling = [code.count + narrow * k + l for k in range(3, 0, -1) for l in range(narrow)]
        others = code.load_number(places[1], zero, part)
        value = tuple(
            code.pick(a, b, list(range(narrow)) + falling)
            for a, b in zip(value, others, strict=True)
        )
    return value, c


@intrinsic
def moduli(typingctx, like, to, source):
    """Store the modulus of a point, one vector of real numbers."""

    def codegen(context, builder, signature, args):
        _, to, source = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        code.store(code.modulus(code.load_number(source, zero, part)), to)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), codegen


@intrinsic
def untangle(typingctx, like, z, mirrored, to, last):
    """Write the spectra of pairs of real signals, whose sums are given at k and at -k, to chunks.

    The signals are real parts, then imaginary ones, and go to point `to` and the following ones as
    far as number `last`.
    """

    def codegen(context, builder, signature, args):
        _, z, mirrored, to, last = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        half = code.constant(0.5)
        a, b = code.load_number(z, zero, part), code.load_number(mirrored, zero, part)
        doubled = (
            (code.plus(a[0], b[0]), code.minus(a[1], b[1])),
            (code.plus(a[1], b[1]), code.minus(b[0], a[0])),
        )
        spectra = [[code.times(value, half) for value in x] for x in doubled]
        narrow = code.chunk()
        for k in reversed(range(UNITS)):  # what is too much is written to the last, before it
            which = ir.Constant(_WORD, k)
            which = builder.select(builder.icmp_signed("<", which, last), which, last)
            place = builder.add(to, builder.mul(which, ir.Constant(_WORD, POINT)))
            lanes = [k % ABREAST * narrow.count + l for l in range(narrow.count)]
            for value, offset in zip(spectra[k // ABREAST], (zero, part), strict=True):
                narrow.store(code.pick(value, value, lanes), builder.add(place, offset))
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def split_halves(typingctx, like, z, mirrored, to, other, turn):
    """Write bins k and ``h - k`` of 2h real samples, transformed as h complex ones.

    ``z`` and ``mirrored`` are bins k and -k of these, ``turn`` is ``exp(-i pi k / h)``.
    """

    def codegen(context, builder, signature, args):
        _, z, mirrored, to, other, turn = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        half = code.constant(0.5)
        a, b = code.load_number(z, zero, part), code.load_number(mirrored, zero, part)
        even = code.plus(a[0], b[0]), code.minus(a[1], b[1])
        odd = code.plus(a[1], b[1]), code.minus(b[0], a[0])
        odd = code.multiply(odd, (code.broadcast(turn), code.broadcast(turn, 1)))
        low, high = code.add(even, odd), code.subtract(even, odd)
        for (re, im), place in ((low, to), ((high[0], builder.fneg(high[1])), other)):
            number = code.times(re, half), code.times(im, half)
            code.store_number(number, place, zero, part)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 5), codegen


@intrinsic
def gather(typingctx, like, to, first, second, third, fourth):
    """Make a point of a chunk of each part of several points."""

    def codegen(context, builder, signature, args):
        _, to, *places = args
        code = _Code(builder, _scalar(like))
        for offset in (0, VECTOR_BYTES):
            at = ir.Constant(_WORD, offset)
            chunks = [code.chunk().load(builder.add(place, at)) for place in places]
            code.store(code.join(chunks), builder.add(to, at))
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * (1 + ABREAST)), codegen


def _transposed(code: _Code, rows: list[Any]) -> list[Any]:
    """Return as many vectors as there are lanes, of which the k-th has lane k of each."""
    n = len(rows)
    step = n // 2
    while step:
        low = [l if not l & step else n + l - step for l in range(n)]
        high = [l + step if not l & step else n + l for l in range(n)]
        for k in range(n):
            if not k & step:
                a, b = rows[k], rows[k + step]
                rows[k], rows[k + step] = code.pick(a, b, low), code.pick(a, b, high)
        step //= 2
    return rows


@intrinsic
def turn_block(typingctx, like, source, step, to, places, rooted):
    """Store the lanes of as many vectors, `step` bytes apart, each lane's as a vector.

    ``places`` is the address of where each goes, in bytes behind `to`, the first one last, so that
    those too many can go where another will. With `rooted` the roots are stored.
    """

    def codegen(context, builder, signature, args):
        _, source, step, to, places, rooted = args
        code = _Code(builder, _scalar(like))
        rows = []
        for _ in range(code.count):
            rows.append(code.load(source))
            source = builder.add(source, step)
        wanted = builder.icmp_signed("!=", rooted, ir.Constant(_WORD, 0))
        with builder.if_else(wanted) as (then, otherwise):
            with then:
                roots = [code.root(row) for row in rows]
                first = builder.block
            with otherwise:
                second = builder.block
        for k, (row, root) in enumerate(zip(rows, roots, strict=True)):
            rows[k] = builder.phi(code.vector)
            rows[k].add_incoming(root, first)
            rows[k].add_incoming(row, second)
        for k, row in reversed(list(enumerate(_transposed(code, rows)))):
            code.store(row, builder.add(to, code.word(places, k)))
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 5), codegen


@intrinsic
def split(typingctx, like, source, to, part, turned):
    """Write the real and imaginary parts of a vector of complex numbers, `part` bytes apart.

    If `turned` is not 0, of the numbers times i.
    """

    def codegen(context, builder, signature, args):
        _, source, to, part, turned = args
        code = _Code(builder, _scalar(like))
        a = code.load(source)
        b = code.load(builder.add(source, ir.Constant(_WORD, VECTOR_BYTES)))
        even, odd = (code.pick(a, b, list(range(k, 2 * code.count, 2))) for k in (0, 1))
        wanted = builder.icmp_signed("!=", turned, ir.Constant(_WORD, 0))
        re = builder.select(wanted, builder.fneg(odd), even)
        im = builder.select(wanted, even, odd)
        code.store_number((re, im), to, ir.Constant(_WORD, 0), part)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def put(typingctx, address, value):
    """Store one number."""

    def codegen(context, builder, signature, args):
        address, value = args
        builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


@intrinsic
def scale(typingctx, like, source, part, weights, each, to):
    """Write a point: a vector, and one `part` bytes on, times a number, or times one for `each`."""

    def codegen(context, builder, signature, args):
        _, source, part, weights, each, to = args
        code = _Code(builder, _scalar(like))
        zero = ir.Constant(_WORD, 0)
        single = builder.icmp_signed("==", each, zero)
        with builder.if_else(single) as (then, otherwise):
            with then:
                one, first = code.broadcast(weights), builder.block
            with otherwise:
                many, second = code.load(weights), builder.block
        c = builder.phi(code.vector)
        c.add_incoming(one, first)
        c.add_incoming(many, second)
        re, im = code.load_number(source, zero, part)
        scaled = code.times(re, c), code.times(im, c)
        code.store_number(scaled, to, zero, ir.Constant(_WORD, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 5), codegen


@intrinsic
def multiply(typingctx, like, source, weights, part, sign, to):
    """Write the point of a product, or with a negative `sign` that by the weights' conjugates.

    Imaginary parts of both factors are `part` bytes on.
    """

    def codegen(context, builder, signature, args):
        _, source, weights, part, sign, to = args
        code = _Code(builder, _scalar(like))
        zero = ir.Constant(_WORD, 0)
        x, w = (code.load_number(place, zero, part) for place in (source, weights))
        negative = builder.icmp_signed("<", sign, zero)
        w = w[0], builder.select(negative, builder.fneg(w[1]), w[1])
        code.store_number(code.multiply(x, w), to, zero, ir.Constant(_WORD, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 5), codegen


@intrinsic
def copy_vectors(typingctx, like, count, source, to):
    """Copy vectors that follow one another."""

    def codegen(context, builder, signature, args):
        _, count, source, to = args
        code = _Code(builder, _scalar(like))
        one = ir.Constant(_WORD, VECTOR_BYTES)
        loop = _Loop(builder, count, [source, to])
        code.store(code.load(loop.values[0]), loop.values[1])
        loop.close([builder.add(at, one) for at in loop.values])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 3), codegen


@intrinsic
def entangle(typingctx, like, a, b, to, mirrored):
    """Write bins k and -k of the sum ``a + i b`` of two spectra of real lines, given at k.

    Where both go to one place, k is its own mirror image and imaginary parts are rounding.
    """

    def codegen(context, builder, signature, args):
        _, a, b, to, mirrored = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        a, b = code.load_number(a, zero, part), code.load_number(b, zero, part)
        back = code.plus(a[0], b[1]), code.minus(b[0], a[1])
        ahead = code.minus(a[0], b[1]), code.plus(a[1], b[0])
        alone = builder.icmp_signed("==", to, mirrored)
        ahead = tuple(
            builder.select(alone, real[0], value) for real, value in zip((a, b), ahead, strict=True)
        )
        code.store_number(back, mirrored, zero, part)
        code.store_number(ahead, to, zero, part)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def add_squares(typingctx, like, count, source, first, second, begin_first, begin_second):
    """Add the squares of points' real parts to some vectors and of imaginary parts to others.

    Or begin them. Both may be the same ones.
    """

    def codegen(context, builder, signature, args):
        _, count, source, first, second, begin_first, begin_second = args
        code = _Code(builder, _scalar(like))
        zero, one = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        fresh = [builder.icmp_signed("!=", begin, zero) for begin in (begin_first, begin_second)]
        loop = _Loop(builder, count, [source, first, second])
        source, *totals = loop.values
        parts = code.load_number(source, zero, one)
        for x, total, begins in zip(parts, totals, fresh, strict=True):
            so_far = builder.select(begins, code.constant(0.0), code.load(total))
            code.store(code.plus(so_far, code.times(x, x)), total)
        point = ir.Constant(_WORD, POINT)
        loop.close([builder.add(source, point), *(builder.add(total, one) for total in totals)])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 6), codegen


@intrinsic
def add_squares_with_edges(
    typingctx, like, count, source, total, begins, across, along, at_z, at_y, at_x
):
    """Add squared moduli of fields along a line of planes side by side, or begin with them.

    Parameters
    ----------
    count : int
        Samples of the line.
    source : int
        Address of one part of points: the real fields.
    total : int
        Address of vectors.
    begins : int
        Whether to begin.
    across, along : int
        Sign of the first plane, which alternates from plane to plane, and that of the line.
    at_z, at_y, at_x : int
        Addresses of what is added to the fields before: complex numbers, one a sample, which all
        planes share up to their signs; points, one a sample; one point, whose sign alternates from
        sample to sample.
    """

    def codegen(context, builder, signature, args):
        _, count, source, total, begins, across, along, at_z, at_y, at_x = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        begins = builder.icmp_signed("!=", begins, zero)
        alternating = ir.Constant(code.vector, [1.0, -1.0] * (code.count // 2))
        across, along = (code.spread(builder.sitofp(k, code.scalar)) for k in (across, along))
        across = code.times(across, alternating)
        last = code.load_number(at_x, zero, part)
        loop = _Loop(builder, count, [source, total, at_z, at_y, *last])
        at, to, z, y, *last = loop.values
        parts = []
        for offset, plane, outer in zip((0, 1), (zero, part), last, strict=True):
            x = code.plus(outer, code.times(along, code.load(builder.add(y, plane))))
            parts.append(code.plus(x, code.times(across, code.broadcast(z, offset))))
        parts[0] = code.plus(parts[0], code.load(at))
        so_far = builder.select(begins, code.constant(0.0), code.load(to))
        for x in parts:
            so_far = code.plus(so_far, code.times(x, x))
        code.store(so_far, to)
        pair = builder.mul(code.size, ir.Constant(_WORD, 2))
        point = ir.Constant(_WORD, POINT)
        loop.close(
            [
                builder.add(at, point), builder.add(to, part), builder.add(z, pair),
                builder.add(y, point), *(builder.fneg(x) for x in last),
            ]
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 9), codegen


@intrinsic
def add_weighted(typingctx, like, to, source, weight):
    """Add a point times a real weight to another point."""

    def codegen(context, builder, signature, args):
        _, to, source, weight = args
        code = _Code(builder, _scalar(like))
        zero, part = ir.Constant(_WORD, 0), ir.Constant(_WORD, VECTOR_BYTES)
        c = code.broadcast(weight)
        re, im = code.load_number(source, zero, part)
        total = code.add(code.load_number(to, zero, part), (code.times(re, c), code.times(im, c)))
        code.store_number(total, to, zero, part)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 3), codegen


@intrinsic
def sum_weighted(typingctx, like, to, source, weights, count):
    """Write the sum of vectors that follow one another, times real weights, to one vector.

    Four sums go on at a time, so that none waits for its last term.
    """

    def codegen(context, builder, signature, args):
        _, to, source, weights, count = args
        code = _Code(builder, _scalar(like))
        two, three = ir.Constant(_WORD, 2), ir.Constant(_WORD, 3)
        rounds = [(4, builder.ashr(count, two)), (1, builder.and_(count, three))]
        sums = [code.constant(0.0)] * 4
        for many, left in rounds:
            loop = _Loop(builder, left, [source, weights, *sums])
            source, weights, *sums = loop.values
            for k in range(many):
                x, c = code.load(source), code.broadcast(weights)
                sums[k] = code.plus(sums[k], code.times(x, c))
                source = builder.add(source, ir.Constant(_WORD, VECTOR_BYTES))
                weights = builder.add(weights, code.size)
            loop.close([source, weights, *sums])
            source, weights, *sums = loop.values
        code.store(code.plus(code.plus(sums[0], sums[1]), code.plus(sums[2], sums[3])), to)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def item_bytes(typingctx, like):
    """Return the bytes of a number."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_WORD, _Code(builder, _scalar(like)).bytes)

    return types.int64(like), codegen


@intrinsic
def copy_chunk(typingctx, like, to, source):
    """Copy a chunk."""

    def codegen(context, builder, signature, args):
        _, to, source = args
        code = _Code(builder, _scalar(like))
        narrow = code.chunk()
        narrow.store(narrow.load(source), to)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), codegen


@intrinsic
def clear_chunk(typingctx, like, to):
    """Set a chunk to zero."""

    def codegen(context, builder, signature, args):
        code = _Code(builder, _scalar(like))
        narrow = code.chunk()
        narrow.store(narrow.constant(0.0), args[1])
        return context.get_dummy_value()

    return types.void(like, types.int64), codegen


def _caller(words: int) -> Any:
    """Return what calls a compiled function of so many integers by its address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * words)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * (1 + words)), codegen


@intrinsic
def call_line(typingctx, line, source, to, passes, room, what):
    """Call a compiled :func:`line` by its address."""
    return _caller(5)


@intrinsic
def call_fold(
    typingctx, fold, lanes, to, spectrum, mirror, unit, weights, stride, taps, first, end
):
    """Call a compiled :func:`fold` by its address."""
    return _caller(10)


# --- whole lengths -------------------------------------------------------------------------


@intrinsic
def _word(typingctx, address):
    """Load an integer."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return types.int64(types.int64), codegen


def _line(like: Any) -> Any:
    """Return what transforms the points of one line, from and to anywhere, for an element type."""
    item = like.itemsize

    def line(source: int, to: int, passes: int, room: int, what: int) -> None:
        count = _word(passes)
        n = _word(passes + 8)
        re = VECTOR_BYTES if what == FORWARD else 0  # parts changed before and after
        im = VECTOR_BYTES - re
        shift = what - MODULI
        between = to if shift < 0 else source
        if count == COPRIME:
            a, b = _word(passes + 16), _word(passes + 40)
            reads, writes = _word(passes + 24), _word(passes + 32)
            for at in range(0, 4 * n, 4 * a):
                _plain(like, a, source, reads + at, between, writes + at, re, im)
            reads, writes = _word(passes + 48), _word(passes + 56)
            for at in range(0, 4 * n, 4 * b):
                if shift < 0:
                    _plain(like, b, between, reads + at, to, writes + at, re, im)
                else:
                    _rooted(like, b, between, reads + at, to, writes + at, shift)
            return
        done = 1
        left = n
        for i in range(count):
            radix = _word(passes + 16 + 16 * i)
            table = _word(passes + 24 + 16 * i)
            m = left // radix
            y = between if i % 2 else room
            if m == 1 and (shift < 0 or radix <= WRITTEN_OUT):
                y = to
            if radix > WRITTEN_OUT:
                for p in range(m):
                    for q in range(done):
                        here = source + (q + done * p) * POINT
                        there = y + (q + done * radix * p) * POINT
                        last = (radix - 1) // 2
                        twiddles = table + ((last + 1) * (last + 1) + p * radix) * 2 * item
                        mixed = room + n * POINT
                        copy(like, mixed, here)
                        for j in range(1, last + 1):
                            _mirror(
                                like, here + j * done * m * POINT,
                                here + (radix - j) * done * m * POINT,
                                mixed + j * POINT, mixed + (radix - j) * POINT, re, im,
                            )  # fmt: skip
                        for k in range(0, last + 1, 2):
                            _four_outputs(
                                like, radix, mixed, there, done * POINT, table, twiddles, k,
                                min(k + 1, last), re, im,
                            )  # fmt: skip
                if m == 1 and shift >= 0:
                    for k in range(0, n * POINT, POINT):
                        moduli(like, to + (k >> shift), y + k)
            elif m > 1:
                for p in range(m):
                    for q in range(done):
                        here = source + (q + done * p) * POINT
                        there = y + (q + done * radix * p) * POINT
                        _turned(
                            like, radix, here, done * m * POINT, there, done * POINT,
                            table + p * (radix - 1) * 2 * item, re, im,
                        )  # fmt: skip
            elif shift < 0:
                for q in range(0, done * POINT, POINT):
                    _plain(like, radix, source + q, table, y + q, table, re, im)
            else:
                for q in range(0, done * POINT, POINT):
                    _rooted(like, radix, source + q, table, y + (q >> shift), table, shift)
            source = y
            done *= radix
            left = m

    return line


def _fold(like: Any) -> Any:
    """Return what folds a line, stretch by stretch, for an element type."""

    def fold(
        lanes: int, to: int, spectrum: int, mirror: int, unit: int, weights: int, stride: int,
        taps: int, first: int, end: int,
    ) -> None:  # fmt: skip
        for stretch in range(first, end, STRETCH):
            sum_bins(
                like, lanes, to + _word(stretch) * POINT, _word(stretch + 8), spectrum, mirror,
                unit, weights, stride, taps + TAP * _word(stretch + 16), _word(stretch + 24),
                _word(stretch + 32),
            )  # fmt: skip

    return fold


_COMPILED: dict[tuple[Any, str], Any] = {}
_COMPILING = threading.Lock()


def _compiled(make: Any, dtype: str) -> Any:
    """Return a function for C, compiled once: as machine code it is not copied into its callers."""
    with _COMPILING:
        if (make, dtype) not in _COMPILED:
            function = make(np.dtype(dtype).type(0))
            words = function.__code__.co_argcount
            signature = types.void(*[types.int64] * words)
            _COMPILED[make, dtype] = numba.cfunc(signature, cache=KEPT)(function)
        return _COMPILED[make, dtype]


def line(dtype: str) -> Any:
    """Return the compiled transform of one line, which its address does not keep alive.

    It takes, all as integers: the first point's address, that of where they go (the same place is
    allowed), the address of a :class:`Passes` table, that of :func:`room` points, and one of
    :data:`INVERSE`, :data:`FORWARD`, :data:`MODULI` and :data:`PACKED_MODULI`. No transform has a
    factor. Where moduli go, the points are overwritten.

    Passes go to the room and to the end in turn. After an odd number of them the last one works in
    place, as each of its butterflies can.
    """
    return _compiled(_line, dtype)


def fold(dtype: str) -> Any:
    """Return the compiled fold of one line, which its address does not keep alive.

    It takes, all as integers: the lanes, the addresses of the line, of the spectrum and of where
    mirrored bins count from, their unit, the address and stride of weights, the addresses of the
    taps and of the first stretch, and where the last one ends; see :func:`lanes.stretch` and
    :func:`sum_bins`.
    """
    return _compiled(_fold, dtype)


class Passes:
    """How a length is transformed.

    Parameters
    ----------
    n : int
        The length, for which :func:`splits`.
    dtype : str
        float32 or float64.
    """

    def __init__(self, n: int, dtype: str) -> None:
        self.radices = _radices(n)
        self._tables: list[Any] = []
        if _coprime(self.radices):
            words = [COPRIME, n, *self._coprime(*self.radices)]
        else:
            words = [len(self.radices), n]
            for i, radix in enumerate(self.radices):
                words += [radix, self._stage(radix, math.prod(self.radices[i:]), n, dtype)]
        self._words = np.array(words, np.int64)

    def _stage(self, radix: int, left: int, n: int, dtype: str) -> int:
        """Return the address of what the transforms of one radix need."""
        m = left // radix
        turns = np.exp(2j * np.pi * np.outer(np.arange(m), np.arange(radix)) / left)
        kind = np.result_type(dtype, np.complex64)
        if radix > WRITTEN_OUT:
            k, j = np.ogrid[: (radix + 1) // 2, : (radix + 1) // 2]
            cosines = np.exp(2j * np.pi * (j * k % radix) / radix)
            turns = np.concatenate([cosines.reshape(-1), turns.reshape(-1)])
            return self._keep(turns, kind)
        if m == 1:
            return self._keep(np.arange(0, n, n // radix) * POINT, np.int32)
        return self._keep(turns[:, 1:], kind)

    def _coprime(self, a: int, b: int) -> list[int]:
        """Return what the two passes of ``n = a b`` need: radix and addresses of where points are.

        With j a = q (mod b) and so on, sample ``(b j + a q) mod n`` is sample (j, q) of an array,
        whose transform's bin (k mod a, k mod b) is bin k: Good and Thomas's transform. The first
        pass writes its bins where the second, in place, has its own.
        """
        one, other = b * pow(b, -1, a), a * pow(a, -1, b)
        j, q = np.ogrid[:a, :b]
        samples, mixed, bins = (
            (b * j + a * q) % (a * b),
            (one * j + a * q) % (a * b),
            (one * j + other * q) % (a * b),
        )
        first = [self._keep(places.T * POINT, np.int32) for places in (samples, mixed)]
        second = [self._keep(places * POINT, np.int32) for places in (mixed, bins)]
        return [a, *first, b, *second]

    def _keep(self, table: Any, dtype: Any) -> int:
        """Keep a table; return its address."""
        self._tables.append(np.ascontiguousarray(table, dtype))
        return int(self._tables[-1].ctypes.data)

    @property
    def address(self) -> int:
        """Where compiled code finds them."""
        return int(self._words.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(table.nbytes for table in (self._words, *self._tables))


_PASSES: WeakValueDictionary[tuple[int, str], Passes] = WeakValueDictionary()
_MAKING = threading.Lock()


def passes(n: int, dtype: str) -> Passes:
    """Return the passes of a length, made once as long as anyone keeps them, short ones longer."""
    return _short(n, dtype) if n <= SHORT else _shared(n, dtype)


def _shared(n: int, dtype: str) -> Passes:
    with _MAKING:
        found = _PASSES.get((n, dtype))
        if found is None:
            found = _PASSES[n, dtype] = Passes(n, dtype)
        return found


SHORT = 1024
"""Points whose passes are kept when nobody uses them, as FFT libraries do: 8 KiB, or 16."""

_short = lru_cache(maxsize=64)(_shared)


@lru_cache(maxsize=1024)
def room(n: int) -> int:
    """Return the points of room that :func:`line` needs for a length."""
    return n + max([0, *(radix for radix in _radices(n) if radix > WRITTEN_OUT)])


@lru_cache(maxsize=1024)
def _radices(n: int) -> list[int]:
    """Return the fewest radices whose product is a length, coprime ones where there are two."""
    best = min(
        _factorizations(n, LARGEST_PRIME),
        key=lambda radices: (len(radices), not _coprime(radices), sum(radices)),
    )
    if len(best) == 2 and max(best) <= WRITTEN_OUT and not _coprime(best):
        return best[::-1]  # twiddles take registers, which larger transforms have not
    return best or [1]


def _coprime(radices: list[int]) -> bool:
    """Return whether the transform is one of two dimensions, without twiddles."""
    return len(radices) == 2 and max(radices) <= WRITTEN_OUT and math.gcd(*radices) == 1


def _factorizations(n: int, most: int) -> Iterator[list[int]]:
    """Yield the ways to write n as a product of radices in falling order."""
    if n == 1:
        yield []
    for radix in range(min(n, most), 1, -1):
        if n % radix == 0 and (radix in RADICES or (radix > WRITTEN_OUT and _prime(radix))):
            for rest in _factorizations(n // radix, radix):
                yield [radix, *rest]


def _prime(n: int) -> bool:
    return all(n % p for p in range(2, n))
