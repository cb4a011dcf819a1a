"""What is measured of a run while it trains, so that alarms.py can judge it.

The training loss alone says little: its noise is that of the drawn levels. So a fixed set of
clips, held out and not, is denoised at fixed levels with fixed noise; the learned weight of each
level is read off the network; and clips sampled from fixed seeds are measured like real ones:

  luma      mean brightness, grey levels          clipped  share of values <= 1 or >= 254
  contrast  sd over a channel's pixels, median       motion   frame widths a second, median
  change    mean |I_t+1 - I_t|, median            flicker  sd of the second difference of luma
  drift     largest change of a channel's mean from the first to the last quarter, median
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch
from einops import reduce
from jaxtyping import UInt8
from torch import Tensor

from vidiff.diffusion import process
from vidiff.metrics.motion import STATISTICS, measure_motion
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Batch, Condition
from vidiff.training.alarms import Alarm, Watch

LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise levels of the held-out loss, one band each."""

AT_ONCE = 4
"""Clips measured together, few enough to need less memory than training."""

_MIDDLE = 1.0
"""Level at which a frame is also denoised alone: neighbours help most where half is hidden."""


class Health:
    """Measures a run at fixed clips, levels and seeds; everything is a function of the run.

    Args:
        held_out, seen: clips of either side of the split.
        seed: of the fixed noise.

    Attributes:
        watch: judges what is measured.
    """

    def __init__(self, model: VideoDiffusion, held_out: Batch, seen: Batch, seed: int) -> None:
        self.model, self.held_out, self.seen, self.seed = model, held_out, seen, seed
        self.watch = Watch()
        self._real: dict[str, float] = {}

    def check_data(self, step: int) -> list[Alarm]:
        """Whether the training clips are fit to learn from, as the network is given them."""
        return self.watch.after_data(step, measure_data(self.model, self.seen))

    def measure_bands(self) -> dict[str, float]:
        """Errors at the fixed levels (1: nothing learnt) and the learned weights of the levels."""
        model = self.model
        training = model.network.training
        model.network.eval()
        held_out = band_errors(model, self.held_out, self.seed)
        seen = band_errors(model, self.seen, self.seed)
        values = {f"held_out.{level:g}": error for level, error in held_out.items()}
        values["held_out"] = statistics.fmean(held_out.values())
        values |= {f"train.{level:g}": error for level, error in seen.items()}
        if getattr(model.network.config, "temporal", False):
            alone = band_errors(model, self.held_out, self.seed, (_MIDDLE,), image_mode=True)
            values |= {"alone": alone[_MIDDLE], "together": held_out[_MIDDLE]}
        values |= {f"weight.{level:.3g}": w for level, w in learned_weights(model).items()}
        model.network.train(training)
        return values

    def measure_samples(self, frames: UInt8[Tensor, "b t h w c"]) -> dict[str, float]:
        """Numbers of sampled clips, each named `sample.NAME`."""
        made = measure_clips(frames, 1 / self.model.fps)
        return {f"sample.{name}": value for name, value in made.items()}

    def judge_samples(self, step: int, values: dict[str, float]) -> list[Alarm]:
        """Alarms about what `measure_samples` measured."""
        if not self._real:
            self._real = measure_clips(self.held_out.frames, float(self.held_out.dt.median()))
        made = {name[7:]: value for name, value in values.items() if name.startswith("sample.")}
        return self.watch.after_pictures(step, made, self._real)


def band_errors(
    model: VideoDiffusion,
    clips: Batch,
    seed: int,
    levels: tuple[float, ...] = LEVELS,
    image_mode: bool = False,
) -> dict[float, float]:
    """Mean weighted error of clips at each level, with noise that depends on `seed` alone."""
    errors = {}
    for level in levels:
        parts = []
        for rows in torch.arange(len(clips)).split(AT_ONCE):
            part = _take(clips, rows.tolist())
            flat = torch.full((len(part), 1, part.frames.shape[1], 1, 1), level)
            condition = Condition(floor=flat, start=flat, known=part.frames)
            with torch.no_grad():
                loss = model.loss(part, seed, condition=condition, image_mode=image_mode)
            parts.append(loss.error)
        errors[level] = float(torch.cat(parts).mean())
    return errors


def _take(clips: Batch, rows: list[int]) -> Batch:
    return Batch(
        frames=clips.frames[rows],
        dt=clips.dt[rows],
        positions=tuple(clips.positions[i] for i in rows),
        sources=tuple(clips.sources[i] for i in rows),
        label=None if clips.label is None else clips.label[rows],
        caption=None if clips.caption is None else tuple(clips.caption[i] for i in rows),
    )


@torch.no_grad()
def learned_weights(model: VideoDiffusion, count: int = 9) -> dict[float, float]:
    """The weight exp(-u) that the network gives each level, from sigma_min to sigma_max."""
    c = model.calibration
    sigma = torch.logspace(math.log10(c.sigma_min), math.log10(c.sigma_max), count)
    shape = (len(c.mean), model.num_frames, model.size, model.size)
    weights = []
    for levels in sigma.to(model.device).split(AT_ONCE):
        noise = process.scalings(levels[:, None].expand(-1, model.num_frames)).noise
        # The weight does not depend on the clip; a whole call also serves weights in shards.
        blank = torch.zeros(len(levels), *shape, device=model.device)
        u = model.network(blank, noise, torch.ones_like(levels))[1]
        weights += torch.exp(-u[:, 0].float()).tolist()
    return dict(zip(sigma.tolist(), weights, strict=True))


def measure_data(model: VideoDiffusion, clips: Batch) -> dict[str, float]:
    """What `Watch.after_data` wants to know of training clips."""
    x = model.to_model(clips.frames)
    motion = _motion(clips.frames.numpy(), float(clips.dt.median()))
    return {
        "mean": float(x.mean(dim=(0, 2, 3, 4)).abs().max()),
        "sd": float(x.std()),
        "contrast": _contrast(clips.frames.numpy()),
        "still": motion["motion.static_fraction"],
    }


def measure_clips(clips: UInt8[Tensor, "b t h w c"], dt: float) -> dict[str, float]:
    """The numbers at the head of this file; `spread` is the sd over clips of their mean colour."""
    frames = clips.numpy()
    motion = _motion(frames, dt)
    wide = frames.astype(np.float32)
    colour = np.atleast_3d(reduce(wide, "b t h w c -> b t c", "mean"))
    quarter = max(1, frames.shape[1] // 4)
    drift = np.abs(colour[:, -quarter:].mean(1) - colour[:, :quarter].mean(1)).max(1)
    change = np.abs(np.diff(wide, axis=1)).mean(axis=(1, 2, 3, 4))
    mean = colour.mean(axis=(0, 1))
    return {
        "luma": float(mean.mean()),
        "contrast": _contrast(frames),
        "clipped": float(((frames <= 1) | (frames >= 254)).mean()),
        "motion": motion["motion.amount"],
        "flicker": motion["flicker.brightness"],
        "change": float(np.median(change)),
        "drift": float(np.median(drift)),
        "spread": float(colour.mean(1).std(0).max()),
        "red": float(mean[0]),
        "green": float(mean[len(mean) // 2]),
        "blue": float(mean[-1]),
    }


def _contrast(frames: UInt8[np.ndarray, "b t h w c"]) -> float:
    return float(np.median(frames.std(axis=(2, 3))))


def _motion(frames: UInt8[np.ndarray, "b t h w c"], dt: float) -> dict[str, float]:
    """Medians over clips; NaN, which raises no alarm, where clips are too short to measure."""
    if frames.shape[1] < 4:
        return dict.fromkeys(STATISTICS, math.nan)
    rows = measure_motion(frames, dt).statistics
    return {name: float(np.median(values)) for name, values in rows.items()}
