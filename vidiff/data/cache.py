"""Frames decoded once, at the size of training, as raw bytes on the disk.

A cache is a folder: `index.jsonl`, one line for each video it holds, and for each of them
`frames/KEY.raw`, its frames as uint8 n h w c and nothing else, which is mapped into memory and
copied from. A key is a hash of what decides the bytes:

    key = SHA-256(content of the video, reader, height, width)                                 (1)

so a changed video, another size or another reader is simply not there and is decoded as ever. The
bytes are those that decoding gives, so a run may change to a cache, or from it, at any step. Each
file's own SHA-256 stands in the index and is checked when a process first opens the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vidiff.data.clips import Fetch
from vidiff.data.index import Index
from vidiff.data.verdict import VideoEntry, cover_size
from vidiff.data.video import shown_at
from vidiff.errors import DataError
from vidiff.runs.files import hash_file

FORMAT = 1
OPEN_FILES = 1024
"""Mapped files that a process keeps."""

_log = logging.getLogger(__name__)

Record = dict[str, Any]
"""`key`, `path`, `frames`, `height`, `width`, `stamps` (seconds) and `sha256` of one video."""

Opened = tuple[Float[np.ndarray, "n"], UInt8[np.ndarray, "n h w c"]]
"""Time stamps and mapped frames."""


def cache_key(entry: VideoEntry, size: tuple[int, int]) -> str:
    """Equation (1) for a video at (h, w)."""
    text = json.dumps([FORMAT, entry.sha256, entry.reader, *size])
    return hashlib.sha256(text.encode()).hexdigest()


def frames_path(folder: Path, key: str) -> Path:
    """Where the frames of a key lie."""
    return folder / "frames" / f"{key}.raw"


def read_records(folder: Path) -> dict[str, Record]:
    """Key to record, of a cache that may still be growing; a half-written last line is no record.

    Raises:
        DataError: the index is not one, or of another version.
    """
    path = folder / "index.jsonl"
    if not path.is_file():
        return {}
    records: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            records[record["key"]] = record
            known = record["format"] == FORMAT
        except (ValueError, LookupError, TypeError):
            # A killed writer leaves half a line; the video it was about is prepared again.
            continue
        if not known:
            raise DataError(
                f"{folder} was made by another version of vidiff.", "Prepare a new cache."
            )
    return records


class RawCache:
    """A `Fetch` that takes frames from a cache, and what is not there from `source`."""

    def __init__(self, folder: Path, source: Fetch) -> None:
        self.folder = folder
        self.source = source
        self.records = read_records(folder)
        self._bad: set[str] = set()
        self._opened: dict[str, Opened] = {}

    def __call__(
        self, index: Index, entry: VideoEntry, times: Sequence[float], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "t h w c"]:
        record = self.records.get(cache_key(entry, size))
        if record is None or record["key"] in self._bad:
            return self.source(index, entry, times, size)
        try:
            stamps, frames = self._open(record)
        except DataError as error:
            # The video itself is still there, and gives the same frames.
            _log.warning("%s", error)
            self._bad.add(record["key"])
            return self.source(index, entry, times, size)
        return np.asarray(frames[shown_at(stamps, times)])

    def __getstate__(self) -> dict[str, Any]:
        # Each process maps the files for itself.
        return {**self.__dict__, "_opened": {}}

    def _open(self, record: Record) -> Opened:
        key = record["key"]
        if key not in self._opened:
            if len(self._opened) >= OPEN_FILES:
                self._opened.pop(next(iter(self._opened)))
            self._opened[key] = _open(self.folder, record)
        return self._opened[key]

    def covers(self, index: Index) -> int:
        """How many of the usable videos are in it."""
        size = index.config.size
        return sum(cache_key(e, cover_size(e, size)) in self.records for e in index.usable)


def open_cache(index: Index, source: Fetch) -> RawCache:
    """The cache that `data.cache` names.

    Raises:
        DataError: it holds none of the videos at this size.
    """
    folder = Path(str(index.config.cache))
    cache = RawCache(folder, source)
    if index.usable and not cache.covers(index):
        raise DataError(
            f"data.cache={folder} holds none of the {len(index.usable)} videos at "
            f"data.size={index.config.size}.",
            f"Run: vidiff data prepare {index.config.root} --out {folder} size={index.config.size}",
        )
    return cache


def describe_cache(index: Index) -> str:
    """One line on where frames come from; empty without a cache."""
    if not index.config.cache:
        return ""
    held = RawCache(Path(index.config.cache), _nothing).covers(index)
    return f"{held} of {len(index.usable)} videos ready in {index.config.cache}"


def _nothing(*asked: Any) -> Any:
    raise AssertionError(asked)


def _open(folder: Path, record: Record) -> Opened:
    path = frames_path(folder, record["key"])
    shape = (record["frames"], record["height"], record["width"], 3)
    try:
        if hash_file(path) != record["sha256"]:
            raise DataError(
                f"{path}, the frames of {record['path']}, is damaged.",
                "Remove it and run `vidiff data prepare` again.",
            )
        frames = np.memmap(path, np.uint8, "r", shape=shape)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}, the frames of {record['path']}, cannot be read: {error}.",
            "Run `vidiff data prepare` again.",
        ) from error
    return np.array(record["stamps"], dtype=np.float64), frames
