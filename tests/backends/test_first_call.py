"""What a first call compiles."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import numpy as np
from numba.core import event
from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D

names = []
with event.install_recorder("numba:compile") as recorder:
    Scattering1D(3, 64)(np.zeros(64, np.float32))
    Scattering2D(2, (16, 16), L=2)(np.zeros((16, 16), np.float32))
    HarmonicScattering3D(1, (8, 8, 8), L=1)(np.zeros((8, 8, 8), np.float32))
for _, what in recorder.buffer:
    if what.is_start:
        function = what.data["dispatcher"].py_func
        names.append(f"{function.__module__}.{function.__qualname__}")
print(json.dumps(names))
"""


@pytest.mark.parametrize("library", ["mkl", "scipy"])
def test_a_first_call_compiles_no_error_messages(tmp_path, library):
    # Text in compiled code is most of the time that a first call waits: assignments from array to
    # array compile the formatting of a message about their shapes.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "SCATFLOW_FFT": library},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    names = json.loads(done.stdout)
    assert any(name.startswith("scatflow.backends.kernels.") for name in names)
    assert sorted({name for name in names if "unicode" in name or "shape_context" in name}) == []


CALLER = """
import sys
sys.path.insert(0, {folder!r})
import caller
print(caller.call())
"""


def test_what_is_compiled_of_another_file_is_compiled_anew_when_that_changes(tmp_path):
    # Numba itself would go on with the machine code of the other file's first version.
    (tmp_path / "caller.py").write_text(
        "import other\n"
        "from scatflow.backends.compiling import compiled, stamp\n"
        "STAMP = stamp(__file__, other.__file__)\n"
        "@compiled\n"
        "def kernel(_):\n"
        "    return other.number()\n"
        "def call():\n"
        "    return kernel(STAMP)\n"
    )
    answers = []
    for number in (1, 2):
        (tmp_path / "other.py").write_text(
            "from scatflow.backends.compiling import inner\n"
            "@inner\n"
            "def number():\n"
            f"    return {number}\n"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", CALLER.format(folder=str(tmp_path))],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        answers.append(int(done.stdout))
    assert answers == [1, 2]


NOWHERE = """
from numba.core import caching


def nowhere(*_):
    raise RuntimeError("cannot cache function: no locator available")


caching.CacheImpl.__init__ = nowhere
import numpy as np
from scatflow import Scattering1D
from scatflow.cli.texts import doctor_lines

assert np.isfinite(Scattering1D(3, 64)(np.ones(64))).all()
print("\\n".join(doctor_lines()))
"""


def test_without_a_folder_to_write_to_kernels_are_compiled_anew():
    # As Numba says it where neither the package's folder nor the user's can be written to.
    done = subprocess.run(
        [sys.executable, "-c", NOWHERE], capture_output=True, text=True, check=True, timeout=300
    )
    assert "NUMBA_CACHE_DIR may name one" in done.stdout


MADE = """
import json
import numpy as np
from scatflow import Scattering1D
from numba.core.codegen import CPUCodeLibrary
from scatflow.backends import kernels

optimised = []
optimise = CPUCodeLibrary._optimize_final_module
def noted(code):
    optimised.append(code)
    optimise(code)
CPUCodeLibrary._optimize_final_module = noted

Scattering1D(3, 64)(np.zeros(64, np.float32))
found = {}
for function in (kernels.fold_bands, kernels.cut_rows, kernels.towards_the_half):
    for made in function.overloads.values():
        code = made.library
        emitted = code._final_module in code.codegen._engine._ee._modules
        found[function.__name__] = [code in optimised, emitted]
print(json.dumps(found))
"""


def test_what_only_kernels_call_has_no_machine_code_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MADE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "SCATFLOW_FFT": "mkl"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    called, part = [True, True], [False, False]
    assert found == {"fold_bands": called, "cut_rows": called, "towards_the_half": part}
