"""A resumed run is the same run: what changed is shown, and accepted only by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import TINY_RUN

from vidiff.errors import RequestError
from vidiff.training import train
from vidiff.training.settings import read_config


def silent(text: str) -> None:
    """Swallow the lines of a run."""


@pytest.fixture
def half(run: Path, tmp_path: Path) -> Path:
    """The finished tiny run, as if it had stopped at step 4."""
    out = tmp_path / "half"
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    return out


def test_an_existing_run_with_another_config_is_refused_and_left_alone(
    run: Path, clips: Path
) -> None:
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(RequestError, match=r"optimizer\.lr: 0\.01 -> 0\.02") as caught:
        train(None, *TINY_RUN, "optimizer.lr=0.02", data=clips, out=run, say=silent)
    assert caught.value.exit_code == 2
    assert "train.allow=[optimizer.lr]" in caught.value.remedy
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["optimizer.lr", "optimizer"])
def test_a_change_allowed_by_name_is_taken_and_noted(half: Path, clips: Path, name: str) -> None:
    words = ["optimizer.lr=0.02", f"train.allow=[{name}]"]
    train(None, *TINY_RUN, *words, data=clips, out=half, say=silent)
    notes = [json.loads(line) for line in (half / "changes.jsonl").read_text().splitlines()]
    assert notes == [{"step": 4, "changes": ["optimizer.lr: 0.01 -> 0.02"]}]
    assert read_config(half / "config.yaml").optimizer.lr == 0.02


def test_allowing_one_change_allows_no_other(half: Path, clips: Path) -> None:
    words = ["optimizer.lr=0.02", "seed=3", "train.allow=[optimizer.lr]"]
    with pytest.raises(RequestError, match="seed: 0 -> 3") as caught:
        train(None, *TINY_RUN, *words, data=clips, out=half, say=silent)
    assert "optimizer.lr" not in caught.value.cause


def test_changed_clips_are_shown_on_resume_and_accepted_by_name(
    half: Path, clips: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(clips, other)
    gone, changed, kept = sorted(other.glob("*.mp4"))[:3]
    gone.unlink()
    shutil.copy(kept, other / "zz-new.mp4")
    changed.write_bytes(kept.read_bytes())
    with pytest.raises(RequestError, match="are not those of the run") as caught:
        train(None, *TINY_RUN, data=other, out=half, say=silent)
    cause = caught.value.cause
    assert f"{gone.name}: gone" in cause
    assert "zz-new.mp4: new" in cause
    assert f"{changed.name}: other content" in cause
    words = ["train.allow=[data.manifest]"]
    done = train(None, *TINY_RUN, *words, data=other, out=half, say=silent)
    assert done.steps == 6
    assert "data.manifest: zz-new.mp4: new" in (half / "changes.jsonl").read_text()
    train(None, *TINY_RUN, data=other, out=half, say=silent)


def test_what_the_weights_do_not_depend_on_may_change(half: Path, clips: Path) -> None:
    words = ["train.keep=3", "train.log_every=2", "model.checkpointing=true", "data.workers=0"]
    train(None, *TINY_RUN, *words, data=clips, out=half, say=silent)
    assert not (half / "changes.jsonl").exists()
