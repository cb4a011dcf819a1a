"""The blocks of an evaluation: distances between sets, statistics of clips, anchors, copies.

Every function takes sets already measured, so that flow is computed once per clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidiff.evaluation.report import Score, Statistic
from vidiff.metrics import distribution as dist
from vidiff.metrics.copies import PERCENTILE, check_copies, shrink_clips
from vidiff.metrics.motion import STATISTICS, Motion, measure_motion, motion_histograms

CHUNK = 16
"""Clips between two calls of the progress."""


@dataclass(frozen=True)
class ClipSet:
    """Clips with all that is measured of them."""

    clips: UInt8[np.ndarray, "b t h w c"]
    motion: Motion
    thumbnails: Float[np.ndarray, "b d"]
    groups: Int[np.ndarray, "b"] | None = None
    """Source video of each clip; None: every clip is its own."""

    def take(self, rows: Int[np.ndarray, "a"] | slice) -> ClipSet:
        """The same of some of the clips."""
        statistics = {name: values[rows] for name, values in self.motion.statistics.items()}
        motion = Motion(statistics, self.motion.histograms[rows])
        groups = None if self.groups is None else self.groups[rows]
        return ClipSet(self.clips[rows], motion, self.thumbnails[rows], groups)

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Setting:
    """What all blocks share: the real set's scale and splits, k, draws, seed."""

    scale: dist.Scale
    splits: list[dist.Split]
    half: int
    """Clips in the smallest half of `splits`."""
    subsample: int
    """Clips on each side of a Fréchet distance: its bias depends on them, so that value, floor
    and anchors share one number."""
    neighbours: int
    draws: int
    seed: int


def measure_clips(
    clips: UInt8[np.ndarray, "b t h w c"],
    dt: float,
    groups: Int[np.ndarray, "b"] | None,
    advance: Callable[[int], None],
) -> ClipSet:
    """Motion and thumbnails of every clip; `advance` is told the number of clips done."""
    parts = []
    for start in range(0, len(clips), CHUNK):
        chunk = clips[start : start + CHUNK]
        parts.append(measure_motion(chunk, dt))
        advance(len(chunk))
    statistics = {n: np.concatenate([p.statistics[n] for p in parts]) for n in STATISTICS}
    motion = Motion(statistics, np.concatenate([p.histograms for p in parts]))
    return ClipSet(clips, motion, shrink_clips(clips), groups)


def score_sets(generated: ClipSet, pool: ClipSet, setting: Setting) -> dict[str, Score]:
    """Distances in motion, density, coverage and diversity against the first clips of the pool.

    Args:
        generated: n clips.
        pool: n to 2 n real clips; all of them serve for the floors.
        setting: see `Setting`.
    """
    reference = pool.take(slice(len(generated)))
    return {
        "kd.motion": _score_kernel(generated, reference, pool, setting),
        "fd.motion": _score_frechet(generated, reference, pool, setting),
        **_score_neighbours(generated, reference, pool, setting),
        "diversity.pixels": _score_diversity(generated, reference, pool, setting),
    }


def compare_statistics(generated: ClipSet, pool: ClipSet, setting: Setting) -> dict[str, Statistic]:
    """Per-clip statistics of both sets, with the gap between them and between real halves."""
    reference = pool.take(slice(len(generated)))
    rng = np.random.default_rng(setting.seed)
    weights = [
        dist.draw_weights(rng, len(side), side.groups, setting.draws)
        for side in (generated, reference)
    ]
    out: dict[str, Statistic] = {}
    for name in STATISTICS:
        x, y = generated.motion.statistics[name], reference.motion.statistics[name]
        real = pool.motion.statistics[name]
        gaps = [dist.gap(real[a], real[b]) for a, b in setting.splits]
        (x_low, x_high), (y_low, y_high) = (
            _mean_interval(v, w) for v, w in zip((x, y), weights, strict=True)
        )
        out[name] = Statistic(
            generated=_mean(x),
            real=_mean(y),
            gap=dist.gap(x, y),
            floor=_mean(np.array(gaps)),
            generated_low=x_low,
            generated_high=x_high,
            real_low=y_low,
            real_high=y_high,
            undefined=float(np.isnan(x).mean()),
        )
    return out


def score_anchor(
    anchor: ClipSet, pool: ClipSet, rows: Int[np.ndarray, "a"], setting: Setting
) -> dict[str, float]:
    """Where degenerate clips stand, on the axes of the model; `gap.NAME` for the statistics.

    The kernel distance goes against all real clips, paired; the rest against the half that the
    anchor was not made of. `fd.motion` is NaN where the anchor has fewer clips than the floor.

    Args:
        anchor: the degenerate clips.
        pool: the real clips.
        rows: those of the pool that the anchor was made of, from the first half of the first
            split.
        setting: see `Setting`.
    """
    reference, size = pool.take(setting.splits[0][1]), setting.subsample
    x, y, real = (setting.scale.apply(side.motion.histograms) for side in (anchor, reference, pool))
    frechet = dist.frechet_distance(x[:size], y[:size]) if len(x) >= size else math.nan
    hits = _hits(x, y, setting.neighbours)
    values = {
        "kd.motion": dist.paired_kernel_distance(x, real, rows, dist.Scale.unit(x.shape[1])),
        "fd.motion": frechet,
        "density": float(hits[0].mean()),
        "coverage": float(hits[1].mean()),
        "diversity.pixels": _spread(anchor.thumbnails) / _spread(reference.thumbnails),
    }
    for name in STATISTICS:
        ours, real = anchor.motion.statistics[name], reference.motion.statistics[name]
        values[f"gap.{name}"] = dist.gap(ours, real)
    return values


def check_copying(
    generated: ClipSet,
    held_out: ClipSet,
    train: UInt8[np.ndarray, "m t h w c"],
    motion_rows: Int[np.ndarray, "k"],
) -> dict[str, Any]:
    """Share of generated clips nearer to training than 99 % of held-out ones, by two features.

    Args:
        generated: clips under suspicion.
        held_out: clips that no model has seen, the yardstick.
        train: all training clips.
        motion_rows: those of them whose motion is compared.
    """
    pixels = check_copies(_guises(generated), _guises(held_out), shrink_clips(train))
    motion = check_copies(
        (generated.motion.histograms,),
        (held_out.motion.histograms,),
        motion_histograms(train[motion_rows]),
    )
    out: dict[str, Any] = {"expected_share": PERCENTILE / 100}
    for kind, found, count in (
        ("pixels", pixels, len(train)),
        ("motion", motion, len(motion_rows)),
    ):
        out[kind] = {
            "share": float(found.flagged.mean()),
            "threshold": found.threshold,
            "z": found.z,
            "train_clips": count,
        }
    closest = np.argsort(pixels.distance, kind="stable")[:10]
    out["closest"] = [
        {
            "generated": int(i),
            "train": int(pixels.nearest[i]),
            "distance": float(pixels.distance[i]),
            "flagged": bool(pixels.flagged[i]),
        }
        for i in closest
    ]
    return out


def _score_kernel(generated: ClipSet, reference: ClipSet, pool: ClipSet, setting: Setting) -> Score:
    x, y, real = (
        setting.scale.apply(side.motion.histograms) for side in (generated, reference, pool)
    )
    kernels = dist.Kernels.of(x, y)
    value = float(kernels.distance(np.ones((1, len(x))), np.ones((1, len(y))))[0])
    low, high = dist.kernel_interval(
        kernels, groups_y=reference.groups, draws=setting.draws, seed=setting.seed
    )
    # Null distances fall like 1 / n, so a floor of smaller halves is brought to n.
    floor = dist.kernel_floor(real, setting.splits) * min(1.0, setting.half / len(x))
    return _score(value, low, high, floor, len(x))


def _score_frechet(
    generated: ClipSet, reference: ClipSet, pool: ClipSet, setting: Setting
) -> Score:
    x, y, real = (
        setting.scale.apply(side.motion.histograms) for side in (generated, reference, pool)
    )
    size = setting.subsample
    draws = dist.frechet_subsamples(x, y, size, draws=len(setting.splits), seed=setting.seed)
    low, high = np.percentile(draws, [2.5, 97.5])
    floor = dist.frechet_floor(real, setting.splits, size)
    return _score(float(draws.mean()), float(low), float(high), floor, size)


def _score_neighbours(
    generated: ClipSet, reference: ClipSet, pool: ClipSet, setting: Setting
) -> dict[str, Score]:
    k, rng = setting.neighbours, np.random.default_rng(setting.seed)
    x, y, real = (side.motion.histograms for side in (generated, reference, pool))
    hits = _hits(x, y, k)
    halves = [_hits(real[a], real[b], k) for a, b in setting.splits]
    out = {}
    for i, (name, side) in enumerate((("density", generated), ("coverage", reference))):
        weights = dist.draw_weights(rng, len(side), side.groups, setting.draws)
        low, high = _mean_interval(hits[i], weights)
        floor = float(np.mean([half[i].mean() for half in halves]))
        out[name] = _score(float(hits[i].mean()), low, high, floor, len(x))
    return out


def _hits(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], k: int
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    if len(y) <= k:
        return np.full(len(x), np.nan), np.full(len(y), np.nan)
    around, met = dist.neighbour_hits(x, y, k)
    return around, met.astype(np.float64)


def _score_diversity(
    generated: ClipSet, reference: ClipSet, pool: ClipSet, setting: Setting
) -> Score:
    rng = np.random.default_rng(setting.seed)
    ones = np.ones((1, len(generated)))
    sides = []
    for side in (generated, reference):
        weights = dist.draw_weights(rng, len(side), side.groups, setting.draws)
        matrix = dist.distances(side.thumbnails, side.thumbnails)
        sides.append(dist.mean_of_pairs(matrix, np.concatenate([ones, weights])))
    value, *draws = sides[0] / sides[1]
    low, high = np.percentile(draws, [2.5, 97.5])
    real = dist.distances(pool.thumbnails, pool.thumbnails)
    halves = [
        dist.mean_of_pairs(
            real, np.stack([dist.mask_rows(split[i], len(pool)) for split in setting.splits])
        )
        for i in (0, 1)
    ]
    floor = float((halves[0] / halves[1]).mean())
    return _score(float(value), float(low), float(high), floor, len(generated))


def _spread(thumbnails: Float[np.ndarray, "b d"]) -> float:
    """Mean distance of two clips of a set, in grey levels."""
    matrix = dist.distances(thumbnails, thumbnails)
    return float(dist.mean_of_pairs(matrix, np.ones((1, len(matrix))))[0])


def _guises(side: ClipSet) -> tuple[Float[np.ndarray, "b d"], ...]:
    return side.thumbnails, shrink_clips(side.clips[:, :, :, ::-1])


def _score(value: float, low: float, high: float, floor: float, n: int) -> Score:
    ratio = value / floor if floor > 0 else math.nan
    return Score(value=value, low=low, high=high, floor=floor, ratio=ratio, n=n)


def _mean(values: Float[np.ndarray, "n"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _mean_interval(
    values: Float[np.ndarray, "n"], weights: Float[np.ndarray, "r n"]
) -> tuple[float, float]:
    defined = ~np.isnan(values)
    if not defined.any():
        return math.nan, math.nan
    kept = weights[:, defined]
    means = kept @ values[defined] / kept.sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
