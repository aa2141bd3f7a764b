"""A curve as an inline SVG, for pages that must stand alone."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from scatflow.flow.sight.tally import clock

WIDTH, HEIGHT = 420, 180
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 26, 24


def curve(
    title: str, seconds: Sequence[float], values: Sequence[float], *, top: float | None = None
) -> str:
    """Return a curve over time as SVG.

    Parameters
    ----------
    title : str
        What is drawn.
    seconds : sequence of float
        Times, ascending from zero on.
    values : sequence of float
        One for each time, not negative.
    top : float, optional
        Upper end of the axis; by default a round number above all values.
    """
    highest = top or ceiling(max(values))
    longest = max(seconds[-1], 1e-9)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    points = " ".join(
        f"{LEFT + (right - LEFT) * t / longest:.1f},{bottom - (bottom - TOP) * v / highest:.1f}"
        for t, v in zip(seconds, values, strict=True)
    )
    name = html.escape(title)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{name}">'
        f'<text x="{LEFT}" y="15" font-size="13" font-weight="bold">{name}</text>'
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{short(highest)}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>'
        f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{clock(longest)}</text>'
        f'<polyline points="{points}" fill="none" stroke="#30678d" stroke-width="2"/>'
        "</svg></figure>"
    )


def ceiling(value: float) -> float:
    """Return the next number of one, two or five times a power of ten.

    Examples
    --------
    >>> ceiling(0), ceiling(3), ceiling(1_200_000)
    (1.0, 5.0, 2000000.0)
    """
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value)


def short(value: float) -> str:
    """Write a number in a few characters.

    Examples
    --------
    >>> short(5.0), short(20_000.0), short(2_000_000.0)
    ('5', '20 k', '2 M')
    """
    for power, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= power:
            return f"{value / power:g}{unit}"
    return f"{value:g}"
