"""Named sizes, what is set by hand, and what no network can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vidiff.errors import RequestError
from vidiff.models.layout import ModelConfig, resolve
from vidiff.models.unet import Block, SpaceTimeUNet


@pytest.mark.parametrize(
    ("size", "frame_size", "patch", "millions"),
    [
        ("tiny", 16, 1, 3.005),
        ("tiny", 48, 2, 3.03),
        ("small", 64, 2, 25.8),
        ("base", 128, 2, 182.5),
        ("base", 256, 4, 182.6),
        ("large", 256, 4, 324.5),
    ],
)
def test_every_named_size_builds_with_its_parameters(
    size: str, frame_size: int, patch: int, millions: float
) -> None:
    with torch.device("meta"):
        net = SpaceTimeUNet(ModelConfig.model_validate({"size": size}), frame_size)
    assert net.layout.patch == patch
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("frame_size", [32, 64, 128, 256])
def test_every_named_size_attends_over_time(size: str, frame_size: int) -> None:
    with torch.device("meta"):
        net = SpaceTimeUNet(ModelConfig.model_validate({"size": size}), frame_size)
    layers = [b.attention for b in net.modules() if isinstance(b, Block) and b.attention]
    assert layers
    coarsest = frame_size // net.layout.patch // 2 ** (len(net.layout.widths) - 1)
    assert any(layer.over == "joint" for layer in layers) is (coarsest <= 8)


def test_what_is_set_by_hand_wins_over_the_named_size() -> None:
    config = ModelConfig(size="small", widths=(8, 16), blocks=5, patch=4, temporal_map=0)
    layout = resolve(config, 64)
    assert (layout.widths, layout.blocks, layout.patch, layout.temporal_map) == ((8, 16), 5, 4, 0)


@pytest.mark.parametrize(("frame_size", "advice"), [(50, 48), (7, 8), (2, 8)])
def test_frames_that_cannot_be_halved_are_an_error_with_a_size_that_works(
    frame_size: int, advice: int
) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(ModelConfig(widths=(8, 8, 8), patch=2), frame_size)
    assert f"data.size={frame_size} " in caught.value.cause
    assert f"data.size={advice}," in caught.value.remedy
    resolve(ModelConfig(widths=(8, 8, 8), patch=2), advice)


@pytest.mark.parametrize("bad", [{"widths": ()}, {"widths": (7,)}, {"widths": (0,)}, {"blocks": 0}])
def test_settings_no_network_can_have_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(**bad)
