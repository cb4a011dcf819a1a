"""Variations: the ODE there and back, and how far from the clip each amount leads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidiff.data.clips import read_start
from vidiff.errors import RequestError
from vidiff.generation.variation import vary
from vidiff.pipeline import VideoDiffusion
from vidiff.sampling import SampleConfig
from vidiff.saved import load

MANY = SampleConfig(steps=40, sampler="heun")


@pytest.fixture(scope="module")
def model(run: Path) -> VideoDiffusion:
    return load(run)


@pytest.fixture(scope="module")
def clip(clips: Path) -> Tensor:
    return read_start(sorted(clips.glob("*.mp4"))[0], 8, 0.1, 16)[None]


def test_no_change_gives_the_clip_back(model: VideoDiffusion, clip: Tensor) -> None:
    made = vary(model, clip, 0.0, [3], MANY)
    assert (made.float() - clip.float()).abs().mean() < 1.0


def test_the_more_change_the_further_from_the_clip(model: VideoDiffusion, clip: Tensor) -> None:
    few = SampleConfig(steps=8)
    far = [float((vary(model, clip, a, [3], few).float() - clip.float()).abs().mean())
           for a in (0.0, 0.3, 1.0)]  # fmt: skip
    assert far[0] < 0.5 * far[1] < 0.5 * far[2]


def test_each_seed_has_its_own_variation(model: VideoDiffusion, clip: Tensor) -> None:
    few = SampleConfig(steps=3)
    both = vary(model, clip, 0.5, [1, 2], few)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(both[1:], vary(model, clip, 0.5, [2], few))


def test_an_amount_beyond_one_is_refused(model: VideoDiffusion, clip: Tensor) -> None:
    with pytest.raises(RequestError, match=r"by 1\.5"):
        vary(model, clip, 1.5, [0])
