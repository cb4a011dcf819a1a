"""What one file is to vidiff: its windows, or the reason why it has none and the way out.

A *window* is `num_frames` frames spaced by dt. A file whose first and last frame are shown at
times a and b, with mean frame time d, has

    windows = floor((b - a + d / 2 - (num_frames - 1) dt) / d) + 1,   starts a, a + d, a + 2d  (1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vidiff.data.probe import FOREIGN_ERRORS, VideoInfo, probe
from vidiff.data.proof import choose_reader
from vidiff.data.video import ProvenReader, Reader
from vidiff.data.walk import Found
from vidiff.errors import DataError
from vidiff.runs.config import Config
from vidiff.runs.files import hash_file

MAX_ASPECT = 8.0
"""Longest side over shortest: beyond it a square crop shows next to nothing of the picture."""
MAX_CAPTION_BYTES = 65_536

Span = tuple[float, float]


class DataConfig(Config):
    """Which clips are cut from a folder of videos, and how."""

    root: str
    """Folder of videos; its sub-folders are the labels."""
    num_frames: int = Field(16, ge=1)
    """Frames in a clip."""
    size: int = Field(64, ge=8)
    """Height and width of a clip, in pixels: the picture covers the square and is cropped."""
    fps: float | None = Field(None, gt=0)
    """Frames a second to take from each file; empty: the file's own rate."""
    stride: int = Field(1, ge=1)
    """Take every n-th of those frames."""
    flip: bool = True
    """Mirror half of the training clips, left to right."""
    crop: Literal["center", "random"] = "center"
    """Which square of the picture training sees; evaluation always takes the centre."""
    reader: Reader = "auto"
    """decord and torchcodec get the files on which their frames were proven equal to PyAV's;
    auto: PyAV for H.264, HEVC and where decord is not proven, else decord."""
    workers: int = Field(0, ge=0)
    """Processes that decode beside the training process; 0 decodes inside it."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the source groups (of each film's time, with few films) kept for evaluation."""
    min_usable: float = Field(0.5, ge=0, le=1)
    """Least share of the videos met that must be usable."""
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
    reader: ProvenReader = "pyav"
    label: str | None = None
    caption: str | None = None
    sha256: str = ""
    group: str = ""
    """Files of one group never stand on both sides of the split."""
    split: Literal["train", "test", "both", ""] = ""
    span: Span = (0.0, 0.0)
    """Time stamps of the first and last frame that windows may show, in this view."""
    train: Span | None = None
    test: Span | None = None


def frame_spacing(fps: float, config: DataConfig) -> float:
    """Seconds dt between the frames of a clip cut from a file with mean rate `fps`."""
    return config.stride / (config.fps or fps)


def clip_seconds(fps: float, config: DataConfig) -> float:
    """Seconds that a clip takes from its first frame's start to its last frame's end."""
    return (config.num_frames - 1) * frame_spacing(fps, config) + 1 / fps


def count_windows(span: Span, fps: float, config: DataConfig) -> int:
    """Window starts between the time stamps `span`, equation (1); 0 where none fits."""
    if fps <= 0:
        return 0
    reach = (config.num_frames - 1) * frame_spacing(fps, config)
    return max(math.floor((span[1] - span[0] + 0.5 / fps - reach) * fps) + 1, 0)


def cover_size(video: VideoEntry | VideoInfo, size: int) -> tuple[int, int]:
    """(h, w) of the smallest picture with the video's shape that covers `size` x `size`."""
    height, width = float(video.height), video.width * video.pixel_aspect
    scale = size / min(height, width)
    return max(round(height * scale), size), max(round(width * scale), size)


def judge(config: DataConfig, found: Found) -> VideoEntry:
    entry = VideoEntry(path=found.name, label=found.label)
    if found.refused:
        return replace(entry, reason=found.refused, remedy="Remove or rename it.")
    path = Path(config.root) / found.name
    try:
        info = probe(path)
        entry = replace(entry, **_facts(info))
        entry = replace(entry, caption=_read_caption(path), sha256=hash_file(path))
        _refuse_misfits(info, config)
        entry = replace(entry, group=entry.sha256)
        windows = count_windows(entry.span, entry.fps, config)
        reader = choose_reader(path, info, cover_size(entry, config.size), config.reader)
    except (DataError, *FOREIGN_ERRORS) as error:
        cause = getattr(error, "cause", f"{type(error).__name__}: {error}")
        remedy = getattr(error, "remedy", "Replace or remove the file.")
        return replace(entry, reason=_about_it(cause, path), remedy=remedy)
    return replace(entry, usable=True, windows=windows, reader=reader)


def _about_it(cause: str, path: Path) -> str:
    """The cause without the path, which the table shows beside it."""
    if cause.startswith(f"{path}: "):
        return cause.removeprefix(f"{path}: ")
    return cause.replace(f"{path} ", "It ", 1)


def _facts(info: VideoInfo) -> dict[str, Any]:
    names = ("container", "codec", "duration", "fps", "width", "height", "rotation")
    facts = {name: getattr(info, name) for name in (*names, "pixel_aspect", "vfr")}
    span = (float(info.pts_seconds[0]), float(info.pts_seconds[-1]))
    return {**facts, "frames": info.num_frames, "span": span}


def _refuse_misfits(info: VideoInfo, config: DataConfig) -> None:
    if info.promised_frames and info.num_frames + info.hidden_frames < 0.9 * info.promised_frames:
        raise DataError(
            f"It is cut off: {info.num_frames} of {info.promised_frames} frames are there.",
            "Download it again, or re-encode the part that is there.",
        )
    width = info.width * info.pixel_aspect
    if max(width / info.height, info.height / width) > MAX_ASPECT:
        raise DataError(
            f"Its picture is {width:.0f}x{info.height}, more than {MAX_ASPECT:.0f} times longer "
            "than wide.",
            "Crop it, or remove it.",
        )
    if config.fps and info.fps and config.fps > 1.02 * info.fps:
        raise DataError(
            f"It shows {info.fps:.3g} frames a second, fewer than the asked data.fps="
            f"{config.fps:g}: frames would repeat.",
            f"Set data.fps={info.fps:.3g} or lower, or remove the file.",
        )
    span = (float(info.pts_seconds[0]), float(info.pts_seconds[-1]))
    if not count_windows(span, info.fps, config):
        needed = clip_seconds(info.fps, config) if info.fps else math.inf
        raise DataError(
            f"It lasts {info.duration:.2f} s ({info.num_frames} frames); a clip of "
            f"{config.num_frames} frames takes {needed:.2f} s.",
            "Lower data.num_frames or data.stride, raise data.fps, or use a longer video.",
        )


def _read_caption(path: Path) -> str | None:
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file() or sidecar.is_symlink():
        return None
    text = sidecar.read_bytes()[: MAX_CAPTION_BYTES + 1]
    try:
        if len(text) > MAX_CAPTION_BYTES:
            raise ValueError(f"more than {MAX_CAPTION_BYTES} bytes")
        return text.decode().strip() or None
    except ValueError as error:
        raise DataError(
            f"Its caption {sidecar.name} cannot be read: {error}.", "Save it as UTF-8 text."
        ) from error
