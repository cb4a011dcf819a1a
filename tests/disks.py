"""Small checkpoints and failing disks for tests."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from vidiff.runs.checkpoint import load, save, weights_hash


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "in.weight": torch.randn(8, 4, generator=generator),
        "in.bias": torch.full((8,), float(seed)),
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(seed),
        "mask": torch.rand(5, generator=generator) > 0.5,
        "none": torch.empty(0, 3),
    }


def publish(folder: Path, step: int, keep: int = 1, seed: int | None = None) -> Path:
    seed = step if seed is None else seed
    tensors = {"model": weights(seed), "ema": weights(seed + 1), "optim": weights(seed + 2)}
    return save(folder, step, tensors, {"seed": seed}, keep)


def seed_inside(path: Path) -> int:
    """The seed everything in the checkpoint comes from; fails if two saves were mixed."""
    tensors, state = load(path)
    seed = state["seed"]
    for offset, stem in enumerate(("model", "ema", "optim")):
        assert weights_hash(tensors[stem]) == weights_hash(weights(seed + offset))
    return int(seed)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("step-")]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x10
    path.write_bytes(bytes(data))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Every file that this process writes ends at `size` bytes: real failing writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
