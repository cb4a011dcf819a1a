"""What the training loop costs beyond forward, backward and optimizer.

    python tools/bench_training.py [CONFIG] [--steps 30] [key=value ...]

Trains for some steps on clips made for the purpose (or on data.root=...) and shares out the CPU
time of the process: the network's forward pass, noise and loss around it, the backward pass, the
optimizers, and all the rest by name. One thread, so that no second is counted twice. Duties that
come now and then (checkpoints, held-out losses, previews) are not in it: how often is the
configuration's choice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidiff import training
from vidiff.data.video import write_mp4
from vidiff.models.ema import PowerEma
from vidiff.training.journal import Journal
from vidiff.training.preparation import Session, prepare
from vidiff.training.settings import read_config
from vidiff.training.state import State

WARM_UP = 5
WORK = ("network forward", "backward", "optimizer")
LOSS = "noise, levels, loss"


class Clock:
    """CPU seconds by name; what runs inside of something else counts for itself alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.stack: list[float] = []

    def time(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its own time noted."""

        def timed(*args: Any, **options: Any) -> Any:
            self.stack.append(0.0)
            began = time.process_time()
            result = function(*args, **options)
            whole = time.process_time() - began
            self.spent[name] += whole - self.stack.pop()
            if self.stack:
                self.stack[-1] += whole
            return result

        return timed


def clips(folder: Path, count: int = 24, frames: int = 48, size: int = 64) -> Path:
    """Moving textures as MP4 files."""
    rng = np.random.default_rng(0)
    for k in range(count):
        ground = rng.integers(0, 255, (size * 2, size * 2, 3), dtype=np.uint8)
        ground = ground[::8, ::8].repeat(8, 0).repeat(8, 1)
        shots = [np.roll(ground, (t, k + t), (0, 1))[:size, :size] for t in range(frames)]
        write_mp4(folder / f"{k:03d}.mp4", torch.from_numpy(np.stack(shots)), fps=12)
    return folder


def measure(session: Session, steps: int) -> dict[str, float]:
    """CPU seconds a step by part, the first steps left out."""
    clock = Clock()
    network, accelerator, state = session.prepared, session.accelerator, session.state
    network.forward = clock.time("network forward", network.forward)
    accelerator.backward = clock.time("backward", accelerator.backward)
    for optimizer in state.optimizers:
        optimizer.step = clock.time("optimizer", optimizer.step)
    session.model.loss = clock.time(LOSS, session.model.loss)
    PowerEma.update = clock.time("averages", PowerEma.update)
    state.network.normalize_weights = clock.time("weight norm", state.network.normalize_weights)
    State.clear = clock.time("clearing gradients", State.clear)
    batches = training._batches(session)
    following = clock.time("clips", batches.__next__)
    source = iter(following, None)
    with Journal(session) as journal:
        record = clock.time("log and progress", journal.after_step)
        step = clock.time("rest of the step", training.take_step)
        for n in range(WARM_UP + steps):
            if n == WARM_UP:
                clock.spent.clear()
            values, waited, _ = step(session, source, False)
            record(values, 0.0, waited)
    batches.close()
    return {name: seconds / steps for name, seconds in clock.spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/tiny.yaml")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = list(args.words)
        if not any(word.startswith("data.root=") for word in words):
            (folder / "clips").mkdir()
            words.append(f"data.root={clips(folder / 'clips')}")
        config = read_config(args.config, [*words, f"out={folder / 'run'}", "train.threads=1"])
        session = prepare(config, None, lambda text: None)
        session.steps = WARM_UP + args.steps
        spent = measure(session, args.steps)
    total = sum(spent.values())
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<22}{1000 * seconds:9.2f} ms {seconds / total:8.2%}")
    beyond = sum(seconds for name, seconds in spent.items() if name not in WORK)
    print(f"{'a step':<22}{1000 * total:9.2f} ms")
    print(f"beyond forward, backward and optimizer: {(beyond - spent[LOSS]) / total:.2%}")
    print(f"beyond the network's own forward, backward and optimizer: {beyond / total:.2%}")


if __name__ == "__main__":
    main()
