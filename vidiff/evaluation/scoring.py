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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field

from vidiff.errors import DataError, RequestError
from vidiff.evaluation.cache import Shelf, hash_clips
from vidiff.evaluation.card import TENSORS, digest_card, make_card
from vidiff.evaluation.instruments import load_instruments
from vidiff.evaluation.measuring import (
    Setting,
    check_copying,
    compare_statistics,
    score_anchor,
    score_sets,
)
from vidiff.evaluation.report import Report
from vidiff.evaluation.sets import Bench, ClipSet
from vidiff.evaluation.verdicts import check_guards, find_flags, find_withdrawn, write_warnings
from vidiff.evaluation.writing import write_report
from vidiff.metrics import distribution as dist
from vidiff.metrics.anchors import ANCHORS, copied
from vidiff.metrics.features import DEFAULT
from vidiff.metrics.motion import STILL, Clips, as_clips
from vidiff.records import derive_seed
from vidiff.runs.config import Config
from vidiff.runs.crew import Crew
from vidiff.sampling import SampleConfig

MISSING = ("kd.video needs a trained video network: name one with --protocol and --weights.",)
MIN_GENERATED, MIN_REAL = 4, 8

Progress = Callable[[float, str], None]


class EvalConfig(Config):
    """How many clips are compared, and which numbers are drawn."""

    num_clips: int = Field(256, ge=4)
    """Most clips on each side; 256 is recommended, under 128 warns."""
    anchor_clips: int = Field(64, ge=2)
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
    features: str = DEFAULT
    """Feature network of appearance and change; `none` leaves both out."""
    perceptual: bool = True
    """Measure flicker by ST-LPIPS too."""
    batch: int = Field(16, ge=1)
    """Clips a process measures at a time; no result depends on it."""
    cache: str | None = None
    """Folder that keeps what is measured of real clips and anchors; None keeps nothing."""
    num_frames: int = Field(16, ge=4)
    """Frames per clip, where clips are read from a folder."""
    size: int | None = Field(None, ge=8)
    """Side in pixels, where clips are read from a folder; None takes the smaller side of the two
    folders, 64 at most."""
    fps: float | None = Field(None, gt=0)
    """Frames per second, where clips are read from a folder; None takes the lower rate of the two
    folders."""
    codec: Literal["tensors", "mp4"] = "tensors"
    """How samples of a model are scored: as they are, or after the MP4 encoder like a folder's."""
    sample: SampleConfig = SampleConfig()
    """Sampler, steps and guidance of a model's samples."""


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
    origin: Origin | None = None,
    crew: Crew | None = None,
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
        origin: how the clips got here, for the protocol card.
        crew: processes that share the work; all of them get the report, the first one writes.

    Raises:
        RequestError: clips of another kind, of unequal frames or size, or groups of another
            length.
        DataError: too few clips.
    """
    config, crew = config or EvalConfig(), crew or Crew()
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
    bench = Bench(
        dt,
        load_instruments(config.features, config.perceptual),
        crew,
        Shelf(config.cache),
        config.batch,
    )

    ours = bench.measure(given["generated"][rows["generated"]], None, meter("generated clips"))
    chosen = None if sources is None else sources[rows["real"]]
    pool = bench.measure(given["real"][rows["real"]], chosen, meter("held-out clips"), keep=True)
    setting = settle(pool, n, config)
    anchors = _score_anchors(pool, bench, setting, config, meter, given.get("train"))
    copies = _check_copies(ours, pool, given.get("train"), config)
    for pair in copies.get("closest", []):
        pair["generated"] = int(rows["generated"][pair["generated"]])

    report = _report(ours, pool, bench, setting, config, anchors, copies, origin or Origin())
    if out is not None and crew.leads:
        write_report(report, given["generated"], given["real"], out, train=given.get("train"))
    return report


def _report(
    ours: ClipSet, pool: ClipSet, bench: Bench, setting: Setting, config: EvalConfig,
    anchors: dict[str, dict[str, float]], copies: dict[str, Any], origin: Origin,
) -> Report:  # fmt: skip
    scores = score_sets(ours, pool, setting)
    per_clip, gap_draws = compare_statistics(ours, pool, setting)
    absent = () if copies else ("copies need the training clips.",)
    reference, n = pool.take(slice(len(ours))), len(ours)
    videos = None if pool.groups is None else len(np.unique(pool.groups))
    return Report(
        protocol=_protocol(reference, pool, bench, setting, config, origin),
        scores=scores.values,
        per_clip=per_clip,
        anchors=anchors,
        copies=copies,
        guards=check_guards(scores.values, per_clip, anchors),
        flags=find_flags(scores.values, per_clip),
        withdrawn=find_withdrawn(scores.values, anchors),
        warnings=write_warnings(n, videos, scores.values, per_clip, anchors, copies),
        missing=(*bench.instruments.missing, *MISSING, *absent),
        values={name: (ours.statistics[name], reference.statistics[name]) for name in per_clip},
        draws={**scores.draws, **gap_draws},
    )


@dataclass(frozen=True)
class Origin:
    """How the clips of an evaluation reached it."""

    codec: str = TENSORS
    """Of the generated pixels: `tensors` or `video files`."""
    split: str | None = None
    """Digest of the held-out side of the index."""
    notes: tuple[str, ...] = ()
    """Sentences on what was done to bring both sides to one form."""


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


def settle(pool: ClipSet, n: int, config: EvalConfig) -> Setting:
    """Scales, splits and counts that every block shares, from the held-out clips."""
    splits = dist.split_halves(len(pool), pool.groups, config.splits, config.seed)
    half = min(len(a) for a, _ in splits)
    return Setting(
        scales={name: dist.Scale.of(values) for name, values in pool.spaces.items()},
        splits=splits,
        half=half,
        subsample=max(2, min(int(0.8 * n), half)),
        neighbours=config.neighbours,
        draws=config.draws,
        seed=config.seed,
    )


def _score_anchors(
    pool: ClipSet, bench: Bench, setting: Setting, config: EvalConfig, meter: _Meter,
    train: UInt8[np.ndarray, "..."] | None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    rows = setting.splits[0][0][: config.anchor_clips]
    source = pool.take(rows)
    anchors = {}
    for name, degrade in ANCHORS.items():
        clips = degrade(source.clips, config.seed)
        measured = bench.measure(clips, source.groups, meter(f"anchor {name}"), keep=True)
        anchors[name] = score_anchor(measured, pool, rows, setting)
    if train is not None and len(train) >= MIN_GENERATED:
        chosen = copied(train, len(rows), config.seed)
        measured = bench.measure(chosen, None, meter("anchor copied"), keep=True)
        anchors["copied"] = score_anchor(measured, pool, None, setting)
    return anchors


def _check_copies(
    ours: ClipSet, pool: ClipSet, train: UInt8[np.ndarray, "..."] | None, config: EvalConfig
) -> dict[str, Any]:
    if train is None or not len(train):
        return {}
    motion_rows = _choose(len(train), config.train_clips, config.seed, "train")
    return check_copying(ours, pool, train, motion_rows)


def _protocol(
    reference: ClipSet, pool: ClipSet, bench: Bench, setting: Setting, config: EvalConfig,
    origin: Origin,
) -> dict[str, Any]:  # fmt: skip
    _, t, h, w, c = reference.clips.shape
    card = make_card(
        (t, h, w, c),
        n=len(reference),
        dt=bench.dt,
        seed=config.seed,
        neighbours=config.neighbours,
        reference=hash_clips(reference.clips),
        features=bench.instruments.features,
        codec=origin.codec,
        split=origin.split,
    )
    return {
        **card,
        "card": digest_card(card),
        "floor_clips": setting.half,
        "real_groups": len(np.unique(pool.groups)) if pool.groups is not None else None,
        "flow": "DIS medium, finest scale 0, frames enlarged to 64 pixels where smaller",
        "still": f"fastest 5 % of pixels under {STILL} frame widths per frame",
        "scale": {name: float(scale.spread) for name, scale in setting.scales.items()},
        "kd": "1000 x unbiased MMD^2, kernel (<x, y>/d + 1)^3; floor: 95th percentile of real/real",
        "fd": "Frechet, mean over subsamples of n without replacement; floor: mean of real/real",
        "density": "and coverage: motion histograms; with .appearance: the feature network",
        "notes": list(origin.notes),
        "config": config.model_dump(exclude={"cache", "batch"}),
    }
