"""Runs with one fault each, and the clips to train them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import media
import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from vidiff.errors import VidiffError
from vidiff.models.layers import Gate
from vidiff.pipeline import VideoDiffusion
from vidiff.runs.tracking import read_metrics
from vidiff.sampling import SampleConfig
from vidiff.training import train

WORDS = (
    "data.num_frames=8", "data.size=16", "data.held_out=0.3", "model.widths=[16,32]",
    "model.patch=2", "train.batch_size=8", "optimizer.lr=0.04", "optimizer.warmup=20",
    "train.checkpoint_every=100000", "train.held_out_clips=8", "train.held_out_every=50",
    "train.preview_every=50", "train.log_every=10", "train.calibration_clips=64",
    "data.duplicates=false",
)  # fmt: skip


def scroll(num_frames: int, size: int, seed: int) -> UInt8[np.ndarray, "t h w c"]:
    """A window that slides over a smooth texture."""
    rng = np.random.default_rng(seed)
    coarse = np.tile(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), (2, 2, 1))
    texture = cv2.resize(coarse, (4 * size, 4 * size), interpolation=cv2.INTER_CUBIC)
    dy, dx = rng.integers(1, 3, 2) * rng.choice((-1, 1), 2)
    moved = [np.roll(texture, (k * dy, k * dx), (0, 1)) for k in range(num_frames)]
    return np.stack(moved)[:, :size, :size]


def swing(num_frames: int, size: int, seed: int) -> UInt8[np.ndarray, "t h w c"]:
    """A ball on a pendulum before a gradient; brightness and colours of each clip differ."""
    rng = np.random.default_rng(seed)
    top, bottom, ball = rng.integers(20, 235, (3, 3))
    phase, speed, reach = rng.uniform(0, 6.3), rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.35)
    rows = np.linspace(0, 1, size)[:, None, None]
    ground = np.broadcast_to(top + rows * (bottom - top), (size, size, 3)).astype(np.uint8)
    frames = np.repeat(ground[None], num_frames, axis=0)
    for k in range(num_frames):
        angle = np.sin(phase + speed * k)
        centre = (int(size * (0.5 + reach * angle)), int(size * (0.7 - 0.15 * angle**2)))
        frames[k] = cv2.circle(frames[k].copy(), centre, size // 7, ball.tolist(), -1)
    return frames


def still(num_frames: int, size: int, seed: int) -> UInt8[np.ndarray, "t h w c"]:
    """A picture that never changes."""
    return media.moving_square(1, (size, size), seed).repeat(num_frames, 0)


def flat(num_frames: int, size: int, seed: int) -> UInt8[np.ndarray, "t h w c"]:
    """One colour, another one for each clip."""
    colour = np.random.default_rng(seed).integers(0, 255, 3, dtype=np.uint8)
    return np.broadcast_to(colour, (num_frames, size, size, 3)).copy()


def squares(num_frames: int, size: int, seed: int) -> UInt8[np.ndarray, "t h w c"]:
    """A square that bounces."""
    return media.moving_square(num_frames, (size, size), seed)


def write(folder: Path, kind: Callable, count: int = 24) -> Path:
    """`count` real MP4 files of one kind of scene."""
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        frames = kind(24, 32, seed)
        options = {"preset": "veryfast", "crf": "10"}
        media.write_video(folder / f"{seed:03d}.mp4", frames, 10, options=options)
    return folder


def alarms(root: Path, out: Path, steps: int, *words: str) -> list[tuple[str, int]]:
    """Train, and tell each alarm with its step; a run that ends early has told them all."""
    lines: list[str] = []
    try:
        train(None, *WORDS, f"train.steps={steps}", *words, data=root, out=out, say=lines.append)
    except VidiffError as error:
        lines.append(error.cause)
    return [(line["alarm"], line["step"]) for line in read_metrics(out / "alarms.jsonl")]


def zero_time(monkeypatch) -> None:
    """The temporal layers say nothing."""
    monkeypatch.setattr(Gate, "forward", lambda self, x, y: x)


def convert_twice(monkeypatch) -> None:
    """Bytes reach the network as they are, 0 to 255, instead of in model range."""

    def unscaled(self, frames):
        whole = frames.to(self.device).float()
        return self.calibration.scale(rearrange(whole, "b t h w c -> b c t h w"))

    monkeypatch.setattr(VideoDiffusion, "to_model", unscaled)


def freeze(monkeypatch) -> None:
    """Every sample repeats its first frame."""
    sample = VideoDiffusion.sample

    def frozen(self, condition=None, seeds=(0,), config: SampleConfig | None = None, **rest):
        frames = sample(self, condition, seeds, config, **rest)
        return frames[:, :1].expand_as(frames).contiguous()

    monkeypatch.setattr(VideoDiffusion, "sample", frozen)


def overdrive(monkeypatch) -> None:
    """Samples leave the model range eight times too wide."""
    to_frames = VideoDiffusion.to_frames
    monkeypatch.setattr(VideoDiffusion, "to_frames", lambda self, x: to_frames(self, 8 * x))
