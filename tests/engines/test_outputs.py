"""What comes out: forms, shapes, and the rows that meta() describes."""

import math

import numpy as np
import pytest

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D

AVERAGED = [
    (Scattering1D, {"J": 5, "shape": 300, "Q": (4, 2)}),
    (Scattering1D, {"J": 4, "shape": 128, "max_order": 1, "T": 50, "stride": 2}),
    (Scattering1D, {"J": 4, "shape": 128, "T": "global"}),
    (Scattering2D, {"J": 2, "shape": (20, 33), "L": 3}),
    (Scattering2D, {"J": 3, "shape": (16, 16), "L": 2, "max_order": 1, "pyramid": "fold"}),
]


@pytest.mark.parametrize(("cls", "options"), AVERAGED, ids=str)
def test_array_list_and_dict_hold_the_same_coefficients(cls, options, rng):
    x = rng.standard_normal((2, 3, *np.atleast_1d(options["shape"])))
    array, listed, named = (cls(**options, out_type=t)(x) for t in ("array", "list", "dict"))
    keys = cls(**options).meta()["key"]
    assert [path["n"] for path in listed] == keys == list(named)
    axis = -1 - cls.ndim
    for row, (path, coefficient) in enumerate(zip(listed, named.values(), strict=True)):
        expected = np.take(array, row, axis=axis)
        np.testing.assert_array_equal(path["coef"], expected)
        np.testing.assert_array_equal(coefficient, expected)


@pytest.mark.parametrize(("cls", "options"), AVERAGED, ids=str)
def test_meta_has_one_row_per_row_of_the_output(cls, options):
    S = cls(**options)
    meta = S.meta()
    count = S.output_shape()[0]
    assert count == S.output_size() == sum(S.output_size(detail=True)) == len(meta["key"])
    for name, values in meta.items():
        if name != "key":
            assert len(values) == count
    assert [len(key) for key in meta["key"]] == meta["order"].tolist()
    assert len(S.output_size(detail=True)) == S.max_order + 1
    assert meta["n"].shape == (count, S.max_order)


@pytest.mark.parametrize(("cls", "options"), AVERAGED, ids=str)
def test_meta_is_nan_where_a_path_has_no_second_wavelet(cls, options):
    meta = cls(**options).meta()
    for name in set(meta) - {"order", "key"}:
        present = np.arange(meta[name].shape[1]) < meta["order"][:, None]
        np.testing.assert_array_equal(np.isnan(meta[name]), ~present)


def test_lists_of_signal_paths_carry_kymatio_s_labels(rng):
    S = Scattering1D(4, 128, out_type="list")
    meta = S.meta()
    for i, path in enumerate(S(rng.standard_normal(128))):
        order = meta["order"][i]
        assert path["order"] == order
        assert path["j"] == tuple(int(j) for j in meta["j"][i, :order])
        assert path["n"] == tuple(int(n) for n in meta["n"][i, :order])


def test_lists_of_image_paths_carry_kymatio_s_labels(rng):
    S = Scattering2D(2, (16, 16), L=3, out_type="list")
    meta = S.meta()
    for i, path in enumerate(S(rng.standard_normal((16, 16)))):
        order = meta["order"][i]
        assert path["order"] == order
        assert path["n"] == tuple(3 * j + t for j, t in zip(path["j"], path["theta"], strict=True))
        np.testing.assert_array_equal(path["j"], meta["j"][i, :order])
        np.testing.assert_array_equal(path["theta"], meta["theta"][i, :order])


def test_each_row_of_signals_answers_to_the_frequency_that_meta_names():
    N = 4096
    S = Scattering1D(5, N, Q=8, max_order=1)
    meta = S.meta()
    for row in (3, 12, 20):
        f = round(meta["xi"][row, 0] * N) / N
        y = S(np.cos(2 * np.pi * f * np.arange(N))).mean(axis=1)
        assert y[1:].argmax() + 1 == row


def test_each_row_of_images_answers_to_the_wave_that_meta_names():
    u, v = np.mgrid[:64, :64]
    S = Scattering2D(3, (64, 64), L=8, max_order=1)
    meta = S.meta()
    for row in (2, 9, 12, 20):
        k, angle = 2 * np.pi * meta["xi"][row, 0], meta["angle"][row, 0]
        y = S(np.cos(k * (u * math.cos(angle) + v * math.sin(angle)))).mean(axis=(1, 2))
        assert y[1:].argmax() + 1 == row


def test_second_order_paths_go_to_coarser_octaves_only():
    for S in (Scattering1D(6, Q=(8, 2)), Scattering2D(3, L=4)):
        j = S.meta()["j"]
        second = j[S.meta()["order"] == 2]
        assert np.all(second[:, 1] > second[:, 0])


# --- without averaging, and over everything --------------------------------------------------


def test_moduli_keep_their_own_sampling(rng):
    N, S = 1000, Scattering1D(5, 1000, Q=2, T=0, out_type="list")
    x = rng.standard_normal((2, N))
    for path in S(x):
        step = 2 ** path["j"][-1] if path["j"] else 1
        assert path["coef"].shape[0] == 2
        assert abs(path["coef"].shape[1] - N / step) <= 1
    np.testing.assert_array_equal(S(x)[0]["coef"], x)


def test_global_coefficients_are_the_means_of_the_moduli(rng):
    x = rng.standard_normal((2, 777))
    moduli = Scattering1D(5, 777, Q=3, T=0, out_type="dict")(x)
    means = Scattering1D(5, 777, Q=3, T="global", out_type="dict")(x)
    assert list(means) == list(moduli)
    for key, mean in means.items():
        assert mean.shape == (2, 1)
        np.testing.assert_allclose(mean[:, 0], moduli[key].mean(axis=-1), rtol=1e-12, atol=1e-15)


def test_averaging_moduli_by_hand_gives_the_coefficients(rng):
    # Finely sampled moduli, low-passed in Fourier, seen at the windows: order 1 of the transform.
    N, J = 2048, 4
    S = Scattering1D(J, Q=2, stride=1, max_order=1)
    moduli = Scattering1D(J, Q=2, T=0, out_type="list", max_order=1)
    x = rng.standard_normal(N)
    fine = S.plan((N,), np.float64, "periodic").apply(x)
    f = np.fft.fftfreq(N)
    gauss = np.exp(-(f**2) / (2 * (0.1 / 2**J) ** 2))
    kept = moduli.plan((N,), np.float64, "periodic").apply_ragged(x)
    for row, u in zip(fine[1:], kept[1:], strict=True):
        if u.size == N:  # octave 0: not decimated
            smooth = np.fft.ifft(np.fft.fft(u) * gauss).real
            np.testing.assert_allclose(row, smooth, atol=1e-13)


# --- volumes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_order", [1, 2])
def test_volumes_have_scales_degrees_and_powers(max_order, rng):
    S = HarmonicScattering3D(
        2, (8, 9, 10), L=2, max_order=max_order, integral_powers=(0.5, 1, 2, 3)
    )
    rows = 3 if max_order == 1 else 6
    assert S(rng.standard_normal((5, 8, 9, 10))).shape == (5, rows, 3, 4)
    assert S.output_size() == rows
    assert S.output_size(detail=True) == (0, 3, 3)[: max_order + 1]
    meta = S.meta()
    assert meta["key"] == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)][:rows]
    assert meta["l"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(meta["sigma"], 2.0 ** meta["j"])


def test_maps_of_volumes_are_decimated_by_the_largest_scale(rng):
    S = HarmonicScattering3D(2, L=1, method="standard")
    x = rng.standard_normal((9, 8, 11))
    assert S(x).shape == S.output_shape((9, 8, 11)) == (6, 2, 3, 2, 3)


def test_values_at_points_are_those_of_the_moduli_there(rng):
    points = [(0, 0, 0), (4, 5, 6)]
    S = HarmonicScattering3D(1, (8, 8, 8), L=1, method="local", points=points)
    x = rng.standard_normal((8, 8, 8))
    assert S(x).shape == (3, 2, 2)
    moved = S(np.roll(x, (4, 5, 6), axis=(0, 1, 2)))
    np.testing.assert_allclose(moved[..., 1], S(x)[..., 0], rtol=1e-12)


@pytest.mark.parametrize("S", [Scattering1D(4), Scattering2D(2, L=2), HarmonicScattering3D(1)])
def test_the_output_s_shape_is_known_beforehand(S, rng):
    shape = {1: (100,), 2: (17, 20), 3: (6, 7, 8)}[S.ndim]
    for batch in ((), (2,), (3, 1)):
        x = rng.standard_normal((*batch, *shape))
        assert S(x).shape == S.output_shape((*batch, *shape))


def test_labels_can_be_read_by_a_person():
    for S, example in (
        (Scattering1D(3, 64), "S2 n1=0 n2=3"),
        (Scattering2D(2, (8, 8), L=2), "S2 j1=0 theta1=1 j2=1 theta2=0"),
        (HarmonicScattering3D(1, (8, 8, 8), L=2), "S2 j1=0 j2=1 l=2"),
    ):
        labels = S.plan().paths.columns["label"].tolist()
        assert example in labels
        assert len(set(labels)) == len(labels)
