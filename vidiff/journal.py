"""What a run tells while it runs: metrics, timings, held-out losses, previews, progress.

`metrics.jsonl` holds only what is a function of the run, so a resumed run writes the same lines;
times, which are not, go to `timing.jsonl`.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vidiff.data.export import write_sheet
from vidiff.data.loading import read_all
from vidiff.pipeline import VideoDiffusion
from vidiff.preparation import Session
from vidiff.records import Batch, Condition
from vidiff.runs.tracking import Progress, Tracker, read_metrics

HELD_OUT_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise levels of the held-out loss, one band each."""


class Journal:
    """The record of one session of a run; only the main process writes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.saved = session.state.step or -1
        step, folder = session.state.step, session.folder
        self.progress = Progress(session.steps, start=step, main=session.main)
        if session.looks:
            held_out = session.index.split("test").require()
            self.checks = read_all(held_out, session.config.train.held_out_clips)
        self.last_held_out = -1
        if session.main:
            self.metrics = Tracker.resume(folder / "metrics.jsonl", step)
            self.timing = Tracker.resume(folder / "timing.jsonl", step)
            self.last_held_out = _last_held_out(folder)

    def before_step(self) -> None:
        """Held-out loss and preview, when due."""
        session, loop = self.session, self.session.config.train
        step, last = session.state.step, session.state.step == session.steps
        if not session.looks:
            return
        due = last or step % loop.held_out_every == 0
        if due and self._open(step > self.last_held_out):
            values = held_out_losses(session.model, self.checks, session.config.seed)
            self.last_held_out = step
            if session.main:
                self.metrics.log(step, values)
        path = session.folder / "samples" / f"step-{step:08d}.png"
        due = step > 0 and (last or step % loop.preview_every == 0)
        if due and self._open(not path.exists()):
            frames = preview(session.model)
            if session.main:
                write_sheet(path, frames, scale=max(1, 96 // session.model.size))

    def _open(self, wanted: bool) -> bool:
        """Whether something due is still to be done; the main process knows what is there."""
        return bool(self.session.agree(wanted)) if self.session.state.sharded else wanted

    def after_step(self, values: dict[str, float], spent: float, waited: float) -> None:
        """Progress, and a line of metrics when due."""
        session, loop = self.session, self.session.config.train
        step = session.state.step
        self.progress.update(step, clips=loop.batch_size, waited=waited, error=values["error"])
        due = step % loop.log_every == 0 or step == session.steps or values["skipped"]
        if session.main and due:
            self.metrics.log(step, values)
            self.timing.log(step, {"seconds": spent, "waited": waited})

    def rewind(self, what: str) -> None:
        """Take back what was written of steps that no longer count, and say so."""
        self.progress.say(what)
        self.saved = -1
        if not self.session.main:
            return
        state, folder = self.session.state, self.session.folder
        self.metrics.close()
        self.timing.close()
        self.metrics = Tracker.resume(folder / "metrics.jsonl", state.step)
        self.timing = Tracker.resume(folder / "timing.jsonl", state.step)
        self.last_held_out = _last_held_out(folder)
        for picture in (folder / "samples").glob("step-*.png"):
            if int(picture.stem[5:]) > state.step:
                picture.unlink()
        last = state.rollbacks[-1]
        self.metrics.log(state.step, {f"rollback.{name}": value for name, value in last.items()})

    def sync(self) -> None:
        """Bring the log to the disk."""
        self.metrics.sync()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        if self.session.main:
            self.metrics.close()
            self.timing.close()


def _last_held_out(folder: Path) -> int:
    lines = read_metrics(folder / "metrics.jsonl")
    return max((line["step"] for line in lines if "held_out" in line), default=-1)


def held_out_losses(model: VideoDiffusion, clips: Batch, seed: int) -> dict[str, float]:
    """Weighted error at fixed levels with fixed noise on held-out clips: 1 means nothing learnt."""
    values = {}
    b, t = clips.frames.shape[:2]
    training = model.network.training
    model.network.eval()
    for level in HELD_OUT_LEVELS:
        flat = torch.full((b, 1, t, 1, 1), level)
        condition = Condition(floor=flat, start=flat, known=clips.frames)
        with torch.no_grad():
            errors = model.loss(clips, seed, condition=condition).error
        values[f"held_out.{level:g}"] = float(errors.mean())
    model.network.train(training)
    values["held_out"] = statistics.fmean(values.values())
    return values


def preview(model: VideoDiffusion, count: int = 4) -> UInt8[Tensor, "b t h w c"]:
    """Samples from fixed seeds, with the weights as they are."""
    training = model.network.training
    frames = model.sample(seeds=range(count))
    model.network.train(training)
    return frames
