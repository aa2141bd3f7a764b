"""Time tensors that are differentiated against Kymatio's torch frontend, alternating.

    python benchmarks/tensors.py [--repeat 7] [--output docs/benchmarks]

Prints for each case the CPU time of one thread, Kymatio's and scatflow's: of a transform that
nobody differentiates, of one that is recorded, and of one with the gradient of the coefficients'
sum; the ratios; the relative L2 distance of both gradients; and the memory that a recorded
transform keeps until its gradient is asked for. With --output it writes a page and JSON. Needs
``pip install "scatflow[bench]"``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import scipy.special

# Kymatio 0.3 asks for a function that SciPy 1.17 no longer has.
scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kymatio.torch

import torch
from torch.autograd.graph import saved_tensors_hooks

import scatflow
from scatflow.cli.texts import cpu

torch.set_num_threads(1)

CASES = [
    ("Scattering1D", (8, 1024, 1), (32, 1024)),
    ("Scattering1D", (8, 4096, 8), (8, 4096)),
    ("Scattering1D", (10, 65536, 8), (1, 65536)),
    ("Scattering2D", (2, (32, 32), 8), (16, 32, 32)),
    ("Scattering2D", (3, (224, 224), 8), (1, 224, 224)),
    ("HarmonicScattering3D", (2, (32, 32, 32), 2), (2, 32, 32, 32)),
]


def seconds(work) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def gradient(S, x) -> torch.Tensor:
    (slope,) = torch.autograd.grad(S(x).sum(), x)
    return slope


def kept_bytes(S, x) -> int:
    """Bytes of the storages that a recorded transform keeps, its filters included."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        S(x)
    return sum(kept.values())


def measure(name, parameters, shape, repeat) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(kymatio.torch, name)(*parameters)
    more = {"scaling": "kymatio-0.3"} if name == "Scattering1D" else {}
    ours = getattr(scatflow, name)(*parameters, **more)
    x = torch.randn(shape, generator=torch.manual_seed(0))
    recorded = x.clone().requires_grad_()
    ways = {
        "forward": lambda S: S(x),
        "recorded": lambda S: S(recorded),
        "gradient": lambda S: gradient(S, recorded),
    }
    found = {"case": f"{name}{parameters}, batch {shape[0]}"}
    for way, work in ways.items():
        times = {"kymatio": [], "scatflow": []}
        for k in range(1 + repeat):  # the first is not counted
            for who, S in (("kymatio", theirs), ("scatflow", ours)):
                took = seconds(lambda S=S, work=work: work(S))
                if k:
                    times[who].append(took)
        found[way] = {who: statistics.median(taken) for who, taken in times.items()}
        pairs = zip(times["kymatio"], times["scatflow"], strict=True)
        found[way]["ratio"] = statistics.median(a / b for a, b in pairs)
    a, b = gradient(theirs, recorded), gradient(ours, recorded)
    found["error"] = float(torch.linalg.norm(a - b) / torch.linalg.norm(a))
    found["kept_bytes"] = {
        "kymatio": kept_bytes(theirs, recorded),
        "scatflow": kept_bytes(ours, recorded),
    }
    return found


def row(found) -> str:
    def times(way):
        t = found[way]
        return f"{t['kymatio'] * 1e3:.1f}, {t['scatflow'] * 1e3:.1f} ms | {t['ratio']:.1f}"

    kept = ", ".join(f"{n / 2**20:.0f}" for n in found["kept_bytes"].values())
    ways = " | ".join(times(way) for way in ("forward", "recorded", "gradient"))
    return f"| {found['case']} | {ways} | {found['error']:.0e} | {kept} MiB |"


COLUMNS = [
    "case",
    "forward",
    "ratio",
    "recorded",
    "ratio",
    "with gradient",
    "ratio",
    "error",
    "kept",
]
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    about = f"{cpu()}, torch {torch.__version__}, Kymatio 0.3.0, one thread"
    print(about, HEAD, sep="\n", flush=True)
    results = []
    for name, parameters, shape in CASES:
        results.append(measure(name, parameters, shape, given.repeat))
        print(row(results[-1]), flush=True)
    if given.output:
        told = {"machine": about, "results": results}
        (given.output / "tensors.json").write_text(json.dumps(told, indent=2) + "\n")
        lines = [
            "# Tensors",
            "",
            f"`python benchmarks/tensors.py`: {about}. Kymatio first.",
            "",
            HEAD,
        ]
        page = "\n".join([*lines, *map(row, results)])
        (given.output / "tensors.md").write_text(page + "\n")


if __name__ == "__main__":
    main()
