"""
Directions in an image
======================

Two textures that differ in direction alone: each map of order 1 is how much there is of a scale
and a direction around every pixel.
"""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import scatflow

# %%
# Noise, smoothed along lines that point one way on the left and another on the right.

rng = np.random.default_rng(0)
noise = rng.standard_normal((256, 256))
rows, columns = np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij")


def brushed(angle):
    """Smooth the noise along lines at an angle to the rows."""
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    ring = np.exp(-((along / 0.02) ** 2) - ((np.abs(across) - 0.15) / 0.05) ** 2)
    return np.fft.ifft2(np.fft.fft2(noise) * ring).real


left, right = brushed(np.deg2rad(30)), brushed(np.deg2rad(120))
image = xr.DataArray(np.where(np.arange(256) < 128, left, right), dims=("y", "x"))

# %%
# Eight orientations at three scales; the maps have a value for every 8 pixels.

coefficients = scatflow.scatter(image, scatflow.Scattering2D(J=3, L=8), dim=("y", "x"))[
    "scattering"
]
first = coefficients[coefficients.order == 1]
scale = first[first.j1 == 1]

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
axes[0].imshow(image, cmap="gray")
axes[0].set(title="image", xlabel="x (pixels)", ylabel="y (pixels)")
for side, part in [("left", slice(2, 14)), ("right", slice(18, 30))]:
    mean = scale[:, :, part].mean(("y", "x"))
    axes[1].plot(np.rad2deg(mean.theta1), mean, "o-", label=side)
axes[1].set(xlabel="orientation (degrees)", ylabel="mean of order 1, j = 1")
axes[1].legend()
strongest = np.rad2deg(scale.theta1.values[scale.values.argmax(axis=0)])
mesh = axes[2].imshow(strongest, cmap="twilight", vmin=-90, vmax=90)
axes[2].set(title="strongest orientation", xlabel="x (8 pixels)", ylabel="y (8 pixels)")
figure.colorbar(mesh, ax=axes[2], label="degrees")
plt.show()
