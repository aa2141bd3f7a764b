"""Numbers written down once: Kymatio's main (0.4.0.dev0) on signals anyone can make."""

import numpy as np
import pytest

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.engines.scattering1d import padded_length
from scatflow.engines.scattering2d import wavelet
from scatflow.wavelets.morlet import lowpass_2d

BANKS = [
    (
        5, 1, 1024,
        "0.35000,0.14013,0 0.17500,0.07007,0 0.08750,0.03503,0 0.04375,0.01752,1 "
        "0.02187,0.00876,2 0.01094,0.00438,3",
        6,
        "0.35000,0.14013,0 0.17500,0.07007,0 0.08750,0.03503,0 0.04375,0.01752,1 "
        "0.02187,0.00876,2 0.01094,0.00438,3",
        6,
    ),
    (
        3, 4, 1024,
        "0.37288,0.03871,0 0.31356,0.03255,0 0.26367,0.02737,0 0.22172,0.02302,0 "
        "0.18644,0.01935,0 0.15678,0.01628,1 0.13183,0.01369,1 0.09888,0.01250,1",
        10,
        "0.35000,0.14013,0 0.17500,0.07007,0 0.08750,0.03503,0 0.04375,0.01752,1",
        4,
    ),
    (
        6, (8, 2), 1024,
        "0.43538,0.02264,0 0.39925,0.02076,0 0.36611,0.01904,0 0.33572,0.01746,0 "
        "0.30786,0.01601,0 0.28231,0.01468,0 0.25888,0.01346,0 0.23739,0.01234,0",
        38,
        "0.35000,0.07213,0 0.24749,0.05100,0 0.17500,0.03606,0 0.12374,0.02550,0 "
        "0.08750,0.01803,1 0.06187,0.01275,1 0.04375,0.00902,2 0.03094,0.00638,2",
        13,
    ),
]  # fmt: skip

ANCHOR_1D = """
1.64798730e-16 8.73678039e-02 2.80744187e-01 4.79750678e-01 3.65835248e-03 2.23952801e-15
7.02563008e-16 1.80477728e-03 5.28914987e-03 1.64386323e-02 5.78024709e-03 1.69397992e-02
5.26488064e-02 9.67007552e-03 2.83462200e-02 8.80946996e-02 3.26263901e-04 9.60195512e-04
8.53483950e-16
"""

ANCHOR_2D = """
1.476861e-02 1.891299e-01 1.777864e-01 4.794516e-02 5.268335e-02 3.682986e-01 3.464840e-01
4.891457e-02 5.924021e-02 6.787962e-03 6.047163e-03 2.025832e-04 2.768203e-04 3.602275e-03
3.212611e-03 1.115269e-04 1.508630e-04 3.324867e-03 2.943664e-03 1.053552e-04 1.361383e-04
3.442491e-03 3.056548e-03 1.103666e-04 1.472839e-04
"""

ANCHOR_3D = """
5.901228e+01 1.062023e+01 3.211437e+01 1.902052e+00 1.818405e+01 4.477542e-01 5.901228e+01
4.203697e+00 4.427478e+01 1.461855e+00 3.470197e+01 6.405925e-01 5.901228e+01 3.425352e+00
1.958519e+01 1.946128e-01 6.133899e+00 1.252472e-02
"""


def numbers(text):
    return np.array(text.split(), float)


@pytest.mark.parametrize(("J", "Q", "N", "first", "n1", "second", "n2"), BANKS)
def test_banks_have_the_published_centres_widths_and_octaves(J, Q, N, first, n1, second, n2):
    S = Scattering1D(J, N, Q)
    for scales, text, count in zip(S.scales(), (first, second), (n1, n2), strict=True):
        rows = [tuple(float(v) for v in row.split(",")) for row in text.split()]
        assert len(scales) == count
        found = [(round(p.xi, 5), round(p.sigma, 5), p.j) for p in scales[: len(rows)]]
        np.testing.assert_allclose(found, rows, atol=1.01e-5)
        assert [row[2] for row in rows] == [p.j for p in scales[: len(rows)]]
    assert padded_length(N, S.window) == 2048


def test_a_modulated_cosine_gives_the_published_signal_coefficients():
    t = np.arange(1024)
    x = np.cos(0.2 * np.pi * t) * (1 + 0.5 * np.cos(2 * np.pi * t / 128))
    S = Scattering1D(5, 1024)
    y = S(x)
    assert y.shape == (19, 32)
    np.testing.assert_allclose(y[:, 16], numbers(ANCHOR_1D), rtol=1e-8, atol=1e-14)
    assert S.meta()["key"] == [
        (), (0,), (1,), (2,), (3,), (4,), (5,), (0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5),
        (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("J", "Q", "sizes"),
    [
        (3, 8, (1, 14, 9)),
        (6, 8, (1, 38, 87)),
        (6, 16, (1, 63, 158)),
        (8, 1, (1, 9, 33)),
        (8, 8, (1, 54, 179)),
        (10, 8, (1, 70, 303)),
        (11, 1, (1, 12, 63)),
        (13, 12, (1, 136, 810)),
    ],
)
def test_orders_have_the_published_sizes(J, Q, sizes):
    S = Scattering1D(J, Q=Q)
    assert S.output_size(detail=True) == sizes
    assert S.output_size() == sum(sizes)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (19, 32)),
        ({"T": 8}, (19, 128)),
        ({"T": 100}, (19, 16)),
        ({"T": 1}, (19, 1024)),
        ({"stride": 4}, (19, 256)),
        ({"stride": 1}, (19, 1024)),
        ({"T": "global"}, (19, 1)),
    ],
)
def test_averaging_and_stride_give_the_published_shapes(options, shape):
    S = Scattering1D(5, 1024, **options)
    assert S.output_shape() == shape
    assert S(np.ones(1024)).shape == shape


def test_a_plane_wave_on_a_ramp_gives_the_published_image_coefficients():
    u, v = np.mgrid[:32, :32]
    y = Scattering2D(2, (32, 32), L=4)(np.cos(0.9 * u + 0.4 * v) + 0.1 * u / 32)
    assert y.shape == (25, 8, 8)
    # Published with single-precision filters.
    np.testing.assert_allclose(y[:, 3, 4], numbers(ANCHOR_2D), rtol=2e-5, atol=1e-7)


def test_image_filters_have_the_published_peaks():
    S = Scattering2D(2, (32, 32), L=4)
    assert S.padded_shape == (40, 40)
    phi = np.multiply.outer(*lowpass_2d((40, 40), 1.6))
    assert phi[0, 0] == pytest.approx(1.0000294, abs=1e-7)
    assert phi.sum() == pytest.approx(99.474770, abs=1e-4)
    peaks = {
        (0, 0): (0.972257, (11, 11)), (0, 1): (0.968919, (15, 0)), (0, 2): (0.972257, (11, 29)),
        (0, 3): (0.968919, (0, 25)), (1, 0): (0.959348, (5, 5)), (1, 1): (0.969744, (8, 0)),
        (1, 2): (0.959348, (5, 35)), (1, 3): (0.969744, (0, 32)),
    }  # fmt: skip
    for (j, theta), (peak, where) in peaks.items():
        psi = wavelet(S, (40, 40), j, theta)
        assert psi.max() == pytest.approx(peak, abs=1e-6)
        assert psi[where] == pytest.approx(psi.max(), abs=1e-6)


def test_two_gaussians_give_the_published_volume_coefficients():
    z, y, x = np.mgrid[:16, :16, :16] - 8

    def squared(c):
        return (z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2

    volume = np.exp(-squared((1, 0, -2)) / 4) + 0.5 * np.exp(-squared((-2, 3, 0)) / 3)
    S = HarmonicScattering3D(1, (16, 16, 16), L=2, integral_powers=(1, 2))
    found = S(volume)
    assert found.shape == (3, 3, 2)
    # Published as float32 sums.
    np.testing.assert_allclose(found, numbers(ANCHOR_3D).reshape(3, 3, 2), rtol=2e-6)
