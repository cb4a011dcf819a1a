"""Answers beside right and trivial ones, robustness, comparisons: on a run of seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from media import write_clips
from textures import walk_clips

from vidiff.cli import main
from vidiff.data.index import index_clips
from vidiff.data.loading import read_all
from vidiff.errors import RequestError
from vidiff.evaluation import EvalConfig, PairConfig, Report, score_clips
from vidiff.evaluation.comparing import compare_files, compare_reports, write_comparison
from vidiff.evaluation.pairing import judge, set_trial
from vidiff.evaluation.sources import HeldOut, load_folder, pass_through_mp4
from vidiff.metrics.anchors import shuffled

QUICK = ("sample.steps=2", "perceptual=false", "features=none")
CONFIG = EvalConfig(
    draws=200, splits=6, anchor_clips=4, num_clips=16, features="none", perceptual=False
)


def call(words: Sequence[str | Path]) -> int:
    cache = [] if "--cache" in words else ["--cache", "none"]
    return main([str(word) for word in [*words, *cache]])


@cache
def report_of(kind: str) -> Report:
    clips = walk_clips(16, num_frames=6, seed=3)
    if kind == "broken":
        noise = np.random.default_rng(0).normal(0, 25, clips.shape)
        clips = np.clip(shuffled(clips, 0) + noise, 0, 255).astype(np.uint8)
    if kind == "short":
        clips, real = clips[:8], walk_clips(16, num_frames=6, seed=1)
    else:
        real = walk_clips(32, num_frames=6, seed=1)
    return score_clips(clips, real, dt=0.1, config=CONFIG)


def test_a_model_against_itself_shows_no_difference() -> None:
    comparison = compare_reports({"a": report_of("real"), "b": report_of("real")})
    assert comparison.paired
    assert {d["difference"] for d in comparison.differences} <= {0.0}
    assert not any(d["better"] for d in comparison.differences)


def test_a_broken_model_is_farther_than_a_clean_one_beyond_chance(tmp_path: Path) -> None:
    comparison = compare_reports({"clean": report_of("real"), "broken": report_of("broken")})
    lines = {d["line"]: d for d in comparison.differences}
    for line in ("kd.motion", "gap.sharpness"):
        assert lines[line]["low"] > 0, line
        assert lines[line]["better"] == "clean"
    assert "clean is nearer to real" in str(comparison)
    files = write_comparison(comparison, tmp_path)
    assert json.loads(files[0].read_text()) == comparison.to_json()
    assert files[1].read_text().count("<svg") == 1


def test_results_of_unequal_protocols_do_not_compare() -> None:
    with pytest.raises(RequestError, match="n is 16 in a and 8 in b"):
        compare_reports({"a": report_of("real"), "b": report_of("short")})
    with pytest.raises(RequestError, match="1 result"):
        compare_reports({"a": report_of("real")})


def test_results_read_from_files_compare_with_wider_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for kind in ("real", "broken"):
        paths.append(tmp_path / f"{kind}.json")
        paths[-1].write_text(json.dumps(report_of(kind).to_json()))
    comparison = compare_files(paths)
    paired = compare_reports({"a": report_of("real"), "b": report_of("broken")})
    for d, e in zip(comparison.differences, paired.differences, strict=False):
        assert (d["line"], d["difference"]) == (e["line"], pytest.approx(e["difference"]))
    assert not comparison.paired
    assert call(["eval", *paths, "--compare"]) == 0
    assert "too wide" in capsys.readouterr().out
    paths[1].write_text("[]")
    assert call(["eval", *paths, "--compare"]) == 2


@pytest.fixture(scope="module")
def held_out(clips: Path) -> HeldOut:
    index = index_clips(clips, num_frames=12, size=32)
    return HeldOut(index, read_all(index, 3), None)


@pytest.mark.parametrize(
    "task", ["predict", "backward", "interpolate", "upsample-time", "reconstruct"]
)
def test_the_right_answer_beats_every_trivial_one_and_itself_never(
    task: str, held_out: HeldOut
) -> None:
    clips = held_out.clips
    trial = set_trial(task, clips, keep=2)
    (name, trivial), *_ = trial.trivial.items()
    assert trivial.shape == clips.shape
    shaken = np.clip(clips.astype(int) + 1, 0, 255).astype(np.uint8)
    config = PairConfig(draws=100, perceptual=False)
    report = judge(
        clips, {"one sample": shaken}, trial.trivial, trial.judged, held_out, config, task
    )
    assert report.scores["psnr"]["value"] > 40
    assert report.scores["psnr"]["trivial"][name]["beaten"]
    itself = judge(
        clips, {"one sample": trivial}, trial.trivial, trial.judged, held_out, config, task
    )
    assert not itself.scores["psnr"]["trivial"][name]["beaten"]
    assert any(f"psnr does not beat {name}" in sentence for sentence in itself.warnings())


def test_too_many_given_frames_and_unknown_tasks_are_refused(held_out: HeldOut) -> None:
    with pytest.raises(RequestError, match="keep=9 leaves 3 of 12"):
        set_trial("predict", held_out.clips, keep=9)
    with pytest.raises(RequestError, match="no paired task 'guess'"):
        set_trial("guess", held_out.clips, keep=2)


def test_a_task_is_judged_from_the_command_line(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "task.json"
    words = ["eval", run, *QUICK, "keep=3", "samples=2", "--data", clips, "--split", "all"]
    words += ["--task", "predict", "--clips", 4, "--json", path, "--out", tmp_path / "out"]
    done = call(words)
    assert done == 0
    result = json.loads(path.read_text())
    assert result["protocol"]["judged"] == "3 to 7"
    expected = {"psnr", "ssim", "tof", "warp_error", "psnr, best of 2"}
    assert expected <= set(result["scores"])
    best = result["scores"]["psnr, best of 2"]["value"]
    assert best >= result["scores"]["psnr"]["value"]
    assert set(result["scores"]["psnr"]["trivial"]) == {"repeat last"}
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:video/mp4;base64,") == 4
    assert "repeat last" in capsys.readouterr().out


def test_files_of_any_model_are_judged_against_their_targets(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    words = ["eval", clips, *QUICK, "num_frames=8", "size=32", "--data", clips, "--task", "pairs"]
    assert call([*words, "--clips", 4, "--json", path, "--out", tmp_path / "out"]) == 0
    result = json.loads(path.read_text())
    assert result["scores"]["ssim"]["value"] == pytest.approx(1)
    assert result["scores"]["ssim"]["trivial"]["bicubic"]["beaten"]


def test_robustness_is_one_row_a_condition_with_a_reason_where_there_is_none(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["eval", run, *QUICK, "draws=100", "splits=4", "neighbours=2", "--data", clips]
    assert call([*words, "--split", "all", "--robustness", "--clips", 4, "--out", out]) == 0
    rows = json.loads((out / "robustness.json").read_text())["robustness"]
    named = {row["name"]: row for row in rows}
    assert {"as trained", "rate x 0.5", "rate x 2", "4 frames", "16 frames", "8 pixels"} <= set(
        named
    )
    assert "kd.motion ratio" in named["as trained"]["values"]
    assert "kd.motion ratio" in named["rate x 0.5"]["values"]
    assert named["rate x 2"]["reason"]
    assert named["predict, clean frames"]["values"]["psnr"] > 0
    assert "as trained" in capsys.readouterr().out


def test_runs_and_folders_compare_through_one_encoder(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", run, clips, *QUICK, "draws=100", "splits=4", "anchor_clips=2", "neighbours=2"]
    words += ["--compare", "--data", clips, "--split", "all", "--clips", 6]
    assert call([*words, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]) == 0
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [r["protocol"]["codec"] for r in result["results"].values()] == ["video files"] * 2
    lines = {d["line"]: d for d in result["differences"]}
    assert lines["kd.motion"]["difference"] < 0
    assert lines["kd.motion"]["better"] == str(clips)
    assert "nearer to real" in capsys.readouterr().out


def test_folders_of_unlike_rates_and_sizes_meet_at_the_lower_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "real", 10, 60, (80, 120), 30)
    write_clips(tmp_path / "made", 6, 16, (48, 48), 10)
    path = tmp_path / "result.json"
    quick = [*QUICK, "num_frames=8", "draws=100", "splits=4", "neighbours=2", "anchor_clips=2"]
    words = ["eval", tmp_path / "made", *quick, "--data", tmp_path / "real", "--split", "all"]
    words += ["--clips", 6]
    assert call([*words, "--json", path, "--out", tmp_path / "out"]) == 0
    protocol = json.loads(path.read_text())["protocol"]
    assert (protocol["height"], protocol["dt"]) == (48, pytest.approx(0.1, rel=0.02))
    notes = " ".join(protocol["notes"])
    assert "held-out files, 80 pixels on their shorter side, were reduced to 48" in notes
    assert "held-out files, 30 frames a second, were read at 10" in notes


def test_what_a_command_cannot_do_is_said(
    run: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, sentence in (
        ([run], "--data is missing"),
        ([run, clips, "--data", clips], "Add --compare"),
        ([run, "--compare", "--data", clips], "two different sources"),
        ([clips, "--robustness", "--data", clips], "is a folder of clips"),
        ([run, "--task", "guess", "--data", clips], "no paired task"),
        ([clips, "--protocol", "guess", "--data", clips], "no protocol 'guess'"),
        ([clips, "--protocol", "fvd", "--data", clips], "i3d"),
    ):
        assert call(["eval", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_passing_through_the_encoder_keeps_clips_nearly_as_they_were() -> None:
    clips = walk_clips(2, num_frames=6, size=31)[..., :1].repeat(3, axis=-1)
    again = pass_through_mp4(clips, 10)
    assert again.shape == clips.shape
    assert 0 < np.abs(again.astype(int) - clips).mean() < 3


def test_load_folder_reads_a_folder_at_a_rate_of_its_own(clips: Path) -> None:
    read, dt = load_folder(clips, num_frames=6, size=16, fps=5, count=4)
    assert read.shape == (4, 6, 16, 16, 3)
    assert dt == pytest.approx(0.2)
