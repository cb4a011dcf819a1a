"""What one file is to vidiff: its windows, or the reason why it has none and the way out.

A *window* is `num_frames` frames spaced by dt, inside one shot. A shot whose first and last frame
are shown at times a and b, in a file with mean frame time d, has

    windows = floor((b - a + d / 2 - e - (num_frames - 1) dt) / d) + 1                       (1)

of them, with starts a, a + d, a + 2d, ... Frames are asked for half a frame time after their stamp,
and e = min(2 ms, d / 4) keeps the last one off the next shot however stamps are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from vidiff.data.examination import Facts
from vidiff.data.probe import VideoInfo
from vidiff.data.video import ProvenReader, Reader
from vidiff.data.walk import Found
from vidiff.errors import DataError
from vidiff.runs.config import Config

MAX_ASPECT = 8.0
"""Longest side over shortest: beyond it a square crop shows next to nothing of the picture."""
TOO_FAST = 1.02
"""Times the file's own rate from which an asked rate would repeat frames."""

Span = tuple[float, float]
Count = Annotated[int, Field(ge=1, strict=True)]
Rate = Annotated[float, Field(gt=0, strict=True)]


class DataConfig(Config):
    """Which clips are cut from a folder of videos, and how."""

    root: str
    """Folder of videos; its sub-folders are the labels."""
    num_frames: int = Field(16, ge=1)
    """Frames in a clip."""
    size: int = Field(64, ge=8)
    """Height and width of a clip, in pixels: the picture covers the square and is cropped."""
    fps: Rate | tuple[Rate, ...] | None = None
    """Frames a second to take from each file; empty: the file's own rate. Of several, training
    draws one for each clip and tells the model; windows are counted and evaluated at the first."""
    stride: Count | tuple[Count, ...] = 1
    """Take every n-th of those frames; several as with `fps`."""
    flip: bool = True
    """Mirror half of the training clips, left to right."""
    crop: Literal["center", "random"] = "center"
    """Which square of the picture training sees; evaluation always takes the centre."""
    reader: Reader = "auto"
    """decord and torchcodec get the files on which their frames were proven equal to PyAV's;
    auto: PyAV for H.264, HEVC and where decord is not proven, else decord."""
    workers: int = Field(1, ge=0)
    """Processes that decode beside the training process, and may die of what they read; 0 decodes
    inside it."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the source groups (of each film's time, with few films) kept for evaluation."""
    min_usable: float = Field(0.5, ge=0, le=1)
    """Least share of the videos met that must be usable."""
    sampling: Literal["window", "file", "folder", "class"] = "window"
    """What training draws equally often. Windows come once an epoch each; the others by chance."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """How much oftener than 1 a class, folder or file is drawn, by name, such as {cats: 2}."""
    cuts: bool = True
    """Keep windows inside shots; false lets them cross hard cuts."""
    duplicates: bool = True
    """Look for near duplicates and keep them on one side of the split."""
    max_bad: float = Field(0.05, ge=0, le=1)
    """Share of clips that may turn out unreadable in training; a few are always borne."""
    cache: str | None = None
    """Folder that `vidiff data prepare` filled: frames are taken from there."""
    cache_mb: int = Field(512, ge=0)
    """Memory for decoded frames, in MiB: files are kept whole while they fit."""


@dataclass(frozen=True)
class VideoEntry:
    """The verdict on one file. Seconds are on the file's own clock, sizes upright."""

    path: str
    """Below the root, with forward slashes."""
    usable: bool = False
    windows: int = 0
    """Window starts inside `span`."""
    reason: str = ""
    remedy: str = ""
    container: str = ""
    codec: str = ""
    frames: int = 0
    duration: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixel_aspect: float = 1.0
    vfr: bool = False
    colour: str = ""
    key_frames: int = 0
    cuts: tuple[float, ...] = ()
    """Time stamps of the frames that begin a new shot; no window crosses one."""
    motion: float = 0.0
    """Mean change from frame to frame inside shots, grey levels on a 32-pixel thumbnail."""
    still: float = 0.0
    """Share of frame pairs in which nothing moves."""
    brightness: float = 0.0
    """Mean grey level, 0 to 255."""
    reader: ProvenReader = "pyav"
    label: str | None = None
    caption: str | None = None
    sha256: str = ""
    group: str = ""
    """Files of one group never stand on both sides of the split."""
    resembles: str = ""
    """The first file of its group, where that is another one."""
    split: Literal["train", "test", "both", ""] = ""
    span: Span = (0.0, 0.0)
    """Time stamps of the first and last frame that windows may show, in this view."""
    train: Span | None = None
    test: Span | None = None


def spacings(fps: float, config: DataConfig) -> tuple[float, ...]:
    """Seconds dt between frames that clips of a file with mean rate `fps` may have, the first one
    for evaluation; empty where every asked rate would repeat frames."""
    rates = config.fps if isinstance(config.fps, tuple) else (config.fps,)
    strides = config.stride if isinstance(config.stride, tuple) else (config.stride,)
    slow = [rate or fps for rate in rates if not rate or not fps or rate <= TOO_FAST * fps]
    return tuple(stride / rate for rate in slow for stride in strides if rate)


def frame_spacing(fps: float, config: DataConfig) -> float:
    """The first of `spacings`."""
    return spacings(fps, config)[0]


def clip_seconds(fps: float, config: DataConfig) -> float:
    """Seconds that a clip takes from its first frame's start to its last frame's end."""
    return (config.num_frames - 1) * frame_spacing(fps, config) + 1 / fps


def shots(span: Span, cuts: Sequence[float], fps: float) -> list[Span]:
    """Time stamps of the first and last frame of every shot inside `span`."""
    inside = [cut for cut in cuts if span[0] < cut <= span[1]]
    # Frames may come closer than on average before a cut: the cut decides, not the last frame.
    ends = [*(cut - 1 / fps for cut in inside), span[1]]
    return [(a, b) for a, b in zip([span[0], *inside], ends, strict=True) if b >= a]


def count_windows(span: Span, fps: float, config: DataConfig, cuts: Sequence[float] = ()) -> int:
    """Window starts between the time stamps `span`, equation (1); 0 where none fits."""
    if fps <= 0 or not spacings(fps, config):
        return 0
    reach = (config.num_frames - 1) * frame_spacing(fps, config)
    return sum(_starts(shot, fps, reach) for shot in shots(span, cuts, fps))


def place_window(
    span: Span, fps: float, config: DataConfig, cuts: Sequence[float], number: int
) -> tuple[float, tuple[float, ...]]:
    """Start of window `number`, seconds, and the spacings that fit into its shot from there."""
    reach = (config.num_frames - 1) * frame_spacing(fps, config)
    for shot in shots(span, cuts, fps):
        count = _starts(shot, fps, reach)
        if number < count:
            start = shot[0] + number / fps
            room = shot[1] + 0.5 / fps - _margin(fps) - start
            fitting = [dt for dt in spacings(fps, config) if (config.num_frames - 1) * dt <= room]
            # The first fits by construction, whatever rounding says.
            return start, tuple(fitting) or (frame_spacing(fps, config),)
        number -= count
    raise DataError(f"There is no window {number} more.", "Report this as a fault of vidiff.")


def _starts(shot: Span, fps: float, reach: float) -> int:
    room = shot[1] - shot[0] + 0.5 / fps - _margin(fps) - reach
    return max(math.floor(room * fps) + 1, 0)


def _margin(fps: float) -> float:
    return min(2e-3, 0.25 / fps)


def cover_size(video: VideoEntry | VideoInfo, size: int) -> tuple[int, int]:
    """(h, w) of the smallest picture with the video's shape that covers `size` x `size`."""
    height, width = float(video.height), video.width * video.pixel_aspect
    scale = size / min(height, width)
    return max(round(height * scale), size), max(round(width * scale), size)


def judge(
    config: DataConfig, found: Found, content: str, facts: Facts, caption: str | None
) -> VideoEntry:
    """The verdict that follows from the facts about a file, for one configuration."""
    entry = VideoEntry(path=found.name, label=found.label, caption=caption, sha256=content)
    entry = replace(entry, **_shown(facts))
    try:
        _refuse_misfits(facts, config)
    except DataError as error:
        return replace(entry, reason=error.cause, remedy=error.remedy)
    cuts = facts.cuts if config.cuts else ()
    windows = count_windows(facts.span, facts.fps, config, cuts)
    return replace(entry, usable=True, windows=windows, cuts=cuts, group=content)


def _shown(facts: Facts) -> dict[str, Any]:
    shared = {f.name for f in fields(VideoEntry)} & {f.name for f in fields(Facts)}
    return {name: getattr(facts, name) for name in shared}


def _refuse_misfits(facts: Facts, config: DataConfig) -> None:
    if facts.reason:
        raise DataError(facts.reason, facts.remedy)
    width = facts.width * facts.pixel_aspect
    if max(width / facts.height, facts.height / width) > MAX_ASPECT:
        raise DataError(
            f"Its picture is {width:.0f}x{facts.height}, more than {MAX_ASPECT:.0f} times longer "
            "than wide.",
            "Crop it, or remove it.",
        )
    if facts.fps and not spacings(facts.fps, config):
        raise DataError(
            f"It shows {facts.fps:.3g} frames a second, fewer than the asked data.fps="
            f"{_words(config.fps)}: frames would repeat.",
            f"Set data.fps={facts.fps:.3g} or lower, or remove the file.",
        )
    _refuse_short(facts, config)


def _refuse_short(facts: Facts, config: DataConfig) -> None:
    if count_windows(facts.span, facts.fps, config, facts.cuts if config.cuts else ()):
        return
    needed = clip_seconds(facts.fps, config) if facts.fps else math.inf
    if count_windows(facts.span, facts.fps, config):
        longest = max(b - a for a, b in shots(facts.span, facts.cuts, facts.fps)) + 1 / facts.fps
        raise DataError(
            f"It is cut into {len(facts.cuts) + 1} shots, the longest of {longest:.2f} s; a clip "
            f"of {config.num_frames} frames takes {needed:.2f} s.",
            "Lower data.num_frames or data.stride, raise data.fps, use longer shots, or set "
            "data.cuts=false to let clips cross cuts.",
        )
    raise DataError(
        f"It lasts {facts.duration:.2f} s ({facts.frames} frames); a clip of "
        f"{config.num_frames} frames takes {needed:.2f} s.",
        "Lower data.num_frames or data.stride, raise data.fps, or use a longer video.",
    )


def _words(value: object) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"
