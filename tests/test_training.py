"""A run is a function of (config, data, seed): not of where it stopped, nor of processes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN
from processes import lines_of, start, wait_for, words_for

from vidiff.errors import RequestError
from vidiff.runs import checkpoint
from vidiff.runs.tracking import read_metrics
from vidiff.training import train
from vidiff.training.settings import TrainConfig, read_config

LAST = "checkpoints/step-00000006"
FILES = ("model.safetensors", "ema-0.050.safetensors", "ema-0.100.safetensors",
         "optim.safetensors")  # fmt: skip


def silent(text: str) -> None:
    """Swallow the lines of a run."""


def same_files(a: Path, b: Path) -> list[str]:
    """Names of the files of two checkpoints that differ in a byte."""
    return [f for f in FILES if (a / LAST / f).read_bytes() != (b / LAST / f).read_bytes()]


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_resumed_anywhere_ends_bit_for_bit_like_the_uninterrupted_one(
    run: Path, clips: Path, tmp_path: Path, step: int
) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for folder in (again / "checkpoints").iterdir():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    (again / LAST).exists() and pytest.fail("the last checkpoint should be gone")
    train(None, *TINY_RUN, data=clips, out=again, say=silent)
    assert same_files(run, again) == []
    assert read_metrics(run / "metrics.jsonl") == read_metrics(again / "metrics.jsonl")


def test_weights_differ_when_the_seed_does(run: Path, clips: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(None, *TINY_RUN, "seed=1", data=clips, out=other, say=silent)
    assert "model.safetensors" in same_files(run, other)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def test_two_processes_train_like_one(clips: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    images = "train.image_share=0.4"
    first = start(words_for(clips, one, images))
    text = first.communicate(timeout=240)[0]
    assert first.returncode == 0, text
    second = start(words_for(clips, two, images), processes=2)
    text = second.communicate(timeout=240)[0]
    assert second.returncode == 0, text
    assert "on 2 process(es)" in text
    a, b = losses(one), losses(two)
    assert len(a) == len(b) == 6
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-5
    tensors = [checkpoint.load(out / LAST, ["model"])[0]["model"] for out in (one, two)]
    worst = max(float((tensors[0][n] - tensors[1][n]).abs().max()) for n in tensors[0])
    assert worst < 1e-3


def test_term_saves_at_the_current_step_and_exits_75(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    words = words_for(clips, out, "train.steps=100000", "train.checkpoint_every=100000")
    process = start(words)
    wait_for(lambda: lines_of(out / "metrics.jsonl") > 4, process)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 75, text
    assert "Run the same command again" in text
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    assert checkpoint.load(found[0])[1]["train"]["step"] >= 3


def test_a_killed_run_goes_on_to_the_same_weights(run: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = words_for(clips, out, "train.keep=9")
    process = start(words)
    wait_for(lambda: any((out / "checkpoints").glob("step-*")), process)
    process.kill()
    process.communicate(timeout=60)
    again = start(words)
    text = again.communicate(timeout=240)[0]
    assert again.returncode == 0, text
    whole = start(words_for(clips, tmp_path / "whole", "train.keep=9"))
    whole.communicate(timeout=240)
    assert same_files(tmp_path / "whole", out) == []


def test_a_disk_that_takes_no_more_ends_in_a_sentence_and_loses_nothing(
    clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "full"
    process = start(words_for(clips, out), largest_file=50_000)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 1, text
    assert "error: " in text
    assert "Traceback" not in text
    assert [p.name for p in (out / "checkpoints").iterdir()] == []
    again = start(words_for(clips, out))
    assert again.wait(timeout=240) == 0
    again.communicate()


def test_a_batch_that_does_not_divide_names_the_nearest_that_does(
    clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="batch_size=4 does not divide") as caught:
        train(None, *TINY_RUN, "train.micro_batch=3", data=clips, out=tmp_path / "r", say=silent)
    assert "3 or 6" in caught.value.remedy


def test_accumulation_changes_nothing_but_rounding(run: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "accumulated"
    train(None, *TINY_RUN, "train.micro_batch=1", data=clips, out=out, say=silent)
    assert losses(out) == pytest.approx(losses(run), abs=1e-5)


def test_the_loss_falls_on_clips_it_can_learn(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    words = [w for w in TINY_RUN if not w.startswith(("train.steps", "train.batch"))]
    words += ["train.steps=80", "optimizer.warmup=5", "train.batch_size=8"]
    train(None, *words, data=clips, out=out, say=silent)
    held_out = [x["held_out"] for x in read_metrics(out / "metrics.jsonl") if "held_out" in x]
    assert held_out[0] == pytest.approx(1, abs=0.2)
    assert held_out[-1] < 0.92 * held_out[0]


def test_max_minutes_plans_the_steps_once(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "planned"
    words = [w for w in TINY_RUN if not w.startswith("train.steps")]
    words += ["train.steps=100000", "train.max_minutes=0.02"]
    first = train(None, *words, data=clips, out=out, say=silent)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["steps"] == first.steps < 100_000
    assert train(None, *words, data=clips, out=out, say=silent) == first


def test_pixel_masks_in_training_need_a_network_that_takes_them(clips: Path) -> None:
    words = [*TINY_RUN, "tasks.shared=0.9", "tasks.context=0", "tasks.sorted=0",
             "tasks.independent=0", "tasks.pixels=0.1"]  # fmt: skip
    with pytest.raises(RequestError, match="pixel levels"):
        read_config(None, words, clips)
    config = read_config(None, [*words, "model.pixel_levels=true"], clips)
    assert isinstance(config, TrainConfig)


def test_every_kind_of_level_pattern_trains(clips: Path, tmp_path: Path) -> None:
    share = "tasks={shared: 0.2, context: 0.2, sorted: 0.2, independent: 0.2, pixels: 0.2}"
    out = tmp_path / "mixed"
    more = (share, "model.pixel_levels=true", "train.image_share=0.5")
    train(None, *TINY_RUN, *more, data=clips, out=out, say=silent)
    assert all(torch.isfinite(torch.tensor(losses(out))))
