"""Weights, gradients, averages and optimiser state split over processes (FSDP2).

Each block is a unit of its own: gathered when it runs, dropped afterwards, its gradient reduced
and split again (Rajbhandari et al. 2020, arXiv 1910.02054; torch's `fully_shard`, Zhao et al. 2023,
arXiv 2304.11277). Parameters split along their first axis, so rows stay whole: forced weight
normalisation and element-wise optimisers need no communication, Muon gathers its matrix.

Accelerate wraps FSDP on GPUs only; `fully_shard` is what it calls there, and runs on any device, so
one path serves both and is tested on the CPU. What it needs of torch takes seconds to import, so
only sharded runs do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def shard(network: nn.Module, unit: Callable[[nn.Module], bool], device: torch.device) -> None:
    """Split a network in place over all processes; `unit(module)` marks what is gathered alone."""
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Its advice, that nobody may write into an output in place, is kept: outputs are only read.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for module in network.modules():
        if unit(module):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return hasattr(network, "set_requires_gradient_sync")


@contextmanager
def keep_gradients(network: Any) -> Iterator[None]:
    """Accumulate gradients without reducing them: all micro-batches of a step but the last."""
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def split_like(tensor: Tensor, like: Any) -> Tensor:
    """This process's part of a whole tensor, split as `like` is; nothing is sent."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
