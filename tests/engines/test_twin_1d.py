"""Scattering1D against its formulas, written out densely and directly."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scatflow import Scattering1D

ALPHA, SIGMA0, R_PSI = 5.0, 0.1, math.sqrt(0.5)


# --- the formulas ----------------------------------------------------------------------------


def centres(J, Q):
    """(xi, sigma, j) of one layer: geometric down to the elbow, then evenly spaced."""
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
    bank += [(elbow * (1 - q / Q), least) for q in range(1, Q)]
    return [(x, s, math.floor(-math.log2(min(x + ALPHA * s, 0.5))) - 1) for x, s in bank]


def gauss(N, xi, sigma):
    """A Gaussian on every period of the frequency axis, folded by the mean."""
    P = min(math.ceil(math.sqrt(-2 * sigma**2 * math.log(1e-7)) + 1), 5)
    k = np.arange((1 - P) * N, P * N) / N
    if P == 1:  # continuous where the periods meet
        k = np.fft.fftfreq(N) if xi == 0 else np.arange(N) / N
    return np.exp(-((k - xi) ** 2) / (2 * sigma**2)).reshape(-1, N).mean(axis=0)


def unit(f):
    return f / np.abs(np.fft.ifft(f)).sum()


def low(N, sigma):
    return unit(gauss(N, 0.0, sigma))


def morlet(N, xi, sigma):
    g, g0 = gauss(N, xi, sigma), gauss(N, 0.0, sigma)
    return unit(g - g[0] / g0[0] * g0)


def level(f, k, mean=False):
    """A filter as a signal decimated by 2^k sees it."""
    folded = f.reshape(2**k, -1)
    return folded.mean(axis=0) if mean else folded.sum(axis=0)


def padded_size(N, T):
    h = np.abs(np.fft.ifft(low(N, SIGMA0 / T)))[: N // 2]
    within = [t for t in range(N // 2) if h[t:].sum() <= 1e-3]
    support = within[0] + 1 if within else N // 2
    return 2 ** min(math.ceil(math.log2(N + 6 * support)), math.floor(math.log2(3 * N - 2)))


def by_fft(u, f, k):
    """Convolve and decimate by 2^k: in Fourier, the mean over the aliases."""
    y = np.fft.fft(u) * f
    return np.fft.ifft(y.reshape(*y.shape[:-1], 2**k, -1).mean(axis=-2))


def by_hand(u, f, k):
    """The same as a sum over samples, with a filter whose inverse DFT is also a plain sum."""
    N = f.size
    t = np.arange(N)
    psi = np.exp(2j * np.pi * np.outer(t, t) / N) @ f / N
    circulant = psi[(t[:, None] - t) % N]  # row t holds psi(t - s)
    return (u @ circulant.T)[..., :: 2**k]


def cascade(x, J, Q, T, log2_stride, max_order, convolve=by_fft, mean=False, periodic=False):
    """Every coefficient by its key; T=0 keeps the moduli and "global" takes their means."""
    N, window = x.shape[-1], 2**J if T in (None, 0, "global") else T
    M = N if periodic else padded_size(N, window)
    left = (M - N) // 2
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(left, M - N - left)], mode="reflect")
    local = T not in (0, "global")
    s = log2_stride
    phi = low(M, SIGMA0 / window)
    psi1, psi2 = centres(J, Q[0]), centres(J, Q[1])

    def decimation(j):
        if not local:
            return j
        if mean:  # Kymatio's releases: as finer as the output is finer than T asks for
            largest = math.floor(math.log2(window))
            return max(min(j, largest) - (largest - s), 0)
        return min(j, s)

    def kept(u, k):
        if local:
            u, k = convolve(u, level(phi, k, mean), s - k).real, s
        inside = u[..., -(-left // 2**k) : -(-(left + N) // 2**k)]
        return inside.mean(axis=-1, keepdims=True) if T == "global" else inside

    out = {(): kept(x, 0)}
    for n1, (xi1, sigma1, j1) in enumerate(psi1):
        k1 = decimation(j1)
        u1 = np.abs(convolve(x, morlet(M, xi1, sigma1), k1))
        out[n1,] = kept(u1, k1)
        for n2, (xi2, sigma2, j2) in enumerate(psi2):
            if max_order == 2 and j2 > j1:
                k2 = decimation(j2)
                psi = level(morlet(M, xi2, sigma2), k1, mean)
                out[n1, n2] = kept(np.abs(convolve(u1, psi, k2 - k1)), k2)
    return out


def ordered(out):
    return [out[key] for key in sorted(out, key=lambda key: (len(key), key))]


def error(found, expected):
    scale = max(np.abs(e).max() for e in expected)
    return max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) / scale


# --- drawn parameters ------------------------------------------------------------------------

# Normalising a filter that hardly meets a bin of a tiny grid amplifies rounding to 2e-12.


@st.composite
def parameters(draw):
    J = draw(st.integers(1, 6))
    N = draw(st.integers(2**J, 2**J + 400))
    T = draw(st.one_of(st.none(), st.floats(1, N), st.sampled_from([0, "global", 1, N])))
    stride = None
    if T not in (0, "global"):
        top = math.floor(math.log2(2**J if T is None else T))
        stride = draw(st.one_of(st.none(), st.integers(0, top).map(lambda k: 2**k)))
    return {
        "J": J,
        "shape": N,
        "Q": (draw(st.integers(1, 10)), draw(st.integers(1, 3))),
        "T": T,
        "stride": stride,
        "max_order": draw(st.sampled_from([1, 2])),
        "out_type": "list",
    }


def log2_stride(p):
    window = 2 ** p["J"] if p["T"] in (None, 0, "global") else p["T"]
    return int(math.log2(p["stride"])) if p["stride"] else math.floor(math.log2(window))


def twin(x, p, **how):
    return ordered(cascade(x, p["J"], p["Q"], p["T"], log2_stride(p), p["max_order"], **how))


@settings(max_examples=120)
@given(parameters(), st.sampled_from([(), (1,), (2, 3)]), st.integers(0, 2**32 - 1))
def test_float64_agrees_with_the_dense_cascade_to_rounding(p, batch, seed):
    x = np.random.default_rng(seed).standard_normal((*batch, p["shape"]))
    found = [path["coef"] for path in Scattering1D(**p)(x)]
    assert all(f.dtype == np.float64 for f in found)
    assert error(found, twin(x, p)) < 4e-12


@settings(max_examples=60)
@given(parameters(), st.integers(0, 2**32 - 1))
def test_float32_agrees_with_the_dense_cascade_to_its_own_rounding(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, p["shape"])).astype(np.float32)
    found = [path["coef"] for path in Scattering1D(**p)(x)]
    assert all(f.dtype == np.float32 for f in found)
    assert error(found, twin(x.astype(np.float64), p)) < 2e-6


@settings(max_examples=40)
@given(parameters(), st.integers(0, 2**32 - 1))
def test_the_old_scaling_folds_filters_by_the_mean(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, p["shape"]))
    found = [path["coef"] for path in Scattering1D(**p, scaling="kymatio-0.3")(x)]
    assert error(found, twin(x, p, mean=True)) < 4e-12


@settings(max_examples=40)
@given(parameters(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_periodic_plan_is_the_cascade_without_padding(p, periods, seed):
    p.pop("shape")
    assume(p["T"] != "global")
    S = Scattering1D(**p)
    N = S.coarsest * math.ceil(max(2**S.J, S.window) / S.coarsest) * periods
    assume(4 <= N <= 2000)
    x = np.random.default_rng(seed).standard_normal((2, N))
    plan = S.plan((N,), np.float64, "periodic")
    found = plan.apply_ragged(x) if p["T"] == 0 else list(np.moveaxis(plan.apply(x), -2, 0))
    expected = ordered(
        cascade(x, p["J"], p["Q"], p["T"], log2_stride(p), p["max_order"], periodic=True)
    )
    assert error(found, expected) < 1e-12


@pytest.mark.parametrize(
    "p",
    [
        {"J": 1, "shape": 7, "Q": (1, 1), "T": None, "stride": None, "max_order": 2},
        {"J": 2, "shape": 13, "Q": (2, 1), "T": None, "stride": None, "max_order": 2},
        {"J": 3, "shape": 31, "Q": (3, 2), "T": 5.5, "stride": 2, "max_order": 2},
        {"J": 3, "shape": 40, "Q": (1, 1), "T": 0, "stride": None, "max_order": 2},
        {"J": 4, "shape": 53, "Q": (1, 1), "T": None, "stride": 4, "max_order": 2},
        {"J": 4, "shape": 48, "Q": (2, 1), "T": "global", "stride": None, "max_order": 2},
        {"J": 2, "shape": 16, "Q": (8, 1), "T": 16, "stride": 16, "max_order": 1},
    ],
    ids=lambda p: f"J{p['J']}-N{p['shape']}-Q{p['Q'][0]}-T{p['T']}",
)
def test_short_signals_agree_with_sums_over_samples(p, rng):
    x = rng.standard_normal((2, p["shape"]))
    found = [path["coef"] for path in Scattering1D(**p, out_type="list")(x)]
    assert error(found, twin(x, p, convolve=by_hand)) < 1e-12
