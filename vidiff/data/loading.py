"""Batches by position: one for every list of global positions, whoever decodes them.

A list of positions goes in, its batch comes out, in order; what is in it depends on (index, seed,
positions) alone, never on workers, caches or earlier failures. A clip that cannot be read is noted
and replaced, and too many of them end the run. Files are decoded once and kept whole while the
memory given lasts: an epoch shows every window once, so keeping single windows would never hit.
"""

from __future__ import annotations

import logging
import signal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.utils.data import DataLoader, Dataset

from vidiff.data.clips import Window, collate, decode, draw_window, fixed_windows, read_clip
from vidiff.data.index import Index
from vidiff.data.verdict import VideoEntry, cover_size
from vidiff.data.video import probe, read_frames, shown_at
from vidiff.errors import DataError, VidiffError
from vidiff.records import Batch, Clip

MAX_ATTEMPTS = 10
MAX_BAD_SHARE = 0.05
FEW_BAD = 5
"""So many bad reads are borne whatever their share: early on, one is already a large one."""
WORKER_SECONDS = 120

_log = logging.getLogger(__name__)

Failures = list[tuple[str, str]]
"""(path, reason) of each read that failed."""


class FrameCache:
    """Decoded files, whole and at the size of training, as many as fit into `cache_mb` MiB.

    Which files are kept is decided at once, in the order of the index. A call gives the same
    bytes as `clips.decode`.
    """

    def __init__(self, index: Index, cache_mb: int) -> None:
        self.kept: set[str] = set()
        self.files: dict[str, tuple[Float[np.ndarray, "n"], UInt8[np.ndarray, "n h w c"]]] = {}
        room = cache_mb * 2**20
        for entry in index.usable:
            height, width = cover_size(entry, index.config.size)
            need = entry.frames * height * width * 3
            if need <= room:
                room -= need
                self.kept.add(entry.path)

    def __call__(
        self, index: Index, entry: VideoEntry, times: Sequence[float], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "t h w c"]:
        if entry.path not in self.kept:
            return decode(index, entry, times, size)
        if entry.path not in self.files:
            try:
                self.files[entry.path] = _read_whole(index, entry, size)
            except DataError:
                # One damaged frame spoils the whole file, but not the windows beside it.
                self.kept.discard(entry.path)
                return decode(index, entry, times, size)
        stamps, frames = self.files[entry.path]
        return frames[shown_at(stamps, times)]


class Batches(Iterator[Batch]):
    """The iterator that `load_batches` returns; `close()` ends its workers.

    Attributes:
        quarantine: path to reason, for every file that failed to give a clip so far.
    """

    def __init__(self, source: Iterator[tuple[Batch | None, Failures]], root: str) -> None:
        self.quarantine: dict[str, str] = {}
        self._source: Iterator[tuple[Batch | None, Failures]] | None = source
        # The workers ignore TERM, by which Python would end them at exit, and so wait for it.
        self._end = weakref.finalize(self, _end_workers, source)
        self._root = root
        self._read = 0
        self._bad = 0

    def __next__(self) -> Batch:
        if self._source is None:
            raise StopIteration
        try:
            batch, failures = next(self._source)
        except (RuntimeError, EOFError, ConnectionError) as error:
            raise VidiffError(
                f"A loader process died or gave nothing for {WORKER_SECONDS} s: "
                f"{(str(error) or type(error).__name__).splitlines()[0]}",
                "Run the same command again to resume; data.workers=0 decodes without processes, "
                f"and `vidiff data check {self._root}` may name the file.",
            ) from error
        self._note(failures, 0 if batch is None else len(batch))
        if batch is None:
            raise self._too_bad()
        return batch

    def close(self) -> None:
        """Ends the workers; the iterator is then empty."""
        self._source = None
        self._end()

    def _note(self, failures: Failures, good: int) -> None:
        for path, reason in failures:
            if path not in self.quarantine:
                self.quarantine[path] = reason
                _log.warning("%s gave no clip and was replaced: %s", path, reason)
        self._bad += len(failures)
        self._read += good + len(failures)
        if self._bad > FEW_BAD and self._bad > MAX_BAD_SHARE * self._read:
            raise self._too_bad()

    def _too_bad(self) -> DataError:
        path, reason = next(iter(self.quarantine.items()))
        return DataError(
            f"{self._bad} of {self._read} clips could not be read, more than "
            f"{MAX_BAD_SHARE:.0%}; first {path}: {reason}",
            f"Run `vidiff data check {self._root}`, and replace or remove those files.",
        )


def load_batches(
    index: Index,
    seed: int,
    position_lists: Iterable[list[int]],
    workers: int = 0,
    cache_mb: int = 512,
) -> Batches:
    """One batch for each list of global positions, in order.

    Args:
        index: the side of the data to draw windows from.
        seed: the run's seed.
        position_lists: may be endless; consumed a few lists ahead of the batches.
        workers: processes that decode ahead; 0 decodes inside `next`.
        cache_mb: MiB for decoded frames, shared out among the workers.

    Raises (from `next`):
        DataError: over 5 % of the reads failed, or one position failed ten times in a row.
        VidiffError: a worker died or hung.
    """
    reader = _BatchReader(index, seed, cache_mb // max(workers, 1))
    if not workers:
        return Batches(map(reader.__getitem__, position_lists), index.config.root)
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_size=None,
        sampler=position_lists,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        timeout=WORKER_SECONDS,
        # Spawned, because readers, locks and GPU contexts of this process must not reach a worker.
        multiprocessing_context="spawn",
        # Without it, starting the iterator would draw from the global generator.
        generator=torch.Generator(),
    )
    return Batches(iter(loader), index.config.root)


def read_windows(index: Index, windows: Sequence[Window], batch_size: int = 8) -> Iterator[Batch]:
    """The given windows, in order, `batch_size` to a batch; positions are places in `windows`.

    Clips that cannot be read are left out, so batches may be smaller.

    Raises:
        DataError: none of them, or fewer than 95 %, could be read.
    """
    failures: Failures = []
    for first in range(0, len(windows), batch_size):
        clips: list[Clip] = []
        places: list[int] = []
        for place, window in enumerate(windows[first : first + batch_size], first):
            try:
                clips.append(read_clip(index, window))
                places.append(place)
            except DataError as error:
                failures.append((window.entry.path, error.cause))
                _log.warning("%s gave no clip: %s", window.entry.path, error.cause)
        if len(failures) > max(MAX_BAD_SHARE * len(windows), len(windows) > 1):
            path, reason = failures[0]
            raise DataError(
                f"{len(failures)} of {len(windows)} clips could not be read; first {path}: "
                f"{reason}",
                f"Run `vidiff data check {index.config.root}`, and replace or remove those files.",
            )
        if clips:
            yield collate(clips, places)


def read_all(index: Index, count: int, seed: int = 0) -> Batch:
    """At most `count` evenly spread windows of one side, as one batch: for evaluation.

    Raises:
        DataError: no windows, or over 5 % of them unreadable.
    """
    windows = fixed_windows(index, count, seed)
    return next(iter(read_windows(index, windows, batch_size=len(windows))))


class _BatchReader(Dataset[tuple[Batch | None, Failures]]):
    """Lists of positions to batches; lives in this process or in each worker."""

    def __init__(self, index: Index, seed: int, cache_mb: int) -> None:
        self.index = index
        self.seed = seed
        self.fetch = FrameCache(index, cache_mb)

    def __getitem__(self, positions: list[int]) -> tuple[Batch | None, Failures]:
        failures: Failures = []
        clips = [self._read(position, failures) for position in positions]
        good = [clip for clip in clips if clip is not None]
        if len(good) < len(clips):
            return None, failures
        return collate(good, positions), failures

    def _read(self, position: int, failures: Failures) -> Clip | None:
        for attempt in range(MAX_ATTEMPTS):
            window = draw_window(self.index, self.seed, position, attempt)
            try:
                return read_clip(self.index, window, self.fetch)
            except DataError as error:
                failures.append((window.entry.path, error.cause))
        return None


def _read_whole(
    index: Index, entry: VideoEntry, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "n"], UInt8[np.ndarray, "n h w c"]]:
    path = Path(index.config.root) / entry.path
    stamps = probe(path).pts_seconds
    middles = np.append((stamps[:-1] + stamps[1:]) / 2, stamps[-1])
    return stamps, read_frames(path, middles, size, entry.reader)


def _as_it_is(item: Any) -> Any:
    return item


def _end_workers(source: Any) -> None:
    # The only name torch has for it; `del` comes to the same, but not while a traceback lives.
    if hasattr(source, "_shutdown_workers"):
        source._shutdown_workers()


def _start_worker(worker: int) -> None:
    # Slurm signals every process of a step; the training process decides when workers end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
