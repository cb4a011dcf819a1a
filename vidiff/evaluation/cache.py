"""What was measured of clips, kept by their content: the same clips are measured once.

An entry is one npz file named by the SHA-256 of everything its numbers depend on. A file that
cannot be read whole (cut off, altered, of another kind) counts as absent and is written again;
the archive's own checksums find that. The oldest entries go when the folder outgrows its limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from vidiff.errors import VidiffError
from vidiff.runs.files import discard, write_atomically

LIMIT_BYTES = 2_000_000_000

Arrays = dict[str, Shaped[np.ndarray, "..."]]

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
               NotImplementedError, AttributeError, TypeError)  # fmt: skip


def default_folder() -> Path:
    """`vidiff/eval` below the person's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vidiff" / "eval"


class Shelf:
    """Measured arrays by key; without a folder nothing is kept.

    Args:
        folder: where the entries lie; made when the first is written.
        limit: bytes that all entries together may take.
    """

    def __init__(self, folder: str | Path | None = None, limit: int = LIMIT_BYTES) -> None:
        self.folder = None if folder is None else Path(folder)
        self.limit = limit

    def get(self, key: str) -> Arrays | None:
        """What was put under `key`; None where there is nothing, or nothing whole."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as entry:
                arrays = {name: entry[name] for name in entry.files}
            os.utime(path)
        except _UNREADABLE:
            return None
        return arrays

    def put(self, key: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Keep arrays; a folder that cannot be written keeps nothing and harms nothing."""
        if self.folder is None:
            return
        try:
            with write_atomically(self.folder / f"{key}.npz") as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
        except VidiffError:
            return
        self._prune()

    def _prune(self) -> None:
        assert self.folder is not None
        files = [(p.stat().st_mtime, p.stat().st_size, p) for p in self.folder.glob("*.npz")]
        spare = sum(size for _, size, _ in files) - self.limit
        for _, size, path in sorted(files)[:-1]:
            if spare <= 0:
                return
            discard(path)
            spare -= size


def key_of(clips: UInt8[np.ndarray, "b t h w c"], facts: Mapping[str, Any]) -> str:
    """The name of what is measured of these clips under these facts (JSON values)."""
    text = json.dumps([list(clips.shape), facts], sort_keys=True)
    return hashlib.sha256(text.encode() + hash_clips(clips).encode()).hexdigest()


def hash_clips(clips: UInt8[np.ndarray, "b t h w c"]) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(clips).data).hexdigest()
