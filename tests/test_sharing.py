"""An export is a folder that anybody can load, and its card says what is known and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vidiff
from vidiff.cli import main
from vidiff.errors import RequestError
from vidiff.sampling import SampleConfig
from vidiff.saved import load, weights_in


@pytest.fixture(scope="module")
def shared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shared") / "model"
    assert main(["export", str(run), "--out", str(out)]) == 0
    return out


def test_an_export_samples_the_same_clips_as_its_run(run: Path, shared: Path) -> None:
    ours, theirs = load(run), vidiff.from_pretrained(shared)
    assert ours.weights_hash == theirs.weights_hash
    assert ours.data_digest == theirs.data_digest
    few = SampleConfig(steps=2)
    assert torch.equal(ours.sample(seeds=[1], config=few), theirs.sample(seeds=[1], config=few))
    assert weights_in(shared) == ["ema"]


def test_the_command_line_samples_an_export(shared: Path, tmp_path: Path) -> None:
    assert main(["sample", str(shared), "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "generate-seed0000.mp4").is_file()


def test_the_card_tells_size_rate_data_and_what_is_missing(shared: Path) -> None:
    card = (shared / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: vidiff\n")
    assert "8 frames of 16 x 16 pixels at 10 frames a second" in card
    assert "Not scored yet" in card
    assert "must fill it in" in card
    assert "Held-out loss by noise level" in card
    assert "{{" not in card
    config = json.loads((shared / "config.json").read_text())
    assert config["pipeline"]["data"]["root"] == ""
    assert str(Path.home()) not in json.dumps(config)


def test_scores_of_the_evaluator_stand_on_the_card(run: Path, clips: Path, tmp_path: Path) -> None:
    from vidiff.sharing import write_card

    folder = tmp_path / "scored"
    folder.mkdir()
    for name in ("metrics.jsonl", "timing.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    scores = {"kd.motion": {"value": 2.5, "low": 1.0, "high": 4.0, "floor": 1.25, "ratio": 2.0},
              "coverage": {"value": None, "low": None, "high": None, "floor": None,
                           "ratio": None}}  # fmt: skip
    report = {"protocol": {"n": 16, "card": "abc"}, "scores": scores, "warnings": ["It stutters."]}
    (folder / "eval").mkdir()
    (folder / "eval" / "report.json").write_text(json.dumps(report))
    card = write_card(load(run), folder)
    assert "| kd.motion | 2.5 | 1 to 4 | 1.25 | 2 |" in card
    assert "| coverage | undefined |" in card
    assert "It stutters." in card


def test_a_damaged_export_and_another_version_are_refused(shared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shared.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(RequestError, match="is not the file that was exported"):
        load(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vidiff_export": 99}))
    with pytest.raises(RequestError, match="no export of this version"):
        load(copy)


def test_an_export_never_replaces_other_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_name_that_is_neither_folder_nor_reachable_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match="could not be fetched"):
        vidiff.from_pretrained("nobody/nothing")
