"""Reference arrays of Kymatio's main, too large for the repository.

They are looked for in the folder that SCATFLOW_REFERENCE names, or in shared/reference beside it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from scatflow import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)

BESIDE = Path(__file__).parents[3] / "shared" / "reference"
FOLDER = Path(os.environ.get("SCATFLOW_REFERENCE", BESIDE))
FILES = [path for d in "123" for path in sorted(FOLDER.glob(f"scattering{d}d_*.npz"))]
KINDS = {"1d": Scattering1D, "2d": Scattering2D, "3d": HarmonicScattering3D}
JOINT = sorted(FOLDER.glob("timefrequency_*.npz"))
FLOAT64 = {"1d": 1e-10, "2d": 1e-6, "3d": 1e-6}


def read(path):
    data = np.load(path)
    kind = path.stem[10:12]
    parameters = json.loads(str(data["params"]))
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    return kind, KINDS[kind](**tuples), data


def error(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected.astype(np.float64)).max() / np.abs(expected).max()


# Without the folder there is nothing to compare with, so the tests do not exist.
if FILES:

    @pytest.mark.reference
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_float64_agrees_with_the_reference(path):
        kind, S, data = read(path)
        assert error(S(data["x"]), data["S"]) < FLOAT64[kind]

    @pytest.mark.reference
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_float32_agrees_with_the_reference(path):
        kind, S, data = read(path)
        # Roots amplify the FFT's rounding over nearly empty volumes: sums of |u|^0.5 at
        # sigma_0 = 1 reach 3e-6 in float32, however the rest is computed.
        rooted = kind == "3d" and S.sigma_0 == 1 and 0.5 in S.integral_powers
        y = S(data["x"].astype(np.float32))
        assert y.dtype == np.float32
        assert error(y, data["S"]) < (4e-6 if rooted else 2e-6)

    @pytest.mark.reference
    @pytest.mark.parametrize(
        "path", [p for p in FILES if "1d" in p.stem], ids=lambda path: path.stem
    )
    def test_paths_are_described_as_in_the_reference(path):
        _, S, data = read(path)
        meta = S.meta()
        for name in ("order", "xi", "sigma", "j", "n"):
            np.testing.assert_allclose(meta[name], data[name], rtol=1e-12)


if JOINT:

    @pytest.mark.reference
    @pytest.mark.parametrize("path", JOINT, ids=lambda path: path.stem)
    @pytest.mark.parametrize("backend", ["numpy", "plain", "torch"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-6)])
    def test_time_frequency_paths_agree_with_the_reference(path, backend, dtype, tolerance):
        data = np.load(path)
        parameters = json.loads(str(data["params"]))
        S = TimeFrequencyScattering(**parameters, out_type="dict", backend=backend)
        found = S(data["x"].astype(dtype))
        expected = {
            tuple(int(n) for n in name.split("_")[1:] if n): data[name]
            for name in data
            if name.startswith("S_")
        }
        assert set(found) == set(expected)
        scale = max(np.abs(value).max() for value in expected.values())
        for key, value in expected.items():
            assert found[key].dtype == dtype
            assert found[key].shape == value.shape
            assert np.abs(found[key] - value).max() < tolerance * scale
