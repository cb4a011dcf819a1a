"""Batches by position: one for every list of global positions, whoever decodes them.

A list of positions goes in, its batch comes out, in order; what is in it depends on (index, seed,
positions) alone, never on workers, caches or interruptions. A clip that cannot be read is noted
and replaced (replacement.py), by workers a file that kills its decoder too (workers.py), and too
many of them end the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vidiff.data.cache import open_cache
from vidiff.data.clips import Fetch, Window, collate, decode, fixed_windows
from vidiff.data.index import Index
from vidiff.data.memory import FrameCache
from vidiff.data.replacement import ClipReader, Failure
from vidiff.data.workers import Answer, Workers, read_apart
from vidiff.errors import DataError
from vidiff.records import Batch, Clip

FEW_BAD = 5
"""So many bad reads are borne whatever their share: early on, one is already a large one."""
LAG = 1024
"""Positions between a file's first death and its ban, where the caller names no number."""

Quarantine = dict[str, dict[str, Any]]
"""Path to `reason` and `banned_from`: the position from which on the file is left alone, if any."""

_log = logging.getLogger(__name__)


class Batches(Iterator[Batch]):
    """The iterator that `load_batches` returns; `close()` ends its workers.

    Attributes:
        quarantine: what is known of every file that failed to give a clip so far.
        news: failures met since `share` was called last.
    """

    def __init__(self, source: Iterator[Answer], index: Index, quarantine: Quarantine) -> None:
        self.quarantine = dict(quarantine)
        self.news: list[Failure] = []
        self._source: Iterator[Answer] | None = source
        self._root, self._share = index.config.root, index.config.max_bad
        self._read = 0
        self._bad = 0

    def __next__(self) -> Batch:
        if self._source is None:
            raise StopIteration
        batch, failures = next(self._source)
        self._bad += len(failures)
        self._read += len(failures) + (0 if batch is None else len(batch))
        self.news += failures
        self._note(failures)
        if batch is None or (self._bad > FEW_BAD and self._bad > self._share * self._read):
            raise self._too_bad()
        return batch

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are reading."""
        return self._source.pids if isinstance(self._source, Workers) else []

    def share(self, failures: Iterable[Failure]) -> None:
        """Learn what all processes of the run met, this one included.

        To be called within the lag of `load_batches`; a file banned by one process is then banned
        by all of them from the same position on.
        """
        self.news.clear()
        for failure in failures:
            if failure.deadly and isinstance(self._source, Workers):
                self._source.ban(failure)
        self._note(failures)

    def close(self) -> None:
        """Ends the workers; the iterator is then empty."""
        if isinstance(self._source, Workers):
            self._source.close()
        self._source = None

    def _note(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            known = self.quarantine.get(failure.path)
            if known is None:
                _log.warning("%s gave no clip and was replaced: %s", failure.path, failure.reason)
            if known is None or (failure.deadly and known["banned_from"] is None):
                self.quarantine[failure.path] = {"reason": failure.reason, "banned_from": None}
        if isinstance(self._source, Workers):
            for path, first in self._source.bans.items():
                self.quarantine[path] |= {"banned_from": first}

    def _too_bad(self) -> DataError:
        path, known = next(iter(self.quarantine.items()))
        return DataError(
            f"{self._bad} of {self._read} clips could not be read, more than "
            f"data.max_bad={self._share:g}; first {path}: {known['reason']}",
            f"Run `vidiff data check {self._root}`, and replace or remove those files.",
        )


def load_batches(
    index: Index,
    seed: int,
    position_lists: Iterable[list[int]],
    workers: int = 0,
    cache_mb: int = 512,
    lag: int = LAG,
    quarantine: Quarantine | None = None,
) -> Batches:
    """One batch for each list of global positions, in order.

    Args:
        index: the side of the data to draw windows from.
        seed: the run's seed.
        position_lists: ascending; may be endless; consumed a few lists ahead of the batches.
        workers: processes that decode ahead; 0 decodes inside `next`, where a decoder that
            aborts or hangs takes this process with it.
        cache_mb: MiB for decoded frames, shared out among the workers.
        lag: positions from a file's first death to its ban; the same for all processes of a run.
        quarantine: what `Batches.quarantine` held when the run was interrupted.

    Raises (from `next`):
        DataError: more than the share `data.max_bad` of the reads failed, or one position failed
            ten times in a row.
        VidiffError: workers cannot be started.
    """
    share = cache_mb // max(workers, 1)
    reader = ClipReader(index, seed, make_fetch(index, share))
    known = quarantine or {}
    bans = {path: about["banned_from"] for path, about in known.items() if about["banned_from"]}
    if not workers:
        return Batches((reader.read(p, bans) for p in position_lists), index, known)
    return Batches(Workers(reader, position_lists, workers, lag, share, bans), index, known)


def make_fetch(index: Index, cache_mb: int = 0) -> Fetch:
    """How frames are read: from the prepared cache, from memory, or from the files themselves.

    Raises:
        DataError: data.cache names something that is no cache of these clips.
    """
    fetch: Fetch = FrameCache(index, cache_mb) if cache_mb else decode
    return open_cache(index, fetch) if index.config.cache else fetch


def read_windows(index: Index, windows: Sequence[Window], batch_size: int = 8) -> Iterator[Batch]:
    """The given windows, in order, `batch_size` to a batch; positions are places in `windows`.

    Clips that cannot be read are left out, so batches may be smaller.

    Raises:
        DataError: all of them, or more than the share `data.max_bad`, could not be read.
    """
    failures: list[Failure] = []
    config, fetch = index.config, make_fetch(index)
    here = ClipReader(index, 0, fetch)
    for first in range(0, len(windows), batch_size):
        chosen = windows[first : first + batch_size]
        if config.workers:
            read = read_apart(index, chosen, fetch, config.workers)
        else:
            read = [here.cut(place, window) for place, window in enumerate(chosen)]
        clips = [clip for clip in read if isinstance(clip, Clip)]
        places = [first + k for k, clip in enumerate(read) if isinstance(clip, Clip)]
        for failure in (clip for clip in read if isinstance(clip, Failure)):
            failures.append(failure)
            _log.warning("%s gave no clip: %s", failure.path, failure.reason)
        if len(failures) > max(config.max_bad * len(windows), len(windows) > 1):
            raise DataError(
                f"{len(failures)} of {len(windows)} clips could not be read; first "
                f"{failures[0].path}: {failures[0].reason}",
                f"Run `vidiff data check {config.root}`, and replace or remove those files.",
            )
        if clips:
            yield collate(clips, places)


def read_all(index: Index, count: int, seed: int = 0) -> Batch:
    """At most `count` evenly spread windows of one side, as one batch: for evaluation.

    Raises:
        DataError: no windows, or more than the share `data.max_bad` of them unreadable.
    """
    windows = fixed_windows(index, count, seed)
    return next(iter(read_windows(index, windows, batch_size=len(windows))))
