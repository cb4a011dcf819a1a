"""Low-rank adapters: a trained network learns something new through few numbers.

  (1) W' = W + (alpha / r) B A,   A: r x in * kernel,   B: out x r, zero at the start
  (2) the layer applies W' as it would apply W: under "mp" its rows are normalised afterwards

(Hu et al. 2021, arXiv 2106.09685; (2) keeps the magnitudes of layers.py.) So the first step starts
from exactly the network there was, and `merge` leaves exactly the network there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vidiff.models.layers import Weighted
from vidiff.records import make_generator
from vidiff.runs.config import Config


class LoraConfig(Config):
    """Which layers learn, and how much."""

    rank: int = Field(8, ge=1)
    """r: 8 for a style or a motion, 32 for another kind of scene."""
    alpha: float | None = Field(None, gt=0)
    """Scale of the change; by default the rank."""
    targets: Literal["motion", "all"] = "all"
    """`motion`: temporal convolutions and attention; `all`: every layer inside the blocks."""


class LowRank(nn.Module):
    """Equation (1)'s change of one weight."""

    def __init__(self, weight: Tensor, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        alpha = config.rank if config.alpha is None else config.alpha
        self.shape, self.scale = weight.shape, alpha / config.rank
        a = torch.randn(config.rank, columns, generator=generator) / math.sqrt(config.rank)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, config.rank).to(weight))

    def forward(self) -> Float[Tensor, "..."]:
        return self.scale * (self.b @ self.a).view(self.shape)


def add_lora(network: nn.Module, config: LoraConfig, seed: int = 0) -> None:
    """Freeze the network and hang adapters, which alone learn, on the layers that `config` names.

    Call it once, on a network with its trained weights or before loading ones with adapters.
    """
    network.requires_grad_(False)
    generator = make_generator(seed, 0, "adapters")
    for layer in _targets(network, config):
        layer.lora = LowRank(layer.weight, config, generator)


def adapters(network: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, by the names of the network's state: what there is to share."""
    return {name: value for name, value in network.state_dict().items() if ".lora." in name}


@torch.no_grad()
def merge(network: nn.Module) -> None:
    """Fold every adapter into its layer: the same function, without adapters."""
    for layer in network.modules():
        if isinstance(layer, Weighted) and layer.lora is not None:
            layer.weight.add_(layer.lora())
            layer.lora = None


def _targets(network: nn.Module, config: LoraConfig) -> Iterator[Weighted]:
    for name, module in list(network.named_modules()):
        parts = set(name.split("."))
        wanted = {"over_time", "attention"} if config.targets == "motion" else {"down", "up"}
        if isinstance(module, Weighted) and wanted & parts and "scale" not in parts:
            yield module
