"""Muon and Adam on matrices that two processes share, against one that has them whole.

Run by torchrun; prints the world size and the largest difference after five steps.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from vidiff.models.layers import Weighted
from vidiff.models.optimizers import OptimizerConfig, make_optimizers
from vidiff.models.sharding import shard, split_like, whole

if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.manual_seed(0)

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(
            Weighted(5, 7, (3, 3)), Weighted(7, 3), Weighted(3, 12, (3, 1), zero=True)
        )

    alone, shared = network(), network()
    shared.load_state_dict(alone.state_dict())
    shard(shared, lambda module: isinstance(module, Weighted), torch.device("cpu"))
    config = OptimizerConfig(weight_decay=0.01)
    pairs = [
        make_optimizers(config, net, lambda name, p: p.ndim > 1, mp=True) for net in (alone, shared)
    ]
    for _ in range(5):
        for p, q in zip(alone.parameters(), shared.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = split_like(p.grad, q)
        for optimizers in pairs:
            for optimizer in optimizers:
                optimizer.step()
        for net in (alone, shared):
            for module in net.modules():
                if isinstance(module, Weighted):
                    module.normalize()
    both = zip(alone.parameters(), shared.parameters(), strict=True)
    worst = max(float((p - whole(q)).abs().max()) for p, q in both)
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} {worst}")
    dist.destroy_process_group()
