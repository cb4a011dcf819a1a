"""The records that walk through the house, the axis legend, and one seed per purpose.

Axes    b batch   c channels   t frames   h w pixels   d features   l tokens   n schedule steps
Words   a *video* is a file, a *clip* is a window of frames, *frames* are pixels.
Range   uint8 0..255 on disk and between rooms (`b t h w c`); floats only inside the pipeline
        (`b c t h w`), where each channel is calibrated to zero mean and sd `sigma_data`.
Levels  sigma, the standard deviation of the added noise, in the pipeline's units.

Randomness is a pure function of (seed, position, purpose): no result depends on the batch, the
number of workers or processes, or on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vidiff.errors import RequestError


def derive_seed(seed: int, position: int, purpose: str) -> int:
    """One 63-bit seed for one purpose at one position: a hash, so that no two streams overlap."""
    key = f"{seed}/{position}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def make_generator(seed: int, position: int, purpose: str) -> torch.Generator:
    """A CPU generator for `purpose` ("window", "noise", "level", ...) at one global position."""
    return torch.Generator().manual_seed(derive_seed(seed, position, purpose))


def draw_normal(
    seed: int, positions: list[int], purpose: str, shape: tuple[int, ...]
) -> Float[Tensor, "b ..."]:
    """Standard normal numbers, row i a function of (seed, positions[i], purpose) alone."""
    rows = [torch.randn(shape, generator=make_generator(seed, p, purpose)) for p in positions]
    return torch.stack(rows)


def draw_uniform(
    seed: int, positions: list[int], purpose: str, shape: tuple[int, ...] = ()
) -> Float[Tensor, "b ..."]:
    """Uniform numbers in [0, 1), row i a function of (seed, positions[i], purpose) alone."""
    rows = [torch.rand(shape, generator=make_generator(seed, p, purpose)) for p in positions]
    return torch.stack(rows)


class _Shown:
    """`repr` shows shapes, not numbers."""

    def __repr__(self) -> str:
        parts = []
        for field in fields(self):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            if isinstance(value, Tensor):
                kind = str(value.dtype).removeprefix("torch.")
                value = f"{kind}{list(value.shape)}"
            parts.append(f"{field.name}={value}")
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Clip(_Shown):
    """A window of frames from one video, upright, at the size of training."""

    frames: UInt8[Tensor, "t h w c"]
    dt: float
    """Seconds between frames, as really read."""
    start: float
    """Time stamp of the first frame in its video, in seconds."""
    source: str
    """Path of the video below the data root."""
    label: int | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        _check_frames("Clip.frames", self.frames, 4)
        if not self.dt > 0:
            raise RequestError(f"Clip.dt is {self.dt}; it must be positive seconds.")


@dataclass(frozen=True, repr=False)
class Batch(_Shown):
    """Clips side by side, with the global position each of them belongs to."""

    frames: UInt8[Tensor, "b t h w c"]
    dt: Float[Tensor, "b"]
    positions: tuple[int, ...]
    sources: tuple[str, ...]
    label: Int[Tensor, "b"] | None = None
    caption: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        _check_frames("Batch.frames", self.frames, 5)
        b = len(self.frames)
        for name in ("dt", "positions", "sources", "label", "caption"):
            value = getattr(self, name)
            if value is not None and len(value) != b:
                raise RequestError(f"Batch.{name} has {len(value)} rows; frames have {b}.")

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, repr=False)
class Condition(_Shown):
    """What is known of a clip, at which noise level, and where to start: every task in one record.

    A schedule with levels g_0 > g_1 > ... > 0 becomes, frame by frame and pixel by pixel,
    `sigma_i = clamp(g_i, floor, start)`. So `floor = start = s_c` holds a known frame still,
    `floor = 0, start = inf` generates, a finite `start` edits what is there, and in training
    `floor = start = sigma` is simply the noise-level field of the step.
    """

    floor: Float[Tensor, "b 1 t #h #w"]
    start: Float[Tensor, "b 1 t #h #w"]
    """Both broadcastable: h and w are 1 unless the level differs between pixels."""
    known: UInt8[Tensor, "b t h w c"] | None = None
    """Frames to start from; ignored where `start` is infinite."""
    weight: Float[Tensor, "b 1 t #h #w"] | None = None
    """Loss weight in training (0 on frames that are given)."""
    dt: Float[Tensor, "b"] | None = None
    label: Int[Tensor, "b"] | None = None
    """Class of each clip; -1 for none."""
    text: Float[Tensor, "b d"] | None = None
    """Embedding of a text, of unit RMS; zeros for none."""
    words: Int[Tensor, "b l"] | None = None
    """Hashed words of a caption; zeros for none."""
    hint: UInt8[Tensor, "b t h2 w2 c"] | None = None
    """The clip in low resolution, of any size."""
    hint_level: Float[Tensor, "b"] | None = None
    """Noise level given to the hint; by default the model's own."""
    key: Int[Tensor, "b"] | None = None
    """Seed of each clip, for the noise that belongs to the condition (the hint's)."""
    lag: Float[Tensor, "t"] | None = None
    """Schedule steps by which each frame falls behind (rolling generation)."""

    def __post_init__(self) -> None:
        if self.floor.shape != self.start.shape:
            raise RequestError(
                f"Condition.floor is {list(self.floor.shape)} and start {list(self.start.shape)}; "
                "they must have one shape, b 1 t h w."
            )
        if bool((self.floor > self.start).any()):
            raise RequestError("Condition.floor exceeds Condition.start somewhere.")
        if self.known is None and bool(torch.isfinite(self.start).any()):
            raise RequestError("Condition.start is finite somewhere, but `known` is missing.")
        if self.known is not None:
            _check_frames("Condition.known", self.known, 5)

    @property
    def held(self) -> Bool[Tensor, "b 1 t h w"]:
        """True where the content is given and stays as it is."""
        return self.floor >= self.start

    def __len__(self) -> int:
        return len(self.floor)


def _check_frames(name: str, frames: Tensor, ndim: int) -> None:
    axes = "t h w c" if ndim == 4 else "b t h w c"
    if frames.dtype != torch.uint8 or frames.ndim != ndim:
        raise RequestError(
            f"{name} is {frames.dtype} with shape {list(frames.shape)}; it must be uint8 {axes}."
        )
