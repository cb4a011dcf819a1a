"""Facts about every file of a folder, found in parallel and kept for the next time.

Facts are kept by content in one small database below the user's cache folder, never in the folder
of clips, which may be read-only or shared. A file whose path, size and modification time are known
is not opened again; one that was moved or copied is hashed and recognised. Each file's facts are
stored as soon as they are known, so a scan that was ended goes on where it was. A database that
cannot be read or written is said to be so and done without.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidiff.data.duplicates import group_contents
from vidiff.data.examination import Facts, examine
from vidiff.data.pictures import hash_film
from vidiff.data.supervision import Death, supervise
from vidiff.data.survey import Traits
from vidiff.data.video import Reader
from vidiff.data.walk import Found

VERSION = 2
"""Raised when examining finds more, or finds it otherwise."""
GROUPS = 3
"""Raised when near duplicates are found otherwise."""
FILE_SECONDS = 300.0
FILE_MEGABYTES = 1200
MAX_WORKERS = 8

_log = logging.getLogger(__name__)

Known = tuple[str, Facts]
"""SHA-256 of a file's content, and its facts."""


def cache_folder() -> Path:
    """Where vidiff keeps what it can find again: `$VIDIFF_CACHE`, else the user's cache folder."""
    own, users = os.environ.get("VIDIFF_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(users or Path.home() / ".cache") / "vidiff"


def store_path() -> Path:
    """The database of facts."""
    return cache_folder() / "index.sqlite"


def find_facts(
    root: str,
    found: list[Found],
    wish: Reader = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Known]:
    """Name to content hash and facts, for every file that may be opened.

    Args:
        wish: the reader asked for; facts are kept for each.
        progress: called with (files done, files in all).
    """
    with _open_memory(store_path(), wish) as memory:
        known: dict[str, Known] = {}
        unknown: list[Found] = []
        for item in found:
            kept = memory.recall(Path(root) / item.name)
            if kept is None:
                unknown.append(item)
            else:
                known[item.name] = kept
                _tell(progress, len(known), len(found))
        for item, answer in _examine_all(root, wish, unknown):
            known[item.name] = answer
            memory.keep(Path(root) / item.name, answer)
            _tell(progress, len(known), len(found))
    return known


def find_groups(known: Iterable[Known]) -> dict[str, str]:
    """Content hash to its group of near duplicates, for files that hold a film; kept like facts."""
    films = {content: facts.traits for content, facts in known if content and not facts.reason}
    key = hashlib.sha256("\n".join([f"groups/{GROUPS}", *sorted(films)]).encode()).hexdigest()
    with _open_memory(store_path(), "auto") as memory:
        groups = memory.recall_groups(key)
        if groups is None or set(groups) != set(films):
            groups = group_contents(films)
            memory.keep_groups(key, groups)
    return groups


def _tell(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _examine_all(root: str, wish: Reader, items: list[Found]) -> Iterator[tuple[Found, Known]]:
    """In helper processes; what dies of another reader is looked at once more by PyAV."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A helper takes seconds to start: few files do not need many.
    workers = min(MAX_WORKERS, cores or 1, 1 + len(items) // 4)
    died: list[Found] = []
    tries: list[tuple[Reader, list[Found]]] = [(wish, items), ("pyav", died)]
    for reader, queue in tries:
        work = partial(_study, root, store_path(), reader)
        for item, answer in supervise(work, queue, workers, FILE_SECONDS, FILE_MEGABYTES):
            if not isinstance(answer, Death):
                yield item, answer
            elif queue is items and wish == "auto":
                died.append(item)
            else:
                remedy = "Re-encode it (ffmpeg -i in -c:v libx264 out.mp4) or remove it."
                yield item, ("", Facts(reason=answer.reason, remedy=remedy))


def _study(root: str, store: Path, wish: Reader, found: Found) -> Known:
    """Content hash and facts of one file; facts of equal content are not found twice."""
    path = Path(root) / found.name
    try:
        content = hash_film(path)
    except (OSError, ValueError) as error:
        reason = f"It cannot be opened: {getattr(error, 'strerror', None) or error}."
        return "", Facts(reason=reason, remedy="Check the path and its permissions.")
    with _open_memory(store, wish) as memory:
        kept = memory.recall_content(content)
    return content, kept or examine(root, wish, found)


class _Memory:
    """What is known of files, by path and by content; forgets rather than fails."""

    def __init__(self, base: sqlite3.Connection | None, wish: Reader) -> None:
        self.base = base
        self.version = f"{VERSION}/{wish}"

    def recall(self, path: Path) -> Known | None:
        rows = self._ask("SELECT content FROM files WHERE path=? AND size=? AND time=?", _key(path))
        for (content,) in rows:
            facts = self.recall_content(content)
            if facts is not None:
                return content, facts
        return None

    def recall_content(self, content: str) -> Facts | None:
        ask = "SELECT facts, traits FROM facts WHERE content=? AND version=?"
        for row in self._ask(ask, (content, self.version)):
            try:
                return _unpack(*row)
            except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, zlib.error):
                return None
        return None

    def keep(self, path: Path, known: Known) -> None:
        content, facts = known
        if not content:
            return
        row = (content, self.version, *_pack(facts))
        self._ask("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", row)
        self._ask("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (*_key(path), content))

    def recall_groups(self, key: str) -> dict[str, str] | None:
        for (text,) in self._ask("SELECT groups FROM groups WHERE key=?", (key,)):
            try:
                return dict(json.loads(text))
            except (ValueError, TypeError):
                return None
        return None

    def keep_groups(self, key: str, groups: dict[str, str]) -> None:
        self._ask("INSERT OR REPLACE INTO groups VALUES (?, ?)", (key, json.dumps(groups)))

    def _ask(self, words: str, values: tuple[Any, ...]) -> list[Any]:
        if self.base is None:
            return []
        try:
            with self.base:
                return self.base.execute(words, values).fetchall()
        except sqlite3.Error as error:
            _log.warning("What is known of files cannot be kept or read: %s.", error)
            self.base = None
            return []


@contextmanager
def _open_memory(path: Path, wish: Reader) -> Iterator[_Memory]:
    base = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        base = _open_base(path)
    except (OSError, sqlite3.OperationalError) as error:
        _log.warning("%s cannot be used, so nothing is kept for the next scan: %s.", path, error)
    except sqlite3.DatabaseError as error:
        _log.warning("%s is damaged (%s); it is begun anew.", path, error)
        path.unlink(missing_ok=True)
        base = _open_base(path)
    try:
        yield _Memory(base, wish)
    finally:
        if base is not None:
            base.close()


def _open_base(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=30)
    try:
        # A killed process loses nothing by this; a power cut may cost a scan.
        base.execute("PRAGMA synchronous=OFF")
        base.execute(
            "CREATE TABLE IF NOT EXISTS facts (content TEXT, version TEXT, facts TEXT, "
            "traits BLOB, PRIMARY KEY (content, version))"
        )
        base.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, "
            "time INTEGER, content TEXT)"
        )
        base.execute("CREATE TABLE IF NOT EXISTS groups (key TEXT PRIMARY KEY, groups TEXT)")
    except sqlite3.Error:
        base.close()
        raise
    return base


def _key(path: Path) -> tuple[str, int, int]:
    """Path, size and modification time (of all pictures of a folder); what is gone matches none."""
    try:
        items = [path, *os.scandir(path)] if path.is_dir() else [path]
        states = [item.stat() for item in items]
    except OSError:
        return (os.path.abspath(path), -1, -1)
    size = sum(state.st_size for state in states)
    return (os.path.abspath(path), size, max(state.st_mtime_ns for state in states))


def _pack(facts: Facts) -> tuple[str, bytes]:
    values = {f.name: getattr(facts, f.name) for f in fields(facts) if f.name != "traits"}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(facts.traits))
    return json.dumps(values), buffer.getvalue()


def _unpack(text: str, blob: bytes) -> Facts:
    values: dict[str, Any] = json.loads(text)
    values |= {name: tuple(values[name]) for name in ("span", "cuts")}
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        traits = Traits(arrays["seconds"], arrays["thumbs"], float(arrays["end"]))
    return Facts(**values, traits=traits)
