"""What vidiff says when it cannot go on: the cause in one sentence, the way out in another.

The exit codes are a contract with scripts: 0 done, 1 a fault of ours, 2 a bad request or config,
3 unusable data, 4 the numbers went bad, 75 stopped on request (run the same command again).
"""

from __future__ import annotations


class VidiffError(Exception):
    """Base of every error meant for a person.

    Args:
        cause: what is wrong, where, with the value received and the rule it breaks.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}\n{self.remedy}" if self.remedy else self.cause


class RequestError(VidiffError):
    """A bad request: unknown key, wrong type, missing file, impossible combination (exit 2)."""

    exit_code = 2


class DataError(VidiffError):
    """The clips cannot be used: empty folder, too short, too few, unreadable (exit 3)."""

    exit_code = 3


class NumbersError(VidiffError):
    """The numbers went bad: the loss or the weights are no longer finite (exit 4)."""

    exit_code = 4


class Stopped(VidiffError):
    """Stopped on request after saving; the same command goes on (exit 75, EX_TEMPFAIL)."""

    exit_code = 75
