"""How few examples teach to read digits? MNIST with 300, 1000 and 5000 training images.

    make science    (or: python examples/mnist.py [--data data/mnist] [--picture FILE.png])

Images are scattered; a digit is told by the class whose affine space of principal components is
nearest (PCA), or by a support vector machine with a Gaussian kernel (SVM), as in J. Bruna and
S. Mallat, Invariant scattering convolution networks, IEEE PAMI 35 (2013). The number of components,
the machine's constants, and whether paths are divided by their largest norm, are chosen by
cross-validation on the training images alone. The whole test set is read.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from page import Result, arguments, record
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.svm import SVC

import scatflow

DRAWS = {300: 3, 1000: 3, 5000: 1}
"""Training sets drawn of each size; errors are means over them."""

PUBLISHED = {"PCA": {300: 4.7, 1000: 2.3, 5000: 1.03}, "SVM": {300: 5.6, 1000: 2.6, 5000: 1.4}}
J, L = 3, 6
SCALES = ("plain", "largest")
COMPONENTS = (5, 10, 15, 20, 30, 40, 60, 80, 100, 140)
MACHINES = tuple(itertools.product((0.5, 1.0, 2.0), (10.0, 100.0)))
"""Of the kernel, inverse squared width times the mean squared distance; and the constant C."""


def load(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images of 32 x 32 pixels, from 0 to 1, and their digits."""
    pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8, offset=16)
    images = pixels.reshape(-1, 28, 28).astype(np.float32) / 255
    digits = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), digits


def scale(train: np.ndarray, test: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features, each path divided by its largest norm in training if asked for."""
    if how == "largest":
        largest = np.linalg.norm(train, axis=(2, 3)).max(axis=0)[:, None, None]
        train, test = train / largest, test / largest
    return train.reshape(len(train), -1), test.reshape(len(test), -1)


def of_spaces(x: np.ndarray, digits: np.ndarray, test: np.ndarray) -> dict[int, np.ndarray]:
    """Return the digit whose affine space is nearest, for each number of components."""
    left = np.empty((len(COMPONENTS), 10, len(test)), np.float32)
    for digit in range(10):
        own = x[digits == digit]
        mean = own.mean(axis=0)
        axes = np.linalg.svd(own - mean, full_matrices=False)[2][: max(COMPONENTS)]
        inside = np.cumsum(((test - mean) @ axes.T) ** 2, axis=1)
        total = ((test - mean) ** 2).sum(axis=1)
        for i, count in enumerate(COMPONENTS):
            left[i, digit] = total - inside[:, min(count, len(axes)) - 1]
    return dict(zip(COMPONENTS, left.argmin(axis=1), strict=True))


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return squared distances, of all rows to all."""
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * (x @ y.T)


def of_machines(x, digits, test, machines=MACHINES) -> dict[tuple[float, float], np.ndarray]:
    """Return what support vector machines say, for each pair of constants."""
    known, asked = distances(x, x), distances(test, x)
    unit = known.mean()
    said = {}
    for gamma, C in machines:
        machine = SVC(C=C, kernel="precomputed").fit(np.exp(-gamma * known / unit), digits)
        said[gamma, C] = machine.predict(np.exp(-gamma * asked / unit))
    return said


METHODS = {"PCA": of_spaces, "SVM": of_machines}


def choose(method: str, x: np.ndarray, digits: np.ndarray) -> tuple:
    """Return the scaling and the setting with the fewest errors in five folds of the training."""
    wrong: dict[tuple, int] = {}
    for known, held in StratifiedKFold(5, shuffle=True, random_state=0).split(x, digits):
        for how in SCALES:
            scaled = scale(x[known], x[held], how)
            said = METHODS[method](scaled[0], digits[known], scaled[1])
            for setting, answers in said.items():
                key = (how, setting)
                wrong[key] = wrong.get(key, 0) + int((answers != digits[held]).sum())
    return min(wrong, key=wrong.__getitem__)


def answers(method: str, chosen: tuple, x, digits, test) -> np.ndarray:
    """Return what a method says of the test images with the settings chosen."""
    how, setting = chosen
    x, test = scale(x, test, how)
    if method == "SVM":
        return of_machines(x, digits, test, [setting])[setting]
    return of_spaces(x, digits, test)[setting]


def draw_sets(digits: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the training sets: their size, and the numbers of their images."""
    return [
        (
            n,
            train_test_split(np.arange(len(digits)), train_size=n, stratify=digits, random_state=k)[
                0
            ],
        )
        for n, count in DRAWS.items()
        for k in range(count)
    ]


def features_of_kymatio(images: np.ndarray) -> np.ndarray:
    """Return Kymatio's coefficients, a thousand images at a time."""
    import scipy.special

    scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
    from kymatio.numpy import Scattering2D

    S = Scattering2D(J=J, shape=images.shape[-2:], L=L)
    return np.concatenate([S(images[k : k + 1000]) for k in range(0, len(images), 1000)])


def draw(test: np.ndarray, digits: np.ndarray, said: np.ndarray, picture: Path) -> None:
    """Draw test images that were read wrongly."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    wrong = np.flatnonzero(said != digits)[:24]
    figure, all_axes = plt.subplots(3, 8, figsize=(8, 3.6), layout="constrained")
    for axes in all_axes.flat:
        axes.axis("off")
    for k, axes in zip(wrong, all_axes.flat, strict=False):
        axes.imshow(test[k], cmap="gray_r")
        axes.set_title(f"{digits[k]} read as {said[k]}", fontsize=8)
    figure.savefig(picture, dpi=120)


def words(found: dict[tuple, list]) -> str:
    """Return data, steps and settings as a text."""
    draws = ", ".join(f"{count} of {n}" for n, count in DRAWS.items())
    settings = "; ".join(
        f"{method} on {n}: "
        + ", ".join(f"{setting} ({how})" for (how, setting), _ in some).replace("np.", "")
        for (n, method), some in found.items()
    )
    return (
        f"Digits of 28 x 28 pixels, within a margin of two, scattered with J = {J}, L = {L} and "
        f"order 2; training sets ({draws} images) are drawn from the 60000, every digit as often "
        "as it is there, errors are those on all 10000 test images, means over the draws. "
        "Published are those of J. Bruna and S. Mallat, Invariant scattering convolution networks, "
        "doi:10.1109/TPAMI.2012.230.\n\nChosen in five folds of each training set: the number of "
        "components for PCA; inverse width and C for SVM; paths as they are (plain) or divided by "
        f"their largest norm (largest). {settings}."
    )


def main() -> None:
    """Choose, train, test, and draw if asked to."""
    options = arguments(__doc__, "mnist")
    (images, digits), (test, digits_test) = (load(options.data, part) for part in ("train", "t10k"))
    S = scatflow.Scattering2D(J=J, L=L)
    of_test = [features_of_kymatio(test), S(test)]
    found: dict[tuple, list] = {}
    for n, rows in draw_sets(digits):
        of_train = [features_of_kymatio(images[rows]), S(images[rows])]
        for method in METHODS:
            chosen = choose(method, of_train[1], digits[rows])
            both = zip(of_train, of_test, strict=True)
            said = [answers(method, chosen, x, digits[rows], y) for x, y in both]
            errors = [100 * float((one != digits_test).mean()) for one in said]
            found.setdefault((n, method), []).append((chosen, errors))
            print(n, method, *chosen, *errors, flush=True)
    table = []
    for (n, method), some in found.items():
        theirs, mine = np.mean([errors for _, errors in some], axis=0)
        what = f"MNIST, {n} training images, {method}: error"
        table.append([what, f"{PUBLISHED[method][n]} %", f"{theirs:.2f} %", f"{mine:.2f} %"])
    title = "MNIST: how few examples teach to read digits?"
    caption = f"Test digits that the machine of {n} training images reads wrongly"
    text = words(found)
    record(Result(title, table, text, caption), options.results, "mnist")
    if options.picture is not None:
        draw(test, digits_test, said[-1], options.picture)


if __name__ == "__main__":
    main()
