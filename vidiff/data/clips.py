"""Which window of which file belongs to position n, and the clip it becomes.

Everything is a pure function of (index, seed, position, attempt): no loader state, so neither
resume nor the number of processes changes what is seen. Positions are counted over all training;
with W windows, position n is slot n mod W of epoch n div W, and each epoch is a shuffle of its own
in which every window comes once; weighted sampling draws each position by chance. A window that
cannot be read is replaced by another one, drawn from (seed, position, attempt) alone.

Frames are asked for in the middle of the time they are shown, half a frame after their stamp: so
stamps rounded to milliseconds still name the right frame.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from vidiff.data.index import Index
from vidiff.data.probe import FOREIGN_ERRORS, MAX_PIXELS, probe
from vidiff.data.verdict import VideoEntry, cover_size, place_window
from vidiff.data.video import read_frames
from vidiff.errors import DataError, RequestError
from vidiff.records import Batch, Clip, derive_seed, make_generator

Fetch = Callable[
    [Index, VideoEntry, Sequence[float], tuple[int, int]], UInt8[np.ndarray, "t h w c"]
]
"""Frames of an entry at the times given, at the (h, w) given."""


@dataclass(frozen=True)
class Window:
    """One clip to be cut: which file, when, and which square of the picture."""

    entry: VideoEntry
    start: float
    """Time stamp at which the window begins, seconds."""
    times: tuple[float, ...]
    """When each frame is asked for, seconds."""
    dt: float
    """Seconds between frames."""
    cover: tuple[int, int]
    """(h, w) to which the whole picture is scaled."""
    crop: tuple[int, int]
    """(top, left) of the square inside it."""
    flip: bool = False


def draw_window(index: Index, seed: int, position: int, attempt: int = 0) -> Window:
    """The window that belongs to a global position, the same for every run and process.

    Args:
        attempt: 0, or how many windows for this position were unreadable so far.

    Raises:
        DataError: the index has no window.
    """
    total = _require_windows(index)
    generator = make_generator(seed, position, f"window/{attempt}")
    if index.config.sampling != "window" or index.config.weights:
        number = _draw_number(index, generator)
    elif attempt:
        number = int(torch.randint(total, (), generator=generator))
    else:
        epoch, slot = divmod(position, total)
        number = int(_order(seed, epoch, total)[slot])
    aside, up, left, pace = torch.rand(4, generator=generator).tolist()
    anywhere = index.config.crop == "random"
    anchor = (up, left) if anywhere else (0.5, 0.5)
    return _window(index, number, anchor, index.config.flip and aside < 0.5, pace)


def fixed_windows(index: Index, count: int, seed: int = 0) -> list[Window]:
    """At most `count` windows spread evenly over the index: centre crop, never mirrored.

    Fewer are returned where the index has fewer. The seed shifts the whole pattern.

    Raises:
        DataError: the index has no window.
    """
    total = _require_windows(index)
    if count < 1:
        raise RequestError(f"count is {count}; at least one window must be asked for.")
    count = min(count, total)
    phase = derive_seed(seed, 0, "fixed") / 2**63
    numbers = [int((k + phase) * total / count) for k in range(count)]
    return [_window(index, number, (0.5, 0.5), flip=False) for number in numbers]


def decode(
    index: Index, entry: VideoEntry, times: Sequence[float], size: tuple[int, int]
) -> UInt8[np.ndarray, "t h w c"]:
    """Frames straight from the file, by the reader that was proven on it."""
    return read_frames(Path(index.config.root) / entry.path, times, size, entry.reader)


def read_clip(index: Index, window: Window, fetch: Fetch = decode) -> Clip:
    """Cut the clip: one scaling, one crop and one mirroring for all its frames.

    Raises:
        DataError: a frame cannot be read.
    """
    frames = fetch(index, window.entry, window.times, window.cover)
    size = index.config.size
    (top, left), entry = window.crop, window.entry
    frames = frames[:, top : top + size, left : left + size]
    if window.flip:
        frames = frames[:, :, ::-1]
    label = None if entry.label is None else index.labels.index(entry.label)
    return Clip(
        frames=torch.from_numpy(frames.copy()),
        dt=window.dt,
        start=window.start,
        source=entry.path,
        label=label,
        caption=entry.caption,
    )


def read_start(
    path: str | os.PathLike[str], count: int, spacing: float, size: int
) -> UInt8[Tensor, "t h w c"]:
    """The first `count` frames of a video, `spacing` seconds apart: centre square, `size` pixels.

    Raises:
        DataError: unreadable, or shorter than that.
    """
    info = probe(path)
    first = float(info.pts_seconds[0])
    half = 0.5 / info.fps if info.fps else 0.0
    needed = (count - 1) * spacing + half
    if needed > info.duration:
        raise DataError(
            f"{path} lasts {info.duration:.2f} s; {count} frames {spacing:.3g} s apart take "
            f"{needed:.2f} s.",
            "Give a longer video, or ask for fewer frames.",
        )
    cover = cover_size(info, size)
    times = [first + half + k * spacing for k in range(count)]
    frames = read_frames(path, times, cover)
    return torch.from_numpy(_centre(frames, size).copy())


def read_whole(
    path: str | os.PathLike[str], spacing: float, count: int | None = None
) -> UInt8[Tensor, "t h w c"]:
    """A video at its own size, cut to a centre square, frames `spacing` seconds apart.

    Raises:
        DataError: unreadable, or shorter than `count` frames.
    """
    info = probe(path)
    half = 0.5 / info.fps if info.fps else 0.0
    there = math.floor((info.duration - half) / spacing + 1e-6) + 1
    return read_start(path, count or there, spacing, min(info.width, info.height))


def read_picture(path: str | os.PathLike[str], size: int) -> UInt8[Tensor, "h w c"]:
    """A picture file as an RGB square: turned upright, scaled to cover it, cut at the centre.

    Raises:
        DataError: not a picture that Pillow can read, or over 36 million pixels.
    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {file.width}x{file.height} pixels; at most "
                    f"{MAX_PIXELS / 1e6:.0f} million are read.",
                    "Scale it down.",
                )
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except (*FOREIGN_ERRORS, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is not a readable picture: {error}.", "Give a PNG or JPEG file."
        ) from error
    square = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square))


def collate(clips: Sequence[Clip], positions: Sequence[int]) -> Batch:
    """Clips side by side. Labels (-1 for none) and captions are kept where any clip has one."""
    labels = [-1 if clip.label is None else clip.label for clip in clips]
    captions = tuple(clip.caption for clip in clips)
    return Batch(
        frames=torch.stack([clip.frames for clip in clips]),
        dt=torch.tensor([clip.dt for clip in clips], dtype=torch.float32),
        positions=tuple(positions),
        sources=tuple(clip.source for clip in clips),
        label=torch.tensor(labels) if max(labels) >= 0 else None,
        caption=captions if any(captions) else None,
    )


def _centre(frames: UInt8[np.ndarray, "t h w c"], size: int) -> UInt8[np.ndarray, "t s s c"]:
    top, left = ((side - size) // 2 for side in frames.shape[1:3])
    return frames[:, top : top + size, left : left + size]


def _require_windows(index: Index) -> int:
    if not index.num_windows:
        raise DataError(
            f"{index.config.root} has no windows on side {index.side!r}.",
            "Add videos, or lower data.num_frames; for the test side raise data.held_out.",
        )
    return index.num_windows


def _draw_number(index: Index, generator: torch.Generator) -> int:
    """A window by chance: first its file, by the odds of the index, then its place there."""
    which, where = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    # A file with no odds has the running total of the one before, and is passed over.
    place = bisect_right(index.odds, min(which, index.odds[-1] * (1 - 1e-12)))
    count = index.usable[place].windows
    return index.ends[place] - count + int(where * count)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, total: int) -> Int[Tensor, "n"]:
    """The shuffle of one epoch."""
    return torch.randperm(total, generator=make_generator(seed, epoch, "order"))


def _window(
    index: Index, number: int, anchor: tuple[float, float], flip: bool, pace: float = 0.0
) -> Window:
    """Window `number` of the index, its square at `anchor` (0 top or left, 1 bottom or right).

    `pace`, in [0, 1), chooses among the frame spacings that fit; 0 is the first.
    """
    config = index.config
    place = bisect_right(index.ends, number)
    entry = index.usable[place]
    step = number - index.ends[place] + entry.windows
    start, spacings = place_window(entry.span, entry.fps, config, entry.cuts, step)
    dt = spacings[int(pace * len(spacings))]
    middle = start + 0.5 / entry.fps
    cover = cover_size(entry, config.size)
    top, left = (round(a * (side - config.size)) for a, side in zip(anchor, cover, strict=True))
    return Window(
        entry=entry,
        start=start,
        times=tuple(middle + k * dt for k in range(config.num_frames)),
        dt=dt,
        cover=cover,
        crop=(top, left),
        flip=flip,
    )
