"""What is refused, when, and in which words: Kymatio's types and fragments where it has them."""

import math

import numpy as np
import pytest

from scatflow import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)
from scatflow.errors import ScatflowError

nan, inf = math.nan, math.inf

ONE = [
    ({"J": 0}, ValueError, "J must be at least 1"),
    ({"J": 3.0}, ValueError, "J must be an integer"),
    ({"J": nan}, ValueError, "J must be an integer"),
    ({"J": True}, ValueError, "J must be an integer"),
    ({"J": 7}, ValueError, "wavelets of 128 samples, but the signal has 64.*Take J <= 6"),
    ({"shape": (64, 64)}, ValueError, "must have exactly one element"),
    ({"shape": "64"}, ValueError, "shape must be an integer or a 1-tuple"),
    ({"shape": 64.0}, ValueError, "shape must be an integer or a 1-tuple"),
    ({"shape": True}, ValueError, "shape must be an integer or a 1-tuple"),
    ({"shape": 0}, ValueError, "shape must be positive"),
    ({"shape": -5}, ValueError, "shape must be positive"),
    ({"Q": 0}, ValueError, "Q must always be >= 1"),
    ({"Q": (8, 0)}, ValueError, "Q must always be >= 1"),
    ({"Q": ()}, ValueError, "Q must always be >= 1"),
    ({"Q": [8, 1]}, ValueError, "Q must be an integer or a tuple"),
    ({"Q": 0.9}, ValueError, "Q must always be >= 1"),
    ({"Q": 1.5}, ValueError, "Q must be an integer or a tuple"),
    ({"Q": (8, 1, 1)}, NotImplementedError, "Scattering transforms beyond order 2 are not imp"),
    ({"T": 65}, ValueError, "support T of the low-pass filter cannot exceed input length"),
    ({"T": 0.5}, ValueError, "T must be ==0 or >=1"),
    ({"T": -3}, ValueError, "T must be ==0 or >=1"),
    ({"T": nan}, ValueError, "T must be finite"),
    ({"T": inf}, ValueError, "T must be finite"),
    ({"T": "local"}, ValueError, "T must be a number"),
    ({"T": True}, ValueError, "T must be a number"),
    ({"T": 0}, ValueError, "Cannot convert to out_type='array' with T=0. Please set out_type"),
    ({"stride": 2.0}, ValueError, "stride must be integer"),
    ({"stride": nan}, ValueError, "stride must be integer"),
    ({"stride": 3}, ValueError, "power of two"),
    ({"stride": 0}, ValueError, "power of two"),
    ({"stride": -4}, ValueError, "power of two"),
    ({"stride": 16}, ValueError, "exceeds the averaging scale T=8"),
    ({"T": 5.5, "stride": 8}, ValueError, "exceeds the averaging scale T=5.5"),
    ({"T": 0, "stride": 2, "out_type": "list"}, ValueError, "incompatible"),
    ({"T": "global", "stride": 2}, ValueError, "incompatible"),
    ({"max_order": 0}, ValueError, "max_order must be at least 1"),
    ({"max_order": 3}, ValueError, "max_order must be one of 1, 2"),
    ({"oversampling": -1}, ValueError, "oversampling must be"),
    ({"oversampling": 1.5}, ValueError, "oversampling must be an integer"),
    ({"out_type": "tuple"}, ValueError, "out_type must be one of"),
    ({"backend": "jax"}, ValueError, "backend must be None or one of 'numpy'"),
    ({"scaling": "kymatio-0.2"}, ValueError, "scaling must be one of"),
]

TWO = [
    ({"J": 0}, ValueError, "J must be at least 1"),
    ({"J": 5}, ValueError, "The smallest dimension should be larger than 2\\^J"),
    ({"shape": 32}, ValueError, "shape must be a tuple of 2 integers"),
    ({"shape": (32,)}, ValueError, "shape must have exactly two elements"),
    ({"shape": (32, 16.5)}, ValueError, "shape must be a tuple of 2 integers"),
    ({"shape": (0, 16)}, ValueError, "shape must be positive"),
    ({"L": 0}, ValueError, "L must be at least 1"),
    ({"L": nan}, ValueError, "L must be an integer"),
    ({"max_order": 3}, ValueError, "max_order must be one of 1, 2"),
    ({"pre_pad": 1}, TypeError, "pre_pad must be True or False"),
    ({"out_type": "tuple"}, ValueError, "out_type must be one of 'array', 'list', 'dict'"),
    ({"pyramid": "laplace"}, ValueError, "pyramid must be one of 'scatnet', 'fold'"),
    ({"backend": 3}, ValueError, "backend must be None or one of"),
]

THREE = [
    ({"J": -1}, ValueError, "J must be at least 0"),
    ({"J": 4}, ValueError, "wavelets of 16 voxels, wider than the volume of 8 x 9 x 10"),
    ({"shape": (8, 8)}, ValueError, "shape must have exactly three elements"),
    ({"shape": 8}, ValueError, "shape must be a tuple of 3 integers"),
    ({"L": -1}, ValueError, "L must be at least 0"),
    ({"L": 1.0}, ValueError, "L must be an integer"),
    ({"sigma_0": 0}, ValueError, "sigma_0 must be positive"),
    ({"sigma_0": -1.0}, ValueError, "sigma_0 must be positive"),
    ({"sigma_0": nan}, ValueError, "sigma_0 must be finite"),
    ({"sigma_0": inf}, ValueError, "sigma_0 must be finite"),
    ({"sigma_0": "1"}, ValueError, "sigma_0 must be a number"),
    ({"max_order": 0}, ValueError, "max_order must be at least 1"),
    ({"rotation_covariant": 1}, TypeError, "rotation_covariant must be True or False"),
    ({"method": "sum"}, ValueError, "method must be"),
    ({"method": "local"}, ValueError, "Pass points="),
    ({"points": [(1, 2, 3)]}, ValueError, "points belong to method='local'"),
    ({"method": "local", "points": [(1, 2)]}, ValueError, "points must be a list of"),
    ({"method": "local", "points": []}, ValueError, "points must be a list of"),
    ({"method": "local", "points": [(1, 2, nan)]}, ValueError, "points must be finite"),
    ({"method": "local", "points": [(8, 0, 0)]}, ValueError, "the first at \\(8, 0, 0\\)"),
    ({"method": "local", "points": [(0, -1, 0)]}, ValueError, "outside the volume"),
    ({"integral_powers": ()}, ValueError, "integral_powers must be a tuple"),
    ({"integral_powers": 2.0}, ValueError, "integral_powers must be a tuple"),
    ({"integral_powers": (1.0, nan)}, ValueError, "integral_powers must be finite"),
    ({"integral_powers": (1.0, 0.0)}, ValueError, "integral_powers must be positive"),
    ({"integral_powers": ("1",)}, ValueError, "integral_powers must be a number"),
]

JOINT = [
    ({"J": 0}, ValueError, "J must be at least 1"),
    ({"J": 7}, ValueError, "TimeFrequencyScattering\\(J=7\\) has wavelets of 128 samples"),
    ({"J_fr": 0}, ValueError, "J_fr must be at least 1"),
    ({"J_fr": 6}, ValueError, "Take J_fr <= 5"),
    ({"J_fr": 2.0}, ValueError, "J_fr must be an integer"),
    ({"Q": 0}, ValueError, "Q must always be >= 1"),
    ({"Q": (8, 1, 1)}, NotImplementedError, "beyond order 2 are not implemented"),
    ({"Q_fr": 0.9}, ValueError, "Q_fr must be >= 1"),
    ({"Q_fr": [1]}, ValueError, "Q_fr must be an integer or 1-tuple"),
    ({"Q_fr": 1.5}, ValueError, "Q_fr must be an integer or 1-tuple"),
    ({"Q_fr": ()}, ValueError, "Q_fr must be an integer or 1-tuple"),
    ({"Q_fr": (1, 2)}, NotImplementedError, "Q_fr must be an integer or 1-tuple"),
    ({"shape": (64, 2)}, ValueError, "shape must have exactly one element"),
    ({"T": 65}, ValueError, "support T of the low-pass filter cannot exceed input length"),
    ({"T": 0.5}, ValueError, "T must be ==0 or >=1"),
    ({"T": 0}, ValueError, "Cannot convert to out_type='array' with T=0. Please set out_type"),
    ({"stride": 3}, ValueError, "stride must be a power of two"),
    ({"stride": 16}, ValueError, "exceeds the averaging scale T=8"),
    ({"F": 17}, ValueError, "support F of the low-pass filter cannot exceed input length"),
    ({"F": 0.5}, ValueError, "F must be ==0 or >=1"),
    ({"F": nan}, ValueError, "F must be finite"),
    ({"F": "local"}, ValueError, "F must be a number"),
    ({"F": 0, "format": "joint"}, ValueError, "Cannot convert to out_type='array' with format"),
    ({"stride_fr": 3}, ValueError, "stride_fr must be a power of two"),
    ({"stride_fr": 2.0}, ValueError, "stride_fr must be integer"),
    ({"stride_fr": 8}, ValueError, "exceeds the averaging scale F=4"),
    ({"stride_fr": 1, "F": 0}, ValueError, "incompatible"),
    ({"stride_fr": 1, "F": "global"}, ValueError, "incompatible"),
    ({"out_type": "tuple"}, ValueError, "out_type must be one of"),
    ({"format": "both"}, ValueError, "format must be one of 'time', 'joint'"),
    ({"backend": "jax"}, ValueError, "backend must be None or one of"),
]

CASES = [
    *((Scattering1D, {"J": 3, "shape": 64}, *case) for case in ONE),
    *((Scattering2D, {"J": 2, "shape": (16, 24)}, *case) for case in TWO),
    *((HarmonicScattering3D, {"J": 1, "shape": (8, 9, 10)}, *case) for case in THREE),
    *((TimeFrequencyScattering, {"J": 3, "J_fr": 2, "Q": 4, "shape": 64}, *case) for case in JOINT),
]


@pytest.mark.parametrize(
    ("cls", "fine", "wrong", "kind", "fragment"),
    CASES,
    ids=[f"{cls.kind}-{wrong}" for cls, _, wrong, *_ in CASES],
)
def test_a_parameter_that_makes_no_sense_is_refused_at_once(cls, fine, wrong, kind, fragment):
    cls(**fine)
    with pytest.raises(kind, match=fragment) as caught:
        cls(**fine | wrong)
    assert isinstance(caught.value, (ScatflowError, NotImplementedError))


@pytest.mark.parametrize("wrong", [{"J": 5}, {"out_type": "tuple"}], ids=str)
def test_image_errors_are_kymatio_s_kind_too(wrong):
    with pytest.raises(RuntimeError):
        Scattering2D(**{"J": 2, "shape": (16, 24)} | wrong)


@pytest.mark.parametrize(
    ("S", "shape", "fragment"),
    [
        (Scattering1D(3, 64), (), "at least one axis"),
        (Scattering1D(3, 64), (65,), r"shape \(65,\), but Scattering1D was made for \(64,\)"),
        (Scattering1D(3, 64), (64, 2), r"shape \(2,\)"),
        (Scattering1D(3, 64), (2, 0), r"shape \(0,\)"),
        (Scattering2D(1, (8, 9)), (8,), "at least two dimensions"),
        (Scattering2D(1, (8, 9)), (9, 8), r"NumPy array must be of spatial size \(8,9\)"),
        (
            Scattering2D(1, (8, 9), pre_pad=True),
            (8, 9),
            r"Padded array must be of spatial size \(12,12\)",
        ),
        (HarmonicScattering3D(1, (8, 8, 8)), (8, 8), "at least three dimensions"),
        (HarmonicScattering3D(1, (8, 8, 8)), (8, 8, 9), r"must be of spatial size \(8,8,8\)"),
    ],
    ids=str,
)
def test_an_input_of_another_shape_is_refused(S, shape, fragment):
    with pytest.raises(RuntimeError, match=fragment) as caught:
        S(np.zeros(shape))
    assert isinstance(caught.value, ValueError)  # Kymatio raises one or the other


@pytest.mark.parametrize(
    ("S", "shape", "fragment"),
    [
        (Scattering1D(6), (63,), "Take J <= 5 or a longer signal"),
        (Scattering1D(3, T=100), (99,), "cannot exceed input length"),
        (Scattering2D(4), (16, 15), "larger than 2\\^J"),
        (Scattering2D(2, pre_pad=True), (16, 14), "take multiples from 12 on"),
        (Scattering2D(2, pre_pad=True), (8, 16), "take multiples from 12 on"),
        (HarmonicScattering3D(3, sigma_0=2), (8, 8, 8), "wider than the volume"),
        (
            HarmonicScattering3D(1, method="local", points=[(0, 0, 9)]),
            (8, 8, 8),
            "outside the volume",
        ),
    ],
    ids=str,
)
def test_without_a_shape_the_input_is_checked_when_it_comes(S, shape, fragment):
    with pytest.raises(ValueError, match=fragment):
        S(np.zeros(shape))


@pytest.mark.parametrize(
    ("S", "shape"), [(Scattering1D(5, Q=8), (1000,)), (Scattering2D(2), (32, 30))], ids=str
)
def test_a_period_that_cannot_be_decimated_is_refused(S, shape):
    with pytest.raises(ValueError, match="cannot be decimated by"):
        S.plan(shape, boundary="periodic")


@pytest.mark.parametrize(("J", "N"), [(5, 4), (3, 4), (6, 8)])
def test_a_period_shorter_than_the_scales_is_refused(J, N):
    with pytest.raises(ValueError, match="samples"):
        Scattering1D(J, stride=1).plan((N,), np.float64, "periodic")


def test_an_unknown_boundary_is_refused():
    with pytest.raises(ValueError, match="boundary"):
        Scattering1D(3, 64).plan(boundary="zero")


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex64])
def test_a_plan_is_float32_or_float64(dtype):
    with pytest.raises((ValueError, TypeError), match="float"):
        Scattering1D(3, 64).plan(dtype=dtype)


# --- the deprecated oversampling -------------------------------------------------------------


def test_oversampling_warns_where_it_was_written_and_becomes_a_stride():
    with pytest.warns(DeprecationWarning, match="oversampling is deprecated") as record:
        S = Scattering1D(5, 1024, oversampling=2)
    assert record[0].filename == __file__
    assert Scattering1D(5, 1024, stride=8) == S
    assert S.output_shape() == (19, 128)


def test_oversampling_of_a_given_average_divides_its_own_stride():
    with pytest.warns(DeprecationWarning, match="oversampling"):
        assert Scattering1D(5, T=100, oversampling=1).stride == 32
    with pytest.warns(DeprecationWarning, match="oversampling"):
        assert Scattering1D(3, oversampling=9).stride == 1


def test_oversampling_and_stride_together_are_refused():
    with (
        pytest.warns(DeprecationWarning, match="oversampling"),
        pytest.raises(ValueError, match="incompatible"),
    ):
        Scattering1D(5, 1024, stride=4, oversampling=1)


def test_oversampling_does_nothing_where_nothing_is_averaged():
    with pytest.warns(DeprecationWarning, match="oversampling"):
        S = Scattering1D(5, 64, T=0, oversampling=1, out_type="list")
    assert Scattering1D(5, 64, T=0, out_type="list") == S


@pytest.mark.parametrize("S", [Scattering1D(3, 64), Scattering2D(2, (32, 32), L=2)], ids=str)
def test_paths_of_one_call_are_not_taken_one_by_one(S, rng):
    with pytest.raises(ValueError, match="computed in one call: use apply, and split"):
        S.plan().apply_ragged(rng.standard_normal(S.shape).astype(np.float32))


@pytest.mark.parametrize("kind", [">f4", "i4", "f2", "f8"])
def test_a_plan_refuses_other_precisions_than_its_own(kind, rng):
    x = (10 * rng.standard_normal(64)).astype(kind)
    with pytest.raises(TypeError, match="This plan transforms float32, but the input has dtype"):
        Scattering1D(3, 64).plan().apply(x)
