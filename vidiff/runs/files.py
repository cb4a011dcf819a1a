"""Files that are either whole or not there: temporary name, fsync, one rename.

A reader never meets half a file under a final name, whatever happens to the writer: an error, a
full disk, kill -9 or a power cut. What a dead writer leaves behind begins with `.tmp-`, is never
read, and `sweep` removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidiff.errors import RequestError, VidiffError

TEMPORARY = ".tmp-"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_MISPLACED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; it becomes `path` in one rename when the block ends well.

    The temporary file lies hidden beside `path` and keeps its suffix, so that libraries which go
    by the suffix choose the same format. Missing parent folders are made.

    Raises:
        VidiffError: the file could not be written (disk full, no permission, ...); whatever lay
            at `path` is untouched and the temporary file is gone.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        discard(temporary)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, line ends as given."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(text.encode())
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write one JSON value atomically; NaN and infinities become null, JSON's word for no number.

    Raises:
        VidiffError: the file could not be written.
        TypeError: `value` holds something JSON has no form for.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote.

    Raises:
        RequestError: there is no such file, or it holds no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read: {error}.", "Restore it, or start again in another folder."
        ) from error


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: str | Path, needed: int) -> None:
    """Refuse early when fewer than `needed` bytes are free where `folder` is or will be.

    Raises:
        VidiffError: names both figures.
    """
    free = free_space(folder)
    if free < needed:
        raise VidiffError(
            f"{folder} needs {_in_units(needed)}, but only {_in_units(free)} is free there.",
            "Free some space on that disk, or write to another one, and run the same command "
            "again.",
        )


def free_space(folder: str | Path) -> int:
    """Bytes free on the file system where `folder` is or will be."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def temporary_beside(path: Path) -> Path:
    """A new hidden name on the same file system, with the same suffix."""
    return path.parent / f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}"


def sweep(folder: str | Path) -> None:
    """Remove what dead writers left in `folder`. Only for folders with a single writer."""
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        discard(leftover)


def discard(path: Path) -> None:
    """Remove a file or folder as far as possible; what resists waits for the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        os.unlink(path)
    except OSError:
        return


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk (Windows has no such call and needs none)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(error: OSError, path: str | Path) -> VidiffError:
    """The same failure as a sentence about `path`, with the way out."""
    reason = error.strerror or str(error)
    cause = f"{path} could not be written: {reason}."
    if error.errno in _FULL:
        free = _in_units(free_space(Path(path).parent))
        return VidiffError(
            cause,
            f"{free} is free on that disk; free some space, or write to another one, and run the "
            "same command again.",
        )
    if error.errno in _MISPLACED:
        return RequestError(cause, "Choose a folder that you may write to.")
    other = f" ({error.filename})" if error.filename else ""
    return VidiffError(cause.removesuffix(".") + f"{other}.", "Check that disk and try again.")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _in_units(size: int | float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
