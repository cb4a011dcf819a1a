"""Words beside the films: sidecars, tables, and what must not be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import write_clips

from vidiff.data.captions import Words, read_sidecar, read_table
from vidiff.data.index import index_clips, scan
from vidiff.data.verdict import DataConfig
from vidiff.errors import DataError


def test_a_table_gives_captions_and_labels_and_a_sidecar_stands_above_it(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_clips(tmp_path / name, 2)
    (tmp_path / "metadata.csv").write_text(
        "file_name,caption,label\ncat/clip0000.mp4,a cat,\ndog/clip0000.mp4,a wolf,wolf\n"
        "dog/clip0001.mp4,of the table,\n"
    )
    (tmp_path / "dog" / "clip0001.json").write_text('{"caption": "of the sidecar"}')
    index = index_clips(tmp_path)
    told = {e.path: (e.label, e.caption) for e in index.entries}
    assert told == {
        "cat/clip0000.mp4": ("cat", "a cat"),
        "cat/clip0001.mp4": ("cat", None),
        "dog/clip0000.mp4": ("wolf", "a wolf"),
        "dog/clip0001.mp4": ("dog", "of the sidecar"),
    }
    assert index.classes == index.labels == ("cat", "dog", "wolf")
    assert index.summary()["captions"] == 3


def test_a_table_of_json_lines_is_read_alike(tmp_path: Path) -> None:
    lines = [{"path": "a.mp4", "text": "first"}, {"file": "b\\c.mp4", "label": 7}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_table(tmp_path) == {"a.mp4": Words("first"), "b/c.mp4": Words(None, "7")}
    assert read_table(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("metadata.csv", "name,caption\na.mp4,x\n", "row 1 names no file"),
        ("metadata.csv", "file_name,caption\n../a.mp4,x\n", "not below the folder"),
        ("metadata.csv", "file_name,caption\n/etc/passwd,x\n", "not below the folder"),
        ("metadata.csv", "file_name,caption\nhttp://x/a.mp4,x\n", "not below the folder"),
        ("metadata.jsonl", "[1]\n", "not an object"),
        ("metadata.jsonl", "{broken\n", "cannot be read"),
        ("metadata.jsonl", '{"path": "a.mp4", "caption": {"x": 1}}\n', "is not text"),
    ],
)
def test_a_table_that_cannot_be_used_refuses_the_folder(
    tmp_path: Path, name: str, text: str, word: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=word) as caught:
        scan(DataConfig(root=str(tmp_path)))
    assert caught.value.remedy


def test_a_table_or_sidecar_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("file_name,caption\na.mp4,secret\n")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "secret", root / "metadata.csv")
    os.symlink(tmp_path / "secret", root / "a.txt")
    assert read_table(root) == {}
    assert read_sidecar(root / "a.mp4") == Words()


@pytest.mark.parametrize("text", ["[1, 2]", "nonsense", '{"caption": [1]}', "[" * 60_000])
def test_a_sidecar_that_cannot_be_read_refuses_its_film(tmp_path: Path, text: str) -> None:
    write_clips(tmp_path, 2)
    (tmp_path / "clip0001.json").write_text(text)
    reasons = [e.reason for e in scan(DataConfig(root=str(tmp_path))).entries]
    assert reasons[0] == ""
    assert "clip0001.json cannot be read" in reasons[1]


@settings(max_examples=500, deadline=None)
@given(st.text(min_size=1, max_size=5000) | st.sampled_from(["..", "a/../../b", "C:\\x", "\0"]))
def test_no_name_in_a_table_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "names"
    root.mkdir(exist_ok=True)
    (root / "metadata.jsonl").write_text(json.dumps({"path": name, "caption": "x"}))
    try:
        found = read_table(root)
    except DataError:
        return
    for place in found:
        assert "\0" not in place
        assert os.path.normpath(root / place).startswith(str(root))
