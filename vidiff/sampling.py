"""New clips: noise of each seed, walked down a field of levels by a guided denoiser.

y = known + levels[0] * noise(seed)          one generator for each seed
y -> sampler(guided denoiser, y, levels)     samplers.py, guidance.py
frames = to_frames(y), given content back in its place bit for bit
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from vidiff.diffusion import samplers
from vidiff.diffusion.calibration import Calibration
from vidiff.diffusion.guidance import Kind, apart, raise_history, stacked
from vidiff.diffusion.guidance import guide as guide_denoiser
from vidiff.diffusion.process import Denoiser
from vidiff.errors import NumbersError, RequestError
from vidiff.records import Condition, draw_normal
from vidiff.runs.config import Config
from vidiff.tasks import generate

CHUNK = 8
"""Clips sampled at once on a GPU."""


def chunk_of(device: torch.device) -> int:
    """Clips sampled at once: one on a CPU, as fast as many, and no bit depends on how many."""
    return 1 if device.type == "cpu" else CHUNK


STRIPS = 12
"""Times that a batch is shown to its watcher."""

Watch = Callable[[UInt8[Tensor, "b t h w c"]], object]
"""Called now and then with what the clips are guessed to be."""

Progress = Callable[[int, int], None]
"""Called with (denoiser calls done, calls in all)."""


class SampleConfig(Config):
    """How clips are sampled."""

    sampler: samplers.Name = "exp2m"
    """Solver; `exp2m` is best at any number of calls (docs/journal.md)."""
    steps: int = Field(24, ge=1, le=10_000)
    """Steps of the schedule, the one from infinite noise among them."""
    grid: samplers.GridName = "karras"
    """Spacing of the levels; `log` keeps more steps for the largest components."""
    guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    """Weight w of the guidance; 1 is none, 1.5 to 3 are usual."""
    guide: Kind = "condition"
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

    network: nn.Module
    calibration: Calibration
    num_frames: int
    size: int

    @property
    def device(self) -> torch.device: ...

    @property
    def level_law(self) -> tuple[float, float]: ...

    def to_model(self, frames: UInt8[Tensor, "b t h w c"]) -> Float[Tensor, "b c t h w"]: ...

    def to_frames(self, x: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b t h w c"]: ...

    def denoiser(self, condition: Condition, image_mode: bool = False) -> Denoiser: ...


def sample(
    model: Model,
    condition: Condition | None,
    seeds: Sequence[int],
    config: SampleConfig | None = None,
    progress: Progress | None = None,
    chunk: int = CHUNK,
    reference: Model | None = None,
    watch: Watch | None = None,
) -> UInt8[Tensor, "b t h w c"]:
    """One clip for each seed; see `VideoDiffusion.sample`.

    Raises:
        RequestError: rows of the condition and seeds do not match, or the guidance has nothing to
            guide by.
    """
    config, seeds = config or SampleConfig(), list(seeds)
    condition = _repeat(condition or generate(len(seeds), model.num_frames), len(seeds))
    if condition.dt is None:
        condition = replace(condition, dt=torch.full((len(seeds),), model.calibration.dt))
    condition = replace(condition, key=torch.tensor(seeds))
    require_guide(model, condition, config, reference)
    chunk = min(chunk, chunk_of(model.device))
    parts = []
    pieces = range(0, len(seeds), chunk)
    for done, i in enumerate(pieces):
        rows = slice(i, i + chunk)

        def tell(call: int, calls: int, done: int = done) -> None:
            if progress:
                progress(done * calls + call, len(pieces) * calls)

        job = Job(model, _rows(condition, rows), seeds[rows], config, reference, watch)
        parts.append(_to_frames(job, walk(job, tell)))
    return torch.cat(parts)


@dataclass(frozen=True)
class Job:
    """What one chunk of clips is made from."""

    model: Model
    condition: Condition
    seeds: list[int]
    config: SampleConfig
    reference: Model | None = None
    watch: Watch | None = None

    def noise(self, purpose: str, step: int = 0) -> Float[Tensor, "b c t h w"]:
        """Standard normal noise like the clips, row i a function of its seed alone."""
        model = self.model
        frames = self.condition.floor.shape[2]
        shape = (len(model.calibration.mean), frames, model.size, model.size)
        return draw_normal(step, self.seeds, purpose, shape).to(model.device)


def walk(
    job: Job, progress: Progress, begin: Float[Tensor, "b c t h w"] | None = None
) -> Float[Tensor, "b c t h w"]:
    """The clips of one chunk in model range, given content at its small noise.

    Args:
        begin: noisy clips at half of sigma_max to walk down from, instead of pure noise.
    """
    model, config, device = job.model, job.config, job.model.device
    c, condition = model.calibration, job.condition
    floor, start = condition.floor.to(device), condition.start.to(device)
    free = torch.isinf(start)
    enters = bool(free.any()) and config.steps > 1 and begin is None
    enters = enters and config.sampler != "jump"
    top = (
        c.sigma_max / 2
        if enters or begin is not None
        else min(c.sigma_max, float(start[start > floor].max()))
    )
    grid = samplers.make_grid(
        config.grid, config.steps - enters, c.sigma_min, top, *model.level_law
    )
    levels = samplers.spread(grid, floor, start, condition.lag)
    y = job.noise("sample") * levels[0] if begin is None else begin
    if condition.known is not None:
        y = y + torch.where(free, 0.0, model.to_model(condition.known))
    calls = enters + samplers.count_calls(config.sampler, len(levels) - 1)
    denoise = _counted(_guided(job), calls, progress, job)
    if enters:
        y = samplers.enter(denoise, y, levels[0], free)
    return samplers.SAMPLERS[config.sampler](
        denoise, y, levels, lambda step: job.noise("sample", step + 1)
    )


def _to_frames(job: Job, y: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b t h w c"]:
    if not bool(torch.isfinite(y).all()):
        bad = [s for s, row in zip(job.seeds, y, strict=True) if not bool(row.isfinite().all())]
        raise NumbersError(
            f"The clips of the seeds {bad} came out non-finite.",
            "Use less guidance or more steps; if plain sampling does it too, the weights are bad.",
        )
    frames, condition = job.model.to_frames(y), job.condition
    if condition.known is None:
        return frames
    held = rearrange(condition.held, "b 1 t h w -> b t h w 1")
    return torch.where(held, condition.known, frames)


def require_guide(
    model: Model, condition: Condition, config: SampleConfig, reference: Model | None
) -> None:
    """Refuse guidance that has nothing to guide by.

    Raises:
        RequestError: with what is missing.
    """
    if config.guidance == 1:
        return
    asked = f"guidance={config.guidance:g} with guide={config.guide}"
    match config.guide:
        case "condition" if condition.label is condition.text is condition.words is None:
            raise RequestError(
                f"{asked} needs a class or a text to guide towards.",
                "Name one, or use guide=auto or guide=time, which need none.",
            )
        case "history" if not bool(condition.held.any()):
            raise RequestError(
                f"{asked} needs given frames; this task gives none.",
                "Use a task with an input, such as predict, or guide=time.",
            )
        case "time" if not getattr(model.network.config, "temporal", True):
            raise RequestError(
                f"{asked} leaves out temporal layers; this network has none.", "Use guide=auto."
            )
        case "auto" if reference is None:
            raise RequestError(
                f"{asked} needs a weaker network.",
                "Set reference to an averaged track such as ema-0.100, a checkpoint or a run.",
            )
        case "auto" if reference is not None:
            _require_alike(model, reference)


def _require_alike(model: Model, reference: Model) -> None:
    ours, theirs = model.calibration, reference.calibration
    ratio = [a / b for a, b in zip(ours.std, theirs.std, strict=False)]
    if model.size != reference.size or len(ours.std) != len(theirs.std):
        raise RequestError(
            f"The reference makes {len(theirs.std)}-channel clips of {reference.size} px, the "
            f"model {len(ours.std)}-channel clips of {model.size} px.",
            "Use a reference that was trained on clips of the same size.",
        )
    if max(ratio) > 1.05 * min(ratio):
        raise RequestError(
            f"The colours of the reference's clips (std {theirs.std}) are not those of the "
            f"model's (std {ours.std}), so their noise differs between channels.",
            "Use a reference that was trained on the same clips.",
        )


def _guided(job: Job) -> Denoiser:
    model, condition, config = job.model, job.condition, job.config
    denoise = model.denoiser(condition)
    if config.guidance == 1:
        return denoise
    match config.guide:
        case "condition":
            pair = stacked(model.denoiser(_join(condition, _blank(condition))))
        case "history":
            level = config.history or model.calibration.sigma_max
            view = raise_history(condition.held.to(model.device), job.noise("history"), level)
            pair = stacked(model.denoiser(_join(condition, condition)), view)
        case "time":
            pair = apart(denoise, model.denoiser(condition, image_mode=True))
        case "auto":
            assert job.reference is not None
            pair = apart(denoise, _translated(model, job.reference, condition))
    interval = config.interval or (0.0, math.inf)
    return guide_denoiser(denoise, pair, config.guidance, interval, config.rescale)


def _translated(model: Model, reference: Model, condition: Condition) -> Denoiser:
    """The reference's denoiser, asked and answering in the units of the model's calibration."""
    denoise, ours, theirs = reference.denoiser(condition), model.calibration, reference.calibration
    if (ours.mean, ours.std) == (theirs.mean, theirs.std):
        return denoise
    ratio = sum(a / b for a, b in zip(ours.std, theirs.std, strict=True)) / len(ours.std)

    def translated(noisy: Tensor, sigma: Tensor) -> Tensor:
        clean = denoise(theirs.scale(ours.unscale(noisy)), sigma * ratio)
        return ours.scale(theirs.unscale(clean))

    return translated


def _blank(condition: Condition) -> Condition:
    """Without a class and without a text."""
    label = None if condition.label is None else torch.full_like(condition.label, -1)
    text = None if condition.text is None else torch.zeros_like(condition.text)
    words = None if condition.words is None else torch.zeros_like(condition.words)
    return replace(condition, label=label, text=text, words=words)


def _each(condition: Condition, change: Callable[[Tensor], Tensor]) -> Condition:
    """`change` applied to every field that has one row for each clip."""
    values = {f.name: getattr(condition, f.name) for f in fields(condition) if f.name != "lag"}
    return replace(condition, **{n: change(v) for n, v in values.items() if v is not None})


def _rows(condition: Condition, rows: slice) -> Condition:
    return _each(condition, lambda x: x[rows])


def _join(first: Condition, second: Condition) -> Condition:
    """The rows of both."""
    names = [f.name for f in fields(first) if f.name != "lag"]
    pairs = {n: (getattr(first, n), getattr(second, n)) for n in names}
    return replace(first, **{n: torch.cat(p) for n, p in pairs.items() if p[0] is not None})


def _repeat(condition: Condition, count: int) -> Condition:
    if len(condition) == count:
        return condition
    if len(condition) != 1:
        raise RequestError(
            f"The task has {len(condition)} clips and {count} seeds; they must be as many.",
            "Give one seed a clip, or a task of one clip for all seeds.",
        )
    return _each(condition, lambda x: x.repeat(count, *[1] * (x.ndim - 1)))


def _counted(denoise: Denoiser, calls: int, progress: Progress, job: Job) -> Denoiser:
    done = 0

    def counted(noisy: Tensor, sigma: Tensor) -> Tensor:
        nonlocal done
        out = denoise(noisy, sigma)
        done += 1
        progress(min(done, calls), calls)
        if job.watch and done * STRIPS // calls > (done - 1) * STRIPS // calls:
            job.watch(job.model.to_frames(out))
        return out

    return counted
