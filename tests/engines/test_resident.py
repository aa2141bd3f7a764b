"""What a plan announces, against the memory that the process really occupies."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, gc, json, sys
import numpy as np
from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.backends.scratch import SCRATCH

engine, shape, threads = {engine}, {shape}, {threads}

def resident(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

plan = engine.plan(shape[-engine.ndim:], threads=threads)
x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
plan.apply(x[: 2 * threads])  # compiled code, FFT plans, whatever else is made once
SCRATCH.clear()
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = resident("VmRSS")
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # the peak, VmHWM, counts from here
y = plan.apply(x)
peak = resident("VmHWM") - before
print(json.dumps({{
    "grown": peak, "announced": plan.peak_bytes(shape[0]), "output": y.nbytes, "input": x.nbytes,
    "compiled": plan.program is not None,
}}))
"""

ALLOWED = 2**20
"""Bytes for what is counted in pages and for Python's own objects and threads."""

CASES = [
    ("Scattering1D(8, Q=8)", (64, 65536)),
    ("Scattering1D(8, Q=1)", (8, 65536)),
    ("Scattering2D(3, L=8)", (32, 256, 256)),
    ("HarmonicScattering3D(2, L=2)", (3, 96, 96, 96)),
]


def measured(engine, shape, threads, library):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(engine=engine, shape=shape, threads=threads)],
        # Large arrays go back to the system when they are freed, whatever was allocated before.
        env={**os.environ, "SCATFLOW_FFT": library, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells, others not")
@pytest.mark.parametrize(
    ("library", "threads"), [("mkl", 1), ("mkl", 2), ("scipy", 1)], ids=lambda v: str(v)
)
@pytest.mark.parametrize(("engine", "shape"), CASES, ids=["1d", "1d-verbs", "2d", "3d"])
def test_a_transform_occupies_no_more_than_its_plan_and_its_output(engine, shape, threads, library):
    told = measured(engine, shape, threads, library)
    verbs = len(shape) == 4 or (library == "scipy" and engine == "Scattering1D(8, Q=1)")
    assert told["compiled"] != verbs
    assert told["grown"] <= told["announced"] + told["output"] + ALLOWED
    # And it was seen: what is written is resident.
    assert told["grown"] >= told["output"] + told["announced"] / 4
