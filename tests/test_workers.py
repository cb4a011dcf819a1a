"""Workers that die of what they read, or by another's hand: the same batches come all the same.

A file is deadly here by a caption no decoder sees: `fatal.decode` reads it and really aborts,
hangs or asks for all memory, in the worker's own process.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import fatal
import psutil
import pytest
import torch
from media import write_clips

from vidiff.data import clips, loading, workers
from vidiff.data.clips import draw_window, fixed_windows
from vidiff.data.index import Index, index_clips
from vidiff.data.loading import Batches, load_batches, read_windows
from vidiff.data.replacement import ClipReader, Failure
from vidiff.records import Batch


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write_clips(tmp_path / "clips", 8, num_frames=12, size=(32, 40))
    return index_clips(
        tmp_path / "clips", num_frames=8, size=32, held_out=0.0, workers=1, max_bad=0.5
    )


def load(index: Index, count: int, seed: int = 0, **settings: int) -> Batches:
    lists = [list(range(4 * k, 4 * k + 4)) for k in range(count)]
    return load_batches(index, seed, lists, **settings)


def same(ours: Batch, theirs: Batch) -> bool:
    return torch.equal(ours.frames, theirs.frames) and ours.sources == theirs.sources


def test_a_worker_killed_from_outside_changes_nothing_and_nothing_is_left(index: Index) -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    plain, worked = load(index, 12), load(index, 12, workers=2)
    for _ in range(2):
        assert same(next(plain), next(worked))
    os.kill(worked.pids[0], signal.SIGKILL)
    assert all(itertools.starmap(same, zip(plain, worked, strict=True)))
    assert worked.quarantine == {}
    worked.close()
    assert {child.pid for child in me.children(recursive=True)} <= before


@pytest.mark.slow
def test_a_frozen_worker_changes_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CLIP_SECONDS", 1.0)
    plain, worked = load(index, 12), load(index, 12, workers=2)
    for _ in range(2):
        assert same(next(plain), next(worked))
    os.kill(worked.pids[0], signal.SIGSTOP)
    assert all(itertools.starmap(same, zip(plain, worked, strict=True)))
    assert worked.quarantine == {}
    worked.close()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("abort", "SIGABRT"),
        pytest.param("hang", "within 2 s", marks=pytest.mark.slow),
        pytest.param("eat", "memory", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_ends_its_worker_is_replaced_by_rule_and_then_left_alone(
    index: Index, kind: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CLIP_SECONDS", 2.0)
    monkeypatch.setattr(loading, "decode", fatal.decode)
    fatal.plant(index, "clip0005.mp4", kind)
    batches = load(index, 8, workers=2, cache_mb=0, lag=4)
    found = list(batches)
    batches.close()
    assert list(batches.quarantine) == ["clip0005.mp4"]
    about = batches.quarantine["clip0005.mp4"]
    assert word in about["reason"]
    first = next(n for n in range(48) if draw_window(index, 0, n).entry.path == "clip0005.mp4")
    assert about["banned_from"] == (None if kind == "eat" else first + 4)
    # Whoever reads, and whenever the ban takes hold, a position gets what the rule gives it.
    rule = ClipReader(index, 0, clips.decode)
    for batch in found:
        expected, _ = rule.read(batch.positions, {"clip0005.mp4": 0})
        assert same(batch, expected)


def test_what_another_process_met_is_banned_here_too(index: Index) -> None:
    batches = load(index, 12, workers=1, lag=16)
    first = next(batches)
    batches.share([Failure(2, "clip0004.mp4", "It ended its process.", deadly=True)])
    assert batches.quarantine["clip0004.mp4"]["banned_from"] == 18
    rule = ClipReader(index, 0, clips.decode)
    found = [first, *batches]
    batches.close()
    late = load_batches(index, 0, [[40, 41, 42, 43]], 0, quarantine=batches.quarantine)
    for batch in [*found, next(late)]:
        expected, _ = rule.read(batch.positions, {"clip0004.mp4": 18})
        assert same(batch, expected)
    assert any("clip0004.mp4" in batch.sources for batch in found)


def test_clips_for_evaluation_are_read_by_workers_too(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "decode", fatal.decode)
    windows = fixed_windows(index, 20)
    (whole,) = read_windows(index, windows, 20)
    fatal.plant(index, "clip0005.mp4", "abort")
    (batch,) = read_windows(index, windows, 20)
    rows = [k for k, window in enumerate(windows) if window.entry.path != "clip0005.mp4"]
    assert list(batch.positions) == rows != list(range(20))
    assert torch.equal(batch.frames, whole.frames[rows])


def test_no_worker_outlives_a_trainer_that_was_killed(index: Index) -> None:
    code = """
import itertools, sys, time
from vidiff.data.index import index_clips
from vidiff.data.loading import load_batches
index = index_clips(sys.argv[1], num_frames=8, size=32, held_out=0.0)
batches = load_batches(index, 0, ([n] for n in itertools.count()), workers=2)
next(batches)
print("ready", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, index.config.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        left = psutil.Process(trainer.pid).children(recursive=True)
        assert len(left) >= 2
        trainer.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert alive == []
