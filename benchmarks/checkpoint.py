"""What ``checkpoint=True`` of scatflow.torch saves and costs.

    python benchmarks/checkpoint.py [--repeat 7]

Prints for each case the bytes that autograd keeps between a transform and its gradient, and the
CPU time of both together, without and with it: medians of alternating repetitions on one thread.
Needs ``pip install "scatflow[torch]"``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import torch

import scatflow.torch as doors

torch.set_num_threads(1)

CASES = [
    ("Scattering1D", (8, 4096, 8), (8, 4096)),
    ("Scattering1D", (10, 65536, 8), (1, 65536)),
    ("Scattering1D", (10, 1048576, 8), (1, 1048576)),
    ("Scattering2D", (3, (224, 224), 8), (4, 224, 224)),
    ("HarmonicScattering3D", (2, (64, 64, 64), 2), (1, 64, 64, 64)),
]


def measure(kind, parameters, shape, repeat) -> str:
    modules = [getattr(doors, kind)(*parameters, checkpoint=way) for way in (False, True)]
    x = torch.randn(shape, generator=torch.manual_seed(0)).requires_grad_()
    times = ([], [])
    for k in range(1 + repeat):  # the first is not counted
        for module, taken in zip(modules, times, strict=True):
            begun = time.process_time()
            torch.autograd.grad(module(x).sum(), x)
            if k:
                taken.append(time.process_time() - begun)
    kept = " | ".join(f"{module.saved_bytes(shape) / 2**20:.1f} MiB" for module in modules)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    took = " | ".join(f"{statistics.median(taken) * 1e3:.0f} ms" for taken in times)
    return f"| {kind}{parameters}, batch {shape[0]} | {kept} | {took} | {ratio:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    print("| case | kept | with checkpoint | gradient | with checkpoint | ratio |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        print(measure(*case, given.repeat), flush=True)


if __name__ == "__main__":
    main()
