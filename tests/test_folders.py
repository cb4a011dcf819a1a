"""Whole folders as people bring them, through the command: complaints and hostile files."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media import clock_frames, make_bad_files, moving_square, write_clips, write_video

from vidiff.cli import main
from vidiff.data.index import scan
from vidiff.data.verdict import DataConfig

MUTANTS = int(os.environ.get("VIDIFF_MUTANTS", "120"))


def test_a_folder_of_eight_classic_complaints_gives_its_verdict_table(tmp_path: Path) -> None:
    """Counts that other trainers lose by re-timing, rounding or trusting the header."""
    films = {
        # 101 frames at 30 a second, reported as 67 after silent re-timing to 16.
        "retimed.mp4": (101, 30.0, 101 - 64),
        # No bucket with enough items: one file alone is used, and so is a second length.
        "alone.mp4": (65, 24.0, 1),
        # 65 frames counted as 64 and skipped.
        "counted.mp4": (65, 16.0, 1),
        # Exactly the clip length plus or minus one frame.
        "shorter.mp4": (64, 24.0, 0),
        "longer.mp4": (66, 24.0, 2),
        # A rate that is not whole, whose duration rounds down.
        "ntsc.mp4": (66, 24000 / 1001, 2),
    }
    for name, (frames, fps, _) in films.items():
        write_video(tmp_path / name, moving_square(frames, (32, 32), seed=len(name)), fps)
    stamps = np.cumsum([33, 34, 50] * 24).tolist()
    write_video(tmp_path / "phone.mp4", moving_square(72, (32, 32)), 30, stamps=stamps)
    # Frame count in the header wrong or missing, and a file that ends early.
    write_video(tmp_path / "stream.webm", moving_square(70, (32, 32)), 24, codec="libvpx-vp9")
    cut = (tmp_path / "longer.mp4").read_bytes()
    (tmp_path / "corrupt.mp4").write_bytes(cut[: len(cut) // 2])
    words = ["num_frames=65", "size=32", "min_usable=0"]
    out = tmp_path / "verdicts"
    code = main(["data", "check", str(tmp_path), *words, "--json", f"{out}.json"])
    assert code == 0
    files = {f["path"]: f for f in json.loads(Path(f"{out}.json").read_text())["files"]}
    for name, (frames, fps, windows) in films.items():
        assert (files[name]["frames"], files[name]["windows"]) == (frames, windows), name
        assert files[name]["fps"] == pytest.approx(fps, rel=1e-3)
    assert "2.67 s (64 frames); a clip of 65 frames takes 2.71 s" in files["shorter.mp4"]["reason"]
    assert files["phone.mp4"]["vfr"]
    assert files["phone.mp4"]["windows"] == 8
    assert (files["stream.webm"]["frames"], files["stream.webm"]["windows"]) == (70, 6)
    assert not files["corrupt.mp4"]["usable"]
    assert all(f["usable"] or (f["reason"] and f["remedy"]) for f in files.values())


def test_training_is_refused_under_the_usable_share_with_a_table_of_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path, 1)
    for k in range(3):
        write_video(tmp_path / f"short{k}.mp4", moving_square(9, seed=k), 10)
    (tmp_path / "bad.mp4").write_text("nothing")
    run = ["train", "configs/tiny.yaml", f"data.root={tmp_path}", f"out={tmp_path / 'run'}"]
    assert main([*run, "data.num_frames=16"]) == 3
    told = capsys.readouterr().err
    assert "Only 1 of 5 videos" in told
    assert "3  It lasts 0.90 s (9 frames)" in told
    assert "1  It does not begin like any known video container." in told
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_command_writes_verdicts_as_json_csv_and_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "clips"
    for name in ("cats", "dogs"):
        write_clips(root / name, 3)
    (root / "cats" / "clip0000.txt").write_text("a <img src=x onerror=alert(1)> cat")
    make_bad_files(root)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "html")}
    command = ["data", "check", str(root), "min_usable=0", "--json", str(files["json"])]
    code = main([*command, "--csv", str(files["csv"]), "--card", str(files["html"])])
    assert code == 0
    told = capsys.readouterr().out
    assert "class cats" in told
    assert "films have no caption" in told
    entries = json.loads(files["json"].read_text())["files"]
    with open(files["csv"], newline="") as file:
        assert len(list(csv.DictReader(file))) == len(entries)
    page = files["html"].read_text()
    assert "<img src=x" not in page
    assert "Why files are not used" in page
    assert page.count("data:image/png") == 7


def claim_16k(path: Path) -> None:
    """Changes the size that the headers of a 96 x 64 MJPEG film in AVI claim."""
    data = path.read_bytes()
    for form, size in (("<II", (96, 64)), (">HH", (64, 96))):
        data = data.replace(struct.pack(form, *size), struct.pack(form, 16384, 16384))
    path.write_bytes(data)


def test_hostile_files_are_refused_by_name_and_nothing_beside_them_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write_clips(root, 2)
    write_clips(outside, 1)
    secret = outside / "clip0000.mp4"
    (root / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    (root / "live.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    (root / "dash.mp4").write_text("<MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>")
    (root / "subfile,,start,0,end,99,,:x.mp4").write_text("x")
    (root / "loop").symlink_to(root)
    (root / "self.mp4").symlink_to(root / "self.mp4")
    (root / "out.mp4").symlink_to(secret)
    (root / "dir.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    write_video(root / "wide.avi", clock_frames(20, (64, 96)), codec="mjpeg", pix_fmt="yuvj420p")
    claim_16k(root / "wide.avi")
    index = scan(DataConfig(root=str(root)))
    assert [e.path for e in index.usable] == ["clip0000.mp4", "clip0001.mp4"]
    refused = {e.path: e.reason for e in index.entries if not e.usable}
    for name, word in {
        "list.mp4": "container", "live.mp4": "container", "dash.mp4": "container",
        "self.mp4": "cannot be reached", "out.mp4": "leaves the folder", "dir.mp4": "folder",
        "pipe.mp4": "pipe", "wide.avi": "pixels",
    }.items():  # fmt: skip
        assert word in refused[name], name


@pytest.mark.slow
def test_mutated_videos_all_get_a_verdict_and_end_no_command(tmp_path: Path) -> None:
    """`VIDIFF_MUTANTS=1000` for the full count."""
    rng = np.random.default_rng(0)
    wholes = []
    for k, (codec, suffix) in enumerate(
        [("libx264", "mp4"), ("libx264", "mp4"), ("libx265", "mp4"), ("mpeg4", "mp4")]
    ):
        frames = moving_square(40, (64, 96), seed=k)
        options = {"movflags": "faststart"} if k == 1 else None
        path = write_video(tmp_path / f"{k}.{suffix}", frames, codec=codec, options=options)
        wholes.append(np.frombuffer(path.read_bytes(), np.uint8))
    (tmp_path / "bad").mkdir()
    for k in range(MUTANTS):
        mutant = wholes[k % 4].copy()
        hits = rng.integers(8, len(mutant), rng.integers(1, 40))
        mutant[hits] = rng.integers(0, 256, len(hits))
        end = len(mutant) if k % 5 else int(rng.integers(1, len(mutant)))
        (tmp_path / "bad" / f"{k:04d}.mp4").write_bytes(mutant[:end].tobytes())
    command = [sys.executable, "-m", "vidiff", "data", "check", str(tmp_path / "bad")]
    done = subprocess.run(
        [*command, "min_usable=0", "num_frames=8", "--json", str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 3), done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert len(told["files"]) == MUTANTS
    assert all(f["usable"] or (f["reason"] and f["remedy"]) for f in told["files"])
    print(told["summary"]["usable"], told["summary"]["reasons"])
