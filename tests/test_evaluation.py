from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_clips
from textures import walk_clips

from vidiff.errors import DataError, RequestError
from vidiff.evaluation import EvalConfig, Report, load_folder, score_clips
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.motion import STATISTICS
from vidiff.metrics.vbench import FORMULAS

CONFIG = EvalConfig(draws=200, splits=10, anchor_clips=6, features="none", perceptual=False)
SCORES = {"kd.motion", "fd.motion", "density", "coverage", "diversity.pixels"}


@cache
def real_clips() -> np.ndarray:
    return walk_clips(48, seed=1)


@cache
def train_clips() -> np.ndarray:
    return walk_clips(60, seed=2)


@cache
def report_of(kind: str) -> Report:
    """Fresh walks, as they are or degraded, against the held-out ones."""
    generated = walk_clips(24, seed=3)
    if kind in ANCHORS:
        generated = ANCHORS[kind](generated, 9)
    train = train_clips() if kind == "real" else None
    return score_clips(generated, real_clips(), dt=0.1, train=train, config=CONFIG)


def test_other_real_clips_pass_every_guard_and_stand_near_the_floor() -> None:
    report = report_of("real")
    assert all(report.guards.values()), report
    assert report.scores["kd.motion"]["ratio"] < 2
    assert report.scores["fd.motion"]["ratio"] == pytest.approx(1, abs=0.3)
    assert report.scores["coverage"]["ratio"] > 0.6
    assert report.scores["diversity.pixels"]["value"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "guard"),
    [
        ("frozen", "static_fraction"),
        ("frozen", "motion_ratio"),
        ("frozen", "under_jitter"),
        ("stutter", "static_fraction"),
        ("shuffled", "under_jitter"),
    ],
)
def test_a_degenerate_model_fails_a_guard(kind: str, guard: str) -> None:
    assert not report_of(kind).guards[guard]


@pytest.mark.parametrize(
    ("kind", "statistic"),
    [
        ("stutter", "smooth.jerk_ratio"),
        ("shuffled", "smooth.interp_ratio"),
        ("jitter", "smooth.jerk_ratio"),
        ("pan", "smooth.jerk_ratio"),
        ("blurred", "sharpness"),
    ],
)
def test_a_degenerate_model_shows_in_a_gap_on_either_side(kind: str, statistic: str) -> None:
    real, degraded = (report_of(k).per_clip[statistic]["gap"] for k in ("real", kind))
    assert degraded > 2 * real


def test_a_frozen_model_is_undefined_in_smoothness_and_warned_of() -> None:
    report = report_of("frozen")
    statistic = report.per_clip["smooth.jerk_ratio"]
    assert statistic["undefined"] == 1
    assert np.isnan([statistic["generated"], statistic["gap"]]).all()
    assert any("nothing moves" in sentence for sentence in report.warnings)
    assert report.to_json()["per_clip"]["smooth.jerk_ratio"]["gap"] is None


def test_a_collapsed_model_loses_coverage_and_is_warned_of() -> None:
    clips = np.repeat(walk_clips(2, seed=3), 12, axis=0)
    report = score_clips(clips, real_clips(), dt=0.1, config=CONFIG)
    assert report.scores["coverage"]["ratio"] < 0.5
    assert any("resemble each other" in sentence for sentence in report.warnings)


def test_the_anchors_stand_where_they_belong_in_every_run() -> None:
    report = report_of("real")
    assert set(report.anchors) == {*ANCHORS, "copied"}
    floor = report.scores["kd.motion"]["floor"]
    for name in ("frozen", "shuffled", "stutter", "collapsed"):
        assert report.anchors[name]["kd.motion"] > floor, name
    assert np.isnan(report.anchors["frozen"]["gap.smooth.jerk_ratio"])


def test_the_json_keeps_its_contract() -> None:
    report = report_of("real").to_json()
    text = json.dumps(report, allow_nan=False)
    assert {"protocol", "scores", "per_clip", "anchors", "copies", "warnings"} <= set(report)
    assert set(report["scores"]) == SCORES
    for score in report["scores"].values():
        assert set(score) == {"value", "low", "high", "floor", "ratio", "n"}
    assert set(report["per_clip"]) == {*STATISTICS, *FORMULAS}
    for statistic in report["per_clip"].values():
        assert {"generated", "real", "gap"} <= set(statistic)
    assert json.loads(text) == report


@pytest.mark.parametrize("reserved", ["FVD", "FID", "KID", "LPIPS", "FVMD", "JEDi"])
def test_names_of_published_protocols_label_nothing_of_ours(reserved: str) -> None:
    report = report_of("real").to_json()
    for block in ("scores", "per_clip", "anchors", "copies"):
        assert not re.search(rf"\b{reserved}\b", json.dumps(report[block]), re.IGNORECASE)


def test_what_is_not_measured_is_said_in_a_sentence() -> None:
    assert any("appearance" in sentence for sentence in report_of("real").missing)
    assert any("training clips" in sentence for sentence in report_of("frozen").missing)


def test_the_same_clips_give_the_same_report_whatever_their_container() -> None:
    clips, real = walk_clips(6, seed=3), real_clips()[:12]
    config = CONFIG.model_copy(update={"num_clips": 4})
    first = score_clips(clips, real, dt=0.1, config=config)
    again = score_clips(torch.from_numpy(clips), torch.from_numpy(real), dt=0.1, config=config)
    assert again.to_json() == first.to_json()
    assert first.protocol["n"] == 4


def test_planted_copies_are_flagged_as_they_are_and_mirrored() -> None:
    generated, train = walk_clips(24, seed=3), train_clips()
    generated[:4], generated[4:8] = train[:4], train[10:14, :, :, ::-1]
    noise = np.random.default_rng(0).integers(-3, 4, generated[:8].shape)
    generated[:8] = np.clip(generated[:8].astype(int) + noise, 0, 255)
    copies = score_clips(generated, real_clips(), dt=0.1, train=train, config=CONFIG).copies
    assert copies["pixels"]["copied"] == pytest.approx(8 / 24)
    pairs = {(pair["generated"], pair["train"]) for pair in copies["closest"] if pair["copied"]}
    assert pairs == {(i, i) for i in range(4)} | {(i, i + 6) for i in range(4, 8)}
    honest = report_of("real").copies
    assert honest["pixels"]["copied"] < 0.05


def test_clips_of_few_videos_and_few_clips_are_warned_of() -> None:
    groups = [0] * 24 + [1] * 24
    clips = walk_clips(24, seed=3)
    report = score_clips(clips, real_clips(), dt=0.1, groups=groups, config=CONFIG)
    assert any("fewer than 4 videos" in sentence for sentence in report.warnings)
    assert any("not for comparison" in sentence for sentence in report.warnings)


def test_progress_runs_from_nothing_to_all() -> None:
    seen: list[float] = []
    score_clips(
        walk_clips(4, seed=3),
        real_clips()[:8],
        dt=0.1,
        config=CONFIG,
        progress=lambda share, what: seen.append(share),
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_the_table_shows_scores_anchors_guards_and_warnings() -> None:
    table = str(report_of("real"))
    for word in (*SCORES, *STATISTICS, *ANCHORS, "guards:", "warning:", "missing:"):
        assert word in table
    assert max(map(len, table.split("\nguards")[0].splitlines())) <= 100


def test_a_report_is_two_files_that_hold_the_clips_and_the_numbers(tmp_path: Path) -> None:
    generated = walk_clips(8, seed=3)
    report = score_clips(
        generated, real_clips()[:16], dt=0.1, train=train_clips()[:20], out=tmp_path, config=CONFIG
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:video/mp4;base64,") == 2
    assert html.count("<svg") == 1 + len(STATISTICS) + len(FORMULAS)
    for word in ("Real, held out", "Generated", "What the numbers say", "jitter", "Nearest"):
        assert word in html


def test_unequal_clips_are_refused_with_both_shapes() -> None:
    with pytest.raises(RequestError, match=r"\[8, 16, 16, 3\].*\[8, 32, 32, 3\]"):
        score_clips(walk_clips(4, size=16), real_clips(), dt=0.1)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(RequestError, match=r"groups have shape \[3\] for 48"):
        score_clips(walk_clips(4), real_clips(), dt=0.1, groups=[1, 2, 3])


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(DataError, match="3 generated clips"):
        score_clips(walk_clips(3), real_clips(), dt=0.1)
    with pytest.raises(DataError, match="7 real clips"):
        score_clips(walk_clips(4), real_clips()[:7], dt=0.1)


def test_a_folder_of_videos_becomes_clips_and_a_time_step(tmp_path: Path) -> None:
    write_clips(tmp_path, 6, 12, (40, 40), 10)
    clips, dt = load_folder(tmp_path, num_frames=8, size=32, count=6)
    assert clips.shape == (6, 8, 32, 32, 3)
    assert clips.dtype == np.uint8
    assert dt == pytest.approx(0.1)
