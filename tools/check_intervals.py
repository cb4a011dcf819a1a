"""How often do the evaluator's 95 % intervals hold the truth? Simulated clips say.

    python tools/check_intervals.py [--repetitions 200]

Real and generated features are drawn from Gaussians whose distance is known (from 20,000 draws);
each repetition makes one interval as the evaluator does. Printed: the share that held the truth,
for the kernel distance, density, coverage and a mean, with clips of their own and with clips cut
four from a video. The mark is 85 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidiff.metrics import distribution as dist
from vidiff.metrics.neighbours import estimate_coverage, estimate_density

DRAWS = 300
LARGE = 3000


@dataclass(frozen=True)
class Setting:
    """One pair of Gaussians: generated N(shift, scale^2 I), real N(0, I)."""

    name: str
    clips: int
    width: int
    shift: float = 0.0
    scale: float = 1.0
    per_video: int = 1


SETTINGS = (
    Setting("equal, 64 clips, 16 d", 64, 16),
    Setting("shifted by 0.3, 64 clips, 16 d", 64, 16, shift=0.3),
    Setting("shifted by 1, 64 clips, 16 d", 64, 16, shift=1.0),
    Setting("narrower by a half, 128 clips, 32 d", 128, 32, scale=0.5),
    Setting("shifted by 0.5, 128 clips, 128 d", 128, 128, shift=0.5),
    Setting("shifted by 0.5, 32 videos of 4 clips, 16 d", 128, 16, shift=0.5, per_video=4),
)


def draw(setting: Setting, clips: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated and real features, and the video of each real clip."""
    rng = np.random.default_rng(seed)
    x = setting.shift + setting.scale * rng.normal(size=(clips, setting.width))
    videos = np.arange(clips) // setting.per_video
    if setting.per_video == 1:
        return x, rng.normal(size=(clips, setting.width)), videos
    # Half of the variance belongs to the video.
    shared = rng.normal(size=(clips // setting.per_video, setting.width))[videos]
    own = rng.normal(size=(clips, setting.width))
    return x, np.sqrt(0.5) * (shared + own), videos


def kernel(x: np.ndarray, y: np.ndarray, videos: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the kernel distance, as the evaluator makes it."""
    return dist.kernel_interval(dist.Kernels.of(x, y), groups_y=videos, draws=DRAWS, seed=seed)


def density(x: np.ndarray, y: np.ndarray, videos: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the density."""
    return estimate_density(x, y, groups_y=videos).interval


def coverage(x: np.ndarray, y: np.ndarray, videos: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the coverage."""
    return estimate_coverage(x, y, groups_y=videos).interval


def mean(values: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of a mean over clips, as the evaluator makes it."""
    weights = dist.draw_weights(np.random.default_rng(seed), len(values), groups, DRAWS)
    low, high = np.percentile(weights @ values / weights.sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def share_held(
    setting: Setting,
    repetitions: int,
    truth: float,
    interval: Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[float, float]],
) -> float:
    """Share of repetitions whose interval holds the truth."""
    held = 0
    for seed in range(repetitions):
        low, high = interval(*draw(setting, setting.clips, seed), seed)
        held += low <= truth <= high
    return held / repetitions


def main() -> None:
    """Print one row per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    count = parser.parse_args().repetitions
    print(f"| setting | kd | density | coverage | mean | ({count} repetitions each)")
    for setting in SETTINGS:
        x, y, _ = draw(setting, LARGE, 10**6)
        unit = dist.Scale.unit(setting.width)
        own = range(10**5, 10**5 + 100)
        hits = [dist.neighbour_hits(*draw(setting, setting.clips, s)[:2]) for s in own]
        truths = [np.mean([h[k].mean() for h in hits]) for k in (0, 1)]
        shares = [
            share_held(setting, count, dist.kernel_distance(x, y, unit), kernel),
            share_held(setting, count, truths[0], density),
            share_held(setting, count, truths[1], coverage),
            share_held(setting, count, 0.0, lambda x, y, g, s: mean(y[:, 0], g, s)),
        ]
        cells = " | ".join(f"{share:.0%}" for share in shares)
        print(f"| {setting.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
