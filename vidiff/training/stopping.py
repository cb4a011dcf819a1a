"""Stopping on request: a signal is noted, the step is finished, the state saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_REQUEST = 5.0
"""Seconds within which a process of several takes signals for one: a cluster signals every
process, and the launcher passes on what it got."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that fills when TERM, INT or USR1 arrives; the second one ends the process at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kinds = [signal.SIGTERM, signal.SIGINT]
    kinds += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
    launched = "LOCAL_RANK" in os.environ
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not asked:
            asked.append(number)
            first = time.monotonic()
            if not launched:
                # The system's own handler ends even a process that no longer runs Python.
                for kind in kinds:
                    signal.signal(kind, signal.SIG_DFL)
        elif time.monotonic() - first > SAME_REQUEST:
            os._exit(128 + number)

    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
