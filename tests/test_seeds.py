"""Clips are functions of their seed, losses of their position: never of the batch around them."""

from __future__ import annotations

import pytest
import torch

from vidiff import tasks
from vidiff.diffusion.calibration import Calibration
from vidiff.models.layout import ModelConfig
from vidiff.pipeline import VideoDiffusion, build
from vidiff.records import Batch
from vidiff.sampling import SampleConfig


@pytest.fixture(scope="module")
def model() -> VideoDiffusion:
    """A tiny network with random weights; its zero gains are opened so that it says something."""
    calibration = Calibration(
        mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5), redundancy=2.0, principal=5.0, p_mean=-0.5,
        sigma_max=25.0, dt=0.1, num_clips=9,
    )  # fmt: skip
    model = build(ModelConfig(widths=(16, 32), patch=2, blocks=1), calibration, 4, 16)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if not bool(parameter.any()):
                parameter.fill_(0.5)
    return model


@pytest.mark.parametrize("sampler", ["dpm2m", "sde2m"])
def test_a_clip_is_a_function_of_its_seed_alone(model: VideoDiffusion, sampler: str) -> None:
    config = SampleConfig(sampler=sampler, steps=4)
    whole = model.sample(seeds=[5, 1, 9, 3], config=config)
    for chunk in (1, 3):
        again = model.sample(seeds=[3, 9, 1, 5], config=config, chunk=chunk)
        assert torch.equal(again.flip(0), whole)
    assert len({clip.numpy().tobytes() for clip in whole}) == 4


def test_a_continued_clip_keeps_its_frames_and_its_seed(model: VideoDiffusion) -> None:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8, generator=g)
    config = SampleConfig(steps=4)
    both = model.sample(tasks.predict(frames, 4), seeds=[7, 8], config=config)
    alone = model.sample(tasks.predict(frames[1:], 4), seeds=[8], config=config)
    assert torch.equal(both[:, :2], frames)
    assert torch.equal(both[1:], alone)


def test_the_loss_of_a_clip_depends_on_its_position_alone(model: VideoDiffusion) -> None:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 4, 16, 16, 3), dtype=torch.uint8, generator=g)

    def error(rows: list[int]) -> torch.Tensor:
        positions = tuple(40 + i for i in rows)
        batch = Batch(frames[rows], torch.full((len(rows),), 0.1), positions, ("",) * len(rows))
        with torch.no_grad():
            return model.loss(batch, seed=0, batch_size=4).error

    whole = error([0, 1, 2, 3])
    torch.testing.assert_close(error([2, 0]), whole[[2, 0]], rtol=1e-5, atol=1e-6)
