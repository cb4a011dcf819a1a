"""Real clips in memory, and one measure of a denoiser that any model can be put to.

Comparisons must not depend on how a model scales its clips. So a model is asked in pixels: it gets
`x + s n` with x in [-1, 1] and a noise level s in the same units, and answers x. Its error is
reported as EDM's weighted error at levels of clips scaled to sd 0.5,

  (1) error(sigma) = lambda(sigma) (sd / std)^2 ||D - x||^2 / dim,   sigma = s sd / std,
      lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2,   sd = 0.5,

which is 1 for a model that says nothing, at every level (Karras et al. 2022, arXiv 2206.00364).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from vidiff.data.index import DataConfig, scan
from vidiff.data.loading import read_all
from vidiff.data.video import to_unit
from vidiff.diffusion.calibration import Calibration, calibrate
from vidiff.diffusion.process import SIGMA_DATA, scalings
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Batch, draw_normal, make_generator
from vidiff.tasks import generate

LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Levels sigma of equation (1)."""

PixelDenoiser = Callable[[Tensor, float], Tensor]
"""`denoise(noisy, s) -> clean`, clips b c t h w in [-1, 1], noise of sd s."""


@dataclass(frozen=True)
class Pool:
    """Training and held-out clips, uint8 b t h w c, and what calibration says of the former."""

    train: Tensor
    test: Tensor
    calibration: Calibration

    def batch(self, seed: int, step: int, size: int) -> Batch:
        """Batch number `step`: every clip once an epoch, in an order of its own."""
        positions = list(range(step * size, (step + 1) * size))
        rows = []
        for position in positions:
            epoch, place = divmod(position, len(self.train))
            order = torch.randperm(len(self.train), generator=make_generator(seed, epoch, "pool"))
            rows.append(int(order[place]))
        dt = torch.full((size,), self.calibration.dt)
        return Batch(self.train[rows], dt, tuple(positions), ("",) * size)


def read_pool(root: Path, cache: Path, frames: int, side: int, train: int, test: int) -> Pool:
    """Clips of a folder, decoded once and kept in `cache`.

    All channels get one standard deviation, so that noise is the same to every model.
    """
    if not cache.exists():
        config = DataConfig(root=str(root), num_frames=frames, size=side, held_out=0.2)
        index = scan(config, 0)
        sides = [
            read_all(index.split("train"), train),
            read_all(index.split("test"), test),
        ]
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"clips": [s.frames for s in sides], "dt": float(sides[0].dt.median())}, cache)
    stored = torch.load(cache, weights_only=True)
    known, held_out = stored["clips"]
    pixels = rearrange(to_unit(known[:256]), "b t h w c -> b c t h w")
    measured = calibrate(pixels.split(16), stored["dt"])
    alike = (sum(s * s for s in measured.std) / len(measured.std)) ** 0.5
    one = measured.model_copy(update={"std": (alike,) * len(measured.std)})
    return Pool(known, held_out, one)


def held_out_errors(
    denoise: PixelDenoiser, pool: Pool, count: int = 64, levels: Sequence[float] = LEVELS
) -> dict[str, float]:
    """Equation (1) on held-out clips with fixed noise, and the mean over the levels."""
    clean = rearrange(to_unit(pool.test[:count]), "b t h w c -> b c t h w")
    noise = draw_normal(0, list(range(len(clean))), "held out", tuple(clean.shape[1:]))
    unit = pool.calibration.std[0] / SIGMA_DATA
    errors = {}
    for level in levels:
        scale = float(scalings(torch.tensor(level)).out) * unit
        total = 0.0
        for x, n in zip(clean.split(16), noise.split(16), strict=True):
            answer = denoise(x + level * unit * n, level * unit)
            total += float(((answer - x) / scale).square().mean(dim=(1, 2, 3, 4)).sum())
        errors[f"{level:g}"] = total / len(clean)
    return errors | {"mean": sum(errors.values()) / len(errors)}


def pixel_denoiser(model: VideoDiffusion) -> PixelDenoiser:
    """A model of ours, asked in pixels: nothing is known of the clip but its noise."""
    c = model.calibration
    scale = SIGMA_DATA / c.std[0]

    @torch.no_grad()
    def denoise(noisy: Tensor, level: float) -> Tensor:
        model.network.eval()
        b, t = noisy.shape[0], noisy.shape[2]
        sigma = torch.full((b, 1, t, 1, 1), level * scale)
        return c.unscale(model.denoiser(generate(b, t))(c.scale(noisy), sigma))

    return denoise
