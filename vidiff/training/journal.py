"""What a run tells while it runs: metrics, timings, health, previews, progress.

`metrics.jsonl` and `alarms.jsonl` hold only what is a function of the run, so a resumed run writes
the same lines; times, which are not, go to `timing.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from vidiff.data.export import write_mp4, write_sheet
from vidiff.data.loading import read_all
from vidiff.pipeline import VideoDiffusion
from vidiff.runs import trackers
from vidiff.runs.machine import describe_session
from vidiff.runs.page import tile_clips
from vidiff.runs.provenance import NOTICE
from vidiff.runs.tracking import Progress, Tracker, read_metrics
from vidiff.training.alarms import REMEDIES, Alarm, Watch
from vidiff.training.health import Health
from vidiff.training.preparation import Session

PREVIEWS = 4
"""Clips sampled for a preview, from seeds 0 to 3."""


class Journal:
    """The record of one session of a run; only the main process writes.

    Where the weights are shared out, all processes take part in looking, and one tells.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.saved = session.state.step or -1
        self.last_held_out = self.last_preview = -1
        self._spent = 0.0
        self.progress = Progress(session.steps, start=session.state.step, main=session.main)
        if not session.looks:
            return
        count = session.config.train.held_out_clips
        held_out = read_all(session.index.split("test").require(), count)
        seen = read_all(session.index.split("train"), count)
        self.health = Health(session.model, held_out, seen, session.config.seed)
        if session.main:
            config, accelerator = session.config, session.accelerator
            self.hooks, self._end = trackers.start(
                config.train.trackers, session.folder, config, accelerator
            )
            self._begin()
            sessions = Tracker(session.folder / "sessions.jsonl")
            sessions.log(
                session.state.step, describe_session(accelerator.device, session.processes)
            )
            sessions.close()
            self._tell(self.health.check_data(session.state.step))

    def before_step(self) -> None:
        """Held-out loss and preview, when due."""
        session, loop = self.session, self.session.config.train
        step, last = session.state.step, session.state.step == session.steps
        if not session.looks:
            return
        due = last or step % loop.held_out_every == 0
        if due and self._open(step > self.last_held_out):
            values = self.health.measure_bands()
            self.last_held_out = step
            if session.main:
                self.metrics.log(step, values)
                self._tell(self.health.watch.after_bands(step, values))
        due = step > 0 and (last or step % loop.preview_every == 0)
        if due and self._open(step > self.last_preview):
            frames = preview(session.model)
            self.last_preview = step
            if session.main:
                self._show(step, frames)

    def _open(self, wanted: bool) -> bool:
        """Whether something due is still to be done; the main process knows what is there."""
        return bool(self.session.agree(wanted)) if self.session.state.sharded else wanted

    def after_step(self, values: dict[str, float], spent: float, waited: float) -> None:
        """Progress, and a line of metrics when due."""
        session, loop = self.session, self.session.config.train
        step = session.state.step
        self.progress.update(step, clips=loop.batch_size, waited=waited, error=values["error"])
        if not session.main:
            return
        self._spent += spent
        self._tell(self.health.watch.after_step(step, values))
        if step % loop.log_every == 0 or step == session.steps or values["skipped"]:
            self.metrics.log(step, values)
            self.timing.log(step, {"seconds": spent, "waited": waited, "total": self._spent})
            self._spent = 0.0

    def rewind(self, what: str) -> None:
        """Take back what was written of steps that no longer count, and say so."""
        self.progress.say(what)
        self.saved = self.last_held_out = self.last_preview = -1
        if not self.session.main:
            return
        state, folder = self.session.state, self.session.folder
        self._close()
        self._begin()
        for pattern in ("step-*.png", "step-*.mp4"):
            for picture in (folder / "samples").glob(pattern):
                if int(picture.stem[5:]) > state.step:
                    picture.unlink()
        last = state.rollbacks[-1]
        self.metrics.log(state.step, {f"rollback.{name}": value for name, value in last.items()})
        self.alarms.log(state.step, {"alarm": "nan", "text": what, "remedy": REMEDIES["nan"]})

    def sync(self) -> None:
        """Bring the log to the disk."""
        self.metrics.sync()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        if self.session.main:
            self._close()
            self._end()

    def _begin(self) -> None:
        """Go on with the files as they were at the current step, and with what they told."""
        step, folder = self.session.state.step, self.session.folder
        self.metrics = Tracker.resume(folder / "metrics.jsonl", step, self.hooks)
        self.timing = Tracker.resume(folder / "timing.jsonl", step)
        self.alarms = Tracker.resume(folder / "alarms.jsonl", step)
        self.last_held_out = _last(folder, "held_out")
        self.last_preview = _last(folder, "sample.luma")
        self.health.watch = Watch(self.session.config.train.batch_size)
        recall(self.health, folder)

    def _close(self) -> None:
        for tracker in (self.metrics, self.timing, self.alarms):
            tracker.close()

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            about = {"alarm": alarm.name, "text": alarm.text, "remedy": alarm.remedy}
            self.alarms.log(alarm.step, about)
            self.progress.say(str(alarm))

    def _show(self, step: int, frames: UInt8[Tensor, "b t h w c"]) -> None:
        """A sheet, one row a clip; a film of the same name that plays them side by side."""
        model = self.session.model
        path = self.session.folder / "samples" / f"step-{step:08d}.png"
        scale = max(1, 96 // model.size)
        write_sheet(path, frames, scale=scale)
        film = tile_clips(frames.numpy(), columns=len(frames), scale=2 * scale)
        write_mp4(path.with_suffix(".mp4"), film, model.fps, metadata={"comment": NOTICE})
        values = self.health.measure_samples(frames)
        self.metrics.log(step, values)
        self._tell(self.health.judge_samples(step, values))


def _last(folder: Path, name: str) -> int:
    """The last step at which `name` was logged; -1 if never."""
    lines = read_metrics(folder / "metrics.jsonl")
    return max((line["step"] for line in lines if name in line), default=-1)


def recall(health: Health, folder: Path) -> None:
    """Let a run that resumes have seen its logged numbers, and know which alarms stand."""
    for line in read_metrics(folder / "metrics.jsonl"):
        if "held_out" in line:
            health.watch.after_bands(line["step"], line)
        elif "sample.luma" in line:
            health.judge_samples(line["step"], line)
        elif "error" in line:
            health.watch.after_step(line["step"], line)
    health.watch.standing = {line["alarm"] for line in read_metrics(folder / "alarms.jsonl")}


def preview(model: VideoDiffusion, count: int = PREVIEWS) -> UInt8[Tensor, "b t h w c"]:
    """Samples from fixed seeds with the weights as they are."""
    training = model.network.training
    frames = model.sample(seeds=range(count))
    model.network.train(training)
    return frames
