"""What lies ahead of a run, told before its first step: size, memory, time, disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vidiff.data.index import Index, scan
from vidiff.models.layout import resolve
from vidiff.pipeline import VideoDiffusion, build
from vidiff.runs.files import free_space
from vidiff.runs.tracking import in_words
from vidiff.training.planning import (
    Cost,
    Fit,
    blank_batch,
    choose,
    decoded,
    free_memory,
    in_use,
    peak,
    stand_in,
)
from vidiff.training.settings import TrainConfig

LOADING = 1.05
"""A step over its forward and backward passes: clips, optimizer, averages."""

ASSUMED_EFFICIENCY = 0.3
"""Share of a matrix product's speed that the network reaches, where it is not tried."""

TRIED_BELOW = 3e11
"""Operations of a clip up to which a plan on the CPU tries a part of a step to tell the time."""


@dataclass(frozen=True)
class Outlook:
    """Everything a person may want to know before step 1."""

    config: TrainConfig
    cost: Cost
    fit: Fit
    processes: int
    device: str
    free: int
    """Bytes a process may still take."""
    base: int
    """Bytes it takes already, and will for the loader."""
    steps: int
    done: int = 0
    windows: int | None = None
    """Windows to train on, where the clips are known."""
    seconds: float | None = None
    """Seconds of one part, where it was measured."""
    measured: bool = True
    """False: `seconds` follows from the operations and an assumed speed."""

    def to_text(self) -> str:
        """The lines before step 1."""
        rows = {
            "Network": self._network(), "Clips": self._clips(), "Memory": self._memory(),
            "Steps": self._steps(), "Time": self._time(), "Disk": self._disk(),
        }  # fmt: skip
        return "\n".join(f"{name:<11}{text}" for name, text in rows.items() if text)

    def _network(self) -> str:
        layout = resolve(self.config.model, self.config.data.size)
        return (
            f"{self.cost.parameters / 1e6:.2f} M parameters, widths {layout.widths}, patch "
            f"{layout.patch}, {self.config.model.norm}; {self.cost.flops / 1e9:.3g} GFLOP a clip, "
            "forward and backward"
        )

    def _clips(self) -> str:
        data = self.config.data
        known = "" if self.windows is None else f"; {self.windows} windows to train on"
        return f"{data.num_frames} frames of {data.size}x{data.size}{known}"

    def _memory(self) -> str:
        need = peak(self.cost, self.fit, self.base)
        how = f"{self.fit.micro} clip(s) at once" + (
            f", {self.fit.parts} times a step" if self.fit.parts > 1 else ""
        )
        how += ", blocks recomputed" if self.fit.checkpointing else ""
        return (
            f"about {need / 1e9:.2f} GB a process ({self.cost.activations / 1e6:.0f} MB a clip); "
            f"{how}; {self.free / 1e9:.1f} GB free"
        )

    def _steps(self) -> str:
        batch = self.config.train.batch_size
        turns = f", {self.steps * batch / self.windows:.1f} times through" if self.windows else ""
        return (
            f"{self.done} of {self.steps} done, {batch} clips each on {self.processes} "
            f"process(es), {self.device}{turns}"
        )

    def _time(self) -> str:
        if self.seconds is None:
            return ""
        step = self.seconds * self.fit.parts * LOADING
        left = step * (self.steps - self.done)
        how = "measured" if self.measured else "estimated from its operations, not tried"
        return f"{in_words(left)} to the end at {step:.2g} s a step ({how})"

    def _disk(self) -> str:
        keep, folder = self.config.train.keep, Path(self.config.out)
        need, free = (keep + 1) * self.cost.checkpoint, free_space(folder)
        short = "" if free > 1.2 * need else ": TOO LITTLE, set train.keep=1 or another out="
        return (
            f"checkpoints of {self.cost.checkpoint / 1e6:.0f} MB, {keep} kept and one being "
            f"written, in {folder / 'checkpoints'}; {free / 1e9:.1f} GB free{short}"
        )


def assumed_seconds(cost: Cost, micro: int, rate: float) -> float:
    """Seconds of `micro` clips on a device that multiplies matrices at `rate` FLOP/s."""
    return micro * cost.flops / (ASSUMED_EFFICIENCY * rate)


def matmul_rate(device: torch.device, size: int = 1024) -> float:
    """FLOP/s of one large matrix product, its first try left out."""
    a = torch.randn(size, size, device=device)
    spent = 1.0
    for _ in range(3):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        spent = time.perf_counter() - began
    return 2 * size**3 / spent


def time_part(
    model: VideoDiffusion,
    config: TrainConfig,
    micro: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of `micro` clips forward and backward, the first of two tries left out."""
    batch = blank_batch(config, micro, len(model.calibration.mean))
    spent = 0.0
    for _ in range(2):
        began = clock()
        model.loss(batch, 0).value.backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        spent = clock() - began
        model.network.zero_grad(set_to_none=True)
    return spent


def look_ahead(config: TrainConfig, processes: int = 1) -> Outlook:
    """What `vidiff plan` tells: of the clips where they are there, of the speed where it is tried.

    Nothing is written.

    Raises:
        RequestError: the configuration does not fit this device.
        DataError: the clips are there and cannot be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index: Index | None = None
    if Path(config.data.root).exists():
        index = scan(config.data, config.seed)
        index.require()
    free = free_memory(device)
    fit, cost = choose(config, processes, free, decoded(config, index))
    tried = device.type == "cuda" or cost.flops < TRIED_BELOW
    if tried:
        c, data = config, config.data
        model = build(
            c.model, stand_in(3), data.num_frames, data.size, c.process, c.tasks
        )  # fmt: skip
        model.network.to(device)
        seconds = time_part(model, config, fit.micro)
    else:
        seconds = assumed_seconds(cost, fit.micro, matmul_rate(device))
    return Outlook(
        config, cost, fit, processes, device.type, free, in_use(config, index), config.train.steps,
        windows=None if index is None else index.split("train").num_windows,
        seconds=seconds, measured=tried,
    )  # fmt: skip
