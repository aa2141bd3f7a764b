"""What `import scatflow` costs."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

HEAVY = [
    "dask", "distributed", "xarray", "torch", "cupy", "numba", "zarr", "pandas", "pydantic",
    "typer", "rich", "matplotlib", "bokeh",
]  # fmt: skip


def ask(program):
    """Run a program in a fresh interpreter and return what it prints, from JSON."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(run.stdout)


def test_importing_scatflow_loads_no_heavy_library():
    loaded = ask("import scatflow, sys, json; print(json.dumps(list(sys.modules)))")
    assert "numpy" in loaded
    assert sorted({name.partition(".")[0] for name in loaded} & set(HEAVY)) == []


def test_importing_scatflow_is_quick_beside_numpy_and_scipy():
    # A loose bound in CPU seconds, which a busy machine does not stretch; 0.25 s is the aim.
    seconds = ask(
        "import numpy, scipy.fft, time, json\n"
        "start = time.process_time()\n"
        "import scatflow\n"
        "print(json.dumps(time.process_time() - start))"
    )
    print(f"import scatflow: {seconds:.3f} s over numpy and scipy")
    assert seconds < 1.0


def test_transforming_a_signal_loads_no_heavy_library_either():
    loaded = ask(
        "import numpy, scatflow, sys, json\n"
        "scatflow.Scattering1D(3, 64)(numpy.zeros(64))\n"
        "scatflow.Scattering2D(1, (8, 8), L=2)(numpy.zeros((8, 8)))\n"
        "scatflow.HarmonicScattering3D(1, (8, 8, 8))(numpy.zeros((8, 8, 8)))\n"
        "print(json.dumps(list(sys.modules)))"
    )
    assert sorted({name.partition(".")[0] for name in loaded} & (set(HEAVY) - {"numba"})) == []
