"""Find the most unusual windows of a record: those whose spectrum is far from the usual one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scatflow.dataset.coordinates import three_digits
from scatflow.pictures.results import Array, Grid, Results
from scatflow.pictures.windows import (
    Bands,
    Summary,
    log_positive,
    mean_over_paths,
    pieces,
    row_medians,
)

MIN_WINDOWS = 8  # With fewer, a median over time says nothing about what is usual.
MAD_TO_SIGMA = 1.4826  # Of a normal distribution.
MIN_SIGMA = 0.02  # Decades (5 %): a band that never varies must not make a trifle unusual.
SILENCE = -4.0  # Decades below the usual: a dead channel, not an event.


@dataclass(frozen=True)
class Event:
    """One unusual window, the peak among its neighbours.

    Attributes
    ----------
    window : int
        Its index along time.
    score : float
        Distance from the usual spectrum in robust standard deviations, averaged over bands.
    frequency : float
        Centre of the band that rises most over its median.
    """

    window: int
    score: float
    frequency: float


def find_events(
    results: Results,
    record: dict[str, int],
    grid: Grid,
    bands: Bands,
    summary: Summary,
    count: int = 10,
) -> list[Event]:
    r"""List the most unusual windows of a record, the most unusual first.

    With the usual level :math:`m_p` of path p (median of :math:`\log_{10} S_1` over time) and its
    usual variation :math:`s_p` (1.4826 times the median absolute deviation), the score of window t
    is :math:`\sqrt{\mathrm{mean}_p\,((\log_{10} S_1(p, t) - m_p)/s_p)^2}`: about 1 on a usual day.
    Windows without values, and those where the record is silent, have no score.
    """
    if grid.positions.size < MIN_WINDOWS or not bands.first.size:
        return []
    usual = row_medians(summary.sample)[:, None]
    sigma = MAD_TO_SIGMA * row_medians(np.abs(summary.sample - usual))[:, None]
    sigma = np.maximum(np.nan_to_num(sigma, nan=1.0), MIN_SIGMA).astype(np.float32)
    usual = usual.astype(np.float32)  # As the coefficients usually are: half the memory.
    scores = np.full(grid.positions.size, np.nan, np.float32)
    loudest = np.zeros(grid.positions.size, np.int16)
    start = 0
    paths = slice(int(bands.first.min()), int(bands.first.max()) + 1)  # Often a fifth of all.
    for values in pieces(results, record, grid, paths):
        rise = log_positive(values[bands.first - paths.start]) - usual
        span = slice(start, start + rise.shape[1])
        score = np.sqrt(mean_over_paths((rise / sigma) ** 2))
        score[mean_over_paths(rise) < SILENCE] = np.nan
        scores[span] = score
        loudest[span] = np.where(np.isnan(rise), -np.inf, rise).argmax(axis=0)
        start = span.stop
    peaks = pick_peaks(scores, count, averaging_reach(results.spec))
    return [Event(k, float(scores[k]), float(bands.xi1[loudest[k]])) for k in peaks]


def averaging_reach(spec: Mapping[str, Any]) -> int:
    """Say over how many windows a single instant is felt, on each side.

    The averaging filter is a Gaussian with a standard deviation of 1.6 T in time (0.1 / T in
    frequency), so that an instant is felt three of these, 5 T, away. T is one window apart where
    nothing else was asked for.
    """
    span = spec.get("T") or 2 ** int(spec.get("J", 0))
    if not isinstance(span, int | float) or isinstance(span, bool):
        return 5
    stride = spec.get("stride") or max(1.0, span / 2 ** int(spec.get("oversampling", 0)))
    return max(1, round(5 * span / float(stride)))


def pick_peaks(scores: Array, count: int, reach: int) -> list[int]:
    """Choose the largest scores, each with its neighbourhood taken out before the next.

    A neighbourhood is `reach` windows on both sides, and further as long as the score stays above
    a quarter of the way from the usual (median) score to the peak's.
    """
    usual = np.median(scores[~np.isnan(scores)]) if not np.isnan(scores).all() else 0.0
    left = np.where(np.isnan(scores), -np.inf, scores)
    ranked = np.argsort(-left, kind="stable")
    peaks: list[int] = []
    for k in map(int, ranked):
        if len(peaks) == count or scores[k] <= 0 or np.isnan(scores[k]):
            break
        if left[k] == -np.inf:
            continue
        peaks.append(k)
        low, high, level = k, k, usual + (scores[k] - usual) / 4
        while low > 0 and scores[low - 1] > level:
            low -= 1
        while high < scores.size - 1 and scores[high + 1] > level:
            high += 1
        left[max(0, min(low, k - reach)) : max(high, k + reach) + 1] = -np.inf
    return peaks


def describe_events(events: list[Event], grid: Grid, units: str) -> list[str]:
    """Write one line for each event: rank, when, score, dominant frequency."""
    lines = []
    for rank, event in enumerate(events, start=1):
        when = format_position(grid, event.window)
        frequency = f"{event.frequency:#.3g}".rstrip(".")  # Of one width: 8.10 above 30.8.
        if "e" in frequency:
            frequency = three_digits(event.frequency)
        lines.append(f"  {rank:2d}  {when}  score {event.score:5.1f}  {frequency:>6} {units}")
    return lines


def format_position(grid: Grid, window: int) -> str:
    """Write where a window is centred: UTC to the second, or a number with its units."""
    position = grid.positions[window]
    if not grid.is_time:
        return f"{position:12.6g} {grid.units}".rstrip()
    # Below one second between windows, whole seconds would not tell them apart.
    digits = "ms" if 0 < grid.step < 1 else "s"
    half = np.timedelta64(500, "ms") if digits == "s" else np.timedelta64(500, "us")
    return str((position + half).astype(f"datetime64[{digits}]")).replace("T", " ")


def format_half_width(grid: Grid) -> str:
    """Write half the distance between windows, which is how well a time is known."""
    units = "s" if grid.is_time else grid.units or "samples"
    return f"± {grid.step / 2:.3g} {units}"
