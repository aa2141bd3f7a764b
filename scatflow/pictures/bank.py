"""An engine's filters: in Fourier with their Littlewood-Paley sum, and in time or space."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.dataset.coordinates import three_digits
from scatflow.engines import Engine, Scattering1D, TimeFrequencyScattering, filters
from scatflow.pictures.canvas import new_figure, save
from scatflow.pictures.results import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_POINTS = 2**13  # Of the frequency axis, so that the narrowest filters are smooth curves.
LARGE = 2**14  # A scale from which on smooth curves would take gigabytes.
IMAGE_SIDE = 64  # Pixels of the image on whose grid two-dimensional filters are drawn, at least.


def draw_filters(engine: Engine, rate: float | None, output: str) -> list[str]:
    """Draw the filters of an engine; `rate` is in samples per second, None: cycles per sample."""
    if isinstance(engine, Scattering1D | TimeFrequencyScattering):
        return _draw_signals(engine, rate, output)
    if engine.ndim == 2:
        return _draw_images(engine, output)
    return _draw_volumes(engine, output)


def _bounds(engine: Engine, order: int = 1) -> str:
    low, high = engine.frame_bounds(order)
    return f"frame bounds {low:.3g} and {high:.3g}"


def _draw_signals(engine: Any, rate: float | None, output: str) -> list[str]:
    scale = int(2 ** np.ceil(np.log2(max(engine.window, 2**engine.J))))
    length = max(FEWEST_POINTS, (16 if scale <= LARGE else 4) * scale)
    order = 2 if isinstance(engine, TimeFrequencyScattering) else engine.max_order
    sized = Scattering1D(engine.J, length, engine.Q, T=engine.T, max_order=order)
    phi, *banks = filters.signals(sized)
    figure = new_figure(11.0, 6.6)
    figure.suptitle(f"Filters  ·  {_name(engine)}", x=0.01, ha="left")
    grid = figure.add_gridspec(2, 2)
    for column, bank in enumerate(banks[:order]):
        axes = figure.add_subplot(grid[0, column])
        _draw_spectra(axes, phi, bank, sized.littlewood_paley(column + 1), rate)
        axes.set_title(
            f"order {column + 1}: {len(bank)} wavelets, {_bounds(sized, column + 1)}",
            loc="left",
            fontsize=10,
        )
        _draw_waves(figure.add_subplot(grid[1, column]), phi, bank, rate)
    save(figure, output)
    lines = [f"filters of {_name(engine)}"]
    return lines + [f"  order {k}: {_bounds(sized, k)}" for k in range(1, order + 1)]


def _name(engine: Engine) -> str:
    named = ("J", "Q", "T", "L", "sigma_0")
    told = {k: v for k, v in engine.to_dict().items() if k in named and v is not None}
    return f"{type(engine).__name__}({', '.join(f'{k}={v}' for k, v in told.items())})"


def _shades(count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.9, 0.1, count))


def _draw_spectra(axes: Axes, phi: Any, bank: Any, covered: Array, rate: float | None) -> None:
    """Draw each filter over frequency, and the sum of their squares in black."""
    kept = np.arange(1, covered.size // 2)
    frequencies = kept / covered.size * (rate or 1.0)
    for psi, shade in zip(bank, _shades(len(bank)), strict=True):
        axes.plot(frequencies, np.abs(psi["levels"][0][kept]), color=shade, linewidth=0.8)
    axes.plot(frequencies, np.abs(phi["levels"][0][kept]), color="0.5", label="low-pass")
    axes.plot(frequencies, covered[kept], color="k", label="Littlewood-Paley sum")
    axes.set(xscale="log", ylim=(0, 1.3), ylabel="gain")
    axes.set_xlim(min(psi["xi"] for psi in bank) * (rate or 1.0) / 8, frequencies[-1])
    axes.set_xlabel(f"frequency [{'Hz' if rate else 'cycles/sample'}]")
    axes.legend(fontsize=8, loc="upper left", ncols=2)


def _draw_waves(axes: Axes, phi: Any, bank: Any, rate: float | None) -> None:
    """Draw the lowest, a middle and the highest wavelet in time, above each other, and phi."""
    chosen = [bank[-1], bank[len(bank) // 2], bank[0]]
    shades = _shades(len(bank))[[len(bank) - 1, len(bank) // 2, 0]]
    reach = max(psi["sigma"] ** -1 for psi in [phi, chosen[0]]) / 2
    for level, (psi, shade) in enumerate(zip(chosen, shades, strict=True)):
        wave = np.fft.fftshift(np.fft.ifft(psi["levels"][0]))
        time = (np.arange(wave.size) - wave.size // 2) / (rate or 1.0)
        peak = 2.4 * np.abs(wave).max()
        axes.fill_between(
            time, level - np.abs(wave) / peak, level + np.abs(wave) / peak, color=shade, alpha=0.25
        )
        axes.plot(time, level + wave.real / peak, color=shade, linewidth=0.8)
    low = np.fft.fftshift(np.fft.ifft(phi["levels"][0]).real)
    axes.plot(time, 3 + low / low.max() - 0.5, color="0.5")
    labels = [three_digits(psi["xi"] * (rate or 1.0)) for psi in chosen]
    axes.set_yticks([0, 1, 2, 3], labels=[*labels, "low-pass"])
    axes.set_ylabel(f"wavelet of [{'Hz' if rate else 'cycles/sample'}]")
    axes.set_xlabel(f"time [{'s' if rate else 'samples'}]")
    axes.set_xlim(-reach / (rate or 1.0), reach / (rate or 1.0))


def _draw_images(engine: Any, output: str) -> list[str]:
    """Draw the half-height contours of all wavelets over the sum, and the wavelets in space."""
    side = max(IMAGE_SIDE, 8 * 2**engine.J)
    sized = dataclasses.replace(engine, shape=(side, side), pre_pad=False)
    _, bank = filters.images(sized)
    covered = sized.littlewood_paley()
    figure = new_figure(max(5.5 + 1.1 * engine.L, 9.0), max(4.6, 1.2 * engine.J + 1.0))
    figure.suptitle(f"Filters  ·  {_name(engine)}  ·  {_bounds(sized)}", x=0.01, ha="left")
    halves: Any = figure.subfigures(1, 2, width_ratios=(5.5, 1.1 * engine.L))
    left, right = halves
    axes = left.add_subplot()
    frequencies = [np.fft.fftshift(np.fft.fftfreq(n)) for n in covered.shape]
    mesh = axes.pcolormesh(
        frequencies[1], frequencies[0], np.fft.fftshift(covered), cmap="cividis", rasterized=True
    )
    shades = _shades(engine.J)
    for psi in bank:
        height = np.fft.fftshift(np.abs(psi["levels"][0]))
        axes.contour(
            frequencies[1], frequencies[0], height, [0.5 * height.max()], colors=[shades[psi["j"]]]
        )
    axes.set(xlabel="along columns [cycles/pixel]", ylabel="along rows [cycles/pixel]")
    axes.set_aspect("equal")
    axes.set_title("wavelets at half their height", loc="left", fontsize=10)
    left.colorbar(mesh, ax=axes, label="Littlewood-Paley sum", fraction=0.045)
    _draw_waves_in_space(right.subplots(engine.J, engine.L, squeeze=False), bank)
    right.suptitle("real parts, on squares of 12 times their scale 2^j pixels", fontsize=10)
    save(figure, output)
    return [f"filters of {_name(engine)}", f"  {_bounds(sized)}"]


def _draw_waves_in_space(panels: Any, bank: Any) -> None:
    for psi in bank:
        wave = np.fft.fftshift(np.fft.ifft2(psi["levels"][0])).real
        middle = [n // 2 for n in wave.shape]
        half = min(6 * 2 ** psi["j"], *middle)
        cut = tuple(slice(m - half, m + half + 1) for m in middle)
        peak = np.abs(wave).max()
        axes = panels[psi["j"], psi["theta"]]
        axes.imshow(wave[cut], cmap="RdBu_r", vmin=-peak, vmax=peak)
        axes.set(xticks=[], yticks=[])
        if psi["theta"] == 0:
            axes.set_ylabel(f"j = {psi['j']}")


def _draw_volumes(engine: Any, output: str) -> list[str]:
    """Draw the roots of the sums over m, which depend on the distance from the origin alone."""
    # One row of voxels has all frequencies along an axis, and a cube would not fit into memory.
    side = max(256, 8 * int(np.ceil(engine.scale(engine.J))))
    row = dataclasses.replace(engine, shape=(1, 1, side), method="integral", points=None)
    degrees, _ = filters.volumes(row)
    figure = new_figure(3.2 * len(degrees), 3.4)
    figure.suptitle(f"Filters  ·  {_name(engine)}", x=0.01, ha="left")
    panels = figure.subplots(1, len(degrees), squeeze=False, sharex=True)[0]
    frequencies = np.fft.fftfreq(side)[: side // 2]
    for degree, (axes, scales) in enumerate(zip(panels, degrees, strict=True)):
        for j, (psi, shade) in enumerate(zip(scales, _shades(len(scales)), strict=True)):
            along = np.sqrt((np.abs(psi[:, 0, 0, : side // 2]) ** 2).sum(axis=0))
            axes.plot(frequencies, along, color=shade, label=f"j = {j}")
        axes.set_title(f"l = {degree}", loc="left", fontsize=10)
        axes.set_xlabel("frequency [cycles/voxel]")
    panels[0].set_ylabel("gain, over all orders m")
    panels[0].legend(fontsize=8)
    save(figure, output)
    return [f"filters of {_name(engine)}, along one axis of the frequencies"]
