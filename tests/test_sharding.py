"""A run split over processes is the same run, and its checkpoints serve any number of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from disks import flip
from processes import start, words_for
from test_training import losses

import vidiff
from vidiff.errors import VidiffError
from vidiff.runs import checkpoint

WORDS = ("train.image_share=0.3", "train.keep=9", "optimizer.lr=0.01", "model.dropout=0.1")


def go(clips: Path, out: Path, *more: str, processes: int = 1) -> str:
    process = start(words_for(clips, out, *WORDS, *more), processes)
    text = process.communicate(timeout=280)[0]
    assert process.returncode == 0, text
    return text


def worst(a: Path, b: Path) -> float:
    return max(abs(x - y) for x, y in zip(losses(a), losses(b), strict=True))


@pytest.fixture(scope="module")
def sharded(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes that shared its weights."""
    out = tmp_path_factory.mktemp("sharded") / "run"
    assert "on 2 process(es)" in go(clips, out, "train.sharding=fsdp", processes=2)
    return out


def test_weights_split_over_two_processes_train_like_whole_ones(
    sharded: Path, clips: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    go(clips, one)
    assert worst(one, sharded) < 1e-6
    names = {p.name for p in (sharded / "checkpoints" / "step-00000006").iterdir()}
    assert len(names) == 4
    assert sum(name.startswith("shard-") for name in names) == 2


def test_a_sharded_run_loads_and_resumes_like_any_other(
    sharded: Path, clips: Path, tmp_path: Path
) -> None:
    model = vidiff.load(sharded)
    assert model.sample(seeds=[0]).shape == (1, 8, 16, 16, 3)
    alone = tmp_path / "alone"
    shutil.copytree(sharded, alone)
    for step in (4, 6):
        shutil.rmtree(alone / "checkpoints" / f"step-{step:08d}")
    go(clips, alone)
    assert worst(alone, sharded) < 1e-6
    last = alone / "checkpoints" / "step-00000006"
    assert (last / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["fsdp", "none"])
def test_two_processes_go_on_from_a_whole_checkpoint(
    sharding: str, sharded: Path, clips: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    go(clips, one)
    shutil.copytree(one, two)
    for step in (4, 6):
        shutil.rmtree(two / "checkpoints" / f"step-{step:08d}")
    go(clips, two, f"train.sharding={sharding}", "train.micro_batch=1", processes=2)
    assert worst(one, two) < 1e-6


@pytest.mark.slow
def test_a_planned_sharded_run_with_recomputed_blocks_and_bf16_runs(
    clips: Path, tmp_path: Path
) -> None:
    more = ("train.sharding=fsdp", "model.checkpointing=true", "train.precision=bf16",
            "train.max_minutes=0.02", "train.steps=100000")  # fmt: skip
    go(clips, tmp_path / "run", *more, processes=2)
    tensors = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints")[0])[0]
    dtypes = {t.dtype for part in tensors.values() for t in part.values()}
    assert dtypes == {torch.float32}


def test_damage_in_any_part_is_found_and_the_older_checkpoint_used(
    sharded: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(sharded / "checkpoints", folder)
    newest = folder / "step-00000006"
    for file in sorted(newest.iterdir()):
        whole = file.read_bytes()
        flip(file, len(whole) // 2)
        found = checkpoint.latest(folder)
        assert found is not None
        assert found[0].name == "step-00000004"
        with pytest.raises(VidiffError, match="damaged"):
            checkpoint.load(newest)
        file.unlink()
        assert checkpoint.latest(folder)[0].name == "step-00000004"
        file.write_bytes(whole)
    assert checkpoint.latest(folder) == (newest, [])


def test_muon_and_adam_on_shared_matrices_move_them_as_if_whole() -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).parent / "muon_apart.py")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    world, worst = done.stdout.split()
    assert world == "2"
    assert float(worst) < 1e-6
