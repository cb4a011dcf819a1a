"""The blocks of an evaluation: distances between sets, statistics of clips, anchors, copies.

Every function takes sets already measured, so that flow is computed once per clip. Bootstrap
weights come from the seed alone: two models scored under one card draw the same ones, and the
difference of their draws is a paired comparison.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidiff.evaluation.report import Score, Statistic
from vidiff.evaluation.sets import ClipSet
from vidiff.metrics import distribution as dist
from vidiff.metrics.copies import PERCENTILE, check_clip_copies, check_copies, shrink_clips
from vidiff.metrics.motion import motion_histograms
from vidiff.metrics.neighbours import estimate_coverage, estimate_density

Draws = Float[np.ndarray, "r"]

GAP_DRAWS = 200
"""Bootstrap draws of a gap, which takes a sort where a distance takes a product."""

NEIGHBOUR_SPACES = {"": "motion", ".appearance": "appearance"}
"""Ending of the names of density and coverage to the space they are counted in."""


@dataclass(frozen=True)
class Setting:
    """What all blocks share: the real set's scales and splits, k, draws, seed."""

    scales: dict[str, dist.Scale]
    """Of each space."""
    splits: list[dist.Split]
    half: int
    """Clips in the smallest half of `splits`."""
    subsample: int
    """Clips on each side of a Fréchet distance: its bias depends on them, so that value, floor
    and anchors share one number."""
    neighbours: int
    draws: int
    seed: int


@dataclass(frozen=True)
class Scores:
    """Scores by name, and the bootstrap draws behind their intervals."""

    values: dict[str, Score] = field(default_factory=dict)
    draws: dict[str, Draws] = field(default_factory=dict)

    def add(self, name: str, value: float, draws: Draws, floor: float, n: int) -> None:
        """Enter one score; its interval is the middle 95 % of the draws."""
        low, high = np.percentile(draws, [2.5, 97.5])
        ratio = value / floor if floor > 0 else math.nan
        self.values[name] = Score(
            value=float(value), low=float(low), high=float(high), floor=floor, ratio=ratio, n=n
        )
        self.draws[name] = draws


def score_sets(generated: ClipSet, pool: ClipSet, setting: Setting) -> Scores:
    """Distances in every space, density, coverage and diversity against the pool's first clips.

    Args:
        generated: n clips.
        pool: n to 2 n real clips; all of them serve for the floors.
        setting: see `Setting`.
    """
    reference = pool.take(slice(len(generated)))
    scores = Scores()
    for space in generated.spaces:
        _score_kernel(scores, space, generated, reference, pool, setting)
    for space in generated.spaces:
        _score_frechet(scores, space, generated, reference, pool, setting)
    for ending, space in NEIGHBOUR_SPACES.items():
        if space in generated.spaces:
            _score_neighbours(scores, ending, space, generated, reference, pool, setting)
    _score_diversity(scores, generated, reference, pool, setting)
    return scores


def compare_statistics(
    generated: ClipSet, pool: ClipSet, setting: Setting
) -> tuple[dict[str, Statistic], dict[str, Draws]]:
    """Per-clip statistics of both sets, the gap between them and between real halves; gap draws."""
    reference = pool.take(slice(len(generated)))
    rng = np.random.default_rng(setting.seed)
    weights = [
        dist.draw_weights(rng, len(side), side.groups, setting.draws)
        for side in (generated, reference)
    ]
    picks = rng.integers(0, len(generated), (GAP_DRAWS, len(generated)))
    out: dict[str, Statistic] = {}
    draws: dict[str, Draws] = {}
    for name, x in generated.statistics.items():
        y, real = reference.statistics[name], pool.statistics[name]
        gaps = np.array([dist.gap(real[a], real[b]) for a, b in setting.splits])
        (x_low, x_high), (y_low, y_high) = (
            _mean_interval(v, w) for v, w in zip((x, y), weights, strict=True)
        )
        draws[f"gap.{name}"] = np.array([dist.gap(x[rows], y) for rows in picks])
        defined = gaps[~np.isnan(gaps)]
        out[name] = Statistic(
            generated=_mean(x),
            real=_mean(y),
            gap=dist.gap(x, y),
            floor=float(np.percentile(defined, 95)) if len(defined) else math.nan,
            generated_low=x_low,
            generated_high=x_high,
            real_low=y_low,
            real_high=y_high,
            undefined=float(np.isnan(x).mean()),
            real_undefined=float(np.isnan(y).mean()),
        )
    return out, draws


def score_anchor(
    anchor: ClipSet, pool: ClipSet, rows: Int[np.ndarray, "a"] | None, setting: Setting
) -> dict[str, float]:
    """Where degenerate clips stand, on the axes of the model; `gap.NAME` for the statistics.

    The kernel distance goes against all real clips, paired; the rest against the half that the
    anchor was not made of. `fd.*` is NaN where the anchor has fewer clips than the floor.

    Args:
        anchor: the degenerate clips.
        pool: the real clips.
        rows: those of the pool that the anchor was made of, from the first half of the first
            split; None: it was made of other clips.
        setting: see `Setting`.
    """
    reference, size, k = pool.take(setting.splits[0][1]), setting.subsample, setting.neighbours
    values: dict[str, float] = {}
    for space, scale in setting.scales.items():
        x, y, real = (scale.apply(side.spaces[space]) for side in (anchor, reference, pool))
        unit = dist.Scale.unit(x.shape[1])
        values[f"kd.{space}"] = (
            dist.kernel_distance(x, real, unit)
            if rows is None
            else dist.paired_kernel_distance(x, real, rows, unit)
        )
        enough = len(x) >= size
        values[f"fd.{space}"] = dist.frechet_distance(x[:size], y[:size]) if enough else math.nan
    for ending, space in NEIGHBOUR_SPACES.items():
        if space in anchor.spaces:
            hits = _hits(anchor.spaces[space], reference.spaces[space], k)
            values[f"density{ending}"] = float(hits[0].mean())
            values[f"coverage{ending}"] = float(hits[1].mean())
    values["diversity.pixels"] = _spread(anchor.thumbnails) / _spread(reference.thumbnails)
    for name, ours in anchor.statistics.items():
        values[f"gap.{name}"] = dist.gap(ours, reference.statistics[name])
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
    pixels = check_clip_copies(
        generated.thumbnails, held_out.thumbnails, shrink_clips(train), train.shape[1]
    )
    motion = check_copies(
        (generated.spaces["motion"],),
        (held_out.spaces["motion"],),
        motion_histograms(train[motion_rows]),
    )
    out: dict[str, Any] = {"expected_share": PERCENTILE / 100}
    for kind, found, count in (
        ("pixels", pixels, len(train)),
        ("motion", motion, len(motion_rows)),
    ):
        out[kind] = {
            "share": float(found.flagged.mean()),
            "copied": float(found.copied.mean()),
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
            "copied": bool(pixels.copied[i]),
        }
        for i in closest
    ]
    return out


def _score_kernel(
    scores: Scores, space: str, generated: ClipSet, reference: ClipSet, pool: ClipSet,
    setting: Setting,
) -> None:  # fmt: skip
    scale = setting.scales[space]
    x, y, real = (scale.apply(side.spaces[space]) for side in (generated, reference, pool))
    kernels = dist.Kernels.of(x, y)
    rng = np.random.default_rng(setting.seed)
    weights = [
        dist.draw_weights(rng, len(side), side.groups, setting.draws)
        for side in (generated, reference)
    ]
    value = float(kernels.distance(np.ones((1, len(x))), np.ones((1, len(y))))[0])
    # Null distances fall like 1 / n, so a floor of smaller halves is brought to n.
    floor = dist.kernel_floor(real, setting.splits) * min(1.0, setting.half / len(x))
    scores.add(f"kd.{space}", value, kernels.distance(*weights), floor, len(x))


def _score_frechet(
    scores: Scores, space: str, generated: ClipSet, reference: ClipSet, pool: ClipSet,
    setting: Setting,
) -> None:  # fmt: skip
    scale, size = setting.scales[space], setting.subsample
    x, y, real = (scale.apply(side.spaces[space]) for side in (generated, reference, pool))
    draws = dist.frechet_subsamples(x, y, size, draws=len(setting.splits), seed=setting.seed)
    floor = dist.frechet_floor(real, setting.splits, size)
    scores.add(f"fd.{space}", float(draws.mean()), draws, floor, size)


def _score_neighbours(
    scores: Scores, ending: str, space: str, generated: ClipSet, reference: ClipSet,
    pool: ClipSet, setting: Setting,
) -> None:  # fmt: skip
    k = setting.neighbours
    x, y, real = (side.spaces[space] for side in (generated, reference, pool))
    # Draws of two models must be independent where no weights are shared: equal ones would cancel.
    rng = np.random.default_rng([setting.seed, zlib.crc32(np.ascontiguousarray(x).data)])
    hits = _hits(x, y, k)
    halves = [_hits(real[a], real[b], k) for a, b in setting.splits]
    for i, (name, estimate) in enumerate(
        (("density", estimate_density), ("coverage", estimate_coverage))
    ):
        draws = np.full(setting.draws, np.nan)
        if len(y) > k + 1:
            found = estimate(x, y, k, generated.groups, reference.groups)
            draws = found.draw(rng, setting.draws)
        floor = float(np.mean([half[i].mean() for half in halves]))
        scores.add(name + ending, float(hits[i].mean()), draws, floor, len(x))


def _hits(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], k: int
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    if len(y) <= k:
        return np.full(len(x), np.nan), np.full(len(y), np.nan)
    around, met = dist.neighbour_hits(x, y, k)
    return around, met.astype(np.float64)


def _score_diversity(
    scores: Scores, generated: ClipSet, reference: ClipSet, pool: ClipSet, setting: Setting
) -> None:
    rng = np.random.default_rng(setting.seed)
    ones = np.ones((1, len(generated)))
    sides = []
    for side in (generated, reference):
        weights = dist.draw_weights(rng, len(side), side.groups, setting.draws)
        matrix = dist.distances(side.thumbnails, side.thumbnails)
        sides.append(dist.mean_of_pairs(matrix, np.concatenate([ones, weights])))
    value, *draws = sides[0] / sides[1]
    real = dist.distances(pool.thumbnails, pool.thumbnails)
    halves = [
        dist.mean_of_pairs(
            real, np.stack([dist.mask_rows(split[i], len(pool)) for split in setting.splits])
        )
        for i in (0, 1)
    ]
    floor = float((halves[0] / halves[1]).mean())
    scores.add("diversity.pixels", float(value), np.array(draws), floor, len(generated))


def _spread(thumbnails: Float[np.ndarray, "b d"]) -> float:
    """Mean distance of two clips of a set, in grey levels."""
    matrix = dist.distances(thumbnails, thumbnails)
    return float(dist.mean_of_pairs(matrix, np.ones((1, len(matrix))))[0])


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
