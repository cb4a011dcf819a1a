"""Decoded files kept in memory: an epoch shows every window once, so single windows never hit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from vidiff.data.clips import Fetch, decode
from vidiff.data.index import Index
from vidiff.data.probe import probe
from vidiff.data.verdict import VideoEntry, cover_size
from vidiff.data.video import read_frames, shown_at
from vidiff.errors import DataError

MAX_FRAMES = 2000
"""Longer files are not kept: the clip that asks first would wait for all of it."""


class FrameCache:
    """Decoded files, whole and at the size of training, as many as fit into `cache_mb` MiB.

    Which files are kept is decided at once, in the order of the index. A call gives the same
    bytes as `source`, which reads the files that are not kept.
    """

    def __init__(self, index: Index, cache_mb: int, source: Fetch = decode) -> None:
        self.kept: set[str] = set()
        self.files: dict[str, tuple[Float[np.ndarray, "n"], UInt8[np.ndarray, "n h w c"]]] = {}
        self.source = source
        room = cache_mb * 2**20
        for entry in index.usable:
            height, width = cover_size(entry, index.config.size)
            need = entry.frames * height * width * 3
            if need <= room and entry.frames <= MAX_FRAMES:
                room -= need
                self.kept.add(entry.path)

    def __call__(
        self, index: Index, entry: VideoEntry, times: Sequence[float], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "t h w c"]:
        if entry.path not in self.kept:
            return self.source(index, entry, times, size)
        if entry.path not in self.files:
            try:
                self.files[entry.path] = _read_whole(index, entry, size)
            except DataError:
                # One damaged frame spoils the whole file, but not the windows beside it.
                self.kept.discard(entry.path)
                return self.source(index, entry, times, size)
        stamps, frames = self.files[entry.path]
        return frames[shown_at(stamps, times)]


def _read_whole(
    index: Index, entry: VideoEntry, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "n"], UInt8[np.ndarray, "n h w c"]]:
    path = Path(index.config.root) / entry.path
    stamps = probe(path).pts_seconds
    return stamps, read_frames(path, middles(stamps), size, entry.reader)


def middles(stamps: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """A time at which each frame is shown for sure: halfway to the next one."""
    return np.append((stamps[:-1] + stamps[1:]) / 2, stamps[-1])
