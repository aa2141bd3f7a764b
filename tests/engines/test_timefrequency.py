"""Time-frequency scattering: what its rows are, and laws that hold for any signal."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import Scattering1D, TimeFrequencyScattering
from scatflow.engines.timefrequency import FrequencyFrame, padded_rows
from scatflow.wavelets.morlet import morlet_1d

FORMATS = ("time", "joint")
formats = pytest.mark.parametrize("format", FORMATS)
PARAMETERS = [
    {},
    {"F": 0},
    {"F": "global", "T": "global"},
    {"F": 7, "stride_fr": 1, "T": 20, "stride": 2},
    {"F": 16, "Q_fr": 2},
]


def periodic(S, x, ragged=False):
    plan = S.plan(x.shape[-1:], x.dtype, "periodic")
    if not ragged:
        return plan.apply(x)
    return dict(zip(plan.paths.keys, plan.apply_ragged(x), strict=True))


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# --- what comes out --------------------------------------------------------------------------


@formats
@pytest.mark.parametrize("more", PARAMETERS, ids=str)
def test_rows_of_meta_are_rows_of_the_array_and_keys_of_the_dict(format, more, rng):
    if more.get("F") == 0 and format == "joint":
        return  # no array holds it; the next test has its lists
    S = TimeFrequencyScattering(5, 2, (4, 2), 256, format=format, **more)
    x = rng.standard_normal((2, 3, 256))
    array = S(x)
    named = dataclasses.replace(S, out_type="dict")(x)
    meta = S.meta()
    assert array.shape == S.output_shape((2, 3, 256))
    assert array.shape[2] == S.output_size() == sum(S.output_size(detail=True)) == len(meta["key"])
    assert [*named][format == "joint" :] == meta["key"]
    for row, key in enumerate(meta["key"]):
        if format == "time":
            np.testing.assert_array_equal(array[:, :, row], named[key])
        else:  # which leaves out rows below the last wavelet
            np.testing.assert_array_equal(
                array[:, :, row, : named[key].shape[2]], named[key], strict=True
            )


@formats
@pytest.mark.parametrize("T", [None, 0])
@pytest.mark.parametrize("F", [None, 0, "global"])
def test_lists_hold_what_dicts_do_and_say_what_meta_says(format, T, F, rng):
    parameters = {"T": T, "F": F, "format": format}
    listed, named = (
        TimeFrequencyScattering(5, 2, (4, 2), 200, **parameters, out_type=out_type)
        for out_type in ("list", "dict")
    )
    x = rng.standard_normal((3, 200))
    meta = listed.meta()
    psi1 = listed.scales()[0]
    for i, (path, (key, coefficient)) in enumerate(zip(listed(x), named(x).items(), strict=True)):
        np.testing.assert_array_equal(path["coef"], coefficient, strict=True)
        assert (*path["n"], *path["n_fr"]) == key == meta["key"][i]
        assert path["spin"] == meta["spin"][i]
        assert path["order"] == meta["order"][i]
        if path["order"] == 0:
            assert coefficient.size
            continue
        assert path["j_fr"] == (meta["j_fr"][i],)
        assert path["n_fr"] == (meta["n_fr"][i],)
        present = meta["j"][i][~np.isnan(meta["j"][i])]
        if format == "joint":
            below = [n for n, psi in enumerate(psi1) if path["order"] == 1 or psi.j < path["j"][-1]]
            assert path["n1_max"] == len(below)
            assert meta["n"][i, 0] == range(0, path["n1_max"], path["n1_stride"])
            assert coefficient.shape[1] >= len(meta["n"][i, 0])
        if format == "joint" or F != "global":
            assert path["j"] == tuple(present)
        assert coefficient.shape[-1] == (7 if T is None else coefficient.shape[-1]) > 0


def test_paths_are_in_the_order_of_their_keys():
    for format in FORMATS:
        keys = TimeFrequencyScattering(6, 3, 8, format=format, out_type="dict").meta()["key"]
        assert keys == sorted(keys, key=lambda key: (len(key), key))


def test_meta_names_the_filters():
    S = TimeFrequencyScattering(6, 3, (8, 2), Q_fr=2)
    meta, (psi1, psi2), bank = S.meta(), S.scales(), S.scales_fr()
    for i, key in enumerate(meta["key"][1:], 1):
        n1, *n2, n_fr = key
        assert meta["xi_fr"][i] == bank[n_fr].xi
        assert meta["sigma_fr"][i] == bank[n_fr].sigma
        assert meta["spin"][i] == np.sign(bank[n_fr].xi)
        assert meta["xi"][i, 0] == psi1[n1].xi
        assert meta["order"][i] == 1 + len(n2)
        if n2:
            assert meta["xi"][i, 1] == psi2[n2[0]].xi
            assert psi2[n2[0]].j > psi1[n1].j
    assert np.isnan(meta["xi_fr"][0])
    assert set(meta["spin"][meta["order"] == 1]) == {0, 1}
    assert set(meta["spin"][meta["order"] == 2]) == {-1, 0, 1}


def test_shapes_are_the_published_ones():
    S = TimeFrequencyScattering(8, 3, 8, 4096)
    assert S.output_shape() == (279, 16)
    assert dataclasses.replace(S, format="joint").output_shape() == (59, 17, 16)
    named = dataclasses.replace(S, format="joint", out_type="dict")
    assert named.output_size() == 60
    assert named(np.zeros((2, 4096)))[3, 1].shape == (2, 2, 16)


def test_labels_are_unique_and_can_be_read():
    for format, example in (("time", "S2 n1=8 n2=5 n_fr=3"), ("joint", "S2 n2=5 n_fr=3")):
        labels = TimeFrequencyScattering(6, 3, 8, format=format).paths().columns["label"].tolist()
        assert example in labels
        assert len(set(labels)) == len(labels)


@formats
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_change_no_bit(format, batch, rng):
    S = TimeFrequencyScattering(6, 3, 8, format=format)
    x = rng.standard_normal((batch, 2048)).astype(np.float32)
    expected = S.plan((2048,)).apply(x)
    for threads in (2, 3):
        found = S.plan((2048,), threads=threads).apply(x)
        np.testing.assert_array_equal(found, expected)


# --- laws ------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([None, 0, "global", 2]),
    st.sampled_from(FORMATS), st.integers(-9, 9), st.integers(0, 2**32),
)  # fmt: skip
def test_coefficients_move_with_the_signal(J, Q, F, format, steps, seed):
    S = TimeFrequencyScattering(J, 1, Q, F=F, format=format, out_type="dict")
    N = 8 * 2**J
    x = np.random.default_rng(seed).standard_normal(N)
    here = periodic(S, x, ragged=True)
    there = periodic(S, np.roll(x, steps * 2**J), ragged=True)
    scale = max(np.abs(u).max() for u in here.values())
    for key, u in here.items():
        np.testing.assert_allclose(there[key], np.roll(u, steps, axis=-1), atol=1e-12 * scale)


@pytest.mark.parametrize("octaves", [1, 2])
def test_transposed_signals_move_by_as_many_rows(octaves):
    # A tone's slow envelope is the same in all wavelets, so an octave is Q first-order wavelets.
    S = TimeFrequencyScattering(11, 3, 8, 2**14, format="joint")
    t = np.arange(2**14)
    envelope = np.exp(-(((t - 8192) / 3000) ** 2)) * (1 + np.cos(2 * np.pi * t / 2048))
    high, low = (
        S(envelope * np.cos(2 * np.pi * f * t)) for f in (0.2, 0.2 / 2**octaves)
    )  # (paths, rows, time)
    meta = S.meta()
    slow = (meta["order"] == 1) | (meta["xi"][:, 1] < 0.002)  # modulations far below both tones
    rows = slice(0, 4)  # away from the lowest wavelets, which the bank cuts off
    moved = low[slow][:, octaves : 4 + octaves]
    scale = np.abs(high[slow]).max()
    assert np.abs(moved - high[slow][:, rows]).max() < 0.05 * scale
    assert np.abs(high[slow][:, octaves : 4 + octaves] - high[slow][:, rows]).max() > 0.2 * scale


@pytest.mark.parametrize("more", [{}, {"F": 0}, {"F": "global"}], ids=str)
def test_time_reversal_exchanges_the_spins(more, rng):
    S = TimeFrequencyScattering(5, 3, 4, T="global", **more)
    x = rng.standard_normal(512)
    meta, here, back = S.meta(), periodic(S, x), periodic(S, np.roll(x[::-1], 1))
    place = {key: i for i, key in enumerate(meta["key"])}
    wavelets = (len(S.scales_fr()) - 1) // 2
    for i, key in enumerate(meta["key"]):
        n_fr = key[-1] if key else 0
        if meta["order"][i] == 2 and n_fr:
            n_fr = n_fr + wavelets if n_fr <= wavelets else n_fr - wavelets
        other = place[(*key[:-1], n_fr)] if key else 0
        # Published filters of negative frequency are mirror images but for the widest ones' tails.
        widest = key and key[-1] in (1, 1 + wavelets)
        np.testing.assert_allclose(back[i], here[other], rtol=1e-3 if widest else 1e-11)


def test_means_are_those_of_what_is_not_averaged(rng):
    x = rng.standard_normal((2, 300))
    for format in FORMATS:
        options = {"J": 5, "J_fr": 2, "Q": 4, "shape": 300, "format": format, "out_type": "dict"}
        mean = TimeFrequencyScattering(T="global", **options)(x)
        kept = TimeFrequencyScattering(T=0, **options)(x)
        second = [key for key in mean if len(key) == (3 if format == "time" else 2)]
        assert second
        for key in second:
            np.testing.assert_allclose(mean[key][..., 0], kept[key].mean(axis=-1), rtol=1e-12)
    options["format"] = "time"
    mean = TimeFrequencyScattering(F="global", **options)(x)
    kept = TimeFrequencyScattering(F=0, **options)(x)
    for key in [key for key in mean if key]:
        rows = [u for other, u in kept.items() if other[1:] == key[1:] and other]
        np.testing.assert_allclose(mean[key], np.mean(rows, axis=0), rtol=1e-12)


def test_averages_are_those_of_what_is_not_averaged(rng):
    N, J = 512, 5
    x = rng.standard_normal(N)
    kept = periodic(TimeFrequencyScattering(J, 2, 4, T=0, out_type="dict"), x, ragged=True)
    found = periodic(TimeFrequencyScattering(J, 2, 4, out_type="dict"), x, ragged=True)
    for key, u in kept.items():
        if len(key) != 3:
            continue  # the first order is averaged before its modulus
        f = np.fft.fftfreq(u.size) * u.size / N
        low = np.fft.ifft(np.fft.fft(u) * np.exp(-((f * 2**J / 0.1) ** 2) / 2)).real
        np.testing.assert_allclose(found[key], low[:: u.size * 2**J // N], atol=1e-9)


@formats
@pytest.mark.parametrize("factor", [2.0**-7, -1024.0, 2.0**90])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_factor_out_to_the_bit(format, factor, dtype, rng):
    S = TimeFrequencyScattering(4, 2, 4, 300, format=format)
    x = rng.standard_normal((2, 300)).astype(dtype)
    y, scaled = S(x), S(x * dtype(factor))
    weights = np.full(y.shape[1:], abs(factor), dtype)
    if format == "time":
        weights[0] = factor  # order 0 is linear
    np.testing.assert_array_equal(scaled, y * weights)


def littlewood_paley(*banks):
    return math.prod(max(sum(np.abs(psi) ** 2 for psi in bank)) for bank in banks)


@pytest.mark.parametrize("more", [{}, {"Q_fr": 2, "F": 3}], ids=str)
def test_coefficients_keep_within_the_littlewood_paley_sums(more, rng):
    # Without decimation, filters alone bound energies and distances: moduli do not expand.
    N = 256
    S = TimeFrequencyScattering(4, 2, (3, 1), stride=1, stride_fr=1, format="joint", **more)
    first, second = ([morlet_1d(N, s.xi, s.sigma).dense() for s in layer] for layer in S.scales())
    first = [
        (np.abs(psi) ** 2 + np.abs(np.roll(psi[::-1], 1)) ** 2) ** 0.5 / 2**0.5 for psi in first
    ]
    frame = FrequencyFrame(S, np.dtype(np.float64), None)
    across = [frame.psi(scale).dense() for scale in S.scales_fr()]
    bound = littlewood_paley(first, across) * (1 + littlewood_paley(second))
    x, y = rng.standard_normal((2, N))
    for signal, distance in ((x, periodic(S, x)), (x - y, periodic(S, x) - periodic(S, y))):
        energy = (distance**2).sum()
        assert 0 < energy <= bound * (signal**2).sum()


# --- closed forms ----------------------------------------------------------------------------


def chirp(N, low, high):
    """A chirp whose log-frequency is linear in time."""
    t = np.arange(N)
    rate = math.log2(high / low) / N  # octaves/sample
    return np.cos(2 * np.pi * low * (2 ** (rate * t) - 1) / (rate * math.log(2))), rate


@pytest.mark.parametrize("Q_fr", [1, 2])
def test_what_rises_excites_one_spin_and_what_falls_the_other(Q_fr):
    S = TimeFrequencyScattering(8, 3, 8, 4096, Q_fr=Q_fr)
    meta = S.meta()
    x, _ = chirp(4096, 0.01, 0.35)
    for spin, signal in ((1, x), (-1, x[::-1])):
        y = S(signal)
        same, other = (y[(meta["order"] == 2) & (meta["spin"] == s)] for s in (spin, -spin))
        assert (same**2).sum() > 3 * (other**2).sum()


def test_a_chirp_s_rate_is_the_ratio_of_its_strongest_path_s_frequencies():
    # The ridge q = const - Q rate t has wave vectors with xi2 = Q rate xi_fr.
    Q = 8
    S = TimeFrequencyScattering(9, 3, Q, 4096)
    meta = S.meta()
    joint = (meta["order"] == 2) & (meta["spin"] == 1)
    for low in (0.02, 0.1):
        x, rate = chirp(4096, low, 0.4)
        best = np.where(joint, (S(x) ** 2).sum(axis=-1), 0).argmax()
        ratio = meta["xi"][best, 1] / meta["xi_fr"][best]
        assert abs(math.log2(ratio / (Q * rate))) < 1.5


def test_the_first_order_is_the_scattering_of_averaged_rows(rng):
    x = rng.standard_normal((2, 600))
    S = TimeFrequencyScattering(5, 2, 4, 600, F=0, format="joint", out_type="dict")
    rows = Scattering1D(5, 600, 4, max_order=1)(x)[:, 1:]  # (2, n1, windows)
    padded = np.zeros((2, padded_rows(S), rows.shape[-1]))
    padded[:, : rows.shape[1]] = rows
    frame = FrequencyFrame(S, np.dtype(np.float64), None)
    found = S(x)
    for n, scale in enumerate(S.scales_fr()):
        if scale.xi >= 0:
            psi = frame.psi(scale).dense()[:, None]
            u = np.abs(np.fft.ifft(np.fft.fft(padded, axis=1) * psi, axis=1))[:, :: 2**scale.j]
            np.testing.assert_allclose(found[n,], u[:, : found[n,].shape[1]], rtol=1e-9, atol=1e-13)


def test_a_constant_signal_has_its_value_in_order_0_and_nothing_else():
    for T in (None, "global"):
        y = TimeFrequencyScattering(5, 2, 4, 512, T=T)(np.full(512, 3.0))
        np.testing.assert_allclose(y[0], 3)
        assert np.abs(y[1:]).max() < 1e-13
