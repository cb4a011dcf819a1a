"""Batches by position: the same from every worker and cache, and never stopped by one file."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from media import write_clips

from vidiff.data import clips, memory
from vidiff.data.clips import draw_window, fixed_windows
from vidiff.data.index import Index, index_clips
from vidiff.data.loading import load_batches, read_all, read_windows
from vidiff.data.memory import FrameCache
from vidiff.errors import DataError
from vidiff.records import Batch


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write_clips(tmp_path / "clips", 8, num_frames=12, size=(32, 40))
    return index_clips(tmp_path / "clips", num_frames=8, size=32, held_out=0.0, workers=0)


def lists(count: int, size: int = 4, first: int = 0) -> list[list[int]]:
    return [list(range(first + k * size, first + (k + 1) * size)) for k in range(count)]


def same(ours: Batch, theirs: Batch) -> bool:
    return (
        torch.equal(ours.frames, theirs.frames)
        and torch.equal(ours.dt, theirs.dt)
        and (ours.positions, ours.sources) == (theirs.positions, theirs.sources)
    )


def break_file(index: Index, name: str) -> None:
    (Path(index.config.root) / name).write_bytes(b"gone bad since the scan")


def test_a_batch_is_the_windows_of_its_positions(index: Index) -> None:
    (batch,) = load_batches(index, 3, [[9, 2, 40]])
    assert batch.positions == (9, 2, 40)
    for row, position in enumerate(batch.positions):
        window = draw_window(index, 3, position)
        assert batch.sources[row] == window.entry.path
        assert torch.equal(batch.frames[row], clips.read_clip(index, window).frames)


@pytest.mark.parametrize("cache_mb", [0, 512])
def test_the_cache_changes_no_byte(index: Index, cache_mb: int) -> None:
    plain = list(load_batches(index, 0, lists(10), cache_mb=0))
    other = list(load_batches(index, 0, lists(10), cache_mb=cache_mb))
    assert all(map(same, plain, other))


def test_starting_late_gives_the_rest_of_the_same_batches(index: Index) -> None:
    whole = list(load_batches(index, 0, lists(12)))
    rest = list(load_batches(index, 0, lists(5, first=28)))
    assert all(map(same, whole[7:], rest))


def test_workers_give_the_same_batches_and_outlive_the_signals_of_a_cluster(index: Index) -> None:
    break_file(index, "clip0003.mp4")
    plain = load_batches(index, 0, lists(6))
    before = torch.random.get_rng_state()
    worked = load_batches(index, 0, lists(6), workers=2)
    for _ in range(2):
        assert same(next(plain), next(worked))
    while len(pids := worked.pids) < 2:  # one may have read both while the other came up
        time.sleep(0.05)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert all(itertools.starmap(same, zip(plain, worked, strict=True)))
    assert plain.quarantine == worked.quarantine != {}
    worked.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list(worked) == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_endless_positions_are_consumed_as_needed(index: Index) -> None:
    endless = ([n] for n in itertools.count())
    batches = load_batches(index, 0, endless)
    assert [next(batches).positions for _ in range(3)] == [(0,), (1,), (2,)]
    assert next(endless) == [3]


def test_a_clip_gone_bad_is_replaced_noted_and_logged_once(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    good = list(load_batches(index, 0, lists(10)))
    break_file(index, "clip0002.mp4")
    with caplog.at_level(logging.WARNING, logger="vidiff"):
        batches = load_batches(index, 0, [[n] for n in range(40)])
        singles = list(itertools.islice(batches, 30))
    assert list(batches.quarantine) == ["clip0002.mp4"]
    assert "container" in batches.quarantine["clip0002.mp4"]["reason"]
    assert batches.quarantine["clip0002.mp4"]["banned_from"] is None
    assert len(caplog.records) == 1
    rows = [(b.frames[k], b.sources[k]) for b in good for k in range(4)]
    for single, (frames, source) in zip(singles, rows, strict=False):
        kept = torch.equal(single.frames[0], frames)
        assert kept == (source != "clip0002.mp4")


def test_a_replacement_does_not_depend_on_earlier_failures(index: Index) -> None:
    break_file(index, "clip0002.mp4")
    bad = next(n for n in range(99) if draw_window(index, 0, n).entry.path == "clip0002.mp4")
    (alone,) = load_batches(index, 0, [[bad]])
    (beside,) = load_batches(index, 0, [[bad - 1, bad, bad + 1]])
    assert torch.equal(alone.frames[0], beside.frames[1])


def test_more_than_a_twentieth_of_bad_reads_ends_the_run_with_exit_3(index: Index) -> None:
    for k in range(4):
        break_file(index, f"clip000{k}.mp4")
    with pytest.raises(DataError, match=r"more than data\.max_bad=0\.05") as caught:
        list(load_batches(index, 0, lists(20)))
    assert caught.value.exit_code == 3
    assert "vidiff data check" in caught.value.remedy


def test_a_folder_gone_bad_altogether_ends_the_run_at_once(index: Index) -> None:
    for path in Path(index.config.root).iterdir():
        break_file(index, path.name)
    with pytest.raises(DataError, match="10 of 10"):
        next(load_batches(index, 0, [[0]]))


def test_the_cache_keeps_what_fits_and_reads_the_rest(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_file = 12 * 32 * 40 * 3
    cache = FrameCache(index, 0)
    assert cache.kept == set()
    monkeypatch.setattr(memory, "cover_size", lambda entry, size: (640, 683))
    assert len(FrameCache(index, 33).kept) == 33 * 2**20 // (12 * 640 * 683 * 3)
    monkeypatch.undo()
    kept = FrameCache(index, 1)
    assert len(kept.kept) == min(8, 2**20 // whole_file)
    window = fixed_windows(index, 1)[0]
    first = kept(index, window.entry, window.times, window.cover)
    break_file(index, window.entry.path)
    again = kept(index, window.entry, window.times, window.cover)
    assert (first == again).all()


def test_read_all_is_one_batch_of_evenly_spread_windows(index: Index) -> None:
    batch = read_all(index, 10, seed=2)
    windows = fixed_windows(index, 10, seed=2)
    assert batch.frames.shape == (10, 8, 32, 32, 3)
    assert batch.sources == tuple(w.entry.path for w in windows)
    assert torch.equal(batch.frames[7], clips.read_clip(index, windows[7]).frames)
    assert len(read_all(index, 9999)) == index.num_windows


def test_windows_come_in_batches_without_the_unreadable_ones(index: Index) -> None:
    windows = fixed_windows(index, 40)
    assert [len(b) for b in read_windows(index, windows, 16)] == [16, 16, 8]
    break_file(index, "clip0001.mp4")
    with pytest.raises(DataError, match=r"3 of 40.*clip0001\.mp4"):
        list(read_windows(index, windows))
    few = [windows[0], *windows[30:]]
    few[3] = next(w for w in windows if w.entry.path == "clip0001.mp4")
    (batch,) = read_windows(index, few, 16)
    assert len(batch) == len(few) - 1
    assert 3 not in batch.positions
