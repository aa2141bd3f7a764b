"""When did the volcano stir? A day of ground motion at Piton de la Fournaise, two stations, 100 Hz.

    make science    (or: python examples/seismic.py [--data data/seismic_day.zarr] [--picture ...])

Both records are scattered seamlessly. A window is unusual by the ratio of its first order, summed
over 2 to 20 Hz, to the mean of a minute around it: the ratio of short to long averages (STA/LTA) of
seismology, on moduli instead of squared samples. An event is seen by both stations, so the lesser
of their ratios counts. Known are six events that coincident STA/LTA (1 s over 60 s, 2 to 20 Hz)
finds. Minutes of the day are grouped by a mixture of Gaussians over coefficients of both orders,
whose number is chosen by the Bayesian information criterion. Nothing is learnt from labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from page import Result, arguments, record
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, find_peaks, sosfilt
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

import scatflow

KNOWN = ("07:33:34", "22:35:00", "05:54:15", "11:53:49", "14:32:01", "23:21:16")
"""UTC, the largest first."""

RATE = 100  # Hz
SHORT = scatflow.Scattering1D(J=6, Q=8, max_order=1)  # averages over a second
LONG = scatflow.Scattering1D(J=10, Q=8)  # over sixteen, a window each 10.24 s
MINUTE = 6  # of them, nearly
BAND = slice(2.0, 20.0)  # Hz
APART, NEAR = 10, 15  # seconds: peaks closer than that are one event; and belong to a known one
HOUR = slice(2460 * 1024, 2812 * 1024)  # in samples: that of the largest event, for Kymatio
FLOOR = 1e-3  # counts, below every coefficient of a day on which the instruments worked


def load(store: Path) -> xr.DataArray:
    """Return both records, with the times that the archive states by start and step."""
    day = xr.open_zarr(store, consolidated=False).waveform.astype(np.float32).load()
    axis = day.attrs["axes"]["time"]
    step = np.timedelta64(axis["step"][0] // axis["step"][1], axis["units"])
    start = np.datetime64(axis["start"], axis["units"])
    return day.assign_coords(time=start + np.arange(day.sizes["time"]) * step)


def scattered(day: xr.DataArray, engine: scatflow.Scattering1D) -> xr.Dataset:
    """Return the coefficients of the whole day."""
    return scatflow.scatter(day, engine, "time", boundary="seamless").compute()


def ratio(made: xr.Dataset) -> xr.DataArray:
    """Return how loud each window is beside the minute around it, ``(station, time)``."""
    loud = made.scat.order(1).scat.sel(xi1=BAND).scattering.sum("path").transpose("station", "time")
    windows = 60 * RATE // 2**SHORT.J
    return loud / uniform_filter1d(loud.values, windows, axis=-1)


def short_over_long(day: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Return STA/LTA, the largest in each window."""
    band = butter(4, (BAND.start, BAND.stop), "bandpass", fs=RATE, output="sos")
    power = sosfilt(band, day.values.astype(float), axis=-1) ** 2
    # A filter's mean is centred; the averages end where they are, as seismologists have them.
    short, long = (
        uniform_filter1d(power, n, axis=-1, origin=(n - 1) // 2) for n in (RATE, 60 * RATE)
    )
    windows = (short / long).reshape(len(power), -1, day.sizes["time"] // like.sizes["time"])
    return like.copy(data=windows.max(axis=-1))


def ranks(score: xr.DataArray) -> list[int]:
    """Return the rank of each known event among the peaks of the day, zero if it is none."""
    peaks, _ = find_peaks(score.values, distance=APART * RATE // 2**SHORT.J)
    times = score.time.values[peaks[np.argsort(-score.values[peaks])]]
    day = times.min().astype("datetime64[D]")
    found = []
    for known in KNOWN:
        away = np.abs(times - np.datetime64(f"{day}T{known}"))
        near = np.flatnonzero(away <= np.timedelta64(NEAR, "s"))
        found.append(int(near[0]) + 1 if near.size else 0)
    return found


def groups(made: xr.Dataset) -> tuple[np.ndarray, xr.DataArray]:
    """Return the group of each minute, the most frequent first, and the minutes' times."""
    minutes = made.scat.downsample(time=MINUTE).scat.log(FLOOR).scattering
    rows = minutes.transpose("time", "station", "path").values.reshape(minutes.sizes["time"], -1)
    parts = PCA(10, whiten=True, random_state=0).fit_transform(StandardScaler().fit_transform(rows))
    mixtures = [
        GaussianMixture(k, n_init=3, reg_covar=1e-3, random_state=0).fit(parts) for k in range(2, 9)
    ]
    best = min(mixtures, key=lambda mixture: mixture.bic(parts)).predict(parts)
    names, counts = np.unique(best, return_counts=True)
    place = np.argsort(np.argsort(-counts))
    return place[np.searchsorted(names, best)], minutes.time


def difference_from_kymatio(day: xr.DataArray, J: int, max_order: int) -> float:
    """Return the relative difference of both programs' coefficients in the hour."""
    import scipy.special

    scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
    from kymatio.numpy import Scattering1D

    window = 2**J
    ours = scatflow.Scattering1D(J=J, Q=8, max_order=max_order, scaling="kymatio-0.3")
    made = scattered(day, ours).scattering
    made = made.isel(time=slice(HOUR.start // window, HOUR.stop // window))
    x = day.isel(time=HOUR).values
    theirs = Scattering1D(J=J, shape=x.shape[-1], Q=8, max_order=max_order)(x)
    difference = made.transpose("station", "path", "time").values - theirs
    inner = slice(20, -20)  # Kymatio knows nothing of what is around the hour.
    return float(np.linalg.norm(difference[..., inner]) / np.linalg.norm(theirs[..., inner]))


def draw(made: xr.Dataset, score: xr.DataArray, group, minutes, picture: Path) -> None:
    """Draw the day: scalogram, how unusual it is, and the groups of minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import dates
    from matplotlib import pyplot as plt

    first = made.scat.order(1)
    figure, (upper, middle, lower) = plt.subplots(
        3, sharex=True, figsize=(10, 7), height_ratios=(3, 2, 1.5), layout="constrained"
    )
    level = np.log10(np.maximum(first.scattering[0], FLOOR))
    image = upper.pcolormesh(first.time, first.xi1, level, shading="nearest", rasterized=True)
    upper.set(yscale="log", ylabel="centre frequency (Hz)", title=f"{first.station.values[0]}")
    figure.colorbar(image, ax=upper, label="log10 of order 1 (counts)")
    middle.plot(score.time, score, lw=0.5)
    day = score.time.values[0].astype("datetime64[D]")
    for known in KNOWN:
        middle.axvline(np.datetime64(f"{day}T{known}"), color="0.7", lw=1.5, zorder=0)
    middle.set(yscale="log", ylabel="ratio, both stations", title="grey: the six known events")
    lower.scatter(minutes, group + 1, c=group, cmap="viridis", s=4)
    lower.set(ylabel="group", yticks=range(1, group.max() + 2), xlabel=f"{day}, UTC")
    lower.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    figure.savefig(picture, dpi=110)


def table(usual: dict, ours: dict, same: str) -> list[list[str]]:
    """Return the rows of the page's table from the ranks by STA/LTA and by coefficients."""
    what = f"Seismic day, rank of the event at {KNOWN[0]} on"
    rows = [
        [f"{what} {name}", f"STA/LTA: {usual[name][0]}", same, f"{ours[name][0]}"]
        for name in ours
        if name != "both"
    ]
    six = [f"top {max(found['both'])}" for found in (usual, ours)]
    return [*rows, ["Seismic day, six known events", f"STA/LTA: {six[0]}", same, six[1]]]


def words(score: xr.DataArray, ours: dict, difference: float, group) -> str:
    """Return data, steps and findings as a text."""
    places = "; ".join(f"{name}: {', '.join(map(str, some))}" for name, some in ours.items())
    shares = ", ".join(f"{share:.0%}" for share in np.bincount(group) / group.size)
    return (
        "Two records of 8640000 samples of vertical velocity (network YA, 2010-09-01; F. Brenguier "
        "et al., First results from the UnderVolc high resolution seismic and GPS network, 2012; "
        f"RESIF), scattered seamlessly. Order 1 of J = {SHORT.J}, Q = 8, summed over 2 to 20 Hz, "
        f"over its mean of a minute: the events at {', '.join(KNOWN)} have the ranks {places}, "
        f"among all peaks of {score.sizes['time']} windows. Two of them are too weak for one "
        "station alone. There is nothing to train; the ratio was chosen for its likeness to "
        "STA/LTA, which the same run computes, and from which the six are known. Kymatio "
        "transforms the hour of the largest event only; its coefficients there differ from ours, "
        f"scaled as in its release 0.3, by {difference:.0e} in the relative L2 norm.\n\nMinutes, "
        f"by both orders of J = {LONG.J}, fall into {group.max() + 1} groups, with {shares} of the "
        f"day."
    )


def main() -> None:
    """Transform, rank, group, compare, and draw if asked to."""
    options = arguments(__doc__, "seismic_day.zarr")
    day = load(options.data)
    score = ratio(scattered(day, SHORT))
    of_day = scattered(day, LONG)
    group, minutes = groups(of_day)
    names = [str(name) for name in day.station.values]
    ours, usual = (
        {name: ranks(one[k]) for k, name in enumerate(names)} | {"both": ranks(one.min("station"))}
        for one in (score, short_over_long(day, score))
    )
    difference = max(difference_from_kymatio(day, 6, 1), difference_from_kymatio(day, 10, 2))
    title = "A seismic day: when did the volcano stir?"
    caption = "Scalogram, ratio with the six known events, and groups of the day's minutes"
    rows = table(usual, ours, f"features equal to {difference:.0e}, hence the same")
    text = words(score, ours, difference, group)
    record(Result(title, rows, text, caption), options.results, "seismic")
    if options.picture is not None:
        draw(of_day, score.min("station"), group, minutes, options.picture)


if __name__ == "__main__":
    main()
