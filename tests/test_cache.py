"""Frames decoded once: the same bytes as from the files, whole or not there, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from media import clock_frames, write_clips, write_stream_copy, write_video

from vidiff.cli import main
from vidiff.data.cache import cache_key, describe_cache, frames_path, read_records
from vidiff.data.clips import decode
from vidiff.data.index import Index, index_clips
from vidiff.data.loading import load_batches, make_fetch
from vidiff.data.preparing import needed_bytes, prepare_cache, verify_cache
from vidiff.data.verdict import cover_size
from vidiff.errors import DataError, VidiffError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_clips(root, 4, num_frames=12, size=(48, 64))
    options = {"bf": "3", "g": "20", "sc_threshold": "0"}
    write_video(root / "whole.mp4", clock_frames(50, (48, 64)), 12, options=options)
    write_stream_copy(root / "whole.mp4", root / "cut.mp4", first=13)
    stamps = [40 * k + 10 * (k % 3) for k in range(30)]
    write_video(root / "variable.mkv", clock_frames(30, (48, 64)), 25, stamps=stamps)
    return root


@pytest.fixture(scope="module")
def cache(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    done = prepare_cache(look(clips), folder, workers=1)
    assert (done.held, done.added, done.left_out) == (7, 7, {})
    return folder


def look(root: Path, **keys: object) -> Index:
    settings = {"num_frames": 6, "size": 32, "held_out": 0.0, "workers": 0, "cache_mb": 0}
    return index_clips(root, **{**settings, **keys})


def copied(cache: Path, folder: Path) -> Path:
    (folder / "frames").mkdir(parents=True)
    for path in [cache / "index.jsonl", *(cache / "frames").iterdir()]:
        (folder / path.relative_to(cache)).write_bytes(path.read_bytes())
    return folder


def test_a_run_may_change_to_the_cache_at_any_step(clips: Path, cache: Path) -> None:
    plain, cached = look(clips), look(clips, cache=str(cache))
    assert plain.digest == cached.digest
    lists = [list(range(8 * k, 8 * k + 8)) for k in range(plain.num_windows // 8 + 2)]
    for ours, theirs in zip(
        load_batches(plain, 0, lists, 0, 0), load_batches(cached, 0, lists, 0, 0), strict=True
    ):
        assert torch.equal(ours.frames, theirs.frames)
        assert torch.equal(ours.dt, theirs.dt)
        assert (ours.positions, ours.sources) == (theirs.positions, theirs.sources)


def test_frames_come_from_the_cache_and_not_from_the_file(
    clips: Path, cache: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "clips"
    moved.mkdir()
    for path in clips.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    index = look(moved, cache=str(cache))
    entry = index.usable[0]
    times, size = [0.05, 0.31], cover_size(index.usable[0], 32)
    expected = decode(index, entry, times, size)
    (moved / entry.path).write_bytes(b"gone")
    assert np.array_equal(make_fetch(index)(index, entry, times, size), expected)


def test_the_cache_says_what_it_holds(clips: Path, cache: Path) -> None:
    assert describe_cache(look(clips, cache=str(cache))) == f"7 of 7 videos ready in {cache}"
    assert describe_cache(look(clips)) == ""


def test_a_cache_of_another_size_is_refused_with_the_command_that_makes_it(
    clips: Path, cache: Path
) -> None:
    with pytest.raises(DataError, match=r"none of the 7 videos at data\.size=40") as caught:
        make_fetch(look(clips, size=40, cache=str(cache)))
    assert f"vidiff data prepare {clips} --out {cache} size=40" in caught.value.remedy


def test_a_damaged_or_missing_file_is_noticed_and_the_video_read_instead(
    clips: Path, cache: Path, tmp_path: Path
) -> None:
    folder = copied(cache, tmp_path / "cache")
    index = look(clips, cache=str(folder))
    entries = index.usable[:2]
    paths = [frames_path(folder, cache_key(e, cover_size(e, 32))) for e in entries]
    data = bytearray(paths[0].read_bytes())
    data[100] ^= 1
    paths[0].write_bytes(data)
    paths[1].unlink()
    assert sorted(verify_cache(folder)) == sorted(e.path for e in entries)
    fetch = make_fetch(index)
    for entry in entries:
        size = cover_size(entry, 32)
        assert np.array_equal(fetch(index, entry, [0.2], size), decode(index, entry, [0.2], size))


def test_preparing_again_makes_only_what_is_missing(
    clips: Path, cache: Path, tmp_path: Path
) -> None:
    folder, index = copied(cache, tmp_path / "cache"), look(clips)
    assert needed_bytes(index, folder) == 0
    entry = index.usable[2]
    frames_path(folder, cache_key(entry, cover_size(entry, 32))).unlink()
    with open(folder / "index.jsonl", "a") as lines:
        lines.write('{"format": 1, "key": "half a li')
    assert needed_bytes(index, folder) == entry.frames * 32 * cover_size(entry, 32)[1] * 3
    done = prepare_cache(index, folder, workers=1)
    assert (done.held, done.added) == (7, 1)
    assert verify_cache(folder) == []


def test_a_killed_preparation_is_taken_up_where_it_was(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    command = [sys.executable, "-m", "vidiff", "data", "prepare", str(clips), "--out", str(out)]
    command += ["num_frames=6", "size=32", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not read_records(out):
            os.sched_yield()
        process.kill()
    found = len(read_records(out))
    done = prepare_cache(look(clips), out, workers=1)
    assert done.held == 7
    assert done.added <= 7 - found
    assert verify_cache(out) == []
    assert not list((out / "frames").glob(".tmp-*"))


def test_a_disk_too_small_is_refused_before_anything_is_written(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidiff.runs.files.free_space", lambda folder: 1000)
    with pytest.raises(VidiffError, match="needs 695 kB, but only 1 kB is free"):
        prepare_cache(look(clips), tmp_path / "cache", workers=1)
    assert not (tmp_path / "cache").exists()


def test_a_video_that_changed_since_the_scan_is_left_out_and_said(
    clips: Path, tmp_path: Path
) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    write_clips(root, 1, num_frames=12, size=(48, 64))
    index = look(root)
    (root / "clip0000.mp4").write_bytes(b"changed since")
    done = prepare_cache(index, tmp_path / "cache", workers=1)
    assert done.held == 0
    assert done.left_out == {"clip0000.mp4": "It changed after the folder was scanned."}


def test_the_command_estimates_prepares_and_says_how_to_train(
    clips: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "prepare", str(clips), "--out", str(cache), "num_frames=6", "size=32"]
    assert main([*words, "--dry-run"]) == 0
    assert "0.000 GB to write" in capsys.readouterr().out
    assert main([*words, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "7 of 7 videos ready, 0 of them new" in out
    assert f"data.cache={cache}" in out
    assert json.loads((cache / "index.jsonl").read_text().splitlines()[0])["format"] == 1
