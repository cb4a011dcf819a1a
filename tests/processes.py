"""Trainings in processes of their own, started as a person would, and really killed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from conftest import TINY_RUN

CONFIG = Path(__file__).parent.parent / "configs" / "tiny.yaml"


def start(
    words: list[str], processes: int = 1, largest_file: int | None = None
) -> subprocess.Popen[str]:
    """A training in processes of its own, as a person would start it."""
    command = [sys.executable, "-m", "vidiff", "train", str(CONFIG), *words]
    command += ["--nproc", str(processes)] if processes > 1 else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        command,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=limit,
        start_new_session=True,
    )


def words_for(clips: Path, out: Path, *more: str) -> list[str]:
    words = [w for w in TINY_RUN if not w.startswith("train.keep")]
    return [
        f"data.root={clips}",
        f"out={out}",
        *words,
        "train.ema=[0.05,0.1]",
        "data.workers=0",
        *more,
    ]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(
    ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120
) -> None:
    """Until `ready()`; fails when the process ends or the time is over."""
    until = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


def left_of(out: Path) -> list[int]:
    """Processes that still work on a run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if f"out={out}" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found
