"""Facts are found once, kept by content, and survive kills, moves and damage to their store."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from media import moving_square, write_clips, write_video

from vidiff.data import scanning
from vidiff.data.index import Index, scan
from vidiff.data.scanning import cache_folder, find_facts
from vidiff.data.verdict import DataConfig
from vidiff.data.walk import walk


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this test alone."""
    monkeypatch.setenv("VIDIFF_CACHE", str(tmp_path / "store"))
    return tmp_path / "store" / "index.sqlite"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clips(tmp_path / "clips", 4)
    return tmp_path / "clips"


def look(root: Path) -> Index:
    return scan(DataConfig(root=str(root)))


def contents(store: Path) -> int:
    base = sqlite3.connect(store)
    (count,) = base.execute("SELECT count(*) FROM facts").fetchone()
    base.close()
    return int(count)


def test_a_second_scan_opens_no_file(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look(folder)
    monkeypatch.setattr(scanning, "supervise", lambda *args: iter([]))
    assert look(folder).entries == before.entries
    assert contents(store) == 4


def test_a_moved_file_is_known_by_its_content(folder: Path, store: Path, tmp_path: Path) -> None:
    before = look(folder)
    shutil.copytree(folder, tmp_path / "moved", copy_function=shutil.copyfile)
    base = sqlite3.connect(store)
    with base:
        base.execute("UPDATE facts SET facts = replace(facts, '\"h264\"', '\"kept\"')")
    base.close()
    after = look(tmp_path / "moved")
    assert {e.codec for e in before.entries} == {"h264"}
    assert {e.codec for e in after.entries} == {"kept"}


def test_a_changed_file_is_examined_again(folder: Path, store: Path) -> None:
    before = look(folder)
    write_video(folder / "clip0002.mp4", moving_square(30, seed=9), 10)
    after = look(folder)
    assert [e.frames for e in before.entries] == [16] * 4
    assert [e.frames for e in after.entries] == [16, 16, 30, 16]
    assert before.entries[0].sha256 == after.entries[0].sha256


@pytest.mark.parametrize("damage", ["text", "half", "values"])
def test_a_damaged_store_is_begun_anew(
    folder: Path, store: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = look(folder)
    if damage == "text":
        store.write_text("this is no database " * 500)
    elif damage == "half":
        store.write_bytes(store.read_bytes()[:5000] + bytes(8000))
    else:
        base = sqlite3.connect(store)
        with base:
            base.execute("UPDATE facts SET facts = '{\"codec\": 1}'")
        base.close()
    with caplog.at_level(logging.WARNING, logger="vidiff"):
        assert look(folder).entries == before.entries
    if damage == "text":
        assert "damaged" in caplog.text
    assert look(folder).entries == before.entries


def test_without_a_store_a_scan_works_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDIFF_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING, logger="vidiff"):
        assert len(look(folder).usable) == 4
    assert "nothing is kept" in caplog.text


def test_the_store_lies_in_the_cache_folder_and_nothing_in_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(folder.rglob("*"))
    look(folder)
    assert sorted(folder.rglob("*")) == before
    monkeypatch.delenv("VIDIFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/vidiff")


def test_a_killed_scan_goes_on_where_it_was(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    write_clips(root, 40)
    code = "import sys; from vidiff.data.index import index_clips; index_clips(sys.argv[1])"
    child = subprocess.Popen([sys.executable, "-c", code, str(root)])
    while not store.exists() or contents(store) < 5:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = contents(store)
    asked = []
    find_facts(str(root), walk(root)[0], progress=lambda done, met: asked.append(done))
    assert 5 <= kept < 40
    assert asked == list(range(1, 41))
    assert contents(store) == 40


def test_an_unreadable_file_is_told_and_not_kept(folder: Path, store: Path) -> None:
    found, _ = walk(folder)
    (folder / "clip0001.mp4").unlink()
    facts = find_facts(str(folder), found)
    assert "cannot be opened" in facts["clip0001.mp4"][1].reason
    assert contents(store) == 3
