"""Held-out error against lucidrains' video-diffusion-pytorch 0.7.0 at equal processor time.

    python tools/bench_model.py --peer DIR --race SECONDS --clips FOLDER

Every contender sees the same clips in the same batches and takes turns in blocks of a few seconds,
each on this process's own processor clock, one thread; so what else the machine does falls on all
alike. The peer trains as its trainer does (epsilon, cosine schedule of 1000 steps, L1, Adam at
1e-4; its average starts at step 2000, so raw weights), and once more at ten times the rate.

One measure for all (clip_pool.py): the peer's x_t / sqrt(abar_t) is x + s n with
s = sqrt(1 / abar_t - 1), and its clean clip is that less s epsilon (Ho et al. 2020, arXiv
2006.11239). Levels are those of its own table nearest to clip_pool.LEVELS, the same for ours.
Answers are cut to [-1, 1], as its sampler does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from clip_pool import LEVELS, PixelDenoiser, Pool, held_out_errors, pixel_denoiser, read_pool
from einops import rearrange
from torch import Tensor

from vidiff.diffusion.process import SIGMA_DATA
from vidiff.models.layout import ModelConfig
from vidiff.models.optimizers import OptimizerConfig
from vidiff.pipeline import build
from vidiff.records import make_generator
from vidiff.training.state import fresh_state

BATCH, BLOCK, REPORTS = 8, 5.0, 3
FRAMES, SIDE = 8, 32


class Contender(Protocol):
    """One side of the race."""

    def learn(self, clips: Tensor, step: int, spent: float) -> None:
        """One step on clips b t h w c; `spent` is the share of its time that is used."""

    def denoiser(self) -> PixelDenoiser:
        """Its network, asked in pixels."""


class Ours:
    """The network at the peer's number of parameters, trained as by default, linear to zero."""

    def __init__(self, pool: Pool, model: dict[str, Any], lr: float = 0.02) -> None:
        self.pool, self.rate = pool, lr
        self.model = build(ModelConfig(**model), pool.calibration, FRAMES, SIDE)
        self.state = fresh_state(self.model.network, OptimizerConfig(lr=lr), (0.05,), True)

    def learn(self, clips: Tensor, step: int, spent: float) -> None:
        self.model.network.train()
        self.model.loss(self.pool.batch(0, step, BATCH), 0, BATCH).value.backward()
        self.state.move(self.rate * min(1.0, (step + 1) / 30) * max(0.0, 1 - spent))
        self.state.step += 1

    def denoiser(self) -> PixelDenoiser:
        return pixel_denoiser(self.model)


class Peer:
    """The peer's network under its own loss and optimiser."""

    def __init__(self, network: type, diffusion: type, lr: float) -> None:
        torch.manual_seed(0)
        self.net = network(dim=32)
        self.process = diffusion(self.net, image_size=SIDE, num_frames=FRAMES, loss_type="l1")
        self.adam = torch.optim.Adam(self.process.parameters(), lr=lr)
        self.table = (1 / self.process.alphas_cumprod - 1).sqrt()

    def learn(self, clips: Tensor, step: int, spent: float) -> None:
        self.net.train()
        torch.manual_seed(make_generator(0, step, "peer").initial_seed())
        self.adam.zero_grad()
        self.process(rearrange(clips, "b t h w c -> b c t h w") / 255).backward()
        self.adam.step()

    def denoiser(self) -> PixelDenoiser:
        @torch.no_grad()
        def denoise(noisy: Tensor, level: float) -> Tensor:
            self.net.eval()
            t = int((self.table.log() - torch.tensor(level).log()).abs().argmin())
            s = self.table[t]
            epsilon = self.net(noisy / (1 + s * s).sqrt(), torch.full((len(noisy),), t))
            return noisy - s * epsilon

        return denoise


@dataclass
class Lane:
    """How far a contender has come."""

    contender: Contender
    steps: int = 0
    spent: float = 0.0
    told: list[dict[str, float]] = field(default_factory=list)

    def run(self, pool: Pool, until: float, seconds: float) -> None:
        """Steps until `until` seconds of its own are used."""
        while self.spent < until:
            began = time.process_time()
            clips = pool.batch(0, self.steps, BATCH).frames
            self.contender.learn(clips, self.steps, self.spent / seconds)
            self.steps += 1
            self.spent += time.process_time() - began


def race(peer: tuple[type, type], ours: dict[str, Any], clips: Path, seconds: float) -> None:
    """Train all for `seconds` each, and print the errors at each third of it."""
    pool = read_pool(clips, clips.with_suffix(".race.pt"), FRAMES, SIDE, 1600, 192)
    lanes = {
        "vidiff, its parameters": Lane(Ours(pool, ours)),
        "peer, its rate 1e-4": Lane(Peer(*peer, lr=1e-4)),
        "peer, rate 1e-3": Lane(Peer(*peer, lr=1e-3)),
    }
    unit = pool.calibration.std[0] / SIGMA_DATA
    table = Peer(*peer, lr=1e-4).table / unit
    levels = [float(table[(table.log() - torch.tensor(x).log()).abs().argmin()]) for x in LEVELS]
    heads = ["contender", "CPU s", "steps", *(f"{x:.3g}" for x in levels), "mean"]
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1), flush=True)
    for report in range(1, REPORTS + 1):
        goal = seconds * report / REPORTS
        while min(lane.spent for lane in lanes.values()) < goal:
            for lane in lanes.values():
                lane.run(pool, min(goal, lane.spent + BLOCK), seconds)
        for name, lane in lanes.items():
            denoise = lane.contender.denoiser()
            errors = held_out_errors(
                lambda noisy, s, ask=denoise: ask(noisy, s).clamp(-1, 1), pool, 16, levels
            )
            cells = [name, f"{lane.spent:.0f}", str(lane.steps)]
            cells += [f"{error:.4f}" for error in errors.values()]
            print("| " + " | ".join(cells) + " |", flush=True)
