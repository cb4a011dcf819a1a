"""All that changes while training: weights, averages, optimisers, step. Saves and loads itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.models.ema import PowerEma
from vidiff.models.optimizers import OptimizerConfig, make_optimizers
from vidiff.models.sharding import is_sharded, split_like, whole
from vidiff.models.unet import hidden_matrix
from vidiff.runs import checkpoint
from vidiff.runs.values import flatten_optimizer, unflatten_optimizer

_PLAIN = ("step", "norms", "bad_in_a_row", "spikes_in_a_row", "skipped", "rollbacks")


@dataclass
class State:
    """All that changes while training; saves and loads itself."""

    network: nn.Module
    ema: PowerEma
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    norms: list[float] = field(default_factory=list)
    bad_in_a_row: int = 0
    spikes_in_a_row: int = 0
    skipped: int = 0
    """Steps whose clips were left out so far, by going back (recovery.py)."""
    rollbacks: list[dict[str, int]] = field(default_factory=list)
    moving: bool = False
    """True inside `move`, and for ever after one that did not end: half of the weights moved."""

    @property
    def turn(self) -> int:
        """Whose clips, levels and noise the next step takes: the step, had none been left out."""
        return self.step + self.skipped

    def move(self, rate: float) -> None:
        """One update: optimisers, forced weight normalisation, averages, cleared gradients."""
        self.moving = True
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.network.normalize_weights()  # type: ignore[operator]
        self.ema.update(self.network.parameters(), self.step + 1)
        self.clear()
        self.moving = False

    def clear(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @property
    def sharded(self) -> bool:
        """Whether every process holds a part; saving is then the work of all."""
        return is_sharded(self.network)

    def weights(self) -> dict[str, Tensor]:
        """The raw weights, whole; every process must ask where they are sharded."""
        return {name: whole(value) for name, value in self.network.state_dict().items()}

    def save(self, folder: Path, about: dict[str, Any], keep: int) -> Path:
        """Publish a checkpoint of this state: by one process, or by all where it is sharded."""
        tensors: dict[str, dict[str, Tensor]] = {"model": dict(self.network.state_dict())}
        for width in self.ema.tracks:
            tensors[f"ema-{width:.3f}"] = self.ema.state(width)
        plain = []
        flat: dict[str, Tensor] = {}
        for i, optimizer in enumerate(self.optimizers):
            part, rest = flatten_optimizer(optimizer.state_dict())
            flat |= {f"{i}.{name}": value for name, value in part.items()}
            plain.append(rest)
        tensors["optim"] = flat
        own = {name: getattr(self, name) for name in _PLAIN}
        state = {**about, "train": own, "optimizers": plain}
        save = checkpoint.save_together if self.sharded else checkpoint.save
        return save(folder, self.step, tensors, state, keep)

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Continue from the whole tensors of a checkpoint; each process keeps its part."""
        like = self.network.state_dict()
        model = {name: split_like(value, like[name]) for name, value in tensors["model"].items()}
        self.network.load_state_dict(model)
        for width, track in self.ema.tracks.items():
            stored = tensors[f"ema-{width:.3f}"]
            pairs = zip(self.ema.names, track, strict=True)
            self.ema.load(width, {name: split_like(stored[name], own) for name, own in pairs})
        for i, (optimizer, plain) in enumerate(
            zip(self.optimizers, state["optimizers"], strict=True)
        ):
            prefix = f"{i}."
            own = {n.removeprefix(prefix): v for n, v in tensors["optim"].items()
                   if n.startswith(prefix)}  # fmt: skip
            optimizer.load_state_dict(_split(unflatten_optimizer(own, plain), optimizer))
        for name in _PLAIN:
            setattr(self, name, state["train"].get(name, getattr(self, name)))


def _split(stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, split as its parameters are; counters stay whole."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, values in stored["state"].items():
        p = parameters[i]
        stored["state"][i] = {
            name: split_like(v, p) if isinstance(v, Tensor) and v.shape == p.shape else v
            for name, v in values.items()
        }
    return stored


def fresh_state(
    network: nn.Module, optimizer: OptimizerConfig, ema: Sequence[float], mp: bool
) -> State:
    """The state of a network before its first step.

    Args:
        ema: relative widths of the averages.
        mp: whether the layers are magnitude-preserving, which sets the scale of Muon's step.
    """
    optimizers = make_optimizers(optimizer, network, hidden_matrix, mp)
    return State(network, PowerEma(network, ema), optimizers)
