"""The numbers of a run: one JSON line per write, and one line of progress for the person.

`metrics.jsonl` is the record: each line is one `os.write` to a file opened for appending, so lines
never interleave, and a line torn by a crash can only be the last. Lines carry no wall-clock time:
a resumed run writes the very bytes of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from tqdm import tqdm

from vidiff.errors import RequestError, VidiffError
from vidiff.runs.files import explain, write_atomically

Value = float | int | str | bool | None
Hook = Callable[[dict[str, Any], int], Any]

_logger = logging.getLogger(__name__)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Tracker:
    """Appends to `metrics.jsonl` and tells the other trackers, if any.

    Args:
        path: the file; an existing one is continued.
        hooks: called as `hook(values, step)`, the form of a bound `Accelerator.log`. A hook that
            raises is reported once and left out from then on: a server that is away must not
            end a run.
    """

    def __init__(self, path: str | Path, hooks: Sequence[Hook] = ()) -> None:
        self.path = Path(path)
        self.hooks = list(hooks)
        flags = os.O_APPEND | os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, flags, 0o666)
            self._cut_torn_line()
        except OSError as error:
            raise explain(error, self.path) from error

    @classmethod
    def resume(cls, path: str | Path, step: int, hooks: Sequence[Hook] = ()) -> Tracker:
        """Continue after `step`: later lines are cut off, as if the run had stopped there."""
        path = Path(path)
        if path.exists():
            lines = list(_lines(path))
            kept = [raw for raw, record in lines if record and record["step"] <= step]
            if len(kept) < len(lines):
                with write_atomically(path) as temporary:
                    temporary.write_bytes(b"".join(kept))
        return cls(path, hooks)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line. NaN and infinities are written as text and read back as numbers.

        Raises:
            RequestError: a value that is no number and no text, or one named "step".
            VidiffError: the line could not be written; no part of it stays.
        """
        if "step" in values:
            raise RequestError("A value named 'step' would hide the step itself; rename it.")
        record: dict[str, Any] = {"step": step}
        record |= {name: _plain(name, value) for name, value in values.items()}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise explain(error, self.path) from error
        if written < len(line):
            os.ftruncate(self._file, size)
            raise VidiffError(
                f"{self.path} could not take a whole line; the disk is full.",
                "Free some space and run the same command again.",
            )
        self._tell(dict(values), step)

    def sync(self) -> None:
        """Wait until all lines are on the disk; call it before a checkpoint is saved."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _tell(self, values: dict[str, Value], step: int) -> None:
        for hook in list(self.hooks):
            try:
                hook(values, step)
            except Exception as error:
                self.hooks.remove(hook)
                _logger.warning("A tracker failed and is left out from step %d: %r", step, error)

    def _cut_torn_line(self) -> None:
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._file, data.rfind(b"\n") + 1)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records in order; a torn last line is left out, NaN and infinities are numbers again.

    Raises:
        RequestError: there is no such file.
        VidiffError: a line before the last one is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path} does not exist.", "Give the metrics.jsonl of a run.")
    lines = list(_lines(path))
    for number, (raw, record) in enumerate(lines, 1):
        if record is None and (number < len(lines) or raw.endswith(b"\n")):
            raise VidiffError(
                f"{path}, line {number} is not a record: {raw[:60]!r}.", "Remove that line."
            )
    return [
        {name: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for name, v in record.items()}
        for _, record in lines
        if record is not None
    ]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Each line's bytes, and its record where it is a whole one."""
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            record = None
        whole = raw.endswith(b"\n") and isinstance(record, dict)
        yield raw, record if whole and isinstance(record.get("step"), int) else None


def _plain(name: str, value: Any) -> Value:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else json.dumps(value)
    if value is None or isinstance(value, str | int):
        return value
    raise RequestError(
        f"{name} is a {type(value).__name__}; a number or text is logged.",
        "Take `.item()` of a tensor or an array of one element.",
    )


class Progress:
    """Where a run stands: a bar on a terminal, otherwise one plain line now and then.

    Args:
        total: the last step.
        start: the step this session starts from.
        every: seconds between plain lines.
        main: False on all ranks but the first, which then stay silent.
        stream: where to write; standard error if not given.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        every: int | float = 30.0,
        main: bool = True,
        stream: TextIOBase | None = None,
        clock: Callable[[], int | float] = time.monotonic,
    ) -> None:
        self.total = total
        self._stream: Any = stream or sys.stderr
        self._clock = clock
        self._main = main
        self._step = start
        self._recent = deque([(clock(), start, 0, 0.0)], maxlen=50)
        self._values: dict[str, float] = {}
        self._remaining: float | None = None
        self._bar = None
        if main and self._stream.isatty():
            form = "{n_fmt}/{total_fmt} |{bar:20}| {postfix}"
            self._bar = tqdm(
                total=total, initial=start, file=self._stream, bar_format=form, dynamic_ncols=True
            )
        self._every = 0.2 if self._bar is not None else every
        self._due = -math.inf

    def update(
        self,
        step: int,
        *,
        clips: int = 0,
        waited: int | float = 0.0,
        remaining: int | float | None = None,
        **values: int | float,
    ) -> None:
        """Report that `step` is done.

        Args:
            step: steps done in the whole run.
            clips: clips seen since the last call.
            waited: seconds spent waiting for data since the last call.
            remaining: seconds left, where the caller knows better (a time budget).
            values: numbers to show, such as `loss=0.12`.
        """
        if not self._main:
            return
        now = self._clock()
        _, _, seen, idle = self._recent[-1]
        self._recent.append((now, step, seen + clips, idle + waited))
        self._step, self._values, self._remaining = step, values, remaining
        if now >= self._due:
            self._due = now + self._every
            self._show()

    def say(self, text: str) -> None:
        """Print one line without tearing the bar."""
        if not self._main:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Show the last state and end the line."""
        if self._main and len(self._recent) > 1:
            self._show()
        if self._bar is not None:
            self._bar.close()
        self._main = False

    def _show(self) -> None:
        if self._bar is None:
            self.say(f"step {self._step}/{self.total}  {self._facts()}")
            return
        self._bar.set_postfix_str(self._facts(), refresh=False)
        self._bar.update(self._step - self._bar.n)
        self._bar.refresh()

    def _facts(self) -> str:
        first, last = self._recent[0], self._recent[-1]
        seconds, steps, clips, waited = (b - a for a, b in zip(first, last, strict=True))
        parts = [f"{name} {value:.4g}" for name, value in self._values.items()]
        if seconds > 0 and clips > 0:
            parts += [f"{clips / seconds:.3g} clips/s", f"data wait {waited / seconds:.0%}"]
        parts.append(f"{psutil.Process().memory_info().rss / 1e9:.2f} GB")
        left = self._remaining
        if left is None and seconds > 0 and steps > 0:
            left = (self.total - self._step) * seconds / steps
        if left is not None:
            parts.append(f"{in_words(left)} left")
        return "  ".join(parts)


def in_words(seconds: int | float) -> str:
    """A span of time as a person says it."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
