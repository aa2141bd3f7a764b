"""
Clusters of a record that is not held in memory
===============================================

The pulse of a person on the move, eleven minutes in which its strength, shape and pace change.
Blocks of coefficients are read from disk, learned from and forgotten, so that the same lines
cluster a year of it. The record is part of the package HeartPy.
"""

import importlib.util
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from sklearn.cluster import MiniBatchKMeans

import scatflow
from scatflow.learning import PCA, batches, open_result

# %%
# The record, on the regular grid that its clock follows on average.

data = Path(importlib.util.find_spec("heartpy").origin).parent / "data" / "data3.csv"
pulse = np.loadtxt(data, delimiter=",", skiprows=1, usecols=1, dtype=np.float32)
clock = np.loadtxt(data, delimiter=",", skiprows=1, usecols=0, dtype="datetime64[ms]")
step = (clock[-1] - clock[0]) / np.timedelta64(1, "s") / (clock.size - 1)
seconds = step * np.arange(pulse.size)
record = xr.DataArray(pulse, {"time": ("time", seconds, {"units": "s"})}, name="pulse")
print(f"{seconds[-1] / 60:.1f} minutes at {1 / step:.1f} Hz")

# %%
# Its coefficients go to a store, block by block. A job file and ``scatflow run`` do this with
# archives.

store = str(Path(tempfile.mkdtemp()) / "pulse.zarr")
engine = scatflow.Scattering1D(J=8, Q=4)
lazy = scatflow.scatter(record.chunk(time=10_000), engine, dim="time", boundary="seamless")
lazy.to_zarr(store, consolidated=False)

# %%
# Three passes over the store, each with one block in memory: principal components of the
# standardised logarithms, clusters along them, and the cluster of each window.

features = open_result(store).scat.log(floor=1e-3)
pca = PCA(6, standardise=True, whiten=True).fit_store(features)
print(f"{pca.explained_variance_ratio_.sum():.0%} of the variance is in 6 components")

clusters = MiniBatchKMeans(3, random_state=0, n_init=10)
for batch in batches(features, size=64, rng=0, at_least=20):
    clusters.partial_fit(pca.transform(batch.X))

found = [
    (batch.coords["time"], clusters.predict(pca.transform(batch.X))) for batch in batches(features)
]
time, cluster = (np.concatenate(each) for each in zip(*found, strict=True))

# %%
# Which cluster each window is in, below the record, and some seconds of each.

colors = ["#0072B2", "#E69F00", "#009E73"]
figure, axes = plt.subplots(3, 1, figsize=(8, 6), layout="constrained", height_ratios=[2, 1, 2])
axes[0].plot(seconds / 60, pulse, linewidth=0.3, color="k")
axes[0].set(ylabel="pulse (counts)", xlim=(0, seconds[-1] / 60))
axes[1].scatter(time / 60, cluster, c=[colors[k] for k in cluster], s=6)
axes[1].set(xlabel="minutes", ylabel="cluster", yticks=range(3), xlim=(0, seconds[-1] / 60))
for k in range(3):
    runs = np.convolve(cluster == k, np.ones(5), mode="same")
    middle = time[runs.argmax()]
    part = np.abs(seconds - middle) < 4
    scaled = (pulse[part] - pulse[part].mean()) / np.ptp(pulse[part])
    axes[2].plot(seconds[part] - middle, scaled - k, color=colors[k])
axes[2].set(xlabel="seconds around a window of the cluster", yticks=[0, -1, -2])
axes[2].set_yticklabels(range(3))
axes[2].set_ylabel("cluster")
plt.show()
