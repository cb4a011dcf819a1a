"""Trackers by Accelerate: told the same numbers, never in the way."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from conftest import TINY_RUN

from vidiff.errors import RequestError
from vidiff.runs.trackers import require
from vidiff.runs.tracking import read_metrics
from vidiff.training import train
from vidiff.training.settings import read_config


def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_made(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    out = tmp_path / "run"
    with pytest.raises(RequestError, match="wandb, which is not installed") as caught:
        train(None, *TINY_RUN, "train.trackers=[wandb]", data=clips, out=out)
    assert "pip install 'vidiff[wandb]'" in caught.value.remedy
    assert not out.exists()


def test_an_unknown_tracker_names_those_there_are(clips: Path) -> None:
    with pytest.raises(RequestError, match="tensorboard"):
        read_config(None, [*TINY_RUN, "train.trackers=[excel]"], clips)


def test_no_tracker_asked_for_needs_no_package() -> None:
    require(())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_lines_of_metrics_jsonl(clips: Path, tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    words = [*TINY_RUN, "train.trackers=[tensorboard]"]
    train(None, *words, data=clips, out=out, say=lambda text: None)
    files = list((out / "trackers").rglob("events.out.tfevents.*"))
    assert files
    folder = max(files, key=lambda f: f.stat().st_size).parent
    events = loading.EventAccumulator(str(folder))
    events.Reload()
    told = {e.step: e.value for e in events.Scalars("loss")}
    lines = {x["step"]: x["loss"] for x in read_metrics(out / "metrics.jsonl") if "loss" in x}
    assert told == pytest.approx(lines, rel=1e-6)
    assert {"held_out", "held_out.1", "train.1", "sample.motion"} <= set(events.Tags()["scalars"])
