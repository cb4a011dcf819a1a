"""Dropout whose masks belong to clips: a function of (seed, position, layer) and nothing else.

torch's own draws from one stream, so its masks depend on what else is in the batch, on how many
processes share it and on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidiff.records import derive_seed


class Dropout(nn.Module):
    """Zeroes a share `p` of the numbers in training; frames are folded, `(b t) ...`.

    Without keys it is torch's dropout, for networks used outside of a run.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keys: tuple[int, ...] = ()

    def forward(self, x: Float[Tensor, "n *axes"]) -> Float[Tensor, "n *axes"]:
        if not self.training or self.p == 0:
            return x
        if not self.keys:
            return F.dropout(x, self.p)
        shape = (len(x) // len(self.keys), *x.shape[1:])
        draws = []
        for key in self.keys:
            generator = torch.Generator(x.device).manual_seed(key)
            draws.append(torch.rand(shape, generator=generator, device=x.device))
        keep = torch.cat(draws) >= self.p
        return x * keep.to(x.dtype) / (1 - self.p)


def key_dropout(network: nn.Module, seed: int, positions: Sequence[int]) -> None:
    """Give every dropout layer the masks of these clips, in the order of the next batch."""
    layers = [m for m in network.modules() if isinstance(m, Dropout) and m.p > 0]
    for i, layer in enumerate(layers):
        layer.keys = tuple(derive_seed(seed, n, f"dropout/{i}") for n in positions)
