from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.archive import Axis
from scatflow.archive.axis import parse_time, time_axis
from scatflow.archive.regular import IrregularError, recognise, simplest
from scatflow.errors import SourceError

START = parse_time("2010-09-01")
TEN_YEARS = 315_576_000  # seconds

RATES = st.one_of(
    st.integers(1, 200_000).map(Fraction),
    st.builds(Fraction, st.integers(1, 1000), st.integers(1, 86_400)),
)


@given(rate=RATES, seconds=st.integers(0, TEN_YEARS), first=st.integers(0, 10**9))
def test_a_time_is_exact_to_half_a_nanosecond_after_ten_years(rate, seconds, first):
    axis = time_axis(START, rate)
    k = int(rate * seconds)
    exact = START + k * Fraction(10**9) / rate
    assert abs(int(axis.at([k])[0].astype(np.int64)) - exact) <= Fraction(1, 2)
    part = axis.selected(min(first, k))
    assert part.at([k - min(first, k)])[0] == axis.at([k])[0]


ODD_RATES = st.one_of(
    st.sampled_from([Fraction(1_000_000_001, 10**7), Fraction(3), Fraction(1, 3), Fraction(100)]),
    st.builds(lambda n: 100 + Fraction(n, 10**9), st.integers(-(10**9), 10**9)),
)


@given(
    rate=ODD_RATES,
    start=st.integers(0, 10**18),
    seconds=st.integers(0, TEN_YEARS),
    stride=st.sampled_from([1, 3, 2**7, 2**10]),
)
def test_centres_of_windows_do_not_drift_from_exact_fractions_in_ten_years(
    rate, start, seconds, stride
):
    axis = time_axis(start, rate)
    near = (int(rate * seconds) // stride + np.arange(4)) * stride
    exact = [start + int(k) * Fraction(10**9) / rate for k in near]
    # To the nearest nanosecond, halves upwards.
    assert axis.at(near).astype(np.int64).tolist() == [
        (2 * t.numerator + t.denominator) // (2 * t.denominator) for t in exact
    ]


def test_ten_years_at_100_hz_end_on_the_very_nanosecond():
    axis = time_axis(START, Fraction(100))
    assert axis.at([TEN_YEARS * 100])[0] == np.datetime64("2010-09-01", "ns") + np.timedelta64(
        TEN_YEARS, "s"
    )


def test_ten_years_at_44100_hz_do_not_overflow():
    axis = time_axis(START, Fraction(44_100))
    samples = np.array([0, 1, 441, TEN_YEARS * 44_100 + 1])
    ns = axis.at(samples).astype(np.int64) - START
    assert ns.tolist() == [0, 22_676, 10_000_000, TEN_YEARS * 10**9 + 22_676]


def test_a_step_without_small_terms_is_exact_too():
    axis = Axis(START, Fraction(123_456_789_012_345, 987_654_321), "ns", is_time=True)
    k = 2_000_000_011
    exact = START + k * axis.exact_step
    assert abs(int(axis.at([k])[0].astype(np.int64)) - exact) <= Fraction(1, 2)


@given(k=st.integers(0, TEN_YEARS * 44_100))
def test_seconds_from_an_integer_rate_are_rounded_once(k):
    axis = Axis(0.0, Fraction(1, 44_100), "s")
    assert axis.at([k])[0] == pytest.approx(float(Fraction(k, 44_100)), rel=2e-16)


def test_start_and_step_are_whole_nanoseconds_and_a_fraction_for_time():
    axis = time_axis(START, Fraction(3)).selected(1)
    assert axis.start == START + 333_333_333
    assert axis.step == Fraction(10**9, 3)
    assert axis.rate_hz == 3.0


def test_start_and_step_are_floats_for_numbers():
    axis = Axis(1.5, Fraction(1, 4), "s").selected(2)
    assert (axis.start, axis.step, axis.rate_hz) == (2.0, 0.25, 4.0)
    assert Axis(0.0, Fraction(1, 4), "mm").rate_hz is None
    assert Axis(0.0, Fraction(1, 4), "ms").rate_hz == 4000.0


def test_integer_coordinates_stay_integers():
    assert Axis(10, Fraction(5), integer=True).at([0, 2]).tolist() == [10, 20]
    assert Axis(10, Fraction(5), integer=True).at([0]).dtype == np.int64


def test_samples_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="integers"):
        Axis(0.0, Fraction(1)).at([0.5])


@given(rate=RATES, first=st.integers(0, 10**9))
def test_an_axis_survives_the_attribute_of_a_store(rate, first):
    for axis in (time_axis(START, rate), Axis(0.5, 1 / rate, "s")):
        again = Axis.from_dict(axis.to_dict(), "time", 10)
        assert (again.at([0, first]) == axis.at([0, first])).all()
        assert again.exact_step == axis.exact_step


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"start": 0.0, "step": [1, 0]},
        {"start": 0.0, "step": [0, 1]},
        {"start": "noon", "step": [1, 1]},
        {"start": None, "step": [1, 1]},
        {"start": float("nan"), "step": [1, 1]},
        "text",
    ],
)
def test_a_malformed_attribute_is_refused_with_the_form_it_should_have(entry):
    with pytest.raises(SourceError, match=r"It should read like"):
        Axis.from_dict(entry, "time", 10)


@pytest.mark.parametrize(
    ("start", "step", "size", "words"),
    [
        ("2010-09-01", [10**7, 1], 10**12, "leave the years 1678 to 2261"),
        ("2010-09-01", [-2 * 10**18, 1], 11, "leave the years 1678 to 2261"),
        (2**63, [1, 1], 1, "overflow"),
        (2**63 - 1, [1, 1], 2, "overflow"),
        (5, [10**18, 1], 11, "overflow"),
        (0.0, [10**400, 1], 1, "overflow"),
        (0.0, [1, 10**400], 1, "overflow"),
        (10**400, [1, 2], 1, "too large"),
    ],
    ids=map(str, range(8)),
)
def test_an_axis_beyond_its_numbers_is_refused(start, step, size, words):
    with pytest.raises(SourceError, match=words):
        Axis.from_dict({"start": start, "step": step}, "time", size)


@pytest.mark.parametrize("step", [10**25, 2**80 + 1, Fraction(10**30, 7)])
def test_steps_beyond_integers_are_computed_with(step):
    step = Fraction(step)
    entry = {"start": 0.0, "step": [step.numerator, step.denominator]}
    found = Axis.from_dict(entry, "x", 10).at([0, 9])
    assert found.tolist() == [0.0, pytest.approx(float(9 * step), rel=1e-15)]


@pytest.mark.parametrize("step", [1e303, 1e-310])
def test_numbers_too_large_or_small_to_compute_with_are_not_regular(step):
    values = np.arange(10) * step
    with pytest.raises(IrregularError):
        recognise(lambda a, b: values[a:b], 10, {"units": "s"})


@pytest.mark.parametrize("first", [0, 9_223_372_036 - 2])
def test_an_axis_may_end_with_the_last_second_of_its_numbers(first):
    entry = {"start": "1970-01-01", "step": [10**9, 1]}
    axis = Axis.from_dict(entry, "time", first + 2)
    assert axis.at([first + 1])[0] == np.datetime64(first + 1, "s")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2010-09-01", "2010-09-01T00:00:00"),
        ("2010", "2010-01-01T00:00:00"),
        ("2010-09-01T07:33", "2010-09-01T07:33:00"),
        ("2010-09-01 07:33:34.5Z", "2010-09-01T07:33:34.5"),
    ],
)
def test_partial_times_mean_their_beginning(text, value):
    assert parse_time(text) == int(np.datetime64(value, "ns").astype(np.int64))


@pytest.mark.parametrize(
    "text", ["", "noon", "NaT", "2010-09-01T00:00+02:00", "7", "9999", "2010-13"]
)
def test_texts_that_are_no_utc_time_are_refused(text):
    with pytest.raises(ValueError, match=r"time|years|Month"):
        parse_time(text)


@given(low=st.fractions(Fraction(1, 1000), 1000), width=st.fractions(0, 1))
def test_the_simplest_fraction_lies_inside_and_none_simpler_does(low, width):
    high = low + width
    best = simplest(low, high)
    assert low <= best <= high
    for den in range(1, min(best.denominator, 200)):
        assert -(-low.numerator * den // low.denominator) > high * den


def recognised(values, **attrs):
    values = np.asarray(values)
    return recognise(lambda a, b: values[a:b], values.size, attrs)


@pytest.mark.parametrize("rate", [1, 100, 44_100, Fraction(1, 60), Fraction(25, 3)])
def test_rounded_times_are_recognised_with_their_exact_rate(rate):
    true = time_axis(START, Fraction(rate))
    found = recognised(true.at(np.arange(5000)))
    assert found.exact_step == true.exact_step
    assert found.is_time


@pytest.mark.parametrize("step", ["0.01", "1/44100", "0.25", "-1/30", "3"])
def test_rounded_numbers_are_recognised_with_their_exact_step(step):
    values = -180.5 + np.arange(5000) * float(Fraction(step))
    found = recognised(values, units="s")
    assert found.exact_step == Fraction(step)
    assert found.units == "s"
    assert found.start == -180.5


def test_float32_coordinates_are_recognised_within_their_resolution():
    assert recognised(np.linspace(-90, 90, 721, dtype=np.float32)).exact_step == Fraction(1, 4)


def test_integer_coordinates_are_recognised_as_integers():
    found = recognised(np.arange(3, 300, 3))
    assert found.integer
    assert found.at([1]).tolist() == [6]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0], "single"),
        ([1.0, 1.0, 1.0], "do not change"),
        ([0.0, 1.0, 2.1, 3.0], "value 2 lies 0.1 steps off"),
        ([0.0, 1.0, np.nan, 3.0], "value 2"),
        ([np.nan, 1.0], "missing"),
        (np.array(["2010", "NaT", "2012"], "datetime64[ns]"), "value 1"),
        (86_400 + np.arange(9, dtype=np.float32) / 200, "too coarse"),
    ],
)
def test_irregular_coordinates_are_told_apart_with_the_reason(values, reason):
    with pytest.raises(IrregularError, match=reason):
        recognised(values)


def test_a_long_coordinate_is_read_in_pieces():
    widths = []

    def read(start, stop):
        widths.append(stop - start)
        return np.arange(start, stop) / 100

    assert recognise(read, 3_000_000, {}).exact_step == Fraction(1, 100)
    assert max(widths) <= 2**18
