"""What one file is, whatever is asked of it: facts that hold for every clip length and size.

The facts depend on the file's content alone, so they are kept (`data.scanning`) and found again
when the folder is moved, renamed or asked for other clips. What follows from them for one
configuration is the verdict (`data.verdict`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidiff.data.probe import FOREIGN_ERRORS, VideoInfo, probe
from vidiff.data.proof import choose_reader
from vidiff.data.survey import Traits, survey
from vidiff.data.video import ProvenReader, Reader
from vidiff.data.walk import Found
from vidiff.errors import DataError

PROOF_SIZE = 96
"""Shorter side, in pixels, at which the readers are compared."""

NO_TRAITS = Traits(np.zeros(0), np.zeros((0, 32, 32), np.uint8))


@dataclass(frozen=True)
class Facts:
    """What examining a file showed; seconds are on the file's own clock, sizes upright."""

    reason: str = ""
    """Why no clip can be cut from it, whatever is asked; empty where one may be."""
    remedy: str = ""
    container: str = ""
    codec: str = ""
    frames: int = 0
    promised: int = 0
    """Frames that the header claims; 0 where it claims nothing."""
    duration: float = 0.0
    fps: float = 0.0
    vfr: bool = False
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixel_aspect: float = 1.0
    colour: str = ""
    """Colour tags: matrix, transfer and range; "untagged" where there are none."""
    key_frames: int = 0
    span: tuple[float, float] = (0.0, 0.0)
    """Time stamps of the first and the last frame."""
    cuts: tuple[float, ...] = ()
    """Time stamps of the frames that begin a new shot."""
    motion: float = 0.0
    """Mean change from frame to frame inside shots, grey levels on a 32-pixel thumbnail."""
    still: float = 0.0
    """Share of frame pairs in which nothing moves."""
    brightness: float = 0.0
    """Mean grey level, 0 to 255."""
    reader: ProvenReader = "pyav"
    """The reader that may be trusted with it."""
    traits: Traits = field(default=NO_TRAITS, compare=False, repr=False)
    """Thumbnails by which near duplicates are known."""


def examine(root: str, wish: Reader, found: Found) -> Facts:
    """Everything about one file in the folder `root`, the reader among it that `wish` leads to; for
    a process that may die of it."""
    path = Path(root) / found.name
    facts = Facts()
    try:
        info = probe(path)
        facts = _from_header(info)
        _refuse_broken(info)
        seen = survey(path, info)
        facts = replace(
            facts,
            cuts=seen.cuts,
            motion=seen.motion,
            still=seen.still,
            brightness=seen.brightness,
            traits=seen.traits,
        )
        scale = min(PROOF_SIZE / min(info.height, info.width), 1.0)
        size = (max(round(info.height * scale), 1), max(round(info.width * scale), 1))
        return replace(facts, reader=choose_reader(path, info, size, wish))
    except (DataError, *FOREIGN_ERRORS) as error:
        cause = getattr(error, "cause", f"{type(error).__name__}: {error}")
        remedy = getattr(error, "remedy", "Replace or remove the file.")
        return replace(facts, reason=_about_it(cause, path), remedy=remedy)


def _from_header(info: VideoInfo) -> Facts:
    shared = {f.name for f in fields(Facts)} & {f.name for f in fields(VideoInfo)}
    same: dict[str, Any] = {name: getattr(info, name) for name in shared}
    span = (float(info.pts_seconds[0]), float(info.pts_seconds[-1]))
    return Facts(**same, frames=info.num_frames, promised=info.promised_frames, span=span)


def _refuse_broken(info: VideoInfo) -> None:
    if info.promised_frames and info.num_frames + info.hidden_frames < 0.9 * info.promised_frames:
        raise DataError(
            f"It is cut off: {info.num_frames} of {info.promised_frames} frames are there.",
            "Download it again, or re-encode the part that is there.",
        )


def _about_it(cause: str, path: Path) -> str:
    """The cause without the path, which the table shows beside it."""
    if cause.startswith(f"{path}: "):
        return cause.removeprefix(f"{path}: ")
    return cause.replace(f"{path} ", "It ", 1)
