"""A training that notes which clips this process saw; run by torchrun, words as for `train`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from vidiff.pipeline import Loss, VideoDiffusion
from vidiff.training import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    seen: list[Any] = []
    plain = VideoDiffusion.loss

    def loss(self: VideoDiffusion, batch: Any, *args: Any, **options: Any) -> Loss:
        # Held-out losses name their condition, and the planner's blank clips have no source.
        if "condition" not in options and any(batch.sources):
            seen.append([list(batch.positions), list(batch.sources)])
        return plain(self, batch, *args, **options)

    VideoDiffusion.loss = loss  # type: ignore[method-assign]
    notes, config, *words = sys.argv[1:]
    train(config, *words, say=lambda text: None)
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = os.environ.get("RANK", "0")
    Path(f"{notes}-{rank}.json").write_text(json.dumps({"world": world, "seen": seen}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
