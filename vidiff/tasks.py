"""Every task as a `Condition`: what is known, at which level, where to start.

Given frames are held at a small level s_c, everything else falls from sigma_max to 0, and the same
denoiser and sampler do the rest: with y_f = x_f + s_f n_f the probability-flow ODE is exact for any
non-increasing path of each frame's level, and frames held still make it sample p(rest | held).

In training `draw` gives each clip a field of levels from a mixture of such patterns (after
Chen et al. 2024, Diffusion Forcing, arXiv 2407.01392), most of them shared by all frames: levels
that are always independent cost quality in plain generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from vidiff.errors import RequestError
from vidiff.records import Condition, make_generator
from vidiff.runs.config import Config

HELD = 0.012
"""s_c: the level of given content, in units of calibrated clips. It absorbs 8-bit rounding."""

CONTEXT_TOP = 0.3
"""Largest level of given frames in training."""

FEATHER_TOP = 2.0
"""Level from which a feathered border starts next to the hole: hardly anything is seen there."""

NO_LOSS_BELOW = 0.05
"""Given frames below this level do not count in the loss: they would only teach copying."""


class TaskConfig(Config):
    """Shares of the patterns of noise levels in training; they sum to 1."""

    shared: float = Field(0.55, ge=0, le=1)
    """One level for all frames: plain generation."""
    context: float = Field(0.25, ge=0, le=1)
    """Some frames given: prefix, suffix, both ends, a random subset, every r-th."""
    sorted: float = Field(0.15, ge=0, le=1)
    """Levels that do not decrease in time: rolling generation."""
    independent: float = Field(0.05, ge=0, le=1)
    """A level of its own for every frame."""
    pixels: float = Field(0.0, ge=0, le=1)
    """A box of every frame is unknown, the rest given; needs model.pixel_levels."""

    @model_validator(mode="after")
    def _sum(self) -> TaskConfig:
        total = self.shared + self.context + self.sorted + self.independent + self.pixels
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return self


Quantiles = Float[Tensor, "*axes"]


def draw(
    config: TaskConfig,
    levels: Callable[[Quantiles], Quantiles],
    quantiles: Float[Tensor, "b"],
    frames: UInt8[Tensor, "b t h w c"],
    seed: int,
    positions: Sequence[int],
) -> Condition:
    """The noise-level field of one training batch; row i depends on (seed, positions[i]) alone.

    Args:
        levels: maps uniform quantiles to noise levels (diffusion/process.py, equation 4).
        quantiles: the stratified quantile of each clip's main level.
    """
    b, t, h, w, _ = frames.shape
    share = [config.shared, config.context, config.sorted, config.independent, config.pixels]
    edges = torch.tensor(share).cumsum(0)
    side = (h, w) if config.pixels else (1, 1)
    field = torch.empty(b, 1, t, *side)
    weight = torch.ones(b, 1, t, *side)
    for i, position in enumerate(positions):
        g = make_generator(seed, position, "pattern")
        pattern = int((torch.rand([], generator=g) >= edges[:-1]).sum())
        main = levels(quantiles[i : i + 1])
        row = main.expand(t)[:, None, None].expand(t, *side).clone()
        if pattern in (1, 4):
            given = _given_frames(t, g)[:, None, None] if pattern == 1 else ~_box(h, w, g)[None]
            low, high = math.log(HELD), math.log(CONTEXT_TOP)
            level = math.exp(low + (high - low) * float(torch.rand([], generator=g)))
            given = given.expand_as(row)
            row[given] = level
            weight[i, 0][given & (row < NO_LOSS_BELOW)] = 0
        elif pattern in (2, 3):
            others = levels(torch.rand(t, generator=g))
            others[int(torch.randint(t, [], generator=g))] = main[0]
            others = others.sort().values if pattern == 2 else others
            row = others[:, None, None].expand(t, *side)
        field[i, 0] = row
    return Condition(floor=field, start=field, known=frames, weight=weight)


def _given_frames(t: int, g: torch.Generator) -> Bool[Tensor, "t"]:
    """A pattern of given frames, never all of them."""
    given = torch.zeros(t, dtype=torch.bool)
    if t == 1:
        return given
    kind = int(torch.randint(5, [], generator=g))
    count = int(torch.randint(1, max(2, t // 2 + 1), [], generator=g))
    if kind == 0:
        given[:count] = True
    elif kind == 1:
        given[-count:] = True
    elif kind == 2:
        given[[0, -1]] = True
    elif kind == 3:
        given[torch.randperm(t, generator=g)[:count]] = True
    else:
        given[:: int(torch.randint(2, 5, [], generator=g))] = True
    if bool(given.all()):
        given[-1] = False
    return given


def _box(h: int, w: int, g: torch.Generator) -> Bool[Tensor, "h w"]:
    """A box of a quarter to three quarters of each side."""
    box = torch.zeros(h, w, dtype=torch.bool)
    u = torch.rand(4, generator=g)
    bh, bw = (max(1, int(s * (0.25 + 0.5 * float(x)))) for s, x in ((h, u[0]), (w, u[1])))
    top, left = int(float(u[2]) * (h - bh + 1)), int(float(u[3]) * (w - bw + 1))
    box[top : top + bh, left : left + bw] = True
    return box


def hold(
    known: UInt8[Tensor, "b t h w c"],
    mask: Bool[Tensor, "b t #h #w"],
    level: float = HELD,
    lag: Float[Tensor, "t"] | None = None,
) -> Condition:
    """The general task: keep what `mask` marks, generate the rest.

    Args:
        known: clips with the given content in its place.
        mask: True where the content is given; h and w may be 1 when whole frames are.
        level: noise level at which it is held.
        lag: schedule steps by which each frame falls behind, 0 or more.

    Raises:
        RequestError: the mask does not fit the clips, leaves nothing to generate, or the lag is
            negative.
    """
    if mask.shape[:2] != known.shape[:2]:
        raise RequestError(
            f"The mask marks {list(mask.shape[:2])} clips and frames; the clips are "
            f"{list(known.shape[:2])}.",
            "Give a mask b t h w for clips b t h w c.",
        )
    if lag is not None and float(lag.min()) < 0:
        raise RequestError(
            f"A frame has a lag of {float(lag.min()):g} steps; it must be 0 or more.",
            "Add the same number to all lags.",
        )
    held = mask[:, None]
    if bool(held.flatten(1).all(dim=1).any()):
        raise RequestError(
            "A clip of this task is given whole: there is nothing to generate.",
            "Ask for more frames, or leave something out of the mask.",
        )
    floor = torch.where(held, level, 0.0)
    start = torch.where(held, level, torch.inf)
    return Condition(floor=floor, start=start, known=known, lag=lag)


def generate(count: int, num_frames: int) -> Condition:
    """Plain generation of `count` clips: nothing is known."""
    floor = torch.zeros(count, 1, num_frames, 1, 1)
    return Condition(floor=floor, start=torch.full_like(floor, torch.inf))


def subset(
    frames: UInt8[Tensor, "b k h w c"],
    places: Sequence[int],
    num_frames: int,
    level: float = HELD,
) -> Condition:
    """Given frames at any places of a clip, held at `level`; negative places count from the end.

    Raises:
        RequestError: a place is outside the clip or named twice, or all are given.
    """
    b, k, h, w, c = frames.shape
    index = [p % num_frames if -num_frames <= p < num_frames else -1 for p in places]
    if len(index) != k or -1 in index or len(set(index)) != k:
        raise RequestError(
            f"{k} given frames cannot stand at places {list(places)} of {num_frames} frames.",
            "Give one different place from 0 to num_frames - 1 for each frame.",
        )
    known = torch.zeros(b, num_frames, h, w, c, dtype=torch.uint8)
    known[:, index] = frames
    mask = torch.zeros(b, num_frames, 1, 1, dtype=torch.bool)
    mask[:, index] = True
    return hold(known, mask, level)


def predict(
    frames: UInt8[Tensor, "b k h w c"], num_frames: int | None = None, level: float = HELD
) -> Condition:
    """Continue clips: their last frames come first. By default 16 frames in all, or twice `k`."""
    total = max(16, 2 * frames.shape[1]) if num_frames is None else num_frames
    return subset(frames, range(frames.shape[1]), total, level)


def image_to_video(image: UInt8[Tensor, "b h w c"], num_frames: int = 16) -> Condition:
    """Clips that start from a given image."""
    return subset(image[:, None], [0], num_frames)


def backward(frames: UInt8[Tensor, "b k h w c"], num_frames: int | None = None) -> Condition:
    """What came before: the given frames end the clip."""
    k = frames.shape[1]
    total = max(16, 2 * k) if num_frames is None else num_frames
    return subset(frames, range(total - k, total), total)


def interpolate(
    first: UInt8[Tensor, "b k1 h w c"], last: UInt8[Tensor, "b k2 h w c"], num_frames: int = 16
) -> Condition:
    """Fill between given first and last frames."""
    k1, k2 = first.shape[1], last.shape[1]
    places = [*range(k1), *range(num_frames - k2, num_frames)]
    return subset(torch.cat([first, last], dim=1), places, num_frames)


def upsample_time(frames: UInt8[Tensor, "b k h w c"], factor: int = 2) -> Condition:
    """`factor` times as many frames: the given ones stand at every `factor`-th place.

    The frames of the result stand `factor` times closer in time: set `dt` of the condition so.

    Raises:
        RequestError: a factor below 2, or fewer than two frames.
    """
    k = frames.shape[1]
    if factor < 2 or k < 2:
        raise RequestError(
            f"{k} frame(s) cannot become {factor} times as many by filling in between.",
            "Give two frames or more, and a factor of 2 or more.",
        )
    return subset(frames, range(0, k * factor, factor), (k - 1) * factor + 1)


def inpaint(
    clips: UInt8[Tensor, "b t h w c"], hole: Bool[Tensor, "b #t h w"], feather: int = 0
) -> Condition:
    """Fill the pixels marked by `hole`, keep the others.

    Args:
        feather: width in pixels of the border around the hole where the clip is not kept bit for
            bit: it starts from noise that falls off with the distance, so that no edge is seen.

    Raises:
        RequestError: a clip has no hole, or the feather is negative.
    """
    hole = hole.expand(clips.shape[:4])
    if feather < 0:
        raise RequestError(
            f"The feather is {feather} pixels; it must be 0 or more.", "Use 0 for a hard edge."
        )
    reach, rings = hole, torch.zeros(hole.shape)
    for ring in range(feather):
        wider = torch.nn.functional.max_pool2d(reach.float(), 3, 1, 1) > 0
        share = (ring + 1) / (feather + 1)
        level = math.exp((1 - share) * math.log(FEATHER_TOP) + share * math.log(HELD))
        rings[wider & ~reach] = level
        reach = wider
    whole = hold(clips, ~hole)
    soft = (rings > 0)[:, None]
    return Condition(
        floor=torch.where(soft, 0.0, whole.floor),
        start=torch.where(soft, rings[:, None], whole.start),
        known=clips,
    )


def outpaint(clips: UInt8[Tensor, "b t h w c"], size: int, feather: int = 0) -> Condition:
    """Set clips into the middle of larger frames of `size` pixels, and fill what is around them.

    Raises:
        RequestError: the clips are not smaller than that.
    """
    b, t, h, w, c = clips.shape
    if max(h, w) >= size:
        raise RequestError(
            f"Clips of {w}x{h} pixels leave nothing to fill in frames of {size}x{size}.",
            "Give smaller clips.",
        )
    top, left = (size - h) // 2, (size - w) // 2
    known = torch.zeros(b, t, size, size, c, dtype=torch.uint8)
    known[:, :, top : top + h, left : left + w] = clips
    hole = torch.ones(b, 1, size, size, dtype=torch.bool)
    hole[:, :, top : top + h, left : left + w] = False
    return inpaint(known, hole, feather)


def edit(clips: UInt8[Tensor, "b t h w c"], level: float) -> Condition:
    """Start from noisy versions of given clips instead of from pure noise.

    Args:
        level: noise level to start from, above 0; small keeps the clip, large forgets it.

    Raises:
        RequestError: the level is not a positive number.
    """
    if not 0 < level < math.inf:
        raise RequestError(
            f"An edit cannot start from noise of level {level:g}.",
            "Give a level above 0; 0.1 changes details, sigma_max forgets the clip.",
        )
    b, t = clips.shape[:2]
    start = torch.full((b, 1, t, 1, 1), float(level))
    return Condition(floor=torch.zeros_like(start), start=start, known=clips)
