"""How far a model holds where it was not trained: one row a condition, each against its own real.

Rates, lengths and sizes that it has not seen are compared with held-out clips cut in the same way;
shifts of the noise change sigma_max alone; conditioning is degraded and the continuation judged
against the true one. Clips of different forms are different distributions, so a row is read
by its ratio to its own real-versus-real floor, and the paired rows by their first line.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from vidiff import tasks
from vidiff.data.index import DataConfig, Index, scan
from vidiff.data.loading import read_all
from vidiff.errors import VidiffError
from vidiff.evaluation.cache import Shelf
from vidiff.evaluation.instruments import load_instruments
from vidiff.evaluation.measuring import compare_statistics, score_sets
from vidiff.evaluation.report import as_json
from vidiff.evaluation.scoring import EvalConfig, settle
from vidiff.evaluation.sets import Bench
from vidiff.evaluation.sources import SAMPLES_AT_ONCE, number_sources, pass_through_mp4
from vidiff.metrics.perceptual import measure_psnr, measure_ssim
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.runs.crew import Crew
from vidiff.runs.plots import show_number

FrameArray = UInt8[np.ndarray, "b t h w c"]
Setup = tuple[VideoDiffusion, Index, Condition | None]

KEEP = 4
"""Given frames of the rows with degraded conditioning."""


@dataclass(frozen=True)
class Robustness:
    """The table; prints as one."""

    rows: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """One object, ready for `json.dumps`."""
        return as_json({"robustness": list(self.rows)})

    def __str__(self) -> str:
        names = list(dict.fromkeys(n for row in self.rows for n in row["values"]))
        lines = [f"{'':26}" + "".join(f"{name:>16}" for name in names)]
        for row in self.rows:
            cells = [row["values"].get(name) for name in names]
            words = ["" if cell is None else show_number(cell) for cell in cells]
            text = "".join(f"{word:>16}" for word in words)
            lines.append(f"{row['name']:26}{text}" + (row["reason"] and f"  {row['reason']}"))
        return "\n".join(lines)


def measure_robustness(
    model: VideoDiffusion, index: Index, config: EvalConfig, crew: Crew
) -> Robustness:
    """Quality under rates, lengths, sizes, noise shifts and conditions not seen in training.

    Args:
        model: samples the clips.
        index: the held-out side, cut like the model's training clips.
        config: counts, instruments, seed.
        crew: processes that share the work.

    Returns:
        rows with `values`; a row that cannot be had holds the `reason` instead.
    """
    rows = []
    for name, prepare in _free_conditions(model, index):
        try:
            rows.append(_row(name, _score(*prepare(), config, crew)))
        except VidiffError as error:
            rows.append(_row(name, {}, error.cause))
    try:
        clean = read_all(index, config.num_clips, config.seed).frames.numpy()
        for name, degrade in DEGRADATIONS.items():
            values = _continue(model, clean, degrade(clean[:, :KEEP]), config, crew)
            rows.append(_row(f"predict, {name}", values))
    except VidiffError as error:
        rows.append(_row("predict", {}, error.cause))
    return Robustness(tuple(rows))


def _free_conditions(
    model: VideoDiffusion, index: Index
) -> Iterator[tuple[str, Callable[[], Setup]]]:
    """Name and maker of (model, held-out clips, condition) of each row without given frames."""
    t, size, dt = model.num_frames, model.size, model.calibration.dt
    yield "as trained", lambda: (model, index, None)
    for factor in (0.5, 2.0):
        yield f"rate x {factor:g}", partial(_at_rate, model, index, dt / factor)
    for frames in (max(4, t // 2), 2 * t):
        yield f"{frames} frames", partial(_of_length, model, index, frames)
    for side in (size // 2, size * 3 // 2):
        yield f"{side} pixels", partial(_of_size, model, index, side)
    for factor in (0.5, 2.0):
        yield f"sigma_max x {factor:g}", partial(_from_noise, model, index, factor)


def _at_rate(model: VideoDiffusion, index: Index, dt: float) -> Setup:
    files = min(entry.fps for entry in index.usable)
    if 1 / dt > files * 1.01:
        raise VidiffError(f"the files have {files:.4g} frames a second, {1 / dt:.4g} are needed")
    condition = replace(tasks.generate(1, model.num_frames), dt=torch.tensor([dt]))
    form = index.config.model_copy(update={"fps": 1 / dt, "stride": 1})
    return model, _recut(index, form), condition


def _of_length(model: VideoDiffusion, index: Index, frames: int) -> Setup:
    form = index.config.model_copy(update={"num_frames": frames})
    return model, _recut(index, form), tasks.generate(1, frames)


def _of_size(model: VideoDiffusion, index: Index, size: int) -> Setup:
    form = index.config.model_copy(update={"size": size})
    return _changed(model, size=size), _recut(index, form), None


def _from_noise(model: VideoDiffusion, index: Index, factor: float) -> Setup:
    top = model.calibration.sigma_max * factor
    calibration = model.calibration.model_copy(update={"sigma_max": top})
    return _changed(model, calibration=calibration), index, None


def _recut(index: Index, form: DataConfig) -> Index:
    """The same side of the same files in another form."""
    return scan(form, index.seed).split(index.side).require()


def _changed(model: VideoDiffusion, **attributes: Any) -> VideoDiffusion:
    other = copy.copy(model)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def _score(
    model: VideoDiffusion, index: Index, condition: Condition | None, config: EvalConfig, crew: Crew
) -> dict[str, float]:
    batch = read_all(index, 2 * config.num_clips, config.seed)
    real, dt = batch.frames.numpy(), float(batch.dt.median())
    count = min(config.num_clips, len(real))
    clips = _draw(model, condition, count, config, crew)
    instruments = load_instruments(config.features, perceptual=False)
    bench = Bench(dt, instruments, crew, Shelf(config.cache), config.batch)
    pool = bench.measure(real, np.array(number_sources(batch)), lambda n: None, keep=True)
    ours = bench.measure(clips, None, lambda n: None)
    setting = settle(pool, count, config)
    scores, (per_clip, _) = score_sets(ours, pool, setting), compare_statistics(ours, pool, setting)
    values = {f"{n} ratio": s["ratio"] for n, s in scores.values.items() if n.startswith("kd.")}
    amount = per_clip["motion.amount"]
    values["motion of real"] = amount["generated"] / amount["real"] if amount["real"] else np.nan
    return values


def _draw(
    model: VideoDiffusion, condition: Condition | None, count: int, config: EvalConfig, crew: Crew
) -> FrameArray:
    starts = range(0, count, SAMPLES_AT_ONCE)

    def work(start: int) -> FrameArray:
        seeds = range(start, min(start + SAMPLES_AT_ONCE, count))
        return model.sample(condition, seeds, config.sample, chunk=SAMPLES_AT_ONCE).numpy()

    return np.concatenate(crew.map(work, starts))


def _continue(
    model: VideoDiffusion,
    clean: FrameArray,
    given: UInt8[np.ndarray, "b k h w c"],
    config: EvalConfig,
    crew: Crew,
) -> dict[str, float]:
    starts = range(0, len(clean), SAMPLES_AT_ONCE)

    def work(start: int) -> FrameArray:
        rows = torch.from_numpy(given[start : start + SAMPLES_AT_ONCE])
        seeds = range(start, start + len(rows))
        condition = tasks.predict(rows, clean.shape[1])
        return model.sample(condition, seeds, config.sample, chunk=SAMPLES_AT_ONCE).numpy()

    made = np.concatenate(crew.map(work, starts))[:, KEEP:]
    pairs = list(zip(made, clean[:, KEEP:], strict=True))
    return {
        "psnr": float(np.mean([measure_psnr(a, b).mean() for a, b in pairs])),
        "ssim": float(np.mean([measure_ssim(a, b).mean() for a, b in pairs])),
    }


def _row(name: str, values: dict[str, float], reason: str = "") -> dict[str, Any]:
    return {"name": name, "values": values, "reason": reason}


def _blur(clips: FrameArray) -> FrameArray:
    sigma = 1.5 * clips.shape[3] / 64
    return np.stack([[cv2.GaussianBlur(f, (0, 0), sigma) for f in clip] for clip in clips])


def _grain(clips: FrameArray) -> FrameArray:
    noise = np.random.default_rng(0).normal(0, 12, clips.shape)
    return np.clip(np.rint(clips + noise), 0, 255).astype(np.uint8)


def _hold(clips: FrameArray) -> FrameArray:
    return np.repeat(clips[:, -1:], clips.shape[1], axis=1)


DEGRADATIONS: dict[str, Callable[[FrameArray], FrameArray]] = {
    "clean frames": lambda clips: clips,
    "blurred frames": _blur,
    "grainy frames": _grain,
    "frames at crf 35": lambda clips: pass_through_mp4(clips, 10, crf=35),
    "one frame repeated": _hold,
}
