"""Bad numbers: one step is skipped, several send the run back once, and then it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN

from vidiff.errors import NumbersError
from vidiff.models.ema import PowerEma
from vidiff.pipeline import Loss, VideoDiffusion
from vidiff.runs import checkpoint
from vidiff.runs.tracking import read_metrics
from vidiff.training import Run, train
from vidiff.training.recovery import judge
from vidiff.training.state import State

LONGER = (*TINY_RUN, "train.steps=14")


def state() -> State:
    network = torch.nn.Linear(2, 2)
    return State(network, PowerEma(network), [])


def test_steps_that_are_not_finite_are_skipped_and_counted() -> None:
    s = state()
    bad, good = torch.tensor([float("nan"), 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])
    assert [judge(s, bad, 10) for _ in range(4)] == [True] * 4
    assert s.bad_in_a_row == 4
    assert judge(s, good, 10) is False
    assert s.bad_in_a_row == 0


def test_a_gradient_far_out_of_line_is_skipped() -> None:
    s = state()
    for _ in range(20):
        assert not judge(s, torch.tensor([1.0, 1.0, 2.0]), 10)
    assert judge(s, torch.tensor([1.0, 1.0, 21.0]), 10)
    assert not judge(s, torch.tensor([1.0, 1.0, 19.0]), 10)


def test_gradients_that_stay_large_are_a_new_level_and_no_spike() -> None:
    s = state()
    for _ in range(20):
        judge(s, torch.tensor([1.0, 1.0, 2.0]), 10)
    large = torch.tensor([1.0, 1.0, 50.0])
    assert [judge(s, large, 10, patience=5) for _ in range(8)] == [True] * 4 + [False] * 4
    assert s.bad_in_a_row == 0


def poison(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """Clips at positions first .. last give a loss of NaN."""
    plain = VideoDiffusion.loss

    def loss(self: VideoDiffusion, batch: Any, *args: Any, **options: Any) -> Loss:
        out = plain(self, batch, *args, **options)
        hit = any(first <= n <= last for n in batch.positions)
        return Loss(out.value * float("nan"), out.error, out.sigma) if hit else out

    monkeypatch.setattr(VideoDiffusion, "loss", loss)


def go(clips: Path, out: Path, *words: str) -> Run:
    return train(None, *LONGER, *words, data=clips, out=out, say=lambda text: None)


def test_a_bad_step_is_skipped_and_its_clips_are_named(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 9, 9)
    run = go(clips, tmp_path / "run", "train.log_every=100", "train.steps=4")
    lines = read_metrics(run.folder / "metrics.jsonl")
    skipped = [line for line in lines if line.get("skipped")]
    assert [(line["step"], line["first_position"]) for line in skipped] == [(3, 8)]
    tensors = checkpoint.load(run.checkpoint)[0]
    assert all(bool(torch.isfinite(t).all()) for t in tensors["model"].values())


def test_several_bad_steps_send_the_run_back_past_those_clips_the_same_way_each_time(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 4 * 7, 4 * 12 - 1)
    runs = [go(clips, tmp_path / name) for name in ("one", "two")]
    assert runs[0].steps == 14
    assert runs[0].weights_hash == runs[1].weights_hash
    stored = checkpoint.load(runs[0].checkpoint)[1]["train"]
    assert stored["rollbacks"] == [{"from": 12, "to": 6, "skipped": 6}]
    lines = read_metrics(runs[0].folder / "metrics.jsonl")
    assert [line["rollback.from"] for line in lines if "rollback.from" in line] == [12]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_run_killed_after_it_went_back_ends_like_one_that_was_not(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 4 * 7, 4 * 12 - 1)
    whole = go(clips, tmp_path / "whole")
    cut = go(clips, tmp_path / "cut", "train.keep=9")
    for folder in (tmp_path / "cut" / "checkpoints").iterdir():
        if int(folder.name[5:]) > 6:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    again = go(clips, tmp_path / "cut", "train.keep=9")
    assert again.weights_hash == cut.weights_hash == whole.weights_hash


def test_a_run_that_stays_bad_ends_with_exit_code_4_and_its_last_checkpoint(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 4 * 3, 10**9)
    with pytest.raises(NumbersError, match="did not help") as caught:
        go(clips, tmp_path / "run")
    assert caught.value.exit_code == 4
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert all(torch.isfinite(t).all() for t in checkpoint.load(found[0])[0]["model"].values())


def test_a_run_that_is_bad_from_the_start_has_nothing_to_go_back_to(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 0, 10**9)
    with pytest.raises(NumbersError, match="no checkpoint yet"):
        go(clips, tmp_path / "run", "train.checkpoint_every=100")
