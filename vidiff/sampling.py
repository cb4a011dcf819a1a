"""New clips: noise of each seed, walked down a field of levels by a guided denoiser.

y = known + levels[0] * noise(seed)          one generator for each seed
y -> sampler(guided denoiser, y, levels)     samplers.py, guidance.py
frames = to_frames(y), given content back in its place bit for bit
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from vidiff.diffusion import guidance, samplers
from vidiff.diffusion.calibration import Calibration
from vidiff.diffusion.process import Denoiser
from vidiff.errors import RequestError
from vidiff.records import Condition, draw_normal
from vidiff.runs.config import Config
from vidiff.tasks import generate

CHUNK = 8
"""Clips sampled at once."""

Progress = Callable[[int, int], None]
"""Called with (denoiser calls done, calls in all)."""


class SampleConfig(Config):
    """How clips are sampled."""

    sampler: samplers.Name = "dpm2m"
    """Solver; `dpm2m` is best at 10 to 30 steps, `heun` above."""
    steps: int = Field(24, ge=1, le=10_000)
    """Steps of the schedule."""
    grid: samplers.GridName = "karras"
    """Spacing of the levels."""
    guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    """Weight w of the guidance; 1 is none, 1.5 to 3 are usual."""
    guide: guidance.Kind = "condition"
    """Away from what: from no label and no text (`condition`), from a weaker network (`auto`, see
    `reference`), from given frames seen through noise (`history`), from frames that know nothing
    of each other (`time`)."""
    interval: tuple[NonNegativeFloat, PositiveFloat] | None = None
    """Noise levels between which guidance acts, low and high; everywhere by default."""
    rescale: float = Field(0.0, ge=0, le=1)
    """How far guidance gives each frame the spread back that it has without; 0.7 above w = 2."""
    reference: str | None = None
    """The weaker network of `auto`: an averaged track of the same checkpoint (`ema-0.100`), an
    earlier checkpoint of the run (`step-00000400`, or `early` for the first kept), or the folder
    of another run."""
    history: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Noise level at which `history` shows the given frames; sigma_max, nothing, by default."""

    @model_validator(mode="after")
    def _sensible(self) -> SampleConfig:
        if self.interval is not None and self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval is {self.interval}: low must be below high")
        if "guide" in self.model_fields_set and "guidance" not in self.model_fields_set:
            raise ValueError(f"guide={self.guide} needs a weight, such as guidance=2")
        for key, kind in (("reference", "auto"), ("history", "history")):
            if getattr(self, key) is not None and self.guide != kind:
                raise ValueError(f"{key} belongs to guide={kind}, not to guide={self.guide}")
        if self.guide == "auto" and self.reference is None and "guide" in self.model_fields_set:
            raise ValueError("guide=auto needs a reference, such as reference=ema-0.100")
        return self


@runtime_checkable
class Model(Protocol):
    """What sampling asks of a model (pipeline.py)."""

    calibration: Calibration
    num_frames: int
    size: int

    @property
    def device(self) -> torch.device: ...

    def to_model(self, frames: UInt8[Tensor, "b t h w c"]) -> Float[Tensor, "b c t h w"]: ...

    def to_frames(self, x: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b t h w c"]: ...

    def denoiser(self, condition: Condition) -> Denoiser: ...


def sample(
    model: Model,
    condition: Condition | None,
    seeds: Sequence[int],
    config: SampleConfig | None = None,
    progress: Progress | None = None,
    chunk: int = CHUNK,
) -> UInt8[Tensor, "b t h w c"]:
    """One clip for each seed; see `VideoDiffusion.sample`.

    Raises:
        RequestError: rows of the condition and seeds do not match.
    """
    config, seeds = config or SampleConfig(), list(seeds)
    condition = condition or generate(len(seeds), model.num_frames)
    condition = _repeat(condition, len(seeds))
    parts = []
    pieces = range(0, len(seeds), chunk)
    for done, i in enumerate(pieces):
        rows = slice(i, i + chunk)

        def tell(call: int, calls: int, done: int = done) -> None:
            if progress:
                progress(done * calls + call, len(pieces) * calls)

        parts.append(_sample_chunk(model, _rows(condition, rows), seeds[rows], config, tell))
    return torch.cat(parts)


def _sample_chunk(
    model: Model, condition: Condition, seeds: list[int], config: SampleConfig, progress: Progress
) -> UInt8[Tensor, "b t h w c"]:
    c, device = model.calibration, model.device
    floor, start = condition.floor.to(device), condition.start.to(device)
    shape = (len(c.mean), floor.shape[2], model.size, model.size)
    y = draw_normal(0, seeds, "sample", shape).to(device)
    moving = start[start > floor]
    top = min(c.sigma_max, float(moving.max())) if len(moving) else c.sigma_max
    grid = samplers.GRIDS[config.grid](config.steps, c.sigma_min, top)
    levels = samplers.spread(grid, floor, start, condition.lag)
    y = y * levels[0]
    if condition.known is not None:
        known = model.to_model(condition.known)
        y = y + torch.where(torch.isfinite(start), known, 0.0)
    calls = samplers.count_calls(config.sampler, len(levels) - 1)
    denoise = _counted(_guided(model, condition, config), calls, progress)

    def fresh(step: int) -> Tensor:
        return draw_normal(step + 1, seeds, "sample", shape).to(device)

    y = samplers.SAMPLERS[config.sampler](denoise, y, levels, fresh)
    frames = model.to_frames(y)
    if condition.known is None:
        return frames
    held = rearrange(condition.held, "b 1 t h w -> b t h w 1")
    return torch.where(held, condition.known, frames)


def _guided(model: Model, condition: Condition, config: SampleConfig) -> Denoiser:
    denoise = model.denoiser(condition)
    if config.guidance == 1:
        return denoise
    if condition.label is None:
        raise RequestError(
            f"guidance={config.guidance:g} needs a class or a text to guide towards.",
            "Train with model.classes set, or sample with guidance 1.",
        )
    interval = config.interval or (0.0, float("inf"))
    blank = replace(condition, label=torch.full_like(condition.label, -1), text=None)
    return guidance.guide(denoise, model.denoiser(blank), config.guidance, interval)


def _rows(condition: Condition, rows: slice) -> Condition:
    names = ("floor", "start", "known", "weight", "dt", "label", "text")
    cut = {n: getattr(condition, n) for n in names}
    return replace(condition, **{n: v[rows] for n, v in cut.items() if v is not None})


def _repeat(condition: Condition, count: int) -> Condition:
    if len(condition) == count:
        return condition
    if len(condition) != 1:
        raise RequestError(
            f"The task has {len(condition)} clips and {count} seeds; they must be as many.",
            "Give one seed a clip, or a task of one clip for all seeds.",
        )
    names = ("floor", "start", "known", "weight", "dt", "label", "text")
    rows = {n: getattr(condition, n) for n in names}
    return replace(
        condition,
        **{n: v.repeat(count, *[1] * (v.ndim - 1)) for n, v in rows.items() if v is not None},
    )


def _counted(denoise: Denoiser, calls: int, progress: Progress) -> Denoiser:
    done = 0

    def counted(noisy: Tensor, sigma: Tensor) -> Tensor:
        nonlocal done
        out = denoise(noisy, sigma)
        done += 1
        progress(min(done, calls), calls)
        return out

    return counted
