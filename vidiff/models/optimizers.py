"""Muon for hidden matrices, Adam for the rest.

Muon (Jordan et al. 2024): momentum, then the update's singular values are brought near 1 by five
Newton-Schulz steps with the coefficients (a, b, c) = (3.4445, -4.7750, 2.0315),

  (1) X <- a X + (b A + c A^2) X,   A = X X^T,   X_0 = G / ||G||

A convolution counts as the matrix out x (in * kernel). The step is scaled to an RMS of 1 under
magnitude-preserving layers (their rows have RMS 1, so the learning rate is a relative change), and
to 0.2 sqrt(max(out, in)) otherwise, which matches AdamW's (Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vidiff.models.sharding import split_like, whole
from vidiff.runs.config import Config


class OptimizerConfig(Config):
    """How the weights move."""

    name: Literal["muon", "adam"] = "muon"
    """`muon` on hidden matrices with Adam on the rest, or `adam` on all."""
    lr: float = Field(0.01, gt=0)
    """Peak learning rate; 0.01 for magnitude-preserving layers, about 1e-3 for group norm."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's momentum."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled; 0 with magnitude-preserving layers."""
    warmup: int = Field(50, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["linear", "inverse_sqrt"] = "linear"
    """`linear` to zero over the run; `inverse_sqrt` after `decay_from` steps, to stop any time."""
    decay_from: int = Field(1000, ge=1)
    """Steps at the full rate before the inverse-square-root decay."""


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`: a function of the step alone."""
    rate = config.lr * min(1.0, (step + 1) / max(config.warmup, 1))
    if config.schedule == "linear":
        return rate * max(0.0, 1 - step / max(steps, 1))
    return rate / math.sqrt(max(step / config.decay_from, 1.0))


def orthogonalize(matrix: Float[Tensor, "m n"], steps: int = 5) -> Float[Tensor, "m n"]:
    """Equation (1): singular values of a matrix to about 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Equation (1) with Nesterov momentum on parameters of two to four axes."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.01,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        unit_rms: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "unit_rms": unit_rms,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        average = state["momentum"]
        average.lerp_(grad, 1 - group["momentum"])
        # Newton-Schulz needs the whole matrix; where it is sharded, each process keeps its rows.
        update = orthogonalize(whole(grad.lerp(average, group["momentum"])).flatten(1))
        rows, columns = update.shape
        # An orthogonal out x in matrix has RMS 1 / sqrt(max(out, in)).
        scale = math.sqrt(max(rows, columns)) * (1.0 if group["unit_rms"] else 0.2)
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(split_like(update.view(p.shape), p), alpha=-group["lr"] * scale)


def make_optimizers(
    config: OptimizerConfig, network: nn.Module, hidden: Callable[[str, Tensor], bool], mp: bool
) -> list[torch.optim.Optimizer]:
    """The optimisers of a network: [Adam], or [Muon, Adam] with `hidden(name, p)` under Muon."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if config.name == "muon" and hidden(name, p)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    adam = torch.optim.AdamW(
        rest,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    if not matrices:
        return [adam]
    muon = Muon(matrices, config.lr, config.momentum, config.weight_decay, unit_rms=mp)
    return [muon, adam]
