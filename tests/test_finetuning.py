"""Trained weights are a start: for other clips, and for an image model that learns to move."""

from __future__ import annotations

import json
from pathlib import Path

import media
import pytest
import torch
from conftest import TINY_RUN
from test_training import losses, silent

import vidiff
from vidiff.errors import RequestError
from vidiff.pipeline import build
from vidiff.runs.tracking import read_metrics
from vidiff.sampling import SampleConfig
from vidiff.training import train
from vidiff.training.finetuning import start_from
from vidiff.training.settings import read_config


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that the run of the tests never saw."""
    folder = tmp_path_factory.mktemp("other")
    media.write_clips(folder, count=7, num_frames=20, size=32, fps=10)
    return folder


def held_out(run: Path) -> list[float]:
    return [x["held_out"] for x in read_metrics(run / "metrics.jsonl") if "held_out" in x]


def test_a_run_on_new_clips_begins_with_what_the_old_one_learnt(
    clips: Path, other: Path, tmp_path: Path
) -> None:
    first, second, again, fresh = (tmp_path / name for name in ("1st", "2nd", "again", "fresh"))
    words = [*TINY_RUN, "train.steps=30", "train.checkpoint_every=30", "optimizer.warmup=3",
             "optimizer.lr=0.03"]  # fmt: skip
    train(None, *words, data=clips, out=first, say=silent)
    short = [*TINY_RUN, "train.steps=1"]
    train(None, *short, data=other, out=fresh, say=silent)
    short.append(f"train.init_from={first}")
    train(None, *short, data=other, out=second, say=silent)
    assert held_out(second)[0] < 0.98 * held_out(fresh)[0]
    origin = json.loads((second / "origin.json").read_text())
    assert origin["weights_sha256"] == vidiff.load(first).weights_hash
    own, theirs = (json.loads((r / "calibration.json").read_text()) for r in (first, second))
    assert own["mean"] != theirs["mean"]
    train(None, *short, "train.recalibrate=false", data=other, out=again, say=silent)
    assert json.loads((again / "calibration.json").read_text()) == own


def test_a_tuned_run_resumes_without_its_source(run: Path, other: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [*TINY_RUN, f"train.init_from={run}"]
    train(None, *words, data=other, out=whole, say=silent)
    train(None, *words, data=other, out=cut, say=silent)
    for step in (4, 6):
        for file in (folder := cut / "checkpoints" / f"step-{step:08d}").iterdir():
            file.unlink()
        folder.rmdir()
    train(None, *words, data=other, out=cut, say=silent)
    assert losses(cut) == losses(whole)


def test_an_image_model_becomes_a_video_model_bit_for_bit(clips: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    words = [*TINY_RUN, "train.steps=20", "train.checkpoint_every=20", "optimizer.warmup=2"]
    train(None, *words, "model.temporal=false", data=clips, out=pictures, say=silent)
    before = vidiff.load(pictures)
    config = read_config(None, TINY_RUN, clips)
    after = build(config.model, before.calibration, 8, 16, seed=5)
    origin = start_from(after.network, str(pictures))
    assert origin["inflated"]
    assert not before.network.config.temporal
    x, level = torch.randn(2, 3, 8, 16, 16), torch.randn(2, 8)
    own = before.network(x, level, torch.ones(2))[0]
    assert float(own.abs().max()) > 0
    assert torch.equal(own, after.network.eval()(x, level, torch.ones(2))[0])
    sampling = SampleConfig(steps=4)
    frames = [model.sample(seeds=[0], config=sampling) for model in (before, after)]
    assert torch.equal(*frames)


def test_gates_open_when_an_inflated_model_learns(clips: Path, tmp_path: Path) -> None:
    pictures, video = tmp_path / "pictures", tmp_path / "video"
    train(None, *TINY_RUN, "model.temporal=false", data=clips, out=pictures, say=silent)
    train(None, *TINY_RUN, f"train.init_from={pictures}", data=clips, out=video, say=silent)
    gates = [p for n, p in vidiff.load(video, "model").network.named_parameters() if "theta" in n]
    assert gates
    assert all(float(gate.abs().max()) > 0 for gate in gates)


def test_a_network_of_another_shape_is_refused_with_what_differs(
    run: Path, other: Path, tmp_path: Path
) -> None:
    words = [*TINY_RUN, f"train.init_from={run}", "model.widths=[32,32]"]
    with pytest.raises(RequestError, match=r"is not this one: .* there, .* here"):
        train(None, *words, data=other, out=tmp_path / "r", say=silent)
    with pytest.raises(RequestError, match="is no folder"):
        train(
            None, *TINY_RUN, "train.init_from=nowhere", data=other, out=tmp_path / "s", say=silent
        )
