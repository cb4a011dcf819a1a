"""Error of every sampler on every grid of levels at equal calls, against exact answers.

    python tools/bench_samplers.py

Two exact denoisers, so that all error is the solver's:

  end points   a mixture of Gaussians in 64 dimensions; root mean square error over the data's sd.
  spectrum     a Gaussian with components from sd 0.1 up to sigma_max / 5, as clips have them
               (brightness moves all pixels of a clip together); largest relative error of an sd.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import exact

from vidiff.diffusion import samplers

DETERMINISTIC = ("euler", "heun", "dpm2m", "ab2", "exp2m")


def print_table(title: str, calls: list[int], error: Callable[[str, str, int], float]) -> None:
    """One row for each sampler and grid, one column for each number of calls."""
    print(f"{title}\n{'sampler':8} {'levels':9}" + "".join(f"{n:>10}" for n in calls))
    for sampler in DETERMINISTIC:
        for grid in samplers.GRIDS:
            row = "".join(f"{error(sampler, grid, n):>10.4f}" for n in calls)
            print(f"{sampler:8} {grid:9}{row}", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--sigma-max", type=float, default=155.0, help="of the spectrum")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def spectrum(sampler: str, grid: str, calls: int) -> float:
        return float(exact.spectrum_error(sampler, grid, calls, args.sigma_max).abs().max())

    print_table("End points of the mixture", args.calls, exact.EndPoints().error)
    print_table(f"Spectrum up to sd {args.sigma_max / 5:g}", args.calls, spectrum)


if __name__ == "__main__":
    main()
