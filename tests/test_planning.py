"""The planner: what a step costs before it is taken, and how it is cut to fit."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN

from vidiff.cli import main
from vidiff.errors import RequestError
from vidiff.pipeline import VideoDiffusion, build
from vidiff.runs.files import read_json
from vidiff.runs.tracking import read_metrics
from vidiff.training import planning, train
from vidiff.training.planning import Fit, choose, estimate, is_out_of_memory, peak
from vidiff.training.settings import TrainConfig, read_config

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "tiny.yaml")


def config(*words: str) -> TrainConfig:
    return read_config(None, ["data.root=clips", *TINY_RUN, *words])


def silent(text: str) -> None:
    """Swallow the lines of a run."""


def test_parameters_and_operations_are_those_of_the_real_network() -> None:
    c = config("model.attention=math")
    cost = estimate(c)
    model = build(c.model, planning.stand_in(3), 8, 16, c.process, c.tasks)
    assert cost.parameters == sum(p.numel() for p in model.network.parameters())
    with torch.utils.flop_counter.FlopCounterMode(display=False) as count:
        model.loss(planning.blank_batch(c, 3, 3), 0).value.backward()
    assert cost.flops == pytest.approx(count.get_total_flops() / 3, rel=0.05)


def test_the_checkpoint_is_as_large_as_planned(run: Path) -> None:
    files = (run / "checkpoints" / "step-00000006").glob("*.safetensors")
    real = sum(f.stat().st_size for f in files)
    assert estimate(config()).checkpoint == pytest.approx(real, rel=0.1)


def test_recomputing_blocks_trades_operations_for_memory() -> None:
    kept, again = estimate(config()), estimate(config(), checkpointing=True)
    assert again.activations < 0.8 * kept.activations
    assert 1.2 * kept.flops < again.flops < 1.4 * kept.flops


def test_memory_grows_with_clips_frames_and_pixels() -> None:
    base = estimate(config()).activations
    assert estimate(config("data.num_frames=16")).activations == pytest.approx(2 * base, rel=0.1)
    assert estimate(config("data.size=32")).activations > 3 * base


@pytest.mark.parametrize(
    ("room", "micro", "recompute"),
    [(100, 8, False), (5, 4, False), (1.3, 1, False), (0.95, 1, True)],
)
def test_the_largest_part_that_fits_is_taken_and_recomputing_comes_last(
    room: float, micro: int, recompute: bool
) -> None:
    c = config("train.batch_size=8")
    one, cost = Fit(1, 8), estimate(c)
    fixed = peak(cost, one, 0) - planning.WORKSPACE[False] * cost.activations
    free = (fixed + room * planning.WORKSPACE[False] * cost.activations) / planning.SPARE
    fit, chosen = choose(c, 1, int(free), 0)
    assert (fit.micro, fit.parts, fit.checkpointing) == (micro, 8 // micro, recompute)
    assert peak(chosen, fit, 0) <= planning.SPARE * free


def test_what_never_fits_is_refused_with_the_figures() -> None:
    with pytest.raises(RequestError, match="blocks recomputed") as caught:
        choose(config(), 1, 1000, 0)
    assert "model.size" in caught.value.remedy


def test_the_next_plan_keeps_the_global_batch() -> None:
    fit, seen = Fit(12, 1), []
    while fit is not None:
        seen.append((fit.micro, fit.checkpointing))
        assert fit.micro * fit.parts == 12
        fit = fit.smaller()
    plain = [(m, False) for m in (12, 6, 4, 3, 2, 1)]
    assert seen == [*plain, *[(m, True) for m in (12, 6, 4, 3, 2, 1)]]


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_lack_of_memory_counts_as_such(error: Exception, yes: bool) -> None:
    assert is_out_of_memory(error) is yes


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def tight(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device that holds `most` clips at once, unless blocks are recomputed."""
    loss = VideoDiffusion.loss

    def limited(self, batch, *rest, **words):
        real = torch.is_grad_enabled() and self.device.type != "meta"
        if real and len(batch) > most and not self.network.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return loss(self, batch, *rest, **words)

    monkeypatch.setattr(VideoDiffusion, "loss", limited)


@pytest.mark.parametrize(("most", "fit"), [(2, (2, 2, False)), (0, (4, 1, True))])
def test_out_of_memory_is_retried_with_the_next_plan_and_the_loss_stays(
    most: int, fit: tuple, run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tight(monkeypatch, most)
    out = tmp_path / "tight"
    train(None, *TINY_RUN, data=clips, out=out, say=silent)
    assert "Memory ran out in step 1" in capsys.readouterr().err
    plan = read_json(out / "memory.json")
    assert (plan["micro"], plan["parts"], plan["checkpointing"]) == fit
    a, b = (
        [x["loss"] for x in read_metrics(r / "metrics.jsonl") if "loss" in x] for r in (run, out)
    )
    assert b == pytest.approx(a, abs=1e-5)


def test_a_run_that_resumes_takes_the_plan_that_worked(
    run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "half"
    with monkeypatch.context() as patch:
        tight(patch, 2)
        train(None, *TINY_RUN, "train.steps=2", data=clips, out=out, say=silent)
    seen = []
    loss = VideoDiffusion.loss

    def noted(self, batch, *rest, **words):
        if torch.is_grad_enabled() and self.device.type != "meta":
            seen.append(len(batch))
        return loss(self, batch, *rest, **words)

    monkeypatch.setattr(VideoDiffusion, "loss", noted)
    more = ("train.steps=4", "train.allow=[train.steps]")
    train(None, *TINY_RUN, *more, data=clips, out=out, say=silent)
    assert set(seen) == {2}


def test_an_error_that_is_not_about_memory_ends_the_run(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self, *rest, **words):
        raise RuntimeError("a bug")

    monkeypatch.setattr(VideoDiffusion, "loss", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        train(None, *TINY_RUN, data=clips, out=tmp_path / "r", say=silent)


@pytest.mark.parametrize("command", ["plan", "train"])
def test_the_plan_is_told_and_nothing_is_written(
    command: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [CONFIG, f"data.root={clips}", f"out={tmp_path / 'run'}", *TINY_RUN]
    words += ["--dry-run"] if command == "train" else []
    assert main([command, *words]) == 0
    said = capsys.readouterr().out
    for word in ("M parameters", "GFLOP a clip", "GB a process", "0 of 6 done", "to the end",
                 "checkpoints of", "GB free"):  # fmt: skip
        assert word in said
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_without_its_clips_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.root={tmp_path / 'none'}", *TINY_RUN]
    assert main(["plan", CONFIG, *words]) == 0
    said = capsys.readouterr().out
    assert "windows" not in said
    assert "not there" in said


def test_too_small_a_disk_is_told(clips: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("vidiff.training.outlook.free_space", lambda folder: 10)
    assert main(["plan", CONFIG, f"data.root={clips}", *TINY_RUN]) == 0
    assert "TOO LITTLE" in capsys.readouterr().out


PEAK = """
import resource, sys
from vidiff.training import train
train({config!r}, *{words!r}, say=lambda text: print(text, file=sys.stderr))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("train.batch_size=2",),
        ("train.batch_size=16",),
        ("train.batch_size=4", "model.patch=2"),
        ("train.batch_size=4", "model.checkpointing=true", "model.patch=2"),
    ],
)
def test_the_peak_of_a_real_run_is_within_15_percent_of_the_plan(
    more: tuple[str, ...], clips: Path, tmp_path: Path
) -> None:
    words = [f"data.root={clips}", f"out={tmp_path / 'run'}", "train.steps=4", "data.held_out=0.3",
             "train.calibration_clips=8", "train.held_out_clips=4", *more]  # fmt: skip
    code = PEAK.format(config=CONFIG, words=words)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    planned = next(line for line in done.stderr.splitlines() if line.startswith("Memory"))
    gigabytes = float(planned.split("about ")[1].split(" GB")[0])
    measured = int(done.stdout.splitlines()[-1]) / 1e9
    assert gigabytes == pytest.approx(measured, rel=0.15), planned


@pytest.mark.slow
def test_a_real_shortage_of_addresses_is_survived(clips: Path, tmp_path: Path) -> None:
    words = [CONFIG, f"data.root={clips}", f"out={tmp_path / 'run'}", "train.steps=2",
             "train.batch_size=48", "train.micro_batch=48", "data.held_out=0.3",
             "train.calibration_clips=8", "train.held_out_clips=4", "data.cache_mb=8"]  # fmt: skip

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))

    done = subprocess.run(
        [sys.executable, "-m", "vidiff", "train", *words], capture_output=True, text=True,
        preexec_fn=limit, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"Memory ran out in step [12]", done.stderr)
