"""Training over a folder that means harm: it ends as it should, and touches nothing else.

    VIDIFF_SOAK=200 python -m pytest -m slow tests/test_soak.py -s

makes the folder of 200 good and 200 damaged files; by default there are 12 of each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from media import moving_square, write_clips, write_video

COUNT = int(os.environ.get("VIDIFF_SOAK", "12"))
WORKER_BYTES = 1.5e9
WORDS = [
    "data.num_frames=8", "data.size=32", "data.workers=2", "data.min_usable=0.1",
    "train.batch_size=8", "train.calibration_clips=8",
    "train.held_out_clips=2", "train.threads=1", "train.checkpoint_every=20",
]  # fmt: skip


def damage(source: Path, folder: Path, count: int) -> None:
    """Copies with bytes changed, ends cut off, stretches zeroed and boxes moved."""
    whole = np.frombuffer(source.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for k in range(count):
        data = whole.copy()
        if k % 4 == 0:
            data = data[: rng.integers(100, len(data))]
        elif k % 4 == 1:
            first = rng.integers(40, len(data) - 400)
            data[first : first + 400] = 0
        else:
            hits = rng.integers(8, len(data), rng.integers(1, 60))
            data[hits] = rng.integers(0, 256, len(hits))
        (folder / f"bad{k:04d}.mp4").write_bytes(data.tobytes())


def hostile_folder(folder: Path, outside: Path) -> None:
    """The good, the damaged, and everything that is no plain file of a video."""
    write_clips(folder, COUNT, num_frames=24, size=(48, 64))
    damage(write_video(outside, moving_square(48, (48, 64))), folder, COUNT)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "inside").symlink_to(folder)
    (folder / "outside.mp4").symlink_to(outside)
    (folder / "x.mp4").mkdir()
    (folder / "huge.y4m").write_bytes(b"YUV4MPEG2 W16384 H16384 F10:1 C420\nFRAME\n" + b"\0" * 4096)
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile {outside}\n")
    (folder / "live.mp4").write_text(
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    hour = np.repeat(moving_square(60, (48, 64)), 300, axis=0)
    write_video(folder / "hour.mp4", hour, 5, options={"preset": "ultrafast", "g": "100"})


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_training_survives_a_folder_that_means_harm(tmp_path: Path) -> None:
    root, outside, out = tmp_path / "clips", tmp_path / "outside.mp4", tmp_path / "run"
    hostile_folder(root, outside)
    steps = 10 + COUNT // 2
    config = tmp_path / "config.yaml"
    config.write_text("model:\n  size: tiny\n")
    command = [sys.executable, "-m", "vidiff", "train", str(config), f"data.root={root}"]
    command += [f"out={out}", f"train.steps={steps}", *WORDS]
    log = tmp_path / "calls"
    trace = ["strace", "-f", "-qq", "-e", "trace=open,openat,connect", "-o", str(log)]
    traced = shutil.which("strace") is not None
    most = 0
    with open(tmp_path / "words", "w") as words:
        process = subprocess.Popen(
            [*(trace if traced else []), *command], stdout=words, stderr=words
        )
        trainer = psutil.Process(process.pid)
        while process.poll() is None:
            for child in trainer.children(recursive=True):
                try:
                    if "supervision" in " ".join(child.cmdline()):
                        most = max(most, child.memory_info().rss)
                except psutil.Error:
                    continue
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    said = (tmp_path / "words").read_text()
    assert process.returncode == 0, said[-3000:]
    assert most < WORKER_BYTES
    quarantine = out / "quarantine.json"
    listed = json.loads(quarantine.read_text()) if quarantine.exists() else {}
    print(f"{steps} steps, largest worker {most / 1e6:.0f} MB, quarantined {len(listed)}")
    assert set(listed) <= {p.name for p in root.iterdir()}
    if traced:
        calls = log.read_text(errors="replace")
        assert "openat" in calls
        assert not re.findall(r"open(?:at)?\([^\n]*outside\.mp4[^\n]*= \d", calls)
        assert not re.findall(r"connect\([^\n]*AF_INET", calls)
    table = subprocess.run(
        [sys.executable, "-m", "vidiff", "data", "check", str(root), "num_frames=8", "size=32",
         "min_usable=0.1", "--json", str(tmp_path / "table.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert table.returncode == 0, table.stderr
    files = json.loads((tmp_path / "table.json").read_text())["files"]
    verdicts = {f["path"]: f["usable"] for f in files}
    for name in (
        "pipe.mp4",
        "loop.mp4",
        "outside.mp4",
        "x.mp4",
        "huge.y4m",
        "list.mp4",
        "live.mp4",
    ):
        assert verdicts[name] is False
    assert verdicts["hour.mp4"] is True
    assert sum(name.startswith("bad") for name in verdicts) == COUNT
    print(f"{sum(verdicts.values())} of {len(verdicts)} files usable")
