"""
A tremor that pulsates
======================

Order 1 says how loud each frequency is, order 2 how fast that loudness comes and goes. A tone of
6 Hz whose loudness pulsates every 5 seconds, then every 20, looks nearly the same to order 1. Order
2 tells the two apart.
"""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import scatflow

# %%
# Twenty minutes at 50 Hz: noise, and the tone.

rate = 50.0
seconds = np.arange(60_000) / rate
period = np.where(seconds < 600, 5.0, 20.0)
loudness = 1 + np.sin(2 * np.pi * seconds / period)
noise = np.random.default_rng(0).standard_normal(seconds.size)
record = xr.DataArray(
    loudness * np.sin(2 * np.pi * 6 * seconds) + 0.1 * noise,
    {"time": ("time", seconds, {"units": "s"})},
    name="velocity",
)

# %%
# One continuous transform. Windows are 20.48 s apart; frequencies are labelled in Hz.

coefficients = scatflow.scatter(
    record, scatflow.Scattering1D(J=10, Q=8), dim="time", boundary="seamless"
)
print(coefficients)

# %%
# Order 2, divided by the order 1 it comes from, at the wavelet nearest to 6 Hz.

relative = coefficients.scat.renormalise()["scattering"]
xi1 = np.unique(relative.xi1[relative.order == 2])
nearest = xi1[np.argmin(np.abs(xi1 - 6.0))]
rhythm = relative[(relative.order == 2) & (relative.xi1 == nearest)]
rhythm = rhythm[np.argsort(rhythm.xi2.values)]
first = coefficients["scattering"][coefficients.order == 1]
first = first[np.argsort(first.xi1.values)]

figure, (upper, lower) = plt.subplots(2, 1, sharex=True, layout="constrained")
for axes, values, frequencies, label in [
    (upper, first, first.xi1.values, "order 1\nfrequency (Hz)"),
    (lower, rhythm, rhythm.xi2.values, "order 2 / order 1\nrhythm (Hz)"),
]:
    mesh = axes.pcolormesh(
        values.time / 60, frequencies, np.log10(np.maximum(values, 1e-4)), cmap="cividis"
    )
    axes.set(yscale="log", ylabel=label)
    figure.colorbar(mesh, ax=axes, label="log10")
lower.axhline(1 / 5, xmax=0.5, color="k", linestyle=":")
lower.axhline(1 / 20, xmin=0.5, color="k", linestyle=":")
lower.set_xlabel("minutes")

# %%
# The dotted lines are the rhythms that were put in, 0.2 Hz and 0.05 Hz. Wavelets of order 2
# are an octave apart, and the strongest is the one that the rhythm falls into.

for half, seconds in [("first", slice(0, 500)), ("second", slice(700, 1200))]:
    strength = rhythm.sel(time=seconds).mean("time").values
    print(f"rhythm of the {half} half: {rhythm.xi2.values[strength.argmax()]:.3f} Hz")

plt.show()
