"""Work on foreign files in processes that may abort, hang or run out of memory.

A decoder that meets a damaged file can end its whole process, never come back, or ask for more
memory than there is; none of it can be caught in Python. So each item is worked on in a helper
process, one at a time:

    item -> helper -> began -> (`seconds`, `megabytes` more at most) -> result
                        └ dies, hangs, raises -> Death(reason); the next item gets a new helper

Helpers are fresh interpreters, so a caller needs no `if __name__ == "__main__"`, and no thread,
lock or GPU context of the caller reaches them. They stay for a moment after a call, for the next
one, and end by themselves when they are idle or when their caller is gone, however it ended.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from vidiff.errors import VidiffError

IDLE_SECONDS = 15.0
START_SECONDS = 120.0
"""Time to start an interpreter and import what the function needs, on a busy machine."""
GRACE_SECONDS = 5.0
STARTS = 3
"""So many helpers in a row may fail to start before it is our fault."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Death:
    """What happened instead of a result."""

    reason: str
    """A sentence about "it", the item."""


def supervise(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    seconds: float,
    megabytes: int,
) -> Iterator[tuple[Item, Result | Death]]:
    """Every item with its result, or with how its process ended, in order of completion.

    An item whose helper dies after work on other items is tried once more in a fresh one, so that
    nothing is blamed for what another item left.

    Args:
        function: of a module's top level (or a `partial` of one): it is sent by name.
        items: picklable; taken one by one as helpers become free.
        workers: processes at once.
        seconds: limit of one item.
        megabytes: memory that a helper may take beyond what it starts with, on Linux.

    Raises:
        VidiffError: helpers cannot be started.
    """
    crew = Crew(function, workers, seconds, megabytes)
    source = iter(items)
    try:
        while crew.fill(source):
            yield crew.hear()
    finally:
        crew.close()


class Crew(Generic[Item, Result]):
    """The same by hand: `fill` hands out items to free helpers, `hear` waits for one answer.

    Args:
        rest: seconds after which a helper without work ends itself.
        again: whether an item is tried once more where its helper had worked on others.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        workers: int,
        seconds: float,
        megabytes: int,
        rest: float = IDLE_SECONDS,
        again: bool = True,
    ) -> None:
        self._again = again
        self._task = (function, seconds, megabytes, rest)
        self._workers = workers
        self._busy: list[_Helper[Item]] = []
        self._failures = 0

    def fill(self, source: Iterator[Item]) -> bool:
        """Gives every free helper an item; False when there is nothing to wait for."""
        for item in islice(source, self._workers - len(self._busy)):
            self._busy.append(_hire(item, self._task))
        return bool(self._busy)

    def hear(self) -> tuple[Item, Result | Death]:
        """Waits for the next answer of all.

        Raises:
            VidiffError: helpers cannot be started.
        """
        while True:
            helper, answer = _next_answer(self._busy)
            self._busy.remove(helper)
            if isinstance(answer, Death) and not helper.began:
                self._failures += 1
                if self._failures == STARTS:
                    raise VidiffError(f"A helper process could not be started. {answer.reason}")
            elif not isinstance(answer, Death) or not (helper.blameless and self._again):
                self._failures = 0
                return helper.item, answer
            self._busy.append(_Helper(helper.item, self._task))

    @property
    def pids(self) -> list[int]:
        """The processes that are at work."""
        return [helper.process.pid for helper in self._busy]

    def close(self) -> None:
        """Ends the helpers that are at work; those without work rest for the next call."""
        while self._busy:
            self._busy.pop().end()


def serve(handle: int) -> None:
    """The life of a helper: tasks in and answers out, over the socket with this descriptor."""
    room = 0
    rest = IDLE_SECONDS
    with connection.Connection(handle) as wire:
        while wire.poll(rest):
            try:
                item, (function, seconds, megabytes, rest) = wire.recv()
                wire.send(_BEGAN)
                room = room or _address_space()
                with _limits(seconds, room + megabytes * 2**20):
                    answer = _attempt(function, item)
                wire.send(answer)
            except (EOFError, ConnectionError):
                return


def _attempt(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:
        words = str(error).strip().splitlines()
        return Death(f"It raised {': '.join([type(error).__name__, *words[:1]])[:200]}.")


@contextmanager
def _limits(seconds: float, size: int) -> Iterator[None]:
    # The caller ends a helper that is late; should the caller be gone, the alarm does.
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _address_space() -> int:
    """Bytes of this process's address space now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[5]) * resource.getpagesize() if statm.exists() else 0


_BEGAN = "began"
_resting: list[_Helper[Any]] = []


class _Helper(Generic[Item]):
    """One process, as its caller sees it; it has always an item, done or not."""

    def __init__(self, item: Item, task: tuple[Any, ...]) -> None:
        ours, theirs = socket.socketpair()
        handle = theirs.fileno()
        code = f"import sys; sys.path[:] = {sys.path!r}\n"
        code += f"from vidiff.data.supervision import serve; serve({handle})"
        self.words = tempfile.TemporaryFile()  # noqa: SIM115, it is open as long as the helper
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=self.words,
            stderr=self.words,
            pass_fds=[handle],
            # A key pressed in the terminal is for the caller alone.
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self.wire = connection.Connection(ours.detach())
        self.answers = 0
        self.give(item, task)

    def give(self, item: Item, task: tuple[Any, ...]) -> None:
        self.item, self.seconds = item, float(task[1])
        self.began = self.late = False
        self.deadline = time.monotonic() + START_SECONDS
        with suppress(ConnectionError):
            self.wire.send((item, task))

    def hear(self) -> list[Any]:
        """Its answer in a list; an empty list as it begins."""
        try:
            word = self.wire.recv()
        except (EOFError, OSError):
            death = Death(f"It ended the process that read it ({self.last_words()}).")
            self.end()
            return [death]
        if not self.began:
            self.began = True
            self.deadline = time.monotonic() + self.seconds
            return []
        self.answers += 1
        _resting.append(self)
        return [word]

    def give_up(self) -> Death:
        self.late = self.began
        self.end()
        return Death(f"It gave no answer within {self.seconds:g} s.")

    @property
    def blameless(self) -> bool:
        """True where the death may be another item's doing."""
        return self.process.returncode is not None and self.answers > 0 and not self.late

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.wire.close()
        self.words.close()

    def last_words(self) -> str:
        """How the process ended, and the last line it wrote."""
        self.process.kill()
        code = self.process.wait()
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.words.seek(0)
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        return ": ".join([ended, *lines[-1:]])[:200]


def _hire(item: Any, task: tuple[Any, ...]) -> _Helper[Any]:
    """A helper at work on the item: one that rests, or else a new one."""
    while _resting:
        helper = _resting.pop()
        if helper.process.poll() is None:
            helper.give(item, task)
            return helper
        helper.end()
    return _Helper(item, task)


def _next_answer(busy: list[_Helper[Any]]) -> tuple[_Helper[Any], Any]:
    """Waits until one helper has answered, died, or passed its limit."""
    while True:
        first = min(busy, key=lambda helper: helper.deadline)
        left = first.deadline - time.monotonic()
        ready = connection.wait([helper.wire for helper in busy], max(left, 0))
        if not ready:
            return first, first.give_up()
        helper = next(helper for helper in busy if helper.wire in ready)
        for answer in helper.hear():
            return helper, answer


def dismiss() -> None:
    """Ends the helpers that rest."""
    while _resting:
        _resting.pop().end()


atexit.register(dismiss)
if hasattr(os, "register_at_fork"):
    # A forked child must not speak on its parent's wires.
    os.register_at_fork(after_in_child=_resting.clear)
