"""The demo: its clips are real, its stages resume, its report opens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vidiff.cli import main
from vidiff.data.index import index_clips
from vidiff.data.loading import read_all
from vidiff.data.video import probe, read_frames
from vidiff.demo import DemoConfig, recipe_for, write_bunny, write_walks
from vidiff.errors import RequestError
from vidiff.training.settings import read_config

CONFIGS = Path(__file__).parent.parent / "configs"


def read_whole(path: Path) -> np.ndarray:
    return read_frames(path, probe(path).pts_seconds).astype(int)


def test_the_walk_is_the_same_for_the_same_seed_and_moves(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder, seed in ((a, 0), (b, 0), (c, 1)):
        assert write_walks(folder, seed, episodes=3) == 3
    names = sorted(p.name for p in a.iterdir())
    assert len(names) == 3
    walks = [[read_whole(folder / n) for n in names] for folder in (a, b, c)]
    # Encoding equal frames differs a little now and then (docs/journal.md).
    for one, again, other in zip(*walks, strict=True):
        assert one.shape == again.shape
        assert np.abs(one - again).mean() < 1
        assert one.shape != other.shape or np.abs(one - other).mean() > 2
    info = probe(a / names[0])
    assert (info.width, info.height, info.fps) == (64, 64, 10)
    frames = read_all(index_clips(a, num_frames=16, size=64), 32).frames.numpy()
    change = np.abs(np.diff(frames.astype(int), axis=1)).mean(axis=(2, 3, 4))
    assert np.median(change) > 1
    assert (change < 0.3).mean() < 0.1


def test_the_bunny_is_one_shot_in_three_squares(tmp_path: Path) -> None:
    assert write_bunny(tmp_path) == 3
    index = index_clips(tmp_path, num_frames=16, size=48)
    assert index.split("train").num_windows > 200
    assert index.split("test").num_windows > 0


def test_the_demo_trains_what_tiny_yaml_says(tmp_path: Path) -> None:
    ours = recipe_for(DemoConfig(), tmp_path, tmp_path).model_dump()
    tiny = read_config(CONFIGS / "tiny.yaml").model_dump()
    for section in ("model", "process", "tasks", "optimizer"):
        assert ours[section] == tiny[section], section
    for key in ("num_frames", "size", "held_out"):
        assert ours["data"][key] == tiny["data"][key], key
    for key in ("batch_size", "ema", "checkpoint_every"):
        assert ours["train"][key] == tiny["train"][key], key


def test_the_demo_on_ones_own_clips_ends_with_a_report_and_resumes(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--minutes", "0.2", "--data", str(clips)]
    words += ["--samples", "8"]
    assert main(words) == 0
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "What was done" in page
    scores = json.loads((out / "report.json").read_text())
    assert {"static_fraction", "motion_ratio", "under_frozen"} <= set(scores["guards"])
    for name in ("generate-seed0000.mp4", "generate-seed0007.gif", "generate-seed0003.json"):
        assert (out / "samples" / name).stat().st_size > 0
    weights = next((out / "run" / "checkpoints").iterdir()) / "model.safetensors"
    before = weights.read_bytes()
    assert main(words) == 0
    assert weights.read_bytes() == before
    assert "Resuming from" in capsys.readouterr().out


def test_another_demo_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    from vidiff.demo import claim

    claim(DemoConfig(), tmp_path)
    with pytest.raises(RequestError, match=r"minutes: 10\.0 -> 3\.0"):
        claim(DemoConfig(minutes=3), tmp_path)
