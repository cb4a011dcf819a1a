from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from disks import file_size_limit

from vidiff.errors import RequestError, VidiffError
from vidiff.runs import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "new" / "a.txt", "old")

    def write_half() -> None:
        with files.write_atomically(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    with file_size_limit(3), pytest.raises(VidiffError, match=r"a\.txt could not be written"):
        files.write_text(path, "longer than three")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_full_disk_says_how_much_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"

    def write_to_a_full_disk() -> None:
        with files.write_atomically(path) as temporary:
            assert temporary.suffix == ".mp4"
            Path("/dev/full").write_bytes(b"x")

    with pytest.raises(VidiffError, match="No space left") as caught:
        write_to_a_full_disk()
    assert "is free on that disk" in caught.value.remedy
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_a_bad_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder.txt", tmp_path / ("x" * 300)):
        with pytest.raises(RequestError, match="could not be written"):
            files.write_text(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.txt"]


def test_json_files_have_no_bare_nan(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "a.json", {"a": [math.nan, (math.inf, 1.5)], "b": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [None, [None, 1.5]], "b": "ü"}
