"""Upscaling: the small clip is obeyed, windows meet, and models without a hint say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_RUN
from einops import rearrange
from torch import Tensor

from vidiff.cli import main
from vidiff.data.export import read_metadata
from vidiff.data.video import probe
from vidiff.errors import RequestError
from vidiff.generation.upscaling import upscale
from vidiff.pipeline import VideoDiffusion
from vidiff.sampling import SampleConfig
from vidiff.saved import load
from vidiff.training import train

FEW = SampleConfig(steps=3)


@pytest.fixture(scope="module")
def upscaler(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["model.hint.factor=4", "train.steps=40", "optimizer.lr=0.03", "optimizer.warmup=5"]
    out = tmp_path_factory.mktemp("upscaler") / "run"
    return train(None, *TINY_RUN, *words, data=clips, out=out, say=len).folder


def small(frames: Tensor) -> Tensor:
    """Means of 4 x 4 pixels."""
    b = len(frames)
    low = F.avg_pool2d(rearrange(frames.float(), "b t h w c -> (b t) c h w"), 4)
    return rearrange(low, "(b t) c h w -> b t h w c", b=b).round().to(torch.uint8)


def test_the_large_clip_is_the_small_one(upscaler: Path) -> None:
    model = load(upscaler, "model")
    flat = torch.zeros(2, 8, 4, 4, 3, dtype=torch.uint8)
    flat[0], flat[1] = 40, 210
    made = upscale(model, flat, [1, 1], SampleConfig(steps=12))
    assert made.shape == (2, 8, 16, 16, 3)
    assert float(made[0].float().mean()) + 60 < float(made[1].float().mean())


@pytest.mark.parametrize("length", [5, 8, 9, 19])
def test_a_clip_longer_than_a_window_keeps_its_length(upscaler: Path, length: int) -> None:
    made = upscale(load(upscaler), torch.zeros(1, length, 4, 4, 3).byte(), [0, 1], FEW, keep=3)
    assert made.shape == (2, length, 16, 16, 3)


def test_models_and_clips_that_do_not_fit_are_refused(run: Path, upscaler: Path) -> None:
    clip = torch.zeros(1, 8, 4, 4, 3).byte()
    with pytest.raises(RequestError, match="without model"):
        upscale(load(run), clip, [0])
    with pytest.raises(RequestError, match="16 pixels a side"):
        upscale(load(upscaler), torch.zeros(1, 8, 16, 16, 3).byte(), [0])


def test_one_command_samples_small_and_then_large(
    upscaler: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--steps", "2", "--seeds", "0-1", "--out", str(out)]
    code = main(["sample", str(run), *words, "--then", str(upscaler)])
    assert code == 2
    assert "16 pixels a side" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_line_upscales_a_file(upscaler: Path, tmp_path: Path) -> None:
    from vidiff.data.export import write_mp4

    clip = write_mp4(tmp_path / "low.mp4", torch.zeros(12, 8, 8, 3).byte(), 10)
    words = ["--task", "upscale", "--clip", str(clip), "--steps", "2", "--out", str(tmp_path)]
    assert main(["sample", str(upscaler), *words]) == 0
    made = tmp_path / "upscale-seed0000.mp4"
    info = probe(made)
    assert (info.num_frames, info.width) == (12, 16)
    assert "AI-generated" in read_metadata(made)["comment"]


def test_a_cascade_is_certified_with_both_models(
    upscaler: Path, clips: Path, tmp_path: Path
) -> None:
    words = [w for w in TINY_RUN if not w.startswith("data.size")] + ["data.size=8"]
    base = train(None, *words, data=clips, out=tmp_path / "base", say=len).folder
    out = tmp_path / "out"
    then = ["--then", str(upscaler), "--steps", "2", "--out", str(out)]
    assert main(["sample", str(base), *then]) == 0
    clip = out / "generate-seed0000.mp4"
    assert probe(clip).width == 16
    model: VideoDiffusion = load(upscaler)
    from vidiff.verification import read_certificate, replay

    assert read_certificate(clip)["details"]["then"]["weights_sha256"] == model.weights_hash
    _, said = replay(clip, base, tmp_path / "again", {"then": str(upscaler)})
    assert "bit for bit" in said
