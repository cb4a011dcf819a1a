"""What a configuration costs, and how a step is cut so that it fits the device.

The network runs once, forward and backward, on torch's meta device: shapes without memory. Every
storage that is made and dropped is counted, and so is every operation, so the peak of a step is
known before a byte of it is taken:

  (1) peak(m) = base + state + gradients + workspace * m * activations of a clip
  (2) state   = weights + averages + optimizer (1 number a weight under Muon, 2 under Adam)

`base` is the process as it stands with its libraries, plus what the loader keeps decoded. A step
of B clips on R processes is cut into parts of m clips, m the largest divisor of B / R that fits;
where even one clip does not, blocks are recomputed in the backward pass. The global batch stays
what it is, and the loss with it.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from vidiff.data.index import Index
from vidiff.diffusion.calibration import Calibration
from vidiff.errors import RequestError
from vidiff.models.unet import hidden_matrix
from vidiff.pipeline import build
from vidiff.records import Batch
from vidiff.training.settings import TrainConfig

SPARE = 0.9
"""Share of the free memory that a plan may use."""

WORKSPACE = {False: 1.55, True: 2.4}
KERNELS = 25_000_000
"""What allocator and kernels take on top: times the counted activations (kept, recomputed), and
bytes once. Fitted to CPU runs, see the journal; a GPU in bf16 takes less than this."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "alloc_cpu",
                 "could not create a memory object", "not enough memory")  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one clip and one network cost."""

    parameters: int
    flops: float
    """Floating-point operations of one clip, forward and backward."""
    activations: int
    """Bytes of one clip's step above weights and gradients."""
    state: int
    """Bytes of weights, averages and optimizer."""
    checkpoint: int
    """Bytes of a checkpoint."""
    recomputed: bool = False
    """Blocks are recomputed in the backward pass."""


@dataclass(frozen=True)
class Fit:
    """How a process takes its share of a step."""

    micro: int
    """Clips at once."""
    parts: int
    """Times that, until its share is done."""
    checkpointing: bool = False
    """Blocks are recomputed in the backward pass."""

    def smaller(self) -> Fit | None:
        """The next plan for less memory, of the same global batch; None when there is none."""
        own = self.micro * self.parts
        less = [m for m in divisors(own) if m < self.micro]
        if less:
            return replace(self, micro=less[-1], parts=own // less[-1])
        return None if self.checkpointing else Fit(own, 1, checkpointing=True)


def divisors(number: int) -> list[int]:
    """All of them, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


class _Live(TorchDispatchMode):
    """Bytes of the storages alive on the meta device, and their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in tree_iter(out):
            if isinstance(item, Tensor) and item.device.type == "meta":
                self._note(item.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def estimate(config: TrainConfig, checkpointing: bool = False, channels: int = 3) -> Cost:
    """Count one clip's step without memory and without clips."""
    recompute = checkpointing or config.model.checkpointing
    # Kernels for attention are counted by none of torch's formulas; its plain products are. What
    # is told beside the clip (class, text, hint) costs next to nothing and is left out.
    plain = config.model.model_copy(
        update={"checkpointing": recompute, "attention": "math", "classes": 0, "text": None,
                "text_width": 0, "hint": None}
    )  # fmt: skip
    data, clips = config.data, 2
    with torch.device("meta"):
        model = build(
            plain, stand_in(channels), data.num_frames, data.size, config.process, config.tasks
        )
    weights = sum(p.nbytes for p in model.network.parameters())
    batch = blank_batch(config, clips, channels)
    # One after the other: the counter of operations keeps what recomputing drops.
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.loss(batch, 0, network=model.network)
    with _Live() as live:
        model.loss(batch, 0, network=model.network).value.backward()
    activations = max(0, live.peak - weights) // clips
    passes = 4 if recompute else 3
    optimizer = sum(
        (1 if config.optimizer.name == "muon" and hidden_matrix(name, p) else 2) * p.nbytes
        for name, p in model.network.named_parameters()
    )
    averages = len(config.train.ema) * weights
    return Cost(
        parameters=weights // 4,
        flops=passes * forward.get_total_flops() / clips,
        activations=activations,
        state=weights + averages + optimizer,
        checkpoint=weights + averages + optimizer,
        recomputed=recompute,
    )


def peak(cost: Cost, fit: Fit, base: int) -> int:
    """Equation (1), in bytes."""
    gradients = 4 * cost.parameters
    step = gradients + WORKSPACE[cost.recomputed] * fit.micro * cost.activations + KERNELS
    return int(base + cost.state + step)


def choose(config: TrainConfig, processes: int, free: int, kept: int) -> tuple[Fit, Cost]:
    """The fastest way to take a step that fits, and what a clip then costs.

    Args:
        processes: over which the global batch is spread.
        free: bytes that one process may still take.
        kept: bytes of that which the loader will fill.

    Raises:
        RequestError: not even one clip at a time fits, blocks recomputed.
    """
    own = config.train.batch_size // processes
    given = config.train.micro_batch
    sizes = [given] if given else divisors(own)[::-1]
    for recompute in (False, True):
        cost = estimate(config, checkpointing=recompute)
        recompute = recompute or config.model.checkpointing
        for micro in sizes:
            fit = Fit(micro, own // micro, recompute)
            if given or peak(cost, fit, kept) <= SPARE * free:
                return fit, cost
    raise RequestError(
        f"One clip at a time needs {peak(cost, Fit(1, own, True), kept) / 1e9:.1f} GB, blocks "
        f"recomputed; {free / 1e9:.1f} GB are free.",
        "Choose a smaller model.size, data.size or data.num_frames, or a larger model.patch; "
        "train.micro_batch=1 tries it all the same.",
    )


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [int(psutil.virtual_memory().available), *_cgroup(), *_addresses()]
    return min(limits) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def decoded(config: TrainConfig, index: Index | None = None) -> int:
    """Bytes of decoded frames that the loader will come to hold, at most."""
    most = config.data.cache_mb * 2**20
    if index is not None:
        frames = sum(entry.frames for entry in index.entries if entry.usable)
        most = min(most, frames * config.data.size**2 * 3)
    return most * max(1, config.data.workers)


def in_use(config: TrainConfig, index: Index | None = None) -> int:
    """Bytes that this process takes now, and will for the loader."""
    return int(psutil.Process().memory_info().rss) + decoded(config, index)


def _cgroup() -> list[int]:
    """What the container may still take."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{n}").read_text().strip() for n in ("max", "current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() else []


def _addresses() -> list[int]:
    """What `ulimit -v` leaves."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return []
    return [max(0, limit - int(psutil.Process().memory_info().vms))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or not."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def blank_batch(config: TrainConfig, clips: int, channels: int) -> Batch:
    """Black clips of the configured shape."""
    data = config.data
    shape = (clips, data.num_frames, data.size, data.size, channels)
    frames = torch.zeros(shape, dtype=torch.uint8)
    return Batch(frames, torch.full((clips,), 0.1), tuple(range(clips)), ("",) * clips)


def stand_in(channels: int) -> Calibration:
    """Stands for the clips' calibration, on which no cost depends."""
    return Calibration(
        mean=(0.0,) * channels, std=(1.0,) * channels, redundancy=1.0, principal=1.0, p_mean=0.0,
        sigma_max=80.0, dt=0.1, num_clips=2,
    )  # fmt: skip
