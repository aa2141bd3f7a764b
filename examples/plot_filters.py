"""
What a filter bank covers
=========================

The Littlewood-Paley sum of an engine's low-pass and wavelets: never above one, so that the
transform contracts, and deep where little of a signal is seen.
"""

import matplotlib.pyplot as plt
import numpy as np

from scatflow import Scattering1D

figure, axes = plt.subplots(2, 1, sharex=True, layout="constrained")
for row, Q in zip(axes, (1, 8), strict=True):
    S = Scattering1D(J=6, Q=Q)
    covered = S.littlewood_paley()
    frequencies = np.fft.fftfreq(covered.size)
    kept = frequencies > 0
    row.plot(frequencies[kept], covered[kept], color="k", label="Littlewood-Paley sum")
    for xi in S.meta()["xi"][:, 0]:
        row.axvline(xi, color="0.85", zorder=0)
    low, high = S.frame_bounds()
    row.set(ylabel=f"Q = {Q}", title=f"frame bounds {low:.3f} and {high:.3f}", xscale="log")
axes[1].set_xlabel("frequency (cycles/sample); grey lines: centres of wavelets")
plt.show()

# %%
# The same in words, for a record of 100 samples per second.

print(Scattering1D(J=6, Q=1).describe(rate=100.0))
