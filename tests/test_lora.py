"""Adapters: a start that changes nothing, a merge that changes nothing, few numbers that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN
from torch import Tensor

import vidiff
from vidiff.models.layers import Norm, Weighted
from vidiff.models.layout import ModelConfig
from vidiff.models.lora import LoraConfig, adapters, add_lora, merge
from vidiff.models.unet import SpaceTimeUNet, hidden_matrix

SMALL: dict[str, Any] = {"widths": (16, 32), "blocks": 1, "patch": 2}


def make(norm: Norm = "mp") -> SpaceTimeUNet:
    torch.manual_seed(0)
    net = SpaceTimeUNet(ModelConfig(**SMALL, norm=norm), 8)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def ask(net: SpaceTimeUNet) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return net(torch.randn(2, 3, 4, 8, 8, generator=g), torch.zeros(2, 4), torch.ones(2))[0]


def disturb(net: SpaceTimeUNet) -> None:
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))


@pytest.mark.parametrize("norm", ["mp", "group"])
@pytest.mark.parametrize("targets", ["motion", "all"])
def test_adapters_start_bit_equal_and_merge_into_what_they_made(norm: Norm, targets: str) -> None:
    net = make(norm)
    before = ask(net)
    add_lora(net, LoraConfig.model_validate({"rank": 4, "targets": targets}))
    assert torch.equal(ask(net), before)
    disturb(net)
    with_adapters = ask(net)
    assert not torch.allclose(with_adapters, before, atol=1e-3)
    merge(net)
    assert adapters(net) == {}
    torch.testing.assert_close(ask(net), with_adapters, rtol=1e-6, atol=1e-6)


def test_adapters_alone_learn_and_the_layers_below_them_stay_bit_for_bit() -> None:
    net = make()
    frozen = {n: p.clone() for n, p in net.named_parameters()}
    add_lora(net, LoraConfig(rank=2))
    learning = [n for n, p in net.named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora." in n for n in learning)
    assert not any(hidden_matrix(n, p) for n, p in net.named_parameters() if ".lora." in n)
    disturb(net)
    net.normalize_weights()
    ask(net).sum().backward()
    assert all(torch.equal(p, frozen[n]) for n, p in net.named_parameters() if n in frozen)
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_motion_is_what_spans_frames() -> None:
    net = make()
    add_lora(net, LoraConfig(targets="motion"))
    names = {n.rsplit(".lora")[0] for n in adapters(net)}
    assert names
    assert all({"over_time", "attention"} & set(n.split(".")) for n in names)
    spans = {n for n, m in net.named_modules() if isinstance(m, Weighted) and "over_time" in n}
    assert spans <= names


def test_adapters_come_back_into_another_network() -> None:
    net, other = make(), make()
    for one in (net, other):
        add_lora(one, LoraConfig(rank=3))
    disturb(net)
    other.load_state_dict(adapters(net), strict=False)
    assert torch.equal(ask(other), ask(net))


def test_a_run_learns_through_adapters_and_loads_with_them_merged(
    run: Path, clips: Path, tmp_path: Path
) -> None:
    words = (*TINY_RUN, f"train.init_from={run}", "train.lora.rank=2", "train.lora.targets=motion")
    out = vidiff.train(None, *words, data=clips, out=tmp_path / "a", say=lambda text: None).folder
    tuned, source = (vidiff.load(folder, "model").network.state_dict() for folder in (out, run))
    origin = vidiff.load(run).network.state_dict()  # it started from the averaged weights
    assert tuned.keys() == source.keys()
    changed = {n for n in tuned if not torch.equal(tuned[n], origin[n])}
    assert changed
    assert all({"over_time", "attention"} & set(n.split(".")) for n in changed)
