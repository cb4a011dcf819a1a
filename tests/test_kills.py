"""Killed at any moment, stopped in any way, on a full disk: nothing is lost.

`VIDIFF_KILLS` and `VIDIFF_STOPS` set how often (50 and 10 are the full counts).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from processes import CONFIG, left_of, lines_of, start, wait_for, words_for

from vidiff.runs import checkpoint
from vidiff.runs.files import TEMPORARY
from vidiff.runs.tracking import read_metrics

KILLS = int(os.environ.get("VIDIFF_KILLS", "6"))
STOPS = int(os.environ.get("VIDIFF_STOPS", "1"))
LONG = ("train.steps=100000", "train.checkpoint_every=100000", "optimizer.lr=0.01",
        "train.held_out_every=100000", "train.preview_every=100000")  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    return process.communicate(timeout=seconds)[0]


def writing(out: Path) -> bool:
    """Whether a save is under way."""
    return any((out / "checkpoints").glob(f"{TEMPORARY}*"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_at_random_moments_leaves_the_uninterrupted_curve(
    clips: Path, tmp_path: Path
) -> None:
    more = ("train.steps=200", "train.checkpoint_every=1", "train.keep=1", "optimizer.lr=0.01")
    reference = tmp_path / "reference"
    process = start(words_for(clips, reference, *more))
    assert process.wait(timeout=600) == 0
    process.communicate()
    dice, inside, runs = random.Random(0), 0, 0
    out, kills = tmp_path / "killed-0", 0
    while kills < KILLS:
        process = start(words_for(clips, out, *more))
        before = lines_of(out / "metrics.jsonl")
        wait_for(lambda o=out, b=before: lines_of(o / "metrics.jsonl") > b + 1, process)
        time.sleep(dice.uniform(0, 0.5))
        if kills % 2:
            wait_for(lambda o=out: writing(o), process)
        inside += writing(out)
        process.kill()
        kills += 1
        finish(process)
        found = checkpoint.latest(out / "checkpoints")
        assert found is not None
        assert found[1] == []
        if int(found[0].name[5:]) > 180:
            same_end(start(words_for(clips, out, *more)), out, reference)
            runs += 1
            out = tmp_path / f"killed-{runs}"
    same_end(start(words_for(clips, out, *more)), out, reference)
    print(f"{kills} kills, {inside} inside a save, {runs + 1} run(s) on the uninterrupted curve")
    assert inside >= 0.3 * kills


def same_end(process: subprocess.Popen[str], out: Path, reference: Path) -> None:
    """The run ends, byte for byte, like the one that nobody killed, and nothing half is left."""
    text = finish(process, 600)
    assert process.returncode == 0, text
    name = "checkpoints/step-00000200"
    files = [f"{name}/{path.name}" for path in (reference / name).iterdir()] + ["metrics.jsonl"]
    assert [f for f in files if (out / f).read_bytes() != (reference / f).read_bytes()] == []
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000200"]


def stop_launcher(process: subprocess.Popen[str], out: Path) -> None:
    process.terminate()


def stop_group(process: subprocess.Popen[str], out: Path) -> None:
    os.killpg(process.pid, signal.SIGTERM)


def stop_one_rank(process: subprocess.Popen[str], out: Path) -> None:
    ranks = [p for p in psutil.Process(process.pid).children() if "RANK" in p.environ()]
    assert len(ranks) == 2
    ranks[random.randrange(2)].terminate()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stop", [stop_launcher, stop_group, stop_one_rank])
def test_term_saves_at_the_current_step_with_two_processes(
    stop: Callable[..., None], clips: Path, tmp_path: Path
) -> None:
    for n in range(STOPS):
        out = tmp_path / f"{n}"
        process = start(words_for(clips, out, *LONG), processes=2)
        wait_for(lambda o=out, k=n: lines_of(o / "metrics.jsonl") > 3 + k, process)
        stop(process, out)
        text = finish(process, 60)
        assert process.returncode == 75, text
        assert saved_at_the_last_step(out)
        assert left_of(out) == []


def saved_at_the_last_step(out: Path) -> bool:
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    return found[1] == [] and int(found[0].name[5:]) == lines[-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_other_launchers_train_and_stop_too(launcher: str, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if launcher == "torchrun":
        head = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    else:
        head = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    words = ["-m", "vidiff", "train", str(CONFIG), *words_for(clips, out, *LONG)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *head, *words],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for(lambda: lines_of(out / "metrics.jsonl") > 3, process)
    process.terminate()
    finish(process, 60)
    wait_until_gone(out)
    assert saved_at_the_last_step(out)


def wait_until_gone(out: Path, seconds: float = 60) -> None:
    gone = [psutil.Process(pid) for pid in left_of(out)]
    _, alive = psutil.wait_procs(gone, timeout=seconds)
    assert alive == []


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_leave(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(words_for(clips, out, *LONG), processes=2)
    wait_for(lambda: lines_of(out / "metrics.jsonl") > 3, process)
    process.kill()
    wait_until_gone(out)
    finish(process)
    assert saved_at_the_last_step(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_save_and_exit_75(kind: signal.Signals, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(words_for(clips, out, *LONG))
    wait_for(lambda: lines_of(out / "metrics.jsonl") > 3, process)
    process.send_signal(kind)
    text = finish(process, 60)
    assert process.returncode == 75, text
    assert saved_at_the_last_step(out)


@pytest.mark.slow
def test_a_second_term_ends_the_process_at_once(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = ("train.batch_size=4096", "train.checkpoint_every=1", "train.micro_batch=4")
    process = start(words_for(clips, out, *LONG[:1], *slow))
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    time.sleep(2)
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=10) < 0
    process.communicate()
    assert checkpoint.latest(out / "checkpoints") is None


@pytest.mark.slow
def test_a_disk_that_is_really_full_loses_nothing(clips: Path, tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    words = words_for(clips, disk / "run", "train.steps=40", "train.checkpoint_every=1")
    command = [sys.executable, "-m", "vidiff", "train", str(CONFIG), *words, "train.keep=40"]
    text = subprocess.list2cmdline(command)
    script = f"mount -t tmpfs -o size=6m none {disk} && {{ {text}; code=$?; cp -a {disk}/run {kept}; exit $code; }}"  # noqa: E501
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=240
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()[:80]}")
    assert done.returncode == 1, done.stderr
    assert "is free" in done.stderr
    assert "Traceback" not in done.stderr
    found = checkpoint.latest(kept / "checkpoints")
    assert found is not None
    assert found[1] == []
    assert all(checkpoint.load(path) for path in (kept / "checkpoints").glob("step-*"))
    assert all(json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines())
    shutil.rmtree(disk)
