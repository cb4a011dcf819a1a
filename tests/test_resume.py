"""Any resume point, any number of processes and workers: the same run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import media
import pytest
from conftest import TINY_RUN
from processes import CONFIG, words_for
from test_training import FILES, losses, silent

from vidiff.runs import checkpoint
from vidiff.training import train

STEPS = 24
EPOCHS = ("train.steps=24", "train.checkpoint_every=1", "train.keep=99", "train.held_out_every=6",
          "train.image_share=0.2", "model.dropout=0.1")  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So few windows that 24 steps of 4 clips go through them three times."""
    folder = tmp_path_factory.mktemp("few")
    media.write_clips(folder, count=6, num_frames=13, size=32, fps=10)
    return folder


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was never interrupted, with every checkpoint kept."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run = train(None, *TINY_RUN, *EPOCHS, data=few, out=out, say=silent)
    windows = len(range(13 - 8 + 1)) * 5
    assert 3 * windows <= STEPS * 4
    return run.folder


def resume_from(step: int, whole: Path, few: Path, out: Path) -> list[str]:
    """Go on from one checkpoint of the whole run; what differs at the end."""
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("checkpoints"))
    name = f"checkpoints/step-{step:08d}"
    shutil.copytree(whole / name, out / name)
    words = [*EPOCHS, "train.checkpoint_every=100"]
    train(None, *TINY_RUN, *words, data=few, out=out, say=silent)
    last = f"checkpoints/step-{STEPS:08d}"
    names = [f"{last}/{file}" for file in (*FILES, "state.json")] + ["metrics.jsonl"]
    return [name for name in names if (whole / name).read_bytes() != (out / name).read_bytes()]


@pytest.mark.parametrize("step", [7, 8, 16])
def test_three_resumes_inside_an_epoch_and_at_its_end_change_not_a_byte(
    whole: Path, few: Path, tmp_path: Path, step: int
) -> None:
    assert resume_from(step, whole, few, tmp_path / "again") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_of_three_epochs_is_a_resume_point(
    whole: Path, few: Path, tmp_path: Path
) -> None:
    different = {step: found for step in range(1, STEPS + 1)
                 if (found := resume_from(step, whole, few, tmp_path / f"{step}"))}  # fmt: skip
    assert different == {}


def torchrun(processes: int, notes: Path, words: list[str]) -> list[dict[str, Any]]:
    """What each process of a training under torchrun saw."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(Path(__file__).parent / "recorded.py")
    command = [sys.executable, *launcher, script, str(notes), str(CONFIG), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(Path(f"{notes}-{rank}.json").read_text()) for rank in range(processes)]


def by_position(ranks: list[dict[str, Any]]) -> dict[int, str]:
    """Source of each position; the processes must have seen different ones."""
    pairs = [pair for rank in ranks for seen in rank["seen"] for pair in zip(*seen, strict=True)]
    assert len({position for position, _ in pairs}) == len(pairs)
    return dict(pairs)


def worst(a: Path, b: Path) -> float:
    """Largest difference of the losses of two runs."""
    pairs = zip(losses(a), losses(b), strict=True)
    return max(abs(x - y) for x, y in pairs)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_see_the_same_clips_as_one_and_agree_to_a_millionth(
    few: Path, tmp_path: Path
) -> None:
    words = ["train.steps=30", "train.checkpoint_every=15", "train.keep=9", "optimizer.lr=0.01"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = torchrun(1, tmp_path / "a", words_for(few, one, *words))
    pair = torchrun(2, tmp_path / "b", words_for(few, two, *words))
    assert [rank["world"] for rank in pair] == [2, 2]
    assert alone[0]["world"] == 1
    assert by_position(alone) == by_position(pair)
    assert len(by_position(alone)) == 30 * 4
    assert worst(one, two) < 1e-6

    for processes, workers, source in ((1, 2, two), (2, 0, one), (2, 2, one), (1, 0, two)):
        out = tmp_path / f"{processes}-{workers}"
        shutil.copytree(source, out)
        shutil.rmtree(out / "checkpoints" / "step-00000030")
        more = [*words, f"data.workers={workers}"]
        again = torchrun(processes, tmp_path / "c", words_for(few, out, *more))
        assert [rank["world"] for rank in again] == [processes] * processes
        late = {n: s for n, s in by_position(alone).items() if n >= 15 * 4}
        assert by_position(again) == late
        assert worst(one, out) < 1e-6
        assert checkpoint.latest(out / "checkpoints") is not None
