"""Find a signal by its scattering coefficients alone: descend their distance by gradients.

    python docs/reconstruct.py [--steps 200] [--J 5] [--output reconstruction.png]

A chirp with an onset is transformed, and from noise a signal is sought whose coefficients are the
same. Averages over ``2^J`` samples leave phases open, so the signal found is another one: it has
the same tones at the same times. Prints how far the coefficients are at every tenth of the way.
Needs ``pip install "scatflow[torch,plot]"``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

import scatflow.torch


def chirp(n: int) -> torch.Tensor:
    """Return a tone that rises by two octaves, with an onset in the middle."""
    t = torch.arange(n) / n
    tone = torch.sin(2 * torch.pi * n * (0.03 * t + 0.045 * t**2))
    return tone * torch.where(t < 0.5, 0.3, 1.0)


def descend(target: torch.Tensor, J: int, steps: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield signals and the relative distance of their coefficients from those of `target`."""
    S = scatflow.torch.Scattering1D(J, target.shape[-1], Q=8)
    wanted = S(target)
    x = (0.1 * torch.randn(target.shape, generator=torch.manual_seed(0))).requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=20, line_search_fn="strong_wolfe")

    def distance() -> torch.Tensor:
        return torch.linalg.norm(S(x) - wanted) / torch.linalg.norm(wanted)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = distance().square()
        loss.backward()
        return loss

    for _ in range(0, steps, 20):
        optimizer.step(closure)
        yield x.detach(), float(distance().detach())


def main() -> None:
    """Run the descent and draw both signals' scalograms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--J", type=int, default=5)
    parser.add_argument("--output")
    given = parser.parse_args()
    target = chirp(4096)
    x = target
    for step, (found, distance) in enumerate(descend(target, given.J, given.steps), 1):
        x = found
        print(f"step {20 * step}: coefficients differ by {100 * distance:.2f} %")
    if given.output:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(2, 1, sharex=True, sharey=True, layout="constrained")
        for axis, signal, title in zip(axes, (target, x), ("given", "found"), strict=True):
            axis.specgram(signal.numpy(), NFFT=128, noverlap=96, Fs=1.0, vmin=-120)
            axis.set(title=title, ylabel="cycles/sample")
        axes[-1].set_xlabel("sample")
        figure.savefig(given.output)


if __name__ == "__main__":
    main()
