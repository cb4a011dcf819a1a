"""`score_clips`: generated against held-out clips, in numbers that no trick can win.

Four rules (the reasons are measured: a frozen clip wins every published smoothness score):

1. Two-sided. A statistic counts by its distance to real clips, never by being high or low.
2. Undefined is not perfect. Where nothing moves there is no smoothness; the share is counted.
3. Nothing without its floor: real clips scored against other real clips, at the same count.
4. Anchors in every run. Degenerate versions of real clips show where a bad model would stand.

Clips are chosen by a seeded permutation, N = min(generated, held-out, `num_clips`) on either
side; up to 2 N real clips serve for the floor and the anchors. No clip is ever compared with its
own degraded copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field

from vidiff import __version__
from vidiff.errors import DataError, RequestError
from vidiff.evaluation.measuring import (
    ClipSet,
    Setting,
    check_copying,
    compare_statistics,
    measure_clips,
    score_anchor,
    score_sets,
)
from vidiff.evaluation.report import GUARDED, Report, Score, Statistic
from vidiff.evaluation.writing import write_report
from vidiff.metrics import distribution as dist
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.motion import STILL, Clips, as_clips
from vidiff.records import derive_seed
from vidiff.runs.config import Config

MISSING = (
    "kd.appearance, fd.appearance, kd.change and fd.change need a frozen feature network, which "
    "this version does not have yet.",
    "flicker.perceptual needs ST-LPIPS, which this version does not have yet.",
    "kd.video needs a trained video network, which this version does not have yet.",
)
MIN_GENERATED, MIN_REAL = 4, 8

Progress = Callable[[float, str], None]


class EvalConfig(Config):
    """How many clips are compared, and which numbers are drawn."""

    num_clips: int = Field(256, ge=4)
    """Most clips on each side; 256 is recommended, under 128 warns."""
    anchor_clips: int = Field(256, ge=2)
    """Most clips of each degenerate anchor."""
    train_clips: int = Field(512, ge=1)
    """Most training clips whose motion is measured for the copy check; pixels take them all."""
    neighbours: int = Field(5, ge=1)
    """k of density and coverage."""
    draws: int = Field(1000, ge=100)
    """Sets of bootstrap weights behind an interval."""
    splits: int = Field(40, ge=1)
    """Random splits of the real clips behind a floor."""
    seed: int = 0
    """Chooses clips, splits, weights and the anchors' noise."""
    num_frames: int = Field(16, ge=4)
    """Frames per clip, where clips are read from a folder."""
    size: int = Field(64, ge=8)
    """Side in pixels, where clips are read from a folder."""
    fps: float | None = Field(None, gt=0)
    """Frames per second, where clips are read from a folder; None keeps the files' own rate."""


def score_clips(
    generated: Clips,
    real: Clips,
    *,
    dt: float,
    train: Clips | None = None,
    groups: Int[np.ndarray, "n"] | Sequence[int] | None = None,
    out: str | Path | None = None,
    config: EvalConfig | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score generated clips against held-out real ones.

    Args:
        generated: uint8 `b t h w c`, at least 4.
        real: held-out clips of the same frames and size, at least 8; twice as many as generated
            ones make the floor as sharp as the score.
        dt: seconds between frames, of both.
        train: training clips of the same frames and size; without them nothing is said of copies.
        groups: the source video of each real clip, as a number; intervals and floors then go by
            videos, clips of one video not being independent.
        out: folder for `report.json` and `report.html`; None writes nothing.
        config: see `EvalConfig`.
        progress: called with the share done, 0 to 1, and what is being measured.

    Raises:
        RequestError: clips of another kind, of unequal frames or size, or groups of another
            length.
        DataError: too few clips.
    """
    config = config or EvalConfig()
    given = {"generated": as_clips(generated), "real": as_clips(real)}
    if train is not None:
        given["train"] = as_clips(train)
    sources = None if groups is None else np.asarray(groups)
    _check(given, sources)
    n = min(len(given["generated"]), len(given["real"]), config.num_clips)
    rows = {
        "generated": _choose(len(given["generated"]), n, config.seed, "generated"),
        "real": _choose(len(given["real"]), 2 * n, config.seed, "real"),
    }
    meter = _Meter(progress, n + len(rows["real"]), config)

    ours = measure_clips(given["generated"][rows["generated"]], dt, None, meter("generated clips"))
    chosen = None if sources is None else sources[rows["real"]]
    pool = measure_clips(given["real"][rows["real"]], dt, chosen, meter("held-out clips"))
    setting = _settle(pool, n, config)
    anchors = _score_anchors(pool, dt, setting, config, meter)
    copies = _check_copies(ours, pool, given.get("train"), config)
    for pair in copies.get("closest", []):
        pair["generated"] = int(rows["generated"][pair["generated"]])

    scores = score_sets(ours, pool, setting)
    per_clip = compare_statistics(ours, pool, setting)
    missing = MISSING if copies else (*MISSING, "copies need the training clips.")
    reference = pool.take(slice(n))
    report = Report(
        protocol=_protocol(ours, reference, pool, dt, setting, config),
        scores=scores,
        per_clip=per_clip,
        anchors=anchors,
        copies=copies,
        warnings=_warn(n, pool, scores, per_clip, anchors, copies),
        missing=missing,
        values={
            name: (ours.motion.statistics[name], reference.motion.statistics[name])
            for name in per_clip
        },
    )
    if out is not None:
        write_report(report, given["generated"], given["real"], out, train=given.get("train"))
    return report


class _Meter:
    """Turns clips done into the share of the whole evaluation."""

    def __init__(self, progress: Progress | None, clips: int, config: EvalConfig) -> None:
        self.progress = progress
        self.total = clips + len(ANCHORS) * min(config.anchor_clips, clips // 3)
        self.done = 0

    def __call__(self, what: str) -> Callable[[int], None]:
        def advance(count: int) -> None:
            self.done += count
            if self.progress is not None:
                self.progress(min(1.0, self.done / self.total), what)

        return advance


def _check(
    given: dict[str, UInt8[np.ndarray, "..."]], sources: Int[np.ndarray, "..."] | None
) -> None:
    real = given["real"]
    for name, clips in given.items():
        if clips.shape[1:] != real.shape[1:]:
            raise RequestError(
                f"{name} clips are {list(clips.shape[1:])} (t h w c) and the held-out ones "
                f"{list(real.shape[1:])}; they must be equal.",
                "Read both at one number of frames and one size.",
            )
    for name, least in (("generated", MIN_GENERATED), ("real", MIN_REAL)):
        if len(given[name]) < least:
            raise DataError(
                f"There are {len(given[name])} {name} clips; an evaluation needs {least}.",
                "Make more samples." if name == "generated" else "Hold out more clips.",
            )
    if sources is not None and sources.shape != (len(real),):
        raise RequestError(
            f"groups have shape {list(sources.shape)} for {len(real)} real clips.",
            "Give one number per real clip: that of its source video.",
        )


def _choose(available: int, wanted: int, seed: int, purpose: str) -> Int[np.ndarray, "a"]:
    rng = np.random.default_rng(derive_seed(seed, 0, f"evaluate/{purpose}"))
    return rng.permutation(available)[:wanted]


def _settle(pool: ClipSet, n: int, config: EvalConfig) -> Setting:
    splits = dist.split_halves(len(pool), pool.groups, config.splits, config.seed)
    half = min(len(a) for a, _ in splits)
    return Setting(
        scale=dist.Scale.of(pool.motion.histograms),
        splits=splits,
        half=half,
        subsample=max(2, min(int(0.8 * n), half)),
        neighbours=config.neighbours,
        draws=config.draws,
        seed=config.seed,
    )


def _score_anchors(
    pool: ClipSet, dt: float, setting: Setting, config: EvalConfig, meter: _Meter
) -> dict[str, dict[str, float]]:
    rows = setting.splits[0][0][: config.anchor_clips]
    source = pool.take(rows)
    anchors = {}
    for name, degrade in ANCHORS.items():
        clips = degrade(source.clips, config.seed)
        measured = measure_clips(clips, dt, source.groups, meter(f"anchor {name}"))
        anchors[name] = score_anchor(measured, pool, rows, setting)
    return anchors


def _check_copies(
    ours: ClipSet, pool: ClipSet, train: UInt8[np.ndarray, "..."] | None, config: EvalConfig
) -> dict[str, Any]:
    if train is None or not len(train):
        return {}
    motion_rows = _choose(len(train), config.train_clips, config.seed, "train")
    return check_copying(ours, pool, train, motion_rows)


def _protocol(
    ours: ClipSet, reference: ClipSet, pool: ClipSet, dt: float, setting: Setting,
    config: EvalConfig,
) -> dict[str, Any]:  # fmt: skip
    _, t, h, w, c = reference.clips.shape
    digest = hashlib.sha256(reference.clips.tobytes()).hexdigest()
    card = {
        "n": len(ours),
        "num_frames": t,
        "height": h,
        "width": w,
        "channels": c,
        "dt": dt,
        "seed": config.seed,
        "neighbours": config.neighbours,
        "reference_sha256": digest,
        "versions": {"vidiff": __version__, "numpy": np.__version__, "cv2": cv2.__version__},
    }
    text = json.dumps(card, sort_keys=True).encode()
    return {
        **card,
        "card": hashlib.sha256(text).hexdigest()[:16],
        "floor_clips": setting.half,
        "real_groups": len(np.unique(pool.groups)) if pool.groups is not None else None,
        "flow": "DIS medium, finest scale 0, frames enlarged to 64 pixels where smaller",
        "still": f"fastest 5 % of pixels under {STILL} frame widths per frame",
        "scale": {"spread": setting.scale.spread, "features": len(setting.scale.centre)},
        "kd": "1000 x unbiased MMD^2, kernel (<x, y>/d + 1)^3; floor: 95th percentile of real/real",
        "fd": "Frechet, mean over subsamples of n without replacement; floor: mean of real/real",
        "density": "and coverage: motion histograms",
        "config": config.model_dump(),
    }


def _warn(
    n: int,
    pool: ClipSet,
    scores: dict[str, Score],
    per_clip: dict[str, Statistic],
    anchors: dict[str, dict[str, float]],
    copies: dict[str, Any],
) -> tuple[str, ...]:
    out = []
    if n < 64:
        out.append(f"{n} clips a side: not for comparison between models; 256 are recommended.")
    elif n < 128:
        out.append(f"{n} clips a side: intervals are wide; 256 are recommended.")
    if pool.groups is not None and len(np.unique(pool.groups)) < 4:
        out.append("The held-out clips come from fewer than 4 videos: floors are too low.")
    floor = scores["kd.motion"]["floor"]
    for name in GUARDED:
        if not anchors[name]["kd.motion"] > floor:
            out.append(
                f"kd.motion does not tell the {name} anchor from real clips here: do not rely "
                "on it in this run."
            )
    for name, statistic in per_clip.items():
        if statistic["undefined"] > 0.5:
            share = statistic["undefined"]
            out.append(f"{name} is undefined in {share:.0%} of generated clips: nothing moves.")
    for name in ("coverage", "diversity.pixels"):
        if scores[name]["ratio"] < 0.5:
            out.append(f"{name} is under half that of real clips: the samples resemble each other.")
    for kind in ("pixels", "motion"):
        if kind in copies and copies[kind]["share"] > 5 * copies["expected_share"]:
            share = copies[kind]["share"]
            out.append(f"{share:.0%} of generated clips lie suspiciously near training in {kind}.")
    return tuple(out)
