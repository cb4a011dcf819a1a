"""The self-test passes where a clip can be learnt, and fails with what to check where not."""

from __future__ import annotations

from pathlib import Path

import ills
import pytest
from PIL import Image

from vidiff.cli import main
from vidiff.training.selftest import CHECKS, overfit_one
from vidiff.training.settings import read_config

CONFIG = str(Path(__file__).parent.parent / "configs" / "tiny.yaml")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight real clips."""
    return ills.write(tmp_path_factory.mktemp("selftest") / "squares", ills.squares, count=8)


def test_a_sound_set_up_learns_one_clip_and_samples_it_back(squares: Path, tmp_path: Path) -> None:
    config = read_config(None, ills.WORDS, squares, tmp_path / "run")
    found = overfit_one(config, steps=200, say=lambda text: None)
    assert found.passed
    assert found.before == pytest.approx(1, abs=0.2)
    assert found.after < 0.2
    assert found.likeness > 18
    assert "passed after 200 steps" in found.to_text()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["overfit-one.png"]
    with Image.open(found.sheet) as sheet:
        assert sheet.size == (8 * 98 - 2, 4 * 98 - 2)


def test_a_learning_rate_that_moves_nothing_fails_with_code_4_and_what_to_check(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("vidiff.training.selftest.overfit_one.__defaults__", (None, 10, print))
    words = [f"data.root={squares}", f"out={tmp_path / 'run'}", *ills.WORDS, "optimizer.lr=1e-7"]
    assert main(["train", CONFIG, *words, "--overfit-one"]) == 4
    said = capsys.readouterr().out
    assert "FAILED" in said
    assert all(check in said for check in CHECKS)
