"""Error of every sampler on every grid of levels at equal calls, against exact answers.

    python tools/bench_samplers.py
    python tools/bench_samplers.py --run RUN [--data CLIPS]

Two exact denoisers, so that all error is the solver's:

  end points   a mixture of Gaussians in 64 dimensions; root mean square error over the data's sd.
  spectrum     a Gaussian with components from sd 0.1 up to sigma_max / 5, as clips have them
               (brightness moves all pixels of a clip together); largest relative error of an sd.

and, with `--run`, a trained model from the same noise: root mean square difference, over the data's
sd, to what 200 calls of Heun on Karras levels give; with `--data` also the motion distance
of as many clips to real ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import exact

from vidiff.diffusion import samplers
from vidiff.diffusion.process import SIGMA_DATA
from vidiff.evaluation.sources import load_folder
from vidiff.metrics.distribution import kernel_distance
from vidiff.metrics.motion import motion_histograms
from vidiff.pipeline import VideoDiffusion
from vidiff.sampling import Job, SampleConfig, walk
from vidiff.saved import load
from vidiff.tasks import generate

DETERMINISTIC = ("euler", "heun", "dpm2m", "ab2", "exp2m")
PAIRS = tuple(product(DETERMINISTIC, samplers.GRIDS))


def print_table(
    title: str,
    calls: list[int],
    error: Callable[[str, str, int], float],
    pairs: tuple[tuple[str, str], ...] = PAIRS,
) -> None:
    """One row for each sampler and grid, one column for each number of calls."""
    print(f"{title}\n{'sampler':8} {'levels':9}" + "".join(f"{n:>10}" for n in calls))
    for sampler, grid in pairs:
        row = "".join(f"{error(sampler, grid, n):>10.4f}" for n in calls)
        print(f"{sampler:8} {grid:9}{row}", flush=True)
    print()


class Trained:
    """Clips of a run from one noise, by any sampler; each way is walked once."""

    def __init__(self, model: VideoDiffusion, clips: int) -> None:
        self.model, self.clips = model, clips
        self.made: dict[tuple[str, str, int], Tensor] = {}
        self.reference = self.sample("heun", "karras", 200)

    def sample(self, sampler: str, grid: str, calls: int) -> Tensor:
        """In model range."""
        key = (sampler, grid, calls)
        if key not in self.made:
            steps = calls // 2 + 1 if sampler in samplers.CALLS_A_STEP else calls
            config = SampleConfig(sampler=sampler, grid=grid, steps=steps)
            self.made[key] = torch.cat([walk(job, _quiet) for job in self._jobs(config)])
        return self.made[key]

    def error(self, sampler: str, grid: str, calls: int) -> float:
        difference = self.sample(sampler, grid, calls) - self.reference
        return float(difference.square().mean().sqrt()) / SIGMA_DATA

    def frames(self, sampler: str, grid: str, calls: int) -> Tensor:
        return self.model.to_frames(self.sample(sampler, grid, calls))

    def _jobs(self, config: SampleConfig) -> Iterator[Job]:
        for i in range(0, self.clips, 4):
            seeds = list(range(i, min(i + 4, self.clips)))
            condition = generate(len(seeds), self.model.num_frames)
            yield Job(self.model, condition, seeds, config, None)


def _quiet(done: int, calls: int) -> None:
    """No progress."""


def bench_run(args: argparse.Namespace) -> None:
    """The tables of a trained model."""
    trained = Trained(load(args.run), args.clips)
    pairs = tuple((s, g) for s, g in PAIRS if s in args.samplers and g in args.grids)
    with torch.no_grad():
        print_table(f"{args.run}, {args.clips} clips", args.calls, trained.error, pairs)
    if args.data is None:
        return
    model = trained.model
    real, _ = load_folder(args.data, model.num_frames, model.size, model.fps)
    histograms = motion_histograms(real)

    def motion(sampler: str, grid: str, calls: int) -> float:
        made = trained.frames(sampler, grid, calls).numpy()
        return kernel_distance(motion_histograms(made), histograms)

    print_table(f"Motion distance to {len(real)} real clips", args.calls, motion, pairs)
    print(f"of the reference: {motion('heun', 'karras', 200):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--sigma-max", type=float, default=155.0, help="of the spectrum")
    parser.add_argument("--run", help="run folder: measure on its model instead")
    parser.add_argument("--data", help="folder of its clips, for the motion distance")
    parser.add_argument("--clips", type=int, default=16, help="clips of the model")
    parser.add_argument("--samplers", nargs="+", default=DETERMINISTIC)
    parser.add_argument("--grids", nargs="+", default=list(samplers.GRIDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.run:
        bench_run(args)
        return

    def spectrum(sampler: str, grid: str, calls: int) -> float:
        return float(exact.spectrum_error(sampler, grid, calls, args.sigma_max).abs().max())

    print_table("End points of the mixture", args.calls, exact.EndPoints().error)
    print_table(f"Spectrum up to sd {args.sigma_max / 5:g}", args.calls, spectrum)


if __name__ == "__main__":
    main()
