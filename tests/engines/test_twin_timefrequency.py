"""TimeFrequencyScattering against its formulas, written out densely and directly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import TimeFrequencyScattering

ALPHA, SIGMA0, R_PSI = 5.0, 0.1, math.sqrt(0.5)


# --- the formulas ----------------------------------------------------------------------------


def centres(J, Q):
    """(xi, sigma) of one layer: geometric down to the elbow, then evenly spaced."""
    xi, least = max(1 / (1 + 2 ** (3 / Q)), 0.35), SIGMA0 / 2**J
    r = 2 ** (-1 / Q)
    sigma = xi * (1 - r) / (1 + r) / math.sqrt(2 * math.log(1 / R_PSI))
    bank, elbow = [], sigma
    if sigma > least:
        bank.append((xi, sigma))
        while sigma > least * 2 ** (1 / Q):
            xi, sigma = xi / 2 ** (1 / Q), sigma / 2 ** (1 / Q)
            bank.append((xi, sigma))
        elbow = xi
    return bank + [(elbow * (1 - q / Q), least) for q in range(1, Q)]


def octave(xi, sigma):
    return math.floor(-math.log2(min(abs(xi) + ALPHA * sigma, 0.5))) - 1


def gauss(N, xi, sigma):
    """A Gaussian on every period of the frequency axis, folded by the mean."""
    P = min(math.ceil(math.sqrt(-2 * sigma**2 * math.log(1e-7)) + 1), 5)
    k = np.arange((1 - P) * N, P * N) / N
    return np.exp(-((k - xi) ** 2) / (2 * sigma**2)).reshape(-1, N).mean(axis=0)


def unit(f):
    return f / np.abs(np.fft.ifft(f)).sum()


def low(N, sigma):
    return unit(gauss(N, 0.0, sigma))


def morlet(N, xi, sigma):
    g, g0 = gauss(N, xi, sigma), gauss(N, 0.0, sigma)
    return unit(g - g[0] / g0[0] * g0)


def level(f, k):
    """A filter as a signal decimated by 2^k sees it."""
    return f.reshape(2**k, -1).sum(axis=0)


def padded_size(N, T):
    h = np.abs(np.fft.ifft(low(N, SIGMA0 / T)))[: N // 2]
    within = [t for t in range(N // 2) if h[t:].sum() <= 1e-3]
    support = within[0] + 1 if within else N // 2
    return 2 ** min(math.ceil(math.log2(N + 6 * support)), math.floor(math.log2(3 * N - 2)))


def convolve(u, f, k, axis=-1):
    """Convolve and decimate by 2^k: in Fourier, the mean over the aliases."""
    y = np.moveaxis(np.fft.fft(u, axis=axis), axis, -1) * f
    y = np.fft.ifft(y.reshape(*y.shape[:-1], 2**k, -1).mean(axis=-2))
    return np.moveaxis(y, -1, axis)


class Twin:
    """Every coefficient by its key, for signals ``(..., N)``; names as in the formulas."""

    def __init__(self, p):
        self.p, (J, Q) = p, (p["J"], p["Q"])
        self.s, self.q = (
            log2_stride(p, "T", "J", "stride"),
            log2_stride(p, "F", "J_fr", "stride_fr"),
        )
        self.psi1, self.psi2 = centres(J, Q[0]), centres(J, Q[1])
        wavelets = centres(p["J_fr"], p["Q_fr"])
        self.bank = [(0, SIGMA0 / 2 ** p["J_fr"]), *wavelets, *((-xi, s) for xi, s in wavelets)]
        F = self.F = 2 ** p["J_fr"] if p["F"] in (None, 0, "global") else p["F"]
        self.longer = math.floor(math.log2(F)) > p["J_fr"]
        most = 2 ** max(p["J_fr"], math.floor(math.log2(F)))
        room = (J + 1) * Q[0] + 8 * (F if self.longer else min(F, 2 ** p["J_fr"]))
        self.N_fr = max(room // most, math.ceil(len(self.psi1) / most)) * most
        self.N_fr = int(self.N_fr)

    def j_fr(self, n):
        return self.p["J_fr"] if n == 0 else octave(*self.bank[n])

    def decimation(self, j):
        return min(j, self.s) if self.p["T"] not in (0, "global") else j

    def kept(self, u, k):
        """What is kept in time of something at resolution k."""
        if self.p["T"] not in (0, "global"):
            phi = low(self.M, SIGMA0 / (self.p["T"] or 2 ** self.p["J"]))
            u, k = convolve(u, level(phi, k), self.s - k).real, self.s
        inside = u[..., -(-self.left // 2**k) : -(-(self.left + self.N) // 2**k)]
        return inside.mean(axis=-1, keepdims=True) if self.p["T"] == "global" else inside

    def across(self, y, spins):
        """Yield filters along the axis of rows, the last but one, and moduli kept along it."""
        rows = y.shape[-2]
        y = np.concatenate([y, np.zeros((*y.shape[:-2], self.N_fr - rows, y.shape[-1]))], axis=-2)
        for n, (xi, sigma) in enumerate(self.bank):
            if np.sign(xi) not in spins:
                continue
            psi = morlet(self.N_fr, xi, sigma) if xi else low(self.N_fr, sigma)
            k = self.j_fr(n) if self.p["F"] in (0, "global") else min(self.j_fr(n), self.q)
            u = np.abs(convolve(y, psi, k, axis=-2))
            if self.p["F"] == "global":
                u = u[..., : -(-rows // 2**k), :].mean(axis=-2, keepdims=True)
                yield n, u, self.N_fr, rows
                continue
            if self.p["F"] != 0 and (xi or self.longer):
                phi = level(low(self.N_fr, SIGMA0 / self.F), k)
                u, k = convolve(u, phi, self.q - k, axis=-2).real, self.q
            yield n, u, 2**k, rows

    def __call__(self, x):
        """Return ``{(n2 or None, n_fr): (coefficients of rows, stride of rows, rows)}``."""
        self.N = x.shape[-1]
        window = self.p["T"] if self.p["T"] not in (None, 0, "global") else 2 ** self.p["J"]
        self.M = padded_size(self.N, window)
        self.left = (self.M - self.N) // 2
        widths = [(0, 0)] * (x.ndim - 1) + [(self.left, self.M - self.N - self.left)]
        x = np.pad(x, widths, mode="reflect")
        out = {}
        u1, s1 = [], []
        for xi, sigma in self.psi1:
            k1 = self.decimation(octave(xi, sigma))
            u1.append(np.abs(convolve(x, morlet(self.M, xi, sigma), k1)))
            k = 0 if self.p["T"] == 0 else k1
            s1.append(self.kept(np.abs(convolve(x, morlet(self.M, xi, sigma), k)), k))
        for n, u, stride, rows in self.across(np.stack(s1, axis=-2), (0, 1)):
            out[None, n] = u, stride, rows
        for n2, (xi2, sigma2) in enumerate(self.psi2):
            j2, y = octave(xi2, sigma2), []
            for (xi, sigma), u in zip(self.psi1, u1, strict=True):
                if octave(xi, sigma) < j2:
                    k1 = self.decimation(octave(xi, sigma))
                    psi = level(morlet(self.M, xi2, sigma2), k1)
                    y.append(convolve(u, psi, self.decimation(j2) - k1))
            if y:
                for n, u, stride, rows in self.across(np.stack(y, axis=-2), (-1, 0, 1)):
                    out[n2, n] = self.kept(u, self.decimation(j2)), stride, rows
        return self.kept(x, 0), out


def log2_stride(p, T, J, stride):
    window = 2 ** p[J] if p[T] in (None, 0, "global") else p[T]
    return int(math.log2(p[stride])) if p[stride] else math.floor(math.log2(window))


def expected(x, p):
    """Coefficients by their keys, as dicts of either format hold them."""
    twin = Twin(p)
    order_0, found = twin(x)
    out = {(): order_0}
    for (n2, n), (u, stride, rows) in found.items():
        middle = () if n2 is None else (n2,)
        if p["format"] == "joint":
            count = 1 if p["F"] == "global" else min(1 + rows // stride, twin.N_fr // stride)
            out[(*middle, n)] = u[..., :count, :]
        else:
            for row in range(0, rows, stride):
                out[(row, *middle, n)] = u[..., row // stride, :]
    return out


def error(found, wanted):
    assert set(found) == set(wanted)
    scale = max(np.abs(e).max() for e in wanted.values())
    for key, value in wanted.items():
        assert found[key].shape == value.shape, key
    return max(np.abs(found[key] - value).max() for key, value in wanted.items()) / scale


# --- drawn parameters ------------------------------------------------------------------------


@st.composite
def parameters(draw):
    J, Q1 = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    rows = (J + 1) * Q1
    N = draw(st.integers(2**J, 2**J + 150))
    T = draw(st.one_of(st.none(), st.floats(1, N), st.sampled_from([0, "global", 1, N])))
    F = draw(st.one_of(st.none(), st.floats(1, rows), st.sampled_from([0, "global", 1, rows])))
    J_fr = draw(st.integers(1, math.floor(math.log2(2 * rows))))

    def stride(scale, J):
        if scale in (0, "global"):
            return None
        top = math.floor(math.log2(2**J if scale is None else scale))
        return draw(st.one_of(st.none(), st.integers(0, top).map(lambda k: 2**k)))

    return {
        "J": J,
        "J_fr": J_fr,
        "Q": (Q1, draw(st.integers(1, 2))),
        "shape": N,
        "T": T,
        "stride": stride(T, J),
        "Q_fr": draw(st.integers(1, 3)),
        "F": F,
        "stride_fr": stride(F, J_fr),
        "format": draw(st.sampled_from(["time", "joint"])),
    }


@pytest.mark.parametrize("backend", ["plain", "numpy", "torch"])
@settings(max_examples=60)
@given(parameters(), st.sampled_from([(), (1,), (2, 3)]), st.integers(0, 2**32 - 1))
def test_float64_agrees_with_the_dense_formulas_to_rounding(backend, p, batch, seed):
    x = np.random.default_rng(seed).standard_normal((*batch, p["shape"]))
    found = TimeFrequencyScattering(**p, out_type="dict", backend=backend)(x)
    assert all(f.dtype == np.float64 for f in found.values())
    assert error(found, expected(x, p)) < 4e-12


@settings(max_examples=60)
@given(parameters(), st.integers(0, 2**32 - 1))
def test_float32_agrees_with_the_dense_formulas_to_its_own_rounding(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, p["shape"])).astype(np.float32)
    found = TimeFrequencyScattering(**p, out_type="dict")(x)
    assert all(f.dtype == np.float32 for f in found.values())
    assert error(found, expected(x.astype(np.float64), p)) < 2e-6


def test_lengths_with_large_prime_factors_take_another_way_to_the_same_numbers(rng):
    p = {"J": 5, "J_fr": 1, "Q": (83, 1), "shape": 64, "T": None, "stride": None, "Q_fr": 1,
         "F": 2, "stride_fr": None, "format": "joint"}  # fmt: skip
    assert Twin(p).N_fr == 2 * 257
    x = rng.standard_normal((2, 64))
    found = TimeFrequencyScattering(**p, out_type="dict")(x)
    assert error(found, expected(x, p)) < 1e-12
