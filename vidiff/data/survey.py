"""One look at every frame of a film, small: where it is cut, how it moves, what it looks like.

Each frame is decoded once, in order, and shrunk to a thumbnail of 32 x 32 pixels. From these come

    change    d_k = mean |thumb_k - thumb_(k-1)|                 grey levels 0..255            (1)
    motion    the mean of d_k inside shots
    cuts      the frames k at which d_k stands out              (`find_cuts`)
    traits    the thumbnails that differ from the last kept one  (`keep_traits`), for duplicates

The look also proves that every frame decodes: a film with a hole in it is known before training.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import Float, UInt8

from vidiff.data.pictures import is_film, read_film
from vidiff.data.probe import FOREIGN_ERRORS, MAX_FRAMES, VideoInfo, open_video
from vidiff.errors import DataError

SIDE = 32
MAX_TRAITS = 96
TRAIT_CHANGE = 4.0
"""Grey levels by which a kept thumbnail differs from the one kept before."""
CUT_CHANGE = 10.0
"""Grey levels below which no change is a cut."""
CUT_RATIO = 2.0
"""Times by which a cut stands above every change within two frames of it."""
CUT_SHARE = 0.6
"""Share of the picture that a cut changes at least."""
SEEN = 6
"""Grey levels from which a change is seen."""
CUT_LIKENESS = 0.7
"""Correlation, after the best shift, from which two frames show one scene."""
STILL_CHANGE = 0.25
"""Grey levels below which nothing moves."""

Thumbs = UInt8[np.ndarray, "t 32 32 3"]


@dataclass(frozen=True)
class Traits:
    """What is kept of a film to know it again: grey thumbnails, and when each came on screen."""

    seconds: Float[np.ndarray, "n"]
    thumbs: UInt8[np.ndarray, "n 32 32"]
    end: float = 0.0
    """Time stamp of the film's last frame."""


@dataclass(frozen=True)
class Survey:
    """What the look showed."""

    cuts: tuple[float, ...]
    """Time stamps of the frames that begin a new shot, seconds."""
    motion: float
    """Mean change from frame to frame inside shots, in grey levels, equation (1)."""
    still: float
    """Share of frame pairs in which nothing moves."""
    brightness: float
    """Mean grey level."""
    traits: Traits


def survey(path: str | os.PathLike[str], info: VideoInfo) -> Survey:
    """Look at every frame of a probed file.

    Raises:
        DataError: frames are damaged or missing; says how many, and when the first one comes.
    """
    return summarise(_thumbnails(path, info), info.pts_seconds)


def summarise(thumbs: Thumbs, seconds: Float[np.ndarray, "t"]) -> Survey:
    """What thumbnails, one for each frame, tell."""
    change = changes(thumbs)
    cuts = find_cuts(thumbs, change)
    inside = np.delete(change, [0, *cuts])
    return Survey(
        cuts=tuple(float(seconds[k]) for k in cuts),
        motion=float(inside.mean()) if len(inside) else 0.0,
        still=float((inside < STILL_CHANGE).mean()) if len(inside) else 1.0,
        brightness=float(thumbs.mean()),
        traits=keep_traits(thumbs, seconds),
    )


def changes(thumbs: Thumbs) -> Float[np.ndarray, "t"]:
    """Equation (1); 0 for the first frame."""
    steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(thumbs)]
    return np.array([0.0, *steps])


def find_cuts(thumbs: Thumbs, change: Float[np.ndarray, "t"]) -> list[int]:
    """Frames that begin a new shot.

    A cut is a change that stands alone (a flash or a shake has a large change beside it), of most
    of the picture (a thing that appears changes less), between frames that do not look like one
    another shifted (a fast pan does). Fades are not cuts.
    """
    found = []
    for k in np.flatnonzero(change >= CUT_CHANGE):
        beside = np.concatenate([change[max(k - 2, 1) : k], change[k + 1 : k + 3]])
        alone = change[k] >= CUT_RATIO * (beside.max(initial=0.0) + 1.0)
        if alone and _another_scene(thumbs[k - 1], thumbs[k]):
            found.append(int(k))
    return found


def keep_traits(thumbs: Thumbs, seconds: Float[np.ndarray, "t"]) -> Traits:
    """The thumbnails at which the picture has changed since the last kept one, 96 at most."""
    grey = np.stack([cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY) for thumb in thumbs])
    limit = TRAIT_CHANGE
    while True:
        kept = [0]
        for k in range(1, len(grey)):
            if np.abs(grey[k].astype(np.int16) - grey[kept[-1]]).mean() >= limit:
                kept.append(k)
        if len(kept) <= MAX_TRAITS:
            return Traits(seconds[kept], grey[kept], float(seconds[-1]))
        limit *= 1.5


def _another_scene(before: UInt8[np.ndarray, "s s c"], after: UInt8[np.ndarray, "s s c"]) -> bool:
    return _share(before, after) >= CUT_SHARE and _likeness(before, after) < CUT_LIKENESS


def _share(before: UInt8[np.ndarray, "s s c"], after: UInt8[np.ndarray, "s s c"]) -> float:
    """Share of the picture that changed visibly."""
    return float((np.abs(after.astype(np.int16) - before).max(axis=2) >= SEEN).mean())


def _likeness(before: UInt8[np.ndarray, "s s c"], after: UInt8[np.ndarray, "s s c"]) -> float:
    """Correlation of the middle of one picture with the best place in the other."""
    edge = SIDE // 6
    middle = before[edge:-edge, edge:-edge]
    if middle.std() < 1:
        return 0.0
    return float(cv2.matchTemplate(after, middle, cv2.TM_CCOEFF_NORMED).max())


def _thumbnails(path: str | os.PathLike[str], info: VideoInfo) -> Thumbs:
    """One thumbnail for every shown frame, in order of time."""
    if is_film(path):
        return read_film(path, range(info.num_frames), (SIDE, SIDE))
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1
        base = float(stream.time_base)
        found: dict[int, UInt8[np.ndarray, "s s c"]] = {}
        for frame in _frames(container, stream):
            if frame.pts is not None and not frame.is_corrupt and len(found) <= MAX_FRAMES:
                found[frame.pts] = _thumbnail(frame)
    wanted = np.round(info.pts_seconds / base).astype(np.int64).tolist()
    missing = [pts for pts in wanted if pts not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of its {len(wanted)} frames are damaged or missing, the first at "
            f"{missing[0] * base:.2f} s.",
            "Replace it, or re-encode what is good of it (ffmpeg -i in -c:v libx264 out.mp4).",
        )
    return np.stack([found[pts] for pts in wanted])


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that decodes; a packet that does not is passed over."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except FOREIGN_ERRORS:
            continue


def _thumbnail(frame: Any) -> UInt8[np.ndarray, "s s c"]:
    small = frame.reformat(
        width=SIDE, height=SIDE, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
    )
    return np.rot90(small.to_ndarray(), frame.rotation // 90 % 4)
