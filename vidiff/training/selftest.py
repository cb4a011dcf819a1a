"""The self-test before a long run: a model that cannot learn one clip by heart learns no folder.

One training clip, unflipped, is shown again and again with fresh noise to a fresh network by the
run's own loss and optimizer. A sound set-up then knows the clip: its error falls near zero at
middle noise, and sampling from pure noise returns the clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vidiff.data.export import write_sheet
from vidiff.data.index import Index, scan
from vidiff.data.loading import read_all
from vidiff.models.optimizers import learning_rate
from vidiff.pipeline import build
from vidiff.records import Batch
from vidiff.training.health import band_errors
from vidiff.training.preparation import measure, start_accelerator
from vidiff.training.settings import TrainConfig
from vidiff.training.state import fresh_state

STEPS = 300
"""Optimizer steps of the test."""

COPIES = 4
"""Times that the clip stands in a batch, each with its own noise."""

MIDDLE = (0.3, 1.0, 3.0)
"""Noise levels whose errors count."""

LEARNT = 0.2
"""Mean error at those levels (1: nothing learnt) to fall below."""

LIKENESS = 18.0
"""PSNR in dB between sampled clips and the clip, to exceed."""

CHECKS = (
    "the learning rate: try optimizer.lr three times lower, and higher",
    "the clip: is it in the left rows of the sheet as you know it, upright and in its colours?",
    "the model: more model.widths or a smaller model.patch, where the sheet is right but blurred",
    "the precision: train.precision=fp32",
)
"""What to look at when the test fails."""


@dataclass(frozen=True)
class SelfTest:
    """How the test ended."""

    passed: bool
    before: float
    """Mean error at the middle levels before the first step."""
    after: float
    likeness: float
    """PSNR of the worst of the sampled clips, in dB."""
    steps: int
    sheet: Path
    """The clip, and clips sampled from noise below it."""

    def to_text(self) -> str:
        """The verdict with its figures, and what to check."""
        rows = [
            f"Self-test   {'passed' if self.passed else 'FAILED'} after {self.steps} steps on one "
            "clip",
            f"Error       {self.before:.3f} -> {self.after:.3f} at noise 0.3 to 3 (below {LEARNT})",
            f"Likeness    {self.likeness:.1f} dB from noise to the clip (above {LIKENESS:.0f})",
        ]
        if not self.passed:
            rows += ["Check:", *(f"  - {check}" for check in CHECKS)]
        return "\n".join(rows)


def overfit_one(
    config: TrainConfig,
    index: Index | None = None,
    steps: int = STEPS,
    say: Callable[[str], None] = print,
) -> SelfTest:
    """Learn one training clip by heart; writes `overfit-one.png` into the run's folder, no more.

    Raises:
        RequestError, DataError: as training would.
    """
    device = start_accelerator(config.train).device
    index = index or scan(config.data, config.seed)
    index.require()
    train_set = index.split("train")
    calibration = measure(train_set, config.train.calibration_clips, config.seed)
    data = config.data
    model = build(
        config.model, calibration, data.num_frames, data.size, config.process, config.tasks,
        config.seed,
    )  # fmt: skip
    network = model.network.to(device)
    state = fresh_state(network, config.optimizer, (), config.model.norm == "mp")
    clip = read_all(train_set, 1, config.seed)
    before = _error(band_errors(model, clip, config.seed, MIDDLE))
    network.train()
    for step in range(steps):
        model.loss(_copies(clip, step), config.seed, COPIES).value.backward()
        state.move(learning_rate(config.optimizer, step, steps))
        state.step += 1
        if (step + 1) % 50 == 0:
            error = _error(band_errors(model, clip, config.seed, MIDDLE))
            say(f"step {step + 1}/{steps}  error {error:.3f}")
    network.eval()
    after = _error(band_errors(model, clip, config.seed, MIDDLE))
    samples = model.sample(seeds=range(3))
    likeness = min(_psnr(sample, clip.frames[0]) for sample in samples)
    sheet = Path(config.out) / "overfit-one.png"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(sheet, torch.cat([clip.frames[:1], samples]), scale=max(1, 96 // data.size))
    passed = after < LEARNT and likeness > LIKENESS
    return SelfTest(passed, before, after, likeness, steps, sheet)


def _error(errors: dict[float, float]) -> float:
    return sum(errors.values()) / len(errors)


def _copies(clip: Batch, step: int) -> Batch:
    positions = tuple(range(step * COPIES, (step + 1) * COPIES))
    rows = [0] * COPIES
    label = None if clip.label is None else clip.label[rows]
    sources, caption = clip.sources * COPIES, clip.caption
    return Batch(
        clip.frames[rows], clip.dt[rows], positions, sources, label,
        None if caption is None else caption * COPIES,
    )  # fmt: skip


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    error = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(error, 1e-9))
