"""Few-step models: from the command line to clips in two calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from vidiff import tasks
from vidiff.cli import main
from vidiff.errors import RequestError
from vidiff.generation.request import Request
from vidiff.records import Batch
from vidiff.sampling import SampleConfig
from vidiff.saved import load
from vidiff.training.distilling import few_step_config


@pytest.fixture(scope="module")
def few(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few") / "run"
    words = ["train.steps=8", "train.checkpoint_every=4"]
    assert main(["distill", str(run), "--out", str(out), *words]) == 0
    return out


def test_it_starts_from_the_averaged_weights_with_the_same_calibration(
    run: Path, few: Path
) -> None:
    assert load(few).calibration == load(run).calibration
    config = yaml.safe_load((few / "config.yaml").read_text())
    assert config["process"]["objective"] == "consistency"
    assert config["train"]["init_from"] == str(run)
    assert config["optimizer"]["lr"] == pytest.approx(load_lr(run) / 10)


def load_lr(run: Path) -> float:
    return float(yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"])


def test_it_samples_in_two_calls_unless_told_otherwise(few: Path, tmp_path: Path) -> None:
    model = load(few)
    calls: list[tuple[int, int]] = []
    model.sample(seeds=[0], progress=lambda *at: calls.append(at))
    assert calls[-1] == (2, 2)
    model.sample(seeds=[0], config=SampleConfig(steps=4), progress=lambda *at: calls.append(at))
    assert calls[-1] == (4, 4)
    assert main(["sample", str(few), "--out", str(tmp_path / "out")]) == 0
    settled = model.settle(Request().sample)
    assert (settled.sampler, settled.steps) == ("jump", 2)


def test_every_task_gets_fast(few: Path) -> None:
    given = torch.randint(0, 256, (1, 3, 16, 16, 3), dtype=torch.uint8)
    made = load(few).sample(tasks.predict(given, 8), seeds=[1])
    assert torch.equal(made[:, :3], given)
    assert made[:, 3:].float().std() > 0


def test_the_loss_compares_two_levels_of_the_same_noise_and_leaves_given_frames(
    few: Path,
) -> None:
    model = load(few, "model")
    model.network.train()
    frames = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    batch = Batch(frames, torch.full((2,), 0.1), (0, 1), ("", ""))
    early, late = model.loss(batch, 3, progress=0.0), model.loss(batch, 3, progress=1.0)
    assert float(early.value) != float(late.value)
    assert bool(torch.isfinite(torch.stack([early.value, late.value])).all())
    condition = tasks.predict(frames[:, :7], 8)
    level = torch.where(condition.held, condition.floor, 1.0)
    weight = (~condition.held).float()
    field = tasks.Condition(floor=level, start=level, known=frames, weight=weight)
    held = model.loss(batch, 3, condition=field)
    assert float(held.error[:, :7].mean()) < float(held.error[:, 7].mean())


def test_what_cannot_be_distilled_says_so(run: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no run folder"):
        few_step_config(tmp_path)
    with pytest.raises(RequestError, match="in few calls already"):
        few_step_config(few)
    assert few_step_config(run).out == str(run) + "-few"
