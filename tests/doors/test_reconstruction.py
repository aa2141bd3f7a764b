"""The example of the documentation finds what it looks for."""

import importlib.util
from pathlib import Path

import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "reconstruct.py"


def test_descent_brings_coefficients_together():
    spec = importlib.util.spec_from_file_location("reconstruct", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    target = script.chirp(512)
    found = list(script.descend(target, J=4, steps=60))
    distances = [distance for _, distance in found]
    assert len(found) == 3
    assert distances[-1] < 0.05  # of noise, they differ by more than half
    assert distances == sorted(distances, reverse=True)
    assert torch.isfinite(found[-1][0]).all()
