"""Batches read by processes that may die, ahead of the training that takes them.

Each worker reads whole batches, one clip at a time under an alarm that needs no interpreter to
ring: a decoder that spins inside native code ends with its process. The alarm counts the
processor's time, so that a busy machine makes nothing fail; a worker that sleeps is ended later,
by the clock. When a worker dies, its batch is read again clip by clip, each alone in a process, so
the one file at fault is found and nothing else is blamed; its clip is replaced as replacement.py
says. A death that does not repeat (a worker killed from outside) costs time and changes nothing.
"""

from __future__ import annotations

import functools
import pickle
import signal
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidiff.data.clips import Fetch, Window, draw_window
from vidiff.data.index import Index
from vidiff.data.replacement import Bans, ClipReader, Failure
from vidiff.data.supervision import Crew, Death, dismiss, supervise
from vidiff.records import Batch, Clip

CLIP_SECONDS = 30.0
"""Processor time for one clip, the decoding of a whole file that is kept in memory included."""
PATIENCE = 5
"""So many times longer by the clock."""
DECODING_MB = 600
"""Memory of a worker beside the frames it keeps."""
REST_SECONDS = 24 * 3600.0
"""Workers wait through evaluations and checkpoints; they end when their trainer does."""

Packed = dict[str, Any]
Answer = tuple[Batch | None, list[Failure]]


@dataclass(frozen=True)
class Task:
    """What a worker is asked for."""

    number: int
    """Place of the list among all lists."""
    positions: tuple[int, ...]
    seconds: float
    """Limit of a clip."""
    attempt: int | None = None
    """One attempt at one position, or None for the whole list with replacements."""
    bans: tuple[tuple[str, int], ...] = ()


class Workers(Iterator[Answer]):
    """(batch, failures) for each list of positions, in order, from `count` processes.

    Args:
        reader: sent to each worker once.
        lists: global positions, ascending from list to list; may be endless.
        lag: a file that killed a worker at position p is not tried from p + lag on.
        cache_mb: memory that the reader may fill in each worker.
        bans: those of an earlier part of the run.
    """

    def __init__(
        self,
        reader: ClipReader,
        lists: Iterable[list[int]],
        count: int,
        lag: int,
        cache_mb: int,
        bans: Bans,
    ) -> None:
        self.reader = reader
        self.bans = dict(bans)
        self._lag = lag
        source = iter(lists)
        first = next(source, [])
        self._lists = _Ahead(chain([first] if first else [], source), lag, 2 * count, self.bans)
        self._done: dict[int, tuple[Task, tuple[Packed | None, list[Failure]] | Death]] = {}
        home = tempfile.TemporaryDirectory(prefix="vidiff-workers-")
        state = Path(home.name) / "reader"
        state.write_bytes(pickle.dumps(reader))
        self._read = functools.partial(read_task, str(state))
        self._megabytes = DECODING_MB + cache_mb
        seconds = PATIENCE * (CLIP_SECONDS + len(first))
        self._crew = Crew(self._read, count, seconds, self._megabytes, REST_SECONDS, again=False)
        self.close = weakref.finalize(self, _close, self._crew, home)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._crew.pids

    def __next__(self) -> Answer:
        due = self._lists.due
        while due not in self._done:
            if not self._crew.fill(self._lists):
                raise StopIteration
            task, packed = self._crew.hear()
            self._done[task.number] = (task, packed)
        task, packed = self._done.pop(due)
        if isinstance(packed, Death):
            batch, failures = self.reader.read(task.positions, dict(task.bans), self._alone)
        else:
            batch, failures = unpack(packed[0]), packed[1]
        for failure in failures:
            if failure.deadly:
                self.ban(failure)
        self._lists.take()
        self._crew.fill(self._lists)
        return batch, failures

    def ban(self, failure: Failure) -> None:
        """Keeps a file that killed a worker, here or in another process, from being met again."""
        first = failure.position + self._lag
        self.bans[failure.path] = min(first, self.bans.get(failure.path, first))

    def _alone(self, position: int, attempt: int) -> Clip | Failure:
        """One attempt in a process that has nothing else to do."""
        task = Task(-1, (position,), CLIP_SECONDS, attempt)
        limit = PATIENCE * CLIP_SECONDS
        ((_, answer),) = supervise(self._read, [task], 1, limit, self._megabytes)
        if isinstance(answer, Death):
            path = draw_window(self.reader.index, self.reader.seed, position, attempt).entry.path
            return Failure(position, path, _told(answer), deadly=True)
        packed, failures = answer
        if failures:
            return failures[0]
        clip: Clip = _thaw(Clip, packed)
        return clip


class _Ahead(Iterator[Task]):
    """Tasks, at most `most` ahead of the batch that is due, and no further than bans allow."""

    def __init__(
        self, lists: Iterator[list[int]], lag: int, most: int, bans: dict[str, int]
    ) -> None:
        self.due = 0
        self._lists, self._lag, self._most, self._bans = lists, lag, most, bans
        self._next: list[int] | None = None
        self._given: deque[int] = deque()

    def __next__(self) -> Task:
        if self._next is None:
            self._next = next(self._lists)
        given = self._given
        if len(given) == self._most or (given and max(self._next) - given[0] >= self._lag):
            raise StopIteration
        number = self.due + len(self._given)
        task = Task(number, tuple(self._next), CLIP_SECONDS, None, tuple(self._bans.items()))
        self._given.append(min(self._next))
        self._next = None
        return task

    def take(self) -> None:
        """The batch that was due is there."""
        self._given.popleft()
        self.due += 1


def read_apart(
    index: Index, windows: Sequence[Window], fetch: Fetch, count: int
) -> list[Clip | Failure]:
    """The given windows in order, each read by one of `count` processes that may die."""
    with tempfile.TemporaryDirectory(prefix="vidiff-workers-") as home:
        state = Path(home) / "reader"
        state.write_bytes(pickle.dumps(ClipReader(index, 0, fetch)))
        read = functools.partial(_read_window, str(state))
        places, limit = enumerate(windows), PATIENCE * CLIP_SECONDS
        clips: dict[int, Clip | Failure] = {}
        for (place, window), answer in supervise(read, places, count, limit, DECODING_MB):
            if isinstance(answer, Death):
                answer = Failure(place, window.entry.path, _told(answer), deadly=True)
            clips[place] = answer if isinstance(answer, Failure) else _thaw(Clip, answer)
    return [clips[place] for place in range(len(windows))]


def _read_window(state: str, asked: tuple[int, Window]) -> Packed | Failure:
    reader = _load(state)
    answer = reader.cut(*asked)
    return answer if isinstance(answer, Failure) else _freeze(answer)


def read_task(state: str, task: Task) -> tuple[Packed | None, list[Failure]]:
    """What a worker does."""
    reader = _load(state)

    def attempt(position: int, number: int) -> Clip | Failure:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, task.seconds)
        return reader.attempt(position, number)

    if task.attempt is not None:
        answer = attempt(task.positions[0], task.attempt)
        return (None, [answer]) if isinstance(answer, Failure) else (_freeze(answer), [])
    batch, failures = reader.read(task.positions, dict(task.bans), attempt)
    return (None if batch is None else _freeze(batch)), failures


@functools.lru_cache(maxsize=1)
def _load(state: str) -> ClipReader:
    # Slurm signals every process of a step; the training process decides when workers end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    reader: ClipReader = pickle.loads(Path(state).read_bytes())
    return reader


def unpack(packed: Packed | None) -> Batch | None:
    """A batch as it was in the worker."""
    batch: Batch | None = None if packed is None else _thaw(Batch, packed)
    return batch


def _freeze(record: Batch | Clip) -> Packed:
    # Tensors would cross by way of shared memory that dies with the worker; arrays are copied.
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def _thaw(kind: Any, packed: Packed | None) -> Any:
    items = (packed or {}).items()
    return kind(**{k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in items})


def _told(death: Death) -> str:
    if "SIGPROF" in death.reason:
        return f"It gave no clip within {CLIP_SECONDS:g} s of the processor's time."
    return death.reason


def _close(crew: Crew[Any, Any], home: tempfile.TemporaryDirectory[str]) -> None:
    crew.close()
    dismiss()
    with suppress(OSError):
        home.cleanup()
