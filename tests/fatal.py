"""Files that really end the process which decodes them.

No video is known to abort every decoder of every version, so the death is planted: a note beside
the video says how, and `decode`, standing where `vidiff.data.clips.decode` stands, obeys it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidiff.data import clips
from vidiff.data.index import Index
from vidiff.data.verdict import VideoEntry
from vidiff.errors import DataError


def plant(index: Index, name: str, kind: str) -> None:
    """From now on the file does this: abort, hang, or eat."""
    (Path(index.config.root) / f".{name}.deadly").write_text(kind)


def decode(
    index: Index, entry: VideoEntry, times: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
    """What `clips.decode` gives, or the death planted."""
    note = Path(index.config.root) / f".{entry.path}.deadly"
    kind = note.read_text() if note.exists() else ""
    if kind == "abort":
        os.abort()
    while kind == "hang":
        pass
    if kind == "eat":
        try:
            np.ones(2**30, np.float64)
        except MemoryError as error:
            raise DataError(f"Not enough memory: {error}", "Remove it.") from error
    return clips.decode(index, entry, times, size)
