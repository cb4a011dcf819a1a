"""What each choice is worth: one table of small runs at equal processor time.

    vidiff demo --out demo --minutes 1            # or any folder of clips
    python tools/ablate.py --clips demo/clips --out ablation [--seeds 2] [--steps 300] [--only ROW]

Every row changes the base setting by the words it names and nothing else, but for learning rates
where another optimiser or norm needs its own. Clips of 8 x 32 x 32 lie in memory, one thread. A row
gets as many steps as cost what the base's do: the cost of a step is measured beside the base's, in
turns, on this process's own clock. Held-out error as in clip_pool.py (1: nothing learnt), raw
weights at the end of a linear decay; kd.motion between 64 samples and the held-out clips.

One JSON file a row and seed; finished ones are not made again. `ema` is read off the base run:
averages of any width, rebuilt afterwards from snapshots of two tracks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from clip_pool import LEVELS, Pool, held_out_errors, pixel_denoiser, read_pool

from vidiff.diffusion.process import SIGMA_DATA, ProcessConfig
from vidiff.metrics.distribution import kernel_distance
from vidiff.metrics.motion import motion_histograms
from vidiff.models.ema import reconstruction
from vidiff.models.layout import ModelConfig
from vidiff.models.optimizers import OptimizerConfig, learning_rate
from vidiff.pipeline import VideoDiffusion, build
from vidiff.records import draw_uniform
from vidiff.runs.config import Config, load_config
from vidiff.runs.files import read_json, write_json
from vidiff.tasks import TaskConfig
from vidiff.training.state import State, fresh_state

FRAMES, SIDE, BATCH = 8, 32, 8
TRACKS = (0.05, 0.10)
WIDTHS = (0.02, 0.05, 0.08, 0.12, 0.16, 0.20, 0.25)
"""Relative widths of the averages looked at after the base run."""


class Setting(Config):
    """What a row may change."""

    model: ModelConfig = ModelConfig()
    process: ProcessConfig = ProcessConfig()
    tasks: TaskConfig = TaskConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    image_share: float = 0.0
    """Share of steps in image mode."""
    calibrated: bool = True
    """False: pixels in [-1, 1] as they are and EDM's constants for images."""


def shares(shared: float) -> tuple[str, ...]:
    """A share of clips with one level for all frames, the other patterns in their proportions."""
    rest = {"context": 0.25, "sorted": 0.15, "independent": 0.05}
    words = [f"tasks.{name}={part / 0.45 * (1 - shared):.9f}" for name, part in rest.items()]
    return (f"tasks.shared={shared}", *words)


ROWS: dict[str, tuple[str, ...]] = {
    "base": (),
    "gains free": ("model.gains=free",),
    "shared 0.30": shares(0.30),
    "shared 0.80": shares(0.80),
    "group norm, Muon 0.001": ("model.norm=group", "optimizer.lr=0.001"),
    "group norm, Muon 0.003": ("model.norm=group", "optimizer.lr=0.003"),
    "group norm, AdamW 0.001": (
        "model.norm=group",
        "optimizer.name=adam",
        "optimizer.lr=0.001",
    ),
    "AdamW 0.01": ("optimizer.name=adam", "optimizer.lr=0.01"),
    "AdamW 0.03": ("optimizer.name=adam", "optimizer.lr=0.03"),
    "attention factorised": ("model.coarse=factorised",),
    "no attention over time": ("model.joint_map=0", "model.temporal_map=0"),
    "no temporal layers": ("model.temporal=false",),
    "mu 0.5": ("process.motion_emphasis=0.5",),
    "mu 2": ("process.motion_emphasis=2",),
    "uncalibrated": ("calibrated=false", "process.p_mean=-1.2", "process.p_std=1.2"),
    "image share 0.2": ("image_share=0.2",),
    "image share 0.5": ("image_share=0.5",),
}


BASE = ("model.widths=[32,64,96]", "model.patch=2", "optimizer.lr=0.04", "optimizer.warmup=30")


def setting(words: tuple[str, ...]) -> Setting:
    """The base with words on top."""
    return load_config(Setting, None, [*BASE, *words])


def start(chosen: Setting, pool: Pool, seed: int) -> tuple[VideoDiffusion, State]:
    """A fresh model and its optimisers."""
    calibration = pool.calibration
    if not chosen.calibrated:
        plain = {"mean": (0.0,) * 3, "std": (SIGMA_DATA,) * 3}
        ends = {"sigma_min": 0.002, "sigma_max": 80.0}
        calibration = calibration.model_copy(update=plain | ends)
    model = build(chosen.model, calibration, FRAMES, SIDE, chosen.process, chosen.tasks, seed)
    mp = chosen.model.norm == "mp"
    return model, fresh_state(model.network, chosen.optimizer, TRACKS, mp)


def step(
    model: VideoDiffusion, state: State, chosen: Setting, pool: Pool, seed: int, total: int
) -> float:
    """One optimiser step; processor seconds."""
    began = time.process_time()
    images = float(draw_uniform(seed, [state.step], "image mode")) < chosen.image_share
    model.network.train()
    loss = model.loss(pool.batch(seed, state.step, BATCH), seed, BATCH, image_mode=images)
    loss.value.backward()
    state.move(learning_rate(chosen.optimizer, state.step, total))
    state.step += 1
    return time.process_time() - began


def relative_cost(chosen: Setting, pool: Pool, tries: int = 8) -> float:
    """Processor time of a step over the base's, medians of steps taken in turns."""
    sides = [(s, *start(s, pool, 0)) for s in (setting(()), chosen)]
    spent: list[list[float]] = [[], []]
    for _ in range(tries + 2):
        for times, (s, model, state) in zip(spent, sides, strict=True):
            times.append(step(model, state, s, pool, 0, 1000))
    base, own = (statistics.median(times[2:]) for times in spent)
    return own / base


def run_row(name: str, seed: int, steps: int, pool: Pool) -> dict[str, Any]:
    """Train a row and measure it."""
    chosen = setting(ROWS[name])
    cost = 1.0 if name == "base" else relative_cost(chosen, pool)
    total = max(1, round(steps / cost))
    model, state = start(chosen, pool, seed)
    snapshots: list[tuple[int, dict[str, Any]]] = []
    spent = 0.0
    for _ in range(total):
        spent += step(model, state, chosen, pool, seed, total)
        if name == "base" and state.step % max(1, total // 8) == 0:
            tracks = {w: {n: p.clone() for n, p in state.ema.state(w).items()} for w in TRACKS}
            snapshots.append((state.step, tracks))
    row: dict[str, Any] = {"row": name, "seed": seed, "steps": total, "cost": cost}
    row["seconds"] = round(spent, 1)
    row["held_out"] = held_out_errors(pixel_denoiser(model), pool)
    made = model.sample(seeds=range(64), chunk=16).numpy()
    real = motion_histograms(pool.test.numpy())
    row["kd.motion"] = kernel_distance(motion_histograms(made), real)
    if snapshots:
        row["ema"] = averages(model, state, snapshots, pool)
    return row


def averages(
    model: VideoDiffusion, state: State, snapshots: list[tuple[int, dict[str, Any]]], pool: Pool
) -> dict[str, float]:
    """Mean held-out error of averages of each width at the end of the run."""
    gammas = state.ema.gammas
    stored = [(at, gammas[w]) for at, _ in snapshots for w in TRACKS]
    weights = [tracks[w] for _, tracks in snapshots for w in TRACKS]
    own = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    found = {}
    for width in WIDTHS:
        shares = reconstruction(stored, state.step, width)
        with torch.no_grad():
            for name, p in model.network.named_parameters():
                parts = zip(shares, weights, strict=True)
                p.copy_(sum(float(k) * w[name] for k, w in parts))
        found[f"{width:g}"] = held_out_errors(pixel_denoiser(model), pool)["mean"]
    with torch.no_grad():
        for name, p in model.network.named_parameters():
            p.copy_(own[name])
    return found


def print_table(folder: Path) -> None:
    """Mean over seeds; beside the mean error and kd.motion, half the spread between seeds."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = read_json(path)
        rows.setdefault(row["row"], []).append(row)
    print(
        "| row | steps | seeds | " + " | ".join(f"{x:g}" for x in LEVELS) + " | mean | kd.motion |"
    )
    print("|---|" + "---:|" * (len(LEVELS) + 4))
    for name in (n for n in ROWS if n in rows):
        runs = rows[name]
        held = [r["held_out"] for r in runs]
        cells = [f"{statistics.fmean(r['steps'] for r in runs):.0f}", str(len(runs))]
        cells += [f"{statistics.fmean(h[f'{x:g}'] for h in held):.4f}" for x in LEVELS]
        for values, form in (
            ([h["mean"] for h in held], "{:.4f} ± {:.4f}"),
            ([r["kd.motion"] for r in runs], "{:.0f} ± {:.0f}"),
        ):
            half = (max(values) - min(values)) / 2
            cells.append(form.format(statistics.fmean(values), half))
        print(f"| {name} | " + " | ".join(cells) + " |")
    for row in rows.get("base", []):
        told = ", ".join(f"{w} {e:.4f}" for w, e in row["ema"].items())
        print(f"\nbase, seed {row['seed']}, raw {row['held_out']['mean']:.4f}; by width: {told}")


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--clips", type=Path, required=True, help="folder of clips")
    words.add_argument("--out", type=Path, required=True, help="folder for the rows")
    words.add_argument("--seeds", type=int, default=2)
    words.add_argument("--steps", type=int, default=300, help="steps of the base")
    words.add_argument("--only", choices=ROWS, action="append", help="this row (may be repeated)")
    given = words.parse_args()
    torch.set_num_threads(1)
    pool = read_pool(given.clips, given.out / "clips.pt", FRAMES, SIDE, 1600, 192)
    for seed in range(given.seeds):
        for name in given.only or ROWS:
            path = given.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
            if path.exists():
                continue
            row = run_row(name, seed, given.steps, pool)
            write_json(path, row)
            print(json.dumps(row), flush=True)
    print_table(given.out)


if __name__ == "__main__":
    main()
