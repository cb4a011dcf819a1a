"""Filling a cache: every usable video decoded once, in processes that may die.

A video's frames are written under a temporary name, hashed as they are written, renamed, and only
then entered in the index; so a killed preparation is taken up where it was. A video that does not
decode from end to end is left out: its good windows are read from the file in training.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vidiff.data.cache import FORMAT, Record, cache_key, frames_path, read_records
from vidiff.data.index import Index
from vidiff.data.memory import middles
from vidiff.data.probe import probe
from vidiff.data.supervision import Death, supervise
from vidiff.data.verdict import VideoEntry, cover_size
from vidiff.data.video import read_frames
from vidiff.errors import DataError
from vidiff.runs.files import explain, hash_file, require_space, sweep, write_atomically

CHUNK_BYTES = 48 * 2**20
"""Frames decoded at once; scaling holds four times as much."""
MEGABYTES = 900
SECONDS = 60.0
SECONDS_A_FRAME = 0.1


@dataclass(frozen=True)
class Prepared:
    """What a preparation came to."""

    held: int
    """Videos in the cache."""
    added: int
    left_out: dict[str, str]
    """Path to reason, of the videos that are read from their files as before."""


def needed_bytes(index: Index, folder: Path) -> int:
    """Bytes that the videos which are not yet in the cache will take."""
    size = index.config.size
    return sum(e.frames * math.prod(cover_size(e, size)) * 3 for e in _missing(index, folder))


def prepare_cache(
    index: Index,
    folder: Path,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Bring every usable video of the index into the cache.

    Args:
        workers: processes; 0 takes one for each core.
        progress: called with (videos done, videos to do).

    Raises:
        VidiffError: not enough space, or the folder cannot be written.
        DataError: the folder is a cache of another version.
    """
    missing = _missing(index, folder)
    require_space(folder, int(1.02 * needed_bytes(index, folder)))
    left_out: dict[str, str] = {}
    try:
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        sweep(folder / "frames")
        # Begin on a line of our own: a killed writer may have left half of one.
        with open(folder / "index.jsonl", "a", encoding="utf-8") as lines:
            lines.write("\n" * bool(lines.tell()))
            decode = functools.partial(_decode, index.config.root, index.config.size, str(folder))
            longest = max((e.frames for e in missing), default=0)
            seconds = SECONDS + SECONDS_A_FRAME * longest
            count = workers or os.cpu_count() or 1
            answers = supervise(decode, missing, count, seconds, MEGABYTES)
            for done, (entry, answer) in enumerate(answers, 1):
                if isinstance(answer, Death):
                    left_out[entry.path] = answer.reason
                elif isinstance(answer, str):
                    left_out[entry.path] = answer
                else:
                    lines.write(json.dumps(answer) + "\n")
                    lines.flush()
                if progress is not None:
                    progress(done, len(missing))
            os.fsync(lines.fileno())
    except OSError as error:
        raise explain(error, folder) from error
    held = len(index.usable) - len(_missing(index, folder))
    return Prepared(held, len(missing) - len(left_out), left_out)


def verify_cache(folder: Path) -> list[str]:
    """Paths of the videos whose frames are missing or not what was written."""
    bad = []
    for key, record in read_records(folder).items():
        path = frames_path(folder, key)
        if not path.is_file() or hash_file(path) != record["sha256"]:
            bad.append(str(record["path"]))
    return bad


def _missing(index: Index, folder: Path) -> list[VideoEntry]:
    """Usable videos that the cache does not hold, one for each content."""
    known = set(read_records(folder))
    found = {cache_key(e, cover_size(e, index.config.size)): e for e in index.usable}
    return [e for key, e in found.items() if key not in known or not _whole(folder, key, e, index)]


def _whole(folder: Path, key: str, entry: VideoEntry, index: Index) -> bool:
    """True where the frames lie there in full length; their hash is checked on opening."""
    path = frames_path(folder, key)
    size = entry.frames * math.prod(cover_size(entry, index.config.size)) * 3
    return path.is_file() and path.stat().st_size == size


def _decode(root: str, size: int, folder: str, entry: VideoEntry) -> Record | str:
    """One video into the cache; its record, or why there is none."""
    height, width = cover_size(entry, size)
    key = cache_key(entry, (height, width))
    source = Path(root) / entry.path
    digest = hashlib.sha256()
    chunk = max(1, CHUNK_BYTES // (height * width * 3))
    try:
        if hash_file(source) != entry.sha256:
            return "It changed after the folder was scanned."
        stamps = probe(source).pts_seconds
        times = middles(stamps)
        goal = frames_path(Path(folder), key)
        with write_atomically(goal) as temporary, open(temporary, "wb") as file:
            for first in range(0, len(times), chunk):
                part = times[first : first + chunk]
                frames = read_frames(source, part, (height, width), entry.reader)
                digest.update(frames.data)
                file.write(frames.data)
    except DataError as error:
        return error.cause
    return {
        "format": FORMAT,
        "key": key,
        "path": entry.path,
        "frames": len(stamps),
        "height": height,
        "width": width,
        "stamps": stamps.tolist(),
        "sha256": digest.hexdigest(),
    }
