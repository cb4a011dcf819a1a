"""The clip of a position, and what stands in for it when it cannot be read.

A window that does not decode is replaced by another one, drawn from (seed, position, attempt): by
nothing else, so the same clip comes whoever reads it, with any number of processes. Files that
killed or stalled their decoder are expensive to meet again and so become *banned*, but only from a
later position on: with

    ban(file) = position of the death + lag                                                     (1)

and no position read before all deaths a lag behind it are known, the bans in force at a position
are a function of the position too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vidiff.data.clips import Fetch, Window, collate, draw_window, read_clip
from vidiff.data.index import Index
from vidiff.errors import DataError
from vidiff.records import Batch, Clip

MAX_ATTEMPTS = 10

Bans = Mapping[str, int]
"""File to the first position at which none of its windows is tried, equation (1)."""


@dataclass(frozen=True)
class Failure:
    """One window that gave no clip."""

    position: int
    path: str
    reason: str
    deadly: bool = False
    """True where the process that read it died or was ended."""


Try = Callable[[int, int], Clip | Failure]
"""Reads the window of (position, attempt)."""


class ClipReader:
    """Lists of positions to batches; lives in this process or in each worker."""

    def __init__(self, index: Index, seed: int, fetch: Fetch) -> None:
        self.index = index
        self.seed = seed
        self.fetch = fetch

    def attempt(self, position: int, attempt: int) -> Clip | Failure:
        """One window, or why it gave no clip."""
        return self.cut(position, draw_window(self.index, self.seed, position, attempt))

    def cut(self, position: int, window: Window) -> Clip | Failure:
        """A given window, or why it gave no clip."""
        try:
            return read_clip(self.index, window, self.fetch)
        except DataError as error:
            return Failure(position, window.entry.path, error.cause)

    def read(
        self, positions: Sequence[int], bans: Bans, attempt: Try | None = None
    ) -> tuple[Batch | None, list[Failure]]:
        """The batch of these positions, with the failures on the way to it.

        Args:
            attempt: how a window is read; by default in this process.

        Returns:
            None for the batch where ten windows in a row failed for one position.
        """
        failures: list[Failure] = []
        clips = [self._read_one(p, bans, attempt or self.attempt, failures) for p in positions]
        good = [clip for clip in clips if clip is not None]
        return (collate(good, positions) if len(good) == len(clips) else None), failures

    def _read_one(
        self, position: int, bans: Bans, attempt: Try, failures: list[Failure]
    ) -> Clip | None:
        shunned = {path for path, first in bans.items() if position >= first}
        for number in range(MAX_ATTEMPTS):
            # Only where something is banned is the window worth drawing twice.
            if shunned:
                path = draw_window(self.index, self.seed, position, number).entry.path
                if path in shunned:
                    failures.append(Failure(position, path, "It was banned before."))
                    continue
            answer = attempt(position, number)
            if isinstance(answer, Clip):
                return answer
            failures.append(answer)
            if answer.deadly:
                shunned.add(answer.path)
        return None
