"""Real runs: an injected fault raises exactly its alarm in time, a healthy run raises none."""

from __future__ import annotations

import shutil
from pathlib import Path

import ills
import pytest
import torch
from conftest import TINY_RUN

from vidiff.data.index import scan
from vidiff.data.loading import read_all
from vidiff.data.verdict import DataConfig
from vidiff.data.video import probe
from vidiff.runs.tracking import read_metrics
from vidiff.saved import load
from vidiff.training import train
from vidiff.training.health import LEVELS, learned_weights, measure_clips, measure_data


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 real clips of a bouncing square."""
    return ills.write(tmp_path_factory.mktemp("ills") / "squares", ills.squares)


def test_a_healthy_run_raises_no_alarm_and_one_that_resumes_tells_the_same(
    squares: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("train.checkpoint_every=60", "train.held_out_clips=4", "train.held_out_every=30",
             "train.preview_every=60")  # fmt: skip
    assert ills.alarms(squares, out, 120, *words) == []
    lines = read_metrics(out / "metrics.jsonl")
    shutil.rmtree(out / "checkpoints" / "step-00000120")
    assert ills.alarms(squares, out, 120, *words) == []
    assert read_metrics(out / "metrics.jsonl") == lines
    assert sum("sample.luma" in line for line in lines) == 2
    bands = next(line for line in reversed(lines) if "held_out" in line)
    assert {f"{side}.{level:g}" for side in ("train", "held_out") for level in LEVELS} <= set(bands)
    assert bands["together"] < 0.8 * bands["alone"]
    assert sum(name.startswith("weight.") for name in bands) == 9
    for step in (60, 120):
        film = probe(out / "samples" / f"step-{step:08d}.mp4")
        assert (film.num_frames, film.fps) == (8, 10)
        assert (out / "samples" / f"step-{step:08d}.png").is_file()


def test_a_learning_rate_a_hundred_times_too_high_is_told_within_40_steps(
    squares: Path, tmp_path: Path
) -> None:
    found = ills.alarms(squares, tmp_path / "run", 40, "optimizer.lr=4")
    assert [name for name, _ in found] == ["spike"]


def test_temporal_layers_that_are_zeroed_are_told_within_150_steps(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ills.zero_time(monkeypatch)
    words = ("train.held_out_clips=4", "train.preview_every=75")
    found = ills.alarms(squares, tmp_path / "run", 150, *words)
    assert [name for name, _ in found] == ["time"]


def test_a_wrong_value_range_is_told_before_the_first_step(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ills.convert_twice(monkeypatch)
    assert ills.alarms(squares, tmp_path / "run", 10) == [("range", 0)]


@pytest.mark.parametrize(("kind", "name"), [(ills.flat, "constant"), (ills.still, "static")])
def test_clips_with_nothing_in_them_are_told_before_the_first_step(
    kind, name: str, tmp_path: Path
) -> None:
    root = ills.write(tmp_path / name, kind, count=8)
    assert ills.alarms(root, tmp_path / "run", 10) == [(name, 0)]


def test_real_clips_made_ill_are_measured_as_such(squares: Path) -> None:
    index = scan(DataConfig(root=str(squares), num_frames=8, size=32, held_out=0.3), 0)
    batch = read_all(index.split("train"), 6)
    real = measure_clips(batch.frames, 0.1)
    frozen = batch.frames[:, :1].expand_as(batch.frames).contiguous()
    assert measure_clips(frozen, 0.1)["motion"] < 0.05 * real["motion"]
    assert measure_clips(frozen, 0.1)["change"] == 0
    lamp = batch.frames // 2
    lamp[:, ::2] = batch.frames[:, ::2]
    assert measure_clips(lamp, 0.1)["flicker"] > 10 * real["flicker"] + 2
    contrast = ((batch.frames.float() - 128) * 20 + 128).clamp(0, 255).byte()
    assert measure_clips(contrast, 0.1)["clipped"] > 0.5 + real["clipped"]
    fading = (batch.frames * torch.linspace(1, 0, 8).view(1, 8, 1, 1, 1)).byte()
    assert measure_clips(fading, 0.1)["drift"] > 20 + 3 * real["drift"]


def test_the_learned_weight_of_a_fresh_network_is_one_and_of_a_trained_one_is_not(
    run: Path,
) -> None:
    weights = learned_weights(load(run, "model"))
    assert len(weights) == 9
    assert min(weights) == pytest.approx(0.01)
    assert max(weights) >= 20
    assert len(set(weights.values())) == 9


def test_clips_of_three_frames_have_no_motion_and_still_train(clips: Path, tmp_path: Path) -> None:
    words = [w for w in TINY_RUN if not w.startswith("data.num_frames")]
    out = tmp_path / "short"
    train(None, *words, "data.num_frames=3", data=clips, out=out, say=lambda text: None)
    line = read_metrics(out / "metrics.jsonl")[-1]
    assert "sample.motion" in line
    assert read_metrics(out / "alarms.jsonl") == []


def test_data_in_model_range_have_zero_mean_and_sd_one_half(run: Path, clips: Path) -> None:
    model = load(run)
    index = scan(DataConfig(root=str(clips), num_frames=8, size=16), 0)
    values = measure_data(model, read_all(index.split("train"), 6))
    assert abs(values["mean"]) < 0.2
    assert values["sd"] == pytest.approx(0.5, abs=0.1)


KINDS = {"squares": ills.squares, "scroll": ills.scroll, "swing": ills.swing}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_healthy_runs_on_three_kinds_of_clips_raise_none(kind: str, tmp_path: Path) -> None:
    # Each of these balls has colours of its own: of two dozen a model learns the colours by heart.
    root = ills.write(tmp_path / "clips", KINDS[kind], count=64 if kind == "swing" else 24)
    assert ills.alarms(root, tmp_path / "run", 400) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "name", "within"),
    [
        (ills.zero_time, "time", 200),
        (ills.freeze, "frozen", 250),
        (ills.overdrive, "saturated", 50),
        (ills.convert_twice, "range", 0),
    ],
)
@pytest.mark.parametrize("kind", ["squares", "scroll"])
def test_faults_raise_exactly_their_alarm_on_more_clips(
    fault, name: str, within: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ills.write(tmp_path / "clips", KINDS[kind])
    fault(monkeypatch)
    found = ills.alarms(root, tmp_path / "run", 300)
    assert [alarm for alarm, _ in found] == [name]
    assert found[0][1] <= within


@pytest.mark.slow
def test_a_model_that_learns_six_clips_by_heart_is_told(tmp_path: Path) -> None:
    root = ills.write(tmp_path / "clips", ills.scroll, count=8)
    words = ("data.num_frames=16", "data.held_out=0.3", "data.flip=false")
    found = ills.alarms(root, tmp_path / "run", 1500, *words)
    assert [alarm for alarm, _ in found] == ["memorisation"]
