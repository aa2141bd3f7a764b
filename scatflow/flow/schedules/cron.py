"""Cron lines: what they mean, when they fire, and how other schedulers say the same.

The meaning is that of cron itself: a day fits if the day of the month or the day of the week does
where both are given, and if both do where one of them begins with ``*``.
"""

from __future__ import annotations

import calendar
import datetime
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, tuple(name.lower() for name in calendar.month_abbr[1:])),
    ("day of the week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
"""Fields of a cron line: what each is, its least and greatest number, and names from the least."""

PART = re.compile(r"(?:\*|([a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?)(?:/(\d{1,2}))?", re.ASCII)

WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

MONTH_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

SEARCH_DAYS = 366 * 9
"""The 29th of February comes again after eight years at most."""


@dataclass(frozen=True)
class Cron:
    """A cron line that makes sense."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    """From Sunday, 0, to Saturday, 6."""
    either: bool
    """Whether a day fits as soon as one of its two fields does."""

    @property
    def any_day(self) -> bool:
        """Whether the day of the month rules nothing out."""
        return len(self.days) == 31 or (self.either and len(self.weekdays) == 7)

    @property
    def any_weekday(self) -> bool:
        """Whether the day of the week rules nothing out."""
        return len(self.weekdays) == 7 or (self.either and len(self.days) == 31)

    def fits(self, day: datetime.date) -> bool:
        """Tell whether the line fires on a day."""
        fit = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return day.month in self.months and (any(fit) if self.either else all(fit))

    def after(self, moment: datetime.datetime) -> datetime.datetime:
        """Return the first minute after a moment at which the line fires."""
        for number in range(SEARCH_DAYS):
            day = moment.date() + datetime.timedelta(number)
            if not self.fits(day):
                continue
            for hour in self.hours:
                for minute in self.minutes:
                    time = datetime.datetime.combine(day, datetime.time(hour, minute))
                    if time > moment:
                        return time
        raise AssertionError(f"{self.text} never fires")


def parse_cron(text: str) -> Cron:
    """Read a cron line.

    Parameters
    ----------
    text : str
        Minute, hour, day of the month, month and day of the week: numbers, three-letter names of
        months and days, ranges, lists and steps.

    Raises
    ------
    ValueError
        It is no cron line, or one that never fires.

    Examples
    --------
    >>> import datetime
    >>> cron = parse_cron("30 3 * * mon-fri")
    >>> cron.after(datetime.datetime(2026, 11, 28)).isoformat()
    '2026-11-30T03:30:00'
    >>> on_calendar(cron)
    ['Mon..Fri *-*-* 03:30:00']
    """
    fields = text.lower().split()
    if len(fields) != len(FIELDS):
        raise ValueError(f"{len(fields)} fields instead of {len(FIELDS)}")
    minutes, hours, days, months, weekdays = (
        _numbers(field, *meaning) for field, meaning in zip(fields, FIELDS, strict=True)
    )
    cron = Cron(
        text=" ".join(text.split()),
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=tuple(sorted({day % 7 for day in weekdays})),
        either=not (fields[2].startswith("*") or fields[4].startswith("*")),
    )
    longest = max(MONTH_LENGTHS[month - 1] for month in months)
    if not cron.either and days[0] > longest:
        raise ValueError(f"no month of these has a day {days[0]}")
    return cron


def _numbers(
    field: str, name: str, least: int, most: int, names: tuple[str, ...]
) -> tuple[int, ...]:
    """Return the numbers that a field stands for, in order."""
    found: set[int] = set()
    for part in field.split(","):
        match = PART.fullmatch(part)
        first, last, step = match.groups() if match else (None, None, None)
        start = least if first is None else _number(first, least, names)
        stop = most if first is None else start if last is None else _number(last, least, names)
        # Of a step after a single number, programs think differently: most refuse it.
        good = match is not None and least <= start <= stop <= most and step not in ("0", "00")
        if not good or (step is not None and first is not None and last is None):
            raise ValueError(f"{part!r} is no {name}")
        found.update(range(start, stop + 1, int(step or 1)))
    return tuple(sorted(found))


def _number(word: str, least: int, names: tuple[str, ...]) -> int:
    if word.isdecimal():
        return int(word)
    return least + names.index(word) if word in names else -1


# --- in the words of others ----------------------------------------------------------------------


def on_calendar(cron: Cron) -> list[str]:
    """Return systemd's ``OnCalendar=`` expressions that elapse when a cron line fires.

    There are two where either of both fields makes a day fit: a timer elapses with each of its
    expressions.
    """
    months = _spans(cron.months, range(1, 13), "..", "02d")
    days = "*" if cron.any_day else _spans(cron.days, range(1, 32), "..", "02d")
    hours = _spans(cron.hours, range(24), "..", "02d")
    minutes = _spans(cron.minutes, range(60), "..", "02d")
    weekdays = ",".join(
        WEEKDAYS[first] if first == last else f"{WEEKDAYS[first]}..{WEEKDAYS[last]}"
        for first, last in _runs(_monday_first(cron.weekdays))
    )
    time = f"{hours}:{minutes}:00"
    if cron.any_weekday:
        return [f"*-{months}-{days} {time}"]
    if cron.any_day:
        return [f"{weekdays} *-{months}-* {time}"]
    if cron.either:
        return [f"*-{months}-{days} {time}", f"{weekdays} *-{months}-* {time}"]
    return [f"{weekdays} *-{months}-{days} {time}"]


def plain_line(cron: Cron) -> str | None:
    """Return the same schedule in numbers alone, for programs that read cron lines their own way.

    They differ in names, in 7 for Sunday, and in whether ``*/2`` counts as ``*`` where both fields
    of the day are given. None: there is no line without that difference.
    """
    both = not cron.any_day and not cron.any_weekday
    if both and not cron.either:
        return None
    fields = (
        _spans(cron.minutes, range(60), "-"),
        _spans(cron.hours, range(24), "-"),
        "*" if cron.any_day else _spans(cron.days, range(1, 32), "-"),
        _spans(cron.months, range(1, 13), "-"),
        "*" if cron.any_weekday else _spans(cron.weekdays, range(7), "-"),
    )
    return " ".join(fields)


def _monday_first(weekdays: Sequence[int]) -> list[int]:
    """Turn the week, since systemd's ranges go from Monday to Sunday: 7 stands for the latter."""
    return sorted(day or 7 for day in weekdays)


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of each run of consecutive numbers."""
    ends = [i for i, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    firsts = [numbers[0], *(numbers[i + 1] for i in ends)]
    return list(zip(firsts, [*(numbers[i] for i in ends), numbers[-1]], strict=True))


def _spans(numbers: Sequence[int], whole: range, dash: str, form: str = "d") -> str:
    if len(numbers) == len(whole):
        return "*"
    return ",".join(
        f"{first:{form}}" if first == last else f"{first:{form}}{dash}{last:{form}}"
        for first, last in _runs(numbers)
    )


if __name__ == "__main__":  # A batch job that submits its successor asks when that may begin.
    sys.stdout.write(parse_cron(sys.argv[1]).after(datetime.datetime.now()).isoformat() + "\n")
