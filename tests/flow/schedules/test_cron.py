"""Cron lines against an obvious reading of cron's manual, and in the words of others."""

import datetime
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.flow.schedules.cron import on_calendar, parse_cron, plain_line

RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
START = datetime.datetime(2027, 12, 1, 0, 0)


# --- a slow twin ---------------------------------------------------------------------------------


def stands_for(field, number, names, first):
    """Tell whether a cron field holds a number, part by part."""
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        for i, name in enumerate(names):
            span = span.replace(name, str(i + first))
        low, _, high = span.partition("-")
        low, high = (first, 99) if span == "*" else (int(low), int(high or low))
        if low <= number <= high and (number - low) % int(step or 1) == 0:
            return True
    return False


def fires(line, moment):
    """Tell whether cron starts a line's command at a minute, as crontab(5) has it."""
    minute, hour, day, month, weekday = line.split()
    on_day = stands_for(day, moment.day, (), 1)
    sunday_first = moment.isoweekday() % 7
    on_weekday = stands_for(weekday, sunday_first, DAYS, 0) or (
        sunday_first == 0 and stands_for(weekday, 7, DAYS, 0)
    )
    starred = day.startswith("*") or weekday.startswith("*")
    return (
        stands_for(minute, moment.minute, (), 0)
        and stands_for(hour, moment.hour, (), 0)
        and stands_for(month, moment.month, MONTHS, 1)
        and (on_day and on_weekday if starred else on_day or on_weekday)
    )


def elapses(expression, moment):
    """Tell whether a calendar expression matches a minute, as systemd.time(7) has it."""
    weekdays, date, time = re.fullmatch(r"(?:(\S+) )?(\S+) (\S+)", expression).groups()
    if weekdays is not None:
        for i, name in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")):
            weekdays = weekdays.replace(name, str(i + 1))
    year, month, day = date.split("-")
    hour, minute, second = time.split(":")
    assert (year, second) == ("*", "00")
    values = (moment.isoweekday(), moment.month, moment.day, moment.hour, moment.minute)
    return all(
        any(
            int(span.split("..")[0]) <= value <= int(span.split("..")[-1])
            for span in (field or "*").replace("*", "0..99").split(",")
        )
        for field, value in zip((weekdays, month, day, hour, minute), values, strict=True)
    )


# --- drawn lines ---------------------------------------------------------------------------------


@st.composite
def parts(draw, low, high):
    kind = draw(st.sampled_from(["number", "range", "stepped range", "stepped star"]))
    a, b = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    step = draw(st.integers(1, 20))
    return {
        "number": f"{a}",
        "range": f"{a}-{b}",
        "stepped range": f"{a}-{b}/{step}",
        "stepped star": f"*/{step}",
    }[kind]


def fields(low, high):
    lists = st.lists(parts(low, high), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), lists)


def possible(line):
    try:
        parse_cron(line)
    except ValueError:
        return False
    return True


LINES = st.tuples(*(fields(*r) for r in RANGES)).map(" ".join).filter(possible)
MOMENTS = st.integers(0, 4 * 366 * 24 * 60).map(lambda n: START + datetime.timedelta(minutes=n))


@given(LINES, st.lists(MOMENTS, min_size=20, max_size=20))
def test_a_line_and_its_calendar_expressions_fire_at_the_minutes_at_which_cron_does(line, moments):
    cron = parse_cron(line)
    moments = [*moments, *(cron.after(m) for m in moments[:3])]  # Drawn ones seldom fire.
    for moment in moments:
        expected = fires(line, moment)
        assert expected == any(elapses(e, moment) for e in on_calendar(cron))
        time_fits = moment.hour in cron.hours and moment.minute in cron.minutes
        assert expected == (time_fits and cron.fits(moment.date()))
    assert all(fires(line, moment) for moment in moments[20:])


@given(LINES)
def test_a_line_in_numbers_alone_means_the_same(line):
    cron = parse_cron(line)
    plain = plain_line(cron)
    if plain is None:
        assert not cron.either
        assert len(cron.days) < 31
        assert len(cron.weekdays) < 7
        return
    assert re.fullmatch(r"[-,*0-9 ]+", plain)
    assert "7" not in plain.split()[4]
    again = parse_cron(plain)
    assert (again.minutes, again.hours, again.months) == (cron.minutes, cron.hours, cron.months)
    days = [datetime.date(2027, 12, 1) + datetime.timedelta(n) for n in range(400)]
    assert [again.fits(day) for day in days] == [cron.fits(day) for day in days]


@given(LINES, MOMENTS)
def test_no_minute_before_the_next_one_fires(line, moment):
    cron = parse_cron(line)
    following = cron.after(moment)
    assert following > moment
    assert fires(line, following)
    until = min(following, moment + datetime.timedelta(hours=6))
    while (moment := moment + datetime.timedelta(minutes=1)) < until:
        assert not fires(line, moment)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@settings(max_examples=25)
@given(LINES)
def test_systemd_itself_elapses_when_the_line_fires(line):
    cron = parse_cron(line)
    asked = ["systemd-analyze", "calendar", "--iterations=4", "--base-time=2027-12-01 00:00:00"]
    told = subprocess.run(
        [*asked, *on_calendar(cron)],
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    elapsed = sorted(
        set(re.findall(r"(?:Next elapse|Iter. #\d): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d):00", told))
    )
    expected = [cron.after(START - datetime.timedelta(minutes=1))]
    if expected[0] == START:  # systemd counts from the base time on, exclusively.
        expected = [cron.after(START)]
    while len(expected) < 4:
        expected.append(cron.after(expected[-1]))
    assert elapsed[:4] == [f"{moment:%Y-%m-%d %H:%M}" for moment in expected]


@pytest.mark.parametrize(
    ("line", "expressions", "plain"),
    [
        ("0 3 * * *", ["*-*-* 03:00:00"], "0 3 * * *"),
        ("*/20 8-9 * jan SUN", ["Sun *-01-* 08..09:00,20,40:00"], "0,20,40 8-9 * 1 0"),
        ("0 0 1 * 5-7", ["*-*-01 00:00:00", "Fri..Sun *-*-* 00:00:00"], "0 0 1 * 0,5-6"),
        ("0 0 */2 * 1", ["Mon *-*-01,03,05,07,09,11,13,15,17,19,21,23,25,27,29,31 00:00:00"], None),
        ("0 0 1-31 * mon", ["*-*-* 00:00:00"], "0 0 * * *"),
    ],
)
def test_lines_in_the_words_of_others(line, expressions, plain):
    cron = parse_cron(line)
    assert (on_calendar(cron), plain_line(cron)) == (expressions, plain)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 3 * *", "4 fields instead of 5"),
        ("60 * * * *", "'60' is no minute"),
        ("5/10 * * * *", "'5/10' is no minute"),
        ("*/0 * * * *", "'\\*/0' is no minute"),
        ("0 0 5-3 * *", "'5-3' is no day of the month"),
        ("0 0 * foo *", "'foo' is no month"),
        ("0 0 30 feb *", "no month of these has a day 30"),
        ("0 0 31 4,6 *", "no month of these has a day 31"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(line, problem):
    with pytest.raises(ValueError, match=problem):
        parse_cron(line)


def test_a_leap_day_is_found_across_a_century_without_one():
    assert parse_cron("0 0 29 2 *").after(datetime.datetime(2096, 3, 1)).year == 2104
