"""Densities of molecules: scatflow against Kymatio, on the grid of its QM7 example.

    python benchmarks/molecules.py [--molecules 8] [--atoms 23]

Both compute the same batch in turn, five times each; the table has the medians of CPU time.
"""

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
from kymatio.scattering3d.utils import generate_weighted_sum_of_gaussians as kymatio

from scatflow.molecules import generate_weighted_sum_of_gaussians as ours

SHAPE = (192, 128, 96)
SIGMA = 2.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=2)
    parser.add_argument("--atoms", type=int, default=23, help="QM7 has up to 23")
    args = parser.parse_args()
    grid = np.mgrid[tuple(slice(-(n // 2), n - n // 2) for n in SHAPE)].astype(np.float32)
    grid = np.fft.ifftshift(grid, axes=(1, 2, 3))
    rng = np.random.default_rng(0)
    positions = rng.uniform(-20, 20, (args.molecules, args.atoms, 3))
    charges = rng.choice([1.0, 6.0, 7.0, 8.0], (args.molecules, args.atoms))
    given = (grid, positions, charges, SIGMA)
    seconds = {kymatio: [], ours: []}
    found = {}
    for _ in range(5):
        for function, times in seconds.items():
            start = time.process_time()
            found[function] = function(*given)
            times.append(time.process_time() - start)
    theirs, mine = (statistics.median(times) for times in seconds.values())
    error = np.linalg.norm(found[ours] - found[kymatio]) / np.linalg.norm(found[kymatio])
    size = " x ".join(map(str, SHAPE))
    print(f"{args.molecules} molecules of {args.atoms} atoms on {size} voxels, one thread:")
    print(f"Kymatio {theirs * 1e3:.0f} ms, scatflow {mine * 1e3:.0f} ms, ratio {theirs / mine:.0f}")
    print(f"difference, relative L2: {error:.1e}")


if __name__ == "__main__":
    main()
