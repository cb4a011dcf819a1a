from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import file_size_limit

from vidiff.errors import RequestError, VidiffError
from vidiff.runs.tracking import Progress, Tracker, read_metrics


def test_each_log_is_one_line_of_json_and_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    real = os.write

    def write(handle: int, data: bytes) -> int:
        writes.append(data)
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    tracker = Tracker(tmp_path / "run" / "metrics.jsonl")
    tracker.log(1, {"loss": 0.1 + 0.2, "task": "generate\n", "clips": 8, "ok": True})
    tracker.log(1, {"held_out": 1e-300})
    tracker.close()
    assert len(writes) == 2
    assert tracker.path.read_bytes() == b"".join(writes)
    assert read_metrics(tracker.path) == [
        {"step": 1, "loss": 0.1 + 0.2, "task": "generate\n", "clips": 8, "ok": True},
        {"step": 1, "held_out": 1e-300},
    ]


def test_nan_and_infinity_are_valid_json_and_come_back_as_numbers(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "metrics.jsonl")
    tracker.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float64("nan")})
    tracker.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(tracker.path.read_text(), parse_constant=refuse)
    (record,) = read_metrics(tracker.path)
    assert math.isnan(record["a"])
    assert math.isnan(record["d"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("value", [torch.tensor(1.0), np.float32(1), [1.0], {"a": 1}])
def test_a_value_that_is_no_number_and_no_text_is_refused(tmp_path: Path, value: Any) -> None:
    tracker = Tracker(tmp_path / "metrics.jsonl")
    with pytest.raises(RequestError, match="loss is a"):
        tracker.log(1, {"loss": value})
    with pytest.raises(RequestError, match="step"):
        tracker.log(1, {"step": 2})
    tracker.close()
    assert read_metrics(tracker.path) == []


def test_lines_after_the_resumed_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    straight = Tracker(tmp_path / "straight.jsonl")
    tracker = Tracker(path)
    for step in range(1, 8):
        tracker.log(step, {"loss": 1 / step})
    tracker.close()
    tracker = Tracker.resume(path, 4)
    for step in range(5, 10):
        tracker.log(step, {"loss": 1 / step})
    for step in range(1, 10):
        straight.log(step, {"loss": 1 / step})
    tracker.close()
    straight.close()
    assert path.read_bytes() == straight.path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "straight.jsonl"]


def test_resuming_where_nothing_was_logged_starts_a_file(tmp_path: Path) -> None:
    tracker = Tracker.resume(tmp_path / "metrics.jsonl", 0)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert len(read_metrics(tracker.path)) == 1


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "a": 2}\n{"step": 2, "a": 10000}\n'
    path.write_bytes(whole[:-cut])
    assert read_metrics(path) == [{"step": 1, "a": 2}]
    for tracker in (Tracker(path), Tracker.resume(path, 5)):
        tracker.close()
        assert path.read_bytes() == b'{"step": 1, "a": 2}\n'
    tracker = Tracker(path)
    tracker.log(2, {"a": 10000})
    tracker.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"\0\0\0", b"{", b"[1]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(VidiffError, match="line 2 is not a record"):
        read_metrics(path)
    Tracker.resume(path, 3).close()
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]


def test_missing_metrics_are_a_bad_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_hooks_get_values_and_step_as_accelerate_wants_them(tmp_path: Path) -> None:
    seen = []
    tracker = Tracker(
        tmp_path / "metrics.jsonl", [lambda values, step: seen.append((values, step))]
    )
    tracker.log(3, {"loss": 0.5})
    tracker.close()
    assert seen == [({"loss": 0.5}, 3)]


def test_a_hook_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def away(values: dict[str, Any], step: int) -> None:
        raise ConnectionError("server is away")

    tracker = Tracker(tmp_path / "metrics.jsonl", [away, lambda values, step: seen.append(step)])
    tracker.log(1, {"loss": 0.5})
    tracker.log(2, {"loss": 0.5})
    tracker.close()
    assert seen == [1, 2]
    assert caplog.text.count("server is away") == 1
    assert len(read_metrics(tracker.path)) == 2


@pytest.mark.parametrize("room", [0, 1, 15])
def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, room: int) -> None:
    tracker = Tracker(tmp_path / "metrics.jsonl")
    tracker.log(1, {"loss": 0.5})
    size = tracker.path.stat().st_size
    with file_size_limit(size + room), pytest.raises(VidiffError, match=r"metrics\.jsonl could"):
        tracker.log(2, {"loss": 0.25})
    tracker.log(3, {"loss": 0.125})
    tracker.sync()
    tracker.close()
    tracker.close()
    assert [record["step"] for record in read_metrics(tracker.path)] == [1, 3]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_plain_line_comes_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, start=10, every=30, stream=stream, clock=clock)
    for step in range(11, 21):
        clock.now += 10
        progress.update(step, clips=8, waited=2.5, loss=1 / step)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["11/100", "14/100", "17/100", "20/100", "20/100"]
    assert "loss 0.05 " in lines[3]
    assert "0.8 clips/s" in lines[3]
    assert "data wait 25%" in lines[3]
    assert " GB " in lines[3]
    assert "13 min 20 s left" in lines[3]
    assert "\r" not in stream.getvalue()


def test_a_time_budget_overrides_the_remaining_time() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10, stream=stream, clock=clock)
    clock.now = 1
    progress.update(1, remaining=3 * 3600 + 125)
    assert "3 h 02 min left" in stream.getvalue()


def test_on_a_terminal_there_is_one_line_that_renews_itself() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(4, stream=stream, clock=clock)
    for step in (1, 2, 4):
        clock.now += 1
        progress.update(step, clips=2, loss=0.5)
    progress.say("checkpoint saved")
    progress.close()
    text = stream.getvalue()
    assert "4/4" in text
    assert "2 clips/s" in text
    assert "checkpoint saved\n" in text
    assert text.count("\n") == 2


def test_other_ranks_are_silent() -> None:
    stream = Terminal()
    progress = Progress(4, main=False, stream=stream)
    progress.update(1, clips=2, loss=0.5)
    progress.say("hello")
    progress.close()
    assert stream.getvalue() == ""


def test_progress_that_never_began_says_nothing() -> None:
    stream = io.StringIO()
    Progress(4, stream=stream).close()
    assert stream.getvalue() == ""
